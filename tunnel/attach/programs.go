package attach

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"kiloport/tunnel/attach/accord"
)

// maxSlots is how many peers have counters, and so may be spread to.
const maxSlots = 4096

// A kernelPart is the eBPF programs and their maps in the kernel. The maps are
// shared by the programs for interfaces with and without a link header, which are
// loaded when first needed.
type kernelPart struct {
	maps  programMaps
	inner struct {
		Hello *ebpf.Program `ebpf:"hello"`
		Note  *ebpf.Program `ebpf:"note"`
	}
	outer    map[uint32]*outerPrograms // by length of the link header
	empty    []programCounts           // of a slot, one for each processor
	settings programSettings
}

// outerPrograms are those for interfaces below WireGuard.
type outerPrograms struct{ Egress, Ingress *ebpf.Program }

func (o *outerPrograms) close() {
	o.Egress.Close()
	o.Ingress.Close()
}

// loadPrograms puts programs and maps into the kernel.
func loadPrograms() (*kernelPart, error) {
	k := &kernelPart{outer: make(map[uint32]*outerPrograms)}
	if err := rlimit.RemoveMemlock(); err != nil { // before Linux 5.11
		return nil, loadError(err)
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count the processors: %w", err)
	}
	k.empty = make([]programCounts, cpus)
	spec, err := loadProgram()
	if err != nil {
		return nil, err
	}
	if err := spec.LoadAndAssign(&k.maps, nil); err != nil {
		return nil, loadError(err)
	}
	err = spec.LoadAndAssign(&k.inner, k.sharing())
	if err == nil {
		_, err = k.programsFor(ethernetHeader)
	}
	if err != nil {
		k.close()
		return nil, loadError(err)
	}
	return k, nil
}

func (k *kernelPart) sharing() *ebpf.CollectionOptions {
	return &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		programMapCounters: k.maps.Counters, programMapDevice: k.maps.Device, programMapEndpoints: k.maps.Endpoints,
		programMapHellos: k.maps.Hellos, programMapSources: k.maps.Sources,
	}}
}

// programsFor gives the programs for interfaces with link headers of a length.
func (k *kernelPart) programsFor(linkHeader uint32) (*outerPrograms, error) {
	if o := k.outer[linkHeader]; o != nil {
		return o, nil
	}
	spec, err := loadProgram()
	if err != nil {
		return nil, err
	}
	o := new(outerPrograms)
	switch linkHeader {
	case ethernetHeader:
		var p struct {
			Egress  *ebpf.Program `ebpf:"egress"`
			Ingress *ebpf.Program `ebpf:"ingress"`
		}
		err = spec.LoadAndAssign(&p, k.sharing())
		o.Egress, o.Ingress = p.Egress, p.Ingress
	case 0:
		var p struct {
			Egress  *ebpf.Program `ebpf:"egress_bare"`
			Ingress *ebpf.Program `ebpf:"ingress_bare"`
		}
		err = spec.LoadAndAssign(&p, k.sharing())
		o.Egress, o.Ingress = p.Egress, p.Ingress
	default:
		err = fmt.Errorf("there are no programs for link headers of %d bytes", linkHeader)
	}
	if err != nil {
		return nil, loadError(err)
	}
	k.outer[linkHeader] = o
	return o, nil
}

// loadError says what a kernel lacks.
func loadError(err error) error {
	var rejected *ebpf.VerifierError
	if errors.As(err, &rejected) {
		return fmt.Errorf("this kernel's verifier refuses an eBPF program: %+v", rejected)
	}
	return fmt.Errorf("load the eBPF programs: %w: it takes Linux 5.10 or newer with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_ACT, and root (CAP_BPF, CAP_NET_ADMIN)", err)
}

func (k *kernelPart) close() {
	k.maps.Close()
	for _, p := range []*ebpf.Program{k.inner.Hello, k.inner.Note} {
		p.Close()
	}
	for _, o := range k.outer {
		o.close()
	}
}

// bigEndian turns a port into how it is on the wire and in the maps.
func bigEndian(port uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
}

func mapAddress(a netip.Addr) (m programAddress) {
	b := a.As16()
	m.Half[0], m.Half[1] = binary.NativeEndian.Uint64(b[:8]), binary.NativeEndian.Uint64(b[8:])
	return m
}

// deviceSettings are what the programs have to know of the WireGuard device.
type deviceSettings struct {
	port  uint16
	sends accord.Range
	dscp  *[64]uint8 // the outer DSCP by the inner one; nil leaves what the kernel sets
}

