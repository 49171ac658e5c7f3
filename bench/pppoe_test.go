package main

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"kiloport/bench/netlab"
)

// layPPPoE joins site A and the router by a PPPoE session of the kernel's, without
// daemons that would agree on it: both ends have it ready.
func layPPPoE(t *testing.T, s *netlab.Sites) {
	t.Helper()
	site, router := pppoeEnd{s.A.Node, s.A.Wan}, pppoeEnd{s.Router, s.A.RouterDev}
	site.open(t, router)
	router.open(t, site)
}

// A pppoeEnd is one end of a session, on an Ethernet.
type pppoeEnd struct {
	node *netlab.Node
	dev  string
}

// open makes the interface under, which lasts as long as the test.
func (e pppoeEnd) open(t *testing.T, peer pppoeEnd) {
	t.Helper()
	link, err := peer.node.Link(peer.dev)
	if err != nil {
		t.Fatal(err)
	}
	var fds []int
	unit := 0
	err = e.node.Do(func() (err error) {
		unit, err = e.session(link.Attrs().HardwareAddr, &fds)
		return err
	})
	t.Cleanup(func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	})
	if err == nil {
		var out string
		if out, err = e.node.Run(t.Context(), "ip", "link", "set", fmt.Sprint("ppp", unit), "name", under, "mtu", "1492"); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
	}
	if err != nil {
		t.Fatalf("PPPoE on %s: %v", e.dev, err)
	}
}

// session connects a socket to the other end, and a new unit of PPP to the socket.
func (e pppoeEnd) session(peer []byte, fds *[]int) (unit int, err error) {
	const id, protocolPPPoE = 1, 0
	socket, err := unix.Socket(unix.AF_PPPOX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocolPPPoE)
	if err != nil {
		return 0, fmt.Errorf("open a socket: %w", err)
	}
	*fds = append(*fds, socket)
	if err := unix.Connect(socket, &unix.SockaddrPPPoE{SID: id, Remote: peer, Dev: e.dev}); err != nil {
		return 0, fmt.Errorf("connect: %w", err)
	}
	channel, err := unix.IoctlGetInt(socket, unix.PPPIOCGCHAN)
	if err != nil {
		return 0, fmt.Errorf("ask for the channel: %w", err)
	}
	first, err := openPPP(fds)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlSetPointerInt(first, unix.PPPIOCATTCHAN, channel); err != nil {
		return 0, fmt.Errorf("attach to the channel: %w", err)
	}
	second, err := openPPP(fds)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlSetPointerInt(second, unix.PPPIOCNEWUNIT, id); err != nil {
		return 0, fmt.Errorf("make a unit: %w", err)
	}
	if err := unix.IoctlSetPointerInt(first, unix.PPPIOCCONNECT, id); err != nil {
		return 0, fmt.Errorf("connect unit and channel: %w", err)
	}
	return id, nil
}

// openPPP opens the device, which a guest may not have a file for.
func openPPP(fds *[]int) (int, error) {
	const path, major, minor = "/dev/ppp", 108, 0
	if _, err := os.Stat(path); err != nil {
		if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor))); err != nil {
			return 0, fmt.Errorf("make %s: %w", path, err)
		}
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", path, err)
	}
	*fds = append(*fds, fd)
	return fd, nil
}
