package noise_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kiloport/tunnel/noise"
)

// The golden vectors fix every byte that the protocol makes of fixed random
// numbers. Two other implementations agree with them: see flynn_test.go and
// wireguard_test.go.
var update = flag.Bool("update", false, "write the golden vectors in testdata anew")

// hexBytes is hexadecimal in JSON.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }
func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

func (h hexBytes) key() [32]byte { return [32]byte(h) }

// goldenHandshake is a whole handshake with its first packets and its cookie.
type goldenHandshake struct {
	Name string

	// What goes in.
	InitiatorPrivate   hexBytes
	ResponderPrivate   hexBytes
	PresharedKey       hexBytes
	InitiatorEphemeral hexBytes
	ResponderEphemeral hexBytes
	Wall               time.Time
	InitiatorIndex     uint32
	ResponderIndex     uint32
	CookieSecret       hexBytes
	CookieNonce        hexBytes
	CookieSource       netip.AddrPort

	// What comes out.
	InitiatorPublic    hexBytes
	ResponderPublic    hexBytes
	Timestamp          hexBytes
	Initiation         hexBytes // with mac1
	Response           hexBytes // with mac1
	InitiatorSendKey   hexBytes
	InitiatorReceives  hexBytes // the key, the responder's to send with
	CookieReply        hexBytes // to the initiation
	InitiationAnswered hexBytes // the initiation with mac1 and mac2
	Packets            []goldenPacket
}

type goldenPacket struct {
	FromInitiator bool
	Counter       uint64
	Payload       hexBytes
	Message       hexBytes
}

type goldenKDF struct {
	Key, Input, T1, T2, T3 hexBytes
}

func readGolden[T any](t testing.TB, name string) (all []T) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("no vectors")
	}
	return all
}

