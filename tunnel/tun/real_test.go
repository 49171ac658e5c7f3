package tun_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kiloport/tunnel/tun"
	"kiloport/tunnel/tun/tuntest"
)

// patience is how long a test waits before it gives up: no measure of speed.
const patience = 20 * time.Second

// open makes a device that tells the test of whatever it logs.
func open(t *testing.T, name string, o tun.Options) tun.Device {
	t.Helper()
	var logged lockedBuffer
	o.Log = slog.New(slog.NewTextHandler(&logged, nil))
	d, err := tun.Create(name, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Close() // waits for what logs
		if s := logged.String(); s != "" {
			t.Errorf("logged: %s", s)
		}
	})
	return d
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// want waits for the next events.
func want(t *testing.T, d tun.Device, events ...tun.Event) {
	t.Helper()
	for _, w := range events {
		select {
		case got, ok := <-d.Events():
			if !ok || got != w {
				t.Fatalf("event %v (open: %v), want %v", got, ok, w)
			}
		case <-time.After(patience):
			t.Fatalf("no event, want %v", w)
		}
	}
}

// udp4 makes an IPv4 packet with a UDP datagram without checksum (RFC 768).
func udp4(from, to netip.AddrPort, payload string) []byte {
	p := make([]byte, 28+len(payload))
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	copy(p[12:], from.Addr().AsSlice())
	copy(p[16:], to.Addr().AsSlice())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum))
	binary.BigEndian.PutUint16(p[20:], from.Port())
	binary.BigEndian.PutUint16(p[22:], to.Port())
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(payload)))
	copy(p[28:], payload)
	return p
}

func TestClosingIsNoErrorToLog(t *testing.T) {
	tuntest.Namespace(t)
	for range 20 {
		d := open(t, "quiet%d", tun.Options{}) // its cleanup looks at the log
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if _, open := <-d.Events(); open {
			for range d.Events() { // the state, if it came before Close
			}
		}
	}
}

// Everything at once, for the race detector and for deadlocks.
func TestCloseUnderLoad(t *testing.T) {
	tuntest.Namespace(t)
	for round := range 10 {
		d := open(t, "busy%d", tun.Options{Queues: 1 + round%3, Rings: 1 + round%4, Offloads: tun.OffloadAll})
		tuntest.IP(t, "addr add 10.98.0.1/24 dev "+d.Name())
		tuntest.IP(t, "link set up dev "+d.Name())
		var users sync.WaitGroup
		until := func(use func() error) {
			users.Go(func() {
				for {
					if err := use(); errors.Is(err, os.ErrClosed) {
						return
					}
				}
			})
		}
		packet := room(udp4(netip.MustParseAddrPort("10.98.0.9:9"), netip.MustParseAddrPort("10.98.0.1:9"), "x"))
		for _, q := range d.Queues() {
			for range 2 {
				buf := make([]byte, 2000)
				until(func() error { _, _, err := q.Read(buf); return err })
			}
			buf := make([]byte, 2000)
			until(func() error { _, _, err := q.TryRead(buf); return err })
			until(func() error { return q.Write(tun.Header{}, slices.Clone(packet), nil) })
		}
		users.Go(func() {
			for range d.Events() {
			}
		})
		if round%2 == 0 {
			tuntest.IP(t, "link del "+d.Name())
		} else if err := d.Close(); err != nil {
			t.Error(err)
		}
		users.Wait()
	}
}

// A reader of events who comes late learns the state that is, not the history.
func TestEventsAreMerged(t *testing.T) {
	tuntest.Namespace(t)
	d := open(t, "late%d", tun.Options{})
	want(t, d, tun.Down)
	for range 30 {
		tuntest.IP(t, "link set mtu 1400 up dev "+d.Name())
		tuntest.IP(t, "link set mtu 1300 down dev "+d.Name())
	}
	tuntest.IP(t, "link set mtu 1350 up dev "+d.Name())
	tuntest.IP(t, "link del "+d.Name())
	events, up := 0, false
	for e := range d.Events() {
		events++
		switch e {
		case tun.Up, tun.Down:
			if up == (e == tun.Up) {
				t.Errorf("%v twice", e)
			}
			up = e == tun.Up
		}
		if e == tun.Deleted && up {
			t.Error("deleted while up")
		}
	}
	if events > 20 {
		t.Errorf("%d events were kept", events)
	}
	if d.MTU() != 1350 {
		t.Errorf("mtu %d", d.MTU())
	}
}

