package portpool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// SocketConfig describes a socket; the zero value is one on a port of the
// kernel's choice, with the kernel's buffer sizes.
type SocketConfig struct {
	// Port is the local port, 0 for the kernel's choice.
	Port uint16
	// FwMark is the routing mark (SO_MARK) of all that is sent, 0 for none.
	FwMark uint32
	// SendBuffer and ReceiveBuffer are in bytes, 0 leaves the kernel's
	// default. The kernel counts its own overhead, so it grants the double;
	// a datagram of 1500 bytes costs about 2300. With CAP_NET_ADMIN they
	// may exceed net.core.wmem_max and rmem_max, else are cut to these.
	SendBuffer, ReceiveBuffer int
	// SendOnly makes the kernel drop what arrives before it costs memory:
	// a thousand sockets that nobody reads must not be filled from outside.
	// Receive then returns [ErrSendOnly].
	SendOnly bool
	// ReusePort allows several sockets on one port (SO_REUSEPORT), among
	// which the kernel shares out what arrives by flow.
	ReusePort bool
	// GRO lets the kernel join datagrams of one 5-tuple that have arrived
	// in a row, with the same header fields, where the Shared allows it.
	// Every Message given to Receive should then have room for 64 KiB: what
	// was joined is not split again for one that is too small.
	GRO bool
	// FreeBind lets Message.Local be an address that no interface has, if a local
	// route makes it ours (AnyIP).
	FreeBind bool
	// Shared is what the socket has in common with others of its network
	// namespace; nil makes one for it alone.
	Shared *Shared

	// lone carries this socket's lone datagrams, if there is one.
	lone *rawPair
}

// Open opens a UDP socket on all addresses, for IPv4 and IPv6, or for IPv4
// alone where the kernel has no IPv6.
//
// What it sends is never fragmented, neither here nor on the way: fragments
// after the first have no ports, so a gateway could not tell their lane. Of the
// two ways to ask for that it takes IP_PMTUDISC_PROBE and not _DO: path MTU as
// told by ICMP is then ignored, since a forged message could shrink it and a
// swallowed one leave it wrong; the sizes that a path carries are for the
// tunnel's own probes to find (RFC 8899). A datagram larger than the outgoing
// interface's MTU fails with EMSGSIZE.
func Open(cfg SocketConfig) (*UDPSocket, error) {
	s, err := openNetwork(cfg, "udp6")
	if errors.Is(err, unix.EAFNOSUPPORT) {
		s, err = openNetwork(cfg, "udp4")
	}
	return s, err
}

func openNetwork(cfg SocketConfig, network string) (*UDPSocket, error) {
	fail := func(err error) error {
		return fmt.Errorf("open udp socket on port %d: %w%s", cfg.Port, err, openHint(err))
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return onDescriptor(c, func(fd int) error { return beforeBind(fd, cfg, network) })
	}}
	pc, err := lc.ListenPacket(context.Background(), network, ":"+strconv.Itoa(int(cfg.Port)))
	if err != nil {
		return nil, fail(plainErrno(err))
	}
	s, err := newSocket(pc.(*net.UDPConn), cfg, network == "udp4")
	if err != nil {
		pc.Close()
		return nil, fail(plainErrno(err))
	}
	return s, nil
}

// newSocket sets up a socket that has its port. It stays the caller's if that fails.
func newSocket(conn *net.UDPConn, cfg SocketConfig, v4only bool) (s *UDPSocket, err error) {
	s = &UDPSocket{conn: conn, shared: cfg.Shared, lone: cfg.lone, noRead: cfg.SendOnly, v4only: v4only}
	if s.shared == nil {
		s.shared = NewShared(SharedConfig{})
	}
	s.shared.settle()
	s.port = uint16(s.conn.LocalAddr().(*net.UDPAddr).Port)
	s.readable, s.poll, s.doze = s.read, func(fd uintptr) { s.read(fd) }, s.rawPoll
	if s.raw, err = s.conn.SyscallConn(); err == nil {
		err = s.configure(cfg)
	}
	return s, err
}

// plainErrno strips what net says around an errno, the address and operation
// that our own message names already.
func plainErrno(err error) error {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}

