package attach

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"kiloport/tunnel"
	"kiloport/tunnel/attach/accord"
	"kiloport/tunnel/ecn"
)

const (
	tickEvery    = 250 * time.Millisecond // timers and counters
	refreshEvery = time.Second            // what WireGuard says of its peers
	hookEvery    = 10 * time.Second       // beside the kernel's own word that links change
	leaveFor     = 3 * time.Second        // a peer may take to hear that this end leaves
	drainFor     = 2 * time.Second        // what the peer has sent before may take
	spreadFor    = 5 * time.Second        // filters may after the last turn
)

// DefaultPorts is how many source ports there are. Ports are chosen by a hash, not
// one after the other, and every second is for what is ECN-capable: of 300 flows in
// so many, 7 are expected to share one.
const DefaultPorts = 12288

// A Config is what to attach to and how.
type Config struct {
	// Device is the name of the WireGuard interface.
	Device string
	// Range is where data leaves from; Count 0 looks for Ports free ones.
	Range accord.Range
	// Ports is how many to look for; 0 is DefaultPorts.
	Ports uint16
	// DSCP gives the outer DSCP for the inner one. nil leaves it as the kernel
	// sets it, 0.
	DSCP *ecn.DSCPPolicy
	// Log is told what changes.
	Log *slog.Logger
}

// An Attachment is one WireGuard device with lanes.
type Attachment struct {
	config   Config
	device   netlink.Link
	client   *wgctrl.Client
	kernel   *kernelPart
	hooks    hooks
	inner    []hook // on the device itself
	speaker  *speaker
	reader   *ringbuf.Reader
	listener interface{ Close() error }
	heard    chan []byte
	links    chan netlink.LinkUpdate

	sends accord.Range
	local accord.Local
	peers peerTable

	published atomic.Pointer[tunnel.Status]
	stopOnce  sync.Once
	stopping  chan struct{}
	ended     chan struct{}
}

// New attaches to a device: from now on what attached peers send is put back, and
// [Attachment.Run] agrees with them. An error says why it cannot be, and nothing is
// left behind then.
func New(c Config) (*Attachment, error) {
	a := &Attachment{
		config: c, heard: make(chan []byte, 16), links: make(chan netlink.LinkUpdate, 16),
		stopping: make(chan struct{}), ended: make(chan struct{}),
	}
	if err := a.open(); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *Attachment) open() (err error) {
	name := a.config.Device
	if a.client, err = wgctrl.New(); err != nil {
		return fmt.Errorf("ask the kernel for its WireGuard interfaces: %w", err)
	}
	d, err := checkDevice(a.client, name)
	if err != nil {
		return err
	}
	if a.device, err = netlink.LinkByName(name); err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	listener, err := listen(name)
	if err != nil {
		return err
	}
	a.listener = listener
	if err := a.choosePorts(uint16(d.ListenPort)); err != nil {
		return err
	}
	if _, err := removeFilters(name); err != nil {
		return err
	}
	if err := a.load(d); err != nil {
		return err
	}
	go a.serve(listener)
	return nil
}

// choosePorts settles from where data leaves.
func (a *Attachment) choosePorts(listen uint16) (err error) {
	name := a.config.Device
	if err := thisHost.checkSocket(name, listen); err != nil {
		return err
	}
	others := otherAttached(name)
	if a.sends = a.config.Range; a.sends.Count != 0 {
		return thisHost.checkRange(a.sends, listen, others)
	}
	want := a.config.Ports
	if want == 0 {
		want = DefaultPorts
	}
	a.sends, err = thisHost.chooseRange(want, listen, others)
	return err
}

