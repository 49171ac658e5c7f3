package tunnel

import (
	"fmt"
	"net/netip"
	"strings"
)

// metricsOff is the address that is none.
const metricsOff = "off"

// ParseMetrics reads where Prometheus gets answers: ADDRESS:PORT, or :PORT for
// this host alone, or "off". What is for others must be asked for by an address:
// 0.0.0.0 or [::] is all. Port 0 is one of the kernel's choice.
func ParseMetrics(s string) (netip.AddrPort, error) {
	if strings.EqualFold(s, metricsOff) {
		return netip.AddrPort{}, nil
	}
	text := s
	if port, ok := strings.CutPrefix(strings.TrimPrefix(s, "localhost"), ":"); ok && !strings.HasPrefix(s, "::") {
		text = "127.0.0.1:" + port
	}
	at, err := netip.ParseAddrPort(text)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not an address to listen on: use :9586 for this host alone, ADDRESS:9586, [::]:9586 for everybody, or off", s)
	}
	return at, nil
}

// MetricsName gives what [ParseMetrics] reads.
func MetricsName(at netip.AddrPort) string {
	if !at.IsValid() {
		return metricsOff
	}
	return at.String()
}
