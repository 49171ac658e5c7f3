package top

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/google/go-cmp/cmp"

	"kiloport/tunnel"
)

var update = flag.Bool("update", false, "write testdata anew")

const (
	alice = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
	bob   = "gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA="
	carol = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func of[T any](x T) *T { return &x }

// first is what a daemon says, and second what it says two seconds later.
func first() *tunnel.Status {
	return &tunnel.Status{
		Name: "wg0", Up: true, ListenPort: 51820,
		Pool:          tunnel.PoolStatus{Ports: 1024, Limit: 1020, Open: 37},
		BandwidthBitS: 18_500_000, Autorate: &tunnel.AutorateStatus{Reason: "a queue forms"},
		Queue: tunnel.QueueStatus{Packets: 3, Bytes: 4260, Marked: 10, Sojourn: &tunnel.HistogramStatus{Count: 1000, SumMs: 500}},
		Totals: tunnel.TotalStatus{
			Sent: tunnel.TrafficStatus{Packets: 10_000, Bytes: 14_000_000}, Received: tunnel.TrafficStatus{Packets: 5000, Bytes: 500_000},
			Drops: map[string]uint64{"codel": 3, "no-peer": 1},
		},
		Peers: []tunnel.PeerStatus{
			{
				PublicKey: alice, Endpoint: "[2001:db8:1234:5678::2]:51820", Mode: "direct", LastHandshake: of(start.Add(-35 * time.Second)),
				Lanes: tunnel.LaneStatus{InUse: 35, Flows: 36}, Asks: &tunnel.AskStatus{BitS: 20_000_000},
				Sent: tunnel.TrafficStatus{Bytes: 13_000_000, CE: 5}, Received: tunnel.TrafficStatus{Bytes: 400_000, CE: 50},
				Drops:   map[string]uint64{"codel": 3},
				Sojourn: &tunnel.HistogramStatus{Count: 900, SumMs: 400},
				LaneDetails: []tunnel.LaneDetail{
					{Lane: 0, Sent: &tunnel.LaneSent{LaneCounts: tunnel.LaneCounts{Packets: 10, Bytes: 1000, HopLimit: 60}, DelayMs: of(0.1), RTTMs: of(20.5)}},
					{
						Lane: 7, Sent: &tunnel.LaneSent{LaneCounts: tunnel.LaneCounts{Packets: 9000, Bytes: 12_000_000, Lost: 5, CE: 2, HopLimit: 60}, DelayMs: of(1.5), RTTMs: of(21.5)},
						Received: &tunnel.LaneReceived{LaneCounts: tunnel.LaneCounts{Packets: 4000, Bytes: 350_000, Lost: 9, HopLimit: 57}, DelayMs: of(0.3)},
					},
				},
			},
			{PublicKey: bob, Endpoint: "192.0.2.2:51820", Mode: "stock", LastHandshake: of(start.Add(-3 * time.Hour)), Sent: tunnel.TrafficStatus{Bytes: 1_000_000}, Received: tunnel.TrafficStatus{Bytes: 100_000}},
			{PublicKey: carol, Mode: "stock"},
		},
		Flows: []tunnel.FlowDetail{
			{Flow: "tcp 10.0.0.1:443 > 10.1.0.12:40000", Peer: alice, Lane: 7, Packets: 9000, Bytes: 12_000_000, Backlog: 4260, SojournMs: 6.4, SojournMaxMs: 12.5, Marks: 10},
			{Flow: "udp 10.0.0.1:5000 > 10.1.0.12:5000", Peer: alice, Lane: 9, Packets: 100, Bytes: 20_000, SojournMs: 0.02, SojournMaxMs: 0.4, Sparse: true, IdleMs: 12},
			{Flow: "icmp 10.0.0.1 > 10.2.0.1 id 77", Peer: bob, Packets: 50, Bytes: 4200, SojournMs: 0.01, SojournMaxMs: 0.3, Sparse: true, IdleMs: 100},
		},
	}
}

func second() *tunnel.Status {
	s := first()
	s.Queue = tunnel.QueueStatus{Packets: 9, Bytes: 12_780, Marked: 30, Sojourn: &tunnel.HistogramStatus{Count: 2000, SumMs: 2500}}
	s.Totals.Sent = tunnel.TrafficStatus{Packets: 14_000, Bytes: 19_000_000}
	s.Totals.Received = tunnel.TrafficStatus{Packets: 7000, Bytes: 700_000}
	s.Totals.Drops = map[string]uint64{"codel": 9, "no-peer": 1}
	a := &s.Peers[0]
	a.Sent, a.Received = tunnel.TrafficStatus{Bytes: 17_900_000, CE: 25}, tunnel.TrafficStatus{Bytes: 590_000, CE: 52}
	a.Drops, a.Sojourn = map[string]uint64{"codel": 9}, &tunnel.HistogramStatus{Count: 1800, SumMs: 2200}
	lane := &a.LaneDetails[1]
	lane.Sent.LaneCounts = tunnel.LaneCounts{Packets: 12_000, Bytes: 16_500_000, Lost: 7, CE: 12, HopLimit: 60}
	lane.Received.LaneCounts = tunnel.LaneCounts{Packets: 5500, Bytes: 480_000, Lost: 8, HopLimit: 57}
	s.Peers[1].Sent.Bytes, s.Peers[1].Received.Bytes = 1_100_000, 110_000
	s.Flows[0].Packets, s.Flows[0].Bytes, s.Flows[0].Marks, s.Flows[0].Drops = 12_000, 16_500_000, 30, 6
	s.Flows[1].Packets, s.Flows[1].Bytes = 200, 40_000
	s.Flows = append(s.Flows, tunnel.FlowDetail{Flow: "tcp [fd00:1234:5678:9abc::1]:22 > [fd00:1234:5678:9def::2]:50000", Peer: alice, Lane: 12, Packets: 20, Bytes: 2000, SojournMs: 0.03, SojournMaxMs: 0.05, Sparse: true})
	return s
}

// rig is a model whose daemon says what the test wants.
type rig struct {
	t      *testing.T
	m      Model
	now    time.Time
	says   map[string]*tunnel.Status
	failed error
	asked  []string
}

func newRig(t *testing.T, width, height int, names ...string) *rig {
	r := &rig{t: t, now: start, says: map[string]*tunnel.Status{"wg0": first()}}
	if len(names) == 0 {
		names = []string{"wg0"}
	}
	r.m = NewModel(Config{
		Names: names, Every: time.Second, View: "peers", Clock: func() time.Time { return r.now },
		Ask: func(name string) (*tunnel.Status, error) {
			r.asked = append(r.asked, name)
			return r.says[name], r.failed
		},
	})
	r.update(tea.WindowSizeMsg{Width: width, Height: height})
	r.do(r.m.Init())
	return r
}

// update gives a message and forgets what it leads to.
func (r *rig) update(message tea.Msg) tea.Cmd {
	next, cmd := r.m.Update(message)
	r.m = next.(Model)
	return cmd
}

// do lets a command end and takes its message, unless it is one that waits.
func (r *rig) do(cmd tea.Cmd) {
	if cmd != nil {
		r.update(cmd())
	}
}

// look has the daemon asked once more, two seconds later.
func (r *rig) look(s *tunnel.Status) {
	r.now, r.says["wg0"] = r.now.Add(2*time.Second), s
	r.do(r.update(again{r.m.asked}))
}

// press presses keys, by the names that Bubble Tea gives them.
func (r *rig) press(keys ...string) (cmd tea.Cmd) {
	r.t.Helper()
	special := map[string]rune{
		"enter": tea.KeyEnter, "esc": tea.KeyEscape, "tab": tea.KeyTab, "backspace": tea.KeyBackspace, "up": tea.KeyUp, "down": tea.KeyDown,
		"pgup": tea.KeyPgUp, "pgdown": tea.KeyPgDown, "home": tea.KeyHome, "end": tea.KeyEnd,
	}
	for _, k := range keys {
		press := tea.KeyPressMsg{Code: special[k]}
		switch {
		case k == "space":
			press = tea.KeyPressMsg{Code: tea.KeySpace, Text: " "}
		case k == "shift+tab":
			press = tea.KeyPressMsg{Code: tea.KeyTab, Mod: tea.ModShift}
		case strings.HasPrefix(k, "ctrl+"):
			press = tea.KeyPressMsg{Code: rune(k[5]), Mod: tea.ModCtrl}
		case press.Code == 0:
			press = tea.KeyPressMsg{Code: rune(k[0]), Text: k}
		}
		if press.String() != k {
			r.t.Fatalf("key %q is called %q", k, press.String())
		}
		cmd = r.update(press)
	}
	return cmd
}

// screen is what can be read, without style.
func (r *rig) screen() string { return strings.Join(r.m.lines(style{}), "\n") + "\n" }

// rows are the first words of the rows on the screen.
func (r *rig) rows() (names []string) {
	for _, row := range r.m.tables[r.m.view].rows {
		names = append(names, row.cells[0].text)
	}
	return names
}

// golden compares the screen with a file, and wants it to fit.
func (r *rig) golden(name string) {
	r.t.Helper()
	got := r.screen()
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	if len(lines) != r.m.height {
		r.t.Errorf("%s: %d lines on a screen of %d", name, len(lines), r.m.height)
	}
	for _, line := range lines {
		if len(line) != r.m.width {
			r.t.Errorf("%s: %d characters on a screen of %d: %q", name, len(line), r.m.width, line)
		}
	}
	path := "testdata/" + name + ".txt"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		r.t.Errorf("%s:\n%s", name, diff)
	}
}

