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

// A carrier sends and receives datagrams of one flow.
type carrier interface {
	send(b []byte) error
	// receive waits for a datagram and returns its content, valid until the
	// next call.
	receive() ([]byte, error)
	// overhead is how much longer the IP packet is than its content.
	overhead() int
	addrs() (src, dst netip.AddrPort)
	drops() uint64
	close() error
}

// A datagramFlow is the client's end of a UDP or ICMP flow.
type datagramFlow struct {
	group   *Group
	header  header
	clock   func() int64
	carrier carrier
	asker   asker
	done    chan struct{}
	floods  *floodRota // of the client

	sent uint64 // owned by load

	mu      sync.Mutex
	down    tracker
	corrupt uint64
	rtt     samples
	from    int64 // when the load began
	probes  probeLog
	seed    uint64 // of the jitter
}

func newDatagramFlow(p *Plan, g *Group, h header, clock func() int64, floods *floodRota) *datagramFlow {
	return &datagramFlow{
		group: g, seed: p.Seed, floods: floods, header: h, clock: clock, asker: newAsker(askAgain), done: make(chan struct{}),
		probes: probeLog{on: p.Series && g.Kind.echoes(), patience: min(p.Linger, latest)},
	}
}

func (f *datagramFlow) open(ctx context.Context, port uint16) (err error) {
	to := netip.AddrPortFrom(f.group.To, port)
	switch {
	case f.group.Kind == ICMPEcho:
		f.carrier, err = dialPing(f.group.To, f.group.TOS)
	case f.group.floods():
		f.carrier, err = dialFlood(ctx, to, f.group.TOS, f.group.Size)
	default:
		f.carrier, err = dialUDP(ctx, to, f.group.TOS)
	}
	if err != nil {
		return err
	}
	go f.receive()
	_, err = f.roundTrip(ctx, f.group.Size+f.carrier.overhead())
	return err
}

func (f *datagramFlow) receive() {
	defer close(f.done)
	for {
		b, err := f.carrier.receive()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			f.arrived(b)
		} // else an ICMP error of something sent before, which will count as lost
	}
}

func (f *datagramFlow) arrived(b []byte) {
	var h header
	if !h.parse(b, true) || h.run != f.header.run || h.flow != f.header.flow {
		f.mu.Lock()
		f.corrupt++
		f.mu.Unlock()
		return
	}
	rtt := time.Duration(f.clock() - h.time)
	if h.kind == typeReflect {
		f.asker.answer(h.number, rtt)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.probes.answer(h.time, rtt)
	before := f.down.received
	f.down.add(h.number, len(b))
	if f.down.received != before {
		f.rtt.add(rtt)
	}
}

// roundTrip makes the flow send, and get back, packets of the given length.
func (f *datagramFlow) roundTrip(ctx context.Context, inner int) (time.Duration, error) {
	b := make([]byte, inner-f.carrier.overhead())
	return f.asker.ask(ctx, func(number uint64) error {
		h := f.header
		h.kind, h.number, h.time = typeReflect, number, f.clock()
		h.put(b)
		return ignoreRefusal(f.carrier.send(b))
	})
}

// load sends until the end, one datagram in every interval.
func (f *datagramFlow) load(_ context.Context, w window) error {
	h := f.header
	h.kind = typeEcho
	if f.group.Kind == UDPStream {
		h.kind = typeStream
	}
	f.from = w.from
	if u, ok := f.carrier.(*floodCarrier); ok {
		return f.flood(u, h, w)
	}
	b := make([]byte, f.group.Size)
	wait, done, err := f.beat(w)
	if err != nil {
		return err
	}
	defer done()
	for f.sent < maxNumber {
		if more, err := wait(w.end); err != nil || !more {
			return err
		}
		h.number, h.time = f.sent, f.clock()
		h.put(b)
		f.mu.Lock()
		f.probes.send(h.time)
		f.mu.Unlock()
		if err := ignoreRefusal(f.carrier.send(b)); err != nil {
			return fmt.Errorf("send datagram %d: %w", f.sent, err)
		}
		f.sent++
	}
	return nil
}

// beat returns what waits for the moment of each datagram, and what ends that.
func (f *datagramFlow) beat(w window) (wait func(end time.Time) (bool, error), done func(), err error) {
	p := pacer{next: w.start, interval: f.group.Interval}
	if f.group.Jitter == 0 {
		return func(end time.Time) (bool, error) { return p.wait(end), nil }, func() {}, nil
	}
	j, err := newJitterer(p, f.group, f.seed, uint64(f.header.flow))
	if err != nil {
		return nil, nil, err
	}
	return j.wait, j.alarm.close, nil
}

// latest is how late an answer may come. A plan may linger for longer, for the
// sake of its bulk transfers.
const latest = 2 * time.Second

// settle waits for what is still on its way. A stream gets no answers; a round
// trip behind it in the same queue says that the rest has arrived.
func (f *datagramFlow) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, latest)
	defer cancel()
	if f.group.Kind == UDPStream {
		_, err := f.roundTrip(ctx, f.group.Size+f.carrier.overhead())
		return err
	}
	for !f.complete() && ctx.Err() == nil {
		sleep(ctx, 5*time.Millisecond)
	}
	return nil // what is missing counts as lost
}

