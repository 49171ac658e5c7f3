package uapi

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestSecretsAreHidden(t *testing.T) {
	k := SecretKey(fill(0xa7))
	r := SetRequest{PrivateKey: &k, Peers: []PeerChange{{PresharedKey: &k}}}
	s := DeviceState{PrivateKey: k, Peers: []PeerState{{PresharedKey: k}}}
	text, err := json.Marshal([]any{k, r, s})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	noTime := &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}
	slog.New(slog.NewTextHandler(&log, noTime)).Info("x", "key", k, "pointer", &k, "state", s)
	slog.New(slog.NewJSONHandler(&log, noTime)).Info("x", "key", k, "pointer", &k, "state", s)
	shown := []string{string(text), log.String()}
	for _, verb := range strings.Split("v +v #v s q x X d o b c U e t", " ") {
		shown = append(shown, fmt.Sprintf("%"+verb, k), fmt.Sprintf("%"+verb, &k), fmt.Sprintf("%"+verb, s))
	}
	for _, shown := range shown {
		for _, never := range []string{"a7", "A7", "167", "247", "10100111", hex.EncodeToString(k[:1]), base64.StdEncoding.EncodeToString(k[:3])} {
			if strings.Contains(shown, never) {
				t.Errorf("%q shows the key", shown)
			}
		}
		if !strings.Contains(shown, hidden) {
			t.Errorf("%q does not say that the key is hidden", shown)
		}
	}
}

func TestPublicKeyIsBase64(t *testing.T) {
	const want = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
	k := PublicKey(fill(1))
	text, err := json.Marshal(k)
	if k.String() != want || string(text) != `"`+want+`"` || err != nil {
		t.Errorf("%s, %s, %v", k, text, err)
	}
}
