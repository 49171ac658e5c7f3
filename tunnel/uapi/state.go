package uapi

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"time"
)

// stateParser reads what [WriteGet] writes, or another implementation. It passes
// over keys that it does not know, as the protocol asks of a client.
type stateParser struct {
	state DeviceState
	peer  *PeerState // nil before the first public_key
}

func (p *stateParser) take(key, value string) error {
	var err error
	switch {
	case key == "public_key":
		p.state.Peers = append(p.state.Peers, PeerState{})
		p.peer = &p.state.Peers[len(p.state.Peers)-1]
		err = parseKey(value, p.peer.PublicKey[:])
	case p.peer == nil:
		err = p.deviceLine(key, value)
	default:
		err = p.peerLine(key, value)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", shown(key+"="+value), err)
	}
	return nil
}

func (p *stateParser) deviceLine(key, value string) (err error) {
	var n uint64
	switch key {
	case "private_key":
		err = parseKey(value, p.state.PrivateKey[:])
	case "listen_port":
		n, err = number(value, math.MaxUint16)
		p.state.ListenPort = uint16(n)
	case "fwmark":
		n, err = number(value, math.MaxUint32)
		p.state.FwMark = uint32(n)
	}
	return err
}

func (p *stateParser) peerLine(key, value string) (err error) {
	var n uint64
	s := p.peer
	switch key {
	case "preshared_key":
		err = parseKey(value, s.PresharedKey[:])
	case "endpoint":
		s.Endpoint, err = netip.ParseAddrPort(value)
	case "last_handshake_time_sec":
		if n, err = number(value, math.MaxInt64); n != 0 {
			s.LastHandshake = time.Unix(int64(n), 0)
		}
	case "last_handshake_time_nsec":
		if n, err = number(value, 999_999_999); n != 0 {
			s.LastHandshake = time.Unix(max(0, s.LastHandshake.Unix()), int64(n))
		}
	case "rx_bytes":
		s.RxBytes, err = number(value, math.MaxUint64)
	case "tx_bytes":
		s.TxBytes, err = number(value, math.MaxUint64)
	case "persistent_keepalive_interval":
		n, err = number(value, math.MaxUint16)
		s.PersistentKeepalive = uint16(n)
	case "allowed_ip":
		var prefix netip.Prefix
		prefix, err = netip.ParsePrefix(value)
		s.AllowedIPs = append(s.AllowedIPs, prefix)
	}
	return err
}

// number reads a decimal number of at most limit; it gives 0 with an error.
func number(value string, limit uint64) (uint64, error) {
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil || n > limit {
		return 0, errors.New("not a number in range")
	}
	return n, nil
}