func TestScreens(t *testing.T) {
	for _, size := range [][2]int{{80, 24}, {120, 30}} {
		r := newRig(t, size[0], size[1])
		r.golden(fmt.Sprintf("first-%d", size[0]))
		r.look(second())
		for i, view := range Views {
			r.press(fmt.Sprint(i + 1))
			r.golden(fmt.Sprintf("%s-%d", view, size[0]))
			r.press("?")
			r.golden(fmt.Sprintf("help-%s-%d", view, size[0]))
			r.press("?")
		}
	}
}

// Whatever the size, nothing is wider or higher than the screen, or fails.
func TestAnySize(t *testing.T) {
	r := newRig(t, 80, 24)
	r.look(second())
	for width := 0; width <= 130; width++ {
		for height := 0; height <= 9; height++ {
			r.update(tea.WindowSizeMsg{Width: width, Height: height})
			for _, keys := range []string{"1", "2", "3", "?"} {
				r.press(keys, "down", "s")
				lines := r.m.lines(style{})
				if len(lines) > max(height, 1) {
					t.Fatalf("%dx%d: %d lines", width, height, len(lines))
				}
				for _, line := range lines {
					if len(line) > width {
						t.Fatalf("%dx%d: %q", width, height, line)
					}
				}
			}
		}
	}
}