func TestDeletedLinkEndsEverything(t *testing.T) {
	tuntest.Namespace(t)
	d := open(t, "gone%d", tun.Options{Queues: 3, Rings: 2})
	want(t, d, tun.Down)
	ended := make(chan error, 3)
	for _, q := range d.Queues() {
		go func() {
			_, _, err := q.Read(make([]byte, 100))
			ended <- err
		}()
	}
	tuntest.IP(t, "link del "+d.Name())
	want(t, d, tun.Deleted)
	for _, q := range d.Queues() {
		select {
		case err := <-ended:
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("read: %v", err)
			}
		case <-time.After(patience):
			t.Fatal("read goes on waiting")
		}
		buf := make([]byte, 100)
		if _, n, err := q.Read(buf); n != 0 || !errors.Is(err, os.ErrClosed) {
			t.Errorf("read: %d, %v", n, err)
		}
		if _, n, err := q.TryRead(buf); n != 0 || !errors.Is(err, os.ErrClosed) {
			t.Errorf("tryread: %d, %v", n, err)
		}
		buf[tun.Headroom] = 0x45
		if err := q.Write(tun.Header{}, buf, nil); !errors.Is(err, os.ErrClosed) {
			t.Errorf("write: %v", err)
		}
	}
	if err := d.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// A link that goes to another namespace is not deleted, and is followed.
func TestMovedLinkIsFollowed(t *testing.T) {
	tuntest.Namespace(t)
	d := open(t, "mover", tun.Options{})
	want(t, d, tun.Down)
	away := fmt.Sprintf("kiloport-test-%d", os.Getpid())
	tuntest.IP(t, "netns add "+away)
	t.Cleanup(func() { tuntest.IP(t, "netns del "+away) })
	tuntest.IP(t, "link set mover netns "+away)
	tuntest.IP(t, "-n "+away+" addr add 10.97.0.1/24 dev mover")
	tuntest.IP(t, "-n "+away+" link set mover mtu 1333 up")
	for up, resized := false, false; !up || !resized; {
		select {
		case e, ok := <-d.Events():
			if !ok || e == tun.Deleted {
				t.Fatal("taken for deleted")
			}
			up, resized = up || e == tun.Up, resized || e == tun.MTUUpdate
		case <-time.After(patience):
			t.Fatal("lost")
		}
	}
	if d.MTU() != 1333 {
		t.Errorf("mtu %d", d.MTU())
	}
	tuntest.IP(t, "-n "+away+" link del mover")
	want(t, d, tun.Down, tun.Deleted)
}

func TestPersistentLink(t *testing.T) {
	tuntest.Namespace(t)
	tuntest.IP(t, "tuntap add mode tun name keep")
	d := open(t, "keep", tun.Options{MTU: 1380})
	if d.Name() != "keep" || d.MTU() != 1380 {
		t.Errorf("%s, mtu %d", d.Name(), d.MTU())
	}
	if _, err := tun.Create("keep", tun.Options{}); !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second owner: %v", err)
	}
	d.Close()
	tuntest.IP(t, "link show dev keep")
}

