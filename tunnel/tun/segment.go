package tun

import "encoding/binary"

// maxHeaders is how long the headers of a super-packet can be, bytes: 60 of
// IPv4 and 60 of TCP, or as many extension headers of IPv6 as anyone sends.
const maxHeaders = 256

// Segmenter makes packets as they go on the wire of what [Queue.Read] gives:
// it cuts super-packets and finishes checksums. The packets are those that the
// kernel would make.
//
// No payload is copied. Segments come first to last, and the headers of each are
// written right before its payload, where the end of the segment before it is:
// so that must have been sealed into another buffer, or copied, by then. To seal
// is to copy; a buffer that is sealed in place would gain nothing. Padding goes
// over the payload that comes next, which is put back: see [Segmenter.Pad].
//
// A Segmenter belongs to one goroutine and can be used again and again. The zero
// value is ready for [Segmenter.Reset].
type Segmenter struct {
	packet  []byte
	at, end int // of the payload that comes next, and where all ends
	size    int // payload of each segment but the last
	headers int // length of all headers
	ip      int // offset of the transport header
	tcp     bool
	vouched bool
	first   bool
	single  bool // nothing is to be cut

	flags  uint8  // of TCP, of the super-packet
	id     uint16 // of IPv4, of the next segment
	seq    uint32 // of TCP, of the next segment
	ipSum  uint64 // of the IPv4 header, without length and ID
	pseudo uint64 // sum of the pseudo header without the length
	saved  [maxHeaders]byte

	padding int // bytes behind at that Pad has zeroed
	covered [MaxPadding]byte
}

// MaxPadding is how many bytes [Segmenter.Pad] adds at most.
const MaxPadding = 16

// VouchedChecksum is what stands in the checksum field of a vouched packet.
const VouchedChecksum = 0

// Reset starts with a packet. The Segmenter writes into it until the last call
// of Next. With vouch the packets go to somebody who takes the tunnel's word
// for their content, by [Coalescer.Add] with vouched: where the host left the
// transport checksum unfinished, or has seen that it is right, its field then
// becomes [VouchedChecksum] and nothing is summed. See [Segmenter.Vouched].
//
// [ErrMalformed] says that header and packet do not go together.
func (s *Segmenter) Reset(h Header, packet []byte, vouch bool) error {
	s.packet, s.at, s.end = packet, 0, len(packet)
	s.first, s.vouched, s.single = true, false, h.GSO == GSONone
	s.padding = 0
	err := ErrMalformed
	switch {
	case s.single:
		err = s.resetSingle(h, vouch)
	case s.resetSuper(h):
		s.vouched, err = vouch && s.isPlain(), nil
	}
	if err != nil {
		s.end = 0
	}
	return err
}

// Vouched says whether the segments' checksum fields are [VouchedChecksum], so
// that the other end must be told.
func (s *Segmenter) Vouched() bool { return s.vouched }

// Len says how many segments Next has still to give.
func (s *Segmenter) Len() int {
	switch {
	case s.at >= s.end:
		return 0
	case s.single:
		return 1
	}
	return (s.end - s.at + s.size - 1) / s.size
}

// Next gives the next segment, a whole packet, or nil after the last. It lies in
// the buffer given to Reset, and is good until the next call.
func (s *Segmenter) Next() []byte {
	s.unpad()
	if s.at >= s.end {
		return nil
	}
	if s.single {
		s.at = s.end
		return s.packet
	}
	end := min(s.at+s.size, s.end)
	segment := s.packet[s.at-s.headers : end : end]
	if !s.first {
		copy(segment, s.saved[:s.headers])
	}
	last := end == s.end
	if s.ip4() {
		s.finishIPv4(segment)
	} else {
		binary.BigEndian.PutUint16(segment[4:], uint16(len(segment)-ipv6Size))
	}
	if s.tcp {
		s.finishTCP(segment[s.ip:], last)
	} else {
		s.finishUDP(segment[s.ip:])
	}
	s.first = false
	s.at = end
	return segment
}

// Pad gives the segment that Next gave, with n zeros behind it, 0 to
// [MaxPadding]. It stands until the next call of Next. Behind the packet that was
// given to Reset, its slice must have room for n bytes, or Pad panics.
func (s *Segmenter) Pad(segment []byte, n int) []byte {
	s.unpad()
	padding := s.packet[s.at : s.at+n]
	copy(s.covered[:n], padding)
	clear(padding)
	s.padding = n
	from := s.at - len(segment)
	return s.packet[from : s.at+n]
}

// unpad puts back what Pad has covered.
func (s *Segmenter) unpad() {
	copy(s.packet[s.at:s.at+s.padding], s.covered[:])
	s.padding = 0
}

func (s *Segmenter) ip4() bool { return s.saved[0]>>4 == 4 }

func (s *Segmenter) finishIPv4(segment []byte) {
	binary.BigEndian.PutUint16(segment[2:], uint16(len(segment)))
	binary.BigEndian.PutUint16(segment[4:], s.id)
	putSum(segment[10:], ^fold(s.ipSum+word(uint16(len(segment)))+word(s.id)))
	s.id++
}

func (s *Segmenter) finishTCP(t []byte, last bool) {
	binary.BigEndian.PutUint32(t[4:], s.seq)
	s.seq += uint32(len(t) - (s.headers - s.ip))
	flags := s.flags
	if !last {
		flags &^= flagFIN | flagPSH
	}
	if !s.first {
		flags &^= flagCWR
	}
	t[tcpFlags] = flags
	putSum(t[tcpChecksum:], VouchedChecksum)
	if !s.vouched {
		putSum(t[tcpChecksum:], ^fold(sum(t, s.pseudo+word(uint16(len(t))))))
	}
}

