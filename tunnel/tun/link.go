package tun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// linkSocket hears from the kernel what happens to one link (rtnetlink(7)).
type linkSocket struct {
	file   *os.File
	raw    syscall.RawConn
	name   string // at the time of opening
	index  int32
	buffer []byte
}

// linkState is what one message said about the link.
type linkState struct {
	deleted bool
	up      bool
	mtu     int    // 0 if not told
	name    string // "" if not told
}

// openLink subscribes to the link that tunFD serves, in the namespace in
// which that link is: it need not be ours when the descriptor was inherited,
// or when someone moved the link.
func openLink(tunFD int) (*linkSocket, error) {
	for range 8 {
		s, err := tryOpenLink(tunFD)
		if !errors.Is(err, unix.ENODEV) {
			return s, err
		}
		// Renamed or moved between two system calls: look again.
	}
	return nil, fmt.Errorf("find the tun link's index: it does not stay under one name: %w", unix.ENODEV)
}

func tryOpenLink(tunFD int) (*linkSocket, error) {
	name, _, err := attached(tunFD)
	if err != nil {
		return nil, fmt.Errorf("ask for the tun link's name: %w", err)
	}
	fd, err := routeSocket(tunFD)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket for link %s: %w", name, err)
	}
	index, err := linkIndex(fd, name)
	if err == nil {
		err = subscribe(fd)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("follow link %s: %w", name, err)
	}
	s := &linkSocket{file: os.NewFile(uintptr(fd), "netlink"), name: name, index: index, buffer: make([]byte, 64<<10)}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		s.file.Close()
		return nil, fmt.Errorf("poll the netlink socket: %w", err)
	}
	return s, nil
}

// routeSocket opens a netlink socket in the namespace of the link.
func routeSocket(tunFD int) (int, error) {
	ns, err := unix.IoctlRetInt(tunFD, unix.TUNGETDEVNETNS)
	if err != nil {
		// Without CAP_NET_ADMIN the kernel does not say. Then ours it is: the
		// index decides.
		return newRouteSocket()
	}
	defer unix.Close(ns)
	if isOwnNamespace(ns) {
		return newRouteSocket()
	}
	var fd int
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread ends with the goroutine, so no other code
		// can find itself in that namespace.
		runtime.LockOSThread()
		if err = unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("enter the link's network namespace (this needs CAP_SYS_ADMIN): %w", err)
			return
		}
		fd, err = newRouteSocket()
	}()
	<-done
	return fd, err
}

// isOwnNamespace says whether ns is the namespace of the calling thread.
func isOwnNamespace(ns int) bool {
	var there, here unix.Stat_t
	return unix.Fstat(ns, &there) == nil && unix.Stat("/proc/thread-self/ns/net", &here) == nil &&
		there.Ino == here.Ino && there.Dev == here.Dev
}

// inOwnNamespace says whether a link is in the namespace of the calling thread.
func inOwnNamespace(tunFD int) (bool, error) {
	ns, err := unix.IoctlRetInt(tunFD, unix.TUNGETDEVNETNS)
	if err != nil {
		return false, err
	}
	defer unix.Close(ns)
	return isOwnNamespace(ns), nil
}

func newRouteSocket() (int, error) {
	return unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
}

func subscribe(fd int) error {
	return unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.RTNLGRP_LINK - 1)})
}

// linkIndex asks by netdevice(7), which answers on a socket of any family.
func linkIndex(fd int, name string) (int32, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, err
	}
	return int32(ifr.Uint32()), nil
}

