package traffic

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A streamFlow is the client's end of a TCP flow.
type streamFlow struct {
	plan   *Plan
	group  *Group
	header header
	clock  func() int64
	stream *stream
	asker  asker
	sums   chan bulkSum
	done   chan struct{}

	sent uint64 // owned by load
	mine bulkSum

	mu   sync.Mutex
	down tracker
	rtt  samples
	err  error
	bulk *bulkReceiver

	from   int64 // when the load began
	probes probeLog
	info   *TCPInfo
}

func newStreamFlow(p *Plan, g *Group, h header, clock func() int64) *streamFlow {
	return &streamFlow{
		plan: p, group: g, header: h, clock: clock, bulk: newBulkReceiver(),
		probes: probeLog{on: p.Series && g.Kind.echoes(), patience: min(p.Linger, latest)},
		asker:  newAsker(time.Hour), sums: make(chan bulkSum, 1), done: make(chan struct{}),
	}
}

func (f *streamFlow) open(ctx context.Context, port uint16) error {
	var err error
	if f.stream, err = dialStream(ctx, f.group, port); err != nil {
		return err
	}
	err = f.setup(ctx)
	go f.receive()
	if err != nil {
		return err
	}
	_, err = f.roundTrip(ctx, f.group.Size+f.overhead())
	return err
}

// setup makes the server's socket like the group, before anything else.
func (f *streamFlow) setup(ctx context.Context) error {
	if !f.group.needsSetup() {
		return nil
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := f.stream.conn.SetDeadline(deadline); err != nil {
			return err
		}
		defer f.stream.conn.SetDeadline(time.Time{})
	}
	if err := f.stream.writeSetup(f.header, f.group); err != nil {
		return err
	}
	return f.stream.readSetup()
}

// overhead is how much longer an IP packet is than the bytes of the stream in
// it: 32 bytes of TCP header where timestamps are on (RFC 7323), else 20.
func (f *streamFlow) overhead() int {
	const tcpHeader, timestamps = 20, 12
	size := ipHeader(f.group.To) + tcpHeader
	_ = control(f.stream.conn, func(fd int) error { // a closed connection shows when it is used
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil && info.Options&1 != 0 { // TCPI_OPT_TIMESTAMPS
			size += timestamps
		}
		return err
	})
	return size
}

func (f *streamFlow) receive() {
	defer close(f.done)
	for {
		h, frame, err := f.stream.read()
		if err == nil {
			err = f.arrived(h, frame)
		}
		if err == nil {
			continue
		}
		f.mu.Lock()
		f.err = err
		f.mu.Unlock()
		return
	}
}

func (f *streamFlow) arrived(h header, frame []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch h.kind {
	case typeReflect:
		f.asker.answer(h.number, time.Duration(f.clock()-h.time))
	case typeAnswer:
		rtt := time.Duration(f.clock() - h.time)
		f.down.add(h.number, h.length)
		f.rtt.add(rtt)
		f.probes.answer(h.time, rtt)
	case typeBulk:
		if err := f.bulk.add(h, frame); err != nil {
			return err
		}
		f.down.add(h.number, h.length)
	case typeSum:
		sum, err := parseSum(frame)
		if err != nil {
			return err
		}
		select {
		case f.sums <- sum:
		default:
			return errors.New("a second sum arrived")
		}
	default:
		return fmt.Errorf("frame of unknown type %d", h.kind)
	}
	return nil
}

func (f *streamFlow) roundTrip(ctx context.Context, inner int) (time.Duration, error) {
	size := inner - f.overhead()
	rtt, err := f.asker.ask(ctx, func(number uint64) error {
		h := f.header
		h.kind, h.number, h.time = typeReflect, number, f.clock()
		return f.stream.write(h, size)
	})
	return rtt, f.reason(err)
}

// reason prefers why the receiving side ended, if it has, to what came of it.
func (f *streamFlow) reason(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil && f.err != nil {
		return f.err
	}
	return err
}

func (f *streamFlow) load(ctx context.Context, w window) error {
	f.from = w.from
	// A path that swallows everything must not hold the sender for ever.
	deadline, ok := ctx.Deadline()
	if f.abandoned() {
		deadline = w.end
	}
	if ok {
		if err := f.stream.conn.SetWriteDeadline(deadline); err != nil {
			return err
		}
		defer f.stream.conn.SetWriteDeadline(time.Time{})
	}
	if f.group.Kind == TCPEcho {
		return f.loadEcho(w.start, w.end)
	}
	sleep(ctx, time.Until(w.start))
	if err := f.begin(w); err != nil {
		return f.reason(err)
	}
	if f.group.Down {
		h := f.header
		h.kind, h.time = typePull, int64(time.Until(w.end))
		return f.stream.write(h, headerSize)
	}
	return f.loadBulk(w.end)
}

