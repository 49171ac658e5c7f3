package netlab_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/csv"
	"errors"
	"flag"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kiloport/bench/netlab"
)

// queueTrace is a recording of what Linux's fq_codel did with each packet of a
// trace. Package queue compares its own FQ-CoDel with it. The test need not run
// in the folder of its source.
func queueTrace() string {
	_, source, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(source), "../../queue/testdata/fq_codel-linux.csv.gz")
}

// To record: go test -c ./bench/netlab and then, as root,
// bin/bench kernel run --share $PWD/queue/testdata -- $PWD/netlab.test -test.run QueueTrace -record-queue
var recordQueue = flag.Bool("record-queue", false, "make a new trace and record what this kernel does with it")

// The bottleneck of the trace. Package queue has the same numbers.
const (
	traceRate  = 7e6 // bit/s, of Ethernet frames
	traceLimit = 300 // packets
	traceTime  = 15 * time.Second
)

// tracePacket is a packet and its fate.
type tracePacket struct {
	flow   int
	ect    bool
	size   int           // of the Ethernet frame, bytes
	at     time.Duration // when it came to the queue
	wait   time.Duration // in the queue; lost for ever if dropped
	marked bool
}

const traceDropped = time.Duration(-1)

var traceColumns = []string{"flow", "ect", "frame_bytes", "at_ns", "wait_ns", "ce"}

func readTrace(t *testing.T) (trace []tracePacket) {
	t.Helper()
	b, err := os.ReadFile(queueTrace())
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(z).ReadAll()
	if err != nil || !slices.Equal(rows[0], traceColumns) {
		t.Fatalf("%s: %v, columns %v", queueTrace(), err, rows[0])
	}
	for _, row := range rows[1:] {
		var v [6]int64
		for i := range v {
			if v[i], err = strconv.ParseInt(row[i], 10, 64); err != nil {
				t.Fatal(err)
			}
		}
		trace = append(trace, tracePacket{int(v[0]), v[1] == 1, int(v[2]), time.Duration(v[3]), time.Duration(v[4]), v[5] == 1})
	}
	return trace
}

