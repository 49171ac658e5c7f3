package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A streamFlow is the client's end of a TCP flow.
type streamFlow struct {
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
}

func newStreamFlow(g *Group, h header, clock func() int64) *streamFlow {
	return &streamFlow{
		group: g, header: h, clock: clock, bulk: newBulkReceiver(),
		asker: newAsker(time.Hour), sums: make(chan bulkSum, 1), done: make(chan struct{}),
	}
}

func (f *streamFlow) open(ctx context.Context, port uint16) error {
	d := net.Dialer{Control: withTOS(f.group.TOS)}
	conn, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(f.group.To, port).String())
	if err != nil {
		return err
	}
	f.stream = newStream(conn.(*net.TCPConn))
	go f.receive()
	_, err = f.roundTrip(ctx, f.group.Size+f.overhead())
	return err
}

// overhead is how much longer an IP packet is than the bytes of the stream in
// it: 32 bytes of TCP header where timestamps are on (RFC 7323), else 20.
func (f *streamFlow) overhead() int {
	const tcpHeader, timestamps = 20, 12
	size := ipHeader(f.group.To) + tcpHeader
	raw, err := f.stream.conn.SyscallConn()
	if err != nil {
		return size
	}
	_ = onSocket(raw, func(fd int) error { // a closed connection shows when it is used
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
		f.down.add(h.number, h.length)
		f.rtt.add(time.Duration(f.clock() - h.time))
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

func (f *streamFlow) load(ctx context.Context, start, end time.Time) error {
	// A path that swallows everything must not hold the sender for ever.
	if deadline, ok := ctx.Deadline(); ok {
		if err := f.stream.conn.SetWriteDeadline(deadline); err != nil {
			return err
		}
		defer f.stream.conn.SetWriteDeadline(time.Time{})
	}
	switch {
	case f.group.Kind == TCPEcho:
		return f.loadEcho(start, end)
	case f.group.Down:
		h := f.header
		h.kind, h.time = typePull, int64(time.Until(end))
		return f.stream.write(h, headerSize)
	}
	sender := newBulkSender(f.header)
	err := sender.send(f.stream.conn, end)
	f.mine, f.sent = sender.total, sender.total.frames
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
		if err := f.stream.write(h, f.group.Size); err != nil {
			return f.reason(fmt.Errorf("send message %d: %w", f.sent, err))
		}
		f.sent++
	}
	return nil
}

// settle waits for the last answers, or for the other end's sum of a bulk
// transfer, which must agree with this end's.
func (f *streamFlow) settle(ctx context.Context) error {
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
	r.Src = unmapped(f.stream.conn.LocalAddr().(*net.TCPAddr).AddrPort())
	r.Dst = unmapped(f.stream.conn.RemoteAddr().(*net.TCPAddr).AddrPort())
	r.Up.Sent = f.sent
	r.Down = f.down.direction(0)
	return &f.rtt, 0
}
