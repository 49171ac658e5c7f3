package flowhash_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/cespare/xxhash/v2"

	"kiloport/flowhash"
)

func secret(n uint64) (s [16]byte) {
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)})
	_, _ = r.Read(s[:])
	return s
}

// keyFor is the key of a packet with these addresses and first four bytes.
func keyFor(t testing.TB, protocol uint8, src, dst netip.Addr, id uint32) flowhash.Key {
	t.Helper()
	payload := binary.BigEndian.AppendUint32(nil, id)
	packet := header6{next: protocol, src: src.String(), dst: dst.String()}.packet
	if src.Is4() {
		packet = header4{protocol: protocol, src: src.String(), dst: dst.String()}.packet
	}
	var f flowhash.Flow
	if err := flowhash.Parse(packet(payload), &f); err != nil {
		t.Fatal(err)
	}
	return f.Key
}

func addr6(high, low uint64) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], high)
	binary.BigEndian.PutUint64(b[8:], low)
	return netip.AddrFrom16(b)
}

// The hash is XXH64 of 32 secret bytes and the key, here streamed into a Digest,
// with the key put together by hand.
func TestHashIsXXH64(t *testing.T) {
	s := secret(1)
	h := flowhash.NewHasher(s)
	k := keyFor(t, 6, netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"), 0x1f90c350)
	d := xxhash.New()
	_, _ = d.Write(s[:])
	for i := range 2 {
		_, _ = d.Write(binary.LittleEndian.AppendUint64(nil, xxhash.Sum64(append(s[:], byte(i+1)))))
	}
	for _, field := range []string{
		"fd00000000000000 0000000000000001", "fd00000000000000 0000000000000002", "1f90c350 06 01 06 00",
	} {
		_, _ = d.Write(unhex(field))
	}
	if got := h.Hash(&k); got != d.Sum64() {
		t.Errorf("hash %#x, want %#x", got, d.Sum64())
	}
}

// Structured keys, as real traffic has them, fill 1024 buckets evenly whichever
// ten bits choose the bucket.
func TestHashIsEven(t *testing.T) {
	const n, buckets = 1 << 16, 1024
	v4 := func(a, b byte, n int) netip.Addr { return netip.AddrFrom4([4]byte{10, b, a, byte(n)}) }
	sets := map[string]func(i int) flowhash.Key{
		"source ports": func(i int) flowhash.Key {
			return keyFor(t, 6, v4(0, 0, 1), v4(0, 0, 2), uint32(i)<<16|443)
		},
		"destination ports": func(i int) flowhash.Key {
			return keyFor(t, 17, v4(0, 0, 1), v4(0, 0, 2), 443<<16|uint32(i))
		},
		"IPv4 hosts": func(i int) flowhash.Key {
			return keyFor(t, 50, v4(byte(i>>8), 1, i), v4(0, 0, 2), 0)
		},
		"IPv6 hosts": func(i int) flowhash.Key {
			return keyFor(t, 50, addr6(0xfd00<<48, uint64(i)), addr6(0xfd00<<48, 1<<32), 0)
		},
		"IPv6 networks": func(i int) flowhash.Key {
			return keyFor(t, 50, addr6(0xfd00<<48, 1), addr6(0xfd00<<48|uint64(i), 1), 0)
		},
		"SPIs in steps of 65536": func(i int) flowhash.Key {
			return keyFor(t, 50, v4(0, 0, 1), v4(0, 0, 2), uint32(i)<<16)
		},
	}
	// Chi squared has 1023 degrees of freedom: mean 1023, deviation 45.
	limit := 1023 + 5*math.Sqrt(2*1023)
	for name, key := range sets {
		for seed := range uint64(3) {
			h := flowhash.NewHasher(secret(seed))
			var count [64 - 9][buckets]int
			for i := range n {
				k := key(i)
				sum := h.Hash(&k)
				for _, shift := range []int{0, 22, 54} {
					count[shift][sum>>shift%buckets]++
				}
			}
			for _, shift := range []int{0, 22, 54} {
				chi := 0.0
				for _, c := range count[shift] {
					d := float64(c) - n/buckets
					chi += d * d / (n / buckets)
				}
				if chi > limit {
					t.Errorf("%s, secret %d, bits from %d: chi squared %.0f, want below %.0f", name, seed, shift, chi, limit)
				}
			}
		}
	}
}

// Each bit of the secret changes about half of the hash's bits, and flows that
// share a bucket under one secret are apart under another.
func TestSecretMatters(t *testing.T) {
	k := keyFor(t, 6, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), 1)
	base := secret(7)
	plain := flowhash.NewHasher(base)
	total := 0
	for bit := range 128 {
		s := base
		s[bit/8] ^= 1 << (bit % 8)
		h := flowhash.NewHasher(s)
		changed := bits.OnesCount64(h.Hash(&k) ^ plain.Hash(&k))
		if changed < 10 || changed > 54 {
			t.Errorf("bit %d of the secret changes %d bits of the hash", bit, changed)
		}
		total += changed
	}
	if mean := float64(total) / 128; mean < 30 || mean > 34 {
		t.Errorf("a bit of the secret changes %.1f bits of the hash in the mean, want about 32", mean)
	}

	one, two := flowhash.NewHasher(secret(1)), flowhash.NewHasher(secret(2))
	shared, still := 0, 0
	for i := range uint32(1 << 16) {
		k := keyFor(t, 17, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), i)
		if one.Hash(&k)%1024 == 0 {
			shared++
			if two.Hash(&k)%1024 == 0 {
				still++
			}
		}
	}
	if shared < 20 || still > 3 {
		t.Errorf("of %d flows in one bucket, %d still are together under another secret", shared, still)
	}
}

