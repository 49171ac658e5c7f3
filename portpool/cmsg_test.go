package portpool

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// aligned copies bytes to where the kernel would put control messages.
func aligned(b []byte) []byte {
	words := make([]uint64, len(b)/8+1)
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), 8*len(words))
	return buf[:copy(buf, b)]
}

// slowParse reads control messages as x/sys/unix does. It is stricter: one that
// is broken spoils the others.
func slowParse(b []byte) (m Message, err error) {
	all, err := unix.ParseSocketControlMessage(b)
	if err != nil {
		return m, err
	}
	word := func(d []byte) int64 { return int64(binary.NativeEndian.Uint64(d)) }
	for _, c := range all {
		d := c.Data
		switch [2]int32{c.Header.Level, c.Header.Type} {
		case [2]int32{unix.IPPROTO_IPV6, unix.IPV6_TCLASS}:
			if len(d) >= 4 {
				m.TrafficClass = uint8(binary.NativeEndian.Uint32(d))
			}
		case [2]int32{unix.IPPROTO_IP, unix.IP_TOS}:
			if len(d) >= 1 {
				m.TrafficClass = d[0]
			}
		case [2]int32{unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT}, [2]int32{unix.IPPROTO_IP, unix.IP_TTL}:
			if len(d) >= 4 {
				m.HopLimit = uint8(binary.NativeEndian.Uint32(d))
			}
		case [2]int32{unix.IPPROTO_IPV6, unix.IPV6_PKTINFO}:
			if len(d) >= 20 {
				a, _ := netip.AddrFromSlice(d[:16])
				m.Local, m.IfIndex = a.Unmap(), binary.NativeEndian.Uint32(d[16:])
			}
		case [2]int32{unix.IPPROTO_IP, unix.IP_PKTINFO}:
			if len(d) >= 12 {
				m.Local, _ = netip.AddrFromSlice(d[4:8])
				m.IfIndex = binary.NativeEndian.Uint32(d)
			}
		case [2]int32{unix.SOL_UDP, unix.UDP_GRO}:
			if len(d) >= 4 {
				m.SegmentSize = int(binary.NativeEndian.Uint32(d)) & 0xffff
			}
		case [2]int32{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW}:
			if len(d) >= 16 {
				m.Time = word(d)*1e9 + word(d[8:])
			}
		case [2]int32{unix.SOL_SOCKET, unix.SO_RXQ_OVFL}:
			if len(d) >= 4 {
				m.Refused = binary.NativeEndian.Uint32(d)
			}
		}
	}
	return m, nil
}

// segmentOf is the segment size that the kernel would read, which is no part of
// what it writes.
func segmentOf(b []byte) int {
	all, err := unix.ParseSocketControlMessage(b)
	for _, c := range all {
		if c.Header.Level == unix.SOL_UDP && c.Header.Type == unix.UDP_SEGMENT && len(c.Data) == 2 && err == nil {
			return int(binary.NativeEndian.Uint16(c.Data))
		}
	}
	return 0
}

func FuzzParseControl(f *testing.F) {
	buf := make([]byte, sendControl)
	v6 := aligned(buf)
	f.Add(v6[:putControl(v6, false, 0xb9, netip.MustParseAddr("2001:db8::1"), 7, 0)])
	v4 := aligned(buf)
	f.Add(v4[:putControl(v4, true, 3, netip.MustParseAddr("192.0.2.1"), 9, 1400)])
	stamp := aligned(make([]byte, 64))
	data, rest := putCmsg(stamp, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 16)
	data[0], data[8] = 1, 2
	data, _ = putCmsg(rest, unix.IPPROTO_IP, unix.IP_TTL, 4)
	data[0] = 64
	f.Add(stamp)
	joined := aligned(make([]byte, 24))
	data, _ = putCmsg(joined, unix.SOL_UDP, unix.UDP_GRO, 4)
	binary.NativeEndian.PutUint32(data, 1452)
	f.Add(joined)
	refused := aligned(make([]byte, 24))
	data, _ = putCmsg(refused, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 4)
	binary.NativeEndian.PutUint32(data, 77)
	f.Add(refused)
	f.Fuzz(func(t *testing.T, b []byte) {
		b = aligned(b)
		var got Message
		parseControl(b, &got)
		want, err := slowParse(b)
		if err != nil {
			return // it must only not crash
		}
		if diff := cmp.Diff(want, got, messageOpts); diff != "" {
			t.Errorf("% x (-slow +fast):\n%s", b, diff)
		}
	})
}

func TestPutControl(t *testing.T) {
	tests := []struct {
		v4      bool
		class   uint8
		local   string
		ifIndex uint32
		segment int
		size    int
		want    Message
	}{
		{true, 0, "", 0, 0, 0, Message{}},
		{true, 0xff, "", 0, 0, 24, Message{TrafficClass: 0xff}},
		{false, 1, "", 5, 0, 24, Message{TrafficClass: 1}},
		{true, 2, "192.0.2.1", 0, 0, 56, Message{TrafficClass: 2, Local: netip.MustParseAddr("192.0.2.1")}},
		{false, 2, "2001:db8::1", 8, 0, 64, Message{TrafficClass: 2, Local: netip.MustParseAddr("2001:db8::1"), IfIndex: 8}},
		{true, 0, "2001:db8::1", 8, 0, 0, Message{}},
		{false, 0, "192.0.2.1", 8, 0, 0, Message{}},
		{true, 0, "", 0, 1452, 24, Message{SegmentSize: 1452}},
		{false, 2, "2001:db8::1", 8, 65464, 88, Message{TrafficClass: 2, Local: netip.MustParseAddr("2001:db8::1"), IfIndex: 8, SegmentSize: 65464}},
	}
	for _, tt := range tests {
		var local netip.Addr
		if tt.local != "" {
			local = netip.MustParseAddr(tt.local)
		}
		buf := aligned(make([]byte, sendControl))
		for i := range buf {
			buf[i] = 0xee // what an earlier message left
		}
		n := putControl(buf, tt.v4, tt.class, local, tt.ifIndex, tt.segment)
		got, err := slowParse(buf[:n])
		got.SegmentSize = segmentOf(buf[:n])
		if diff := cmp.Diff(tt.want, got, messageOpts); diff != "" || err != nil || unsafe.Sizeof(uintptr(0)) == 8 && n != tt.size {
			t.Errorf("%+v: %d bytes, %v (-want +got):\n%s", tt, n, err, diff)
		}
	}
}
