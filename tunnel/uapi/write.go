package uapi

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
)

// WriteGet writes what get=1 answers, secrets included, without the errno at the
// end.
func WriteGet(w io.Writer, s DeviceState) error {
	b := bufio.NewWriter(w)
	line := func(key string, value any) { fmt.Fprintf(b, "%s=%v\n", key, value) }
	if s.PrivateKey != (SecretKey{}) {
		line("private_key", hex.EncodeToString(s.PrivateKey[:]))
	}
	if s.ListenPort != 0 {
		line("listen_port", s.ListenPort)
	}
	if s.FwMark != 0 {
		line("fwmark", s.FwMark)
	}
	for i := range s.Peers {
		p := &s.Peers[i]
		line("public_key", hex.EncodeToString(p.PublicKey[:]))
		line("preshared_key", hex.EncodeToString(p.PresharedKey[:]))
		line("protocol_version", 1)
		if p.Endpoint.IsValid() {
			line("endpoint", p.Endpoint)
		}
		var seconds, nanoseconds int64
		if !p.LastHandshake.IsZero() {
			seconds, nanoseconds = p.LastHandshake.Unix(), int64(p.LastHandshake.Nanosecond())
		}
		line("last_handshake_time_sec", seconds)
		line("last_handshake_time_nsec", nanoseconds)
		line("tx_bytes", p.TxBytes)
		line("rx_bytes", p.RxBytes)
		line("persistent_keepalive_interval", p.PersistentKeepalive)
		for _, prefix := range p.AllowedIPs {
			line("allowed_ip", prefix)
		}
	}
	return b.Flush()
}

// Write writes a request as [ParseSet] reads it, without the first line set=1 and
// with the empty one at its end. It writes the secrets.
func (r *SetRequest) Write(w io.Writer) error {
	b := bufio.NewWriter(w)
	line := func(key string, value any) { fmt.Fprintf(b, "%s=%v\n", key, value) }
	if r.PrivateKey != nil {
		line("private_key", hex.EncodeToString(r.PrivateKey[:]))
	}
	if r.ListenPort != nil {
		line("listen_port", *r.ListenPort)
	}
	if r.FwMark != nil {
		line("fwmark", *r.FwMark)
	}
	if r.ReplacePeers {
		line("replace_peers", true)
	}
	for i := range r.Peers {
		r.Peers[i].write(line)
	}
	fmt.Fprintln(b)
	return b.Flush()
}

func (c *PeerChange) write(line func(string, any)) {
	line("public_key", hex.EncodeToString(c.PublicKey[:]))
	if c.Remove {
		line("remove", true)
	}
	if c.UpdateOnly {
		line("update_only", true)
	}
	if c.PresharedKey != nil {
		line("preshared_key", hex.EncodeToString(c.PresharedKey[:]))
	}
	if c.Endpoint != nil {
		line("endpoint", *c.Endpoint)
	}
	if c.PersistentKeepalive != nil {
		line("persistent_keepalive_interval", *c.PersistentKeepalive)
	}
	if c.ReplaceAllowedIPs {
		line("replace_allowed_ips", true)
	}
	for _, a := range c.AllowedIPs {
		sign := ""
		if a.Remove {
			sign = "-"
		}
		line("allowed_ip", sign+a.Prefix.String())
	}
}
