package tun

import (
	"encoding/binary"
	"math/bits"
)

// Internet checksums (RFC 1071) do not depend on the byte order, so here they
// are summed in the host's: fields are read and written with
// [binary.NativeEndian] too.

// sum adds the 16-bit words of b to an unfolded sum. An odd last byte counts as
// if a zero followed.
func sum(b []byte, initial uint64) uint64 {
	// Two chains of additions, each with its own carry, take 128 bytes at a
	// time: a third more than one chain does in the same time.
	second, carry := uint64(0), uint64(0)
	for len(b) >= 128 {
		p := (*[128]byte)(b)
		initial, carry = bits.Add64(initial, binary.NativeEndian.Uint64(p[0:]), 0)
		initial, carry = bits.Add64(initial, binary.NativeEndian.Uint64(p[8:]), carry)
		initial, carry = bits.Add64(initial, binary.NativeEndian.Uint64(p[16:]), carry)
		initial, carry = bits.Add64(initial, binary.NativeEndian.Uint64(p[24:]), carry)
		initial, carry = bits.Add64(initial, binary.NativeEndian.Uint64(p[32:]), carry)
		initial, carry = bits.Add64(initial, binary.NativeEndian.Uint64(p[40:]), carry)
		initial, carry = bits.Add64(initial, binary.NativeEndian.Uint64(p[48:]), carry)
		initial, carry = bits.Add64(initial, binary.NativeEndian.Uint64(p[56:]), carry)
		initial += carry
		second, carry = bits.Add64(second, binary.NativeEndian.Uint64(p[64:]), 0)
		second, carry = bits.Add64(second, binary.NativeEndian.Uint64(p[72:]), carry)
		second, carry = bits.Add64(second, binary.NativeEndian.Uint64(p[80:]), carry)
		second, carry = bits.Add64(second, binary.NativeEndian.Uint64(p[88:]), carry)
		second, carry = bits.Add64(second, binary.NativeEndian.Uint64(p[96:]), carry)
		second, carry = bits.Add64(second, binary.NativeEndian.Uint64(p[104:]), carry)
		second, carry = bits.Add64(second, binary.NativeEndian.Uint64(p[112:]), carry)
		second, carry = bits.Add64(second, binary.NativeEndian.Uint64(p[120:]), carry)
		second += carry
		b = b[128:]
	}
	initial, carry = bits.Add64(initial, second, 0)
	return sumTail(b, initial+carry)
}

func sumTail(b []byte, initial uint64) uint64 {
	var carry uint64
	for len(b) >= 8 {
		initial, carry = bits.Add64(initial, binary.NativeEndian.Uint64(b), 0)
		initial += carry
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte
		copy(last[:], b)
		initial, carry = bits.Add64(initial, binary.NativeEndian.Uint64(last[:]), 0)
		initial += carry
	}
	return initial
}

// fold makes 16 bits of a sum. It is 0 only if everything summed was.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s>>16 + s)
}

// word gives a number as it counts in a sum: as a 16-bit field.
func word(v uint16) uint64 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return uint64(binary.NativeEndian.Uint16(b[:]))
}

// sumField gives a field of a packet as it counts in a sum.
func sumField(b []byte) uint64 { return uint64(binary.NativeEndian.Uint16(b)) }

// putSum writes a folded sum, or its complement, into a packet.
func putSum(b []byte, s uint16) { binary.NativeEndian.PutUint16(b, s) }

// pseudo sums the pseudo header of a plain packet (RFC 9293 section 3.1, RFC
// 8200 section 8.1) for a transport header and payload of length bytes.
func (l *layout) pseudo(packet []byte, length int) uint64 {
	addresses := packet[12:20]
	if packet[0]>>4 == 6 {
		addresses = packet[8:40]
	}
	return uint64(fold(sumTail(addresses, word(uint16(l.protocol))+word(uint16(length)))))
}
