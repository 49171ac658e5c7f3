package traffic

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// getSize is the length of a request for a burst: header, number of bytes.
const getSize = headerSize + 8

// A burstFlow is the client's end of a TCPBurst flow: a connection for every
// burst, all of them at the same time if need be.
type burstFlow struct {
	plan   *Plan
	group  *Group
	header header
	clock  func() int64
	port   uint16
	from   int64         // when the load began
	done   chan struct{} // closed when all bursts have ended
	cancel context.CancelFunc

	sent uint64 // owned by load

	mu       sync.Mutex
	src, dst netip.AddrPort // of the last connection
	down     tracker
	rtt      samples
	probes   probeLog
}

func newBurstFlow(p *Plan, g *Group, h header, clock func() int64) *burstFlow {
	return &burstFlow{
		plan: p, group: g, header: h, clock: clock, done: make(chan struct{}), cancel: func() {},
		probes: probeLog{on: p.Series, patience: p.Linger},
	}
}

// open makes one connection to see that somebody answers.
func (f *burstFlow) open(ctx context.Context, port uint16) error {
	f.port = port
	_, err := f.roundTrip(ctx, minSize+maxOverhead)
	return err
}

func (f *burstFlow) roundTrip(ctx context.Context, inner int) (time.Duration, error) {
	begin := f.clock()
	s, err := f.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer s.conn.Close()
	h := f.header
	h.kind = typeReflect
	if err := s.write(h, inner-maxOverhead); err != nil {
		return 0, err
	}
	if err := f.readSetup(s); err != nil {
		return 0, err
	}
	if _, _, err := s.read(); err != nil {
		return 0, err
	}
	return time.Duration(f.clock() - begin), nil
}

// connect opens a connection, bounded by the time of ctx, and asks the server
// to set its end up, but does not wait for the answer.
func (f *burstFlow) connect(ctx context.Context) (*stream, error) {
	s, err := dialStream(ctx, f.group, f.port)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		err = s.conn.SetDeadline(deadline)
	}
	if err == nil && f.group.needsSetup() {
		err = s.writeSetup(f.header, f.group)
	}
	if err != nil {
		s.conn.Close()
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.src, f.dst = s.addrs()
	f.src = netip.AddrPortFrom(f.src.Addr(), 0)
	return s, nil
}

func (f *burstFlow) readSetup(s *stream) error {
	if !f.group.needsSetup() {
		return nil
	}
	return s.readSetup()
}

// load starts a burst in every interval and waits for none of them.
func (f *burstFlow) load(ctx context.Context, w window) error {
	f.from = w.from
	ctx, f.cancel = context.WithCancel(ctx)
	var bursts sync.WaitGroup
	pace := pacer{next: w.start, interval: f.group.Interval}
	for f.sent < maxNumber && pace.wait(w.end) {
		h := f.header
		h.kind, h.number, h.time = typeGet, f.sent, f.clock()
		f.mu.Lock()
		f.probes.send(h.time)
		f.mu.Unlock()
		bursts.Go(func() { f.burst(ctx, h) })
		f.sent++
	}
	go func() {
		bursts.Wait()
		close(f.done)
	}()
	return nil
}

// burst carries out one burst; one that fails or takes too long is lost.
func (f *burstFlow) burst(ctx context.Context, h header) {
	ctx, cancel := context.WithTimeout(ctx, f.plan.Linger)
	defer cancel()
	s, err := f.connect(ctx)
	if err != nil {
		return
	}
	defer s.conn.Close()
	stop := context.AfterFunc(ctx, func() { s.conn.Close() })
	defer stop()
	if err := f.fetch(s, h); err != nil {
		return
	}
	rtt := time.Duration(f.clock() - h.time)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down.add(h.number, f.group.Size)
	f.rtt.add(rtt)
	f.probes.answer(h.time, rtt)
}

// fetch asks for the bytes of one burst and reads them.
func (f *burstFlow) fetch(s *stream, h header) error {
	size := binary.BigEndian.AppendUint64(nil, uint64(f.group.Size))
	if err := s.writeFrame(h, size); err != nil {
		return err
	}
	if err := f.readSetup(s); err != nil {
		return err
	}
	bulk := newBulkReceiver()
	for bulk.bytes < uint64(f.group.Size) {
		got, frame, err := s.read()
		if err != nil {
			return err
		}
		if got.kind != typeBulk {
			return fmt.Errorf("answered by a frame of type %d", got.kind)
		}
		if err := bulk.add(got, frame); err != nil {
			return err
		}
	}
	return nil
}

// settle waits for the bursts under way, each of which ends by itself in time.
func (f *burstFlow) settle(ctx context.Context) error {
	select {
	case <-f.done:
	case <-ctx.Done():
	}
	return nil // what is missing counts as lost
}

// close ends what is still under way. Without a load nothing is.
func (f *burstFlow) close() {
	f.cancel()
	if f.sent > 0 {
		<-f.done
	}
}

func (f *burstFlow) result(r *Flow) (*samples, uint64) {
	r.Src, r.Dst = f.src, f.dst
	r.Series = f.probes.series(f.from)
	r.Up.Sent = f.sent
	r.Down = f.down.direction(0)
	return &f.rtt, 0
}
