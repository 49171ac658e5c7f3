package noise_test

import (
	"encoding/binary"
	"slices"
	"testing"

	"kiloport/tunnel/noise"
)

// The fuzz targets ask of each parser: no panic, nothing forged accepted, and a
// true message still works afterwards.

func FuzzMessageType(f *testing.F) {
	a, _ := newSides(f)
	msg, _ := a.initiate(f, 1)
	k, _ := shake(f, noise.PresharedKey{})
	f.Add(msg)
	f.Add(k.Seal(nil, nil, 0))
	f.Add([]byte{2, 91: 0})
	f.Add([]byte{3, 63: 0})
	f.Add([]byte{4, 0, 0})
	f.Fuzz(func(t *testing.T, msg []byte) {
		kind, ok := noise.MessageType(msg)
		want := slowMessageType(msg)
		if ok != (want != 0) || ok && int(kind) != want {
			t.Fatalf("%d, %v, want %d", kind, ok, want)
		}
		_, _, transport := noise.ParseTransport(msg)
		_, sender := noise.SenderIndex(msg)
		_, receiver := noise.ReceiverIndex(msg)
		if transport != (want == 4) || sender != (want == 1 || want == 2) || receiver != (want >= 2) {
			t.Fatalf("type %d: transport %v, sender %v, receiver %v", want, transport, sender, receiver)
		}
	})
}

// slowMessageType is the table of section 5.4 said once more; 0 for none.
func slowMessageType(msg []byte) int {
	sizes := map[byte]func(n int) bool{
		1: func(n int) bool { return n == 148 },
		2: func(n int) bool { return n == 92 },
		3: func(n int) bool { return n == 64 },
		4: func(n int) bool { return n >= 32 },
	}
	if len(msg) < 4 || msg[1]|msg[2]|msg[3] != 0 {
		return 0
	}
	if fits, ok := sizes[msg[0]]; ok && fits(len(msg)) {
		return int(msg[0])
	}
	return 0
}

func FuzzOpenInitiation(f *testing.F) {
	a, b := newSides(f)
	msg, _ := a.initiate(f, 1)
	f.Add(msg)
	f.Add(msg[:147])
	f.Add([]byte{1, 147: 0})
	f.Fuzz(func(t *testing.T, bad []byte) {
		b.static.CheckMAC1(bad)
		remote := b.remote
		in, err := noise.OpenInitiation(b.static, bad)
		if err == nil {
			err = in.Accept(&remote, now)
		}
		if err == nil && !slices.Equal(bad[8:116], msg[8:116]) {
			t.Fatal("a forged initiation was accepted")
		}
		if err != nil && remote != b.remote {
			t.Fatal("a refused initiation changed the peer")
		}
	})
}

func FuzzOpenResponse(f *testing.F) {
	a, b := newSides(f)
	msg, _ := a.initiate(f, 1)
	answer, _ := b.respond(f, msg, noise.PresharedKey{}, 2)
	f.Add(answer)
	f.Add(answer[:91])
	f.Add([]byte{2, 8: 1, 91: 0})
	f.Fuzz(func(t *testing.T, bad []byte) {
		x, _ := newSides(t)
		_, h := x.initiate(t, 1) // the same handshake: all randomness is fixed
		a.static.CheckMAC1(bad)
		_, err := h.OpenResponse(a.static, noise.PresharedKey{}, bad)
		if err == nil {
			if !slices.Equal(bad[8:60], answer[8:60]) {
				t.Fatal("a forged response was accepted")
			}
			return
		}
		if _, err := h.OpenResponse(a.static, noise.PresharedKey{}, answer); err != nil {
			t.Fatalf("the true response after a forged one: %v", err)
		}
	})
}

func FuzzOpenCookieReply(f *testing.F) {
	a, b := newSides(f)
	msg, _ := a.initiate(f, 1)
	checker := noise.NewCookieChecker(b.static, nil)
	reply, err := checker.Reply(fixedRand('c'), now, msg, src4)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(reply[:])
	f.Add(reply[:63])
	f.Add([]byte{3, 63: 0})
	f.Fuzz(func(t *testing.T, bad []byte) {
		remote := a.remote
		err := remote.OpenCookieReply(now, bad)
		if err == nil && !slices.Equal(bad[8:], reply[8:]) {
			t.Fatal("a forged cookie reply was accepted")
		}
		if err != nil && remote != a.remote {
			t.Fatal("a refused cookie reply changed the peer")
		}
	})
}

func FuzzCheckMACs(f *testing.F) {
	a, b := newSides(f)
	checker := noise.NewCookieChecker(b.static, nil)
	msg, _ := a.initiate(f, 1)
	reply, err := checker.Reply(fixedRand('c'), now, msg, src4)
	if err != nil {
		f.Fatal(err)
	}
	if err := a.remote.OpenCookieReply(now, reply[:]); err != nil {
		f.Fatal(err)
	}
	noise.AddMACs(msg, &a.remote, now)
	f.Add(msg)
	f.Add(msg[:92])
	f.Add([]byte{2, 91: 0})
	f.Fuzz(func(t *testing.T, bad []byte) {
		if checker.CheckMAC2(now, bad, src4) && !slices.Equal(bad, msg) {
			t.Fatal("a forged mac2 was accepted")
		}
		if b.static.CheckMAC1(bad) && len(bad) == len(msg) && !slices.Equal(bad[:132], msg[:132]) {
			// mac1's key is public: anyone may compute it, but not by chance.
			t.Fatal("a forged mac1 was accepted")
		}
		_, _ = checker.Reply(fixedRand(1), now, bad, src6)
	})
}

func FuzzOpenInPlace(f *testing.F) {
	from, to := shake(f, noise.PresharedKey{})
	msg := from.Seal(nil, []byte("a packet"), 3)
	f.Add(msg)
	f.Add(msg[:31])
	f.Add(from.Seal(nil, nil, 1<<48))
	f.Add([]byte{4, 31: 0})
	f.Fuzz(func(t *testing.T, bad []byte) {
		sent := slices.Clone(bad)
		plain, counter, err := to.OpenInPlace(bad)
		if err != nil {
			if plain != nil || counter != 0 {
				t.Fatal("a refused message has a content")
			}
			return
		}
		// Only the seeds are true, so sealing once more must give the same.
		if again := from.Seal(nil, slices.Clone(plain), counter); !slices.Equal(again, sent) {
			t.Fatal("a forged message was opened")
		}
		if binary.LittleEndian.Uint64(sent[8:]) != counter {
			t.Fatal("wrong counter")
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	f.Add(newSide(f, 'a').private.Base64())
	f.Add("")
	f.Add("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=")
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := noise.ParsePublicKey(s); err == nil && k.String() != s {
			t.Fatalf("%q reads as %v", s, k)
		}
		if k, err := noise.ParsePresharedKey(s); err == nil && k.Base64() != s {
			t.Fatalf("%q reads as %v", s, k.Base64())
		}
		if k, err := noise.ParsePrivateKey(s); err == nil && !k.IsZero() {
			p := k
			if p.Clamp(); p != k {
				t.Fatal("not clamped")
			}
		}
	})
}