func TestKeys(t *testing.T) {
	const (
		bulk = "tcp 10.0.0.1:443 > 10.1.0.12:40000"
		call = "udp 10.0.0.1:5000 > 10.1.0.12:5000"
		ping = "icmp 10.0.0.1 > 10.2.0.1 id 77"
		ssh  = "tcp [fd00:1234:5678:9abc::1]:22 > [fd00:1234:5678:9def::2]:50000"
	)
	for _, c := range []struct {
		name string
		keys string
		want []string // rows
		has  string   // on the screen
	}{
		{"peers by what is sent", "", []string{alice, bob, carol}, "[1 peers] 2 lanes  3 flows   by SENT"},
		{"reversed", "r", []string{carol, bob, alice}, "by SENT reversed"},
		{"the next column", "s", []string{alice, bob, carol}, "by RECV"},
		{"the columns that are not shown are passed over", "s s s", []string{alice, carol, bob}, "by LANES"},
		{"the column before", "S", []string{alice, carol, bob}, "by MODE"},
		{"round to the first column", "S S", []string{carol, bob, alice}, "by PEER"},
		{"another column is not reversed", "r s", []string{alice, bob, carol}, "by RECV  3"},
		{"flows", "3", []string{bulk, call, ssh, ping}, "[3 flows]"},
		{"flows by tab", "tab tab", []string{bulk, call, ssh, ping}, "[3 flows]"},
		{"and round", "tab tab tab", []string{alice, bob, carol}, "[1 peers]"},
		{"and back", "shift+tab", []string{bulk, call, ssh, ping}, "[3 flows]"},
		{"by name", "3 S S", []string{ping, bulk, ssh, call}, "by FLOW"},
		{"filter", "3 / t c p", []string{bulk, ssh}, "filter: tcp_"},
		{"filter with two words", "3 / T C P space 1 0 . enter", []string{bulk}, `1 of 4  with "TCP 10."`},
		{"filter by peer", "3 / g N 6 enter", []string{ping}, `with "gN6"`},
		{"filter taken back", "3 / x y backspace backspace enter", []string{bulk, call, ssh, ping}, "by RATE  4 "},
		{"filter cleared", "3 / x y ctrl+u u d p enter", []string{call}, `with "udp"`},
		{"filter given up", "3 / x y esc", []string{bulk, call, ssh, ping}, "q quit"},
		{"filter escaped from later", "3 / x y enter esc", []string{bulk, call, ssh, ping}, "q quit"},
		{"no row", "3 / x y enter", nil, "nothing to show"},
		{"keys are letters in a filter", "3 / q enter", []string{bulk, call, ssh, ping}, `with "q"`},
		{"lanes of a peer", "enter", []string{alice, alice}, "[2 lanes]"},
		{"of the one chosen", "down enter", nil, "of gN65BkIK  0"},
		{"its flows too", "down enter 3", []string{ping}, "of gN65BkIK"},
		{"of all again", "down enter esc 3", []string{bulk, call, ssh, ping}, "[3 flows]"},
		{"the peers are all there", "down enter 1", []string{alice, bob, carol}, "[1 peers]"},
		{"help", "?", []string{alice, bob, carol}, "bits a second to the peer"},
		{"help left", "? esc", []string{alice, bob, carol}, "[1 peers]"},
		{"unknown key", "x Z", []string{alice, bob, carol}, "[1 peers]"},
		{"pause", "space", []string{alice, bob, carol}, "PAUSED"},
	} {
		r := newRig(t, 80, 24)
		r.look(second())
		r.press(strings.Fields(c.keys)...)
		if diff := cmp.Diff(c.want, r.rows()); diff != "" {
			t.Errorf("%s (%s):\n%s", c.name, c.keys, diff)
		}
		if !strings.Contains(r.screen(), c.has) {
			t.Errorf("%s (%s): no %q in\n%s", c.name, c.keys, c.has, r.screen())
		}
	}
}

