package portpool

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

var errNoPort = errors.New("no port of the range is left (widen the range)")

// ports chooses the port of the next socket. With a range, each port is in use
// by the pool, free, or busy.
type ports struct {
	low, high uint16 // 0, 0: the kernel chooses
	free      []uint16
	busy      []uint16 // in use by others when last tried
	rand      *rand.Rand
}

func newPorts(low, high uint16, r *rand.Rand) ports {
	p := ports{low: low, high: high, rand: r}
	if p.ranged() {
		for port := int(low); port <= int(high); port++ {
			p.give(uint16(port))
		}
	}
	return p
}

func (p *ports) ranged() bool { return p.high != 0 }

// take gives a port to try, 0 if the kernel is to choose.
func (p *ports) take() (port uint16, ok bool) {
	if !p.ranged() {
		return 0, true
	}
	n := len(p.free)
	if n == 0 {
		return 0, false
	}
	port, p.free = p.free[n-1], p.free[:n-1]
	return port, true
}

// give puts a port back, at a place drawn by lot (which, done for each port,
// is the Fisher-Yates shuffle).
func (p *ports) give(port uint16) {
	if !p.ranged() {
		return
	}
	p.free = append(p.free, port)
	last := len(p.free) - 1
	i := p.rand.IntN(len(p.free))
	p.free[i], p.free[last] = p.free[last], p.free[i]
}

// claim takes a certain port, and reports whether it can be had.
func (p *ports) claim(port uint16) bool {
	if !p.ranged() {
		return port != 0
	}
	at := slices.Index(p.free, port)
	if at < 0 {
		return false
	}
	p.free = slices.Delete(p.free, at, at+1)
	return true
}

// retryBusy makes the busy ports free, to be tried before the others run out.
func (p *ports) retryBusy() {
	busy := p.busy
	p.busy = nil
	for _, port := range busy {
		p.give(port)
	}
}

// String lists the first few busy ports.
func (p *ports) busyList() string {
	const few = 5
	var b strings.Builder
	for i, port := range p.busy {
		if i == few {
			b.WriteString(", …")
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Itoa(int(port)))
	}
	return b.String()
}

// survey finds as many ports of the range as are asked for, and sets the limit
// to what it finds. To bind a port and let it go is the only way to know. The
// first one is opened just as lanes will be, so that a setting that the kernel
// refuses for all of them is an error here.
func (p *Pool) survey() error {
	if !p.ports.ranged() {
		return nil
	}
	var found []uint16
	for len(found)+p.Open() < p.asked {
		port, ok := p.ports.take()
		if !ok {
			break
		}
		err := p.try(port, len(found) == 0)
		switch {
		case err == nil:
			found = append(found, port)
		case isBusy(err):
			p.ports.busy = append(p.ports.busy, port)
		default:
			return fmt.Errorf("pool: try port range %d-%d: %w", p.ports.low, p.ports.high, err)
		}
	}
	if len(found)+p.Open() == 0 {
		return fmt.Errorf("pool: none of the ports %d-%d can be had, all are in use or forbidden: choose another range", p.ports.low, p.ports.high)
	}
	// The last ones to be given are the first to be taken.
	p.ports.free = append(p.ports.free, found...)
	p.limit.Store(int32(len(found) + p.Open()))
	p.sayBusy()
	return nil
}

func (p *Pool) try(port uint16, wholly bool) error {
	if p.tryPort != nil && !wholly {
		return p.tryPort(port)
	}
	sock, err := p.tryOpen(port)
	if err != nil {
		return err
	}
	return sock.Close()
}

// sayBusy tells once that ports of the range are busy, and in the same breath
// if that leaves fewer lanes than asked for.
func (p *Pool) sayBusy() {
	if p.said || len(p.ports.busy) == 0 {
		return
	}
	p.said = true
	msg := "some ports of the range are in use by others or forbidden, they are skipped"
	if p.Limit() < p.asked {
		p.saidFew = true
		msg += "; there are fewer lanes than asked for"
	}
	p.log.Warn(msg, "range", fmt.Sprintf("%d-%d", p.ports.low, p.ports.high),
		"busy", len(p.ports.busy), "ports", p.ports.busyList(), "lanes", p.Limit(), "asked", p.asked)
}
