package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/net/netutil"
)

// What a server bears: who connects may be anybody.
const (
	maxConnections  = 32
	maxHeaderBytes  = 8 << 10
	headerTimeout   = 5 * time.Second
	readTimeout     = 10 * time.Second
	writeTimeout    = scrapeTimeout + 10*time.Second
	idleTimeout     = 2 * time.Minute
	shutdownTimeout = time.Second
)

// Listen opens the socket for [Serve]. An unspecified IPv6 address takes IPv4
// too.
func Listen(at netip.AddrPort) (net.Listener, error) {
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		return nil, fmt.Errorf("metrics: %w: choose another address with --metrics", err)
	}
	return l, nil
}

// Serve answers GET /metrics with h, and closes the socket when ctx ends. Its
// error is that of the socket.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", h)
	server := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		closeServer(server)
	})
	err := server.Serve(netutil.LimitListener(l, maxConnections))
	if stop() { // it was not told to end
		server.Close()
		return fmt.Errorf("metrics: %w", err)
	}
	<-stopped
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return err
}

// closeServer lets scrapes finish that are nearly done.
func closeServer(s *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	if s.Shutdown(ctx) != nil {
		s.Close()
	}
}