func openHint(err error) string {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return " (another program has it, or no port is left: choose another port)"
	case errors.Is(err, unix.EACCES):
		return " (ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher port)"
	case errors.Is(err, unix.EMFILE):
		return " (raise the limit with LimitNOFILE= or ulimit -n)"
	case errors.Is(err, unix.ENFILE):
		return " (raise sysctl fs.file-max)"
	case errors.Is(err, unix.EPERM):
		return " (a firewall mark needs CAP_NET_ADMIN)"
	}
	return ""
}

func onDescriptor(c syscall.RawConn, f func(fd int) error) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return err
}

// beforeBind sets what decides whether the port can be had.
func beforeBind(fd int, cfg SocketConfig, network string) error {
	if network == "udp6" {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
			return err
		}
	}
	if cfg.ReusePort {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}
	return nil
}

// tryPort tells whether Open could have a port at present, at a quarter of its
// cost.
func tryPort(port uint16) error {
	err := tryBind(unix.AF_INET6, &unix.SockaddrInet6{Port: int(port)})
	if err == unix.EAFNOSUPPORT {
		err = tryBind(unix.AF_INET, &unix.SockaddrInet4{Port: int(port)})
	}
	return err
}

func tryBind(family int, to unix.Sockaddr) error {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
			return err
		}
	}
	return unix.Bind(fd, to)
}

func (s *UDPSocket) configure(cfg SocketConfig) error {
	if err := onDescriptor(s.raw, func(fd int) error { return s.setOptions(fd, cfg) }); err != nil {
		return err
	}
	if cfg.SendOnly {
		return onDescriptor(s.raw, dropAll)
	}
	if cfg.GRO {
		s.joinArrivals()
	}
	return s.reportArrivals()
}

// setOptions sets what x/net has no names for.
func (s *UDPSocket) setOptions(fd int, cfg SocketConfig) error {
	type option struct{ level, name, value int }
	opts := []option{{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE}}
	if !s.v4only {
		opts = append(opts,
			option{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE},
			option{unix.IPPROTO_IPV6, ipv6FlowinfoSend, 1})
	}
	if !cfg.SendOnly {
		if err := askArrivals(fd); err != nil {
			return err
		}
		if err := s.readRefused(fd); err != nil {
			return err
		}
	}
	if cfg.FreeBind && !s.v4only {
		opts = append(opts, option{unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1})
	}
	if cfg.FwMark != 0 {
		opts = append(opts, option{unix.SOL_SOCKET, unix.SO_MARK, int(cfg.FwMark)})
	}
	for _, o := range opts {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return err
		}
	}
	if err := setBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, cfg.SendBuffer); err != nil {
		return err
	}
	return setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, cfg.ReceiveBuffer)
}

func setBuffer(fd, force, plain, size int) error {
	if size == 0 {
		return nil
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, size)
}

// reportArrivals asks for the destination, the traffic class and the hop limit
// of what arrives. The IPv6 option for the destination reports IPv4 ones too.
func (s *UDPSocket) reportArrivals() error {
	p4 := ipv4.NewPacketConn(s.conn)
	if s.v4only {
		return p4.SetControlMessage(ipv4.FlagTTL|ipv4.FlagDst|ipv4.FlagInterface, true)
	}
	if err := p4.SetControlMessage(ipv4.FlagTTL, true); err != nil {
		return err
	}
	p6 := ipv6.NewPacketConn(s.conn)
	return p6.SetControlMessage(ipv6.FlagTrafficClass|ipv6.FlagHopLimit|ipv6.FlagDst|ipv6.FlagInterface, true)
}

// SetMark changes the routing mark (SO_MARK) of what is sent from now on; 0
// means none. It needs CAP_NET_ADMIN.
func (s *UDPSocket) SetMark(mark uint32) error {
	err := onDescriptor(s.raw, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark))
	})
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w (it needs CAP_NET_ADMIN)", err)
	}
	return closedOr(fmt.Sprintf("set firewall mark %#x on udp port %d", mark, s.port), err)
}

// Buffers gives the sizes of the socket's buffers as the kernel counts them,
// with its overhead: twice what was asked for, or less where net.core.wmem_max
// and rmem_max forbid it.
func (s *UDPSocket) Buffers() (send, receive int, err error) {
	err = onDescriptor(s.raw, func(fd int) (err error) {
		if send, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF); err == nil {
			receive, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
		}
		return err
	})
	if err != nil {
		return 0, 0, closedOr("read the buffer sizes of a udp socket", err)
	}
	return send, receive, nil
}
