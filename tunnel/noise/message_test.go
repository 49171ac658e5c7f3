package noise_test

import (
	"math"
	"testing"

	"kiloport/tunnel/noise"
)

func TestMessageType(t *testing.T) {
	sizes := map[uint8]int{
		noise.MessageInitiation: 148, noise.MessageResponse: 92, noise.MessageCookieReply: 64, noise.MessageTransport: 32,
	}
	for want, size := range sizes {
		msg := make([]byte, size)
		msg[0] = want
		if got, ok := noise.MessageType(msg); got != want || !ok {
			t.Errorf("type %d of %d bytes: %d, %v", want, size, got, ok)
		}
		if _, ok := noise.MessageType(msg[:size-1]); ok {
			t.Errorf("type %d of %d bytes is taken", want, size-1)
		}
		if _, ok := noise.MessageType(append(msg, 0)); ok != (want == noise.MessageTransport) {
			t.Errorf("type %d of %d bytes: %v", want, size+1, ok)
		}
		for i := 1; i < 4; i++ {
			msg[i] = 1
			if _, ok := noise.MessageType(msg); ok {
				t.Errorf("type %d with reserved byte %d set is taken", want, i)
			}
			msg[i] = 0
		}
	}
	for _, bad := range []byte{0, 5, 0xF1, 255} {
		msg := make([]byte, 148)
		msg[0] = bad
		if _, ok := noise.MessageType(msg); ok {
			t.Errorf("type %d is taken", bad)
		}
	}
}

func TestIndexes(t *testing.T) {
	header := []byte{0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	const first, second = 0x04030201, 0x08070605
	for _, c := range []struct {
		kind, size       int
		sender, receiver uint32 // 0 = none
	}{
		{noise.MessageInitiation, 148, first, 0},
		{noise.MessageResponse, 92, first, second},
		{noise.MessageCookieReply, 64, 0, first},
		{noise.MessageTransport, 40, 0, first},
		{9, 40, 0, 0},
	} {
		msg := make([]byte, c.size)
		copy(msg, header)
		msg[0] = byte(c.kind)
		if got, ok := noise.SenderIndex(msg); got != c.sender || ok != (c.sender != 0) {
			t.Errorf("sender in type %d: %x, %v", c.kind, got, ok)
		}
		if got, ok := noise.ReceiverIndex(msg); got != c.receiver || ok != (c.receiver != 0) {
			t.Errorf("receiver in type %d: %x, %v", c.kind, got, ok)
		}
		index, counter, ok := noise.ParseTransport(msg)
		if ok != (c.kind == noise.MessageTransport) || ok && (index != first || counter != 0x0c0b0a0908070605) {
			t.Errorf("transport header in type %d: %x, %x, %v", c.kind, index, counter, ok)
		}
	}
}

func TestPaddedSize(t *testing.T) {
	for _, c := range []struct{ n, mtu, want int }{
		{0, 1420, 0}, {1, 1420, 16}, {16, 1420, 16}, {17, 1420, 32}, {1408, 1420, 1408}, {1409, 1420, 1420},
		{1420, 1420, 1420}, {1500, 1420, 1500}, {1, 0, 16}, {65535, 0, 65536},
	} {
		if got := noise.PaddedSize(c.n, c.mtu); got != c.want {
			t.Errorf("%d bytes, mtu %d: %d, want %d", c.n, c.mtu, got, c.want)
		}
	}
}

func TestLaneCounters(t *testing.T) {
	const vouched, aes = noise.CounterVouched, noise.CounterAES
	for _, c := range []struct {
		lane       uint16
		seq, flags uint64
		counter    uint64
	}{
		{0, 0, 0, 0}, {0, 1, 0, 1}, {1, 0, 0, 1 << 48}, {1024, 5, 0, 1024<<48 | 5},
		{0, 1<<48 - 1, 0, 1<<48 - 1}, {0, 7, aes, 1<<62 | 7}, {3, 7, vouched, 1<<63 | 3<<48 | 7},
		{noise.MaxLane, 1<<48 - 1, aes | vouched, math.MaxUint64},
	} {
		if got := noise.JoinCounter(c.lane, c.seq, c.flags); got != c.counter {
			t.Errorf("join %d, %d, %x: %x", c.lane, c.seq, c.flags, got)
		}
		if lane, seq, flags := noise.SplitCounter(c.counter); lane != c.lane || seq != c.seq || flags != c.flags {
			t.Errorf("split %x: %d, %d, %x", c.counter, lane, seq, flags)
		}
	}
	if lane, _, _ := noise.SplitCounter(noise.JoinCounter(1, 1<<48, 0)); lane != 1 {
		t.Error("a sequence number that is too large changes the lane")
	}
	if _, _, flags := noise.SplitCounter(noise.JoinCounter(noise.MaxLane+1, 0, 0)); flags != 0 {
		t.Error("a lane that is too large changes the flags")
	}
}

// What a keypair's age and use ask for, at the edges.
func TestKeypairAge(t *testing.T) {
	c := noise.Default()
	const s = int64(1e9)
	ka, kb := shake(t, noise.PresharedKey{})
	unset, _ := shake(t, noise.PresharedKey{})
	unset.Created = 0
	for _, x := range []struct {
		what      string
		got, want bool
	}{
		{"send at 120 s", c.RekeyOnSend(ka, now+120*s, 0), false},
		{"send after 120 s", c.RekeyOnSend(ka, now+120*s+1, 0), true},
		{"responder sends after 120 s", c.RekeyOnSend(kb, now+179*s, 0), false},
		{"send 2^47", c.RekeyOnSend(ka, now, 1<<47), false},
		{"send 2^47+1", c.RekeyOnSend(ka, now, 1<<47+1), true},
		{"responder sends 2^47+1", c.RekeyOnSend(kb, now, 1<<47+1), true},
		{"receive at 165 s", c.RekeyOnReceive(ka, now+165*s), false},
		{"receive after 165 s", c.RekeyOnReceive(ka, now+165*s+1), true},
		{"responder receives after 165 s", c.RekeyOnReceive(kb, now+170*s), false},
		{"expired before 180 s", c.Expired(ka, now+180*s-1), false},
		{"expired at 180 s", c.Expired(ka, now+180*s), true},
		{"expired when never created", c.Expired(unset, 1), true},
	} {
		if x.got != x.want {
			t.Errorf("%s: %v", x.what, x.got)
		}
	}
	c.RekeyAfterMessages = 10
	if c.RekeyOnSend(kb, now, 10) || !c.RekeyOnSend(kb, now, 11) {
		t.Error("RekeyAfterMessages is not heeded")
	}
	if c.MaxHandshakeAttempts() != 18 {
		t.Errorf("%d attempts", c.MaxHandshakeAttempts())
	}
}
