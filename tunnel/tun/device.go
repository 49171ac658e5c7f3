package tun

import (
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
)

// device is the one Device.
type device struct {
	queues       []*queue // the descriptors
	rings        []*rings // those that have several of them
	asQueues     []Queue  // what a user sees
	capabilities Capabilities
	log          *slog.Logger

	name atomic.Pointer[string]
	mtu  atomic.Int32

	closing sync.Mutex
	closed  bool

	link       *linkSocket // follow's; others only close it, holding closing
	news       news
	events     chan Event
	done       chan struct{}
	goroutines sync.WaitGroup
}

func (d *device) Name() string               { return *d.name.Load() }
func (d *device) MTU() int                   { return int(d.mtu.Load()) }
func (d *device) Events() <-chan Event       { return d.events }
func (d *device) Queues() []Queue            { return d.asQueues }
func (d *device) Capabilities() Capabilities { return d.capabilities }
func (d *device) File() *os.File             { return d.queues[0].file }

func (d *device) isClosed() bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}

func (d *device) Close() error {
	d.closing.Lock()
	if d.closed {
		d.closing.Unlock()
		return os.ErrClosed
	}
	d.closed = true
	close(d.done)
	d.link.close()
	err := d.closeQueues()
	d.closing.Unlock()
	d.goroutines.Wait()
	return err
}

func (d *device) closeQueues() (err error) {
	for _, q := range d.queues {
		err = errors.Join(err, q.close())
	}
	for _, r := range d.rings {
		err = errors.Join(err, r.close())
	}
	return err
}
