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

// IP runs ip(8) with the words of args and gives what it printed.
func IP(t testing.TB, args string) string {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
	return string(out)
}
