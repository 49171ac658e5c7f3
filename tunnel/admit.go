package tunnel

import (
	"encoding/binary"
	"time"

	"github.com/cespare/xxhash/v2"

	"kiloport/portpool"
	"kiloport/queue"
	"kiloport/tunnel/noise"
)

// admission is what a receiver does when it cannot keep up: it refuses part of what
// has arrived before that costs anything more, from the lanes that bring most, so
// that the socket, a FIFO, stays short. It has one owner.
type admission struct {
	law      *queue.Admission
	arrivals []queue.Arrival // of a batch
	// A secret that fills a stripe of XXH64, lest a sender choose whom he is
	// taken for, then a source: a lane is told by where it comes from, because
	// what it says itself is not verified yet.
	source [xxhashStripe + 32]byte
}

const (
	xxhashStripe = 32
	// longestWait is what a clock that was set may make of a wait at most.
	longestWait = int64(time.Second)
)

func newAdmission(secret [xxhashStripe]byte, size int) admission {
	a := admission{law: queue.NewAdmission(queue.DefaultAdmission()), arrivals: make([]queue.Arrival, size)}
	copy(a.source[:], secret[:])
	return a
}

// decide gives how many datagrams of each message are to be refused, from the first
// on, nil if none is. full says that the socket had no room for others.
func (a *admission) decide(now, wall int64, messages []portpool.Message) (refused []queue.Arrival, full bool) {
	sojourn, full := a.sojourn(wall, messages)
	if a.law.Calm(now, sojourn, full) {
		return nil, full
	}
	batch := a.arrivals[:len(messages)]
	for i := range messages {
		batch[i] = a.arrival(&messages[i])
	}
	if a.law.Decide(now, sojourn, full, batch) == 0 {
		return nil, full
	}
	return batch, full
}

// sojourn is how long the oldest message has waited, ns; full says that there was no
// room for others. While there is room, and a batch takes all that is there, nothing
// is standing: what has waited then did so for a processor, perhaps, which refusing it
// does not bring.
func (a *admission) sojourn(wall int64, messages []portpool.Message) (sojourn int64, full bool) {
	for i := range messages {
		m := &messages[i]
		if m.Time != 0 {
			sojourn = max(sojourn, min(wall-m.Time, longestWait))
		}
		full = full || m.Refused != 0
	}
	if !full && len(messages) < len(a.arrivals) {
		sojourn = 0
	}
	return sojourn, full
}

func (a *admission) arrival(m *portpool.Message) queue.Arrival {
	x := queue.Arrival{Packets: 1, Bytes: m.N, Keep: true}
	if 0 < m.SegmentSize && m.SegmentSize < m.N {
		x.Packets = (m.N + m.SegmentSize - 1) / m.SegmentSize
	}
	// Handshakes and cookies are kept, and keepalives.
	if kind, ok := noise.MessageType(m.Buf[:m.N]); ok && kind == noise.MessageTransport && m.N > noise.TransportOverhead {
		addr := m.Addr.Addr().As16()
		copy(a.source[xxhashStripe:], addr[:])
		binary.LittleEndian.PutUint16(a.source[xxhashStripe+len(addr):], m.Addr.Port())
		x.Keep, x.Lane = false, xxhash.Sum64(a.source[:])
	}
	return x
}
