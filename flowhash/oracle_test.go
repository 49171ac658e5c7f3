package flowhash_test

import (
	"fmt"
	"net/netip"

	"kiloport/flowhash"
)

// oracle says of a packet what Parse says, slowly: it reads numbers bit by bit,
// knows nothing of the packed key, and goes through the headers one by one as a
// list. It is written from the RFCs and the package comment, not from Parse.
func oracle(packet []byte) (flowhash.Flow, oracleKey, error) {
	in := wire{packet}
	hs, err := headers(in)
	if err != nil {
		return flowhash.Flow{}, oracleKey{}, err
	}
	ip := hs[0]
	if ip.total > len(packet) {
		return flowhash.Flow{}, oracleKey{}, flowhash.ErrLength
	}
	f := flowhash.Flow{Length: ip.total, DSCP: uint8(ip.dscp), ECN: uint8(ip.ecn), Version: uint8(ip.version)}
	return f, flowOf(hs), nil
}

// oracleKey is what the accessors of Key give.
type oracleKey struct {
	version, protocol uint8
	kind              flowhash.Kind
	id                uint32
	src, dst          netip.Addr
}

func keyOf(k *flowhash.Key) oracleKey {
	return oracleKey{k.Version(), k.Protocol(), k.Kind(), k.ID(), k.Source(), k.Destination()}
}

// wire reads big endian fields as the figures of RFCs show them.
type wire struct{ b []byte }

func (in wire) has(bytes int) bool { return len(in.b) >= bytes }

func (in wire) field(word, first, last int) uint32 {
	var v uint32
	for i := first; i <= last; i++ {
		at := word*32 + i
		v = v<<1 | uint32(in.b[at/8]>>(7-at%8)&1)
	}
	return v
}

func (in wire) word(w int) uint32 { return in.field(w, 0, 31) }

func (in wire) address(word, words int) netip.Addr {
	a, ok := netip.AddrFromSlice(in.b[word*4 : (word+words)*4])
	if !ok {
		panic("oracle: not an address")
	}
	return a
}

func (in wire) from(n, to int) wire {
	if to > len(in.b) {
		to = len(in.b)
	}
	if n > to {
		return wire{}
	}
	return wire{in.b[n:to]}
}

// header is one header of a chain: the IP header, any extension headers, and
// last what they lead to, which may be cut short.
type header struct {
	number uint32 // protocol number
	body   wire   // the header and all that follows it

	// of the IP header
	version, dscp, ecn uint32
	total              int
	src, dst           netip.Addr

	// of the IP header or a fragment header
	offset, ident uint32
	more          bool
}

func headers(in wire) ([]header, error) {
	if !in.has(1) {
		return nil, flowhash.ErrShort
	}
	switch in.field(0, 0, 3) {
	case 4:
		return headers4(in)
	case 6:
		return headers6(in)
	default:
		return nil, flowhash.ErrVersion
	}
}

func headers4(in wire) ([]header, error) {
	if !in.has(20) {
		return nil, flowhash.ErrShort
	}
	size := 4 * int(in.field(0, 4, 7))
	total := int(in.field(0, 16, 31))
	if size < 20 || total < size {
		return nil, flowhash.ErrHeader
	}
	if !in.has(size) {
		return nil, flowhash.ErrShort
	}
	ip := header{
		body: in, version: 4, dscp: in.field(0, 8, 13), ecn: in.field(0, 14, 15), total: total,
		src: in.address(3, 1), dst: in.address(4, 1),
		ident: in.field(1, 0, 15), more: in.field(1, 18, 18) == 1, offset: in.field(1, 19, 31),
	}
	return []header{ip, {number: in.field(2, 8, 15), body: in.from(size, total)}}, nil
}

func headers6(in wire) ([]header, error) {
	if !in.has(40) {
		return nil, flowhash.ErrShort
	}
	ip := header{
		body: in, version: 6, dscp: in.field(0, 4, 9), ecn: in.field(0, 10, 11), total: 40 + int(in.field(1, 0, 15)),
		src: in.address(2, 4), dst: in.address(6, 4),
	}
	list := []header{ip}
	next, rest := in.field(1, 16, 23), in.from(40, ip.total)
	inFragment := false
	for len(list) <= flowhash.MaxExtensionHeaders && rest.has(8) {
		h := header{number: next, body: rest}
		size := 8
		switch next {
		case 0, 43, 60, 135, 139, 140:
			size += 8 * int(rest.field(0, 8, 15))
		case 44:
			if inFragment {
				size = 0
				break
			}
			h.offset, h.more, h.ident = rest.field(0, 16, 28), rest.field(0, 31, 31) == 1, rest.word(1)
			inFragment = h.offset != 0 || h.more
		default:
			size = 0
		}
		if size == 0 || !rest.has(size) {
			break
		}
		list = append(list, h)
		next, rest = rest.field(0, 0, 7), rest.from(size, len(rest.b))
		if h.offset != 0 {
			break
		}
	}
	return append(list, header{number: next, body: rest}), nil
}