func TestQuit(t *testing.T) {
	for _, key := range []string{"q", "ctrl+c"} {
		cmd := newRig(t, 80, 24).press(key)
		if cmd == nil {
			t.Fatalf("%s does nothing", key)
		}
		if _, ok := cmd().(tea.QuitMsg); !ok {
			t.Errorf("%s does not quit", key)
		}
	}
}

// chosen is the row of the cursor on the screen.
func (r *rig) chosen() string {
	for _, line := range strings.Split(r.screen(), "\n") {
		if rest, ok := strings.CutPrefix(line, ">"); ok {
			return strings.Fields(rest)[0]
		}
	}
	return ""
}

// many is a status with n peers, whose keys sort as their numbers.
func many(n int) *tunnel.Status {
	s := &tunnel.Status{Name: "wg0"}
	for i := range n {
		s.Peers = append(s.Peers, tunnel.PeerStatus{PublicKey: fmt.Sprintf("peer%05d", i)})
	}
	return s
}

func TestCursor(t *testing.T) {
	r := newRig(t, 80, 10) // five rows
	r.look(many(100))
	for _, c := range []struct {
		keys, at string
	}{
		{"", "peer00000"}, {"up", "peer00000"}, {"down down", "peer00002"}, {"j k k", "peer00001"},
		{"pgdown", "peer00006"}, {"end", "peer00099"}, {"down", "peer00099"}, {"pgup", "peer00094"},
		{"home", "peer00000"}, {"G", "peer00099"}, {"g", "peer00000"},
	} {
		r.press(strings.Fields(c.keys)...)
		if got := r.chosen(); got != c.at {
			t.Errorf("after %q the cursor is at %q, want %s", c.keys, got, c.at)
		}
	}
	r.press("end")
	r.look(many(50))
	if got := r.chosen(); got != "peer00049" {
		t.Errorf("when its row has gone the cursor is at %q", got)
	}
	r.press("S", "S", "up", "r") // by name, reversed
	if got := r.chosen(); got != "peer00048" || r.m.tables[0].cursor != 1 {
		t.Errorf("the cursor did not stay on its row but is at %q", got)
	}
	r.press("r", "down")
	r.update(tea.WindowSizeMsg{Width: 80, Height: 7})
	if got := r.chosen(); got != "peer00049" {
		t.Errorf("on a smaller screen the cursor is at %q", got)
	}
	r.press("/", "n", "o", "enter")
	r.press("esc")
	if got := r.chosen(); got == "" {
		t.Error("no cursor")
	}
}

