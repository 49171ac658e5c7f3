package traffic

import (
	"fmt"
	"io"
	"time"

	"github.com/cespare/xxhash/v2"
)

// bulkSender makes the frames of one bulk transfer and sums them up.
type bulkSender struct {
	header header
	frame  []byte
	digest *xxhash.Digest
	total  bulkSum
}

func newBulkSender(h header) *bulkSender {
	h.kind, h.number = typeBulk, 0
	b := &bulkSender{header: h, frame: make([]byte, bulkFrameSize), digest: xxhash.New()}
	// Content that repeats at no power of two, so that no shift goes unnoticed.
	for i := range b.frame[headerSize:] {
		b.frame[headerSize+i] = byte(i % 251)
	}
	return b
}

// send sends frames until the time is over.
func (b *bulkSender) send(w io.Writer, until time.Time) error {
	for time.Now().Before(until) && b.header.number < maxNumber-1 {
		b.header.put(b.frame)
		_, _ = b.digest.Write(b.frame) // never fails
		if _, err := w.Write(b.frame); err != nil {
			return err
		}
		b.header.number++
		b.total.frames++
	}
	b.total.sum = b.digest.Sum64()
	return nil
}

// sendBytes sends exactly size bytes, at least headerSize.
func (b *bulkSender) sendBytes(w io.Writer, size int) error {
	for size > 0 {
		n := min(size, len(b.frame))
		if rest := size - n; 0 < rest && rest < headerSize {
			n -= headerSize // the last frame needs room for its header
		}
		b.header.put(b.frame[:n])
		if _, err := w.Write(b.frame[:n]); err != nil {
			return err
		}
		b.header.number++
		size -= n
	}
	return nil
}

// bulkReceiver checks the frames of one bulk transfer.
type bulkReceiver struct {
	digest xxhash.Digest
	total  bulkSum
	bytes  uint64
}

func newBulkReceiver() *bulkReceiver {
	b := &bulkReceiver{}
	b.digest.Reset()
	return b
}

func (b *bulkReceiver) add(h header, frame []byte) error {
	if h.number != b.total.frames {
		return fmt.Errorf("frame %d came where frame %d was due", h.number, b.total.frames)
	}
	b.total.frames++
	b.bytes += uint64(len(frame))
	_, _ = b.digest.Write(frame) // never fails
	b.total.sum = b.digest.Sum64()
	return nil
}
