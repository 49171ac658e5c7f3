package portpool

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// What arrives between the end of a socket and its taking over waits; the port stays
// the same, and the interrupted socket sends to the last.
func TestInherit(t *testing.T) {
	first, err := Open(SocketConfig{GRO: true})
	if err != nil {
		t.Fatal(err)
	}
	receive := func(s *UDPSocket) (string, error) {
		ms := []Message{{Buf: make([]byte, 1<<16)}}
		n, err := s.Receive(ms)
		if n != 1 {
			return "", err
		}
		return string(ms[0].Buf[:ms[0].N]), err
	}
	ended := make(chan error, 1)
	go func() { _, err := receive(first); ended <- err }()
	file, err := first.File()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Interrupt(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("interrupted: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Receive was not interrupted")
	}
	other, err := net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), first.Port()).String())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	to := other.LocalAddr().(*net.UDPAddr).AddrPort()
	if n, err := first.Send([]Message{{Buf: []byte("last"), Addr: to}}); n != 1 || err != nil {
		t.Errorf("sent %d, %v", n, err)
	}
	port := first.Port()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	other.Write([]byte("waits"))
	second, err := Inherit(file, SocketConfig{GRO: true})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if second.Port() != port {
		t.Errorf("port %d, was %d", second.Port(), port)
	}
	if got, err := receive(second); got != "waits" || err != nil {
		t.Errorf("received %q, %v", got, err)
	}
	buf := make([]byte, 9)
	other.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := other.Read(buf); string(buf[:n]) != "last" || err != nil {
		t.Errorf("the other end got %q, %v", buf[:n], err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, err := Inherit(null, SocketConfig{}); err == nil {
		t.Error("a file was taken for a socket")
	}
}