// Every bit of the key reaches every bit of the hash.
func TestKeyBitsSpread(t *testing.T) {
	h := flowhash.NewHasher(secret(3))
	r := rand.New(rand.NewPCG(1, 2))
	const rounds = 400
	var flips [288][64]int
	for range rounds {
		w := [4]uint64{r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64()}
		id := r.Uint32()
		hash := func() uint64 {
			k := keyFor(t, 6, addr6(w[0], w[1]), addr6(w[2], w[3]), id)
			return h.Hash(&k)
		}
		base := hash()
		for bit := range flips {
			flip(&w, &id, bit)
			diff := base ^ hash()
			flip(&w, &id, bit)
			for out := range 64 {
				flips[bit][out] += int(diff >> out & 1)
			}
		}
	}
	// The deviation of a fair coin's 400 throws is 10; there are 18432 coins.
	for bit := range flips {
		for out, n := range flips[bit] {
			if n < rounds/2-60 || n > rounds/2+60 {
				t.Errorf("bit %d of the key flips bit %d of the hash in %d of %d", bit, out, n, rounds)
			}
		}
	}
}

func flip(w *[4]uint64, id *uint32, bit int) {
	if bit >= 256 {
		*id ^= 1 << (bit - 256)
		return
	}
	w[bit/64] ^= 1 << (bit % 64)
}

// With the secret in front of a whole key, XXH64's tail would hold both words of
// a destination, and a sender could make addresses that collide whatever the
// secret is. The Hasher must tell them apart.
func TestNoCollisionsForEverySecret(t *testing.T) {
	const p1, p2 = 11400714785074694791, 14029467366897019727
	inverse := func(a uint64) uint64 {
		x := a // Newton's iteration doubles the right low bits, 3 to begin with
		for range 5 {
			x *= 2 - a*x
		}
		return x
	}
	mix := func(w uint64) uint64 { return bits.RotateLeft64(w*p2, 31) * p1 }
	unmix := func(m uint64) uint64 { return bits.RotateLeft64(m*inverse(p1), -31) * inverse(p2) }
	word := func(a netip.Addr, i int) uint64 { return binary.LittleEndian.Uint64(a.AsSlice()[8*i:]) }
	destination := func(x, y uint64) netip.Addr {
		return netip.AddrFrom16([16]byte(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, x), y)))
	}

	src, dst := addr6(0xfd00<<48, 1), addr6(0xfd00<<48, 2)
	evil := destination(unmix(mix(word(dst, 0))^1<<36), unmix(mix(word(dst, 1))^1<<63))
	id := binary.BigEndian.AppendUint32(nil, 1)
	a, b := keyFor(t, 6, src, dst, 1), keyFor(t, 6, src, evil, 1)
	for n := range uint64(100) {
		s := secret(n)
		naive := func(dst netip.Addr) uint64 {
			return xxhash.Sum64(join(s[:], src.AsSlice(), dst.AsSlice(), id, []byte{6, 1, 6, 0}))
		}
		if naive(dst) != naive(evil) {
			t.Fatal("the attack does not work on the naive hash: this test shows nothing")
		}
		h := flowhash.NewHasher(s)
		if h.Hash(&a) == h.Hash(&b) {
			t.Fatalf("secret %d: %v and %v collide", n, &a, &b)
		}
	}
}

// Flows between two addresses never collide: the last word of the key enters
// the hash by invertible steps alone.
func TestNoCollisionsBetweenTwoHosts(t *testing.T) {
	h := flowhash.NewHasher(secret(5))
	seen := make(map[uint64]string)
	src, dst := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	for _, protocol := range []uint8{6, 17, 50} {
		for i := range uint32(1 << 15) {
			k := keyFor(t, protocol, src, dst, i*0x10003)
			sum := h.Hash(&k)
			if other, ok := seen[sum]; ok {
				t.Fatalf("%v and %s collide", &k, other)
			}
			seen[sum] = fmt.Sprint(protocol, i)
		}
	}
}

func BenchmarkHash(b *testing.B) {
	h := flowhash.NewHasher(secret(1))
	k := keyFor(b, 6, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), 1)
	b.ReportAllocs()
	var sum uint64
	for b.Loop() {
		sum += h.Hash(&k)
	}
	_ = sum
}
