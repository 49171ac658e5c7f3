package tun

import "sync"

// news is what Events has not told yet: the last state rather than a history,
// so that a late reader costs no memory.
type news struct {
	mu      sync.Mutex
	wake    chan struct{} // a token when there is something to take
	up      bool
	told    Event // the Up or Down that was given last, 0 before the first
	toggled bool  // up has changed since
	resized bool
	deleted bool
}

// take gives the events that lead from what was told to what is so.
func (n *news) take() []Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	var events []Event
	state, opposite := Down, Up
	if n.up {
		state, opposite = Up, Down
	}
	if n.told == state && n.toggled {
		events = append(events, opposite)
	}
	if n.told != state || n.toggled {
		events = append(events, state)
	}
	if n.resized {
		events = append(events, MTUUpdate)
	}
	if n.deleted {
		events = append(events, Deleted)
	}
	n.told, n.toggled, n.resized = state, false, false
	return events
}

// apply takes over what a message said.
func (d *device) apply(s linkState) {
	n := &d.news
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.deleted {
		n.deleted = true
	} else {
		n.toggled = n.toggled || n.told != 0 && n.up != s.up
		n.up = s.up
	}
	if s.mtu > 0 {
		before := d.mtu.Swap(int32(s.mtu))
		n.resized = n.resized || before != 0 && before != int32(s.mtu)
	}
	if s.name != "" {
		d.name.Store(&s.name)
	}
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// notify passes the news on.
func (d *device) notify() {
	defer close(d.events)
	for {
		select {
		case <-d.news.wake:
		case <-d.done:
			return
		}
		for _, event := range d.news.take() {
			select {
			case d.events <- event:
			case <-d.done:
				return
			}
			if event == Deleted {
				return
			}
		}
	}
}

// follow takes the link's messages in until it is deleted or closed.
func (d *device) follow() {
	for {
		states, err := d.link.receive()
		if err != nil && d.isClosed() {
			return
		}
		if err != nil {
			d.log.Error("cannot follow the tun link any more: after a change of its state or MTU, restart", "link", d.Name(), "error", err)
			return
		}
		for _, s := range states {
			if !s.deleted {
				d.apply(s)
				continue
			}
			if d.moved() {
				break
			}
			d.apply(s)
			for _, r := range d.rings {
				r.end()
			}
			for _, q := range d.queues {
				q.end()
			}
			return
		}
	}
}

// moved says whether a link that has left its namespace lives on in another,
// and if so, follows it there. A deleted link has let go of the descriptor
// before its RTM_DELLINK is sent.
func (d *device) moved() bool {
	d.closing.Lock()
	defer d.closing.Unlock()
	if d.closed {
		return true
	}
	if _, _, err := attached(d.queues[0].fd); err != nil {
		return false
	}
	s, err := openLink(d.queues[0].fd)
	if err == nil {
		err = s.ask()
	}
	if err != nil {
		d.log.Warn("the tun link went to another network namespace, where its state and MTU cannot be followed", "link", d.Name(), "error", err)
		return true
	}
	d.link.close()
	d.link = s
	return true
}
