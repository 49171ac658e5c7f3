package noise_test

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
	"testing/iotest"
	"time"

	"kiloport/tunnel/noise"
)

var (
	src4 = netip.MustParseAddrPort("192.0.2.1:51820")
	src6 = netip.MustParseAddrPort("[2001:db8::1]:51820")
)

func mac2(msg []byte) []byte { return msg[len(msg)-16:] }

func TestCookie(t *testing.T) {
	for _, src := range []netip.AddrPort{src4, src6} {
		a, b := newSides(t)
		checker := noise.NewCookieChecker(b.static, nil)
		random := fixedRand('c')
		msg, _ := a.initiate(t, 0x01020304)
		if !bytes.Equal(mac2(msg), make([]byte, 16)) {
			t.Fatal("mac2 without a cookie")
		}
		if checker.CheckMAC2(now, msg, src) {
			t.Fatal("mac2 of zeros accepted before there is a secret")
		}
		reply, err := checker.Reply(random, now, msg, src)
		if err != nil {
			t.Fatal(err)
		}
		if index, ok := noise.ReceiverIndex(reply[:]); !ok || index != 0x01020304 {
			t.Fatalf("the reply is for %x", index)
		}
		if err := a.remote.OpenCookieReply(now, reply[:]); err != nil {
			t.Fatal(err)
		}
		again, _ := a.initiate(t, 2)
		checkMAC2Binding(t, checker, again, src)
		if checker.CheckMAC2(now, msg, src) {
			t.Error("a message without mac2 accepted")
		}
	}
}

// A mac2 holds for one message from one address and port.
func checkMAC2Binding(t *testing.T, c *noise.CookieChecker, msg []byte, src netip.AddrPort) {
	t.Helper()
	if !c.CheckMAC2(now, msg, src) {
		t.Error("the right mac2 refused")
	}
	mapped := netip.AddrPortFrom(netip.AddrFrom16(src.Addr().As16()), src.Port())
	if !c.CheckMAC2(now, msg, mapped) {
		t.Error("the same address mapped into IPv6 refused")
	}
	others := []netip.AddrPort{
		netip.AddrPortFrom(src.Addr(), src.Port()+1),
		netip.AddrPortFrom(src.Addr().Next(), src.Port()),
		netip.AddrPortFrom(netip.IPv6Unspecified(), src.Port()),
		{},
	}
	for _, other := range others {
		if c.CheckMAC2(now, msg, other) {
			t.Errorf("accepted from %v, made for %v", other, src)
		}
	}
	mangle(msg, func(what string, at int, bad []byte) {
		if c.CheckMAC2(now, bad, src) {
			t.Errorf("mac2 accepted of a message %s %d", what, at)
		}
	})
}

func TestCookieLifetimes(t *testing.T) {
	a, b := newSides(t)
	c := noise.Default()
	c.CookieRefreshTime = time.Minute
	a.remote.Constants = &c
	checker := noise.NewCookieChecker(b.static, &c)
	random := fixedRand('c')
	minute := int64(time.Minute)

	msg, _ := a.initiate(t, 1)
	reply, err := checker.Reply(random, now, msg, src4)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.remote.OpenCookieReply(now, reply[:]); err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		at   int64
		want bool
	}{{now, true}, {now + minute, true}, {now + minute + 1, false}} {
		noise.AddMACs(msg, &a.remote, s.at)
		if a.remote.HasCookie(s.at) != s.want || bytes.Equal(mac2(msg), make([]byte, 16)) == s.want {
			t.Errorf("cookie used after %v", time.Duration(s.at-now))
		}
	}
	noise.AddMACs(msg, &a.remote, now)
	if !checker.CheckMAC2(now+minute, msg, src4) || checker.CheckMAC2(now+minute+1, msg, src4) {
		t.Error("the secret does not end after a minute")
	}
	if _, err := checker.Reply(random, now+minute+1, msg, src4); err != nil {
		t.Fatal(err)
	}
	if checker.CheckMAC2(now+minute+1, msg, src4) {
		t.Error("a cookie of the old secret accepted with the new one")
	}
	noise.AddMACs(msg, &a.remote, now)
	checker.Clear()
	if checker.CheckMAC2(now, msg, src4) {
		t.Error("a cookie accepted after Clear")
	}
}

func TestCookieReplyIsBound(t *testing.T) {
	a, b := newSides(t)
	checker := noise.NewCookieChecker(b.static, nil)
	random := fixedRand('c')
	old, _ := a.initiate(t, 1)
	reply, err := checker.Reply(random, now, old, src4)
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := noise.NewRemote(a.static, b.static.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := fresh.OpenCookieReply(now, reply[:]); !errors.Is(err, noise.ErrState) {
		t.Errorf("a reply to nothing: %v", err)
	}
	a.initiate(t, 2)
	if err := a.remote.OpenCookieReply(now, reply[:]); !errors.Is(err, noise.ErrForged) {
		t.Errorf("a reply to an older message: %v", err)
	}
	noise.AddMACs(old, &a.remote, now)
	if err := a.remote.OpenCookieReply(now, reply[:]); err != nil {
		t.Errorf("the reply: %v", err)
	}
	if err := a.remote.OpenCookieReply(later, reply[:]); !errors.Is(err, noise.ErrState) {
		t.Errorf("the same reply again: %v", err)
	}
}

func TestCookieReplyToGarbage(t *testing.T) {
	a, b := newSides(t)
	checker := noise.NewCookieChecker(b.static, nil)
	for _, msg := range [][]byte{nil, make([]byte, 16), make([]byte, 148), {4, 39: 0}} {
		if _, err := checker.Reply(fixedRand(1), now, msg, src4); !errors.Is(err, noise.ErrMalformed) {
			t.Errorf("%d bytes: %v", len(msg), err)
		}
		if checker.CheckMAC2(now, msg, src4) || b.static.CheckMAC1(msg) {
			t.Errorf("%d bytes have good macs", len(msg))
		}
		noise.AddMACs(msg, &a.remote, now)
		if err := a.remote.OpenCookieReply(now, msg); !errors.Is(err, noise.ErrMalformed) {
			t.Errorf("%d bytes as cookie reply: %v", len(msg), err)
		}
	}
	msg, _ := a.initiate(t, 1)
	if _, err := checker.Reply(iotest.ErrReader(errors.New("no")), now, msg, src4); err == nil {
		t.Error("a reply without randomness")
	}
	if checker.CheckMAC2(now, msg, src4) {
		t.Error("a secret without randomness is used")
	}
}
