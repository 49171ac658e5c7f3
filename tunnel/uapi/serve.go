package uapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	maxConnections = 32
	idleTimeout    = 30 * time.Second // a client that says nothing is cut off
)

// Serve answers requests until ctx ends or the listener is closed, and then
// closes both it and what is still connected.
func Serve(ctx context.Context, listener net.Listener, backend Backend, log *slog.Logger) error {
	var wait sync.WaitGroup
	defer wait.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	slots := make(chan struct{}, maxConnections)
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("accept a configuration client: %w", err)
		}
		slots <- struct{}{}
		wait.Add(1)
		go func() {
			defer wait.Done()
			defer func() { <-slots }()
			serveConn(ctx, conn, backend, log)
		}()
	}
}

// serveConn answers one client.
func serveConn(ctx context.Context, conn net.Conn, backend Backend, log *slog.Logger) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	r := bufio.NewReaderSize(deadlined{conn}, maxLine+1)
	w := bufio.NewWriter(deadlined{conn})
	for {
		operation, err := readLine(r)
		if err != nil {
			return
		}
		if operation == "" {
			continue // between requests
		}
		err = serveRequest(r, w, operation, backend)
		if isFatal(err) {
			return
		}
		if err != nil {
			log.Warn("configuration request refused", "error", err)
		}
		fmt.Fprintf(w, "errno=%d\n\n", -int(errno(err)))
		if w.Flush() != nil {
			return
		}
	}
}

// deadlined gives each read and write its time.
type deadlined struct{ net.Conn }

func (d deadlined) Read(b []byte) (int, error) {
	d.SetReadDeadline(time.Now().Add(idleTimeout))
	return d.Conn.Read(b)
}

func (d deadlined) Write(b []byte) (int, error) {
	d.SetWriteDeadline(time.Now().Add(idleTimeout))
	return d.Conn.Write(b)
}

// connError is what ends a connection: the client has gone, or where its next
// request would begin is not known.
type connError struct{ error }

func isFatal(err error) bool {
	var fatal connError
	return errors.As(err, &fatal)
}

func serveRequest(r *bufio.Reader, w io.Writer, operation string, backend Backend) error {
	if operation == "set=1" {
		request, err := ParseSet(r)
		var refused *Error
		switch {
		case err == nil:
			return backend.Configure(request)
		case errors.As(err, &refused) && refused.Line > 0:
			return err
		}
		return connError{err}
	}
	if line, err := readLine(r); err != nil || line != "" {
		return connError{fmt.Errorf("request %q is not followed by an empty line", operation)}
	}
	switch operation {
	case "get=1":
		return WriteGet(w, backend.State())
	case "get=kiloport":
		text, err := json.Marshal(backend.Show())
		if err == nil {
			_, err = fmt.Fprintf(w, "kiloport=%s\n", text)
		}
		return err
	}
	return connError{fmt.Errorf("unknown request %q", operation)}
}
