package site

import (
	"context"
	"log/slog"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// TestAddressSet takes what the kernel says, of which only changes matter.
func TestAddressSet(t *testing.T) {
	s := &addressSet{except: 9, usable: make(map[addressAt]bool)}
	for _, step := range []struct {
		link  int
		addr  string
		flags int
		added bool
		want  bool
	}{
		{1, "192.0.2.1/24", unix.IFA_F_PERMANENT, true, true},
		{1, "192.0.2.1/24", unix.IFA_F_PERMANENT, true, false},
		{2, "192.0.2.1/24", 0, true, true}, // the same on another one
		{2, "192.0.2.1/24", 0, false, true},
		{1, "2001:db8::1/64", unix.IFA_F_TENTATIVE, true, false},
		{1, "2001:db8::1/64", unix.IFA_F_MANAGETEMPADDR, true, true}, // no longer tentative
		{1, "2001:db8::1/64", unix.IFA_F_DEPRECATED, true, false},    // still there
		{1, "2001:db8::1/64", 0, false, true},
		{1, "2001:db8::1/64", 0, false, false},
		{1, "2001:db8::2/64", unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED, true, false},
		{1, "fe80::1/64", 0, true, false},
		{9, "10.0.0.1/24", 0, true, false}, // the tunnel's own
		{1, "192.0.2.1/24", 0, false, true},
	} {
		ip, network, err := net.ParseCIDR(step.addr)
		if err != nil {
			t.Fatal(err)
		}
		network.IP = ip
		u := &netlink.AddrUpdate{LinkAddress: *network, LinkIndex: step.link, Flags: step.flags, NewAddr: step.added}
		if got := s.take(u); got != step.want {
			t.Errorf("%+v: changed %v", step, got)
		}
	}
	if len(s.usable) != 0 {
		t.Errorf("left: %v", s.usable)
	}
}

// TestWatchAddresses has the kernel tell of addresses.
func TestWatchAddresses(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		own, err := netns.Get()
		if err != nil {
			t.Fatal(err)
		}
		defer own.Close()
		ctx, cancel := context.WithCancel(t.Context())
		changed, ended := make(chan struct{}, 100), make(chan error, 1)
		go func() {
			runtime.LockOSThread() // which ends with the goroutine
			if err := netns.Set(own); err != nil {
				ended <- err
				return
			}
			WatchAddresses(ctx, "tunnel", func() { changed <- struct{}{} }, slog.New(slog.DiscardHandler))
			ended <- nil
		}()
		// It is not known when it listens, so the first change is made until it is told of.
		told := false
		for try := 0; try < 100 && !told; try++ {
			ip(t, "addr", "add", "198.51.100.1/24", "dev", "wan")
			ip(t, "addr", "del", "198.51.100.1/24", "dev", "wan")
			select {
			case <-changed:
				told = true
			case <-time.After(100 * time.Millisecond):
			}
		}
		quiet := func() { // no more is to be told
			for {
				select {
				case <-changed:
				case <-time.After(5 * addressesSettle):
					return
				}
			}
		}
		for _, line := range [][]string{
			{"addr", "add", "198.51.100.2/24", "dev", "wan"},
			{"-6", "addr", "add", "2001:db8::3/64", "dev", "wan"}, // told of when it is unique, which takes a second
			{"-6", "addr", "del", "2001:db8::3/64", "dev", "wan"},
			{"addr", "del", "198.51.100.2/24", "dev", "wan"},
		} {
			quiet()
			ip(t, line...)
			select {
			case <-changed:
			case <-time.After(20 * time.Second):
				t.Errorf("not told of %v", line)
			}
		}
		quiet()
		ip(t, "addr", "add", "10.0.0.1/24", "dev", "tunnel")
		select {
		case <-changed:
			t.Error("told of the tunnel's own address")
		case <-time.After(5 * addressesSettle):
		}
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if !told {
			t.Error("not told of the first address")
		}
	})
}
