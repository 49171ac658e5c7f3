package tun

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// datagrams is a pair of connected sockets: what is sent on one can be read on the other.
func datagrams(t *testing.T) (in, out int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(fds[0])
		unix.Close(fds[1])
	})
	return fds[0], fds[1]
}

func newTestWaiter(t *testing.T, fd int) *waiter {
	t.Helper()
	w, err := newWaiter(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.close() })
	return w
}

// readable tells whether the runtime's poller would be told of something.
func (w *waiter) readable() bool {
	fds := []unix.PollFd{{Fd: int32(w.epoll), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return n == 1 && err == nil
}

// TestWaiterMissesNothing: each datagram is waited for and comes at another moment of
// that, directly, through another epoll descriptor as in rings, and after others that
// came while nobody waited.
func TestWaiterMissesNothing(t *testing.T) {
	const rounds = 20_000
	for name, through := range map[string]bool{"directly": false, "through rings": true} {
		t.Run(name, func(t *testing.T) {
			in, out := datagrams(t)
			fd := in
			if through {
				epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(epoll)
				if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, in, &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
					t.Fatal(err)
				}
				fd = epoll
			}
			w := newTestWaiter(t, fd)
			next, sum := make(chan struct{}), 0
			go func() {
				for n := 0; ; n++ {
					if _, ok := <-next; !ok {
						return
					}
					for range n % 97 { // so that it is not always the same moment
						sum++
					}
					if n%3 == 0 {
						unix.Write(out, []byte{2}) // one that nobody waits for afterwards
					}
					unix.Write(out, []byte{1})
				}
			}()
			defer close(next)
			late := time.AfterFunc(time.Minute, w.interrupt)
			defer late.Stop()
			for n := range rounds {
				next <- struct{}{}
				b := make([]byte, 8)
				err := w.wait(func() bool {
					for {
						switch got, _ := unix.Read(in, b); {
						case got <= 0:
							return false
						case b[0] == 1:
							return true
						}
					}
				})
				if err != nil {
					t.Fatalf("round %d: %v", n, err)
				}
			}
		})
	}
}

// TestWaiterIsToldOfNothingUnlessItWaits is what it is for.
func TestWaiterIsToldOfNothingUnlessItWaits(t *testing.T) {
	in, out := datagrams(t)
	w := newTestWaiter(t, in)
	send := func() {
		if _, err := unix.Write(out, []byte{1}); err != nil {
			t.Fatal(err)
		}
	}
	take := func() bool {
		n, _ := unix.Read(in, make([]byte, 8))
		return n > 0
	}
	send()
	if w.readable() {
		t.Error("the poller is told before anybody waits")
	}
	for range 3 {
		if err := w.wait(take); err != nil { // one is there already
			t.Fatal(err)
		}
		timer := time.AfterFunc(10*time.Millisecond, send)
		if err := w.wait(take); err != nil {
			t.Fatal(err)
		}
		timer.Stop()
		send()
		if w.readable() {
			t.Error("the poller is told though nobody waits any more")
		}
	}
}

func TestWaiterEnds(t *testing.T) {
	in, _ := datagrams(t)
	for name, end := range map[string]func(w *waiter){
		"interrupted": (*waiter).interrupt, "closed": func(w *waiter) { w.close() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestWaiter(t, in)
			time.AfterFunc(10*time.Millisecond, func() { end(w) })
			for range 2 { // and from then on
				if err := w.wait(func() bool { return false }); err == nil {
					t.Error("waiting ended without an error")
				}
			}
		})
	}
	w := newTestWaiter(t, in)
	w.interrupt()
	if err := w.wait(func() bool { return false }); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error %v, want %v", err, os.ErrDeadlineExceeded)
	}
	if _, err := newWaiter(-1); err == nil {
		t.Error("a descriptor that is none is waited for")
	}
}
