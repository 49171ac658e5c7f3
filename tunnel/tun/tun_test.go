package tun

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inNamespace runs a test in a network namespace of its own.
func inNamespace(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	runtime.LockOSThread()
	before, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	own, err := netns.New()
	if err != nil {
		t.Fatalf("a network namespace needs root: %v", err)
	}
	defer func() {
		own.Close()
		if err := netns.Set(before); err == nil {
			runtime.UnlockOSThread() // else the thread ends with the goroutine
		}
	}()
	test(t)
}

func create(t *testing.T, name string, o Options) Device {
	t.Helper()
	d, err := Create(name, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v %s", args, err, out)
	}
}

// event waits for a certain event and fails at another.
func event(t *testing.T, d Device, want Event) {
	t.Helper()
	select {
	case got := <-d.Events():
		if got != want {
			t.Fatalf("event %v, want %v", got, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("no event, want %v", want)
	}
}

// up gives the link an address and sets it up.
func up(t *testing.T, d Device) {
	t.Helper()
	event(t, d, Down)
	ip(t, "addr", "add", "10.99.0.1/24", "dev", d.Name())
	ip(t, "-6", "addr", "add", "fd99::1/64", "dev", d.Name(), "nodad")
	ip(t, "link", "set", d.Name(), "up")
	event(t, d, Up)
}

// ours reads until a UDP packet with a text arrives; the host sends others, such
// as router solicitations.
func ours(t *testing.T, d Device, text string) []byte {
	t.Helper()
	buf := make([]byte, 2000)
	for {
		_, n, err := d.Queues()[0].Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if p := buf[Headroom:][:n]; bytes.HasSuffix(p, []byte(text)) {
			return bytes.Clone(p)
		}
	}
}

// room puts a packet behind the headroom.
func room(packet []byte) []byte { return append(make([]byte, Headroom), packet...) }

func TestPacketsBothWays(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		d := create(t, "kptun0", Options{})
		if d.Name() != "kptun0" || d.MTU() != DefaultMTU {
			t.Errorf("name %s, mtu %d", d.Name(), d.MTU())
		}
		up(t, d)
		for _, peer := range []string{"10.99.0.2:5", "[fd99::2]:5"} {
			conn, err := net.Dial("udp", peer)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprint(conn, "there")
			packet := ours(t, d, "there")

			// And back: swap the addresses and ports, which keeps the checksums.
			swap := func(a, b, n int) {
				for i := range n {
					packet[a+i], packet[b+i] = packet[b+i], packet[a+i]
				}
			}
			if packet[0]>>4 == 4 {
				swap(12, 16, 4)
				swap(20, 22, 2)
			} else {
				swap(8, 24, 16)
				swap(40, 42, 2)
			}
			if got := answer(t, d, conn, packet); got != "there" {
				t.Errorf("%s: read %q", peer, got)
			}
		}
	})
}

// answer writes a packet to the host and gives what its socket reads. A host may
// drop a datagram, so it is tried for ten seconds.
func answer(t *testing.T, d Device, conn net.Conn, packet []byte) string {
	t.Helper()
	back := make([]byte, 100)
	for range 10 {
		if err := d.Queues()[0].Write(Header{}, room(packet), nil); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := conn.Read(back); err == nil {
			return string(back[:n])
		}
	}
	return ""
}

func TestTryReadKeepsTheOrder(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		d := create(t, "kptun1", Options{})
		up(t, d)
		buf := make([]byte, 2000)
		conn, err := net.Dial("udp", "10.99.0.2:5")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for i := range 20 {
			fmt.Fprintf(conn, "number %02d", i)
		}
		next, empty := 0, 0
		for empty < 3 {
			_, n, err := d.Queues()[0].TryRead(buf)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				empty++
			}
			if p := buf[:Headroom+n]; bytes.HasSuffix(p, fmt.Appendf(nil, "number %02d", next)) {
				next++
			}
		}
		if next != 20 {
			t.Errorf("%d of 20 packets came, in order", next)
		}
	})
}

func TestWriteSaysWhatIsWrong(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		q := create(t, "kptun2", Options{}).(*device).queues[0]
		good := room(append([]byte{0x60}, make([]byte, 47)...))
		if err := q.Write(Header{}, good, nil); !errors.Is(err, ErrLinkDown) {
			t.Errorf("while the link is down: %v", err)
		}
		ip(t, "link", "set", "kptun2", "up")
		for _, c := range []struct {
			what   string
			header Header
			buf    []byte
			more   [][]byte
			want   error
		}{
			{"good", Header{}, good, nil, nil},
			{"in pieces", Header{}, good[:Headroom+5], [][]byte{good[Headroom+5 : Headroom+30], nil, good[Headroom+30:]}, nil},
			{"neither IPv4 nor IPv6", Header{}, room([]byte{0x99, 1, 2}), nil, ErrMalformed},
			{"no packet", Header{}, room(nil), nil, ErrMalformed},
			{"not even the headroom", Header{}, nil, nil, ErrMalformed},
			{"too many pieces", Header{}, good, make([][]byte, MaxPieces+1), ErrMalformed},
			{"an unfinished checksum", Header{Flags: NeedsChecksum}, good, nil, ErrOffload},
			{"a super-packet", Header{GSO: GSOTCP6}, good, nil, ErrOffload},
		} {
			if err := q.Write(c.header, c.buf, c.more); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", c.what, err, c.want)
			}
		}
	})
}

