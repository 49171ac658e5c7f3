package traffic

import (
	"encoding/binary"
	"fmt"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// receiveBuffer is what a helper's datagram socket may hold, in bytes; large,
// so that a busy machine does not look like a lossy path.
const receiveBuffer = 8 << 20

// withTOS returns a control function that sets the type of service and traffic
// class of a socket before it sends anything.
func withTOS(tos uint8) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		return onSocket(c, func(fd int) error {
			// One of the two applies, and both exist on a socket for both.
			err4 := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, int(tos))
			err6 := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, int(tos))
			if err4 != nil && err6 != nil {
				return fmt.Errorf("set the type of service to %d: %w", tos, err6)
			}
			return nil
		})
	}
}

// enlarge gives a datagram socket its large receive buffer.
func enlarge(c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return onSocket(raw, func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer); err != nil {
			return fmt.Errorf("enlarge a receive buffer to %d bytes: %w", receiveBuffer, err)
		}
		return nil
	})
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
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	const memInfoDrops = 8 // SK_MEMINFO_DROPS of linux/sock_diag.h
	var info [4 * (memInfoDrops + 1)]byte
	err = onSocket(raw, func(fd int) error {
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
