package tunnel

import (
	"fmt"

	"kiloport/portpool"
	"kiloport/tunnel/noise"
	"kiloport/tunnel/tun"
)

// OffloadStatus is what the kernel does for the packet path, and what it does
// not. A capability that is lost costs speed, nothing else.
type OffloadStatus struct {
	Workers int    `json:"workers"` // queues of the TUN device, each with its goroutines
	TUN     string `json:"tun"`     // offloads of the TUN device, or "none"
	GSO     bool   `json:"gso"`     // several datagrams are sent as one
	GRO     bool   `json:"gro"`     // several datagrams are received as one
	// Missing is what is not used, and why, in words.
	Missing []string `json:"missing,omitempty"`
}

func (d *Device) offloadStatus() OffloadStatus {
	t, s := d.tun.Capabilities(), d.shared.Capabilities()
	o := OffloadStatus{Workers: d.workers, TUN: t.Offloads.String(), GSO: s.GSO.On, GRO: s.GRO.On}
	for _, lost := range t.Lost {
		o.miss("tun "+lost.What, lost.Why)
	}
	if d.options.GSO == portpool.Off {
		o.miss("tun offloads", "gso is off")
	}
	o.miss("gso", s.GSO.Reason)
	o.miss("gro", s.GRO.Reason)
	for _, to := range s.NotSegmented {
		o.miss("gso to "+to.String(), "refused on the way")
	}
	return o
}

func (o *OffloadStatus) miss(what, why string) {
	if why != "" {
		o.Missing = append(o.Missing, fmt.Sprintf("%s: %s", what, why))
	}
}

// flagsOffered are the flags of counters that peers may use. Packets whose
// checksum was not computed need a host that finishes it.
func (d *Device) flagsOffered() (flags uint64) {
	if d.options.Cipher.aes() {
		flags |= noise.CounterAES
	}
	if d.tun.Capabilities().Offloads.Has(tun.OffloadChecksum) {
		flags |= noise.CounterVouched
	}
	return flags
}

// cipher names what seals packets on a session.
func (s *session) cipher() string {
	if s.sealFlags.Load()&noise.CounterAES != 0 {
		return cipherNames[CipherAES]
	}
	return cipherNames[CipherChaCha]
}
