package tunnel

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"kiloport/flowhash"
	"kiloport/portpool"
	"kiloport/queue"
	"kiloport/tunnel/noise"
	"kiloport/tunnel/tun"
)

// Config is what a Device is made of. Only TUN and Options must be given.
type Config struct {
	// TUN is where inner packets come from and go to. The Device closes it.
	TUN tun.Device
	// Options are the person's choices.
	Options Options
	// Log gets what a person should know; nil means nothing.
	Log *slog.Logger

	// Constants are WireGuard's timers and limits; nil means the protocol's.
	Constants *noise.Constants
	// Clock is where time comes from; nil means the system's clock.
	Clock Clock
	// Rand is the source of keys and secrets; nil means crypto/rand.
	Rand io.Reader
	// OpenSocket opens a UDP socket; nil means [portpool.Open].
	OpenSocket func(portpool.SocketConfig) (portpool.Socket, error)
	// Scheduler lets the workers go before other threads where processors are
	// short; nil means that they never do.
	Scheduler Scheduler
	// Listen are the listen sockets of a process before this one, from its
	// [Handover]. They are used for as many workers on the same port, and closed
	// otherwise.
	Listen []*os.File
	// Pool are that process's sockets of lanes, which are used likewise.
	Pool []*os.File
}

// Device is a tunnel interface with its peers. Make one with [New], configure it
// with [Device.Configure] at any time, and let it work with [Device.Run].
type Device struct {
	tun             tun.Device
	options         Options
	log             *slog.Logger
	limited         *limitedLog
	constants       *noise.Constants
	clock           Clock
	rand            io.Reader
	openSocket      func(portpool.SocketConfig) (portpool.Socket, error)
	queueConfig     queue.Config
	admissionSecret [xxhashStripe]byte
	hasher          flowhash.Hasher
	labels          labels

	// The tables that the packet path reads.
	static      atomic.Pointer[noise.Static] // nil: no private key
	sockets     atomic.Pointer[sockets]      // nil: the link is down
	routes      *routes
	indexes     *indexTable
	drops       drops
	staged      atomic.Int64 // packets that wait for sessions, of all peers
	cookiesSent atomic.Uint64
	uplink      uplink
	downlinks   atomic.Int64 // peers that have asked for a rate
	urgency     urgency

	handshakes *handshaker
	workers    int    // of each kind: one for each queue of the TUN device
	offers     uint64 // flags of counters that we let peers use
	transmit   []*transmitter
	receive    []*receiver
	receiving  chan struct{} // closed when the last receivers have ended
	poolOnce   sync.Once
	pooled     []*pooledReceiver // for the pool's ports, made when they first listen

	config       sync.Mutex // configuration, one change at a time
	up           bool       // with sockets
	linkIsUp     bool       // the TUN device is, whether or not sockets could be opened
	closed       bool
	private      noise.PrivateKey
	listenPort   uint16
	fwMark       uint32
	shared       *portpool.Shared
	housekeep    Timer
	suspendCheck Timer
	where        whereabouts

	peersMu sync.RWMutex
	peers   map[noise.PublicKey]*peer
	order   []*peer // as they were configured
	retired totals  // of peers that were removed; behind config

	inherited    []*os.File // listen sockets, until the link first comes up,
	lanePorts    []portpool.LanePort
	laneFiles    []*os.File     // and likewise the pool's
	handing      atomic.Bool    // HandOver has begun: what ends is to end cleanly
	transmitting sync.WaitGroup // the transmitters
	resumed      chan struct{}  // nil, or closed when the state of a link that was handed over is known

	linked   chan error // result of the last time the link came up
	done     chan struct{}
	closing  sync.Once
	finished sync.WaitGroup
}

// What one worker's queue may hold however many workers there are, unless the
// limit for all is below that.
const (
	minQueueMemory  = 2 << 20 // bytes
	minQueuePackets = 1024
)

