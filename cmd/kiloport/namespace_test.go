package main

import (
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inside does something on a thread in the namespace. The thread is not given
// back: it ends with the goroutine.
func (n *namespace) inside(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		f, err := os.Open("/var/run/netns/" + n.name)
		if err == nil {
			defer f.Close()
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return <-done
}

// busySocket takes a port inside.
func busySocket(n *namespace) (c net.PacketConn, err error) {
	err = n.inside(func() error {
		c, err = net.ListenPacket("udp", ":40404")
		return err
	})
	return c, err
}

// connect makes a TCP connection to an address in another namespace.
func (n *namespace) connect(to *namespace, address string, patience time.Duration) error {
	var listener net.Listener
	err := to.inside(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		return err
	}
	defer listener.Close()
	return n.inside(func() error {
		conn, err := net.DialTimeout("tcp", address, patience)
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// openTUN opens a persistent TUN link of the namespace.
func openTUN(t *testing.T, n *namespace, name string) (f *os.File) {
	t.Helper()
	err := n.inside(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), "tun")
		r, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		r.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}
