package portpool

import (
	"net/netip"
	"testing"
	"time"
)

// TestPoolListens: what is sent to ports of a pool arrives, at those that were open
// before and those opened since, through buffers that all share; and nothing is left
// running after Close.
func TestPoolListens(t *testing.T) {
	p, err := NewPool(PoolConfig{Ports: 8})
	if err != nil {
		t.Fatal(err)
	}
	type arrival struct {
		lane  uint16
		bytes string
		class uint8
		lost  uint32
	}
	arrivals := make(chan arrival, 64)
	shared := Buffers{Messages: make([]Message, 16)}
	for i := range shared.Messages {
		shared.Messages[i].Buf = make([]byte, 1<<16)
	}
	port := func(lane uint16) uint16 {
		s, err := p.Socket(1, lane)
		if err != nil {
			t.Fatal(err)
		}
		return s.Port()
	}
	before := port(1)
	from, err := Open(SocketConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	// A socket that does not receive yet takes nothing, which is no loss.
	mustSend(t, from, Message{Buf: []byte("early"), Addr: addrPort("127.0.0.1", before)})
	err = p.Listen(func(lane uint16, s Socket) {
		for {
			n, err := s.(SharedReceiver).ReceiveShared(&shared)
			if err != nil {
				return
			}
			for i := range n {
				for d := range shared.Messages[i].Datagrams {
					arrivals <- arrival{lane, string(d), shared.Messages[i].TrafficClass, shared.Messages[i].Refused}
				}
			}
			shared.Mu.Unlock()
		}
	})
	if err != nil || !p.Listening() {
		t.Fatal(err)
	}
	since := port(2)
	for _, host := range []string{"127.0.0.1", "::1"} {
		for lane, to := range map[uint16]uint16{1: before, 2: since} {
			for range 5 {
				if _, err := from.Send([]Message{{Buf: []byte("hello"), Addr: netip.AddrPortFrom(netip.MustParseAddr(host), to), TrafficClass: 2}}); err != nil {
					t.Fatal(err)
				}
				select {
				case got := <-arrivals:
					if want := (arrival{lane, "hello", 2, 0}); got != want {
						t.Errorf("got %+v, want %+v", got, want)
					}
				case <-time.After(5 * time.Second):
					t.Fatalf("nothing came to lane %d from %s", lane, host)
				}
			}
		}
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	p.Wait()
}