// abandoned tells that the flow is to be cut off at the end of its load.
func (f *streamFlow) abandoned() bool { return f.group.Kind == TCPBulk && f.plan.Abandon }

// begin tells both ends what to measure, if anything.
func (f *streamFlow) begin(w window) error {
	if !f.plan.Series && !f.plan.Abandon {
		return nil
	}
	m := mark{bin: f.plan.Bin}
	if f.plan.Abandon {
		m.cut = w.end.Sub(w.origin)
	}
	if f.group.Down {
		f.stream.meterFrom(w.origin, m.bin, m.cut)
		m.bin = 0
	}
	h := f.header
	h.time = int64(time.Since(w.origin))
	return f.stream.writeMark(h, m)
}

func (f *streamFlow) loadBulk(end time.Time) error {
	sender := newBulkSender(f.header)
	err := sender.send(f.stream.conn, end)
	f.mine, f.sent = sender.total, sender.total.frames
	f.info = tcpInfo(f.stream.conn)
	if f.abandoned() && (err == nil || errors.Is(err, os.ErrDeadlineExceeded)) {
		return nil
	}
	if err != nil {
		return f.reason(fmt.Errorf("send frame %d: %w", f.sent, err))
	}
	return f.stream.writeSum(f.header, f.mine)
}

func (f *streamFlow) loadEcho(start, end time.Time) error {
	h := f.header
	h.kind = typeEcho
	pace := pacer{next: start, interval: f.group.Interval}
	for f.sent < maxNumber && pace.wait(end) {
		h.number, h.time = f.sent, f.clock()
		f.mu.Lock()
		f.probes.send(h.time)
		f.mu.Unlock()
		if err := f.stream.write(h, f.group.Size); err != nil {
			return f.reason(fmt.Errorf("send message %d: %w", f.sent, err))
		}
		f.sent++
	}
	return nil
}

// settle waits for the last answers, or for the other end's sum of a bulk
// transfer, which must agree with this end's; one that is abandoned it cuts off.
func (f *streamFlow) settle(ctx context.Context) error {
	if f.abandoned() {
		return f.abandon()
	}
	if f.group.Kind == TCPEcho {
		for !f.complete() && ctx.Err() == nil {
			select {
			case <-f.done:
				return f.reason(errors.New("the connection ended"))
			default:
				sleep(ctx, 5*time.Millisecond)
			}
		}
		return nil // what is missing counts as lost
	}
	var theirs bulkSum
	select {
	case theirs = <-f.sums:
	case <-f.done:
		return f.reason(errors.New("the connection ended"))
	case <-ctx.Done():
		return errors.New("the bulk transfer did not come to its end in time")
	}
	mine := f.mine
	if f.group.Down {
		f.mu.Lock()
		mine = f.bulk.total
		f.mu.Unlock()
	}
	if mine != theirs {
		return fmt.Errorf("the bulk transfer is damaged: %d frames with checksum %x here, %d with %x there", mine.frames, mine.sum, theirs.frames, theirs.sum)
	}
	return nil
}

// abandon fails if the connection had ended by itself before.
func (f *streamFlow) abandon() error {
	select {
	case <-f.done:
		return f.reason(errors.New("the connection ended"))
	default:
		return f.stream.cut()
	}
}

func (f *streamFlow) complete() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.down.received >= f.sent
}

func (f *streamFlow) close() {
	if f.stream != nil {
		f.stream.conn.Close()
		<-f.done
	}
}

func (f *streamFlow) result(r *Flow) (*samples, uint64) {
	if f.stream == nil {
		return &f.rtt, 0
	}
	r.Src, r.Dst = f.stream.addrs()
	r.Up.Sent = f.sent
	r.Down = f.down.direction(0)
	r.Series, r.TCP = f.probes.series(f.from), f.info
	bins, total, cut := f.stream.meter.read()
	if f.plan.Series && bins != nil {
		r.Series = &Series{Bytes: bins}
	}
	if cut {
		r.Down.Bytes = total
	}
	return &f.rtt, 0
}
