package stockkernel

import (
	"fmt"
	"io"
	"math"
)

// Types of files in a mode, as stat(2) has them.
const (
	typeFolder = 0o040000
	typeFile   = 0o100000
)

// cpioEnd is the name of the member that ends an archive.
const cpioEnd = "TRAILER!!!"

// A cpioWriter writes an archive in the format in which the kernel takes its first
// root, cpio's "newc" (Documentation/driver-api/early-userspace/buffer-format.rst):
// each member a header of hexadecimal numbers, the name and a zero, the content,
// with zeros up to a multiple of 4 behind both. After an error it does nothing
// more; close returns it.
type cpioWriter struct {
	to    io.Writer
	inode int64
	size  int64 // bytes written
	err   error
}

// folder adds a folder. One that something is put in has to come before that.
func (w *cpioWriter) folder(name string) { w.member(name, typeFolder|0o755, 0, nil) }

// file adds a file of so many bytes, which content has to have at least.
func (w *cpioWriter) file(name string, permissions uint32, size int64, content io.Reader) {
	w.member(name, typeFile|permissions, size, content)
}

// close ends the archive.
func (w *cpioWriter) close() error {
	w.member(cpioEnd, 0, 0, nil)
	return w.err
}

func (w *cpioWriter) member(name string, mode uint32, size int64, content io.Reader) {
	if w.err == nil && size > math.MaxUint32 {
		w.err = fmt.Errorf("%s: %d bytes are too many for the format: 4 GiB", name, size)
	}
	w.inode++
	w.printf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		w.inode, mode, 0, 0, // owner and group: root
		1, 0, size, // links, time
		0, 0, 0, 0, // devices
		len(name)+1, 0) // no checksum
	w.printf("%s\x00", name)
	w.pad()
	if w.err == nil && content != nil {
		n, err := io.CopyN(w.to, content, size)
		w.size += n
		if err != nil {
			w.err = fmt.Errorf("%s: %d bytes of %d: %w", name, n, size, err)
		}
	}
	w.pad()
}

func (w *cpioWriter) pad() { w.printf("%s", "\x00\x00\x00"[:-w.size&3]) }

func (w *cpioWriter) printf(format string, args ...any) {
	if w.err != nil {
		return
	}
	n, err := fmt.Fprintf(w.to, format, args...)
	w.size += int64(n)
	w.err = err
}
