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
	bufs, sizes := [][]byte{make([]byte, 2000), make([]byte, 2000)}, make([]int, 2)
	for {
		n, err := d.Read(bufs, sizes, 16)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if p := bufs[i][16 : 16+sizes[i]]; bytes.HasSuffix(p, []byte(text)) {
				return bytes.Clone(p)
			}
		}
	}
}

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
		if n, err := d.Write([][]byte{append(make([]byte, 16), packet...)}, 16); n != 1 || err != nil {
			t.Fatalf("wrote %d, %v", n, err)
		}
		conn.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := conn.Read(back); err == nil {
			return string(back[:n])
		}
	}
	return ""
}

func TestTryReadAndBatches(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		d := create(t, "kptun1", Options{})
		up(t, d)
		bufs, sizes := make([][]byte, 8), make([]int, 8)
		for i := range bufs {
			bufs[i] = make([]byte, 2000)
		}
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
			n, err := d.TryRead(bufs, sizes, 0)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				empty++
			}
			for i := range n {
				if p := bufs[i][:sizes[i]]; bytes.HasSuffix(p, fmt.Appendf(nil, "number %02d", next)) {
					next++
				}
			}
		}
		if next != 20 {
			t.Errorf("%d of 20 packets came, in order", next)
		}
	})
}

func TestWriteGoesOnAfterARefusedPacket(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		d := create(t, "kptun2", Options{})
		good := append([]byte{0x60}, make([]byte, 47)...)
		if n, err := d.Write([][]byte{good}, 0); n != 0 || !errors.Is(err, ErrLinkDown) {
			t.Errorf("while the link is down: %d, %v", n, err)
		}
		up(t, d)
		if n, err := d.Write([][]byte{good, {0x99, 1, 2}, good}, 0); n != 2 || !errors.Is(err, ErrMalformed) {
			t.Errorf("wrote %d of 2 good ones, %v", n, err)
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
			bufs, sizes := [][]byte{make([]byte, 2000)}, make([]int, 1)
			for {
				if _, err := d.Read(bufs, sizes, 0); err != nil {
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
			_, err := d.Read([][]byte{make([]byte, 2000)}, make([]int, 1), 0)
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
			"virtio_net": open(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR), "not a tun": null,
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
		bufs, sizes := make([][]byte, 4), make([]int, 4)
		for i := range bufs {
			bufs[i] = make([]byte, 2000)
		}
		packet := append(make([]byte, 16), 0x60, 0, 0, 0, 0, 8, 59, 64)
		packet = append(packet, make([]byte, 40)...)
		out := [][]byte{packet, packet}
		text := []byte("text")
		n := testing.AllocsPerRun(200, func() {
			conn.Write(text)
			if _, err := d.Read(bufs, sizes, 16); err != nil {
				t.Fatal(err)
			}
			if _, err := d.TryRead(bufs, sizes, 16); err != nil {
				t.Fatal(err)
			}
			if n, err := d.Write(out, 16); n != 2 {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}