func TestLinkEvents(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		d := create(t, "kptun3", Options{MTU: 1300})
		if d.MTU() != 1300 {
			t.Errorf("mtu %d", d.MTU())
		}
		up(t, d)
		ip(t, "link", "set", d.Name(), "mtu", "9000")
		event(t, d, MTUUpdate)
		if d.MTU() != 9000 {
			t.Errorf("mtu %d", d.MTU())
		}
		ip(t, "link", "set", d.Name(), "down")
		event(t, d, Down)
		ip(t, "link", "set", d.Name(), "name", "kptunx")
		ip(t, "link", "set", "kptunx", "up")
		event(t, d, Up)
		if d.Name() != "kptunx" {
			t.Errorf("after a rename the name is %s", d.Name())
		}
		ended := make(chan error, 1)
		go func() {
			buf := make([]byte, 2000)
			for {
				if _, _, err := d.Queues()[0].Read(buf); err != nil {
					ended <- err
					return
				}
			}
		}()
		ip(t, "link", "del", "kptunx")
		event(t, d, Down)
		event(t, d, Deleted)
		if err := <-ended; !errors.Is(err, os.ErrClosed) {
			t.Errorf("read ended with %v", err)
		}
		if _, open := <-d.Events(); open {
			t.Error("an event after Deleted")
		}
	})
}

func TestCloseEndsARead(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		d := create(t, "kptun%d", Options{})
		if !strings.HasPrefix(d.Name(), "kptun") || strings.Contains(d.Name(), "%") {
			t.Errorf("name %s", d.Name())
		}
		ended := make(chan error, 1)
		go func() {
			_, _, err := d.Queues()[0].Read(make([]byte, 2000))
			ended <- err
		}()
		time.Sleep(10 * time.Millisecond) // so that it most likely waits; either order must do
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, os.ErrClosed) {
			t.Errorf("read ended with %v", err)
		}
		if err := d.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("second close: %v", err)
		}
		if _, err := netlink.LinkByName(d.Name()); err == nil {
			t.Error("the link is still there")
		}
	})
}

func TestFromFile(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		open := func(flags uint16) *os.File {
			fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			f := os.NewFile(uintptr(fd), "handed over")
			t.Cleanup(func() { f.Close() })
			if flags == 0 {
				return f
			}
			r, _ := unix.NewIfreq("kphand%d")
			r.SetUint16(flags)
			if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); err != nil {
				t.Fatal(err)
			}
			return f
		}
		d, err := FromFile(open(unix.IFF_TUN|unix.IFF_NO_PI), Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		up(t, d)
		conn, err := net.Dial("udp", "10.99.0.2:5")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "handed")
		ours(t, d, "handed")

		null, _ := os.Open(os.DevNull)
		defer null.Close()
		for name, f := range map[string]*os.File{
			"not attached": open(0), "a tap": open(unix.IFF_TAP | unix.IFF_NO_PI),
			"not a tun": null,
		} {
			if d, err := FromFile(f, Options{}); err == nil {
				d.Close()
				t.Errorf("%s: taken over", name)
			} else if !strings.Contains(err.Error(), ": ") || len(err.Error()) < 40 {
				t.Errorf("%s: the error does not say the way out: %v", name, err)
			}
		}
	})
}

func TestCreateRefuses(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		create(t, "kptun4", Options{})
		ip(t, "link", "add", "kpdummy", "type", "veth", "peer", "name", "kpdummy2")
		for _, c := range []struct {
			name string
			mtu  int
			says string
		}{
			{"kptun4", 0, "kptun4"}, {"kpdummy", 0, "kpdummy"}, {"", 0, "name"}, {"sixteen-letters-", 0, "15"}, {"a/b", 0, "name"}, {"kptun5", 10, "MTU"},
		} {
			d, err := Create(c.name, Options{MTU: c.mtu})
			if err == nil {
				d.Close()
				t.Errorf("%q, mtu %d: created", c.name, c.mtu)
			} else if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q: %v, want it to say %q", c.name, err, c.says)
			}
		}
		links, _ := netlink.LinkList()
		for _, l := range links {
			if l.Attrs().Name == "kptun5" {
				t.Error("a link was left behind")
			}
		}
	})
}

func TestNoAllocations(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		d := create(t, "kptun6", Options{})
		up(t, d)
		conn, err := net.Dial("udp", "10.99.0.2:5")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		q, buf, text := d.Queues()[0], make([]byte, 2000), []byte("text")
		packet := room(append([]byte{0x60, 0, 0, 0, 0, 8, 59, 64}, make([]byte, 40)...))
		more := [][]byte{make([]byte, 8)}
		n := testing.AllocsPerRun(200, func() {
			conn.Write(text)
			if _, _, err := q.Read(buf); err != nil {
				t.Fatal(err)
			}
			if _, _, err := q.TryRead(buf); err != nil {
				t.Fatal(err)
			}
			if err := q.Write(Header{}, packet, more); err != nil {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}
