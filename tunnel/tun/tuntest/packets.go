package tuntest

import (
	"errors"
	"os"

	"kiloport/tunnel/tun"
)

var errBuffer = errors.New("read from the fake tun device: a buffer has no room after the offset, or there are fewer sizes than buffers")

// Read is [tun.Device]'s.
func (f *Fake) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	if len(bufs) == 0 {
		return 0, nil
	}
	if err := check(bufs, sizes, offset); err != nil {
		return 0, err
	}
	// A closed device gives no more packets, though some may wait: select would
	// choose between the two by chance.
	if f.isClosed() {
		return 0, os.ErrClosed
	}
	select {
	case <-f.done:
		return 0, os.ErrClosed
	case packet := <-f.toTunnel:
		sizes[0] = copy(bufs[0][offset:], packet)
	}
	return 1 + f.take(bufs[1:], sizes[1:], offset), nil
}

// TryRead is [tun.Device]'s.
func (f *Fake) TryRead(bufs [][]byte, sizes []int, offset int) (int, error) {
	if err := check(bufs, sizes, offset); err != nil {
		return 0, err
	}
	if f.isClosed() {
		return 0, os.ErrClosed
	}
	return f.take(bufs, sizes, offset), nil
}

func check(bufs [][]byte, sizes []int, offset int) error {
	if len(sizes) < len(bufs) {
		return errBuffer
	}
	for _, buf := range bufs {
		if offset < 0 || offset >= len(buf) {
			return errBuffer
		}
	}
	return nil
}

// take reads what is there.
func (f *Fake) take(bufs [][]byte, sizes []int, offset int) int {
	for i, buf := range bufs {
		select {
		case packet := <-f.toTunnel:
			sizes[i] = copy(buf[offset:], packet)
		default:
			return i
		}
	}
	return len(bufs)
}

// Write is [tun.Device]'s. A refused packet is counted in [Fake.Dropped].
func (f *Fake) Write(bufs [][]byte, offset int) (n int, err error) {
	if f.isClosed() {
		return 0, os.ErrClosed
	}
	for _, buf := range bufs {
		if e := f.writeOne(buf, offset); e == nil {
			n++
		} else {
			f.dropped.Add(1)
			if err == nil {
				err = e
			}
		}
	}
	return n, err
}

func (f *Fake) writeOne(buf []byte, offset int) error {
	if offset < 0 || offset >= len(buf) {
		return tun.ErrMalformed
	}
	for i := range offset {
		buf[i] = spoilt
	}
	// The order of the kernel's driver: a link that is down takes nothing.
	if !f.up.Load() {
		return tun.ErrLinkDown
	}
	packet := buf[offset:]
	if version := packet[0] >> 4; version != 4 && version != 6 {
		return tun.ErrMalformed
	}
	select {
	case f.toHost <- append([]byte(nil), packet...):
		return nil
	default:
		return ErrFull
	}
}
