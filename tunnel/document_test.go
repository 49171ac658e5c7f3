package tunnel

import (
	"encoding/hex"
	"net/netip"
	"os"
	"strings"
	"testing"

	"kiloport/tunnel/ecn"
)

// example gives the bytes of a block of deploy/PROTOCOL.md.
func example(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("../deploy/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, found := strings.Cut(string(text), "\n```"+name+"\n")
	block, _, _ = strings.Cut(block, "\n```")
	_, block, _ = strings.Cut(block, "\n") // the first line is in words
	b, err := hex.DecodeString(strings.Join(strings.Fields(block), ""))
	if !found || err != nil {
		t.Fatalf("the example of %s: %v", name, err)
	}
	return b
}

// The examples of the document are what is sent, and what is understood.
func TestExamplesOfTheDocument(t *testing.T) {
	for name, c := range map[string]struct {
		kind controlType
		body interface{ append([]byte) []byte }
	}{
		"hello": {controlHello, &hello{
			Version: 1, SendLanes: 1024, ReceiveLanes: 16383, ECN: helloECNDecapsulates, DSCP: helloDSCPInherits,
			AEADs: helloAEADChaCha | helloAEADAES256, Path: helloPathDirect | helloPathReports | helloPathVouched,
		}},
		"echo": {controlProbeEcho, &probeEcho{
			probe: probe{ID: 0x0102030405060708, Sent: 1000}, Lane: 5, Size: 96, TrafficClass: 2, HopLimit: 61,
			Arrived: 2000, Source: netip.MustParseAddrPort("192.0.2.1:40005"),
		}},
		"report": {controlReport, &report{
			Epoch: 1, Number: 2, Found: verdicts{verdictPasses, verdictPasses, verdictPasses, verdictPasses}, Normal: 1,
			Arrived: markCounts{ecn.NotECT: 3}, Totals: reportTotals{Time: 500, Bytes: 300, Expected: 4},
			Lanes: []reportLane{{Lane: 7, Packets: 3, Bytes: 300, Expected: 4, Delay: delayUnknown, Low: delayUnknown, Hop: 60}},
		}},
	} {
		want := example(t, name)
		if got := appendControl(nil, c.kind, c.body); string(got) != string(want) {
			t.Errorf("%s: we send\n%x, the document has\n%x", name, got, want)
		}
		kind, body, rest, err := nextControl(want[1:])
		if err != nil || kind != c.kind || len(rest) > 0 || len(body) == 0 {
			t.Errorf("%s: understood as %d, %x, %x, %v", name, kind, body, rest, err)
		}
	}
	if reportHeaderMin != 45 || reportHeaderLen != 69 || helloReceiveLen != 13 || reportLaneLen != 51 || reportMaxLanes != 22 || listenWindow != 8128 || laneWindow != 1984 {
		t.Errorf("the document is wrong: header %d, lane %d, %d lanes, windows %d and %d", reportHeaderLen, reportLaneLen, reportMaxLanes, listenWindow, laneWindow)
	}
}
