package portpool

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// MaxPorts is the most lanes and source ports of a pool: 14 of the 16 bits
// that a transport counter has for the lane, and a quarter of all ports.
const MaxPorts = 16383

const (
	defaultPorts = 1024
	defaultIdle  = 60 * time.Second

	// retryAfter is when ports that could not be had are tried again.
	retryAfter = int64(10 * time.Minute)
	// maxTries bounds the busy ports that one packet passes over.
	maxTries = 64

	// What all sockets of a pool may ask for together, and the bounds for
	// each. In the send buffer of a lane waits only what the interface has
	// not sent; with 1024 ports each gets 256 KiB, of which the kernel makes
	// 512 KiB or 220 datagrams of 1500 bytes, or seven super-datagrams of
	// 45. It is not a reservation: a queue of fq_codel never holds more than
	// 32 MB in all, so the least that a lane gets may exceed the budget.
	sendBudget, minSend, maxSend = 256 << 20, 128 << 10, 1 << 20
	// The receive buffers matter only with PoolConfig.Receive; with 1024
	// ports each gets 128 KiB, granted as 256 KiB or 110 datagrams of 1500
	// bytes: 1.3 ms at 1 Gbit/s. Were all full, they would hold 256 MiB.
	receiveBudget, minReceive, maxReceive = 128 << 20, 32 << 10, 1 << 20
)

// ErrNoLane is what [Pool.Socket] returns for a lane above [Pool.Limit].
var ErrNoLane = errors.New("pool: no socket can be had for this lane")

// PoolConfig describes a pool. The zero value is 1024 ports of the kernel's
// choice.
type PoolConfig struct {
	// Ports is how many sockets, hence lanes, there may be at one time, 1 to
	// MaxPorts; 0 means 1024.
	Ports int
	// Low and High are the first and last port to use. Both 0 leaves the
	// ports to the kernel (net.ipv4.ip_local_port_range).
	Low, High uint16
	// Idle is after how long without use a socket is closed; 0 means 60 s.
	Idle time.Duration

	// Open opens a socket on a port, 0 being any; nil means [Open] with the
	// settings below. A socket with a SetMark method like UDPSocket's gets
	// the mark through it.
	Open func(port uint16) (Socket, error)
	// Receive makes sockets that can also receive. Somebody must then read
	// them; without it, what arrives is dropped in the kernel.
	Receive bool
	// Inherit is what there is of a pool in another process.
	Inherit Inheritance
	// Shared is what the sockets have in common; nil makes one.
	Shared *Shared

	// FreeBind is SocketConfig's.
	FreeBind bool
	// FwMark is the routing mark of all sockets, 0 for none.
	FwMark uint32
	// Rand orders the ports of a range; nil means one seeded at random.
	Rand rand.Source
	// Log gets at most two warnings in the pool's life: that ports are busy,
	// and that there are fewer lanes than asked for. nil means none.
	Log *slog.Logger
}

// Pool is the UDP sockets that all peers share, one per lane. A socket is
// opened when its lane is first used and closed when idle, because each costs
// a descriptor here and a mapping in every NAT and firewall on the way. It is
// safe for use by several goroutines.
type Pool struct {
	idle, grain int64
	openPort    func(port uint16) (Socket, error)
	tryPort     func(port uint16) error // a cheaper openPort that opens nothing, or nil
	lone        *rawPair                // nil if there is none
	settings    SocketConfig            // of openPort's sockets, if they are the kernel's
	log         *slog.Logger
	asked       int

	slots []atomic.Pointer[entry] // [0] is lane 1
	limit atomic.Int32
	count atomic.Int32 // open sockets

	mu      sync.Mutex // for opening and closing; not taken by a packet whose lane is open
	closed  bool
	mark    uint32
	ports   ports
	retryAt int64 // when to try for more lanes, 0: not set
	saidFew bool
	said    bool // that ports are busy

	serve   func(lane uint16, s Socket) // what Listen was given
	serving sync.WaitGroup

	saidDeaf bool // that one cannot receive
}

// entry is an open socket. used is when its lane was last used, to within the
// pool's grain, or closing.
type entry struct {
	sock Socket
	used atomic.Int64
}

const closing = math.MinInt64