func writeTrace(t *testing.T, trace []tracePacket) {
	t.Helper()
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	w := csv.NewWriter(z)
	w.Write(traceColumns)
	bit := map[bool]string{true: "1", false: "0"}
	for _, p := range trace {
		w.Write([]string{strconv.Itoa(p.flow), bit[p.ect], strconv.Itoa(p.size), strconv.FormatInt(int64(p.at), 10), strconv.FormatInt(int64(p.wait), 10), bit[p.marked]})
	}
	w.Flush()
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(queueTrace(), b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// traceFlow is one source of the trace: packets of low to high bytes at a mean
// rate, for on out of every period.
type traceFlow struct {
	ect        bool
	low, high  int
	rate       float64 // bit/s while it is on
	on, period time.Duration
	burst      int // packets at once
}

// traceFlows overload the bottleneck by a quarter: flows that only CoDel can hold,
// for they do not slow down; flows that come and go, so that it begins and ends to
// act; sparse flows; and a flood that passes the limit.
var traceFlows = []traceFlow{
	{low: 1514, high: 1514, rate: 1.3e6, burst: 1},
	{low: 1514, high: 1514, rate: 1.2e6, burst: 1},
	{low: 1514, high: 1514, rate: 1.1e6, burst: 2},
	{low: 120, high: 1514, rate: 1.4e6, burst: 1},
	{ect: true, low: 1514, high: 1514, rate: 1.5e6, on: 600 * time.Millisecond, period: 1100 * time.Millisecond, burst: 1},
	{ect: true, low: 1514, high: 1514, rate: 1.7e6, on: 500 * time.Millisecond, period: 1300 * time.Millisecond, burst: 1},
	{ect: true, low: 120, high: 1514, rate: 1.3e6, on: 900 * time.Millisecond, period: 1500 * time.Millisecond, burst: 1},
	{ect: true, low: 1514, high: 1514, rate: 2e6, on: 400 * time.Millisecond, period: 900 * time.Millisecond, burst: 4},
	{low: 1514, high: 1514, rate: 2e6, on: 500 * time.Millisecond, period: 1200 * time.Millisecond, burst: 4},
	{low: 142, high: 142, rate: 142 * 8 * 50, burst: 1},
	{ect: true, low: 214, high: 214, rate: 214 * 8 * 27, burst: 1},
	{low: 714, high: 714, rate: 1e9, on: time.Microsecond, period: 3100 * time.Millisecond, burst: 400},
}

// makeTrace draws the times and sizes. Times are whole microseconds, in which the
// gaps are evenly distributed around their mean.
func makeTrace() (trace []tracePacket) {
	r := rand.New(rand.NewPCG(8290, 8289))
	for id, f := range traceFlows {
		for at := time.Duration(id) * 40 * time.Millisecond; at < traceTime; {
			bytes := 0
			for range f.burst {
				size := f.low + r.IntN(f.high-f.low+1)
				trace = append(trace, tracePacket{flow: id, ect: f.ect, size: size, at: at})
				bytes += size
			}
			gap := float64(bytes) * 8 / f.rate * (0.5 + r.Float64())
			at += time.Duration(gap*1e6) * time.Microsecond
			if f.period > 0 && at%f.period >= f.on {
				at += f.period - at%f.period
			}
		}
	}
	slices.SortStableFunc(trace, func(a, b tracePacket) int { return int(a.at - b.at) })
	return trace
}

// play sends the packets through the bottleneck, each at its time, and gives them
// with their fates and with the times at which they really went.
func play(t *testing.T, s *netlab.Sites, trace []tracePacket) []tracePacket {
	t.Helper()
	trace = slices.Clone(trace)
	to := netip.AddrPortFrom(s.B.Inner4(2).Addr(), 9)
	sink := openSink(t, s.B.Host, to)
	defer unix.Close(sink)
	arrived := make([]int64, len(trace))
	var receiving sync.WaitGroup
	receiving.Go(func() {
		b, oob := make([]byte, 2000), make([]byte, 128)
		for {
			n, m, _, _, err := unix.Recvmsg(sink, b, oob, 0)
			if err == unix.EINTR {
				continue
			}
			if err != nil || n < 4 {
				return
			}
			i := binary.BigEndian.Uint32(b)
			var tos byte
			arrived[i], tos = readControl(oob[:m])
			trace[i].marked = tos&3 == 3
		}
	})
	sent := send(t, s.A.Host, to, trace)
	time.Sleep(2 * time.Second)
	unix.Shutdown(sink, unix.SHUT_RD)
	receiving.Wait()
	for i := range trace {
		trace[i].at, trace[i].wait = time.Duration(sent[i]-sent[0]), traceDropped
		if arrived[i] != 0 {
			trace[i].wait = time.Duration(arrived[i] - sent[i])
		}
	}
	return trace
}

// openSink makes a socket at which the kernel tells of each datagram when it came
// and with which traffic class. It is of the plain, blocking kind: each look at
// the clock costs 256 ns of virtual time, and Go's runtime takes many.
func openSink(t *testing.T, n *netlab.Node, addr netip.AddrPort) (fd int) {
	t.Helper()
	err := n.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err == nil {
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVTOS, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
			unix.Bind(fd, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}))
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// readControl gives the time and the traffic class that control messages tell.
func readControl(oob []byte) (at int64, tos byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, 0
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TOS && len(m.Data) > 0:
			tos = m.Data[0]
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16:
			at = int64(binary.NativeEndian.Uint64(m.Data))*1e9 + int64(binary.NativeEndian.Uint64(m.Data[8:]))
		}
	}
	return at, tos
}

