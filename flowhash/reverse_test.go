package flowhash

import (
	"net/netip"
	"testing"
)

// TestReverse: the answer to the answer is the flow itself, and what answers it has
// its addresses and ports the other way round.
func TestReverse(t *testing.T) {
	a, b := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	var ports, echo, four Key
	ports.flow(6, protoTCP, a.AsSlice(), b.AsSlice())
	ports.set(KindPorts, 1000<<16|443)
	echo.flow(6, protoICMPv6, a.AsSlice(), b.AsSlice())
	echo.set(KindEcho, 77)
	four.flow(4, protoUDP, []byte{192, 0, 2, 1}, []byte{192, 0, 2, 2})
	four.set(KindPorts, 5<<16|6)
	for _, test := range []struct {
		key  Key
		want string
	}{
		{ports, "tcp [2001:db8::2]:443 > [2001:db8::1]:1000"},
		{echo, "icmpv6 2001:db8::2 > 2001:db8::1 id 77"},
		{four, "udp 192.0.2.2:6 > 192.0.2.1:5"},
	} {
		back := test.key.Reverse()
		if back.String() != test.want {
			t.Errorf("%v is answered by %v, want %s", &test.key, &back, test.want)
		}
		if again := back.Reverse(); again != test.key {
			t.Errorf("%v is answered by %v", &back, &again)
		}
	}
}
