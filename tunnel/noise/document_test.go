package noise_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"kiloport/tunnel/noise"
)

// The keys of the example in deploy/PROTOCOL.md follow from its chaining key.
func TestKeysOfTheDocument(t *testing.T) {
	text, err := os.ReadFile("../../deploy/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(text), "\n```aes\n")
	block, _, _ = strings.Cut(block, "\n```")
	var chain [32]byte
	if n, err := hex.Decode(chain[:], []byte(strings.Fields(block + " x x")[1])); n != 32 || err != nil {
		t.Fatalf("%v: %s", err, block)
	}
	var ti, tr, ai, ar [32]byte
	noise.KDF(&chain, nil, &ti, &tr)
	noise.KDF(&chain, []byte("kiloport v1 aes-256-gcm"), &ai, &ar)
	want := fmt.Sprintf("C   %x\nT_i %x\nT_r %x\nA_i %x\nA_r %x", chain, ti, tr, ai, ar)
	if block != want {
		t.Errorf("the document has\n%s\nwant\n%s", block, want)
	}
}
