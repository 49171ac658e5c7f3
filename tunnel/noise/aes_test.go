package noise_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"kiloport/tunnel/noise"
)

// Both ends derive the same two AES keys, which are none of WireGuard's, and what
// is sealed with them is plain AES-256-GCM.
func TestAESMessages(t *testing.T) {
	ka, kb := shake(t, noise.PresharedKey{1})
	sendA, receiveA := ka.AESSeed()
	sendB, receiveB := kb.AESSeed()
	if *sendA != *receiveB || *receiveA != *sendB || *sendA == *receiveA {
		t.Fatal("the two ends have different AES keys, or one key for both directions")
	}
	chachaSend, chachaReceive := ka.Keys()
	for _, k := range []*[32]byte{chachaSend, chachaReceive} {
		if *k == *sendA || *k == *receiveA {
			t.Fatal("a key is used with two ciphers")
		}
	}
	key := *sendA
	counter := noise.JoinCounter(5, 77, noise.CounterAES)
	msg := ka.Seal(nil, []byte("sealed with aes"), counter)
	var nonce [12]byte
	binary.LittleEndian.PutUint64(nonce[4:], counter)
	block, err := aes.NewCipher(key[:])
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	if want := gcm.Seal(nil, nonce[:], []byte("sealed with aes"), nil); !bytes.Equal(msg[16:], want) {
		t.Errorf("sealed %x, want %x", msg[16:], want)
	}
	flipped := bytes.Clone(msg)
	flipped[15] ^= noise.CounterAES >> 56
	if _, _, err := kb.OpenInPlace(flipped); !errors.Is(err, noise.ErrForged) {
		t.Errorf("opened with the other cipher: %v", err)
	}
	flipped = bytes.Clone(msg)
	flipped[15] ^= noise.CounterVouched >> 56
	if _, _, err := kb.OpenInPlace(flipped); !errors.Is(err, noise.ErrForged) {
		t.Errorf("opened with another flag: %v", err)
	}
	plain, got, err := kb.OpenInPlace(msg)
	if err != nil || string(plain) != "sealed with aes" || got != counter {
		t.Errorf("opened %q, %x, %v", plain, got, err)
	}
	ka.Clear()
	if *sendA != [32]byte{} || *receiveA != [32]byte{} {
		t.Error("AES keys that were used survive Clear")
	}
}

func TestAESKeysAreZeroed(t *testing.T) {
	ka, _ := shake(t, noise.PresharedKey{})
	send, receive := ka.AESSeed()
	ka.Clear()
	if !bothZero(send, receive)() {
		t.Error("AES keys that were never used survive Clear")
	}
	if ka.Seal(nil, nil, noise.CounterAES) != nil {
		t.Error("sealed after Clear")
	}
	kb, _ := shake(t, noise.PresharedKey{})
	send, receive = kb.AESSeed()
	runtime.KeepAlive(kb)
	kb = nil
	if !collected(bothZero(send, receive)) {
		t.Error("the AES keys of a dropped keypair are still in memory")
	}
	key := bytes.Repeat([]byte{7}, 32)
	block, _ := aes.NewCipher(key)
	gcm, _ := cipher.NewGCM(block)
	sealed, erased := noise.EraseAES(key)
	if !erased || bytes.Equal(sealed, gcm.Seal(nil, make([]byte, 12), nil, nil)) {
		t.Error("the schedule of an AES key cannot be erased: has crypto/aes changed?")
	}
}
