package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kiloport/bench/netlab"
	"kiloport/bench/netlab/traffic"
	"kiloport/bench/tunnels"
)

// soak is how long TestSoakInRealTime loads the tunnel.
var soak = flag.Duration("soak", 8*time.Second, "`time` that TestSoakInRealTime lasts")

const (
	soakRound   = 4 * time.Second // of one set of flows
	soakUDP     = 200
	soakTCP     = 4 // each way
	soakEcho    = 50 * time.Millisecond
	soakMetrics = 9586
	soakPorts   = 1024
)

// soakUsage is what might leak in a daemon.
type soakUsage struct {
	RSS                                 int // KiB
	Files, Threads, Goroutines, HeapKiB int
	Ports, Lanes                        int
}

// TestSoakInRealTime loads two daemons with all that they can take, by flows that come
// and go, with keys that last two seconds and an endpoint that moves every few seconds.
// No flow fails, and what the daemons use does not grow. With -soak 15m it takes that
// long, and then waits until all lanes are closed.
func TestSoakInRealTime(t *testing.T) {
	s := netlab.ForTest(t, netlab.SitesConfig{})
	hasty := tunnels.Kiloport{Binary: binary(t, hastyBinary), Settings: []string{fmt.Sprintf("Metrics = :%d", soakMetrics), "LaneIdle = 5s", fmt.Sprintf("Ports = %d", soakPorts)}}
	tun, err := tunnels.Start(t.Context(), s, hasty, hasty, tunnels.Config{IPv6: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := tun.AwaitLanes(t.Context(), hasty.Binary); err != nil {
		t.Fatal(err)
	}
	base := soakSample(t, tun, hasty.Binary)
	var first [2]soakUsage
	rounds, bytes, echoes, lost := 0, uint64(0), uint64(0), uint64(0)
	for start := time.Now(); time.Since(start) < *soak || rounds < 2; rounds++ {
		r := soakOnce(t, s, tun, rounds)
		for _, f := range r.Flows {
			if f.Kind == traffic.TCPBulk {
				bytes += f.Up.Bytes + f.Down.Bytes
				continue
			}
			echoes, lost = echoes+f.Up.Sent, lost+f.Up.Lost+f.Down.Lost
			// The move, of which the other end hears within two seconds.
			if most := uint64((2*time.Second + 500*time.Millisecond) / soakEcho); f.Error != "" || f.Up.Lost+f.Down.Lost > most {
				t.Errorf("round %d: flow %d: %s up %+v, down %+v", rounds, f.ID, f.Error, f.Up, f.Down)
			}
		}
		now := soakSample(t, tun, hasty.Binary)
		if rounds == 0 || rounds == int(*soak/soakRound/10) { // its buffers are as large as they become
			first = now
		}
		for i := range now {
			now[i].check(t, &first[i])
		}
		if rounds%10 == 0 {
			t.Logf("after %v: %+v", time.Since(start).Round(time.Second), now)
		}
		if t.Failed() {
			break
		}
	}
	t.Logf("%d rounds, %d MB of TCP, %d echoes, of which %d were lost", rounds, bytes>>20, echoes, lost)
	if *soak < time.Minute {
		return
	}
	time.Sleep(time.Minute) // flows are remembered for 30 s
	end := soakSample(t, tun, hasty.Binary)
	t.Logf("in the beginning %+v, at the end %+v", base, end)
	for i := range end {
		if u, was := end[i], base[i]; u.Files > was.Files || u.Goroutines > was.Goroutines+4 || u.Ports > 0 || u.Lanes > 0 || u.RSS > first[i].RSS+first[i].RSS/4+32<<10 {
			t.Errorf("after the load %+v are in use, in its beginning %+v, before it %+v", u, first[i], was)
		}
	}
}

func (u *soakUsage) check(t *testing.T, first *soakUsage) {
	t.Helper()
	// After a move all lanes that flows have may be probed, which opens their ports; and
	// where ports receive there is a goroutine for each.
	if u.RSS > first.RSS+first.RSS/4+32<<10 || u.Files > soakPorts+100 || u.Threads > first.Threads+16 || u.Goroutines > soakPorts+100 {
		t.Errorf("%+v are in use, and in the beginning %+v", *u, *first)
	}
}

// soakOnce has flows come and go, and moves site A meanwhile.
func soakOnce(t *testing.T, s *netlab.Sites, tun *tunnels.Tunnel, round int) *traffic.Result {
	t.Helper()
	v4, v6 := s.B.Inner4(1).Addr(), s.B.Inner6(1).Addr()
	plan := traffic.Plan{Duration: soakRound, Groups: []traffic.Group{
		{Kind: traffic.TCPBulk, Count: soakTCP, To: v4},
		{Kind: traffic.TCPBulk, Count: soakTCP, To: v6, Down: true},
		{Kind: traffic.UDPEcho, Count: soakUDP / 2, To: v4, Interval: soakEcho, Stop: soakRound * 3 / 4},
		{Kind: traffic.UDPEcho, Count: soakUDP / 2, To: v6, Interval: soakEcho, Start: soakRound / 4},
	}, Abandon: true}
	moved := make(chan error, 1)
	go func() {
		time.Sleep(soakRound / 2)
		moved <- soakMove(s, round)
	}()
	began := time.Now()
	r, err := traffic.Between(t.Context(), s.A.End(), s.B.End(), plan)
	if err := errors.Join(err, <-moved); err != nil {
		t.Fatalf("round %d, after %v: %v%s", round, time.Since(began), err, tun.Unread())
	}
	return r
}

// soakMove takes site A from one outer address to another, and back in the next round.
func soakMove(s *netlab.Sites, round int) error {
	to, from := newAddr6, s.A.Addr6
	if round%2 == 1 {
		to, from = from, to
	}
	err := s.A.AddAddr(s.A.Wan, netip.PrefixFrom(to, 64))
	time.Sleep(100 * time.Millisecond) // see moveSiteA
	return errors.Join(err, s.A.DelAddr(s.A.Wan, netip.PrefixFrom(from, 64)),
		s.A.EnsureRoute(netip.PrefixFrom(netip.IPv6Unspecified(), 0), s.A.Gateway6))
}

// soakSample is what both daemons use now.
func soakSample(t *testing.T, tun *tunnels.Tunnel, program string) (all [2]soakUsage) {
	t.Helper()
	for i, e := range []*tunnels.End{&tun.A, &tun.B} {
		u, err := sampleDaemon(t.Context(), e, program)
		if err != nil {
			t.Fatal(err)
		}
		all[i] = u
	}
	return all
}

func sampleDaemon(ctx context.Context, e *tunnels.End, program string) (u soakUsage, err error) {
	proc, err := processOf(e.Dev + ".conf")
	if err != nil {
		return u, err
	}
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			u.RSS, _ = strconv.Atoi(f[1])
		} else if len(f) > 1 && f[0] == "Threads:" {
			u.Threads, _ = strconv.Atoi(f[1])
		}
	}
	files, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return u, err
	}
	u.Files = len(files)
	shown, err := tunnels.Show(ctx, e.Site.Node, program, e.Dev)
	if err != nil {
		return u, err
	}
	peer, err := shown.Peer()
	if err != nil {
		return u, err
	}
	u.Ports, u.Lanes = shown.Pool.Open, peer.Lanes.InUse
	text, err := metricsOf(e.Site.Node)
	for line := range bytes.Lines(text) {
		if f := strings.Fields(string(line)); len(f) == 2 && f[0] == "go_goroutines" {
			u.Goroutines, _ = strconv.Atoi(f[1])
		} else if len(f) == 2 && f[0] == "go_memstats_heap_inuse_bytes" {
			n, _ := strconv.ParseFloat(f[1], 64)
			u.HeapKiB = int(n) >> 10
		}
	}
	return u, err
}

// processOf finds the process that was started with a file, in /proc.
func processOf(file string) (dir string, err error) {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		args, _ := os.ReadFile(path)
		for arg := range bytes.SplitSeq(args, []byte{0}) {
			if filepath.Base(string(arg)) == file {
				dir = filepath.Dir(path) // the youngest, if it has gone into the background
			}
		}
	}
	if dir == "" && err == nil {
		err = fmt.Errorf("no process has been started with %s", file)
	}
	return dir, err
}

// metricsOf asks as Prometheus does, from a node.
func metricsOf(n *netlab.Node) (text []byte, err error) {
	var conn net.Conn
	err = n.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", soakMetrics), 5*time.Second)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, "GET /metrics HTTP/1.0\r\n\r\n"); err != nil {
		return nil, err
	}
	return io.ReadAll(bufio.NewReader(conn))
}
