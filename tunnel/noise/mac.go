package noise

import (
	"crypto/subtle"
	"hash"
	"time"

	"golang.org/x/crypto/blake2s"
)

// newMAC returns keyed BLAKE2s-128 (section 5.4's Mac).
func newMAC(key []byte) hash.Hash {
	h, err := blake2s.New128(key)
	if err != nil { // only for keys of 0 or more than 32 bytes
		panic("noise: " + err.Error())
	}
	return h
}

func mac(out *[macSize]byte, key []byte, data ...[]byte) {
	h := newMAC(key)
	for _, d := range data {
		h.Write(d)
	}
	h.Sum(out[:0])
}

// splitMACs cuts a message before mac1 and mac2, which end both initiation and
// response. The caller knows that it is one of them.
func splitMACs(msg []byte) (body, mac1, mac2 []byte) {
	at1, at2 := len(msg)-2*macSize, len(msg)-macSize
	return msg[:at1], msg[at1:at2], msg[at2:]
}

func hasMACs(msg []byte) bool {
	return isMessage(msg, MessageInitiation) || isMessage(msg, MessageResponse)
}

// AddMACs completes an initiation or response to r (section 5.4.4): mac1
// always, mac2 if r holds a cookie younger than CookieRefreshTime. r remembers
// mac1, which a cookie reply is bound to. Other messages are left alone.
func AddMACs(msg []byte, r *Remote, now int64) {
	if !hasMACs(msg) {
		return
	}
	body, mac1, mac2 := splitMACs(msg)
	mac(&r.lastMAC1, r.mac1Key[:], body)
	copy(mac1, r.lastMAC1[:])
	r.hasMAC1 = true
	clear(mac2)
	if !r.HasCookie(now) {
		return
	}
	var sum [macSize]byte
	mac(&sum, r.cookie[:], body, mac1)
	copy(mac2, sum[:])
}

// CheckMAC1 reports, in constant time, whether an initiation or response was
// made by someone who knows our public key: without that, it is not answered at
// all. It does not allocate, and may be called from several goroutines.
func (s *Static) CheckMAC1(msg []byte) bool {
	if !hasMACs(msg) {
		return false
	}
	body, mac1, _ := splitMACs(msg)
	m := s.mac1.Get().(*mac1State)
	defer s.mac1.Put(m)
	m.hash.Reset()
	m.hash.Write(body)
	return subtle.ConstantTimeCompare(m.hash.Sum(m.sum[:0]), mac1) == 1
}

// mac1State is what Static keeps a pool of.
type mac1State struct {
	hash hash.Hash
	sum  [macSize]byte
}

// HasCookie reports whether r holds a cookie that is still fresh.
func (r *Remote) HasCookie(now int64) bool {
	return r.cookieAt != 0 && time.Duration(now-r.cookieAt) <= r.Constants.orDefault().CookieRefreshTime
}
