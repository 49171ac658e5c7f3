package portpool

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Options of linux/in6.h that x/sys/unix does not name.
const ipv6FlowinfoSend = 33 // IPV6_FLOWINFO_SEND

// Control messages (cmsg(3)) have a header and data, both aligned to the
// machine's word; their integers are in the machine's byte order.
const (
	cmsgAlign  = unsafe.Sizeof(uintptr(0))
	cmsgHeader = (unsafe.Sizeof(unix.Cmsghdr{}) + cmsgAlign - 1) &^ (cmsgAlign - 1)

	sizeofPktinfo4 = 12 // struct in_pktinfo: index, local address, header's destination
	sizeofPktinfo6 = 20 // struct in6_pktinfo: address, index

	// sendControl has room for a source, a traffic class and a segment size,
	// receiveControl for destination (both ways), class, hop limit, time of
	// arrival, segment size and what was refused.
	sendControl    = 88
	receiveControl = 216
)

func cmsgSpace(data int) int {
	return int(cmsgHeader + (uintptr(data)+cmsgAlign-1)&^(cmsgAlign-1))
}

// putCmsg writes a header at the start of buf and returns where the data goes
// and where the next message begins.
func putCmsg(buf []byte, level, typ int32, size int) (data, rest []byte) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&buf[0]))
	h.Level, h.Type = level, typ
	h.SetLen(int(cmsgHeader) + size)
	return buf[cmsgHeader : int(cmsgHeader)+size], buf[cmsgSpace(size):]
}

// putControl writes the control messages of a datagram to send and returns
// their length. buf is aligned and sendControl long.
func putControl(buf []byte, v4 bool, class uint8, local netip.Addr, ifIndex uint32, segment int) int {
	rest, data := buf, []byte(nil)
	if segment != 0 {
		data, rest = putCmsg(rest, unix.SOL_UDP, unix.UDP_SEGMENT, 2)
		binary.NativeEndian.PutUint16(data, uint16(segment))
	}
	if class != 0 {
		level, typ := int32(unix.IPPROTO_IPV6), int32(unix.IPV6_TCLASS)
		if v4 {
			level, typ = unix.IPPROTO_IP, unix.IP_TOS
		}
		data, rest = putCmsg(rest, level, typ, 4)
		binary.NativeEndian.PutUint32(data, uint32(class))
	}
	switch {
	case !local.IsValid() || local.Is4() != v4:
	case v4:
		data, rest = putCmsg(rest, unix.IPPROTO_IP, unix.IP_PKTINFO, sizeofPktinfo4)
		binary.NativeEndian.PutUint32(data, ifIndex)
		a := local.As4()
		copy(data[4:8], a[:])
		clear(data[8:])
	default:
		data, rest = putCmsg(rest, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, sizeofPktinfo6)
		a := local.As16()
		copy(data[:16], a[:])
		binary.NativeEndian.PutUint32(data[16:], ifIndex)
	}
	return len(buf) - len(rest)
}

// parseControl fills m from the control messages of a datagram received. It
// stops at the first that is not whole.
func parseControl(buf []byte, m *Message) {
	for len(buf) >= int(cmsgHeader) {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&buf[0]))
		size := uint64(h.Len)
		if size < uint64(cmsgHeader) || size > uint64(len(buf)) {
			return
		}
		parseCmsg(h.Level, h.Type, buf[cmsgHeader:size], m)
		next := (size + uint64(cmsgAlign) - 1) &^ uint64(cmsgAlign-1)
		buf = buf[min(next, uint64(len(buf))):]
	}
}

func parseCmsg(level, typ int32, data []byte, m *Message) {
	switch {
	case level == unix.IPPROTO_IPV6 && typ == unix.IPV6_TCLASS && len(data) >= 4:
		m.TrafficClass = uint8(binary.NativeEndian.Uint32(data))
	case level == unix.IPPROTO_IP && typ == unix.IP_TOS && len(data) >= 1:
		m.TrafficClass = data[0]
	case level == unix.IPPROTO_IPV6 && typ == unix.IPV6_HOPLIMIT && len(data) >= 4,
		level == unix.IPPROTO_IP && typ == unix.IP_TTL && len(data) >= 4:
		m.HopLimit = uint8(binary.NativeEndian.Uint32(data))
	case level == unix.IPPROTO_IPV6 && typ == unix.IPV6_PKTINFO && len(data) >= sizeofPktinfo6:
		m.Local = netip.AddrFrom16([16]byte(data[:16])).Unmap()
		m.IfIndex = binary.NativeEndian.Uint32(data[16:])
	case level == unix.IPPROTO_IP && typ == unix.IP_PKTINFO && len(data) >= sizeofPktinfo4:
		m.IfIndex = binary.NativeEndian.Uint32(data)
		m.Local = netip.AddrFrom4([4]byte(data[4:8]))
	case level == unix.SOL_UDP && typ == unix.UDP_GRO && len(data) >= 4:
		m.SegmentSize = int(binary.NativeEndian.Uint32(data) & 0xffff)
	case level == unix.SOL_SOCKET && typ == unix.SO_TIMESTAMPNS_NEW && len(data) >= 16:
		m.Time = int64(binary.NativeEndian.Uint64(data))*1e9 + int64(binary.NativeEndian.Uint64(data[8:]))
	case level == unix.SOL_SOCKET && typ == unix.SO_RXQ_OVFL && len(data) >= 4:
		m.Refused = binary.NativeEndian.Uint32(data)
	}
}
