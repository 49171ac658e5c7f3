package tun

import "encoding/binary"

// Header is what the virtio_net header (struct virtio_net_hdr of
// linux/virtio_net.h) says of a packet. The zero Header is that of a packet
// which is complete and of which nothing is known.
type Header struct {
	// Flags are [NeedsChecksum] or [DataValid], or neither.
	Flags uint8
	// GSO is what the packet is to be cut into, [GSONone] if it is one packet.
	// The kernel may add [GSOECN].
	GSO GSOType
	// HeaderLen is how many bytes of headers come before the payload. From the
	// kernel it is a hint that may be too large, to the kernel it is exact.
	HeaderLen uint16
	// SegmentSize is the payload of each packet but the last, in bytes, if GSO
	// is not GSONone.
	SegmentSize uint16
	// ChecksumStart and ChecksumOffset say, with NeedsChecksum, that the sum of
	// everything from ChecksumStart belongs ChecksumOffset bytes after it.
	ChecksumStart, ChecksumOffset uint16
}

const (
	// NeedsChecksum says that the field for the transport checksum holds the
	// sum of the pseudo header only, not inverted: the rest is to be added by
	// whoever sends the packet on. A host takes such a packet for good.
	NeedsChecksum = 1
	// DataValid says that the transport checksum is complete and was found to
	// be right, or that it need not be looked at.
	DataValid = 2
)

// GSOType is the kind of a super-packet.
type GSOType uint8

const (
	// GSONone is one packet.
	GSONone GSOType = 0
	// GSOTCP4 is TCP over IPv4.
	GSOTCP4 GSOType = 1
	// GSOTCP6 is TCP over IPv6.
	GSOTCP6 GSOType = 4
	// GSOUDP is UDP over either, in datagrams of equal size (UDP_SEGMENT).
	GSOUDP GSOType = 5
	// GSOECN may be set beside a TCP type: CWR belongs to the first segment
	// only (RFC 3168 section 6.1.2).
	GSOECN GSOType = 0x80
)

// headerSize is that of struct virtio_net_hdr without the fields that only
// come with other lengths.
const headerSize = 10

// put writes the header as the kernel reads it: in the host's byte order, as
// long as TUNSETVNETLE is left alone.
func (h *Header) put(b []byte) {
	_ = b[headerSize-1]
	b[0], b[1] = h.Flags, uint8(h.GSO)
	binary.NativeEndian.PutUint16(b[2:], h.HeaderLen)
	binary.NativeEndian.PutUint16(b[4:], h.SegmentSize)
	binary.NativeEndian.PutUint16(b[6:], h.ChecksumStart)
	binary.NativeEndian.PutUint16(b[8:], h.ChecksumOffset)
}

func parseHeader(b []byte) Header {
	_ = b[headerSize-1]
	return Header{
		Flags: b[0], GSO: GSOType(b[1]),
		HeaderLen:      binary.NativeEndian.Uint16(b[2:]),
		SegmentSize:    binary.NativeEndian.Uint16(b[4:]),
		ChecksumStart:  binary.NativeEndian.Uint16(b[6:]),
		ChecksumOffset: binary.NativeEndian.Uint16(b[8:]),
	}
}
