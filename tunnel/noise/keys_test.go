package noise_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"kiloport/tunnel/noise"
)

// spellings are the ways in which a key could show up in text.
func spellings(k [32]byte) []string {
	decimal := strings.Trim(fmt.Sprint(k[:6]), "[]")
	return []string{
		base64.StdEncoding.EncodeToString(k[:])[:20],
		hex.EncodeToString(k[:8]),
		strings.ToUpper(hex.EncodeToString(k[:8])),
		decimal,
		strings.ReplaceAll(decimal, " ", ","),
		strings.ReplaceAll(decimal, " ", ", "),
		strings.Trim(fmt.Sprintf("%#v", k[:6]), "[]byte{}"),
		string(k[:8]),
		fmt.Sprintf("%q", k[:8]),
	}
}

func TestSecretsHideThemselves(t *testing.T) {
	a, b := newSides(t)
	psk, err := noise.NewPresharedKey(fixedRand('p'))
	if err != nil {
		t.Fatal(err)
	}
	msg, h := a.initiate(t, 1)
	in, err := noise.OpenInitiation(b.static, msg)
	if err != nil {
		t.Fatal(err)
	}
	ka, _ := shake(t, psk)
	send, receive := ka.Keys()
	ephemeral, chain := h.Secrets()
	secrets := [][32]byte{
		a.private, psk, *send, *receive, [32]byte(ephemeral), *chain, *in.Secrets(), *a.remote.Secret(),
	}
	type config struct {
		Private noise.PrivateKey
		PSK     *noise.PresharedKey
		hidden  any
	}
	values := []any{
		a.private, &a.private, psk, &psk, a.static, a.remote, &a.remote, h, in, &in, ka,
		noise.NewCookieChecker(b.static, nil),
		config{Private: a.private, PSK: &psk, hidden: ka}, []noise.PrivateKey{a.private},
		map[string]noise.PresharedKey{"k": psk},
	}
	for _, v := range values {
		for where, text := range renderings(v) {
			for _, secret := range secrets {
				for _, s := range spellings(secret) {
					if strings.Contains(text, s) {
						t.Errorf("%T shows a secret by %s: %s", v, where, text)
					}
				}
			}
		}
	}
}

func renderings(v any) map[string]string {
	out := map[string]string{}
	// %p is missing: fmt asks no method of a value for it. go vet refuses it.
	for _, verb := range strings.Split("v +v #v s q x X d o b c U e t T", " ") {
		out["%"+verb] = fmt.Sprintf("%"+verb, v)
	}
	var text, lines bytes.Buffer
	slog.New(slog.NewTextHandler(&text, nil)).Info("m", "v", v, slog.Group("g", "v", v))
	slog.New(slog.NewJSONHandler(&lines, nil)).Info("m", "v", v, slog.Group("g", "v", v))
	out["slog text"], out["slog json"] = text.String(), lines.String()
	j, err := json.Marshal(v)
	out["json"] = string(j) + fmt.Sprint(err)
	out["error"] = fmt.Errorf("wrapped: %v", v).Error()
	return out
}

// The test above must be able to fail.
func TestSpellingsFindAKey(t *testing.T) {
	var k [32]byte
	_, _ = fixedRand(1).Read(k[:])
	found := 0
	for _, text := range renderings(k) {
		for _, s := range spellings(k) {
			if strings.Contains(text, s) {
				found++
				break
			}
		}
	}
	if found < 8 {
		t.Errorf("only %d renderings of a bare array were recognised", found)
	}
}

func TestParseKeys(t *testing.T) {
	a := newSide(t, 'a')
	k, err := noise.ParsePrivateKey(a.private.Base64())
	if err != nil || k != a.private {
		t.Errorf("private key: %v", err)
	}
	p, err := noise.ParsePublicKey(a.static.Public().String())
	if err != nil || p != a.private.Public() {
		t.Errorf("public key: %v", err)
	}
	psk, err := noise.ParsePresharedKey(a.private.Base64())
	if err != nil || psk != noise.PresharedKey(a.private) {
		t.Errorf("preshared key: %v", err)
	}
	if psk.Base64() != a.private.Base64() {
		t.Error("preshared key does not print what it read")
	}
	if k, err := noise.ParsePrivateKey(strings.Repeat("A", 43) + "="); err != nil || !k.IsZero() {
		t.Errorf("no key: %v", err)
	}
	if k, err := noise.ParsePrivateKey(strings.Repeat("/", 42) + "8="); err != nil || k[0] != 0xf8 || k[31] != 0x7f {
		t.Errorf("not clamped: %v", err)
	}
}

func TestParseKeyErrorsKeepTheSecret(t *testing.T) {
	good := strings.Repeat("Secret", 7) + "A="
	for _, bad := range []string{
		"", "Secret", good[:43], good + "=", good[:42] + "==", good[:41] + "\nA=", good[:42] + "B=",
		strings.Replace(good, "S", "-", 1), strings.Replace(good, "S", " ", 1), "SecretSecret" + good,
	} {
		_, err1 := noise.ParsePrivateKey(bad)
		_, err2 := noise.ParsePublicKey(bad)
		_, err3 := noise.ParsePresharedKey(bad)
		for _, err := range []error{err1, err2, err3} {
			if err == nil {
				t.Errorf("%q is accepted", bad)
			} else if strings.Contains(err.Error(), "Secret") {
				t.Errorf("the error repeats the key: %v", err)
			}
		}
	}
}

func TestKeyText(t *testing.T) {
	want := newSide(t, 'a').static.Public()
	j, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got noise.PublicKey
	if err := json.Unmarshal(j, &got); err != nil || got != want {
		t.Errorf("%s: %v", j, err)
	}
	if err := json.Unmarshal([]byte(`"x"`), &got); err == nil {
		t.Error("a bad key from JSON")
	}
	if want.IsZero() || !(noise.PublicKey{}).IsZero() {
		t.Error("IsZero of a public key")
	}
}

func TestClearKeys(t *testing.T) {
	k, psk := newSide(t, 'a').private, noise.PresharedKey{1}
	if k.IsZero() || psk.IsZero() {
		t.Error("set keys count as none")
	}
	k.Clear()
	psk.Clear()
	if !k.IsZero() || !psk.IsZero() {
		t.Error("cleared keys count as set")
	}
}
