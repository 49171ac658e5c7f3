package uapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// fake is a Backend that keeps what it is given.
type fake struct {
	mu       sync.Mutex
	state    DeviceState
	requests []*SetRequest
	refuse   error
	show     any
}

func (f *fake) State() DeviceState { f.mu.Lock(); defer f.mu.Unlock(); return f.state }
func (f *fake) Show() any          { f.mu.Lock(); defer f.mu.Unlock(); return f.show }
func (f *fake) refuseWith(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = err
}
func (f *fake) Configure(r *SetRequest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r)
	return f.refuse
}
func (f *fake) take() (r []*SetRequest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, f.requests = f.requests, nil
	return r
}

// testName is an interface name of this test run alone.
func testName(suffix string) string { return fmt.Sprintf("kpt%d%s", os.Getpid()%100000, suffix) }

func serve(t *testing.T, name string, f Backend) {
	t.Helper()
	listener, err := Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, listener, f, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve ended with %v", err)
		}
		if err := listener.Remove(); err != nil {
			t.Error(err)
		}
	})
}

func dialRaw(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: SocketPath(name), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn
}

func TestServe(t *testing.T) {
	name := testName("a")
	f := &fake{state: DeviceState{ListenPort: 9}, show: map[string]string{"name": "fake"}}
	serve(t, name, f)
	for _, c := range []struct {
		say, want string
		hangsUp   bool // the server, after the answer
	}{
		{say: "get=1\n\n", want: "listen_port=9\nerrno=0\n\n"},
		{say: "get=kiloport\n\n", want: "kiloport={\"name\":\"fake\"}\nerrno=0\n\n"},
		{say: "set=1\nlisten_port=1\n\n", want: "errno=0\n\n"},
		{say: "set=1\nlisten_port=1\nlisten_port=x\nfwmark=1\n\n", want: "errno=-22\n\n"},
		{say: "set=1\nlisten_port\n\n", want: "errno=-71\n\n"},
		{say: "set=1\n\nget=1\n\n", want: "errno=0\n\nlisten_port=9\nerrno=0\n\n"},
		{say: "set=1\nbad\n\nget=1\n\n", want: "errno=-71\n\nlisten_port=9\nerrno=0\n\n"},
		{say: "get=1\nx\n", want: "errno=-22\n\n", hangsUp: true},
		{say: "set=1\n" + strings.Repeat("x", maxLine), want: "errno=-5\n\n", hangsUp: true},
		{say: "get=2\n\n", hangsUp: true},
		{say: "hello\n\n", hangsUp: true},
		{say: strings.Repeat("x", maxLine), hangsUp: true},
	} {
		conn := dialRaw(t, name)
		io.WriteString(conn, c.say)
		if !c.hangsUp {
			conn.CloseWrite()
		}
		got, err := io.ReadAll(conn)
		if string(got) != c.want || err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%.50q answered %q, %v; want %q", c.say, got, err, c.want)
		}
	}
	if n := len(f.take()); n != 2 {
		t.Errorf("%d requests reached the backend, want the 2 without a wrong line", n)
	}
}

// TestARequestThatBreaksOffChangesNothing: a client killed while it replaces the
// peers must not leave half of them.
func TestARequestThatBreaksOffChangesNothing(t *testing.T) {
	name := testName("b")
	f := &fake{}
	serve(t, name, f)
	conn := dialRaw(t, name)
	io.WriteString(conn, "set=1\nreplace_peers=true\n"+onePeer)
	conn.CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != "errno=-5\n\n" || err != nil {
		t.Errorf("answered %q, %v", got, err)
	}
	if r := f.take(); len(r) != 0 {
		t.Errorf("the backend got %+v", r[0])
	}
}

