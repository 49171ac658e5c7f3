package capture

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// pcapWriter writes the classic capture file format with nanosecond times
// (draft-ietf-opsawg-pcap), which tcpdump and Wireshark read. It remembers its
// first failure and writes nothing more after it.
type pcapWriter struct {
	w   io.Writer
	buf []byte
	err error
}

func newPcapWriter(w io.Writer, snap int) *pcapWriter {
	p := &pcapWriter{w: w}
	header := make([]byte, 24)
	binary.LittleEndian.PutUint32(header[0:], 0xa1b23c4d)
	binary.LittleEndian.PutUint16(header[4:], 2) // version 2.4
	binary.LittleEndian.PutUint16(header[6:], 4)
	binary.LittleEndian.PutUint32(header[16:], uint32(snap))
	binary.LittleEndian.PutUint32(header[20:], 1) // LINKTYPE_ETHERNET
	p.put(header)
	return p
}

// frame adds the captured start of a frame that was length bytes long.
func (p *pcapWriter) frame(at time.Time, captured []byte, length int) {
	p.buf = binary.LittleEndian.AppendUint32(p.buf[:0], uint32(at.Unix()))
	p.buf = binary.LittleEndian.AppendUint32(p.buf, uint32(at.Nanosecond()))
	p.buf = binary.LittleEndian.AppendUint32(p.buf, uint32(len(captured)))
	p.buf = binary.LittleEndian.AppendUint32(p.buf, uint32(length))
	p.put(append(p.buf, captured...))
}

func (p *pcapWriter) put(b []byte) {
	if p.err != nil {
		return
	}
	if _, err := p.w.Write(b); err != nil {
		p.err = fmt.Errorf("write the capture file: %w", err)
	}
}
