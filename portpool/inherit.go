package portpool

import (
	"fmt"
	"net"
	"os"
	"time"
)

// File gives a descriptor of the socket, for a process that goes on with it by
// [Inherit]. What arrives meanwhile waits in the socket. It is the caller's to
// close.
func (s *UDPSocket) File() (*os.File, error) {
	f, err := s.conn.File()
	if err != nil {
		return nil, closedOr("hand over a udp socket", err)
	}
	return f, nil
}

// Interrupt makes Receive return, now and from now on, with
// [os.ErrDeadlineExceeded]. The socket still sends.
func (s *UDPSocket) Interrupt() error { return s.conn.SetReadDeadline(time.Unix(1, 0)) }

// Inherit is [Open] for a socket that another process opened, which keeps its port
// and what has arrived in it. The configuration's Port and ReusePort do not matter.
// f is closed when Inherit succeeds.
func Inherit(f *os.File, cfg SocketConfig) (*UDPSocket, error) {
	pc, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("take over a udp socket: %w", plainErrno(err))
	}
	conn, ok := pc.(*net.UDPConn)
	if !ok {
		pc.Close()
		return nil, fmt.Errorf("take over descriptor %s: it is no udp socket", f.Name())
	}
	s, err := newSocket(conn, cfg, conn.LocalAddr().(*net.UDPAddr).IP.To4() != nil)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("take over udp socket on port %d: %w", conn.LocalAddr().(*net.UDPAddr).Port, plainErrno(err))
	}
	f.Close()
	return s, nil
}