// ofOneWorker are FQ-CoDel's parameters for one worker.
func ofOneWorker(c queue.Config, workers int) queue.Config {
	c.MemoryLimit = max(c.MemoryLimit/workers, min(c.MemoryLimit, minQueueMemory), c.Quantum)
	c.Limit = max(c.Limit/workers, min(c.Limit, minQueuePackets))
	return c
}

// New makes a device, which does nothing before [Device.Run]. It takes over the
// TUN device unless it returns an error.
func New(c Config) (*Device, error) {
	if err := c.Options.Validate(); err != nil {
		return nil, err
	}
	d := &Device{
		tun: c.TUN, options: c.Options, log: c.Log, constants: c.Constants,
		clock: c.Clock, rand: c.Rand, openSocket: c.OpenSocket,
		routes:    newRoutes(),
		indexes:   newIndexTable(),
		peers:     make(map[noise.PublicKey]*peer),
		linked:    make(chan error, 1),
		done:      make(chan struct{}),
		receiving: make(chan struct{}),
		workers:   len(c.TUN.Queues()),
		inherited: c.Listen,
		laneFiles: c.Pool,
	}
	close(d.receiving)
	d.defaults()
	if err := d.secrets(); err != nil {
		return nil, err
	}
	d.limited = &limitedLog{log: d.log, clock: d.clock, said: make(map[string]*limitedLine)}
	d.shared = portpool.NewShared(portpool.SharedConfig{Log: d.log, GSO: d.options.GSO, GRO: d.options.GRO})
	d.offers = d.flagsOffered()
	d.handshakes = newHandshaker(d)
	d.queueConfig = ofOneWorker(d.options.Queue, d.workers)
	if !d.options.shapes() {
		d.queueConfig.Burst = bulkBurst
	}
	d.uplink.init(d)
	d.urgency.init(d, c.Scheduler)
	for worker := range d.workers {
		d.transmit = append(d.transmit, newTransmitter(d, worker))
		d.receive = append(d.receive, newReceiver(d, worker))
	}
	return d, nil
}

func (d *Device) defaults() {
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.constants == nil {
		c := noise.Default()
		d.constants = &c
	}
	if d.clock == nil {
		d.clock = newSystemClock()
	}
	if d.rand == nil {
		d.rand = crand.Reader
	}
}

func (d *Device) secrets() (err error) {
	var secret [16]byte
	if _, err = io.ReadFull(d.rand, secret[:]); err != nil {
		return fmt.Errorf("draw the secret of the flow hash: %w", err)
	}
	d.hasher = flowhash.NewHasher(secret)
	if _, err = io.ReadFull(d.rand, d.admissionSecret[:]); err != nil {
		return fmt.Errorf("draw the secret of the lanes' hash: %w", err)
	}
	d.labels, err = newLabels(d.rand)
	return err
}

// Run carries packets until the TUN device is deleted or closed, ctx ends, or
// [Device.Close] is called. A deleted device is not an error.
func (d *Device) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, d.Close)
	defer stop()
	transmitted := make(chan error, d.workers)
	for _, t := range d.transmit {
		d.transmitting.Add(1)
		d.finished.Go(func() {
			defer d.transmitting.Done()
			d.pin(t.worker)
			d.awaitLink()
			transmitted <- t.run()
		})
	}
	d.finished.Go(func() { d.handshakes.run(d.done) })
	err := d.watch(transmitted)
	d.Close()
	d.finished.Wait()
	return err
}

// pin binds the calling goroutine, one of a worker's two, to a processor.
func (d *Device) pin(worker int) {
	if !d.options.Pin {
		return
	}
	if err := portpool.Pin(worker); err != nil {
		d.log.Warn("worker not pinned", "worker", worker, "error", err)
	}
}