func (f *datagramFlow) complete() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.down.received >= f.sent
}

func (f *datagramFlow) close() {
	if f.carrier != nil {
		f.carrier.close()
		<-f.done
	}
}

func (f *datagramFlow) result(r *Flow) (*samples, uint64) {
	if f.carrier == nil {
		return &f.rtt, 0
	}
	r.Src, r.Dst = f.carrier.addrs()
	r.Series = f.probes.series(f.from)
	r.Up.Sent = f.sent
	r.Down = f.down.direction(0)
	r.Down.Corrupted = f.corrupt
	if f.group.Kind == ICMPEcho {
		r.Up = Direction{}
		r.Down.account(f.sent)
	}
	return &f.rtt, f.carrier.drops()
}

// ignoreRefusal forgets an error that an earlier datagram caused: that one
// counts as lost.
func ignoreRefusal(err error) error {
	for _, transient := range []error{unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ENOBUFS} {
		if errors.Is(err, transient) {
			return nil
		}
	}
	return err
}

// udpCarrier is a connected UDP socket.
type udpCarrier struct {
	conn *net.UDPConn
	udpEnds
}

// udpEnds is what carriers by UDP have in common.
type udpEnds struct {
	src, dst netip.AddrPort
	buf      []byte // for what is received
	dropped  uint64 // when it was closed
}

func (e *udpEnds) overhead() int { return ipHeader(e.dst.Addr()) + 8 }

func (e *udpEnds) addrs() (src, dst netip.AddrPort) { return e.src, e.dst }

func (e *udpEnds) drops() uint64 { return e.dropped }

func dialUDP(ctx context.Context, to netip.AddrPort, tos uint8) (*udpCarrier, error) {
	d := net.Dialer{Control: onDial(func(fd int) error { return setTOS(fd, tos) })}
	conn, err := d.DialContext(ctx, "udp", to.String())
	if err != nil {
		return nil, err
	}
	u := &udpCarrier{conn: conn.(*net.UDPConn), udpEnds: udpEnds{
		src: unmapped(conn.LocalAddr().(*net.UDPAddr).AddrPort()), dst: unmapped(conn.RemoteAddr().(*net.UDPAddr).AddrPort()),
		buf: make([]byte, maxSize+headerSize),
	}}
	if err := enlarge(u.conn); err != nil {
		return nil, errors.Join(err, u.conn.Close())
	}
	return u, nil
}

func (u *udpCarrier) send(b []byte) error {
	_, err := u.conn.Write(b)
	return err
}

func (u *udpCarrier) receive() ([]byte, error) {
	n, err := u.conn.Read(u.buf)
	return u.buf[:n], err
}

// close keeps the count of drops, which goes with the socket.
func (u *udpCarrier) close() error {
	u.dropped = drops(u.conn)
	return u.conn.Close()
}

// ipHeader is the length of an IP header without options or extensions.
func ipHeader(addr netip.Addr) int {
	if addr.Is4() {
		return 20
	}
	return 40
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