func writeGolden(t testing.TB, name string, all any) {
	t.Helper()
	data, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("testdata", name), append(data, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// inputs are the vectors' left sides, out of fixed random numbers.
func inputs() []goldenHandshake {
	var all []goldenHandshake
	for i, name := range []string{"without preshared key", "with preshared key", "IPv6, edges of the indexes"} {
		r := fixedRand(byte(100 + i))
		draw := func(n int) hexBytes {
			b := make([]byte, n)
			_, _ = r.Read(b)
			return b
		}
		g := goldenHandshake{
			Name: name, InitiatorPrivate: draw(32), ResponderPrivate: draw(32), PresharedKey: make(hexBytes, 32),
			InitiatorEphemeral: draw(32), ResponderEphemeral: draw(32), Wall: wall.AddDate(i, i, i),
			InitiatorIndex: 0x01020304 + uint32(i), ResponderIndex: 0xf1f2f3f4 + uint32(i),
			CookieSecret: draw(32), CookieNonce: draw(24), CookieSource: src4,
		}
		switch i {
		case 1:
			g.PresharedKey = draw(32)
		case 2:
			g.PresharedKey = draw(32)
			g.InitiatorIndex, g.ResponderIndex, g.CookieSource = 0, 0xffffffff, src6
		}
		for n, size := range []int{0, 1, 16, 1420, 100} {
			counter := []uint64{0, 1, 7<<48 | 5, 1<<62 - 1<<13 - 2, 1<<63 | 1<<62 | 7<<48 | 6}[n]
			g.Packets = append(g.Packets,
				goldenPacket{FromInitiator: true, Counter: counter, Payload: draw(size)},
				goldenPacket{FromInitiator: false, Counter: counter, Payload: draw(size)})
		}
		all = append(all, g)
	}
	return all
}

// run computes the right side from the left.
func (g goldenHandshake) run(t testing.TB) goldenHandshake {
	t.Helper()
	a := &side{private: g.InitiatorPrivate.key()}
	b := &side{private: g.ResponderPrivate.key()}
	a.static, b.static = noise.NewStatic(a.private), noise.NewStatic(b.private)
	meet(t, a, b)
	pa, pb := a.static.Public(), b.static.Public()
	g.InitiatorPublic, g.ResponderPublic = pa[:], pb[:]

	msg, h, err := noise.Initiate(bytes.NewReader(g.InitiatorEphemeral), a.static, &a.remote, g.InitiatorIndex, g.Wall)
	if err != nil {
		t.Fatal(err)
	}
	noise.AddMACs(msg[:], &a.remote, now)
	g.Initiation = slices.Clone(msg[:])
	in, err := noise.OpenInitiation(b.static, msg[:])
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Accept(&b.remote, now); err != nil {
		t.Fatal(err)
	}
	g.Timestamp = slices.Clone(in.Timestamp[:])
	answer, kb, err := in.Respond(bytes.NewReader(g.ResponderEphemeral), g.PresharedKey.key(), g.ResponderIndex)
	if err != nil {
		t.Fatal(err)
	}
	noise.AddMACs(answer[:], &b.remote, now)
	g.Response = slices.Clone(answer[:])
	ka, err := h.OpenResponse(a.static, g.PresharedKey.key(), answer[:])
	if err != nil {
		t.Fatal(err)
	}
	g.keysAndPackets(ka, kb)
	g.cookie(t, a, b, msg[:])
	return g
}

func (g *goldenHandshake) keysAndPackets(ka, kb *noise.Keypair) {
	send, receive := ka.Keys()
	g.InitiatorSendKey, g.InitiatorReceives = slices.Clone(send[:]), slices.Clone(receive[:])
	g.Packets = slices.Clone(g.Packets)
	for i, p := range g.Packets {
		k := kb
		if p.FromInitiator {
			k = ka
		}
		g.Packets[i].Message = k.Seal(nil, p.Payload, p.Counter)
	}
}

func (g *goldenHandshake) cookie(t testing.TB, a, b *side, msg []byte) {
	t.Helper()
	random := bytes.NewReader(slices.Concat(g.CookieSecret, g.CookieNonce))
	reply, err := noise.NewCookieChecker(b.static, nil).Reply(random, now, msg, g.CookieSource)
	if err != nil {
		t.Fatal(err)
	}
	g.CookieReply = reply[:]
	if err := a.remote.OpenCookieReply(now, reply[:]); err != nil {
		t.Fatal(err)
	}
	noise.AddMACs(msg, &a.remote, now)
	g.InitiationAnswered = msg
}

func TestGoldenHandshakes(t *testing.T) {
	const file = "handshakes.json"
	if *update {
		var all []goldenHandshake
		for _, g := range inputs() {
			all = append(all, g.run(t))
		}
		writeGolden(t, file, all)
	}
	for _, want := range readGolden[goldenHandshake](t, file) {
		t.Run(want.Name, func(t *testing.T) {
			if diff := cmp.Diff(want, want.run(t), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
				t.Errorf("-golden +got:\n%s", diff)
			}
		})
	}
}

func TestGoldenKDF(t *testing.T) {
	const file = "kdf.json"
	if *update {
		var all []goldenKDF
		r := fixedRand('k')
		for _, n := range []int{0, 1, 16, 32} {
			g := goldenKDF{Key: make(hexBytes, 32), Input: make(hexBytes, n)}
			_, _ = r.Read(g.Key)
			_, _ = r.Read(g.Input)
			all = append(all, g.run())
		}
		writeGolden(t, file, all)
	}
	for i, want := range readGolden[goldenKDF](t, file) {
		if diff := cmp.Diff(want, want.run()); diff != "" {
			t.Errorf("vector %d: -golden +got:\n%s", i, diff)
		}
	}
}

func (g goldenKDF) run() goldenKDF {
	key := g.Key.key()
	var t1, t2, t3, u1, u2, v1 [32]byte
	noise.KDF(&key, g.Input, &t1, &t2, &t3)
	noise.KDF(&key, g.Input, &u1, &u2)
	noise.KDF(&key, g.Input, &v1)
	if u1 != t1 || u2 != t2 || v1 != t1 {
		return goldenKDF{}
	}
	return goldenKDF{g.Key, g.Input, t1[:], t2[:], t3[:]}
}