func (s *linkSocket) setMTU(mtu int) error {
	ifr, err := unix.NewIfreq(s.name)
	if err != nil {
		return err
	}
	if mtu < 68 || mtu > 65535 {
		return fmt.Errorf("set the MTU of link %s to %d: it is 68 to 65535 bytes: %w", s.name, mtu, unix.EINVAL)
	}
	ifr.SetUint32(uint32(mtu))
	var ioctlErr error
	if err := s.raw.Control(func(fd uintptr) {
		ioctlErr = unix.IoctlIfreq(int(fd), unix.SIOCSIFMTU, ifr)
	}); err != nil {
		return err
	}
	switch {
	case errors.Is(ioctlErr, unix.EPERM):
		return fmt.Errorf("set the MTU of link %s to %d: %w: this needs CAP_NET_ADMIN: run as root, or leave the MTU as it is", s.name, mtu, ioctlErr)
	case ioctlErr != nil:
		return fmt.Errorf("set the MTU of link %s to %d: %w: choose another MTU", s.name, mtu, ioctlErr)
	}
	return nil
}

// ask requests the link's state: receive then gives it.
func (s *linkSocket) ask() error {
	request := linkRequest(unix.RTM_GETLINK, unix.NLM_F_REQUEST, s.index)
	var sendErr error
	err := s.raw.Write(func(fd uintptr) bool {
		sendErr = unix.Sendto(int(fd), request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return sendErr != unix.EAGAIN
	})
	return errors.Join(err, sendErr)
}

// receive waits for messages and gives those about the link, perhaps none.
func (s *linkSocket) receive() ([]linkState, error) {
	var n int
	var from unix.Sockaddr
	var recvErr error
	err := s.raw.Read(func(fd uintptr) bool {
		n, from, recvErr = unix.Recvfrom(int(fd), s.buffer, 0)
		return recvErr != unix.EAGAIN && recvErr != unix.EINTR
	})
	if err != nil {
		return nil, err
	}
	if recvErr == unix.ENOBUFS {
		// Messages were lost: what we missed is in the state.
		return nil, s.ask()
	}
	if recvErr != nil {
		return nil, recvErr
	}
	if kernel, ok := from.(*unix.SockaddrNetlink); !ok || kernel.Pid != 0 {
		return nil, nil
	}
	return parseLinkStates(s.buffer[:n], s.index), nil
}

func (s *linkSocket) close() { s.file.Close() }

// parseLinkStates gives what the netlink messages in b say about the link. It
// takes what it understands and passes over the rest.
func parseLinkStates(b []byte, index int32) []linkState {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return nil
	}
	var states []linkState
	for i := range messages {
		m := &messages[i]
		switch m.Header.Type {
		case unix.RTM_NEWLINK, unix.RTM_DELLINK:
			if state, ok := parseLinkState(m, index); ok {
				states = append(states, state)
			}
		case unix.NLMSG_ERROR:
			// The answer to ask, which is all that we ever send.
			if len(m.Data) >= 4 && int32(binary.NativeEndian.Uint32(m.Data)) == -int32(unix.ENODEV) {
				states = append(states, linkState{deleted: true})
			}
		}
	}
	return states
}

// parseLinkState reads a struct ifinfomsg and its attributes.
func parseLinkState(m *syscall.NetlinkMessage, index int32) (linkState, bool) {
	order := binary.NativeEndian
	// A bridge or a bond speaks of its ports under families of its own, with
	// RTM_DELLINK too.
	if len(m.Data) < unix.SizeofIfInfomsg || m.Data[0] != unix.AF_UNSPEC || int32(order.Uint32(m.Data[4:])) != index {
		return linkState{}, false
	}
	if m.Header.Type == unix.RTM_DELLINK {
		return linkState{deleted: true}, true
	}
	state := linkState{up: order.Uint32(m.Data[8:])&unix.IFF_UP != 0}
	attributes, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return state, true
	}
	for _, a := range attributes {
		switch a.Attr.Type {
		case unix.IFLA_MTU:
			if len(a.Value) == 4 {
				state.mtu = int(order.Uint32(a.Value))
			}
		case unix.IFLA_IFNAME:
			state.name = unix.ByteSliceToString(a.Value)
		}
	}
	return state, true
}
