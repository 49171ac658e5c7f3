package lab

import (
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const after = " S 1 42 42 0 -1 4194560 9 9 9 9 250 31 7 2 20 0 6 0 1234 99 9"
	for _, test := range []struct {
		name, stat string
		want       time.Duration // negative: an error
	}{
		{"an ordinary one", "42 (kiloport)" + after, 2900 * time.Millisecond},
		{"a name with a space", "42 (tmux: server)" + after, 2900 * time.Millisecond},
		{"a name with parentheses", "42 (a) S 1 2 (b))" + after, 2900 * time.Millisecond},
		{"nothing used", "42 (x) S 1 42 42 0 -1 0 0 0 0 0 0 0 0 0", 0},
		{"three of four fields", "42 (x) S 1 42 42 0 -1 0 0 0 0 0 1 1 1", -1},
		{"no name", "42 kiloport S 1", -1},
		{"no number", "42 (x) S 1 42 42 0 -1 0 0 0 0 0 0 x 0 0", -1},
		{"less than nothing", "42 (x) S 1 42 42 0 -1 0 0 0 0 0 -1 0 0 0", -1},
		{"longer than anything runs", "42 (x) S 1 42 42 0 -1 0 0 0 0 0 9223372036854775807 0 0 0", -1},
		{"empty", "", -1},
	} {
		got, err := parseStat(test.stat)
		if (err != nil) != (test.want < 0) || err == nil && got != test.want {
			t.Errorf("%s: %v, %v; want %v", test.name, got, err, test.want)
		}
	}
}

// FuzzParseStat compares the parser with a regular expression that says the same.
func FuzzParseStat(f *testing.F) {
	f.Add("42 (a) S 1 2 (b)) S 1 42 42 0 -1 0 0 0 0 0 250 31 7 2 20")
	f.Add("42 (x) S 1 42 42 0 -1 0 0 0 0 0 1 1 1")
	slow := regexp.MustCompile(`(?s)^.*\)\s*(?:[!-(*-~]+\s+){11}(\d{1,12})\s+(\d{1,12})\s+(\d{1,12})\s+(\d{1,12})(?:\s[^)]*)?$`)
	f.Fuzz(func(t *testing.T, stat string) {
		got, err := parseStat(stat)
		if err == nil && got < 0 {
			t.Fatalf("%q: %v", stat, got)
		}
		m := slow.FindStringSubmatch(stat)
		if m == nil {
			return
		}
		ticks := int64(0)
		for _, digits := range m[1:] {
			n, err := strconv.ParseInt(digits, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			ticks += n
		}
		if err != nil || got != time.Duration(ticks)*10*time.Millisecond {
			t.Fatalf("%q: %v, %v; want %d ticks", stat, got, err, ticks)
		}
	})
}

func TestParsePeak(t *testing.T) {
	for _, test := range []struct {
		name, status string
		want         int64 // negative: an error
	}{
		{"an ordinary one", "Name:\tkiloport\nVmPeak:\t 1234 kB\nVmHWM:\t   20480 kB\nVmRSS:\t 5 kB\n", 20480 << 10},
		{"a program with the key for a name", "Name:\tVmHWM: 1 kB\nVmHWM:\t2 kB\n", 2 << 10},
		{"a thread of the kernel", "Name:\tkthreadd\nThreads:\t1\n", -1},
		{"another unit", "VmHWM:\t2 MB\n", -1},
		{"less than nothing", "VmHWM:\t-2 kB\n", -1},
		{"more than there is", "VmHWM:\t9223372036854775807 kB\n", -1},
	} {
		got, err := parsePeak(test.status)
		if (err != nil) != (test.want < 0) || err == nil && got != test.want {
			t.Errorf("%s: %v, %v; want %v", test.name, got, err, test.want)
		}
	}
}

func TestTunOf(t *testing.T) {
	for info, want := range map[string]string{
		"pos:\t0\nflags:\t0104002\nmnt_id:\t25\nino:\t11\niff:\tkpa1x2\n": "kpa1x2",
		"pos:\t0\nflags:\t0104002\n":                                      "",
		"":                                                                "",
	} {
		if got := tunOf(info); got != want {
			t.Errorf("%q: %q, want %q", info, got, want)
		}
	}
}

// TestOwnUsage reads what the kernel really writes.
func TestOwnUsage(t *testing.T) {
	u, err := readUsage([]int{os.Getpid()})
	if err != nil || u.memory < 1<<20 {
		t.Errorf("%+v, %v", u, err)
	}
	twice, err := readUsage([]int{os.Getpid(), os.Getpid()})
	if err != nil || twice.memory < 2*u.memory {
		t.Errorf("two processes: %+v, %v; one: %+v", twice, err, u)
	}
	if _, err := holders("kp-none"); err == nil {
		t.Error("somebody holds an interface that does not exist")
	}
}
