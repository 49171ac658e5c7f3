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
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	maxConnections = 32
	idleTimeout    = 30 * time.Second // a client that says nothing is cut off
	acceptPause    = 100 * time.Millisecond
)

// errHangUp says that a connection ends without an answer.
var errHangUp = errors.New("unknown, use set=1, get=1 or get=kiloport")

// Serve answers requests until ctx ends or the listener is closed, and then
// closes both it and what is still connected. It returns nil then. Refused
// requests are logged; the client only gets a number.
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
		switch {
		case err == nil:
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		case passing(err):
			log.Warn("accept a configuration client", "error", err)
			time.Sleep(acceptPause)
			continue
		default:
			listener.Close()
			return fmt.Errorf("accept a configuration client: %w", err)
		}
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			serveConn(ctx, conn, backend, log)
		})
	}
}

// passing errors of accept(2) do not come from the listener.
func passing(err error) bool {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// serveConn answers one client.
func serveConn(ctx context.Context, conn net.Conn, backend Backend, log *slog.Logger) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	r := bufio.NewReaderSize(deadlined{conn}, maxLine)
	w := bufio.NewWriter(deadlined{conn})
	for {
		operation, err := readLine(r)
		if err != nil {
			return
		}
		if operation == "" {
			continue // between requests
		}
		inStep, err := serveRequest(r, w, operation, backend)
		if err != nil {
			log.Warn("configuration request refused", "error", err)
		}
		if errors.Is(err, errHangUp) {
			return
		}
		fmt.Fprintf(w, "errno=%d\n\n", -int(errno(err)))
		if w.Flush() != nil || !inStep {
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

// serveRequest answers a request up to its errno; inStep says that r stands where
// the next one begins.
func serveRequest(r *bufio.Reader, w io.Writer, operation string, backend Backend) (inStep bool, err error) {
	switch operation {
	case "set=1":
		request, inStep, err := parseSet(r)
		if err == nil {
			err = backend.Configure(request)
		}
		return inStep, err
	case "get=1", "get=kiloport", "do=reload", "do=restart":
		if line, err := readLine(r); err != nil {
			return false, &Error{Errno: syscall.EIO, Line: 2, Err: err}
		} else if line != "" {
			return false, &Error{syscall.EINVAL, 2, shown(line), fmt.Errorf("an empty line follows %s", operation)}
		}
		if name, ok := strings.CutPrefix(operation, "do="); ok {
			return true, operate(w, name, backend)
		}
		if operation == "get=1" {
			return true, WriteGet(w, backend.State())
		}
		return true, writeShow(w, backend.Show())
	}
	return false, &Error{syscall.EINVAL, 1, shown(operation), errHangUp}
}

func writeShow(w io.Writer, status any) error {
	text, err := json.Marshal(status)
	if err != nil {
		return fmt.Errorf("show the status: %w", err)
	}
	_, err = fmt.Fprintf(w, "kiloport=%s\n", text)
	return err
}
