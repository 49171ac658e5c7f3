package ecn

import (
	"fmt"
	"strings"
)

// Model is how an egress treats the DSCP (RFC 2983, section 3).
type Model uint8

const (
	// Pipe leaves the inner DSCP as it is: what happens to the outer one is
	// the affair of the network outside. It is the zero value.
	Pipe Model = iota
	// Uniform copies the outer DSCP inside, for a tunnel within one network of
	// differentiated services.
	Uniform
)

var models = []string{"pipe", "uniform"}

// ParseModel reads "pipe" or "uniform", in either case.
func ParseModel(s string) (Model, error) {
	for i, name := range models {
		if strings.EqualFold(s, name) {
			return Model(i), nil
		}
	}
	return Pipe, fmt.Errorf("%q is none of %s", s, strings.Join(models, ", "))
}

// String is what [ParseModel] reads back.
func (m Model) String() string {
	if int(m) < len(models) {
		return models[m]
	}
	return fmt.Sprintf("model %d", uint8(m))
}

// Inner is the traffic class that an egress forwards a packet with, whose inner
// DSCP (0 to 63) and outer traffic class are given, and whose ECN field is to be
// as [Decapsulate] said.
func (m Model) Inner(dscp, outer uint8, cp Codepoint) uint8 {
	if m == Uniform {
		dscp = outer >> 2
	}
	return TrafficClass(dscp, cp)
}

// PHB is a number that is the same for two DSCPs whose packets a network must
// keep in order: the codepoints of one assured forwarding class, which differ in
// how easily they are dropped (RFC 2597, section 2). All others are classes of
// their own.
func PHB(dscp uint8) uint8 {
	dscp &= MaxDSCP
	class, drop := dscp>>3, dscp&7
	if class >= 1 && class <= 4 && (drop == 2 || drop == 4 || drop == 6) {
		return class<<3 | 2
	}
	return dscp
}