// load puts the programs where they belong.
func (a *Attachment) load(d *wgtypes.Device) (err error) {
	index := a.device.Attrs().Index
	if a.speaker, err = newSpeaker(index); err != nil {
		return err
	}
	if a.kernel, err = loadPrograms(); err != nil {
		return err
	}
	a.peers = newPeerTable(a.kernel, &a.local)
	if err := a.refresh(time.Now(), d); err != nil {
		return err
	}
	if a.reader, err = ringbuf.NewReader(a.kernel.maps.Hellos); err != nil {
		return fmt.Errorf("listen for HELLO: %w", err)
	}
	if err := a.addInner(a.kernel.inner.Hello, incoming); err != nil {
		return err
	}
	if a.config.DSCP != nil {
		if err := a.addInner(a.kernel.inner.Note, outgoing); err != nil {
			return err
		}
	}
	if err := a.keepSpreading(); err != nil {
		return err
	}
	a.hooks = hooks{kernel: a.kernel, device: index, name: a.config.Device, on: make(map[int]*hooked)}
	return a.hooks.sync()
}

// addInner puts a program on the device itself.
func (a *Attachment) addInner(p *ebpf.Program, d direction) error {
	h, err := attachTo(a.device.Attrs().Index, p, d, a.config.Device)
	if err != nil {
		return fmt.Errorf("interface %s: attach: %w", a.config.Device, err)
	}
	a.inner = append(a.inner, h)
	return nil
}

// close takes everything off again, that which changes packets first.
func (a *Attachment) close() {
	for _, h := range a.inner {
		h.Close()
	}
	a.hooks.close()
	if a.reader != nil {
		a.reader.Close()
	}
	if a.kernel != nil {
		a.kernel.close()
	}
	if a.speaker != nil {
		a.speaker.close()
	}
	if a.listener != nil {
		a.listener.Close()
	}
	if a.client != nil {
		a.client.Close()
	}
}

// stop ends Run, as the end of its context does.
func (a *Attachment) stop() { a.stopOnce.Do(func() { close(a.stopping) }) }

// ErrGone says that the device was deleted.
var ErrGone = errors.New("the interface was deleted")

// Run agrees with peers until ctx ends, and then takes leave of them, so that no
// packet is lost on the way, and detaches. It may be called once. The error is
// [ErrGone] if the device is deleted.
func (a *Attachment) Run(ctx context.Context) error {
	defer close(a.ended)
	defer a.close()
	done := make(chan struct{})
	defer close(done)
	if err := netlink.LinkSubscribe(a.links, done); err != nil {
		return fmt.Errorf("watch the interfaces: %w", err)
	}
	go a.read(done)
	a.config.Log.Info("attached", "interface", a.config.Device, "ports", fmt.Sprintf("%d-%d", a.sends.Low, a.sends.High()), "on", a.hooks.names())
	return a.loop(ctx)
}

// read hands on what the program hello has caught.
func (a *Attachment) read(done <-chan struct{}) {
	for {
		record, err := a.reader.Read()
		if err != nil {
			return
		}
		select {
		case a.heard <- record.RawSample:
		case <-done:
			return
		}
	}
}

func (a *Attachment) loop(ctx context.Context) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	var refreshed, hooked time.Time
	for {
		now := time.Now()
		if now.Sub(refreshed) >= refreshEvery {
			refreshed = now
			if err := a.update(now); err != nil {
				return err
			}
		}
		if now.Sub(hooked) >= hookEvery {
			hooked = now
			a.complain(a.hooks.sync())
		}
		a.turn(now)
		select {
		case <-ctx.Done():
			return a.leave()
		case <-a.stopping:
			return a.leave()
		case packet := <-a.heard:
			a.listenTo(time.Now(), packet)
		case <-a.links:
			hooked = time.Time{}
		case <-tick.C:
		}
	}
}

// turn is what time brings: HELLO to say, and counters to look at.
func (a *Attachment) turn(now time.Time) {
	a.complain(a.keepSpreading())
	for _, p := range a.peers.all {
		a.complain(p.count(now))
		say := p.Step(now)
		a.complain(a.peers.apply(now, p))
		if say {
			a.say(now, p, true)
		}
	}
	a.publish(now)
}

