package tun

import "strings"

// Offloads are kinds of work that the kernel leaves to this process, or takes
// from it, so that fewer packets cross between the two.
type Offloads uint8

const (
	// OffloadChecksum lets packets come and go with their transport checksum
	// unfinished, see [NeedsChecksum].
	OffloadChecksum Offloads = 1 << iota
	// OffloadTSO lets TCP super-packets of up to 64 KiB come and go, over IPv4
	// and IPv6. It needs OffloadChecksum.
	OffloadTSO
	// OffloadUSO is the same for UDP, from Linux 6.2 on. It needs
	// OffloadChecksum.
	OffloadUSO

	// OffloadAll is all of them.
	OffloadAll = OffloadChecksum | OffloadTSO | OffloadUSO
)

var offloadNames = [...]string{"checksum", "tso", "uso"}

// Has says whether all of want are among o.
func (o Offloads) Has(want Offloads) bool { return o&want == want }

// String gives the names, such as "checksum tso", or "none".
func (o Offloads) String() string {
	var names []string
	for i, name := range offloadNames {
		if o.Has(1 << i) {
			names = append(names, name)
		}
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, " ")
}

// possible leaves out what is of no use without what it needs.
func (o Offloads) possible() Offloads {
	if !o.Has(OffloadChecksum) {
		return 0
	}
	return o & OffloadAll
}

// Capabilities are what a device can do. They do not change while it is open.
type Capabilities struct {
	// Queues is how many queues there are, at least 1, and Rings how many of
	// the kernel's these have in all.
	Queues, Rings int
	// Offloads are those that work, in both directions.
	Offloads Offloads
	// Lost is what was asked for and could not be had.
	Lost []Lost
}

// Lost is something that a device was asked for and cannot do.
type Lost struct {
	// What is "queues", "gso size", or the names of offloads.
	What string
	// Why is the kernel's or the descriptor's reason, in words for a person.
	Why string
}
