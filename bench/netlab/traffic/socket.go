package traffic

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// receiveBuffer is what a helper's datagram socket may hold, in bytes; large,
// so that a busy machine does not look like a lossy path.
const receiveBuffer = 8 << 20

// onDial returns a control function for a dialer, which changes a socket before
// it sends anything.
func onDial(change func(fd int) error) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error { return onSocket(c, change) }
}

// setTOS sets the type of service and traffic class of a socket.
func setTOS(fd int, tos uint8) error {
	// One of the two applies, and both exist on a socket for both.
	err4 := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, int(tos))
	err6 := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, int(tos))
	if err4 != nil && err6 != nil {
		return fmt.Errorf("set the type of service to %d: %w", tos, err6)
	}
	return nil
}

// tosMessage is the control message that sends one datagram to addr with the
// given type of service or traffic class; for the default it needs none.
func tosMessage(addr netip.Addr, tos uint8) []byte {
	if tos == 0 {
		return nil
	}
	level, kind := unix.IPPROTO_IP, unix.IP_TOS
	if addr.Is6() {
		level, kind = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
	}
	b := make([]byte, unix.CmsgSpace(4))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = int32(level), int32(kind)
	h.SetLen(unix.CmsgLen(4))
	binary.NativeEndian.PutUint32(b[unix.CmsgLen(0):], uint32(tos))
	return b
}

// enlarge gives a datagram socket its large receive buffer.
func enlarge(c syscall.Conn) error {
	return control(c, func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer); err != nil {
			return fmt.Errorf("enlarge a receive buffer to %d bytes: %w", receiveBuffer, err)
		}
		return nil
	})
}

// control calls f with a connection's or listener's socket.
func control(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return onSocket(raw, f)
}

func onSocket(c syscall.RawConn, f func(fd int) error) error {
	var inner error
	if err := c.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// drops is how many datagrams the kernel dropped because the socket was full.
func drops(c syscall.Conn) uint64 {
	const memInfoDrops = 8 // SK_MEMINFO_DROPS of linux/sock_diag.h
	var info [4 * (memInfoDrops + 1)]byte
	err := control(c, func(fd int) error {
		size := uint32(len(info))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 {
			return errno
		}
		return nil
	})
	if err != nil {
		return 0
	}
	return uint64(binary.NativeEndian.Uint32(info[4*memInfoDrops:]))
}

var _ syscall.Conn = (*net.UDPConn)(nil)
