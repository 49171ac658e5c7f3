// Package doctor finds what on a host keeps a tunnel from working well: kernel,
// limits, ports, firewall, queues, clock, and what a running daemon says of the
// path.
//
// Start at [Gather], which looks at the host, and [Examine], which judges what was
// seen and says what to do about it. Nothing is changed, and nothing is sent.
//
// Limits: of firewalls only nftables is looked into, and of its rules those that
// accept UDP to a port; rules that depend on more are taken to be right.
package doctor

import (
	"net/netip"
	"time"

	"kiloport/tunnel"
)

// View is what was seen of a host. Zero values mean that it is not known, and then
// nothing is said about it.
type View struct {
	Kernel string // release, as in uname -r
	// Sysctl are values of /proc/sys, by name with dots.
	Sysctl map[string]string
	NoTUN  bool // /dev/net/tun is missing
	// Taken are the UDP ports that sockets have.
	Taken map[uint16]bool
	Links []Link
	// Endpoints are the ways to the peers of the configuration.
	Endpoints []Way
	// Ruleset is what nft -j list ruleset printed.
	Ruleset []byte
	// OldTables tells that iptables has rules of its own kind.
	OldTables bool
	// Conntracked is how many connections are being tracked; -1 not known.
	Conntracked int
	Clock       Clock
	Now         time.Time

	// Config is the configuration, nil without one.
	Config *Config
	// Status is what the running daemon says, nil without one.
	Status *tunnel.Status
	// LastWords tell how the daemon before ended that does not run any more, "" if it
	// did as it was told to.
	LastWords string
}

// Link is a network interface on a way to a peer.
type Link struct {
	Name  string
	MTU   int    // bytes
	Qdisc string // its root
}

// Way is how a peer is reached.
type Way struct {
	To   netip.Addr
	Link string
	MTU  int // bytes, of the route or else the link
	Err  error
}

// Clock says whether something keeps the clock right.
type Clock uint8

const (
	// ClockUnknown says that the kernel did not tell.
	ClockUnknown Clock = iota
	// ClockSynchronized says that it is.
	ClockSynchronized
	// ClockAlone says that it is not.
	ClockAlone
)

// Config is what matters of a configuration file.
type Config struct {
	Name       string
	Options    tunnel.Options
	ListenPort uint16 // 0: the kernel's choice
	MTU        int    // 0: automatic
	Networks   bool   // peers have more behind them than themselves
	Default    bool   // everything goes into the tunnel
	LooseMode  bool   // the file can be read by others than its owner
}

// Level says how bad a finding is.
type Level string

const (
	// OK says that something was looked at and is well.
	OK Level = "ok"
	// Note is worth knowing.
	Note Level = "note"
	// Warning costs speed or delay, or will fail some day.
	Warning Level = "warning"
	// Failure keeps the tunnel from working.
	Failure Level = "failure"
)

// Finding is one thing that was found.
type Finding struct {
	Check string `json:"check"` // what was looked at
	Level Level  `json:"level"`
	Text  string `json:"text"`
	Fix   string `json:"fix,omitempty"` // what to do, empty if nothing
}

// Examine judges a view. There is at least one finding for each check that could be
// made, in the same order always.
func Examine(v *View) (all []Finding) {
	for _, check := range checks {
		e := &examination{View: v, check: check.name}
		check.do(e)
		all = append(all, e.found...)
	}
	return all
}

// Ill tells whether there is a warning or a failure among findings.
func Ill(all []Finding) bool {
	for _, f := range all {
		if f.Level == Warning || f.Level == Failure {
			return true
		}
	}
	return false
}
