package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"

	"kiloport/tunnel"
	"kiloport/tunnel/metrics"
)

// envMetrics names the descriptor of the socket for Prometheus that a parent has
// opened, so that a wrong address is told where it was given.
const envMetrics = "KILOPORT_METRICS_FD"

// metricsSocket is where Prometheus gets answers; without a listener, nowhere.
type metricsSocket struct{ listener net.Listener }

// listenMetrics opens what the options ask for, or takes it over from a parent.
func listenMetrics(o tunnel.Options) (m metricsSocket, err error) {
	inherited, err := inheritedFile(envMetrics)
	switch {
	case err != nil:
		return m, err
	case inherited != nil:
		defer inherited.Close()
		defer os.Unsetenv(envMetrics)
		return inheritMetrics(inherited)
	case o.Metrics.IsValid():
		m.listener, err = metrics.Listen(o.Metrics)
	}
	return m, err
}

// inheritMetrics takes a socket over. It does not close f.
func inheritMetrics(f *os.File) (m metricsSocket, err error) {
	if m.listener, err = net.FileListener(f); err != nil {
		return m, fmt.Errorf("take over the socket for Prometheus: %w", err)
	}
	return m, nil
}

func (m metricsSocket) close() {
	if m.listener != nil {
		m.listener.Close()
	}
}

// file gives a descriptor of the socket for a child, nil if there is none.
func (m metricsSocket) file() (*os.File, error) {
	tcp, ok := m.listener.(*net.TCPListener)
	if !ok {
		return nil, nil
	}
	return tcp.File()
}

// serve answers until stop is called. A socket that fails does not end the
// device.
func (m metricsSocket) serve(s metrics.Source, log *slog.Logger) (stop func()) {
	if m.listener == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	log.Info("answering Prometheus", "url", fmt.Sprintf("http://%s/metrics", m.listener.Addr()))
	go func() {
		defer close(ended)
		if err := metrics.Serve(ctx, m.listener, metrics.NewHandler(s, version), log); err != nil {
			log.Error("no more answers for Prometheus", "error", err)
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}
