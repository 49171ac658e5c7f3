package portpool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// rawSendBuffer is the send buffer of a raw socket, in bytes: lone datagrams of
// all lanes that the interface has not sent yet.
const rawSendBuffer = 1 << 20

// rawSocket sends datagrams of one address family from any port: its caller
// writes the UDP header, the kernel all else. They take the same way as a UDP
// socket's, by routes, firewall, connection tracking and IPsec. The ports belong
// to UDP sockets, so nobody else can have them and ICMP finds its socket.
type rawSocket struct {
	conn *net.IPConn
	raw  syscall.RawConn
}

// rawPair is the raw sockets of a pool, nil where there is none.
type rawPair struct {
	v4, v6 *rawSocket
	off    atomic.Bool
}

// openRawPair opens the sockets for both families, or those that can be had.
func openRawPair(sh *Shared, mark uint32) *rawPair {
	if !sh.allowRaw() {
		return nil
	}
	p := new(rawPair)
	var err4, err6 error
	p.v4, err4 = openRaw("ip4", mark)
	p.v6, err6 = openRaw("ip6", mark)
	if p.v4 == nil && p.v6 == nil {
		sh.loseRaw(fmt.Sprintf("open a raw socket: %v (does the process have CAP_NET_RAW?)", err4))
		return nil
	}
	var reason string
	if err4 != nil {
		reason = "not for ipv4: " + err4.Error()
	} else if err6 != nil {
		reason = "not for ipv6: " + err6.Error()
	}
	sh.haveRaw(Capability{On: true, Reason: reason})
	return p
}

func (p *rawPair) each(do func(*rawSocket) error) (err error) {
	if p == nil {
		return nil
	}
	for _, s := range [...]*rawSocket{p.v4, p.v6} {
		if s != nil {
			err = cmp.Or(err, do(s))
		}
	}
	return err
}

// freeBind lets the sockets send from addresses that no interface has. Where the
// kernel refuses, what it then does not take goes from the lanes' own sockets.
func (p *rawPair) freeBind() {
	if p == nil || p.v6 == nil {
		return
	}
	_ = onDescriptor(p.v6.raw, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
	})
}

// The address that a raw socket is bound to, which makes it receive only what
// is sent there. Unbound, it would get a copy of every UDP datagram that the
// host receives. It is never a source: each datagram names its own.
const (
	rawBound4 = "127.108.110.101"
	rawBound6 = "::1"
)

// openRaw opens a raw socket, for "ip4" or "ip6". It needs CAP_NET_RAW.
func openRaw(network string, mark uint32) (*rawSocket, error) {
	bound, set := rawBound6, setRaw6
	if network == "ip4" {
		bound, set = rawBound4, setRaw4
	}
	var refused error // net would put words around it
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		refused = onDescriptor(c, func(fd int) error {
			return cmp.Or(set(fd), setRaw(fd, mark))
		})
		return refused
	}}
	conn, err := lc.ListenPacket(context.Background(), network+":udp", bound)
	if err != nil {
		return nil, cmp.Or(refused, plainErrno(err))
	}
	s := &rawSocket{conn: conn.(*net.IPConn)}
	if s.raw, err = s.conn.SyscallConn(); err != nil {
		s.conn.Close()
		return nil, err
	}
	return s, nil
}

func setRaw(fd int, mark uint32) error {
	if err := dropAll(fd); err != nil {
		return err
	}
	if mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
			return err
		}
	}
	return setBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, rawSendBuffer)
}

var errMultipath = errors.New("net.ipv4.fib_multipath_hash_policy distributes by port, which a raw socket does not tell the kernel")

func setRaw4(fd int) error {
	if policy, err := os.ReadFile("/proc/sys/net/ipv4/fib_multipath_hash_policy"); err == nil && strings.TrimSpace(string(policy)) != "0" {
		return errMultipath
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
}

func setRaw6(fd int) error {
	for _, o := range [...]struct{ name, value int }{
		{unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE},
		{ipv6FlowinfoSend, 1},
		{unix.IPV6_CHECKSUM, 6}, // the kernel's, at this offset, made while it copies
	} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, o.name, o.value); err != nil {
			return err
		}
	}
	return nil
}

// setMark is [UDPSocket.SetMark].
func (s *rawSocket) setMark(mark uint32) error {
	err := onDescriptor(s.raw, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark))
	})
	if err != nil {
		return closedOr(fmt.Sprintf("set firewall mark %#x on a raw socket", mark), err)
	}
	return nil
}

func (s *rawSocket) close() error { return s.conn.Close() }
