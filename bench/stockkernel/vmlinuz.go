package stockkernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
)

// Fields of the boot sector of a compressed kernel for x86 (Documentation/arch/x86/
// boot.rst, "The Real-Mode Kernel Header"). All numbers are little-endian.
const (
	magicAt     = 0x202 // "HdrS"
	versionAt   = 0x20e // where the version is, minus 0x200
	versionBase = 0x200
	versionMost = 256 // bytes
)

// readRelease reads the release that a compressed kernel says it is.
func readRelease(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	release, err := release(f)
	if err != nil {
		return "", fmt.Errorf("read the release of %s: %w", path, err)
	}
	return release, nil
}

func release(kernel io.ReaderAt) (string, error) {
	var header [versionAt + 2 - magicAt]byte
	if _, err := kernel.ReadAt(header[:], magicAt); err != nil {
		return "", fmt.Errorf("no boot sector of a kernel: %w", err)
	}
	if string(header[:4]) != "HdrS" {
		return "", fmt.Errorf("no boot sector of a kernel: %q is there, not HdrS", header[:4])
	}
	at := int64(binary.LittleEndian.Uint16(header[versionAt-magicAt:])) + versionBase
	text := make([]byte, versionMost)
	n, err := kernel.ReadAt(text, at)
	if n == 0 {
		return "", fmt.Errorf("no version at %#x: %w", at, err)
	}
	end := bytes.IndexByte(text[:n], 0)
	if end < 0 {
		return "", fmt.Errorf("no end of the version at %#x", at)
	}
	first, _, _ := strings.Cut(string(text[:end]), " ")
	return first, nil
}
