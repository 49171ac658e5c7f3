package traffic

import (
	"encoding/binary"
	"hash/crc32"
)

// What a datagram or a TCP frame is for.
const (
	typeReflect = 1 + iota // send it back, count nothing
	typeEcho               // count it, send an answer with the server's number
	typeStream             // count it
	typeAnswer             // the server's answer to typeEcho
	typeBulk               // part of a bulk transfer
	typePull               // start sending bulk, for as long as the time says
	typeSum                // end of a bulk transfer, or the answer: count, checksum
	typeSetup              // make the server's socket like this; the answer says why it failed
	typeMark               // the load begins; see mark
	typeGet                // send as many bytes as it says, and close
)

// A header starts every datagram and every TCP frame:
//
//	magic (4) | type (1) | TOS (1) | zero (2) | run (4) | flow (4) | number (8) |
//	time (8) | length (4) | CRC-32C (4) of all the rest
type header struct {
	kind   uint8
	tos    uint8  // of the flow's packets, for the server to answer with
	run    uint32 // tells this plan from an earlier one on the same ports
	flow   uint32
	number uint64
	time   int64 // the client's clock in nanoseconds
	length int   // of the whole, header included
}

const (
	magic      = 0x6b706c74
	headerSize = 40
	sumSize    = headerSize + 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// put writes the header into b, whose length it takes, and the checksum over all
// of b. The rest of b is content.
func (h *header) put(b []byte) {
	binary.BigEndian.PutUint32(b[0:], magic)
	binary.BigEndian.PutUint32(b[4:], uint32(h.kind)<<24|uint32(h.tos)<<16)
	binary.BigEndian.PutUint32(b[8:], h.run)
	binary.BigEndian.PutUint32(b[12:], h.flow)
	binary.BigEndian.PutUint64(b[16:], h.number)
	binary.BigEndian.PutUint64(b[24:], uint64(h.time))
	binary.BigEndian.PutUint32(b[32:], uint32(len(b)))
	binary.BigEndian.PutUint32(b[36:], checksum(b))
}

// parse reads a header. whole tells that b is the complete datagram, whose
// length and checksum then have to fit.
func (h *header) parse(b []byte, whole bool) bool {
	if len(b) < headerSize || binary.BigEndian.Uint32(b) != magic {
		return false
	}
	*h = header{
		kind:   b[4],
		tos:    b[5],
		run:    binary.BigEndian.Uint32(b[8:]),
		flow:   binary.BigEndian.Uint32(b[12:]),
		number: binary.BigEndian.Uint64(b[16:]),
		time:   int64(binary.BigEndian.Uint64(b[24:])),
		length: int(binary.BigEndian.Uint32(b[32:])),
	}
	if h.length < headerSize || h.length > bulkFrameSize || h.flow >= maxFlows || h.number >= maxNumber {
		return false
	}
	return !whole || h.length == len(b) && intact(b)
}

func intact(b []byte) bool { return binary.BigEndian.Uint32(b[36:]) == checksum(b) }

func checksum(b []byte) uint32 {
	sum := crc32.Update(0, castagnoli, b[:36])
	return crc32.Update(sum, castagnoli, b[headerSize:])
}
