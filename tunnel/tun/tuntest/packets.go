package tuntest

import (
	"errors"
	"os"
	"time"

	"kiloport/tunnel/tun"
)

var errBuffer = errors.New("read from the fake tun device: the buffer has no room after the headroom")

// Read is [tun.Queue]'s.
func (q *fakeQueue) Read(buf []byte) (tun.Header, int, error) {
	if len(buf) <= tun.Headroom {
		return tun.Header{}, 0, errBuffer
	}
	// A closed device gives no more packets, though some may wait: select would
	// choose between the two by chance.
	if q.fake.isClosed() {
		return tun.Header{}, 0, os.ErrClosed
	}
	select {
	case p := <-q.first:
		return p.into(buf)
	default:
	}
	select {
	case <-q.fake.done:
		return tun.Header{}, 0, os.ErrClosed
	case p := <-q.first:
		return p.into(buf)
	case p := <-q.toTunnel:
		return p.into(buf)
	}
}

// Doze is [tun.Queue]'s.
func (q *fakeQueue) Doze(d time.Duration) error { return q.Await(d) }

// Await is [tun.Queue]'s. One goroutine at a time may wait.
func (q *fakeQueue) Await(d time.Duration) error {
	if q.fake.isClosed() {
		return os.ErrClosed
	}
	if len(q.first) > 0 {
		return nil
	}
	over := time.NewTimer(d)
	defer over.Stop()
	select {
	case <-q.fake.done:
		return os.ErrClosed
	case <-over.C:
	case p := <-q.toTunnel:
		q.first <- p
	}
	return nil
}

// TryRead is [tun.Queue]'s.
func (q *fakeQueue) TryRead(buf []byte) (tun.Header, int, error) {
	if len(buf) <= tun.Headroom {
		return tun.Header{}, 0, errBuffer
	}
	if q.fake.isClosed() {
		return tun.Header{}, 0, os.ErrClosed
	}
	select {
	case p := <-q.first:
		return p.into(buf)
	default:
	}
	select {
	case p := <-q.toTunnel:
		return p.into(buf)
	default:
		return tun.Header{}, 0, nil
	}
}

func (p injected) into(buf []byte) (tun.Header, int, error) {
	return p.header, copy(buf[tun.Headroom:], p.bytes), nil
}

// Write is [tun.Queue]'s. A refused packet is counted in [Fake.Dropped].
func (q *fakeQueue) Write(h tun.Header, buf []byte, more [][]byte) error {
	f := q.fake
	if f.isClosed() {
		return os.ErrClosed
	}
	err := f.write(h, buf, more)
	if err != nil {
		f.dropped.Add(1)
	}
	return err
}

func (f *Fake) write(h tun.Header, buf []byte, more [][]byte) error {
	if len(buf) <= tun.Headroom || len(more) > tun.MaxPieces {
		return tun.ErrMalformed
	}
	if !f.offloads.Has(needed(h)) {
		return tun.ErrOffload
	}
	for i := range tun.Headroom {
		buf[i] = spoilt
	}
	// The order of the kernel's driver: a link that is down takes nothing.
	if !f.up.Load() {
		return tun.ErrLinkDown
	}
	packet := append([]byte(nil), buf[tun.Headroom:]...)
	for _, piece := range more {
		packet = append(packet, piece...)
	}
	if version := packet[0] >> 4; version != 4 && version != 6 {
		return tun.ErrMalformed
	}
	packets, err := Segment(h, packet)
	if err != nil {
		return tun.ErrMalformed
	}
	for _, p := range packets {
		select {
		case f.toHost <- p:
		default:
			return ErrFull
		}
	}
	return nil
}
