package tunnel

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// synPacket makes a TCP SYN with options and a complete checksum.
func synPacket(v4 bool, options ...byte) []byte {
	for len(options)%4 != 0 {
		options = append(options, optionNop)
	}
	ip := ipv6HeaderLen
	if v4 {
		ip = ipv4HeaderLen
	}
	p := make([]byte, ip+tcpLeast+len(options))
	t := p[ip:]
	for i := range p {
		p[i] = byte(rand.Uint32())
	}
	if v4 {
		p[0], p[6], p[7], p[9] = 0x45, 0, 0, protocolTCP
	} else {
		p[0], p[6] = 6<<4, protocolTCP
	}
	t[12], t[13] = byte(len(t)/4)<<4, flagSYN
	copy(t[tcpLeast:], options)
	t[16], t[17] = 0, 0
	binary.BigEndian.PutUint16(t[16:], ^tcpSum(p, ip))
	return p
}

func tcpSum(p []byte, ip int) uint16 {
	addresses := p[8:40]
	if ip == ipv4HeaderLen {
		addresses = p[12:20]
	}
	return sum16(p[ip:], uint32(len(p)-ip)+protocolTCP+uint32(sum16(addresses, 0)))
}

func TestClampMSS(t *testing.T) {
	for _, test := range []struct {
		name    string
		v4      bool
		options []byte
		most    int
		want    int // 0: as it was
	}{
		{"lowered over IPv6", false, []byte{2, 4, 0x05, 0xa0, 4, 2}, 1400, 1340},
		{"lowered over IPv4", true, []byte{2, 4, 0x05, 0xb4}, 1400, 1360},
		{"small enough", false, []byte{2, 4, 0x04, 0x00}, 1400, 0},
		{"at an odd offset", false, []byte{1, 2, 4, 0x05, 0xa0}, 1280, 1220},
		{"behind others", true, []byte{4, 2, 3, 3, 7, 2, 4, 0x23, 0x00}, 1500, 1460},
		{"behind the end", true, []byte{0, 2, 4, 0x23, 0x00}, 1500, 0},
		{"none", true, []byte{3, 3, 7}, 1500, 0},
		{"cut off", true, []byte{1, 1, 1, 2}, 1500, 0},
		{"of length 0", true, []byte{3, 0, 2, 4, 0x23, 0x00}, 1500, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := synPacket(test.v4, test.options...)
			before := append([]byte(nil), p...)
			clampMSS(p, test.most, true)
			ip := tcpIn(p)
			if tcpSum(p, ip) != 0xffff {
				t.Errorf("the checksum is wrong: %#x", tcpSum(p, ip))
			}
			at := 0
			for i := ip + tcpLeast; i+4 <= len(p); i++ {
				if p[i] == optionMSS && p[i+1] == 4 {
					at = i + 2
					break
				}
			}
			switch {
			case test.want == 0 && string(p) != string(before):
				t.Error("the packet was changed")
			case test.want != 0 && int(binary.BigEndian.Uint16(p[at:])) != test.want:
				t.Errorf("the segment size is %d, want %d", binary.BigEndian.Uint16(p[at:]), test.want)
			}
			sum := binary.BigEndian.Uint16(before[ip+16:])
			clampMSS(before, test.most, false)
			if binary.BigEndian.Uint16(before[ip+16:]) != sum {
				t.Error("a checksum that is not complete was changed")
			}
		})
	}
}

func FuzzClampMSS(f *testing.F) {
	f.Add(synPacket(true, 2, 4, 5, 180), 1400)
	f.Add(synPacket(false, 1, 2, 4, 5, 180), 100)
	f.Add([]byte{0x45}, 0)
	f.Fuzz(func(t *testing.T, p []byte, most int) { clampMSS(p, most, true) })
}
