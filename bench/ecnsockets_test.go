package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kiloport/bench/netlab"
	"kiloport/bench/tunnels"
)

// This file is real UDP sockets that choose, and tell, each datagram's traffic
// class, and what kiloport show says of marks.

// Codepoints of the ECN field (RFC 3168).
const (
	notECT = 0
	ect1   = 1
	ect0   = 2
	ce     = 3
)

var codepointNames = [4]string{"Not-ECT", "ECT(1)", "ECT(0)", "CE"}

const marksPort = 4747

// A kind is what datagrams are told apart by.
type kind struct {
	size  int // of the payload
	class uint8
}

// A markListener counts the datagrams that arrive at a node.
type markListener struct {
	conn *net.UDPConn
	done chan struct{}
	mu   sync.Mutex
	got  map[kind]int
}

func listenForMarks(t *testing.T, node *netlab.Node) *markListener {
	t.Helper()
	l := &markListener{done: make(chan struct{}), got: map[kind]int{}}
	err := node.Do(func() (err error) {
		if l.conn, err = net.ListenUDP("udp", &net.UDPAddr{Port: marksPort}); err != nil {
			return err
		}
		return setOptions(l.conn,
			[3]int{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1}, [3]int{unix.IPPROTO_IP, unix.IP_RECVTOS, 1},
			[3]int{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32 << 20})
	})
	if err != nil {
		t.Fatal(err)
	}
	go l.run()
	t.Cleanup(func() { l.conn.Close(); <-l.done })
	return l
}

func setOptions(c syscall.Conn, options ...[3]int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		for _, o := range options {
			inner = errors.Join(inner, unix.SetsockoptInt(int(fd), o[0], o[1], o[2]))
		}
	})
	return errors.Join(err, inner)
}

func (l *markListener) run() {
	defer close(l.done)
	payload, control := make([]byte, 2048), make([]byte, 256)
	for {
		n, c, _, _, err := l.conn.ReadMsgUDPAddrPort(payload, control)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			l.mu.Lock()
			l.got[kind{n, classOf(control[:c])}]++
			l.mu.Unlock()
		}
	}
}

// classOf finds the traffic class among control messages.
func classOf(control []byte) uint8 {
	messages, _ := unix.ParseSocketControlMessage(control)
	for _, m := range messages {
		v6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_TCLASS
		v4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TOS
		if v4 || v6 {
			return m.Data[0] // the low byte of an integer, on the machines that this runs on
		}
	}
	return 0
}

// counts gives what has arrived so far.
func (l *markListener) counts() map[kind]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	got := make(map[kind]int, len(l.got))
	for k, n := range l.got {
		got[k] = n
	}
	return got
}

// await waits until so many have arrived in all, or nothing has for a while.
func (l *markListener) await(want int) map[kind]int {
	last, quiet := -1, 0
	for {
		got, total := l.counts(), 0
		for _, n := range got {
			total += n
		}
		if quiet++; total != last {
			last, quiet = total, 0
		}
		if total >= want || quiet > 100 {
			return got
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// A markSender sends datagrams of one traffic class from a socket of its own.
type markSender struct {
	conn    *net.UDPConn
	payload []byte
}

func newMarkSender(t *testing.T, node *netlab.Node, to netip.Addr, k kind) *markSender {
	t.Helper()
	s := &markSender{payload: make([]byte, k.size)}
	err := node.Do(func() (err error) {
		s.conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, marksPort)))
		if err != nil {
			return err
		}
		if to.Is4() {
			return setOptions(s.conn, [3]int{unix.IPPROTO_IP, unix.IP_TOS, int(k.class)})
		}
		return setOptions(s.conn, [3]int{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, int(k.class)})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.conn.Close() })
	return s
}

func (s *markSender) send(t *testing.T) {
	t.Helper()
	if _, err := s.conn.Write(s.payload); err != nil {
		t.Fatal(err)
	}
}

// A peerMarks is what kiloport show tells of a peer's marks.
type peerMarks struct {
	ECN          string            `json:"ecn"`
	ECNReason    string            `json:"ecn_reason"`
	PathTo       *pathFate         `json:"path_to"`
	PathFrom     *pathFate         `json:"path_from"`
	MarksIgnored bool              `json:"marks_ignored"`
	Drops        map[string]uint64 `json:"drops"`
	Anomalies    map[string]uint64 `json:"ecn_anomalies"`
	Received     struct {
		Packets uint64 `json:"packets"`
		ECT0    uint64 `json:"ect0"`
		ECT1    uint64 `json:"ect1"`
		CE      uint64 `json:"ce"`
	} `json:"received"`
}

type pathFate struct {
	NotECT string            `json:"not_ect"`
	ECT0   string            `json:"ect0"`
	ECT1   string            `json:"ect1"`
	CE     string            `json:"ce"`
	Mode   string            `json:"mode"`
	DSCP   map[string]string `json:"dscp"`
}

// showMarks asks the daemon of one end.
func showMarks(t *testing.T, e *tunnels.End) *peerMarks {
	t.Helper()
	out, err := e.Site.Run(t.Context(), binary(t, kiloportBinary), "show", e.Dev, "--json")
	var s struct {
		Peers []peerMarks `json:"peers"`
	}
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	if err != nil || len(s.Peers) != 1 {
		t.Fatalf("kiloport show %s: %v: %s", e.Dev, err, out)
	}
	return &s.Peers[0]
}

// showWords is what a person reads.
func showWords(t *testing.T, e *tunnels.End) string {
	t.Helper()
	out, err := e.Site.Run(t.Context(), binary(t, kiloportBinary), "show", e.Dev)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// awaitMarks waits until an end says what is wanted of its peer, for ten seconds:
// so long may a change of the path remain unnoticed.
func awaitMarks(t *testing.T, e *tunnels.End, what string, want func(*peerMarks) bool) *peerMarks {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		p := showMarks(t, e)
		if want(p) {
			return p
		}
		if time.Now().After(end) {
			t.Fatalf("%s did not come to %s within 10 s: %s mode (%s), path %+v", e.Dev, what, p.ECN, p.ECNReason, p.PathTo)
		}
	}
}

// awaitNormal waits until both ends send in normal mode.
func awaitNormal(t *testing.T, tun *tunnels.Tunnel) {
	t.Helper()
	for _, e := range []*tunnels.End{&tun.A, &tun.B} {
		awaitMarks(t, e, "normal mode", func(p *peerMarks) bool { return p.ECN == "normal" })
	}
}

// A meddler is a router that does something to the ECN field of what it forwards
// from site A to site B.
type meddler struct{ rules []string }

const meddlerTable = "inet meddler"

// meddle puts rules in place of those before. Each may say IP for "ip" and "ip6",
// as a rule of nftables is for one of the two.
func meddle(t *testing.T, s *netlab.Sites, m meddler) {
	t.Helper()
	script := fmt.Sprintf("add table %[1]s; delete table %[1]s; add table %[1]s; "+
		"add chain %[1]s forward { type filter hook forward priority 0 ; policy accept ; }", meddlerTable)
	for _, rule := range m.rules {
		for _, family := range []string{"ip", "ip6"} {
			script += fmt.Sprintf("; add rule %s forward iifname %s meta l4proto udp %s", meddlerTable, s.A.RouterDev, replaceFamily(rule, family))
		}
	}
	if out, err := s.Router.Run(t.Context(), "nft", script); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
