package labkernel

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestGuestCheck(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	command := []string{"true"}
	for _, test := range []struct {
		name  string
		guest Guest
		err   string
	}{
		{"good", Guest{Command: command, Share: []Share{{folder}}}, ""},
		{"no command", Guest{}, "no command is given"},
		{"empty command", Guest{Command: []string{""}}, "no command is given"},
		{"little memory", Guest{Command: command, Memory: 8}, "8 MiB of memory are too little: give it 64 or more"},
		{"relative folder", Guest{Command: command, Dir: "tmp"}, `the folder "tmp" is not absolute`},
		{"relative init", Guest{Command: command, Init: "init"}, `the path of the init "init" is not absolute`},
		{"relative share", Guest{Command: command, Share: []Share{{"tmp"}}}, `share "tmp" with the lab kernel: give an absolute path below /`},
		{"share all", Guest{Command: command, Share: []Share{{"/tmp/.."}}}, "give an absolute path below /"},
		{"share nothing", Guest{Command: command, Share: []Share{{folder + "/none"}}}, "no such file"},
		{"share a file", Guest{Command: command, Share: []Share{{file}}}, "not a folder"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.guest.Init == "" {
				test.guest.Init = "/bin/init"
			}
			wantError(t, test.guest.check(), test.err)
		})
	}
	itself := Guest{Command: command}
	err := itself.check()
	if raceDetector {
		wantError(t, err, "is built with the race detector and cannot be the guest's init: set Guest.Init")
	} else if self, _ := os.Executable(); err != nil || itself.Init != self {
		t.Errorf("the init is %q, error %v, want this program", itself.Init, err)
	}
}

func TestCommandLine(t *testing.T) {
	g := Guest{Command: []string{"true"}, Init: "/bin/self"}
	must(t, g.check())
	args, err := commandLine(&g, "/tmp/job")
	must(t, err)
	line := " " + strings.Join(args, " ") + " "
	for _, part := range []string{" mem=2048M ", " rootfstype=hostfs ", " ro ", " init=/bin/self ", " time-travel=inf-cpu "} {
		if !strings.Contains(line, part) {
			t.Errorf("the command line%shas no%s", line, part)
		}
	}
	g.RealTime = true
	if args, err = commandLine(&g, "/tmp/job"); err != nil || strings.Contains(strings.Join(args, " "), "time-travel") {
		t.Errorf("real time: %q, error %v", args, err)
	}
	g.Init = "/bin/my self"
	_, err = commandLine(&g, "/tmp/job")
	wantError(t, err, `cannot hold the path "/bin/my self": move the init, or set TMPDIR`)
}

func TestOutcome(t *testing.T) {
	for _, test := range []struct {
		outcome outcome
		err     string
	}{
		{outcome{}, ""},
		{outcome{Status: 3}, "failed with exit status 3"},
		{outcome{Status: 137, Signal: "killed"}, "was ended by a signal: killed"},
		{outcome{Failure: "no such file"}, "start the command in the lab kernel: no such file"},
	} {
		err := test.outcome.err()
		wantError(t, err, test.err)
		var exit *ExitError
		if errors.As(err, &exit) != (test.outcome.Status != 0) {
			t.Errorf("%+v: error %T, an ExitError only where the command ran", test.outcome, err)
		}
	}
}

func TestConsoleKeepsWhatMatters(t *testing.T) {
	filler := strings.Repeat("a line\r\n\n", 50)
	for _, test := range []struct{ name, text, first string }{
		{"short", "one\ntwo\n", "one"},
		{"long", strings.Repeat(filler, 50) + "end\n", "a line"},
		{"panic", filler + "Kernel panic - not syncing: x\n" + filler, "Kernel panic - not syncing: x"},
		{"booted", filler + "Run /init as init process\nsegfault\n", "segfault"},
	} {
		c := &console{}
		if _, err := c.Write([]byte(test.text)); err != nil {
			t.Fatal(err)
		}
		lines := c.last()
		if len(lines) == 0 || lines[0] != test.first || len(lines) > consoleLines {
			t.Errorf("%s: %d lines, %q, want the first to be %q", test.name, len(lines), lines, test.first)
		}
	}
	if lines := (&console{}).last(); len(lines) != 0 {
		t.Errorf("an empty console: %q", lines)
	}
}