// watch follows the link until it goes.
func (d *Device) watch(transmitted <-chan error) error {
	for {
		select {
		case <-d.done:
			return nil
		case err := <-transmitted:
			if errors.Is(err, os.ErrClosed) {
				return nil
			}
			return fmt.Errorf("read from the tun device: %w", err)
		case event, ok := <-d.tun.Events():
			if !ok || event == tun.Deleted {
				return nil
			}
			d.linkEvent(event)
		}
	}
}

func (d *Device) linkEvent(event tun.Event) {
	d.config.Lock()
	defer d.config.Unlock()
	defer d.linkKnown()
	switch event {
	case tun.Up:
		d.linkIsUp = true
		err := d.linkUp()
		select {
		case d.linked <- err:
		default:
		}
		if err != nil {
			d.log.Error("the link is up, but without sockets: set another listen port, or take the link down and up", "error", err)
		}
	case tun.Down:
		d.linkIsUp = false
		d.linkDown()
	case tun.MTUUpdate:
		d.mtuUpdated()
	}
}

// Listening waits until the link came up for the first time, and says whether
// the sockets could be opened.
func (d *Device) Listening(ctx context.Context) error {
	select {
	case err := <-d.linked:
		return err
	case <-d.done:
		return errDeviceClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// linkUp opens the sockets. The caller holds config.
func (d *Device) linkUp() error {
	if d.up || d.closed {
		return nil
	}
	d.up = true
	if err := d.openSockets(); err != nil {
		d.up = false
		return err
	}
	d.log.Info("link up", "listen port", d.listenPort)
	for _, p := range d.order {
		p.start()
	}
	return nil
}

// linkDown closes the sockets and forgets all sessions.
func (d *Device) linkDown() {
	if !d.up {
		return
	}
	d.up = false
	for _, p := range d.order {
		p.stop()
	}
	d.closeSockets()
	d.log.Info("link down")
}

// openSockets opens the listen sockets and an empty pool.
func (d *Device) openSockets() error {
	receivers, err := d.openListen(d.listenPort)
	if err != nil {
		return err
	}
	pool, err := portpool.NewPool(d.poolConfig())
	if err != nil {
		closeAll(receivers)
		return err
	}
	socks := &sockets{listen: receivers[0], receivers: receivers, pool: pool}
	if pool.Open() > 0 {
		d.listenOnPool(socks)
	}
	d.serve(socks)
	d.uplink.start()
	d.watchSuspends()
	if d.housekeep == nil {
		d.housekeep = d.clock.AfterFunc(d.housekeepEvery(), d.keepHouse)
	} else {
		d.housekeep.Reset(d.housekeepEvery())
	}
	return nil
}

func closeAll(sockets []portpool.Socket) {
	for _, s := range sockets {
		s.Close()
	}
}

const (
	listenReceiveBuffer = 4 << 20 // bytes: some 20 ms at 1 Gbit/s, with the kernel's overhead
	listenSendBuffer    = 1 << 20
)

// openListen opens a socket for each receiver, all on one port, among which the
// kernel shares out what arrives: by the outer 5-tuple, so that a lane always
// comes to the same receiver.
func (d *Device) openListen(port uint16) (all []portpool.Socket, err error) {
	c := portpool.SocketConfig{
		Port: port, FwMark: d.fwMark, Shared: d.shared, GRO: true,
		FreeBind:   d.options.SourcePrefixes != (SourcePrefixes{}),
		SendBuffer: listenSendBuffer, ReceiveBuffer: listenReceiveBuffer / d.workers,
	}
	if d.openSocket != nil {
		s, err := d.openSocket(c) // an injected network has no groups
		if err != nil {
			return nil, err
		}
		return []portpool.Socket{s}, nil
	}
	if all := d.takeInherited(c); all != nil {
		return all, nil
	}
	group, err := portpool.OpenGroup(c, d.workers, portpool.Steering{})
	for _, s := range group {
		all = append(all, s)
	}
	return all, err
}

// serve makes sockets the ones in use. The receivers of the old listen sockets
// end first, so that there is never more than one of each.
func (d *Device) serve(socks *sockets) {
	old := d.sockets.Swap(socks)
	if old != nil {
		closeAll(old.receivers)
	}
	<-d.receiving
	d.listenPort = socks.listen.Port()
	d.receiving = make(chan struct{})
	go d.receiveFrom(socks.receivers, d.receiving)
}

func (d *Device) receiveFrom(sockets []portpool.Socket, done chan<- struct{}) {
	defer close(done)
	var all sync.WaitGroup
	for i, socket := range sockets {
		all.Go(func() {
			d.pin(i)
			d.receive[i].run(socket)
		})
	}
	all.Wait()
}

// moveListen listens on another port. If that fails the old one stays.
func (d *Device) moveListen(port uint16) error {
	old := d.sockets.Load()
	receivers, err := d.openListen(port)
	if err != nil {
		return err
	}
	d.serve(&sockets{listen: receivers[0], receivers: receivers, pool: old.pool})
	return nil
}

func (d *Device) poolConfig() portpool.PoolConfig {
	o := d.options
	c := portpool.PoolConfig{
		Ports: o.Ports, Low: o.PortRange.Low, High: o.PortRange.High, Idle: o.LaneIdle,
		Shared: d.shared, FwMark: d.fwMark, Log: d.log, FreeBind: d.options.SourcePrefixes != (SourcePrefixes{}),
	}
	c.Inherit = portpool.Inheritance{Lanes: d.lanePorts, Files: d.laneFiles, Now: d.clock.Now()}
	d.lanePorts, d.laneFiles = nil, nil
	if d.openSocket != nil {
		c.Open = func(port uint16) (portpool.Socket, error) {
			return d.openSocket(portpool.SocketConfig{Port: port, FwMark: d.fwMark, Shared: d.shared, SendOnly: true})
		}
	}
	return c
}

// closeSockets ends the receiver too.
func (d *Device) closeSockets() {
	if old := d.sockets.Swap(nil); old != nil {
		closeAll(old.receivers)
		old.pool.Close()
		old.pool.Wait()
		<-d.receiving
		d.uplink.stop()
	}
}

func (d *Device) housekeepEvery() time.Duration {
	return max(d.options.LaneIdle/4, time.Second)
}

// keepHouse closes idle ports.
func (d *Device) keepHouse() {
	d.config.Lock()
	defer d.config.Unlock()
	if socks := d.sockets.Load(); socks != nil {
		socks.pool.Expire(d.clock.Now())
		d.housekeep.Reset(d.housekeepEvery())
	}
}

// Close ends [Device.Run], closes the sockets and the TUN device and forgets all
// keys. It may be called more than once.
func (d *Device) Close() {
	d.closing.Do(func() {
		close(d.done)
		d.urgency.close()
		d.config.Lock()
		defer d.config.Unlock()
		d.linkDown()
		d.closed = true
		if d.housekeep != nil {
			d.housekeep.Stop()
		}
		if d.suspendCheck != nil {
			d.suspendCheck.Stop()
		}
		d.where.stop()
		d.removeAllPeers()
		d.tun.Close()
		d.private.Clear()
		d.static.Store(nil)
	})
}

// peer gives the peer with a public key, or nil.
func (d *Device) peer(key noise.PublicKey) *peer {
	d.peersMu.RLock()
	defer d.peersMu.RUnlock()
	return d.peers[key]
}

func (d *Device) mtu() int { return d.tun.MTU() }

// jitter draws a number below n, for timers.
func (d *Device) jitter(n uint32) uint32 { return rand.Uint32N(n) }

// random64 draws the identifier of a probe, which nobody outside may guess.
func (d *Device) random64() uint64 {
	var b [8]byte
	if _, err := io.ReadFull(d.rand, b[:]); err != nil {
		return rand.Uint64() // crypto/rand never fails; an injected source may
	}
	return binary.LittleEndian.Uint64(b[:])
}
