package main

import (
	"errors"
	"log/slog"
	"log/syslog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// said is a systemLog that keeps what it is told.
type said struct{ lines []string }

func (s *said) put(severity, line string) error {
	s.lines = append(s.lines, severity+" "+line)
	return nil
}

func (s *said) Debug(line string) error   { return s.put("debug", line) }
func (s *said) Info(line string) error    { return s.put("info", line) }
func (s *said) Warning(line string) error { return s.put("warning", line) }
func (s *said) Err(line string) error     { return s.put("err", line) }

// A daemon that has let go of the terminal goes on to say what matters.
func TestLogGoesToSyslog(t *testing.T) {
	var stderr strings.Builder
	system := new(said)
	c := &command{stderr: &stderr, logLevel: "debug"}
	log, err := c.logger("wg7")
	if err != nil {
		t.Fatal(err)
	}
	peer := log.With("peer", "abc")
	peer.Info("before")
	if !strings.HasPrefix(stderr.String(), "time=") || !strings.HasSuffix(stderr.String(), "level=INFO msg=before peer=abc\n") {
		t.Errorf("on the terminal: %q", stderr.String())
	}
	stderr.Reset()
	c.logTo.system = system
	peer.Debug("a")
	peer.Info("b", "n", 1)
	log.WithGroup("g").Warn("two\nlines", "k", "v")
	log.Error("d", "error", errors.New("broken"))
	want := []string{
		"debug level=DEBUG msg=a peer=abc",
		"info level=INFO msg=b peer=abc n=1",
		`warning level=WARN msg="two\nlines" g.k=v`,
		"err level=ERROR msg=d error=broken",
	}
	if diff := cmp.Diff(want, system.lines); diff != "" {
		t.Error(diff)
	}
	if stderr.Len() > 0 {
		t.Errorf("on the terminal: %q", stderr.String())
	}
}

func TestLogLevels(t *testing.T) {
	for level, want := range map[string]int{"verbose": 4, "Info": 3, "error": 1, "silent": 0} {
		var stderr strings.Builder
		c := &command{stderr: &stderr, logLevel: level}
		log, err := c.logger("wg7")
		if err != nil {
			t.Fatal(err)
		}
		c.logTo.toSystem() // "silent" has nothing that could go anywhere
		if c.logTo != nil {
			c.logTo.system = nil
		}
		for _, l := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
			log.Log(t.Context(), l, "x")
		}
		if got := strings.Count(stderr.String(), "\n"); got != want {
			t.Errorf("%s: %d lines, want %d", level, got, want)
		}
	}
	if _, err := (&command{logLevel: "loud"}).logger("wg7"); err == nil || !strings.Contains(err.Error(), "loud") {
		t.Errorf("of an unknown level: %v", err)
	}
}

// What reaches a syslog daemon has the severity and the interface's name.
func TestLogAsSyslogSeesIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	daemon, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer daemon.Close()
	c := &command{logLevel: "info"}
	log, err := c.logger("wg7")
	if err != nil {
		t.Fatal(err)
	}
	w, err := syslog.Dial("unixgram", path, syslog.LOG_DAEMON|syslog.LOG_INFO, c.logTo.tag)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	c.logTo.system = w
	log.Warn("no room", "lane", 5)
	daemon.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 1024)
	n, err := daemon.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	got := string(b[:n])
	if !strings.HasPrefix(got, "<28>") || !strings.Contains(got, " kiloport-wg7[") || !strings.HasSuffix(got, `: level=WARN msg="no room" lane=5`+"\n") {
		t.Errorf("got %q", got)
	}
}
