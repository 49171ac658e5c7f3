package portpool

import "os"

// LanePort is a lane and the port of its socket.
type LanePort struct{ Lane, Port uint16 }

// Inheritance is what a pool takes over of one in another process, so that what is sent
// to its ports arrives, and routers on the way see the same connections.
type Inheritance struct {
	// Lanes are those that keep their ports, where that is possible.
	Lanes []LanePort
	// Files are sockets of these, in any order, from [Pool.HandOver]. A lane
	// without one has its port opened anew. NewPool closes them all.
	Files []*os.File
	// Now is when they count as used.
	Now int64
}

// HandOver ends the receiving of a pool that was told to Listen, each socket after what
// it has taken, and gives what another one can take over. Sockets that the kernel does
// not know come without a file. Of a pool that does not receive there is nothing to
// take over: nobody sends to its ports.
func (p *Pool) HandOver() (h Inheritance) {
	p.mu.Lock()
	serving := p.serve != nil
	interrupted := serving
	for i := range p.slots {
		e := p.slots[i].Load()
		if e == nil || !serving {
			continue
		}
		h.Lanes = append(h.Lanes, LanePort{uint16(i + 1), e.sock.Port()})
		s, ok := e.sock.(interface {
			Interrupt() error
			File() (*os.File, error)
		})
		if !ok || s.Interrupt() != nil {
			interrupted = false
			continue
		}
		if f, err := s.File(); err == nil {
			h.Files = append(h.Files, f)
		}
	}
	p.serve = nil
	p.mu.Unlock()
	if interrupted {
		p.Wait()
	}
	return h
}

// inherit opens the lanes that keep their ports.
func (p *Pool) inherit(cfg *PoolConfig) {
	sockets := make(map[uint16]Socket)
	for _, f := range cfg.Inherit.Files {
		c := p.settings
		c.SendOnly = false
		if s, err := Inherit(f, c); err == nil {
			sockets[s.Port()] = s
		} else {
			p.log.Warn("a port of the pool could not be taken over", "error", err)
			f.Close()
		}
	}
	for _, l := range cfg.Inherit.Lanes {
		if l.Lane == 0 || int(l.Lane) > len(p.slots) || p.slots[l.Lane-1].Load() != nil || !p.ports.claim(l.Port) {
			continue
		}
		s := sockets[l.Port]
		if s == nil {
			var err error
			if s, err = p.tryOpen(l.Port); err != nil {
				p.ports.give(l.Port)
				continue
			}
		}
		delete(sockets, l.Port)
		e := &entry{sock: s}
		e.used.Store(cfg.Inherit.Now)
		p.slots[l.Lane-1].Store(e)
		p.count.Add(1)
	}
	for _, s := range sockets {
		s.Close()
	}
}

// IsOpen tells whether a lane has its socket.
func (p *Pool) IsOpen(lane uint16) bool {
	return lane > 0 && int(lane) <= len(p.slots) && p.slots[lane-1].Load() != nil
}
