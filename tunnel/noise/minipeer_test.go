package noise_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"kiloport/tunnel/noise"
)

// miniPeer is the least daemon around [noise.Timers], written as wireguard-go is:
// packets queue until there is a keypair, and the timers are told what happened.
// It belongs to one goroutine.
type miniPeer struct {
	t         *testing.T
	start     time.Time
	constants noise.Constants
	timers    *noise.Timers
	self      *side
	random    *rand.ChaCha8
	transmit  func(msg []byte)

	staged                  [][]byte // nil = keepalive
	handshake               *noise.Handshake
	current, previous, next *noise.Keypair
	counters                map[*noise.Keypair]uint64
	index                   uint32
}

func newMiniPeer(t *testing.T, self *side, keepalive time.Duration, transmit func([]byte)) *miniPeer {
	t.Helper()
	m := &miniPeer{
		t: t, start: time.Now(), constants: noise.Default(), self: self, random: fixedRand('m'),
		transmit: transmit, counters: map[*noise.Keypair]uint64{},
	}
	jitter := rand.New(fixedRand('j'))
	m.timers = noise.NewTimers(&m.constants, jitter.Uint32N)
	m.timers.PersistentKeepaliveChanged(keepalive)
	if m.timers.Start() {
		m.keepalive()
	}
	return m
}

func (m *miniPeer) now() int64 { return int64(time.Since(m.start)) + 1 }

// wait is how long until the timers want to fire.
func (m *miniPeer) wait() time.Duration {
	if next := m.timers.Next(); next != 0 {
		return time.Duration(max(next-m.now(), 0))
	}
	return 1000 * time.Hour
}

func (m *miniPeer) fire() {
	a := m.timers.Fire(m.now())
	if a&noise.GiveUp != 0 {
		m.staged = nil
	}
	if a&noise.SendInitiation != 0 {
		m.initiate()
	}
	if a&noise.SendKeepalive != 0 {
		m.keepalive()
	}
	if a&noise.ZeroKeys != 0 {
		m.staged, m.handshake, m.current, m.previous, m.next = nil, nil, nil, nil, nil
	}
}

func (m *miniPeer) data(packet []byte) {
	m.staged = append(m.staged, packet)
	m.flush()
}

func (m *miniPeer) keepalive() {
	if len(m.staged) == 0 {
		m.staged = [][]byte{nil}
	}
	m.flush()
}

func (m *miniPeer) flush() {
	k := m.current
	if len(m.staged) == 0 {
		return
	}
	if k == nil || m.constants.Expired(k, m.now()) {
		m.refresh()
		return
	}
	data := false
	for _, p := range m.staged {
		data = data || len(p) > 0
		m.transmit(k.Seal(nil, p, m.counters[k]))
		m.counters[k]++
	}
	m.staged = nil
	if data {
		m.timers.DataSent(m.now())
	} else {
		m.timers.KeepaliveSent(m.now())
	}
	if m.constants.RekeyOnSend(k, m.now(), m.counters[k]) {
		m.refresh()
	}
}

func (m *miniPeer) refresh() {
	if m.timers.Initiate(m.now()) {
		m.initiate()
	}
}

func (m *miniPeer) initiate() {
	m.index++
	msg, h, err := noise.Initiate(m.random, m.self.static, &m.self.remote, m.index, time.Now())
	if err != nil {
		m.t.Error(err)
		return
	}
	noise.AddMACs(msg[:], &m.self.remote, m.now())
	m.handshake = h
	m.transmit(msg[:])
	m.timers.InitiationSent(m.now())
}

func (m *miniPeer) receive(msg []byte) {
	switch kind, _ := noise.MessageType(msg); kind {
	case noise.MessageInitiation:
		m.receiveInitiation(msg)
	case noise.MessageResponse:
		m.receiveResponse(msg)
	case noise.MessageTransport:
		m.receiveTransport(msg)
	}
}

func (m *miniPeer) receiveInitiation(msg []byte) {
	in, err := noise.OpenInitiation(m.self.static, msg)
	if err == nil {
		err = in.Accept(&m.self.remote, m.now())
	}
	if err != nil {
		m.t.Error(err)
		return
	}
	m.timers.InitiationReceived(m.now())
	m.index++
	answer, k, err := in.Respond(m.random, noise.PresharedKey{}, m.index)
	if err != nil {
		m.t.Error(err)
		return
	}
	noise.AddMACs(answer[:], &m.self.remote, m.now())
	k.Created = m.now()
	m.next, m.previous = k, nil
	m.timers.ResponseSent(m.now())
	m.transmit(answer[:])
}

func (m *miniPeer) receiveResponse(msg []byte) {
	k, err := m.handshake.OpenResponse(m.self.static, noise.PresharedKey{}, msg)
	if err != nil {
		m.t.Error(err)
		return
	}
	k.Created = m.now()
	m.previous, m.current, m.next = m.current, k, nil
	m.timers.ResponseReceived(m.now())
	m.keepalive()
}

func (m *miniPeer) receiveTransport(msg []byte) {
	index, _, _ := noise.ParseTransport(msg)
	for _, k := range []*noise.Keypair{m.current, m.previous, m.next} {
		if k == nil || k.LocalIndex != index {
			continue
		}
		plain, _, err := k.OpenInPlace(msg)
		if err != nil {
			m.t.Error(err)
			return
		}
		m.received(k, len(plain) > 0)
		return
	}
}

func (m *miniPeer) received(k *noise.Keypair, data bool) {
	// What the packet sets free is sent after the packet was reported, or its
	// arrival would count as an answer to it.
	defer m.flush()
	if k == m.next {
		m.previous, m.current, m.next = m.current, k, nil
		m.timers.Confirmed(m.now())
	}
	if m.current != nil && m.constants.RekeyOnReceive(m.current, m.now()) && m.timers.LastMinute() {
		m.refresh()
	}
	if data {
		m.timers.DataReceived(m.now())
	} else {
		m.timers.KeepaliveReceived(m.now())
	}
}
