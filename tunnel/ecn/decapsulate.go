package ecn

import "fmt"

// Anomaly is a combination of inner and outer codepoint that no ingress makes
// and no standard router leads to: RFC 6040, section 4.2, wants it counted and,
// at a limited rate, reported.
type Anomaly uint8

// The anomalies. RFC 6040 calls the first currently unused, as a future use of
// ECT(1) could make it harmless; the others potentially dangerous, as they show
// a broken ingress or path, or an attempt to hide congestion.
const (
	AnomalyNone         Anomaly = iota
	AnomalyECT0OnECT1           // ECT(0) outside ECT(1)
	AnomalyECT0OnNotECT         // ECT(0) outside Not-ECT
	AnomalyECT1OnNotECT         // ECT(1) outside Not-ECT
	AnomalyCEOnNotECT           // CE outside Not-ECT: the packet is dropped
	AnomalyECT1OnCE             // ECT(1) outside CE

	// Anomalies is the number of values, for arrays of counters.
	Anomalies = iota
)

// Dangerous tells the RFC's "potentially dangerous" combinations from the
// "currently unused" one.
func (a Anomaly) Dangerous() bool {
	return a >= AnomalyECT0OnNotECT && a <= AnomalyECT1OnCE
}

// String names outer and inner codepoint: "ECT(0) outside ECT(1)".
func (a Anomaly) String() string {
	switch a {
	case AnomalyNone:
		return "none"
	case AnomalyECT0OnECT1:
		return "ECT(0) outside ECT(1)"
	case AnomalyECT0OnNotECT:
		return "ECT(0) outside Not-ECT"
	case AnomalyECT1OnNotECT:
		return "ECT(1) outside Not-ECT"
	case AnomalyCEOnNotECT:
		return "CE outside Not-ECT"
	case AnomalyECT1OnCE:
		return "ECT(1) outside CE"
	}
	return fmt.Sprintf("anomaly %d", uint8(a))
}

// Decapsulation is what an egress does with a packet.
type Decapsulation struct {
	Inner   Codepoint // what to forward it with; Not-ECT where it is dropped
	Drop    bool      // congestion was signalled to a transport that cannot hear it
	Anomaly Anomaly   // what to count and report, whether dropped or not
}

// decapsulations is figure 4 of RFC 6040. Rows are the inner codepoint, columns
// the outer one, both by value, so ECT(1) comes before ECT(0).
var decapsulations = [4][4]Decapsulation{
	NotECT: {
		NotECT: {Inner: NotECT},
		ECT1:   {Inner: NotECT, Anomaly: AnomalyECT1OnNotECT},
		ECT0:   {Inner: NotECT, Anomaly: AnomalyECT0OnNotECT},
		CE:     {Inner: NotECT, Drop: true, Anomaly: AnomalyCEOnNotECT},
	},
	ECT1: {
		NotECT: {Inner: ECT1},
		ECT1:   {Inner: ECT1},
		ECT0:   {Inner: ECT1, Anomaly: AnomalyECT0OnECT1},
		CE:     {Inner: CE},
	},
	ECT0: {
		NotECT: {Inner: ECT0},
		ECT1:   {Inner: ECT1},
		ECT0:   {Inner: ECT0},
		CE:     {Inner: CE},
	},
	CE: {
		NotECT: {Inner: CE},
		ECT1:   {Inner: CE, Anomaly: AnomalyECT1OnCE},
		ECT0:   {Inner: CE},
		CE:     {Inner: CE},
	},
}

// Decapsulate says what becomes of a packet that arrived with these codepoints
// (RFC 6040, section 4.2). It is right for every ingress, in either mode, and
// for one that knows nothing of ECN.
func Decapsulate(inner, outer Codepoint) Decapsulation {
	return decapsulations[inner&mask][outer&mask]
}
