package tunnel

import (
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/gaissmai/bart"
)

// routes is crypto-routing: which peer a destination belongs to, and whether a
// source may come from a peer. Readers take no lock; a change is made on a copy
// and published as a whole, so that no packet sees half of it.
type routes struct {
	table atomic.Pointer[bart.Table[*peer]]
}

func newRoutes() *routes {
	r := new(routes)
	r.table.Store(new(bart.Table[*peer]))
	return r
}

// lookup gives the peer with the longest prefix that contains addr, or nil.
func (r *routes) lookup(addr netip.Addr) *peer {
	p, _ := r.table.Load().Lookup(addr)
	return p
}

// reset takes all prefixes out; their peers are to forget them.
func (r *routes) reset() { r.table.Store(new(bart.Table[*peer])) }

// routesEdit is a change in the making. One prefix belongs to one peer: to
// give it to another takes it from the first.
type routesEdit struct {
	routes *routes
	table  *bart.Table[*peer]
}

func (r *routes) edit() *routesEdit {
	return &routesEdit{routes: r}
}

// own copies the table before the first change.
func (e *routesEdit) own() *bart.Table[*peer] {
	if e.table == nil {
		e.table = e.routes.table.Load().Clone()
	}
	return e.table
}

func (e *routesEdit) add(p *peer, prefix netip.Prefix) {
	table := e.own()
	if old, ok := table.Get(prefix); ok {
		if old == p {
			return
		}
		old.allowed = without(old.allowed, prefix)
	}
	table.Insert(prefix, p)
	p.allowed = append(p.allowed, prefix)
}

// remove takes a prefix from p; one that p does not have is left alone.
func (e *routesEdit) remove(p *peer, prefix netip.Prefix) {
	if old, ok := e.own().Get(prefix); ok && old == p {
		e.table.Delete(prefix)
		p.allowed = without(p.allowed, prefix)
	}
}

func (e *routesEdit) clear(p *peer) {
	for _, prefix := range p.allowed {
		e.own().Delete(prefix)
	}
	p.allowed = nil
}

func (e *routesEdit) publish() {
	if e.table != nil {
		e.routes.table.Store(e.table)
	}
}

func without(all []netip.Prefix, prefix netip.Prefix) []netip.Prefix {
	if i := slices.Index(all, prefix); i >= 0 {
		return slices.Delete(all, i, i+1)
	}
	return all
}
