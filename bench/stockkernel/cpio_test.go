package stockkernel

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// TestCpio compares an archive with what `cpio -o -H newc` of GNU cpio 2.13 writes
// for the same, but for what a machine has its own of (inode and device numbers,
// times, links to a folder), the case of digits, and zeros after the end.
func TestCpio(t *testing.T) {
	var out bytes.Buffer
	w := &cpioWriter{to: &out}
	w.folder("modules")
	w.file("init", 0o755, 5, strings.NewReader("#!/a\n and more"))
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	const (
		zero = "00000000"
		one  = "00000001"
	)
	want := "070701" + "00000001" + "000041ed" + zero + zero + one + zero + zero + zero + zero + zero + zero + "00000008" + zero + "modules\x00\x00\x00" +
		"070701" + "00000002" + "000081ed" + zero + zero + one + zero + "00000005" + zero + zero + zero + zero + "00000005" + zero + "init\x00\x00" +
		"#!/a\n\x00\x00\x00" +
		"070701" + "00000003" + zero + zero + zero + one + zero + zero + zero + zero + zero + zero + "0000000b" + zero + "TRAILER!!!\x00\x00\x00\x00"
	if out.String() != want {
		t.Errorf("wrote %q, want %q", out.String(), want)
	}
}

// TestCpioAligns wants all headers and contents at multiples of 4, whatever the
// lengths of names and contents are.
func TestCpioAligns(t *testing.T) {
	for length := range 9 {
		var out bytes.Buffer
		w := &cpioWriter{to: &out}
		name, content := strings.Repeat("n", length+1), strings.Repeat("c", length)
		w.file(name, 0o644, int64(length), strings.NewReader(content))
		if err := w.close(); err != nil {
			t.Fatal(err)
		}
		archive := out.String()
		const header = 110
		at := (header + len(name) + 1 + 3) / 4 * 4
		end := (at + length + 3) / 4 * 4
		if archive[at:at+length] != content || !strings.HasPrefix(archive[end:], "070701") || len(archive)%4 != 0 {
			t.Errorf("length %d: %q", length, archive)
		}
	}
}

func TestCpioErrors(t *testing.T) {
	broken := errors.New("disk full")
	for _, test := range []struct {
		name    string
		to      io.Writer
		size    int64
		content string
		err     string
	}{
		{"short", io.Discard, 10, "four", "init: 4 bytes of 10: EOF"},
		{"large", io.Discard, 1 << 32, "", "init: 4294967296 bytes are too many for the format: 4 GiB"},
		{"full", &limitedWriter{room: 200, err: broken}, 1000, strings.Repeat("x", 1000), "disk full"},
		{"full at once", &limitedWriter{err: broken}, 0, "", "disk full"},
	} {
		w := &cpioWriter{to: test.to}
		w.file("init", 0o755, test.size, strings.NewReader(test.content))
		wantError(t, w.close(), test.err)
	}
}

// A limitedWriter fails when it has no more room.
type limitedWriter struct {
	room int
	err  error
}

func (w *limitedWriter) Write(b []byte) (int, error) {
	if len(b) > w.room {
		return w.room, w.err
	}
	w.room -= len(b)
	return len(b), nil
}
