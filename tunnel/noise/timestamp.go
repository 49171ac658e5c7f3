package noise

import (
	"bytes"
	"encoding/binary"
	"time"
)

const (
	timestampSize = 12
	// tai64Base is TAI64's label for 1970 with the ten leap seconds of then, as
	// all WireGuard implementations count.
	tai64Base = 1<<62 + 10
	// whitening is the granularity of the timestamps, about 16.8 ms: a finer one
	// would tell an observer with our public key about our clock and load.
	whitening = 1 << 24
)

// timestamp is TAI64N: seconds and nanoseconds, big endian, so that it compares
// as bytes.
type timestamp [timestampSize]byte

func newTimestamp(wall time.Time) timestamp {
	return makeTimestamp(uint64(wall.Unix())+tai64Base, uint32(wall.Nanosecond()))
}

func makeTimestamp(seconds uint64, nanos uint32) (t timestamp) {
	binary.BigEndian.PutUint64(t[:], seconds)
	binary.BigEndian.PutUint32(t[8:], nanos&^(whitening-1))
	return t
}

func (t timestamp) after(u timestamp) bool { return bytes.Compare(t[:], u[:]) > 0 }

// next is the least timestamp after t at our granularity.
func (t timestamp) next() timestamp {
	seconds, nanos := binary.BigEndian.Uint64(t[:]), binary.BigEndian.Uint32(t[8:])
	nanos += whitening
	if nanos >= uint32(time.Second) {
		seconds, nanos = seconds+1, 0
	}
	return makeTimestamp(seconds, nanos)
}

// stamp returns the timestamp for an initiation sent now: the time of day, or
// the next one after the last if the clock stood still or went back, because
// the peer accepts only newer ones.
func (r *Remote) stamp(wall time.Time) timestamp {
	t := newTimestamp(wall)
	if !t.after(r.sent) {
		t = r.sent.next()
	}
	r.sent = t
	return t
}