func (k *kernelPart) configure(d deviceSettings) error {
	s := programSettings{
		Port: bigEndian(d.port), Low: d.sends.Low, Count: d.sends.Count,
		Ask: accord.AskSize + accord.Overhead + udpHeader, Answer: accord.AnswerSize + accord.Overhead + udpHeader,
	}
	if d.dscp != nil {
		s.DscpOn, s.Dscp = 1, *d.dscp
	}
	s.Until = k.settings.Until
	k.settings = s
	return k.putSettings()
}

func (k *kernelPart) putSettings() error {
	if err := k.maps.Device.Put(uint32(0), &k.settings); err != nil {
		return fmt.Errorf("configure the eBPF programs: %w", err)
	}
	return nil
}

// spreadUntil lets the programs spread until the host has been up so long, and no
// longer unless it is called again.
func (k *kernelPart) spreadUntil(uptime time.Duration) error {
	k.settings.Until = uint64(uptime)
	return k.putSettings()
}

// spreading is how data to an endpoint is treated.
type spreading struct {
	slot   uint32
	mode   accord.Mode
	ports  uint16 // of those of the device, how many
	origin bool   // see accord.Origin
}

func endpointKey(to netip.AddrPort) *programEndpoint {
	return &programEndpoint{Address: mapAddress(to.Addr()), Port: bigEndian(to.Port())}
}

// setEndpoint says how data to an endpoint is treated. Our address towards a peer
// that is already probed or spread to is kept.
func (k *kernelPart) setEndpoint(to netip.AddrPort, s spreading) error {
	key := endpointKey(to)
	value := programSpread{Slot: s.slot, Count: s.ports, Mode: uint8(s.mode), Origin: flag(s.origin)}
	var old programSpread
	if s.mode == accord.Spread && k.maps.Endpoints.Lookup(key, &old) == nil {
		value.From = old.From
	}
	if err := k.maps.Endpoints.Put(key, &value); err != nil {
		return fmt.Errorf("say how data to %v is treated: %w", to, err)
	}
	return nil
}

func (k *kernelPart) forgetEndpoint(to netip.AddrPort) error {
	return gone(k.maps.Endpoints.Delete(endpointKey(to)))
}

// restoring is what comes from a peer, and how it is treated.
type restoring struct {
	slot   uint32
	port   uint16       // the peer's
	sends  accord.Range // for which the peer's is put back
	origin bool         // see accord.Origin
}

// peersAtAddress is how many peers the programs can tell apart by their ports.
const peersAtAddress = len(programRestores{}.Of)

// setSource says what comes from an address, of at most peersAtAddress peers. If it
// is none, what comes is left alone.
func (k *kernelPart) setSource(from netip.Addr, peers []restoring) error {
	key := mapAddress(from)
	if len(peers) == 0 {
		return gone(k.maps.Sources.Delete(&key))
	}
	var value programRestores
	for i, p := range peers {
		o := &value.Of[i]
		o.Slot, o.Port, o.Low, o.Count, o.Origin = p.slot, bigEndian(p.port), p.sends.Low, p.sends.Count, flag(p.origin)
	}
	if err := k.maps.Sources.Put(&key, &value); err != nil {
		return fmt.Errorf("say which ports of %v to put back: %w", from, err)
	}
	return nil
}

// gone makes a success of deleting what was not there.
func gone(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}

func flag(yes bool) uint8 {
	if yes {
		return 1
	}
	return 0
}

// clearCounts begins to count for another peer.
func (k *kernelPart) clearCounts(slot uint32) error { return k.maps.Counters.Put(slot, k.empty) }

// counts adds up what all processors have counted.
func (k *kernelPart) counts(slot uint32) (all programCounts, err error) {
	var each []programCounts
	if err := k.maps.Counters.Lookup(slot, &each); err != nil {
		return all, fmt.Errorf("read the counters: %w", err)
	}
	for i := range each {
		all.add(&each[i])
	}
	return all, nil
}

func (c *programCounts) add(o *programCounts) {
	for i := range c.Sent {
		c.Sent[i] += o.Sent[i]
		c.Received[i] += o.Received[i]
	}
	c.SentBytes += o.SentBytes
	c.Spread += o.Spread
	c.ReceivedBytes += o.ReceivedBytes
	c.Restored += o.Restored
	c.Strange += o.Strange
	c.Returned += o.Returned
	c.CeDropped += o.CeDropped
	c.DataSent += o.DataSent
	c.DataReceived += o.DataReceived
}