// send sends each packet from a socket of its flow and gives the times.
func send(t *testing.T, from *netlab.Node, to netip.AddrPort, trace []tracePacket) []int64 {
	t.Helper()
	sockets := openSources(t, from, to)
	// Neither the runtime's timers nor the slack that threads have are exact.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	sent := make([]int64, len(trace))
	start := readClock(t) + int64(100*time.Millisecond)
	payload := make([]byte, 1500)
	for i, p := range trace {
		if i == 0 || p.at > trace[i-1].at {
			due := unix.NsecToTimespec(start + int64(p.at))
			for unix.ClockNanosleep(unix.CLOCK_REALTIME, unix.TIMER_ABSTIME, &due, nil) == unix.EINTR {
			}
		}
		binary.BigEndian.PutUint32(payload, uint32(i))
		sent[i] = readClock(t)
		if _, err := unix.Write(sockets[p.flow], payload[:p.size-14-20-8]); err != nil {
			t.Fatalf("packet %d: %v", i, err)
		}
	}
	return sent
}

func readClock(t *testing.T) int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
		t.Fatal(err)
	}
	return now.Nano()
}

// openSources makes a socket for each flow, with its codepoint.
func openSources(t *testing.T, n *netlab.Node, to netip.AddrPort) (sockets []int) {
	t.Helper()
	err := n.Do(func() error {
		for _, f := range traceFlows {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			sockets = append(sockets, fd)
			if err := errors.Join(
				unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, map[bool]int{true: 2, false: 0}[f.ect]),
				unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})); err != nil {
				return err
			}
		}
		return nil
	})
	t.Cleanup(func() {
		for _, fd := range sockets {
			unix.Close(fd)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return sockets
}

// traceSum is what became of a trace in all.
type traceSum struct {
	marked, dropped float64
	wait            float64 // mean, ms
}

func sumTrace(trace []tracePacket) (s traceSum) {
	left := 0
	for _, p := range trace {
		if p.wait == traceDropped {
			s.dropped++
			continue
		}
		left++
		s.wait += p.wait.Seconds() * 1000
		if p.marked {
			s.marked++
		}
	}
	s.wait /= float64(left)
	return s
}

// TestQueueTraceInVirtualTime plays the trace to this kernel's fq_codel, and wants
// what was recorded: what package queue is compared with is a kernel, not a file.
//
// Not for each packet: who goes first in a round depends on less than a
// microsecond, and so do the rounds after it.
func TestQueueTraceInVirtualTime(t *testing.T) {
	needVirtualTime(t)
	s := newPath(t, netlab.Path{RateUp: traceRate, Qdisc: netlab.Qdisc{Kind: netlab.KindFQCodel, ECN: true, Limit: traceLimit, Flows: 65536}})
	if err := s.RouteNative(); err != nil {
		t.Fatal(err)
	}
	if *recordQueue {
		writeTrace(t, play(t, s, makeTrace()))
		return
	}
	recorded := readTrace(t)
	want, got := sumTrace(recorded), sumTrace(play(t, s, recorded))
	t.Logf("of %d packets recorded %+v, now %+v", len(recorded), want, got)
	for _, x := range []struct {
		name      string
		want, got float64
	}{{"marked", want.marked, got.marked}, {"dropped", want.dropped, got.dropped}, {"mean wait", want.wait, got.wait}} {
		if math.Abs(x.got/x.want-1) > 0.05 {
			t.Errorf("%s: %v, recorded %v", x.name, x.got, x.want)
		}
	}
	up, _, err := s.Bottlenecks()
	if err != nil {
		t.Fatal(err)
	}
	if up.Drops != uint64(got.dropped) || up.DropOverlimit == 0 || up.DropOverlimit == up.Drops || up.ECNMarks < uint64(got.marked) {
		t.Errorf("the queue counts %+v, want as many drops as are missed, some by CoDel and some for the limit", up)
	}
}
