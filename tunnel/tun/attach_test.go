package tun

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// refusing makes a kernel that does not know certain flags.
func refusing(request uint, flag int) func(uint, int) error {
	return func(r uint, value int) error {
		if r == request && (flag == 0 || value&flag != 0) {
			return unix.EINVAL
		}
		return nil
	}
}

// What cannot be had is lost once, is said, and the rest works.
func TestCapabilities(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		ip(t, "tuntap", "add", "mode", "tun", "name", "single")
		all := Options{Queues: 3, Offloads: OffloadAll}
		for _, c := range []struct {
			what, name string
			options    Options
			queues     int
			offloads   Offloads
			lost       string
		}{
			{"nothing asked for", "", Options{}, 1, 0, ""},
			{"everything", "", all, 3, OffloadAll, ""},
			{"rings", "", Options{Queues: 2, Rings: 5, Offloads: OffloadAll}, 2, OffloadAll, ""},
			{"too many rings", "", Options{Queues: 2, Rings: 200, Offloads: OffloadAll}, 2, OffloadAll, "queues"},
			{"without uso", "", Options{Offloads: OffloadChecksum | OffloadTSO}, 1, OffloadChecksum | OffloadTSO, ""},
			{"only what needs checksums", "", Options{Offloads: OffloadTSO}, 1, 0, ""},
			{"a single-queue link from before", "single", all, 1, OffloadAll, "queues"},
			{"a kernel without uso", "", Options{Queues: 3, Offloads: OffloadAll, refuse: refusing(unix.TUNSETOFFLOAD, unix.TUN_F_USO4)}, 3, OffloadChecksum | OffloadTSO, "uso"},
			{"a kernel without offloads", "", Options{Queues: 3, Offloads: OffloadAll, refuse: refusing(unix.TUNSETOFFLOAD, unix.TUN_F_CSUM)}, 3, 0, "uso, checksum tso"},
			{"a driver from before everything", "", Options{Queues: 3, Offloads: OffloadAll, refuse: refusing(unix.TUNGETFEATURES, 0)}, 1, 0, "queues, checksum tso uso"},
			{"a limit", "", Options{Offloads: OffloadAll, GSOMaxSize: 60000}, 1, OffloadAll, ""},
			{"a kernel without limits", "", Options{Offloads: OffloadAll, GSOMaxSize: 60000, refuse: refusing(unix.RTM_NEWLINK, 0)}, 1, OffloadAll, "gso size"},
			{"a limit that cannot be", "", Options{Offloads: OffloadAll, GSOMaxSize: 1 << 30}, 1, OffloadAll, "gso size"},
			{"a driver that cannot attach again", "", Options{Queues: 3, Offloads: OffloadAll, refuse: refusing(unix.TUNSETIFF, unix.IFF_MULTI_QUEUE)}, 1, OffloadAll, "queues"},
		} {
			name := c.name
			if name == "" {
				name = "cap%d"
			}
			d := create(t, name, c.options)
			got := d.Capabilities()
			var lost []string
			for _, l := range got.Lost {
				lost = append(lost, l.What)
				if len(l.Why) < 10 {
					t.Errorf("%s: %s: no reason: %q", c.what, l.What, l.Why)
				}
			}
			if got.Queues != c.queues || len(d.Queues()) != c.queues || got.Offloads != c.offloads || strings.Join(lost, ", ") != c.lost {
				t.Errorf("%s: %d queues, %v, lost %v; want %d, %v, %s", c.what, got.Queues, got.Offloads, got.Lost, c.queues, c.offloads, c.lost)
			}
			if link, err := netlink.LinkByName(d.Name()); err != nil {
				t.Error(err)
			} else if size := int(link.Attrs().GSOMaxSize); size != 65536 && size != c.options.GSOMaxSize ||
				size == 65536 && c.options.GSOMaxSize > 0 && c.lost == "" {
				t.Errorf("%s: super-packets of %d", c.what, size)
			}
			d.Close()
		}
	})
}

// A daemon in the background gets one descriptor from its parent.
func TestFromFileAttachesTheOtherQueues(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		parent := create(t, "many%d", Options{Queues: 2, Offloads: OffloadAll})
		fd, err := duplicate(parent.File())
		if err != nil {
			t.Fatal(err)
		}
		a := newAttacher(Options{Queues: 4, Offloads: OffloadChecksum})
		if err := a.takeOver([]int{fd}); err != nil {
			t.Fatal(err)
		}
		parent.Close()
		if c := a.capabilities(); c.Queues != 4 || c.Offloads != OffloadChecksum || c.Lost != nil {
			t.Errorf("%+v", c)
		}
		for _, fd := range a.fds {
			if name, _, err := attached(fd); name != parent.Name() || err != nil {
				t.Errorf("attached to %q, %v", name, err)
			}
		}
		closeAll(a.fds)
	})
}

// From another namespace the link's name leads to nothing, or to another link.
func TestQueuesOfALinkElsewhere(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		d := create(t, "far%d", Options{Queues: 2})
		fd, err := duplicate(d.File())
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		done := make(chan Capabilities)
		go func() { // on a thread that is not in the test's namespace
			a := newAttacher(Options{Queues: 2})
			a.takeOver([]int{fd})
			done <- a.capabilities()
		}()
		if c := <-done; c.Queues != 1 || !strings.Contains(fmt.Sprint(c.Lost), "another network namespace") {
			t.Errorf("%+v", c)
		}
	})
}

// A persistent link forgets what its last user could do.
func TestOffloadsOfTheLastUser(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		ip(t, "tuntap", "add", "mode", "tun", "name", "keep")
		ip(t, "addr", "add", "10.99.0.1/24", "dev", "keep")
		ip(t, "link", "set", "keep", "up")
		conn, err := net.Dial("udp", "10.99.0.2:5")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for _, c := range []struct {
			what    string
			options Options
			flags   uint8
		}{
			{"all", Options{Offloads: OffloadAll}, NeedsChecksum},
			{"none", Options{}, 0},
			{"all again", Options{Offloads: OffloadAll}, NeedsChecksum},
			{"refused", Options{Offloads: OffloadAll, refuse: refusing(unix.TUNSETOFFLOAD, unix.TUN_F_CSUM)}, 0},
		} {
			d := create(t, "keep", c.options)
			fmt.Fprint(conn, c.what)
			buf := make([]byte, 2000)
			for {
				h, n, err := d.Queues()[0].Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				if bytes.HasSuffix(buf[:Headroom+n], []byte(c.what)) {
					if h.Flags != c.flags {
						t.Errorf("%s: flags %d, want %d", c.what, h.Flags, c.flags)
					}
					break
				}
			}
			d.Close()
		}
	})
}
