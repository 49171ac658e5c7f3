package accord

import (
	"encoding/hex"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// The example of deploy/PROTOCOL.md is what is said.
func TestExampleOfTheDocument(t *testing.T) {
	text, err := os.ReadFile("../../../deploy/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(text), "\n```attached\n")
	block, _, _ = strings.Cut(block, "\n```")
	_, block, _ = strings.Cut(block, "\n") // the first line is in words
	want, err := hex.DecodeString(strings.Join(strings.Fields(block), ""))
	if err != nil || len(want) == 0 {
		t.Fatalf("%v: %q", err, block)
	}
	h := Hello{
		Version: 1, Instance: 7, Sequence: 2, Heard: 1, HeardFrom: 8, Port: 51820,
		Sends: Range{40000, 1024}, Restores: Range{32768, 28232},
		Seen: netip.MustParseAddrPort("192.0.2.1:51820"), Restored: 3, Flags: Ask,
	}
	if got := h.Append(nil); string(got) != string(want) {
		t.Errorf("we say\n%x, the document has\n%x", got, want)
	}
	if Port != 61937 || AskSize != 416 || AnswerSize != 400 || hopLimit != 1 {
		t.Errorf("the document is wrong: port %d, sizes %d and %d", Port, AskSize, AnswerSize)
	}
}
