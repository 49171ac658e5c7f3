package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"strings"
	"sync"
	"time"
)

// logger writes to stderr and, once the daemon has let go of the terminal, to syslog.
// The name is that of the interface.
func (c *command) logger(name string) (*slog.Logger, error) {
	var level slog.Level
	switch strings.ToLower(c.logLevel) {
	case "verbose", "debug":
		level = slog.LevelDebug
	case "info":
		level = slog.LevelInfo
	case "error":
		level = slog.LevelError
	case "silent":
		return slog.New(slog.DiscardHandler), nil
	default:
		return nil, usageError{fmt.Errorf("log level %q: use verbose, info, error or silent, in --log-level or LOG_LEVEL", c.logLevel)}
	}
	c.logTo = &logOutlet{stderr: c.stderr, tag: "kiloport-" + name}
	return slog.New(newLogHandler(c.logTo, level)), nil
}

// verbose tells whether the log is to be at its most talkative.
func (c *command) verbose() bool {
	level := strings.ToLower(c.logLevel)
	return level == "verbose" || level == "debug"
}

// logOutlet is where the log goes.
type logOutlet struct {
	stderr io.Writer
	tag    string

	mu     sync.Mutex
	line   bytes.Buffer
	system systemLog // nil: it goes to stderr
}

// systemLog is [syslog.Writer].
type systemLog interface {
	Debug(line string) error
	Info(line string) error
	Warning(line string) error
	Err(line string) error
}

// toSystem has the log go to syslog from now on. Where there is none it goes on to
// stderr, whatever that is by then.
func (o *logOutlet) toSystem() {
	if o == nil {
		return
	}
	system, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, o.tag)
	if err != nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.system = system
}

// logHandler writes a record as a line of key=value. It leaves out the time where
// somebody else adds it: syslog, and journald.
type logHandler struct {
	slog.Handler // into the outlet's line
	to           *logOutlet
	journald     bool
}

func newLogHandler(to *logOutlet, level slog.Level) *logHandler {
	text := slog.NewTextHandler(&to.line, &slog.HandlerOptions{Level: level})
	return &logHandler{text, to, os.Getenv("JOURNAL_STREAM") != ""}
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logHandler{h.Handler.WithAttrs(attrs), h.to, h.journald}
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	return &logHandler{h.Handler.WithGroup(name), h.to, h.journald}
}

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	o := h.to
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.system != nil || h.journald {
		r.Time = time.Time{} // is not written
	}
	o.line.Reset()
	if err := h.Handler.Handle(ctx, r); err != nil {
		return err
	}
	return o.write(r.Level)
}

// write puts the line out. The caller holds mu.
func (o *logOutlet) write(level slog.Level) error {
	if o.system == nil {
		_, err := o.stderr.Write(o.line.Bytes())
		return err
	}
	put := o.system.Debug
	switch {
	case level >= slog.LevelError:
		put = o.system.Err
	case level >= slog.LevelWarn:
		put = o.system.Warning
	case level >= slog.LevelInfo:
		put = o.system.Info
	}
	return put(strings.TrimSuffix(o.line.String(), "\n"))
}
