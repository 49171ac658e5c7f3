package attach

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"

	"kiloport/tunnel/attach/accord"
)

// TestObjectsAreOfThisSource fails where the programs were changed and not
// compiled again.
func TestObjectsAreOfThisSource(t *testing.T) {
	source, err := os.ReadFile("bpf/attach.c")
	if err != nil {
		t.Fatal(err)
	}
	noted, err := os.ReadFile("bpf/source.sha256")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%x  bpf/attach.c\n", sha256.Sum256(source)); string(noted) != want {
		t.Errorf("the objects are of another bpf/attach.c: go generate ./tunnel/attach (it takes clang and libbpf-dev)")
	}
}

// What the tests have as their two ends.
const ourPort, theirPort = 51820, 51821

var (
	ourRange   = accord.Range{Low: 20480, Count: 8192}
	theirRange = accord.Range{Low: 30000, Count: 1024}
)

// rig is the programs in this kernel, which runs them on packets of the tests.
type rig struct {
	*testing.T
	kernel *kernelPart
}

func newRig(t *testing.T) *rig {
	t.Helper()
	k, err := loadPrograms()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.close)
	r := &rig{t, k}
	r.do(k.configure(deviceSettings{port: ourPort, sends: ourRange}))
	return r
}

func (r *rig) do(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// verdict is what a program made of a packet.
type verdict struct {
	action int32
	packet []byte
}

const actUnspecified, actShot = -1, 2

func (r *rig) run(p *ebpf.Program, packet []byte) verdict {
	r.Helper()
	out := make([]byte, len(packet)+256)
	o := ebpf.RunOptions{Data: packet, DataOut: out}
	code, err := p.Run(&o)
	r.do(err)
	return verdict{int32(code), o.DataOut}
}

func (r *rig) egress(packet []byte) verdict {
	r.Helper()
	return r.run(r.kernel.outer[ethernetHeader].Egress, packet)
}

func (r *rig) ingress(packet []byte) verdict {
	r.Helper()
	return r.run(r.kernel.outer[ethernetHeader].Ingress, packet)
}

func (r *rig) counts(slot uint32) programCounts {
	r.Helper()
	c, err := r.kernel.counts(slot)
	r.do(err)
	return c
}

// source says that one peer is at an address.
func (r *rig) source(from netip.AddrPort, sends accord.Range, origin bool) {
	r.Helper()
	r.do(r.kernel.setSource(from.Addr(), []restoring{{slot, from.Port(), sends, origin}}))
}

// datagram is an Ethernet frame with a UDP datagram of which the tests change what
// they are about.
type datagram struct {
	from, to netip.AddrPort
	tos      uint8
	payload  []byte
	noSum    bool
	fragment uint16
	vlan     bool
	protocol uint8
	options  bool
	// the frame is to another address than the interface's
	otherHost bool
}

// message is a WireGuard message of a type and size.
func message(kind byte, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i * 7)
	}
	copy(b, []byte{kind, 0, 0, 0})
	return b
}

func (d datagram) bytes() []byte {
	be := binary.BigEndian
	udp := make([]byte, udpHeader, udpHeader+len(d.payload))
	be.PutUint16(udp, d.from.Port())
	be.PutUint16(udp[2:], d.to.Port())
	be.PutUint16(udp[4:], uint16(udpHeader+len(d.payload)))
	udp = append(udp, d.payload...)
	src, dst := d.from.Addr().AsSlice(), d.to.Addr().AsSlice()
	protocol := d.protocol
	if protocol == 0 {
		protocol = 17
	}
	if !d.noSum {
		s := onesSum(udp, onesSum(src, onesSum(dst, uint16(len(udp))+17)))
		be.PutUint16(udp[6:], ^s)
	}
	frame := make([]byte, 12, 1600)
	if d.otherHost {
		frame[0] = 2
	}
	etherType := uint16(0x86dd)
	if d.from.Addr().Is4() {
		etherType = 0x0800
	}
	if d.vlan {
		frame = append(frame, 0x81, 0, 0, 100)
	}
	frame = be.AppendUint16(frame, etherType)
	if d.from.Addr().Is4() {
		ip := make([]byte, 20)
		ip[0], ip[1], ip[8], ip[9] = 0x45, d.tos, 64, protocol
		if d.options {
			ip = append(ip, 1, 1, 1, 0)
			ip[0] = 0x46
		}
		be.PutUint16(ip[2:], uint16(len(ip)+len(udp)))
		be.PutUint16(ip[6:], d.fragment)
		copy(ip[12:], src)
		copy(ip[16:], dst)
		be.PutUint16(ip[10:], ^onesSum(ip, 0))
		frame = append(frame, ip...)
	} else {
		ip := make([]byte, 40)
		be.PutUint32(ip, 6<<28|uint32(d.tos)<<20)
		be.PutUint16(ip[4:], uint16(len(udp)))
		ip[6], ip[7] = protocol, 64
		copy(ip[8:], src)
		copy(ip[24:], dst)
		frame = append(frame, ip...)
	}
	return append(frame, udp...)
}

func onesSum(b []byte, more uint16) uint16 {
	total := uint32(more)
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i]) << 8
		if i+1 < len(b) {
			word |= uint32(b[i+1])
		}
		total += word
	}
	for total > 0xffff {
		total = total&0xffff + total>>16
	}
	return uint16(total)
}

// A parsed frame, of either family.
type parsed struct {
	from, to netip.AddrPort
	tos      uint8
	label    uint32
	sumsGood bool
	noSum    bool
}

func parse(t *testing.T, frame []byte) (p parsed) {
	t.Helper()
	be := binary.BigEndian
	ip := frame[14:]
	var udp, pseudo []byte
	switch be.Uint16(frame[12:]) {
	case 0x0800:
		udp, pseudo = ip[20:], ip[12:20]
		p.tos = ip[1]
		p.from = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:])), be.Uint16(udp))
		p.to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:])), be.Uint16(udp[2:]))
		p.sumsGood = onesSum(ip[:20], 0) == 0xffff
	case 0x86dd:
		udp, pseudo = ip[40:], ip[8:40]
		p.tos = uint8(be.Uint32(ip) >> 20)
		p.label = be.Uint32(ip) & 0xfffff
		p.from = netip.AddrPortFrom(netip.AddrFrom16([16]byte(ip[8:])), be.Uint16(udp))
		p.to = netip.AddrPortFrom(netip.AddrFrom16([16]byte(ip[24:])), be.Uint16(udp[2:]))
		p.sumsGood = true
	default:
		t.Fatalf("neither IPv4 nor IPv6: % x", frame[:16])
	}
	p.noSum = be.Uint16(udp[6:]) == 0
	p.sumsGood = p.sumsGood && (p.noSum || onesSum(udp, onesSum(pseudo, uint16(len(udp)+17))) == 0xffff)
	return p
}