func fragmentOf(hs []header) (header, bool) {
	for _, h := range hs[:len(hs)-1] {
		if h.offset != 0 || h.more {
			return h, true
		}
	}
	return header{}, false
}

func flowOf(hs []header) oracleKey {
	ip, last := hs[0], hs[len(hs)-1]
	k := oracleKey{version: uint8(ip.version), protocol: uint8(last.number), src: ip.src, dst: ip.dst}
	if f, ok := fragmentOf(hs); ok {
		k.kind, k.id = flowhash.KindFragment, f.ident
		if ip.version == 6 {
			k.protocol = 44
		}
		return k
	}
	if quoted, ok := quoteIn(ip, last); ok {
		return answerTo(quoted)
	}
	k.kind, k.id = told(ip.version, last)
	return k
}

func quoteIn(ip, last header) ([]header, bool) {
	errorTypes := map[string]bool{
		"4 1 3": true, "4 1 4": true, "4 1 5": true, "4 1 11": true, "4 1 12": true,
		"6 58 1": true, "6 58 2": true, "6 58 3": true, "6 58 4": true,
	}
	if !last.body.has(8) || !errorTypes[fmt.Sprint(ip.version, last.number, last.body.field(0, 0, 7))] {
		return nil, false
	}
	quoted, err := headers(last.body.from(8, len(last.body.b)))
	if err != nil || quoted[0].version != ip.version || quoted[0].src != ip.dst {
		return nil, false
	}
	return quoted, true
}

func answerTo(quoted []header) oracleKey {
	ip, last := quoted[0], quoted[len(quoted)-1]
	k := oracleKey{version: uint8(ip.version), protocol: uint8(last.number), src: ip.dst, dst: ip.src}
	if f, ok := fragmentOf(quoted); ok && f.offset != 0 {
		return k
	}
	k.kind, k.id = told(ip.version, last)
	if k.kind == flowhash.KindPorts {
		k.id = k.id%65536*65536 + k.id/65536
	}
	return k
}

func told(version uint32, last header) (flowhash.Kind, uint32) {
	b := last.body
	switch fmt.Sprintf("%d in IPv%d", last.number, version) {
	case "6 in IPv4", "17 in IPv4", "33 in IPv4", "132 in IPv4", "136 in IPv4",
		"6 in IPv6", "17 in IPv6", "33 in IPv6", "132 in IPv6", "136 in IPv6":
		if b.has(4) {
			return flowhash.KindPorts, b.word(0)
		}
	case "50 in IPv4", "50 in IPv6":
		if b.has(4) {
			return flowhash.KindSPI, b.word(0)
		}
	case "51 in IPv4", "51 in IPv6":
		if b.has(8) {
			return flowhash.KindSPI, b.word(1)
		}
	case "1 in IPv4":
		if b.has(6) && (b.field(0, 0, 7) == 8 || b.field(0, 0, 7) == 0) {
			return flowhash.KindEcho, b.field(1, 0, 15)
		}
	case "58 in IPv6":
		if b.has(6) && (b.field(0, 0, 7) == 128 || b.field(0, 0, 7) == 129) {
			return flowhash.KindEcho, b.field(1, 0, 15)
		}
	case "47 in IPv4", "47 in IPv6":
		return toldByGRE(b)
	}
	return flowhash.KindAddresses, 0
}

func toldByGRE(b wire) (flowhash.Kind, uint32) {
	if !b.has(4) {
		return flowhash.KindAddresses, 0
	}
	checksum, routing, key := b.field(0, 0, 0), b.field(0, 1, 1), b.field(0, 2, 2)
	word := 1
	if checksum == 1 || routing == 1 {
		word = 2
	}
	if key == 0 || !b.has(4*word+4) {
		return flowhash.KindAddresses, 0
	}
	switch b.field(0, 13, 15) {
	case 0:
		return flowhash.KindKey, b.word(word)
	case 1:
		return flowhash.KindCall, b.field(word, 16, 31)
	}
	return flowhash.KindAddresses, 0
}
