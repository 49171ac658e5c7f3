package uapi

import (
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"time"
)

// PublicKey names a peer. It prints as base64, as `wg` shows it.
type PublicKey [32]byte

// String gives the key in base64.
func (k PublicKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// MarshalText gives the key in base64, for JSON and logs.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// SecretKey is a private or preshared key; all zeros means none. Every fmt verb,
// slog and every text encoder shows "(hidden)" in its place.
type SecretKey [32]byte

const hidden = "(hidden)"

// Format writes "(hidden)" for every verb.
func (SecretKey) Format(s fmt.State, _ rune) { io.WriteString(s, hidden) }

// LogValue returns "(hidden)".
func (SecretKey) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText returns "(hidden)", which keeps the key out of JSON.
func (SecretKey) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// SetRequest is a set=1 request. A nil field is left as it is.
type SetRequest struct {
	PrivateKey   *SecretKey // zero removes it
	ListenPort   *uint16    // 0 lets the kernel choose
	FwMark       *uint32    // 0 for none
	ReplacePeers bool       // forget all peers first
	Peers        []PeerChange
}

// PeerChange is what a request says about one peer. A request may name a peer
// more than once; the changes count in their order.
type PeerChange struct {
	PublicKey           PublicKey
	Remove              bool            // forget the peer; the fields below do not matter then
	UpdateOnly          bool            // do not create the peer
	PresharedKey        *SecretKey      // zero removes it
	Endpoint            *netip.AddrPort // never IPv4 as IPv6; may have a zone
	PersistentKeepalive *uint16         // seconds, 0 for off
	ReplaceAllowedIPs   bool            // forget its allowed ips first
	AllowedIPs          []AllowedIPChange
}

// AllowedIPChange gives a prefix to a peer or takes it away.
type AllowedIPChange struct {
	Prefix netip.Prefix // masked
	Remove bool
}

// DeviceState is what get=1 answers.
type DeviceState struct {
	PrivateKey SecretKey // zero: none
	ListenPort uint16    // 0: none yet
	FwMark     uint32    // 0: none
	Peers      []PeerState
}

// PeerState is one peer of a DeviceState.
type PeerState struct {
	PublicKey           PublicKey
	PresharedKey        SecretKey      // zero: none
	Endpoint            netip.AddrPort // not valid: none
	LastHandshake       time.Time      // zero: never
	RxBytes, TxBytes    uint64
	PersistentKeepalive uint16 // seconds, 0: off
	AllowedIPs          []netip.Prefix
}

// Backend holds the configuration. Its methods are called from several
// goroutines.
type Backend interface {
	// State gives the present configuration.
	State() DeviceState
	// Configure applies a request or, after an error, nothing of it. An errno
	// wrapped in the error is what the client gets.
	Configure(*SetRequest) error
	// Show gives what get=kiloport answers, as encoding/json takes it.
	Show() any
}
