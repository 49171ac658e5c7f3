package portpool

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

const groupSize = 4

func (ns *namespace) group(t testing.TB, cfg SocketConfig, by Steering) (group []*UDPSocket) {
	t.Helper()
	ns.do(t, func() (err error) {
		group, err = OpenGroup(cfg, groupSize, by)
		return err
	})
	t.Cleanup(func() { closeAll(group) })
	return group
}

// arrived is which socket of a group each datagram arrived at, by its source
// port and its first two bytes. It waits for as many as are wanted.
type arrival struct{ port, text uint16 }

func arrived(t *testing.T, group []*UDPSocket, want int) map[arrival][]int {
	t.Helper()
	at := map[arrival][]int{}
	for want > 0 {
		for i, s := range group {
			if waiting(t, s) == 0 {
				continue
			}
			in := make([]Message, 64)
			for k := range in {
				in[k].Buf = make([]byte, 100)
			}
			n, err := s.Receive(in)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range in[:n] {
				a := arrival{m.Addr.Port(), binary.BigEndian.Uint16(m.Buf)}
				at[a] = append(at[a], i)
				want--
			}
		}
	}
	return at
}

func same(list []int) bool {
	for _, x := range list {
		if x != list[0] {
			return false
		}
	}
	return true
}

func allBusy(t *testing.T, at map[arrival][]int) {
	t.Helper()
	var count [groupSize]int
	for _, list := range at {
		count[list[0]]++
	}
	for i, n := range count {
		if n == 0 {
			t.Errorf("socket %d got nothing: %v", i, count)
		}
	}
}

// Each lane has one worker, whatever its flow label, over IPv4 and IPv6.
func TestGroupKeepsLanes(t *testing.T) {
	const lanes, rounds = 100, 10
	for _, v6 := range []bool{false, true} {
		c := newCrossing(t, SharedConfig{}, lanes)
		group := c.far.group(t, SocketConfig{ReceiveBuffer: 4 << 20}, Steering{})
		c.sink = group[0]
		var from []Socket
		for lane := 1; lane <= lanes; lane++ {
			from = append(from, c.socket(t, lane))
		}
		send := func(label uint32) {
			for _, s := range from {
				m := c.to(v6, []byte{0, 0})
				m.FlowLabel = label
				mustSend(t, s, m)
			}
		}
		for r := range rounds {
			send(uint32(r + 1))
		}
		first := arrived(t, group, lanes*rounds)
		for a, list := range first {
			if len(list) != rounds || !same(list) {
				t.Errorf("ipv6=%v: datagrams from port %d arrived at %v", v6, a.port, list)
			}
		}
		allBusy(t, first)

		// One worker fewer: lanes move, each as a whole.
		group[1].Close()
		left := []*UDPSocket{group[0], group[2], group[3]}
		send(1)
		send(2)
		moved := 0
		for a, list := range arrived(t, left, 2*lanes) {
			if !same(list) {
				t.Errorf("ipv6=%v: datagrams from port %d arrived at %v", v6, a.port, list)
			}
			if old := group[first[a][0]]; old != left[list[0]] {
				moved++
			}
		}
		if moved < lanes/groupSize/2 {
			t.Errorf("ipv6=%v: %d of %d lanes moved", v6, moved, lanes)
		}
		t.Logf("ipv6=%v: closing one of %d sockets moved %d of %d lanes", v6, groupSize, moved, lanes)
	}
}

// Steered by the payload, a datagram's words decide and not its 5-tuple.
func TestGroupSteered(t *testing.T) {
	const lanes, texts = 20, 100
	for _, v6 := range []bool{false, true} {
		c := newCrossing(t, SharedConfig{GSO: Off}, lanes)
		group := c.far.group(t, SocketConfig{ReceiveBuffer: 4 << 20}, Steering{Words: []int{0, 4}})
		c.sink = group[0]
		for lane := 1; lane <= lanes; lane++ {
			s := c.socket(t, lane)
			for text := range uint16(texts) {
				b := []byte{0, 0, byte(lane), byte(lane), 0xff, 1, byte(lane)}
				binary.BigEndian.PutUint16(b, text)
				mustSend(t, s, c.to(v6, b))
			}
		}
		byText := map[arrival][]int{}
		for a, list := range arrived(t, group, lanes*texts) {
			a.port = 0
			byText[a] = append(byText[a], list...)
		}
		for a, list := range byText {
			if len(list) != lanes || !same(list) {
				t.Errorf("ipv6=%v: text %d arrived at %v", v6, a.text, list)
			}
		}
		allBusy(t, byText)
		// One that is too short.
		mustSend(t, c.socket(t, 1), c.to(v6, []byte{9, 9, 9, 9, 9}))
		for _, list := range arrived(t, group, 1) {
			if list[0] != 0 {
				t.Errorf("a short datagram arrived at %d", list[0])
			}
		}
	}
}

func TestGroupErrors(t *testing.T) {
	s, err := Open(SocketConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if g, err := OpenGroup(SocketConfig{Port: s.Port()}, 2, Steering{}); g != nil || !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("busy port: %v, %v", g, err)
	}
	for _, by := range []Steering{{Words: []int{-1}}, {Words: []int{1 << 20}}, {Words: make([]int, 100)}} {
		if g, err := OpenGroup(SocketConfig{}, 2, by); g != nil || err == nil {
			t.Errorf("%d words: %v, %v", len(by.Words), g, err)
		}
	}
	if _, err := OpenGroup(SocketConfig{}, 0, Steering{}); err == nil {
		t.Error("a group of none")
	}
	g, err := OpenGroup(SocketConfig{}, 1, Steering{Words: []int{4}})
	if err != nil || len(g) != 1 {
		t.Fatalf("a group of one: %v", err)
	}
	defer g[0].Close()
	if other, err := Open(SocketConfig{Port: g[0].Port(), ReusePort: true}); err == nil {
		other.Close()
		t.Error("the port of a group of one is shared")
	}
}
