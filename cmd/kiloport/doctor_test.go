package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"kiloport/cmd/kiloport/doctor"
)

// The doctor of a namespace whose firewall lets nothing in says so, in words and as
// JSON, and gives the status for it.
func TestDoctor(t *testing.T) {
	n := newNamespace(t)
	name := linkName("d")
	path := writeConfig(t, name, "[Interface]\nPrivateKey="+privateKey+"\nListenPort=999\n[Peer]\nPublicKey="+otherKey+"\nAllowedIPs=10.0.0.0/8\nEndpoint=127.0.0.1:9\n")
	n.run("nft", "table inet f { chain input { type filter hook input priority 0; policy drop; }\n}")
	for _, up := range []bool{false, true} {
		if up {
			if _, stderr, code := n.kiloport("up", path); code != 0 {
				t.Fatal(stderr)
			}
		}
		stdout, stderr, code := n.kiloport("doctor", path)
		if code != 1 || stderr != "" || !strings.Contains(stdout, "warning firewall: chain input") || !strings.Contains(stdout, "→ nft insert rule inet f input udp dport 999 accept") {
			t.Errorf("status %d, %s%s", code, stdout, stderr)
		}
		if got := strings.Contains(stdout, "none runs for "+name); got == up {
			t.Errorf("up %v: %s", up, stdout)
		}
	}
	stdout, _, code := n.kiloport("doctor", path, "--json")
	var found []doctor.Finding
	if err := json.Unmarshal([]byte(stdout), &found); err != nil || code != 1 || !doctor.Ill(found) {
		t.Errorf("status %d, %v, %s", code, err, stdout)
	}
	if _, stderr, code := n.kiloport("doctor", path, path); code != 2 || stderr == "" {
		t.Errorf("two files: status %d, %s", code, stderr)
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := n.kiloport("doctor", path); code != 1 || !strings.Contains(stderr, "x") {
		t.Errorf("nonsense: status %d, %s", code, stderr)
	}
}