// keepSpreading lets programs that outlive this process go on for a while.
func (a *Attachment) keepSpreading() error {
	if !slices.ContainsFunc(a.inner, outlives) {
		return nil
	}
	up, err := thisHost.uptime()
	if err != nil {
		return err
	}
	return a.kernel.spreadUntil(up + spreadFor)
}

// update asks WireGuard for its peers.
func (a *Attachment) update(now time.Time) error {
	d, err := a.client.Device(a.config.Device)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", a.config.Device, ErrGone)
	}
	if err != nil {
		a.complain(fmt.Errorf("ask for %s: %w", a.config.Device, err))
		return nil
	}
	return a.refresh(now, d)
}

// refresh takes what WireGuard says.
func (a *Attachment) refresh(now time.Time, d *wgtypes.Device) error {
	if port := uint16(d.ListenPort); port != a.local.Port {
		if err := a.listenOn(port); err != nil {
			return err
		}
	}
	own, err := ownAddresses(a.device)
	if err != nil {
		return err
	}
	return a.peers.refresh(now, d.Peers, own)
}

// listenOn takes a new listen port, which makes another instance of this end.
func (a *Attachment) listenOn(port uint16) error {
	var b [8]byte
	rand.Read(b[:]) // never fails
	a.local = accord.Local{Instance: binary.NativeEndian.Uint64(b[:]) | 1, Port: port, Sends: a.sends, Flags: accord.Origin}
	s := deviceSettings{port: port, sends: a.sends}
	if a.config.DSCP != nil {
		s.dscp = new([64]uint8)
		for inner := range s.dscp {
			s.dscp[inner] = a.config.DSCP.Outer(uint8(inner))
		}
	}
	return a.kernel.configure(s)
}

// listenTo takes what the program hello has caught.
func (a *Attachment) listenTo(now time.Time, packet []byte) {
	from, _, h, err := accord.ParsePacket(packet)
	if err != nil {
		a.peers.malformed++
		return
	}
	p := a.peers.find(from)
	if p == nil {
		a.peers.malformed++
		return
	}
	if p.Mode != accord.Spread {
		// Its endpoint may be newer than what we know.
		a.complain(a.update(now))
	}
	p.inner = from
	before := p.Theirs.Sends
	answer := p.Listen(now, h)
	if p.Theirs.Sends != before {
		a.peers.share()
	}
	a.complain(a.peers.apply(now, p))
	if answer && now.Sub(p.answered) >= answerEvery {
		p.answered = now
		a.say(now, p, false)
	}
}

// say sends a HELLO to a peer.
func (a *Attachment) say(now time.Time, p *peer, ask bool) {
	to := p.target()
	if !to.IsValid() {
		return
	}
	h := p.hello(now, ask)
	if err := a.speaker.say(from(a.peers.own, to), to, &h); err != nil {
		a.config.Log.Debug("no HELLO", "peer", p.key, "error", err)
	}
}

// leave tells the peers, and goes on putting back what they have sent before.
func (a *Attachment) leave() error {
	began := time.Now()
	for _, p := range a.peers.all {
		p.Leave()
	}
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	spread := false
	for now := began; ; now = time.Now() {
		waiting := false
		for _, p := range a.peers.all {
			a.complain(a.peers.apply(now, p))
			spread = spread || p.Theirs.Flags.Has(accord.Spreading)
			if !p.Left(now) {
				waiting = true
				a.say(now, p, true)
			}
		}
		if !waiting || now.Sub(began) > leaveFor {
			break
		}
		select {
		case packet := <-a.heard:
			a.listenTo(time.Now(), packet)
		case <-tick.C:
		}
	}
	if spread {
		time.Sleep(drainFor)
	}
	a.config.Log.Info("detached", "interface", a.config.Device)
	return nil
}

func (a *Attachment) complain(err error) {
	if err != nil {
		a.config.Log.Error("attached to "+a.config.Device, "error", err)
	}
}
