package portpool

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"golang.org/x/sys/unix"
)

// udpHeaderSize is the size of a UDP header (RFC 768): source port, destination
// port, length, checksum.
const udpHeaderSize = 8

// putUDPHeader writes a header with an empty checksum.
func putUDPHeader(h []byte, from, to uint16, payload int) {
	binary.BigEndian.PutUint16(h[0:], from)
	binary.BigEndian.PutUint16(h[2:], to)
	binary.BigEndian.PutUint16(h[4:], uint16(udpHeaderSize+payload))
	h[6], h[7] = 0, 0
}

// putChecksum4 fills in the checksum of a header over IPv4.
func putChecksum4(h []byte, from, to netip.Addr, payload []byte) {
	src, dst := from.As4(), to.As4()
	sum := uint64(binary.NativeEndian.Uint32(src[:])) + uint64(binary.NativeEndian.Uint32(dst[:]))
	sum += uint64(networkOrder16(unix.IPPROTO_UDP)) + uint64(binary.NativeEndian.Uint16(h[4:]))
	sum = addWords(sum, h[:udpHeaderSize])
	check := ^foldWords(addWords(sum, payload))
	if check == 0 {
		check = 0xffff // 0 would mean that there is no checksum
	}
	binary.NativeEndian.PutUint16(h[6:], check)
}

// addWords adds b to a sum in ones' complement, as if b were 16-bit words in
// the machine's order with a zero byte after an odd end. Words of any multiple
// of 16 bits give the same sum (RFC 1071, section 2).
func addWords(sum uint64, b []byte) uint64 {
	var carry uint64
	for len(b) >= 32 {
		sum, carry = bits.Add64(sum, binary.NativeEndian.Uint64(b), carry)
		sum, carry = bits.Add64(sum, binary.NativeEndian.Uint64(b[8:]), carry)
		sum, carry = bits.Add64(sum, binary.NativeEndian.Uint64(b[16:]), carry)
		sum, carry = bits.Add64(sum, binary.NativeEndian.Uint64(b[24:]), carry)
		b = b[32:]
	}
	for len(b) >= 8 {
		sum, carry = bits.Add64(sum, binary.NativeEndian.Uint64(b), carry)
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte
		copy(last[:], b)
		sum, carry = bits.Add64(sum, binary.NativeEndian.Uint64(last[:]), carry)
	}
	sum, carry = bits.Add64(sum, 0, carry)
	return sum + carry
}

func foldWords(sum uint64) uint16 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return uint16(sum)
}
