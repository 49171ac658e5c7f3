package tunnel

import "kiloport/flowhash"

// Where only answers get through, the packets that answer a flow go back on the
// lane on which it comes: the peer's firewall knows that one, and the gateways of
// the way back then see as many flows as those of the way here. So what arrives
// tells which lane its answers get.

const (
	answerCells = 256
	answerGrain = int64(1e9) // a flow's lane is renewed this often
)

// answers spares a receiver what it has just done. It has one owner.
type answers struct {
	hasher flowhash.Hasher
	flow   flowhash.Flow
	cells  [answerCells]answerCell
}

type answerCell struct {
	hash uint64
	peer *peer
	at   int64
	lane uint16
}

// note has the answers to an inner packet, which came on a lane, go back there.
func (a *answers) note(now int64, p *peer, lane uint16, packet []byte) {
	if flowhash.Parse(packet, &a.flow) != nil {
		return
	}
	back := a.flow.Key.Reverse()
	hash := laneFlow(a.hasher.Hash(&back), p.answerClass(packet))
	c := &a.cells[hash%answerCells]
	if c.hash == hash && c.peer == p && c.lane == lane && now-c.at < answerGrain {
		return
	}
	*c = answerCell{hash: hash, peer: p, at: now, lane: lane}
	p.lanesMu.Lock()
	defer p.lanesMu.Unlock()
	if p.lanes != nil && p.answering.Load() {
		p.lanes.Place(now, hash, lane)
	}
}
