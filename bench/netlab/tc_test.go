package netlab

import (
	"bytes"
	"slices"
	"testing"
	"time"
)

func TestQdiscOptions(t *testing.T) {
	attr := func(kind uint16, value uint32) []byte { return appendAttr(nil, kind, words(value)) }
	for _, test := range []struct {
		qdisc Qdisc
		rate  int64
		want  []byte
	}{
		{Qdisc{Kind: KindPfifo}, 0, nil},
		{Qdisc{Kind: KindPfifo, Limit: 50}, 0, words(50)},
		{Qdisc{Kind: KindSFQ, Limit: 50, Flows: 100, Quantum: 1514}, 0, words(1514, 0, 50, 0, 100)},
		{Qdisc{Kind: KindFQCodel}, 20e6, attr(4, 0)},
		{Qdisc{Kind: KindFQCodel, ECN: true, Target: 5 * time.Millisecond, Limit: 1000}, 20e6,
			slices.Concat(attr(2, 1000), attr(4, 1), attr(1, 5000))},
		{Qdisc{Kind: KindCake, ECN: true, FlowMode: "flowblind", DiffServ: "besteffort", Interval: 20 * time.Millisecond}, 20e6,
			slices.Concat(attr(7, 20000), attr(5, 0), attr(3, 3), appendAttr(nil, 2, word64(2500000)))},
	} {
		if got := test.qdisc.options(test.rate); !bytes.Equal(got, test.want) {
			t.Errorf("%v at %d bit/s: options %x, want %x", test.qdisc, test.rate, got, test.want)
		}
	}
}

func TestBurstTicks(t *testing.T) {
	for _, test := range []struct {
		burst time.Duration
		want  uint32
	}{
		{0, 1},
		{63, 1},
		{10 * time.Millisecond, 156250},
		{time.Hour, 1<<32 - 1},
	} {
		if got := burstTicks(test.burst); got != test.want {
			t.Errorf("%v are %d ticks, want %d", test.burst, got, test.want)
		}
	}
}

func TestHighRatesAreSaidTwice(t *testing.T) {
	p := Path{MTU: 1500}
	got := map[uint16][]byte{}
	for kind, value := range attributes(htbClassOptions(&p, 100e9)) {
		got[kind] = value
	}
	if rate := uint32At(got[htbParms], 2); rate != 1<<32-1 {
		t.Errorf("the rate in 32 bits is %d, want all ones", rate)
	}
	for _, kind := range []uint16{htbRate64, htbCeil64} {
		if rate := uint64At(got[kind], 0); rate != 12.5e9 {
			t.Errorf("attribute %d has the rate %d, want 12.5e9", kind, rate)
		}
	}
}