// NewPool checks the configuration and makes a pool without any open socket.
// Where a port range is given it tries the ports once, so that Limit is true
// from the start and a busy port is found now and not by a packet.
func NewPool(cfg PoolConfig) (*Pool, error) {
	cfg.Ports = cmp.Or(cfg.Ports, defaultPorts)
	cfg.Idle = cmp.Or(cfg.Idle, defaultIdle)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.NewPCG(rand.Uint64(), rand.Uint64())
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	p := &Pool{
		idle:     cfg.Idle.Nanoseconds(),
		grain:    cfg.Idle.Nanoseconds() / 32,
		openPort: cfg.Open,
		log:      cfg.Log,
		asked:    cfg.Ports,
		mark:     cfg.FwMark,
		slots:    make([]atomic.Pointer[entry], cfg.Ports),
		ports:    newPorts(cfg.Low, cfg.High, rand.New(cfg.Rand)),
	}
	if p.openPort == nil {
		if cfg.Shared == nil {
			cfg.Shared = NewShared(SharedConfig{Log: cfg.Log})
		}
		p.lone = openRawPair(cfg.Shared, cfg.FwMark)
		if cfg.FreeBind {
			p.lone.freeBind()
		}
		p.settings = settingsFor(cfg, p.lone)
		p.openPort, p.tryPort = p.openKernel, tryPort
	}
	p.limit.Store(int32(cfg.Ports))
	p.inherit(&cfg)
	if err := p.survey(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (cfg *PoolConfig) check() error {
	switch size := int(cfg.High) - int(cfg.Low) + 1; {
	case cfg.Ports < 1 || cfg.Ports > MaxPorts:
		return fmt.Errorf("pool: %d ports are out of range: choose 1 to %d", cfg.Ports, MaxPorts)
	case cfg.Idle < 0:
		return fmt.Errorf("pool: idle time %v is negative: choose how long a lane may be unused, such as 60s", cfg.Idle)
	case cfg.Low == 0 && cfg.High == 0:
		return nil
	case cfg.Low == 0 || cfg.High == 0 || size < 1:
		return fmt.Errorf("pool: port range %d-%d is no range: give the lower port first, both 1 to 65535, or 0-0 for the kernel's choice", cfg.Low, cfg.High)
	case size < cfg.Ports:
		return fmt.Errorf("pool: port range %d-%d has %d ports, fewer than the %d ports asked for: widen the range or ask for at most %d", cfg.Low, cfg.High, size, cfg.Ports, size)
	}
	return nil
}

// settingsFor gives sockets buffers for a pool of that size.
func settingsFor(cfg PoolConfig, lone *rawPair) SocketConfig {
	sc := SocketConfig{
		SendBuffer: min(max(sendBudget/cfg.Ports, minSend), maxSend),
		SendOnly:   !cfg.Receive,
		FreeBind:   cfg.FreeBind,
		Shared:     cfg.Shared,
		lone:       lone,
	}
	if cfg.Receive {
		sc.ReceiveBuffer = min(max(receiveBudget/cfg.Ports, minReceive), maxReceive)
	}
	return sc
}

func (p *Pool) openKernel(port uint16) (Socket, error) {
	c := p.settings
	c.Port = port
	s, err := Open(c)
	if err != nil {
		return nil, err // not s: a nil *UDPSocket is not a nil Socket
	}
	return s, nil
}

// Socket gives the socket of a lane, 1 to Limit, and opens it if it is not. It
// costs a few nanoseconds if it is. The socket stays open for at least the idle
// time from now; do not keep it longer, ask again.
//
// The error is [ErrNoLane] if the lane is above Limit, also where this very
// call found that there are not as many: ask Limit and choose another lane. It
// is [net.ErrClosed] after Close.
func (p *Pool) Socket(now int64, lane uint16) (Socket, error) {
	if lane == 0 || int(lane) > p.Limit() {
		return nil, ErrNoLane
	}
	if e := p.slots[lane-1].Load(); e != nil && e.use(now, p.grain) {
		return e.sock, nil
	}
	return p.openLane(now, lane)
}

// use notes that a socket is used, unless it is being closed. It writes only
// once in a while, because all workers share the cache line.
func (e *entry) use(now, grain int64) bool {
	for {
		used := e.used.Load()
		if used == closing {
			return false
		}
		if now-used < grain || e.used.CompareAndSwap(used, now) {
			return true
		}
	}
}

func (p *Pool) openLane(now int64, lane uint16) (Socket, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, net.ErrClosed
	}
	slot := &p.slots[lane-1]
	if e := slot.Load(); e != nil {
		// Opened meanwhile, or about to be closed by Expire, which needs
		// the lock for it and then finds that the socket is in use again.
		e.used.Store(now)
		return e.sock, nil
	}
	e := new(entry)
	sock, err := p.openAny()
	if err == nil {
		e.sock = sock
		p.count.Add(1)
		p.listenIfAsked(lane, sock)
	} else {
		p.shrink(now, err)
		if e = p.takeOver(lane); e == nil {
			return nil, ErrNoLane
		}
	}
	e.used.Store(now)
	slot.Store(e)
	return e.sock, nil
}

// openAny opens a socket on the next port that can be had.
func (p *Pool) openAny() (Socket, error) {
	err := errNoPort
	for range maxTries {
		port, ok := p.ports.take()
		if !ok {
			break
		}
		var sock Socket
		if sock, err = p.tryOpen(port); err == nil {
			return sock, nil
		}
		if port == 0 || !isBusy(err) {
			p.ports.give(port)
			break
		}
		p.ports.busy = append(p.ports.busy, port)
		p.sayBusy()
	}
	return nil, err
}

func (p *Pool) tryOpen(port uint16) (Socket, error) {
	sock, err := p.openPort(port)
	if err != nil || p.mark == 0 {
		return sock, err
	}
	if err = setMark(sock, p.mark); err != nil {
		sock.Close()
		return nil, err
	}
	return sock, nil
}

func setMark(sock Socket, mark uint32) error {
	if m, ok := sock.(interface{ SetMark(uint32) error }); ok {
		return m.SetMark(mark)
	}
	return nil
}

// isBusy tells that another port may do where this one does not.
func isBusy(err error) bool {
	return errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EADDRNOTAVAIL)
}

