package noise

import (
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

// CookieChecker is the responder's side of section 5.3: under load it answers
// handshake messages with a cookie instead of work, and does the work only for
// those whose mac2 shows that they received theirs, at the address and port
// that they claim. It is safe for concurrent use.
type CookieChecker struct {
	lifetime time.Duration
	sealKey  [32]byte // follows from our public key

	mu        sync.Mutex
	secret    [32]byte
	secretSet int64 // monotonic ns, 0 = no secret yet
}

// NewCookieChecker makes the checker of an identity. A nil c means [Default].
func NewCookieChecker(s *Static, c *Constants) *CookieChecker {
	return &CookieChecker{
		lifetime: c.orDefault().CookieRefreshTime,
		sealKey:  labelledHash(labelCookie, &s.public),
	}
}

func (c *CookieChecker) fresh(now int64) bool {
	return c.secretSet != 0 && time.Duration(now-c.secretSet) <= c.lifetime
}

// cookie is Mac(secret, source address and port).
func (c *CookieChecker) cookie(out *[macSize]byte, src netip.AddrPort) {
	var buf [16 + 2]byte
	b := buf[:0]
	if a := src.Addr().Unmap(); a.Is4() {
		a4 := a.As4()
		b = append(b, a4[:]...)
	} else {
		a16 := a.As16()
		b = append(b, a16[:]...)
	}
	mac(out, c.secret[:], binary.BigEndian.AppendUint16(b, src.Port()))
}

// CheckMAC2 reports whether msg, an initiation or response from src, carries a
// mac2 made with the cookie that src was last sent.
func (c *CookieChecker) CheckMAC2(now int64, msg []byte, src netip.AddrPort) bool {
	if !hasMACs(msg) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.fresh(now) {
		return false
	}
	var cookie, sum [macSize]byte
	c.cookie(&cookie, src)
	body, mac1, mac2 := splitMACs(msg)
	mac(&sum, cookie[:], body, mac1)
	return subtle.ConstantTimeCompare(sum[:], mac2) == 1
}

// Reply makes the cookie reply to msg, an initiation or response from src whose
// mac1 was right (section 5.4.7). The secret behind the cookies is renewed from
// rand when it is older than CookieRefreshTime.
func (c *CookieChecker) Reply(rand io.Reader, now int64, msg []byte, src netip.AddrPort) (reply [CookieReplySize]byte, err error) {
	if !hasMACs(msg) {
		return reply, ErrMalformed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.renew(rand, now); err != nil {
		return reply, fmt.Errorf("make cookie reply: %w", err)
	}
	binary.LittleEndian.PutUint32(reply[:], MessageCookieReply)
	copy(reply[cookieReceiver:], msg[senderOffset:senderOffset+4])
	nonce := reply[cookieNonce:cookieSealed]
	if _, err := io.ReadFull(rand, nonce); err != nil {
		return [CookieReplySize]byte{}, fmt.Errorf("make cookie reply: %w", err)
	}
	aead, err := chacha20poly1305.NewX(c.sealKey[:])
	if err != nil {
		return [CookieReplySize]byte{}, fmt.Errorf("make cookie reply: %w", err)
	}
	var cookie [macSize]byte
	c.cookie(&cookie, src)
	_, mac1, _ := splitMACs(msg)
	aead.Seal(reply[:cookieSealed], nonce, cookie[:], mac1)
	return reply, nil
}

func (c *CookieChecker) renew(rand io.Reader, now int64) error {
	if c.fresh(now) {
		return nil
	}
	c.secretSet = 0
	if _, err := io.ReadFull(rand, c.secret[:]); err != nil {
		return err
	}
	c.secretSet = now
	return nil
}

// Clear zeroes the secret: no cookie sent so far is worth anything.
func (c *CookieChecker) Clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.secret[:])
	c.secretSet = 0
}

// Format hides the secret from every verb.
func (c *CookieChecker) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "cookie checker") }

// OpenCookieReply takes the cookie from a reply to the message that [AddMACs]
// last completed. The next messages to r carry it in mac2. One reply is taken
// for each message sent; a forged one changes nothing.
func (r *Remote) OpenCookieReply(now int64, msg []byte) error {
	if !isMessage(msg, MessageCookieReply) {
		return ErrMalformed
	}
	if !r.hasMAC1 {
		return ErrState
	}
	aead, err := chacha20poly1305.NewX(r.cookieKey[:])
	if err != nil {
		return err
	}
	var cookie [macSize]byte
	if _, err := aead.Open(cookie[:0], msg[cookieNonce:cookieSealed], msg[cookieSealed:], r.lastMAC1[:]); err != nil {
		return ErrForged
	}
	r.cookie, r.cookieAt, r.hasMAC1 = cookie, now, false
	return nil
}
