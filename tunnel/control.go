package tunnel

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"kiloport/queue"
)

// Control messages travel as the payload of a transport message. The first
// byte tells them from IP, whose first nibble is 4 or 6; a stock peer drops
// such a payload after authenticating it, which costs it nothing.
//
//	payload = 0xF1 { type(1) length(2, big endian) body(length) } padding
//
// Type 0 ends the list, so that WireGuard's zero padding reads as its end. A
// message of unknown type is skipped, and so is an unknown field of a known
// message: the version only grows.
const controlMagic = 0xF1

type controlType uint8

const (
	controlEnd       controlType = 0
	controlHello     controlType = 1
	controlHelloAck  controlType = 2
	controlProbe     controlType = 3
	controlProbeEcho controlType = 4
	controlReport    controlType = 5
	controlHeard     controlType = 6
	controlOpen      controlType = 7
	controlOpened    controlType = 8
	controlPiece     controlType = 9
)

const (
	controlVersion    = 1
	controlHeaderLen  = 3
	maxControlPayload = 1200 // stays below every IPv6 path's 1280 with all headers
)

var errControl = errors.New("malformed control message")

// hello is the body of HELLO and HELLO_ACK, a list of fields:
//
//	field = id(1) length(1) value(length), integers big endian
type hello struct {
	Version      uint8
	SendLanes    uint16 // lanes above 0 that the sender would like to send on
	ReceiveLanes uint16 // lanes above 0 that the sender of HELLO accepts
	ECN          uint8  // helloECN… bits
	DSCP         uint8  // helloDSCP… bits
	AEADs        uint16 // helloAEAD… bits
	Path         uint16 // helloPath… bits

	// ReceiveRate, bit/s, is what the sender of HELLO asks to be sent at most, 0
	// for no limit; ReceiveOverhead is what its link adds to each packet. They
	// travel if there is a limit.
	ReceiveRate     int64
	ReceiveOverhead queue.Overhead
}

const (
	helloFieldVersion      = 1
	helloFieldSendLanes    = 2
	helloFieldReceiveLanes = 3
	helloFieldECN          = 4
	helloFieldDSCP         = 5
	helloFieldAEADs        = 6
	helloFieldPath         = 7
	helloFieldReceive      = 8
)

const (
	helloECNDecapsulates   = 1 << 0 // RFC 6040 decapsulation: normal mode is safe towards the sender
	helloDSCPInherits      = 1 << 0 // the sender copies the inner DSCP outwards
	helloAEADChaCha        = 1 << 0 // ChaCha20-Poly1305, always there
	helloAEADAES256        = 1 << 1 // AES-256-GCM, wanted if both say so
	helloPathDirect        = 1 << 0 // the sender receives lanes at its listen port
	helloPathReports       = 1 << 1 // the sender reads REPORT
	helloPathVouched       = 1 << 2 // the sender takes packets whose transport checksum was not computed
	helloPathHeard         = 1 << 3 // the sender reads HEARD
	helloPathReturn        = 1 << 4 // the sender receives lanes at the ports that it sends from, if asked by OPEN
	helloPathPieces        = 1 << 5 // the sender puts PIECEs together
	helloPathQuick         = 1 << 8 // the sender wants to have REPORT every 200 ms while it sends, for its rate
	helloIntegerFieldLimit = 2      // widest field known so far, bytes
)

func (h *hello) fields() [7]struct {
	id    uint8
	width uint8
	value uint16
} {
	return [7]struct {
		id    uint8
		width uint8
		value uint16
	}{
		{helloFieldVersion, 1, uint16(h.Version)},
		{helloFieldSendLanes, 2, h.SendLanes},
		{helloFieldReceiveLanes, 2, h.ReceiveLanes},
		{helloFieldECN, 1, uint16(h.ECN)},
		{helloFieldDSCP, 1, uint16(h.DSCP)},
		{helloFieldAEADs, 2, h.AEADs},
		{helloFieldPath, 2, h.Path},
	}
}

func (h *hello) append(b []byte) []byte {
	for _, f := range h.fields() {
		b = append(b, f.id, f.width)
		if f.width == 1 {
			b = append(b, uint8(f.value))
		} else {
			b = binary.BigEndian.AppendUint16(b, f.value)
		}
	}
	if h.ReceiveRate != 0 {
		b = h.appendReceive(b)
	}
	return b
}

// appendReceive adds the field of 13 bytes
//
//	rate(8, bit/s) overhead(2, signed) minimum-packet(2) cells(1)
func (h *hello) appendReceive(b []byte) []byte {
	b = append(b, helloFieldReceive, helloReceiveLen)
	b = binary.BigEndian.AppendUint64(b, uint64(h.ReceiveRate))
	b = binary.BigEndian.AppendUint16(b, uint16(int16(h.ReceiveOverhead.Bytes)))
	b = binary.BigEndian.AppendUint16(b, uint16(h.ReceiveOverhead.MPU))
	return append(b, uint8(h.ReceiveOverhead.Cells))
}

const helloReceiveLen = 8 + 2 + 2 + 1