// shrink accepts that there are no more sockets to be had than are open.
func (p *Pool) shrink(now int64, why error) {
	p.limit.Store(p.count.Load())
	p.retryAt = now + retryAfter
	if !p.saidFew {
		p.saidFew = true
		p.log.Warn("fewer lanes than asked for: no further port can be had",
			"lanes", p.Limit(), "asked", p.asked, "err", why)
	}
}

// takeOver gives a lane within the limit the socket of the highest lane above
// it. There is one, because the limit is the number of open sockets.
func (p *Pool) takeOver(lane uint16) *entry {
	limit := p.Limit()
	if int(lane) > limit {
		return nil
	}
	for i := len(p.slots) - 1; i >= limit; i-- {
		if e := p.slots[i].Load(); e != nil {
			p.slots[i].Store(nil)
			return e
		}
	}
	return nil
}

// Limit is how many lanes can really be had: at first the number asked for, or
// of free ports in the range; less once the kernel has refused more. After ten
// minutes more are tried again.
func (p *Pool) Limit() int { return int(p.limit.Load()) }

// Open is how many sockets are open.
func (p *Pool) Open() int { return int(p.count.Load()) }

// Expire closes the sockets that have been idle and returns how many. Call it
// every second or so.
func (p *Pool) Expire(now int64) (closed int) {
	for i := range p.slots {
		e := p.slots[i].Load()
		if e == nil {
			continue
		}
		used := e.used.Load()
		// One grain more than the idle time: used may be that much too old.
		if used != closing && now-used >= p.idle+p.grain && e.used.CompareAndSwap(used, closing) {
			closed += p.closeLane(i, e)
		}
	}
	p.regrow(now)
	return closed
}

func (p *Pool) closeLane(i int, e *entry) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.slots[i].Load() != e || e.used.Load() != closing {
		return 0 // closed by Close, or used again by openLane
	}
	p.slots[i].Store(nil)
	port := e.sock.Port()
	e.sock.Close()
	p.ports.give(port)
	p.count.Add(-1)
	return 1
}

// regrow makes the lanes that could not be had available for another try.
func (p *Pool) regrow(now int64) {
	if p.Limit() == p.asked {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
	case p.retryAt == 0:
		p.retryAt = now + retryAfter
	case now >= p.retryAt:
		p.ports.retryBusy()
		p.retryAt = 0
		p.limit.Store(int32(p.asked))
	}
}

// PortState is one open socket of a pool.
type PortState struct {
	Lane uint16 // 1 to MaxPorts
	Port uint16 // local port
	Used int64  // when the lane was last used, monotonic ns, up to 1/32 of the idle time too early
}

// Ports lists the open sockets in the order of their lanes.
func (p *Pool) Ports() []PortState {
	states := make([]PortState, 0, p.Open())
	for i := range p.slots {
		if e := p.slots[i].Load(); e != nil {
			if used := e.used.Load(); used != closing {
				states = append(states, PortState{uint16(i + 1), e.sock.Port(), used})
			}
		}
	}
	return states
}

// SetMark changes the routing mark of all sockets, open and to come. It needs
// CAP_NET_ADMIN; the error is the first one, and the others have been tried.
func (p *Pool) SetMark(mark uint32) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mark = mark
	if p.closed {
		return nil
	}
	err = p.lone.each(func(s *rawSocket) error { return s.setMark(mark) })
	for i := range p.slots {
		if e := p.slots[i].Load(); e != nil {
			if e := setMark(e.sock, mark); err == nil && !errors.Is(e, net.ErrClosed) {
				err = e
			}
		}
	}
	return err
}

// Close closes all sockets. Afterwards Socket gives [net.ErrClosed].
func (p *Pool) Close() (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		err = p.lone.each((*rawSocket).close)
	}
	p.closed = true
	for i := range p.slots {
		if e := p.slots[i].Swap(nil); e != nil {
			e.used.Store(closing)
			err = cmp.Or(err, e.sock.Close())
			p.count.Add(-1)
		}
	}
	return err
}
