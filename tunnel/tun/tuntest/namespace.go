package tuntest

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const ownNamespace = "/proc/thread-self/ns/net"

// Namespace puts the calling test into a network namespace of its own, with the
// loopback link up, until the test ends. It needs root: without it the test
// fails, for a skip would hide that nothing was tested.
//
// Only the test's own goroutine is in there, and what it opens and starts
// (sockets, processes) from there: goroutines that it starts are not.
func Namespace(t testing.TB) {
	t.Helper()
	runtime.LockOSThread()
	before, err := unix.Open(ownNamespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open the test's network namespace: %v", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace: %v: run the test as root", err)
	}
	t.Cleanup(func() {
		defer unix.Close(before)
		if err := unix.Setns(before, unix.CLONE_NEWNET); err != nil {
			// Still locked: the thread ends with the goroutine.
			t.Errorf("leave the network namespace: %v", err)
			return
		}
		runtime.UnlockOSThread()
	})
	IP(t, "link set lo up")
}

// Host is a network namespace beside the one that the test is in.
type Host struct{ namespace int }

// NewHost makes a host, with the loopback link up, for a test that is in a
// [Namespace] itself. It lasts until the test ends.
func NewHost(t testing.TB) *Host {
	t.Helper()
	here, err := unix.Open(ownNamespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open the test's network namespace: %v", err)
	}
	defer unix.Close(here)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	h := new(Host)
	if h.namespace, err = unix.Open(ownNamespace, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		t.Fatalf("open the host's network namespace: %v", err)
	}
	t.Cleanup(func() { unix.Close(h.namespace) })
	IP(t, "link set lo up")
	if err := unix.Setns(here, unix.CLONE_NEWNET); err != nil {
		t.Fatalf("return to the test's network namespace: %v", err)
	}
	return h
}

// Do runs f on the host: the links and sockets that it makes stay there.
func (h *Host) Do(t testing.TB, f func()) {
	t.Helper()
	here, err := unix.Open(ownNamespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open the test's network namespace: %v", err)
	}
	defer unix.Close(here)
	if err := unix.Setns(h.namespace, unix.CLONE_NEWNET); err != nil {
		t.Fatalf("go to the host's network namespace: %v", err)
	}
	defer func() {
		if err := unix.Setns(here, unix.CLONE_NEWNET); err != nil {
			t.Errorf("return to the test's network namespace: %v", err)
		}
	}()
	f()
}

// IP runs ip(8) with the words of args and gives what it printed.
func IP(t testing.TB, args string) string {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
	return string(out)
}
