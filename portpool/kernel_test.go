package portpool

import (
	"bytes"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseRelease(t *testing.T) {
	for s, want := range map[string]release{
		"6.12.117+deb12-amd64":                 {6, 12, 117},
		"6.18.44":                              {6, 18, 44},
		"5.15.0-105-generic":                   {5, 15, 0},
		"7.1-rc3":                              {7, 1, 0},
		"4.19":                                 {4, 19, 0},
		"10.0.1.2":                             {10, 0, 1},
		"":                                     {},
		"linux":                                {},
		"99999999999999999999.1.1":             {},
		"6.99999999999999999999999999999999.1": {major: 6},
	} {
		if got := parseRelease(s); got != want {
			t.Errorf("%q: %v, want %v", s, got, want)
		}
	}
}

func FuzzParseRelease(f *testing.F) {
	f.Add("6.12.117+deb12-amd64")
	f.Add("7.1-rc3")
	f.Fuzz(func(t *testing.T, s string) {
		if r := parseRelease(s); r.major < 0 || r.minor < 0 || r.patch < 0 {
			t.Errorf("%q: %v", s, r)
		}
	})
}

func TestKernelsThatCorrupt(t *testing.T) {
	for s, want := range map[string]bool{
		"6.18.44": false, "6.19.99": false, "7.0.0": true, "7.0.12": true,
		"7.1.0": true, "7.1.4": true, "7.1.5": false, "7.2.0": false, "8.0.0": false,
	} {
		if got := parseRelease(s).corruptsGSO() != ""; got != want {
			t.Errorf("%s corrupts: %v", s, got)
		}
	}
}

func TestJudgeGRO(t *testing.T) {
	for _, tt := range []struct {
		kernel    string
		joined    joined
		err       error
		no, doubt string
	}{
		{"6.1.0", joinedAll, nil, "congestion marks", ""},
		{"6.12.0", joinedAll, nil, "congestion marks", ""},
		{"5.15.160", joinedAlike, nil, "", ""},
		{"6.12.0", joinedAlike, nil, "", ""},
		{"6.10.0", joinedNone, nil, "was not seen", ""},
		{"6.11.0", joinedNone, nil, "", "was not seen"},
		{"6.10.0", joinedNone, unix.EPERM, "CAP_SYS_ADMIN", ""},
		{"6.11.0", joinedNone, unix.EPERM, "", "CAP_SYS_ADMIN"},
	} {
		no, doubt := parseRelease(tt.kernel).judgeGRO(tt.joined, tt.err)
		if (no == "") != (tt.no == "") || (doubt == "") != (tt.doubt == "") || !strings.Contains(no, tt.no) || !strings.Contains(doubt, tt.doubt) {
			t.Errorf("%+v: no %q, doubt %q", tt, no, doubt)
		}
	}
}

// This kernel joins what is alike and keeps apart what is not, or is too old.
func TestWhatGROJoins(t *testing.T) {
	j, err := whatGROJoins()
	if errors.Is(err, unix.EPERM) {
		t.Skip("making a network namespace needs root")
	}
	want := joinedAlike
	if kernelVersion().before(release{6, 11, 0}) && j == joinedAll {
		want = joinedAll
	}
	if j != want || err != nil {
		t.Errorf("joined %v, want %v: %v", j, want, err)
	}
}

// What a kernel looks like that does not care for ECN: all datagrams had the
// mark of the first.
func TestGROWithoutRegardForECN(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("making a network namespace needs root")
	}
	got, err := make(chan joined), make(chan error)
	go func() {
		runtime.LockOSThread() // until the end, see whatGROJoins
		var ends [2]groEnd
		for i := range ends {
			defer ends[i].close()
			err <- ends[i].open()
		}
		err <- ends[0].connect(&ends[1])
		j := joinedNone
		for try := 0; try < 5 && j == joinedNone; try++ {
			err <- ends[0].sendTo(&ends[1], try, make([]uint8, len(groMarks)))
			j = ends[1].look(try, groMarks)
		}
		got <- j
	}()
	for {
		select {
		case err := <-err:
			if err != nil {
				t.Fatal(err)
			}
		case j := <-got:
			if j != joinedAll {
				t.Errorf("joined %v, want all (%v)", j, joinedAll)
			}
			return
		}
	}
}

// settled is what a Shared makes of a kernel.
func settled(t *testing.T, k kernelFacts, cfg SharedConfig) (Capabilities, string) {
	t.Helper()
	real := kernel
	kernel = func() kernelFacts { return k }
	defer func() { kernel = real }()
	var log bytes.Buffer
	cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	sh := NewShared(cfg)
	for range 3 {
		s, err := Open(SocketConfig{Shared: sh, GRO: true})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
	return sh.Capabilities(), log.String()
}

func TestCapabilities(t *testing.T) {
	bad := kernelFacts{noGSO: "bad segments", noGRO: "bad joins"}
	for _, tt := range []struct {
		name     string
		kernel   kernelFacts
		cfg      SharedConfig
		gso, gro Capability
		warnings int
	}{
		{"good", kernelFacts{}, SharedConfig{}, Capability{On: true}, Capability{On: true}, 0},
		{"off", kernelFacts{}, SharedConfig{GSO: Off, GRO: Off}, Capability{Reason: byConfiguration}, Capability{Reason: byConfiguration}, 0},
		{"bad", bad, SharedConfig{}, Capability{Reason: "bad segments"}, Capability{Reason: "bad joins"}, 2},
		{"bad, off", bad, SharedConfig{GSO: Off, GRO: Off}, Capability{Reason: byConfiguration}, Capability{Reason: byConfiguration}, 0},
		{"bad, on", bad, SharedConfig{GSO: On, GRO: On}, Capability{On: true}, Capability{On: true}, 0},
		{"doubtful", kernelFacts{doubt: "not seen"}, SharedConfig{}, Capability{On: true}, Capability{On: true, Reason: "not seen"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, log := settled(t, tt.kernel, tt.cfg)
			if c.GSO != tt.gso || c.GRO != tt.gro || strings.Count(log, "reason=") != tt.warnings {
				t.Errorf("gso %+v, gro %+v; log:\n%s", c.GSO, c.GRO, log)
			}
		})
	}
}
