package guest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const testKernel = "the test kernel"

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
		{"relative share", Guest{Command: command, Share: []Share{{"tmp"}}}, `share "tmp" with the test kernel: give an absolute path below /`},
		{"share all", Guest{Command: command, Share: []Share{{"/tmp/.."}}}, "give an absolute path below /"},
		{"share nothing", Guest{Command: command, Share: []Share{{folder + "/none"}}}, "no such file"},
		{"share a file", Guest{Command: command, Share: []Share{{file}}}, "not a folder"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.guest.Init == "" {
				test.guest.Init = "/bin/init"
			}
			wantError(t, test.guest.check(testKernel), test.err)
		})
	}
	itself := Guest{Command: command}
	if self, _ := os.Executable(); itself.check(testKernel) != nil || itself.Init != self {
		t.Errorf("the init is %q, want this program", itself.Init)
	}
}

func TestSharesAreInOrder(t *testing.T) {
	g := Guest{Share: []Share{{"/b/c/"}, {"/a"}, {"/b"}, {"/b/c"}}}
	if got := g.Shares(); !slices.Equal(got, []string{"/a", "/b", "/b/c"}) {
		t.Errorf("%q, want outer folders first and each once", got)
	}
}

func TestOutcome(t *testing.T) {
	for _, test := range []struct {
		outcome outcome
		err     string
	}{
		{outcome{}, ""},
		{outcome{Status: 3}, "failed with exit status 3"},
		{outcome{Status: 137, Signal: "killed"}, "was ended by a signal: killed"},
		{outcome{Failure: "no such file"}, "start the command in the test kernel: no such file"},
	} {
		err := test.outcome.err(testKernel)
		wantError(t, err, test.err)
		var exit *ExitError
		if errors.As(err, &exit) != (test.outcome.Status != 0) {
			t.Errorf("%+v: error %T, an ExitError only where the command ran", test.outcome, err)
		}
	}
}

// TestMachines runs machines of all fates: programs that behave like a kernel with
// an init, as far as the host can tell.
func TestMachines(t *testing.T) {
	const start = "touch started; echo said >stdout; "
	for _, test := range []struct{ name, script, said, err string }{
		{"good", start + `echo '{}' >outcome.json`, "said\n", ""},
		{"failed command", start + `echo '{"Status":3}' >outcome.json`, "said\n", "the command in the test kernel failed with exit status 3"},
		{"signal", start + `echo '{"Status":137,"Signal":"killed"}' >outcome.json; exit 1`, "said\n", "was ended by a signal: killed"},
		{"no init", "echo no working init found; exit 1", "", "the test kernel ended (exit status 1): it did not get to its init; does that program call RunIfInit first?; the last lines of its console:\n\tno working init found"},
		{"crash", start + "echo Kernel panic >&2; kill -9 $$", "said\n", "the test kernel ended while the command ran (signal: killed); the last lines of its console:\n\tKernel panic"},
		{"stuck", "sleep 1000", "", "the test kernel was ended after 200ms: it did not get to its init; its console said nothing"},
		{"half an outcome", start + `printf '{"Sta' >outcome.json`, "said\n", "ended while the command ran (exit status 0)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			patience := time.Minute
			if test.name == "stuck" {
				patience = 200 * time.Millisecond
			}
			var out strings.Builder
			var ran string
			err := Run(t.Context(), Boot{
				Kernel: testKernel, Patience: patience,
				Machine: func(_ *Guest, folder string) (*exec.Cmd, error) {
					ran = folder
					return exec.Command("sh", "-c", test.script), nil
				},
			}, Guest{Command: []string{"true"}, Stdout: &out})
			wantError(t, err, test.err)
			if died := strings.Contains(test.err, ErrDied.Error()); errors.Is(err, ErrDied) != died {
				t.Errorf("error %v is ErrDied: %v, want %v", err, !died, died)
			}
			if noInit := strings.Contains(test.err, ErrNoInit.Error()); errors.Is(err, ErrNoInit) != noInit {
				t.Errorf("error %v is ErrNoInit: %v, want %v", err, !noInit, noInit)
			}
			if out.String() != test.said {
				t.Errorf("said %q, want %q", out.String(), test.said)
			}
			if _, err := os.Stat(ran); err == nil {
				t.Error("the job's folder is left")
			}
		})
	}
}

func TestMachineThatCannotStart(t *testing.T) {
	for _, test := range []struct {
		cmd *exec.Cmd
		err error
		why string
	}{
		{exec.Command("/no/kernel"), nil, "start the test kernel: fork/exec /no/kernel: no such file"},
		{nil, errors.New("no qemu"), "no qemu"},
	} {
		machine := func(*Guest, string) (*exec.Cmd, error) { return test.cmd, test.err }
		err := Run(t.Context(), Boot{Kernel: testKernel, Machine: machine}, Guest{Command: []string{"true"}})
		wantError(t, err, test.why)
		if errors.Is(err, ErrNoInit) {
			t.Errorf("error %v is ErrNoInit, but there was no machine", err)
		}
	}
}

// TestCancelledMachine ends the context while a process of the machine's sleeps.
func TestCancelledMachine(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	pid := filepath.Join(t.TempDir(), "pid")
	machine := func(_ *Guest, folder string) (*exec.Cmd, error) {
		return exec.Command("sh", "-c", "sleep 1000 & echo $! >"+pid+".new; mv "+pid+".new "+pid+"; touch started; echo up >stdout; wait"), nil
	}
	err := Run(ctx, Boot{Kernel: testKernel, Machine: machine, Patience: time.Minute}, Guest{Command: []string{"true"}, Stdout: writerFunc(cancel)})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	text, err := os.ReadFile(pid)
	must(t, err)
	process := "/proc/" + strings.TrimSpace(string(text))
	for range 100 { // a killed process goes a moment later
		state, err := os.ReadFile(process + "/stat")
		if err != nil || strings.Contains(string(state), ") Z ") {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("a process of the machine is left: %s", process)
}

// A writerFunc is called for every write.
type writerFunc func()

func (f writerFunc) Write(b []byte) (int, error) {
	f()
	return len(b), nil
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

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError fails unless err contains part; "" is no error at all.
func wantError(t *testing.T, err error, part string) {
	t.Helper()
	switch {
	case part == "" && err != nil:
		t.Errorf("error %v, want none", err)
	case part != "" && (err == nil || !strings.Contains(err.Error(), part)):
		t.Errorf("error %v, want one with %q", err, part)
	}
}
