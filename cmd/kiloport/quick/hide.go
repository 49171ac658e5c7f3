package quick

import (
	"encoding/base64"
	"regexp"
	"strconv"
	"strings"
)

// keyLike is anything that could be a key, whole or cut.
var keyLike = regexp.MustCompile(`[A-Za-z0-9+/]{32,}=?`)

// hide is for text of a file. It takes long paths for keys.
func hide(text string) string { return keyLike.ReplaceAllString(text, hidden) }

// quoted shows a piece of the file, shortened, without what could be a key.
func quoted(text string) string {
	text = hide(text)
	if len(text) > 80 {
		text = text[:80] + "..."
	}
	return strconv.Quote(text)
}

const hidden = "(hidden)"

// run is digits of base64, or of base 16, one after the other.
var run = regexp.MustCompile(`[A-Za-z0-9+/]{40,}=?`)

var hexKey = regexp.MustCompile(`[0-9a-fA-F]{64}`)

// Hide replaces what looks like a key by "(hidden)": 44 characters of base64,
// the last of them =, and 64 hexadecimal digits; also the 43 that are left where
// the = was cut off. It is for messages, and leaves paths as they are.
func Hide(text string) string {
	return run.ReplaceAllStringFunc(text, func(r string) string {
		if strings.HasSuffix(r, "=") || hexKey.MatchString(r) || cutKey(r) {
			return hidden
		}
		return r
	})
}

// cutKey tells whether text is a key without its =. A key has capitals, small
// letters and digits but once in a thousand; a path often has not, or begins
// with a slash.
func cutKey(text string) bool {
	_, err := base64.RawStdEncoding.Strict().DecodeString(text)
	return err == nil && len(text) == 43 && text[0] != '/' &&
		strings.ContainsAny(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") &&
		strings.ContainsAny(text, "abcdefghijklmnopqrstuvwxyz") &&
		strings.ContainsAny(text, "0123456789")
}