func TestPause(t *testing.T) {
	r := newRig(t, 80, 24)
	r.look(second())
	before := r.screen()
	r.press("space")
	asked := len(r.asked)
	if cmd := r.update(again{r.m.asked}); cmd != nil {
		t.Error("asks while paused")
	}
	head, rest, _ := strings.Cut(r.screen(), "\n")
	if _, was, _ := strings.Cut(before, "\n"); rest != was || !strings.Contains(head, "PAUSED") {
		t.Errorf("paused:\n%s", r.screen())
	}
	r.now = r.now.Add(time.Minute)
	r.do(r.press("space"))
	if len(r.asked) != asked+1 || strings.Contains(r.screen(), "PAUSED") {
		t.Errorf("asked %d times on going on:\n%s", len(r.asked)-asked, r.screen())
	}
}

// An answer that is late, for what was asked before, changes nothing.
func TestLateAnswers(t *testing.T) {
	r := newRig(t, 80, 24)
	late := r.m.ask()
	r.press("space", "space")
	before := r.screen()
	r.says["wg0"] = many(9)
	if cmd := r.update(late()); cmd != nil || r.screen() != before {
		t.Error("a late answer was taken")
	}
	if cmd := r.update(again{r.m.asked - 1}); cmd != nil {
		t.Error("a late clock was heard")
	}
}

func TestErrorsAreShownAndGoneOnFrom(t *testing.T) {
	r := newRig(t, 80, 24)
	r.failed = errors.New("interface wg0: no daemon listens\x1b[2J")
	r.look(nil)
	if s := r.screen(); !strings.Contains(s, "no daemon listens?[2J") || !strings.Contains(s, alice[:8]) {
		t.Errorf("an error:\n%s", s)
	}
	r.failed = nil
	r.look(second())
	if s := r.screen(); strings.Contains(s, "no daemon") {
		t.Errorf("afterwards:\n%s", s)
	}
}

