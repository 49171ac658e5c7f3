package noise

import (
	"crypto/cipher"
	"crypto/ecdh"
	"reflect"
	"unsafe"

	"golang.org/x/crypto/chacha20poly1305"
)

// The libraries keep copies of the keys that they are given and offer no way to
// clear them. The functions here reach those copies by reflection, which finds
// the field by name and type and never guesses at a layout: should a library
// change, nothing is overwritten that should not be, and the tests of this
// package fail because a key survives.

// aeadKey returns where a keeps its key, nil if that cannot be told.
func aeadKey(a cipher.AEAD) *[chacha20poly1305.KeySize]byte {
	v := reflect.ValueOf(a)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return nil
	}
	f := v.Elem().FieldByName("key")
	if !f.IsValid() || f.Type() != reflect.TypeFor[[chacha20poly1305.KeySize]byte]() {
		return nil
	}
	return (*[chacha20poly1305.KeySize]byte)(unsafe.Pointer(f.UnsafeAddr()))
}

func eraseAEAD(a cipher.AEAD) {
	if k := aeadKey(a); k != nil {
		clear(k[:])
		return
	}
	erase(a)
}

// erase zeroes what a pointer points to, if that holds numbers only, as the key
// schedules of crypto/aes and its GCM do. It tells whether it could.
func erase(a any) bool {
	v := reflect.ValueOf(a)
	if v.Kind() != reflect.Pointer || v.IsNil() || !flat(v.Type().Elem()) {
		return false
	}
	clear(unsafe.Slice((*byte)(v.UnsafePointer()), v.Type().Elem().Size()))
	return true
}

// flat tells whether a type holds numbers only.
func flat(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Array:
		return flat(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if !flat(t.Field(i).Type) {
				return false
			}
		}
		return true
	}
	return t.Kind() >= reflect.Bool && t.Kind() <= reflect.Complex128
}

// dhKey returns where k keeps its scalar, nil if that cannot be told.
func dhKey(k *ecdh.PrivateKey) []byte {
	if k == nil {
		return nil
	}
	f := reflect.ValueOf(k).Elem().FieldByName("privateKey")
	if !f.IsValid() || f.Type() != reflect.TypeFor[[]byte]() {
		return nil
	}
	return f.Bytes()
}

func eraseDH(k *ecdh.PrivateKey) { clear(dhKey(k)) }
