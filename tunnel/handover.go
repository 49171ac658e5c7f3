package tunnel

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"kiloport/portpool"
	"kiloport/tunnel/attach/accord"
	"kiloport/tunnel/noise"
	"kiloport/tunnel/tun"
)

// A device is handed over from one process to the next so that nothing is lost:
// the TUN device's queues and the listen sockets are kept open, where packets wait
// meanwhile, and the keypairs go along with their counters and replay windows, so
// that the peers notice nothing. So do the lanes that are known to work, and the way
// that they go. Sockets of the pool are handed over if they receive, for peers that
// send to them; otherwise a lane is known by its number, wherever it comes from. The
// size and the ECN that the path carries are probed anew, which takes a round trip on
// lane 0.

// Handover is a device that has been handed over.
type Handover struct {
	// State is what [Device.Restore] takes. It holds keys.
	State []byte
	// TUN are the queues of the TUN device, for [tun.FromFiles], Listen the listen
	// sockets, for Config.Listen, and Pool those of lanes, for Config.Pool, up to
	// as many as there are ports. There are none where the network or the device is
	// none of the kernel's.
	TUN, Listen, Pool []*os.File
}

// Close closes the files and zeroes the state.
func (h *Handover) Close() {
	for _, f := range slices.Concat(h.TUN, h.Listen, h.Pool) {
		f.Close()
	}
	clear(h.State)
}

const handoverVersion = 1

// handoverState is State's JSON. Fields may be added; one whose meaning changes
// needs another version.
type handoverState struct {
	Version int
	At      time.Time // when the keys were last used
	Public  noise.PublicKey
	Peers   []handoverPeer
	Ports   []portpool.LanePort // of the pool, if it receives
}

type handoverPeer struct {
	Key            noise.PublicKey
	Endpoint       netip.AddrPort // not valid: none
	Local          netip.Addr     // not valid: the kernel's choice
	Completed      time.Time
	Sent, Accepted []byte // timestamps
	Sessions       []handoverSession
	Spread         *handoverSpread // nil: nothing is known of its lanes
	List           uint32          // number of the last HEARD
	Kernel         *handoverKernel // nil: it is no such peer
}

// handoverKernel is what there is of a peer whose kernel WireGuard has kiloport
// attached. It goes on sending from its ports until it hears of another process here.
type handoverKernel struct {
	Port          uint16 // the canonical one here
	Inside, There netip.Addr
	Theirs        accord.Hello
}

// handoverRole says which of a peer's keypairs one is.
type handoverRole string

const (
	roleCurrent  handoverRole = "current"
	rolePrevious handoverRole = "previous"
	roleNext     handoverRole = "next"
)

type handoverSession struct {
	Role      handoverRole
	Sending   bool // data was sent on it
	Keypair   noise.KeypairState
	Confirmed bool
	Offered   uint32
	Offers    uint64
	SealFlags uint64
	Theirs    *hello // what the peer said in HELLO; nil if it did not
	Stock     bool   // and is not expected to any more
	Limit     uint16
	Next      map[uint16]uint64 // of sending, by lane
	Windows   map[uint16]handoverWindow
}

type handoverWindow struct {
	Last uint64
	Ring []uint64
	Next uint64
}

var errNothingToHandOver = errors.New("hand over: the link is down, so that there is nothing to hand over")

// HandOver ends the device, as Close does, but for what another process needs to
// go on: what has been read from the TUN device is sent, what waits elsewhere goes
// on waiting, and no key is used here any more. After an error the device works on.
// Whoever has State may use the keys: it must come to one process only, once.
func (d *Device) HandOver() (*Handover, error) {
	d.config.Lock()
	defer d.config.Unlock()
	if !d.up || d.closed {
		return nil, errNothingToHandOver
	}
	h := new(Handover)
	if err := d.openHandover(h); err != nil {
		h.Close()
		return nil, err
	}
	d.handing.Store(true)
	d.urgency.close() // whoever waits, does so where it can be ended
	// Who receives ends before there is nowhere to write to.
	d.endReceiving()
	pool := d.sockets.Load().pool.HandOver()
	d.tun.Close() // the transmitters send what they have, and end
	d.transmitting.Wait()
	state := handoverState{Version: handoverVersion, At: d.clock.Wall()}
	if static := d.static.Load(); static != nil {
		state.Public = static.Public()
	}
	h.Pool, state.Ports = pool.Files, pool.Lanes
	now := d.clock.Now()
	for _, p := range d.order {
		state.Peers = append(state.Peers, p.handOver(now))
	}
	d.up = false
	d.closeSockets()
	text, err := json.Marshal(state)
	if err != nil { // too late to go on here: without State there are handshakes
		d.log.Error("the sessions are lost", "error", err)
	}
	h.State = text
	state.clear()
	return h, nil
}