func TestNetemOptions(t *testing.T) {
	p := Path{RTT: 20 * time.Millisecond, Loss: 0.5, Jitter: time.Millisecond, Reorder: 1, Seed: 9}
	want := slices.Concat(words(0, netemPackets, 1<<31, 1, 0, 0),
		appendAttr(nil, 10, word64(10e6)), appendAttr(nil, 11, word64(1e6)),
		appendAttr(nil, 3, words(1<<32-1, 0)), appendAttr(nil, 14, word64(9)))
	if got := netemOptions(&p, 9); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

// message is an RTM_NEWQDISC message of a discipline with statistics.
func message(kind string, app []byte) []byte {
	stats := appendAttr(nil, statsBasic, words(5000, 1, 7, 0))
	stats = appendAttr(stats, statsQueue, words(3, 4542, 2, 0, 9))
	stats = appendAttr(stats, statsApp, app)
	b := words(0, 42, queueHandle, shaperClass, 2)
	b = appendAttr(b, tcaKind, append([]byte(kind), 0))
	return appendAttr(b, tcaStats2|1<<15, stats) // with NLA_F_NESTED
}

func TestParseQdisc(t *testing.T) {
	tin := func(marks, flows, longest uint32) []byte {
		return slices.Concat(appendAttr(nil, 8, words(marks)), appendAttr(nil, 16, words(flows)), appendAttr(nil, 24, words(longest)))
	}
	cake := slices.Concat(appendAttr(nil, 4, words(6000)),
		appendAttr(nil, 10, slices.Concat(appendAttr(nil, 1, tin(1, 10, 90)), appendAttr(nil, 2, tin(2, 20, 1514)))))
	fq := append(make([]byte, 32), slices.Concat(word64(6), make([]byte, 40), word64(8))...)
	base := QdiscStats{Handle: "10:", Parent: "1:1", Bytes: 5000 + 1<<32, Packets: 7, Drops: 2, Backlog: 4542, QueueLen: 3, Overlimits: 9}
	for _, test := range []struct {
		kind string
		app  []byte
		want func(*QdiscStats)
	}{
		{KindFQCodel, words(0, 1514, 1, 20, 30, 0, 4, 5, 6000, 0), func(q *QdiscStats) {
			q.MaxPacket, q.DropOverlimit, q.ECNMarks, q.NewFlows, q.CEMarks, q.Memory = 1514, 1, 20, 30, 5, 6000
		}},
		{KindFQCodel, words(1, 1514, 1, 20, 30), func(*QdiscStats) {}}, // of a class
		{KindFQCodel, words(0, 1514), func(q *QdiscStats) { q.MaxPacket = 1514 }},
		{KindFQCodel, nil, func(*QdiscStats) {}},
		{KindCodel, words(1514, 0, 0, 0, 0, 1, 20, 0, 5), func(q *QdiscStats) {
			q.MaxPacket, q.DropOverlimit, q.ECNMarks, q.CEMarks = 1514, 1, 20, 5
		}},
		{KindFQPie, words(0, 0, 1, 0, 20, 30, 0, 0, 6000), func(q *QdiscStats) {
			q.DropOverlimit, q.ECNMarks, q.NewFlows, q.Memory = 1, 20, 30, 6000
		}},
		{KindPie, words(0, 0, 0, 0, 0, 0, 0, 1, 0, 20), func(q *QdiscStats) { q.DropOverlimit, q.ECNMarks = 1, 20 }},
		{KindFQ, fq, func(q *QdiscStats) { q.DropOverlimit, q.CEMarks = 6, 8 }},
		{KindPfifo, nil, func(q *QdiscStats) { q.DropOverlimit = 2 }},
		{KindCake, cake, func(q *QdiscStats) { q.ECNMarks, q.NewFlows, q.MaxPacket, q.Memory = 3, 30, 1514, 6000 }},
		{"htb", words(1, 2, 3), func(*QdiscStats) {}},
	} {
		want := base
		want.Kind = test.kind
		test.want(&want)
		ifindex, got, ok := parseQdisc(message(test.kind, test.app))
		if !ok || ifindex != 42 || got != want {
			t.Errorf("%s with %x:\ngot  %+v of %d, %v\nwant %+v of 42", test.kind, test.app, got, ifindex, ok, want)
		}
	}
	if _, _, ok := parseQdisc(make([]byte, tcmsgLen-1)); ok {
		t.Error("19 bytes were taken for a message")
	}
}

func FuzzParseQdisc(f *testing.F) {
	f.Add(message(KindFQCodel, words(0, 1514, 1, 20, 30, 0, 4, 5, 6000, 0)))
	f.Add(message(KindCake, appendAttr(nil, 10, appendAttr(nil, 1, appendAttr(nil, 8, words(3))))))
	f.Add(message(KindFQ, make([]byte, 200)))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, q, ok := parseQdisc(b)
		if ok != (len(b) >= tcmsgLen) {
			t.Errorf("%d bytes are a message: %v", len(b), ok)
		}
		if len(q.Kind) > len(b) {
			t.Errorf("a kind of %d bytes out of %d", len(q.Kind), len(b))
		}
		total := 0
		for _, value := range attributes(b) {
			total += attrHeaderLen + len(value)
		}
		if total > len(b) {
			t.Errorf("attributes of %d bytes out of %d", total, len(b))
		}
	})
}

func TestHandles(t *testing.T) {
	for h, want := range map[uint32]string{tcRoot: "root", queueHandle: "10:", shaperClass: "1:1", 0xffff0000: "ffff:"} {
		if got := tcHandle(h); got != want {
			t.Errorf("handle %#x is written %s, want %s", h, got, want)
		}
	}
}

// The way for kernels without tcx, which the others never take.
func TestScrubWithClsact(t *testing.T) {
	s := ForTest(t, SitesConfig{})
	scrub, err := newScrubber(s.Lab)
	if err != nil {
		t.Fatal(err)
	}
	link, err := s.Router.Link(s.A.RouterDev)
	if err != nil {
		t.Fatal(err)
	}
	if err := scrub.clsact(s.Router, s.A.RouterDev, link.Attrs().Index); err != nil {
		t.Fatal(err)
	}
	filters, err := s.Router.handle.FilterList(link, 0xfffffff2) // TC_H_MIN_INGRESS
	if err != nil || len(filters) != 1 || filters[0].Type() != "bpf" {
		t.Errorf("the ingress has the filters %v, error %v, want one of bpf", filters, err)
	}
}