func (s *Segmenter) finishUDP(t []byte) {
	binary.BigEndian.PutUint16(t[4:], uint16(len(t)))
	putSum(t[udpChecksum:], VouchedChecksum)
	if !s.vouched {
		putSum(t[udpChecksum:], notZero(^fold(sum(t, s.pseudo+word(uint16(len(t)))))))
	}
}

// notZero gives the other representation of zero, because in UDP zero is no
// checksum at all (RFC 768).
func notZero(checksum uint16) uint16 {
	if checksum == 0 {
		return 0xffff
	}
	return checksum
}

// resetSuper prepares for the segments of a super-packet.
func (s *Segmenter) resetSuper(h Header) bool {
	p := s.packet
	if !s.findTransport(h) || h.SegmentSize == 0 || len(p) > MaxPacket+ipv6Size {
		return false
	}
	t := p[s.ip:]
	// HeaderLen is no help here: of a packet that is forwarded, the kernel says
	// how much of it lies in one piece.
	transport := udpSize
	if s.tcp {
		transport = tcpHeaderLen(t)
	}
	if transport == 0 || transport >= len(t) || s.ip+transport > maxHeaders {
		return false
	}
	s.headers = s.ip + transport
	s.size = int(h.SegmentSize)
	s.at = s.headers
	s.pseudo = s.pseudoWithoutLength(h)
	copy(s.saved[:], p[:s.headers])
	if s.ip4() {
		s.id = binary.BigEndian.Uint16(p[4:])
		s.ipSum = uint64(fold(sum(p[12:s.ip], sum(p[6:10], sum(p[:2], 0)))))
	}
	if s.tcp {
		s.seq = binary.BigEndian.Uint32(t[4:])
		s.flags = t[tcpFlags]
	}
	return true
}

// findTransport finds the transport header of a super-packet.
func (s *Segmenter) findTransport(h Header) bool {
	p := s.packet
	s.tcp = h.GSO != GSOUDP
	protocol := uint8(0)
	switch kind := h.GSO &^ GSOECN; {
	case len(p) >= ipv4Size && p[0]>>4 == 4 && (kind == GSOTCP4 || !s.tcp):
		s.ip, protocol = int(p[0]&15)*4, p[9]
	case len(p) >= ipv6Size && p[0]>>4 == 6 && (kind == GSOTCP6 || !s.tcp):
		s.ip, protocol = skipExtensions(p)
	}
	if protocol != s.protocol() || s.ip < ipv4Size || len(p) < s.ip+udpSize {
		return false
	}
	l := layout{protocol: protocol}
	return h.Flags&NeedsChecksum == 0 || int(h.ChecksumStart) == s.ip && int(h.ChecksumOffset) == l.checksumOffset()
}

func (s *Segmenter) protocol() uint8 {
	if s.tcp {
		return protocolTCP
	}
	return protocolUDP
}

// pseudoWithoutLength gives the sum of the pseudo header but for the length. It
// takes the host's, which knows the last destination of a routing header.
func (s *Segmenter) pseudoWithoutLength(h Header) uint64 {
	l := layout{ip: s.ip, protocol: s.protocol()}
	if h.Flags&NeedsChecksum == 0 {
		return l.pseudo(s.packet, 0)
	}
	t := s.packet[s.ip:]
	return sumField(t[l.checksumOffset():]) + (0xffff ^ word(uint16(len(t))))
}

// isPlain says whether the other end will find the checksum.
func (s *Segmenter) isPlain() bool {
	p := s.packet
	if s.ip4() {
		return p[0] == 0x45 && binary.BigEndian.Uint16(p[6:])&0x3fff == 0
	}
	return s.ip == ipv6Size && p[6] == s.protocol()
}

// resetSingle finishes the checksum of a packet that is not to be cut.
func (s *Segmenter) resetSingle(h Header, vouch bool) error {
	if len(s.packet) == 0 || len(s.packet) > MaxPacket {
		return ErrMalformed
	}
	if h.Flags&(NeedsChecksum|DataValid) == 0 {
		return nil
	}
	if vouch && s.vouchSingle(h) {
		return nil
	}
	if h.Flags&NeedsChecksum == 0 {
		return nil
	}
	start, at := int(h.ChecksumStart), int(h.ChecksumStart)+int(h.ChecksumOffset)
	if at+2 > len(s.packet) {
		return ErrMalformed
	}
	checksum := ^fold(sum(s.packet[start:], 0))
	if h.ChecksumOffset == udpChecksum {
		checksum = notZero(checksum)
	}
	putSum(s.packet[at:], checksum)
	return nil
}

// vouchSingle takes the checksum out, if it is where the other end looks for it.
func (s *Segmenter) vouchSingle(h Header) bool {
	l, kind := parse(s.packet)
	if kind != plain {
		return false
	}
	at := l.ip + l.checksumOffset()
	if h.Flags&NeedsChecksum != 0 {
		if int(h.ChecksumStart) != l.ip || int(h.ChecksumStart)+int(h.ChecksumOffset) != at {
			return false
		}
	} else if l.protocol == protocolUDP && sumField(s.packet[at:]) == 0 {
		return false // it has none, and shall have none
	}
	putSum(s.packet[at:], VouchedChecksum)
	s.vouched = true
	return true
}
