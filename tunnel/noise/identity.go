package noise

import (
	"crypto/ecdh"
	"fmt"
	"io"
	"runtime"
	"sync"

	"golang.org/x/crypto/blake2s"
)

// Static is our own identity with all that can be computed once. Its methods
// may be called from several goroutines at once, except Clear. One that nobody
// holds any more has its private key zeroed.
type Static struct {
	public PublicKey
	key    *ecdh.PrivateKey
	hash   [32]byte  // of the initial state and our public key: how each initiation to us starts
	mac1   sync.Pool // of keyed BLAKE2s states; their key follows from our public key
}

// NewStatic makes the identity of a private key. A zero key makes one that
// refuses every handshake with [ErrNoKey].
func NewStatic(k PrivateKey) *Static {
	s := &Static{}
	defer k.Clear()
	if !k.IsZero() {
		// This fails only where a FIPS mode forbids the curve; then there is
		// no usable key either.
		if key, err := ecdh.X25519().NewPrivateKey(k[:]); err == nil {
			s.key, s.public = key, PublicKey(key.PublicKey().Bytes())
			// Handshakes under way may use it a little longer than its owner.
			runtime.AddCleanup(s, eraseDH, key)
		}
	}
	start := initial
	start.mixHash(s.public[:])
	s.hash = start.hash
	mac1Key := labelledHash(labelMAC1, &s.public)
	s.mac1.New = func() any { return &mac1State{hash: newMAC(mac1Key[:])} }
	return s
}

// Public returns our public key.
func (s *Static) Public() PublicKey { return s.public }

// Clear zeroes the private key. Nothing else may be using s.
func (s *Static) Clear() {
	eraseDH(s.key)
	s.key = nil
}

// Format writes the public key for every verb.
func (s *Static) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.public.String()) }

// Remote is one peer as the handshake sees it: its key, what can be computed
// from it once, and what must be remembered between handshakes: timestamps and
// the cookie. It is not for concurrent use, and must not be copied after first
// use.
type Remote struct {
	// Constants are CookieRefreshTime and HandshakeInitiationRate for this
	// peer; nil means [Default].
	Constants *Constants

	public       PublicKey
	staticStatic [32]byte // the secret shared by both static keys; zero without a private key
	mac1Key      [32]byte
	cookieKey    [32]byte

	sent       timestamp // last one put into an initiation
	accepted   timestamp // last one accepted from the peer
	acceptedAt int64     // monotonic ns

	cookie   [macSize]byte
	cookieAt int64 // monotonic ns, 0 = none held
	lastMAC1 [macSize]byte
	hasMAC1  bool // lastMAC1 was sent, and no cookie reply to it has come yet
}

// NewRemote prepares for handshakes with the peer public. s may be nil or
// without a key as long as none is set. A low-order point is refused with
// [ErrLowOrder].
func NewRemote(s *Static, public PublicKey) (Remote, error) {
	r := Remote{
		public:    public,
		mac1Key:   labelledHash(labelMAC1, &public),
		cookieKey: labelledHash(labelCookie, &public),
	}
	if err := r.SetStatic(s); err != nil {
		return Remote{}, err
	}
	return r, nil
}

// SetStatic takes over a new private key of ours. Timestamps are kept, so that
// neither side falls for a replay because of it.
func (r *Remote) SetStatic(s *Static) error {
	clear(r.staticStatic[:])
	if s == nil || s.key == nil {
		return checkPoint(&r.public)
	}
	secret, err := sharedSecret(s.key, r.public[:])
	r.staticStatic = secret
	clear(secret[:])
	return err
}

// Public returns the peer's public key.
func (r *Remote) Public() PublicKey { return r.public }

// Clear zeroes every secret in r. It then refuses handshakes with [ErrNoKey].
func (r *Remote) Clear() {
	clear(r.staticStatic[:])
	clear(r.cookie[:])
	r.cookieAt = 0
	r.hasMAC1 = false
}

// Format writes the public key for every verb.
func (r Remote) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, r.public.String()) }

// checkPoint tells a low-order point without a private key of ours: every
// clamped scalar takes it to zero.
func checkPoint(public *PublicKey) error {
	probe, err := ecdh.X25519().NewPrivateKey(make([]byte, keySize))
	if err != nil {
		return err
	}
	_, err = sharedSecret(probe, public[:])
	return err
}

func labelledHash(label string, public *PublicKey) [32]byte {
	var buf [len(labelMAC1) + keySize]byte
	n := copy(buf[:], label)
	copy(buf[n:], public[:])
	return blake2s.Sum256(buf[:])
}
