package metrics

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

var anyPort = netip.MustParseAddrPort("127.0.0.1:0")

// served runs a server and gives its address; stop ends it and gives its error.
func served(t *testing.T, h http.Handler) (address string, stop func() error) {
	t.Helper()
	l, err := Listen(anyPort)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, h, slog.New(slog.DiscardHandler)) }()
	return l.Addr().String(), func() error { cancel(); return <-ended }
}

func TestServe(t *testing.T) {
	at, stop := served(t, NewHandler(sample(t), "v1"))
	for path, want := range map[string]int{"/metrics": 200, "/": 404, "/metrics/x": 404} {
		r, err := http.Get("http://" + at + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if r.StatusCode != want || want == 200 && !strings.Contains(string(body), `kiloport_link_up{interface="wg0"} 1`) {
			t.Errorf("%s: %s", path, r.Status)
		}
	}
	r, err := http.Post("http://"+at+"/metrics", "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", r.Status)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", at); err == nil {
		c.Close()
		t.Error("still listens after the end")
	}
}

// Who holds a connection does not hold up the end.
func TestServeEndsWithClients(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	defer close(answer)
	at, stop := served(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(asked); <-answer }))
	idle, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	busy, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	io.WriteString(busy, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
	<-asked
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestLongHeadersAreRefused(t *testing.T) {
	at, stop := served(t, NewHandler(sample(t), "v1"))
	defer stop()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET /metrics HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 3*maxHeaderBytes)+"\r\n\r\n")
	line, _ := bufio.NewReader(c).ReadString('\n')
	if !strings.Contains(line, "431") {
		t.Errorf("answered %q", line)
	}
}

func TestListenSaysWhatIsWrong(t *testing.T) {
	l, err := Listen(anyPort)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).AddrPort()
	for _, at := range []netip.AddrPort{taken, netip.MustParseAddrPort("192.0.2.1:9586")} {
		if _, err := Listen(at); err == nil || !strings.Contains(err.Error(), at.String()) || !strings.Contains(err.Error(), "--metrics") {
			t.Errorf("%v: %v", at, err)
		}
	}
}

// A socket that fails is an error, and nothing is left behind.
func TestServeReturnsTheSocketsError(t *testing.T) {
	l, err := Listen(anyPort)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := Serve(t.Context(), l, http.NotFoundHandler(), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("no error")
	}
}