func TestInterfaces(t *testing.T) {
	r := newRig(t, 100, 24, "wg0", "wg1")
	r.says["wg1"] = &tunnel.Status{Name: "wg1"}
	r.do(r.press("i"))
	if s := r.screen(); !strings.HasPrefix(s, "kiloport wg1  link down  0 peers") {
		t.Errorf("the second:\n%s", s)
	}
	r.do(r.press("i"))
	if s := r.screen(); !strings.HasPrefix(s, "kiloport wg0  port 51820  3 peers") || !strings.Contains(s, "sent -bit/s") {
		t.Errorf("the first again:\n%s", s)
	}
}

// A daemon that started again, or a flow that did, has no negative rates.
func TestCountersThatFall(t *testing.T) {
	r := newRig(t, 80, 24)
	r.says["wg0"] = second()
	r.look(second())
	r.look(first())
	if s := r.screen(); !strings.Contains(s, "sent -bit/s") {
		t.Errorf("after a restart:\n%s", s)
	}
	l := compare(sample{second(), start}, sample{second(), start.Add(time.Second)})
	if got := l.rate(10, 4); got != 4 {
		t.Errorf("a counter that fell from 10 to 4 has a rate of %v, want 4", got)
	}
}

func TestNumbers(t *testing.T) {
	for x, want := range map[float64]string{
		-1: "0", 0: "0", 0.04: "0.0", 1: "1", 1.25: "1.2", 9.99: "10.0", 10.4: "10", 999: "999", 999.4: "999", 999.5: "1.0k", 1234: "1.2k",
		99_949: "99.9k", 99_951: "100k", 999_499: "999k", 999_500: "1.0M", 12_345_678: "12.3M", 1e10: "10.0G", 1e21: "1000E",
	} {
		if got := short(x); got != want || len(got) > 5 {
			t.Errorf("short(%v) is %q, want %q", x, got, want)
		}
	}
	for x, want := range map[float64]string{-1: "0.00", 0.004: "0.00", 0.126: "0.13", 9.99: "9.99", 9.996: "10.0", 99.96: "100", 12345: "12345", 99999.6: "100k"} {
		if got := ms(x); got != want || len(got) > 5 {
			t.Errorf("ms(%v) is %q, want %q", x, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 99 * time.Second: "99s", 100 * time.Second: "1m", 99 * time.Minute: "99m", 100 * time.Minute: "1h",
		99 * time.Hour: "99h", 100 * time.Hour: "4d", 1e18: "999d",
	} {
		if got := age(d); got != want && d != 1e18 || len(got) > 5 {
			t.Errorf("age(%v) is %q, want %q", d, got, want)
		}
	}
}

func TestListing(t *testing.T) {
	r := newRig(t, 80, 24)
	r.look(second())
	r.press("3")
	got := r.m.listing()
	for _, want := range []string{"kiloport wg0  port 51820", "FLOW", "tcp 10.0.0.1:443 > 10.1.0.12:40000", "icmp 10.0.0.1"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.ContainsAny(got, "\x1b>"[:1]) || strings.Contains(got, "\n>") || strings.Contains(got, "q quit") {
		t.Errorf("not plain:\n%s", got)
	}
}

func TestStyledAndPlainAreTheSameText(t *testing.T) {
	r := newRig(t, 80, 24)
	r.look(second())
	for _, key := range []string{"1", "2", "3", "?"} {
		r.press(key)
		styled := strings.Join(r.m.lines(style{on: true}), "\n") + "\n"
		if !strings.Contains(styled, "\x1b[7m") {
			t.Error("nothing is reverse")
		}
		for _, code := range []string{"\x1b[1m", "\x1b[7m", "\x1b[31m", "\x1b[0m"} {
			styled = strings.ReplaceAll(styled, code, "")
		}
		if styled != r.screen() {
			t.Errorf("%s:\n%s\n%s", key, styled, r.screen())
		}
	}
}
