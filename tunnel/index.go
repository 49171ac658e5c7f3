package tunnel

import (
	"encoding/binary"
	"io"
	"sync"
)

// indexTable finds what a receiver index stands for: a handshake in flight (a
// session that is nil) or a session. Indexes are random, so that an observer
// learns nothing from them.
type indexTable struct {
	mu      sync.RWMutex
	entries map[uint32]indexEntry
}

type indexEntry struct {
	peer    *peer
	session *session
}

func newIndexTable() *indexTable {
	return &indexTable{entries: make(map[uint32]indexEntry)}
}

// reserve draws an index that nobody has, for a handshake of p.
func (t *indexTable) reserve(rand io.Reader, p *peer) (uint32, error) {
	var b [4]byte
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		if _, err := io.ReadFull(rand, b[:]); err != nil {
			return 0, err
		}
		index := binary.LittleEndian.Uint32(b[:])
		if _, taken := t.entries[index]; !taken && index != 0 {
			t.entries[index] = indexEntry{peer: p}
			return index, nil
		}
	}
}

// bind makes a reserved index stand for the session that came out.
func (t *indexTable) bind(index uint32, s *session) {
	t.mu.Lock()
	t.entries[index] = indexEntry{peer: s.peer, session: s}
	t.mu.Unlock()
}

func (t *indexTable) release(index uint32) {
	if index == 0 {
		return
	}
	t.mu.Lock()
	delete(t.entries, index)
	t.mu.Unlock()
}

func (t *indexTable) lookup(index uint32) indexEntry {
	t.mu.RLock()
	e := t.entries[index]
	t.mu.RUnlock()
	return e
}