func (h *handoverState) clear() {
	for i := range h.Peers {
		for j := range h.Peers[i].Sessions {
			h.Peers[i].Sessions[j].Keypair.Clear()
		}
	}
}

// openHandover duplicates the descriptors.
func (d *Device) openHandover(h *Handover) (err error) {
	if h.TUN, err = tun.Files(d.tun); err != nil {
		return err
	}
	for _, socket := range d.sockets.Load().receivers {
		filer, ok := socket.(interface{ File() (*os.File, error) })
		if !ok {
			continue
		}
		f, err := filer.File()
		if err != nil {
			return fmt.Errorf("hand over the listen port: %w", err)
		}
		h.Listen = append(h.Listen, f)
	}
	return nil
}

// endReceiving ends the receivers, each after what it has taken, and leaves the
// sockets for sending.
func (d *Device) endReceiving() {
	interrupted := false
	for _, socket := range d.sockets.Load().receivers {
		if s, ok := socket.(interface{ Interrupt() error }); ok {
			interrupted = s.Interrupt() == nil || interrupted
		}
	}
	if interrupted {
		<-d.receiving
	}
}

// drain sends what waits in the queues, at once and whatever the rates are: it is no
// more than the queues keep waiting, and the successor knows nothing of it.
func (t *transmitter) drain() {
	for more := true; more; {
		t.now = t.device.clock.Now()
		t.batch++
		socks := t.device.sockets.Load()
		more = t.takeAny(socks)
		t.egress.flush(socks, t.device.mtu())
		t.finish()
	}
}

// takeAny is takeBatch without rates. It reports whether there was anything.
func (t *transmitter) takeAny(socks *sockets) (some bool) {
	t.watch.mu.Lock()
	defer t.watch.mu.Unlock()
	for n, bytes := 0, 0; n < transmitBatch && bytes < transmitBytes; n++ {
		pkt, ok := t.queue.Dequeue(t.now)
		for i := 0; !ok && i < len(t.lines); i++ {
			pkt, ok = t.lines[i].queue.Dequeue(t.now)
		}
		if !ok {
			break
		}
		some = true
		bytes += pkt.n
		t.dequeued(pkt)
		t.sendPacket(socks, pkt)
	}
	return some
}

// handOver gives what there is of a peer, and ends its sessions here.
func (p *peer) handOver(now int64) (h handoverPeer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h = handoverPeer{Key: p.key, Completed: p.completed, Spread: p.handOverSpread(now), List: p.lister.number}
	if to := p.endpoint.Load(); to != nil {
		h.Endpoint, h.Local = to.addr, to.local
	}
	if p.remote != nil {
		h.Sent, h.Accepted = p.remote.Timestamps()
	}
	for role, s := range map[handoverRole]*session{roleCurrent: p.current, rolePrevious: p.previous, roleNext: p.next} {
		if s == nil || s.expired(now) {
			continue
		}
		if state, ok := s.handOver(now); ok {
			state.Role, state.Sending = role, s == p.sending.Load()
			h.Sessions = append(h.Sessions, state)
		}
	}
	if k := p.kernel; k != nil && k.Theirs.Version != 0 {
		h.Kernel = &handoverKernel{Port: k.local.Port, Inside: k.inside, There: k.there, Theirs: k.Theirs}
	}
	p.halt()
	return h
}

func (s *session) handOver(now int64) (h handoverSession, ok bool) {
	if h.Keypair, ok = s.keypair.State(now); !ok {
		return h, false
	}
	h.Confirmed, h.Offered, h.Offers, h.SealFlags = s.confirmed.Load(), s.offered.Load(), s.offers.Load(), s.sealFlags.Load()
	h.Limit = uint16(s.limit.Load())
	if s.hello.heard {
		theirs := s.hello.theirs
		h.Theirs = &theirs
	}
	h.Stock = s.hello.over && !s.hello.heard
	h.Next = map[uint16]uint64{0: s.first.next.Load()}
	for i := range s.chunks {
		if lanes := s.chunks[i].Load(); lanes != nil {
			for j := range lanes {
				if next := lanes[j].next.Load(); next > 0 {
					h.Next[uint16(i*laneChunk+j)] = next
				}
			}
		}
	}
	h.Windows = make(map[uint16]handoverWindow)
	s.eachReceiving(func(lane uint16, l *rxLane) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.window != nil {
			last, ring := l.window.State()
			h.Windows[lane] = handoverWindow{last, ring, l.next}
		}
	})
	return h, true
}

// eachReceiving calls do for each lane on which something arrived.
func (s *session) eachReceiving(do func(lane uint16, l *rxLane)) {
	do(0, &s.rxFirst)
	table := s.rx.Load()
	if table == nil {
		return
	}
	for i := range table {
		if chunk := table[i].Load(); chunk != nil {
			for j := range chunk {
				if l := chunk[j].Load(); l != nil {
					do(uint16(i*laneChunk+j), l)
				}
			}
		}
	}
}
