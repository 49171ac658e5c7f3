package uapi

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
)

// Error is why a request was refused.
type Error struct {
	// Errno is what the client gets.
	Errno syscall.Errno
	// Line is the line of the request, from 1; 0 if it is none in particular.
	Line int
	// Text is that line, with secrets hidden; empty if there is none.
	Text string
	// Err says what is wrong, and the way out.
	Err error
}

// Error names the line and the way out.
func (e *Error) Error() string {
	switch {
	case e.Line == 0:
		return fmt.Sprintf("configuration request: %v", e.Err)
	case e.Text == "":
		return fmt.Sprintf("configuration request, line %d: %v", e.Line, e.Err)
	}
	return fmt.Sprintf("configuration request, line %d, %q: %v", e.Line, e.Text, e.Err)
}

// Unwrap gives what is wrong.
func (e *Error) Unwrap() error { return e.Err }

// errno gives what a client is told for an error.
func errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	var refused *Error
	if errors.As(err, &refused) && refused.Errno != 0 {
		return refused.Errno
	}
	var number syscall.Errno
	if errors.As(err, &number) && number != 0 {
		return number
	}
	return syscall.EIO
}

const (
	maxShown = 100 // bytes of a value in an error
	keyChars = 40  // so many base64 or hexadecimal digits in a row may be a key
)

// shown is a line as an error may show it. A secret can stand anywhere, in the
// value of another key or where a key should be, so whatever could be one is
// hidden.
func shown(line string) string {
	key, value, ok := strings.Cut(line, "=")
	known := key == "public_key" || slices.Contains(deviceKeys, key) || slices.Contains(peerKeys, key)
	switch {
	case !ok || !known && !plainWord(key):
		return hidden
	case !known, key == "private_key", key == "preshared_key", key != "public_key" && mayHoldKey(value):
		value = hidden
	case len(value) > maxShown:
		value = value[:maxShown] + "..."
	}
	return key + "=" + value
}

func plainWord(s string) bool {
	return 0 < len(s) && len(s) < keyChars && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz_") == ""
}

func mayHoldKey(s string) bool {
	run := 0
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '+', c == '/':
			run++
		default:
			run = 0
		}
		if run >= keyChars {
			return true
		}
	}
	return false
}