func TestErrno(t *testing.T) {
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0},
		{fmt.Errorf("listen: %w", &os.SyscallError{Syscall: "bind", Err: syscall.EADDRINUSE}), syscall.EADDRINUSE},
		{fmt.Errorf("peer: %w", &Error{Errno: syscall.EINVAL, Err: syscall.ENOENT}), syscall.EINVAL},
		{&Error{Err: syscall.ENOENT}, syscall.ENOENT},
		{syscall.Errno(0), syscall.EIO},
		{errors.New("all else"), syscall.EIO},
	} {
		if got := errno(c.err); got != c.want {
			t.Errorf("%v: errno %v, want %v", c.err, got, c.want)
		}
	}
}

// pipes is a listener of connections in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }
func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.conns <- theirs
	return ours
}

func TestServeBoundsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		listener, ended := newPipes(), make(chan error, 1)
		go func() { ended <- Serve(ctx, listener, &fake{}, slog.New(slog.DiscardHandler)) }()
		var conns []net.Conn
		for range maxConnections + 1 {
			conns = append(conns, listener.dial())
		}
		answered := make(chan string, 1)
		go func() {
			last := conns[maxConnections]
			io.WriteString(last, "get=1\n\n")
			line, _ := bufio.NewReader(last).ReadString('\n')
			answered <- line
		}()
		synctest.Wait()
		if len(answered) != 0 {
			t.Errorf("more than %d connections are served", maxConnections)
		}
		conns[0].Close()
		if line := <-answered; line != "errno=0\n" {
			t.Errorf("the one that waited is answered %q", line)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve ended with %v", err)
		}
		for _, c := range conns[1:] {
			if _, err := io.ReadAll(c); err != nil {
				t.Errorf("after the end: %v", err)
			}
			c.Close()
		}
	})
}

func TestServeCutsOffTheIdle(t *testing.T) {
	for _, say := range []string{"", "get=1", "set=1\nlisten_port=1\n"} {
		synctest.Test(t, func(t *testing.T) {
			listener, f := newPipes(), &fake{}
			go Serve(t.Context(), listener, f, slog.New(slog.DiscardHandler))
			defer listener.Close()
			conn, start := listener.dial(), time.Now()
			defer conn.Close()
			io.WriteString(conn, say)
			io.ReadAll(conn)
			if idle := time.Since(start); idle != idleTimeout {
				t.Errorf("after %q the server waited %v, want %v", say, idle, idleTimeout)
			}
			if len(f.take()) > 0 {
				t.Errorf("after %q the backend got a request", say)
			}
		})
	}
}

// faulty fails to accept first with errors that pass and then with one that
// does not.
type faulty struct {
	pipes
	errs []error
}

func (l *faulty) Accept() (net.Conn, error) {
	err := l.errs[0]
	l.errs = l.errs[1:]
	return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)}
}

func TestServeOutlivesWhatPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listener := &faulty{errs: []error{syscall.EMFILE, syscall.ECONNABORTED, syscall.EINVAL}}
		listener.closed = make(chan struct{})
		err := Serve(t.Context(), listener, &fake{}, slog.New(slog.DiscardHandler))
		if !errors.Is(err, syscall.EINVAL) || len(listener.errs) != 0 {
			t.Errorf("ended with %v, %d errors left", err, len(listener.errs))
		}
	})
}

// TestNoSecretIsLogged: what a client sends in the wrong place is not logged.
func TestNoSecretIsLogged(t *testing.T) {
	var logged bytes.Buffer
	ours, conn := net.Pipe()
	go func() {
		go io.Copy(io.Discard, ours)
		io.WriteString(ours, "set=1\nprivate_key="+misplaced+"\n\nset=1\n"+misplaced+"\n\nset=1\n"+onePeer+"endpoint="+misplaced+"\n\n")
		io.WriteString(ours, "private_key="+misplaced+"\n")
	}()
	serveConn(t.Context(), conn, &fake{}, slog.New(slog.NewTextHandler(&logged, nil)))
	ours.Close()
	if got := logged.String(); strings.Count(got, "refused") != 4 || strings.Contains(got, misplaced[:10]) {
		t.Errorf("logged %s", got)
	}
}
