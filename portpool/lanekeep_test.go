package portpool

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// What is sent to the ports of a pool while it is handed over is received by its
// successor, on the same lanes; a lane whose socket does not come along has its port
// opened anew; what fits nowhere is closed.
func TestPoolIsHandedOver(t *testing.T) {
	for name, cfg := range map[string]PoolConfig{
		"the kernel's choice": {Ports: 8},
		"a range":             {Ports: 8, Low: 40100, High: 40120},
	} {
		t.Run(name, func(t *testing.T) {
			first := handPool(t, cfg)
			arrivals := make(chan uint16, 64)
			first.Listen(laneTeller(arrivals))
			ports := make(map[uint16]uint16)
			for _, lane := range []uint16{1, 2, 5} {
				s, err := first.Socket(1, lane)
				if err != nil {
					t.Fatal(err)
				}
				ports[lane] = s.Port()
			}
			h := first.HandOver()
			if err := first.Close(); err != nil {
				t.Error(err)
			}
			if len(h.Lanes) != 3 || len(h.Files) != 3 {
				t.Fatalf("lanes %v with %d files", h.Lanes, len(h.Files))
			}
			sendTo(t, ports[1])
			lost := h.Files[2] // lane 5's
			lost.Close()
			h.Files = append(h.Files[:2], stray(t))
			h.Lanes = append(h.Lanes, LanePort{9, 40110}, LanePort{0, 40111}, LanePort{2, 40112})
			cfg.Inherit = h
			second := handPool(t, cfg)
			defer func() { second.Close(); second.Wait() }()
			if n := second.Open(); n != 3 || second.Limit() != 8 {
				t.Fatalf("%d sockets are open, limit %d", n, second.Limit())
			}
			second.Listen(laneTeller(arrivals))
			await := func(lane uint16) {
				t.Helper()
				select {
				case got := <-arrivals:
					if got != lane {
						t.Errorf("something came on lane %d, want %d", got, lane)
					}
				case <-time.After(5 * time.Second):
					t.Errorf("nothing came on lane %d", lane)
				}
			}
			await(1)
			for lane, port := range ports {
				sendTo(t, port)
				await(lane)
			}
			for lane := uint16(1); lane <= 8; lane++ {
				if _, err := second.Socket(1, lane); err != nil {
					t.Errorf("lane %d: %v", lane, err)
				}
			}
		})
	}
}

func handPool(t *testing.T, cfg PoolConfig) *Pool {
	t.Helper()
	p, err := NewPool(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// laneTeller tells the lane of each message that comes.
func laneTeller(to chan<- uint16) func(lane uint16, s Socket) {
	shared := &Buffers{Messages: []Message{{Buf: make([]byte, 1<<16)}}}
	return func(lane uint16, s Socket) {
		for {
			if _, err := s.(SharedReceiver).ReceiveShared(shared); err != nil {
				return
			}
			shared.Mu.Unlock()
			to <- lane
		}
	}
}

func sendTo(t *testing.T, port uint16) {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("hello"))
}

// stray is a socket that is no lane's.
func stray(t *testing.T) *os.File {
	t.Helper()
	s, err := Open(SocketConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f, err := s.File()
	if err != nil {
		t.Fatal(err)
	}
	return f
}
