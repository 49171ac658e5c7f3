package portpool

import (
	"errors"
	"fmt"
	"syscall"
)

// ErrFull says that a socket's send buffer, which holds what the interface has
// not sent yet, has no room. What was not sent may be tried later or dropped.
var ErrFull = errors.New("send on udp socket: buffer full")

// Class says what an error of a socket means for the one who sends.
type Class uint8

const (
	// None: no error.
	None Class = iota
	// Transient: this datagram is lost or must wait, the next may go. The
	// buffer or memory was full, or an error from before was pending.
	Transient
	// Path: nothing like this reaches this destination at present: a
	// firewall, no route, no such source address, too big for the
	// interface. Other destinations are not concerned.
	Path
	// Fatal: the socket is of no more use.
	Fatal
)

// String gives the class in one lower-case word.
func (c Class) String() string {
	switch c {
	case None:
		return "none"
	case Transient:
		return "transient"
	case Path:
		return "path"
	default:
		return "fatal"
	}
}

// Classify says what an errno of sendmsg(2) or recvmsg(2) on a UDP socket
// means.
//
//	Transient  EAGAIN (buffer full), ENOBUFS and ENOMEM (no memory, or the
//	           interface's queue dropped it), EINTR, and what an ICMP error
//	           leaves pending: ECONNREFUSED, ECONNRESET, EPROTO
//	Path       EPERM and EACCES (firewall, "prohibit" route), ENETUNREACH,
//	           EHOSTUNREACH, ENETDOWN, EHOSTDOWN, ENONET, EMSGSIZE, ENODEV,
//	           ENXIO and EADDRNOTAVAIL (interface or source gone), EINVAL
//	           ("blackhole" route, port 0), EAFNOSUPPORT (IPv6 off), and
//	           anything not named here, so that a surprise about one peer
//	           does not close a socket that all share
//	Fatal      EBADF, ENOTSOCK, EFAULT, EOPNOTSUPP, ENOSYS
func Classify(e syscall.Errno) Class {
	switch e {
	case 0:
		return None
	case syscall.EAGAIN, syscall.ENOBUFS, syscall.ENOMEM, syscall.EINTR,
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPROTO:
		return Transient
	case syscall.EBADF, syscall.ENOTSOCK, syscall.EFAULT, syscall.EOPNOTSUPP, syscall.ENOSYS:
		return Fatal
	default:
		return Path
	}
}

// SendError is why a datagram was not sent. [errors.Is] finds the errno in it.
type SendError struct {
	Errno syscall.Errno
	Class Class
}

// Error names the reason and, where there is one, the way out.
func (e *SendError) Error() string {
	return fmt.Sprintf("send on udp socket: %v%s", e.Errno, sendHint(e.Errno))
}

// Unwrap gives the errno.
func (e *SendError) Unwrap() error { return e.Errno }

func sendHint(e syscall.Errno) string {
	switch e {
	case syscall.EPERM:
		return " (does the firewall let udp out?)"
	case syscall.EACCES, syscall.ENETUNREACH, syscall.EHOSTUNREACH:
		return " (is there a route to the endpoint?)"
	case syscall.EMSGSIZE:
		return " (larger than the interface's mtu: lower the tunnel's mtu)"
	case syscall.EAFNOSUPPORT:
		return " (ipv6 is off in this kernel: use an ipv4 endpoint)"
	case syscall.ENETDOWN:
		return " (is the interface up?)"
	case syscall.ENODEV, syscall.ENXIO:
		return " (does the interface that the address names exist?)"
	}
	return ""
}

// sendErrors holds one error for each errno, made beforehand because a peer
// without a route must not cost an allocation per packet.
var sendErrors = func() (t [maxErrno]*SendError) {
	for i := range t {
		t[i] = &SendError{Errno: syscall.Errno(i), Class: Classify(syscall.Errno(i))}
	}
	return t
}()

// maxErrno is one more than the largest errno of Linux (EHWPOISON, 133).
const maxErrno = 134

func sendError(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	if int(e) >= maxErrno {
		return &SendError{Errno: e, Class: Classify(e)}
	}
	return sendErrors[e]
}