func (h *hello) setReceive(b []byte) {
	h.ReceiveRate, h.ReceiveOverhead = int64(binary.BigEndian.Uint64(b)), queue.Overhead{}
	if h.ReceiveRate == 0 {
		return
	}
	h.ReceiveOverhead = queue.Overhead{
		Bytes: int(int16(binary.BigEndian.Uint16(b[8:]))), MPU: int(binary.BigEndian.Uint16(b[10:])), Cells: queue.Cells(b[12]),
	}
}

// parseHello reads the fields it knows. A field of another width than ours is
// a later version's and skipped; a HELLO without a version is refused.
func parseHello(b []byte) (h hello, err error) {
	for len(b) > 0 {
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return hello{}, errControl
		}
		h.set(b[0], b[2:2+int(b[1])])
		b = b[2+int(b[1]):]
	}
	if h.Version == 0 {
		return hello{}, errControl
	}
	return h, nil
}

func (h *hello) set(id uint8, value []byte) {
	var v uint16
	switch len(value) {
	case 1:
		v = uint16(value[0])
	case helloIntegerFieldLimit:
		v = binary.BigEndian.Uint16(value)
	}
	switch {
	case id == helloFieldVersion && len(value) == 1:
		h.Version = uint8(v)
	case id == helloFieldSendLanes && len(value) == 2:
		h.SendLanes = v
	case id == helloFieldReceiveLanes && len(value) == 2:
		h.ReceiveLanes = v
	case id == helloFieldECN && len(value) == 1:
		h.ECN = uint8(v)
	case id == helloFieldDSCP && len(value) == 1:
		h.DSCP = uint8(v)
	case id == helloFieldAEADs && len(value) == 2:
		h.AEADs = v
	case id == helloFieldPath && len(value) == 2:
		h.Path = v
	case id == helloFieldReceive && len(value) == helloReceiveLen:
		h.setReceive(value)
	}
}

// probe asks the far end to say what arrived. It travels on the lane that it
// tests; the answer comes back on lane 0, which is known to work.
type probe struct {
	ID   uint64 // drawn at random by the prober, so that only an answer can hold it
	Sent int64  // the prober's clock, nanoseconds; means nothing to anybody else
}

const probeLen = 16

func (p *probe) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, p.ID)
	return binary.BigEndian.AppendUint64(b, uint64(p.Sent))
}

func parseProbe(b []byte) (p probe, err error) {
	if len(b) < probeLen {
		return probe{}, errControl
	}
	p.ID = binary.BigEndian.Uint64(b)
	p.Sent = int64(binary.BigEndian.Uint64(b[8:]))
	return p, nil
}

// probeEcho says how a probe arrived: the outer header as the far end saw it.
type probeEcho struct {
	probe
	Lane         uint16
	Size         uint16 // the whole UDP payload, bytes
	TrafficClass uint8  // DSCP and ECN
	HopLimit     uint8
	Arrived      int64          // the far end's wall clock, Unix nanoseconds; 0 if its kernel gave none
	Source       netip.AddrPort // the outer source: what NAT made of us
}

const probeEchoLen = probeLen + 2 + 2 + 1 + 1 + 8 + 16 + 2

func (e *probeEcho) append(b []byte) []byte {
	b = e.probe.append(b)
	b = binary.BigEndian.AppendUint16(b, e.Lane)
	b = binary.BigEndian.AppendUint16(b, e.Size)
	b = append(b, e.TrafficClass, e.HopLimit)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Arrived))
	a := e.Source.Addr().As16()
	b = append(b, a[:]...)
	return binary.BigEndian.AppendUint16(b, e.Source.Port())
}

func parseProbeEcho(b []byte) (e probeEcho, err error) {
	if len(b) < probeEchoLen {
		return probeEcho{}, errControl
	}
	e.probe, _ = parseProbe(b)
	b = b[probeLen:]
	e.Lane = binary.BigEndian.Uint16(b)
	e.Size = binary.BigEndian.Uint16(b[2:])
	e.TrafficClass, e.HopLimit = b[4], b[5]
	e.Arrived = int64(binary.BigEndian.Uint64(b[6:]))
	addr := netip.AddrFrom16([16]byte(b[14:30])).Unmap()
	e.Source = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[30:]))
	return e, nil
}

// appendControl adds one message to a payload, which begins with controlMagic
// if it is still empty.
func appendControl(payload []byte, t controlType, body interface{ append([]byte) []byte }) []byte {
	if len(payload) == 0 {
		payload = append(payload, controlMagic)
	}
	at := len(payload)
	payload = append(payload, byte(t), 0, 0)
	payload = body.append(payload)
	binary.BigEndian.PutUint16(payload[at+1:], uint16(len(payload)-at-controlHeaderLen))
	return payload
}

// nextControl takes the first message off a payload without its magic byte.
// The list is at its end when t is controlEnd.
func nextControl(b []byte) (t controlType, body, rest []byte, err error) {
	if len(b) == 0 || controlType(b[0]) == controlEnd {
		return controlEnd, nil, nil, nil
	}
	if len(b) < controlHeaderLen {
		return controlEnd, nil, nil, errControl
	}
	n := int(binary.BigEndian.Uint16(b[1:]))
	if len(b) < controlHeaderLen+n {
		return controlEnd, nil, nil, errControl
	}
	return controlType(b[0]), b[controlHeaderLen : controlHeaderLen+n], b[controlHeaderLen+n:], nil
}