func TestFromFileKeepsItsHandsOff(t *testing.T) {
	tuntest.Namespace(t)
	if _, err := tun.FromFile(nil, tun.Options{}); err == nil {
		t.Error("nil: taken over")
	}
	closed := os.NewFile(987654, "closed")
	if _, err := tun.FromFile(closed, tun.Options{}); err == nil || !strings.Contains(err.Error(), "open descriptor") {
		t.Errorf("a number that is no descriptor: %v", err)
	}

	first := open(t, "hand%d", tun.Options{MTU: 1234})
	// As a parent does it: the descriptor is duplicated, the link lives on.
	fd, err := unix.FcntlInt(rawFd(t, first), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	second, err := tun.FromFile(os.NewFile(uintptr(fd), "WG_TUN_FD"), tun.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if second.Name() != first.Name() || second.MTU() != 1234 {
		t.Errorf("%s with mtu %d became %s with %d", first.Name(), first.MTU(), second.Name(), second.MTU())
	}
	first.Close()
	want(t, second, tun.Down)
	tuntest.IP(t, "link set up dev "+second.Name())
	want(t, second, tun.Up)
}

func rawFd(t *testing.T, d tun.Device) (fd uintptr) {
	t.Helper()
	raw, err := d.File().SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(f uintptr) { fd = f }); err != nil {
		t.Fatal(err)
	}
	return fd
}

// A descriptor can be of a link in another namespace than the daemon's.
func TestFromFileInAnotherNamespace(t *testing.T) {
	tuntest.Namespace(t)
	first := open(t, "far%d", tun.Options{})
	fd, err := unix.FcntlInt(rawFd(t, first), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	var second tun.Device
	elsewhere := make(chan error)
	go func() { // on a thread that is not in the test's namespace
		var err error
		second, err = tun.FromFile(os.NewFile(uintptr(fd), "WG_TUN_FD"), tun.Options{MTU: 1290})
		elsewhere <- err
	}()
	if err := <-elsewhere; err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	want(t, second, tun.Down)
	tuntest.IP(t, "link set up dev "+second.Name())
	want(t, second, tun.Up)
	tuntest.IP(t, "link set mtu 1291 dev "+second.Name())
	want(t, second, tun.MTUUpdate)
}

func TestNames(t *testing.T) {
	tuntest.Namespace(t)
	tuntest.IP(t, "link add taken type veth peer name taken2")
	tuntest.IP(t, "tuntap add mode tap name atap")
	for _, c := range []struct{ name, says string }{
		{"", "is empty"},
		{"sixteen-letters-", "at most 15"},
		{".", "directory"}, {"..", "directory"},
		{"a/b", "slash"}, {"a:b", "colon"}, {"a b", "white space"}, {"a\tb", "white space"}, {"a\x00b", ""},
		{"ol\u00e0", ""}, // UTF-8 with the byte 0xa0, which the kernel takes for a space
		{"a%db%d", "%d"}, {"a%s", "%d"}, {"a%", "%d"},
		{"all", "sysctl"}, {"default", "sysctl"},
		{"taken", "ip link delete dev taken"}, {"atap", "ip link delete dev atap"},
	} {
		d, err := tun.Create(c.name, tun.Options{})
		if err == nil {
			d.Close()
			t.Errorf("%q: created as %s", c.name, d.Name())
			continue
		}
		if !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "choose another") {
			t.Errorf("%q: %v, want it to say %q and the way out", c.name, err, c.says)
		}
	}
	for _, name := range []string{"fifteen-letters", "m\u00fcll", "%d-x", "x%d"} {
		d, err := tun.Create(name, tun.Options{})
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if want := strings.Replace(name, "%d", "0", 1); d.Name() != want {
			t.Errorf("%q became %q, want %q", name, d.Name(), want)
		}
		d.Close()
	}
}

// onThread runs f on a thread that is thrown away afterwards, so that it may
// give up what cannot be had back.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		f()
	}()
	<-done
}

func TestWithoutTheDriversFile(t *testing.T) {
	onThread(func() {
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
			t.Errorf("run the test as root: %v", err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Mount("none", "/dev/net", "tmpfs", 0, ""); err != nil {
			t.Error(err)
			return
		}
		_, err := tun.Create("none0", tun.Options{})
		if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "modprobe tun") {
			t.Errorf("no /dev/net/tun: %v", err)
		}
		if err := os.WriteFile("/dev/net/tun", nil, 0o600); err != nil {
			t.Error(err)
		}
		if _, err = tun.Create("none0", tun.Options{}); err == nil || !strings.Contains(err.Error(), "/dev/net/tun") {
			t.Errorf("an ordinary file in its place: %v", err)
		}
	})
}

func TestWithoutCapability(t *testing.T) {
	onThread(func() {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("run the test as root: %v", err)
			return
		}
		if err := unix.Capset(&header, &none[0]); err != nil {
			t.Error(err)
			return
		}
		_, err := tun.Create("none0", tun.Options{})
		if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Errorf("without CAP_NET_ADMIN: %v", err)
		}
	})
}
