package uapi

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// mostWords bounds what is told of a daemon's last words: how a traceback of Go's
// begins says most.
const mostWords = 1 << 10

func lastWordsPath(name string) string { return filepath.Join(directory, name+".ended") }

// OpenLastWords makes the file in which the daemon of an interface says why it ends,
// if it has no terminal: NAME.ended, beside its socket. It is for who has that socket,
// and is empty, so that one which is still there says that a daemon was killed.
func OpenLastWords(name string) (*os.File, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(lastWordsPath(name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make the file of last words: %w", err)
	}
	return f, nil
}

// LastWords tells how the last daemon of an interface ended, "" if it did as it was
// told to or if that is not known.
func LastWords(name string) string {
	f, err := os.Open(lastWordsPath(name))
	if err != nil {
		return ""
	}
	defer f.Close()
	words, err := io.ReadAll(io.LimitReader(f, mostWords))
	if err != nil {
		return ""
	}
	if said := strings.TrimSpace(string(words)); said != "" {
		return said
	}
	return "it was killed, or the machine was"
}
