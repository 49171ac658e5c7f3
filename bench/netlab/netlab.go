// Package netlab builds real networks out of Linux network namespaces, for
// tests, the demonstration and benchmarks: nodes, veth links between them,
// addresses, routes, and processes that run inside.
//
// Start with [NewSites] for `site A – router – site B`, with [NewPath] where
// rates, delays and queues matter, or with [New], [Lab.Node] and [Lab.Connect]
// for anything else; a test takes [ForTest]. The packages below it watch a link
// ([kiloport/bench/netlab/capture]) and fill it
// ([kiloport/bench/netlab/traffic]).
//
// Everything made here carries the process id and start time of its maker in
// its name, and is removed by [Lab.Close]: on success, on failure, and when the
// context ends. What a killed process left behind, the next [New] sweeps away.
//
// Limits: it needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN). All nodes share one
// kernel and its processors, so a lab tells what works and how fast the machine
// is, not how a network of many machines would behave. A packet keeps its
// skb->hash across a veth, as it would not on a real wire, but for the gateways
// of [NewPath]. What a path measures is exact in virtual time only; in real time,
// see [Path.Burst].
package netlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// stopGrace is how long a process may take to end after SIGTERM before it is
// killed.
const stopGrace = 3 * time.Second

// namePrefix starts the name of every namespace made here.
const namePrefix = "kiloport"

// A Lab is a set of nodes with the links between them. Its methods may be
// called from several goroutines.
type Lab struct {
	prefix string
	ctx    context.Context
	detach func() bool

	mu     sync.Mutex
	nodes  []*Node
	procs  []*Process
	undo   []func() error
	closed bool

	closeOnce sync.Once
	closeErr  error
}

var labCount atomic.Uint64

// New makes an empty lab, and removes what dead processes left behind. The lab
// closes itself when ctx ends; the caller still calls [Lab.Close], which then
// waits for that.
func New(ctx context.Context) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("make a network lab: not root; run this as root, or under sudo")
	}
	if err := shareFolder(); err != nil {
		return nil, fmt.Errorf("make a network lab: %w", err)
	}
	// What cannot be swept away hinders nobody, because every name is unique.
	_, _ = Sweep()
	start, err := startTime(os.Getpid())
	if err != nil {
		return nil, fmt.Errorf("make a network lab: %w", err)
	}
	l := &Lab{
		ctx:    ctx,
		prefix: fmt.Sprintf("%s-%d-%d-%d", namePrefix, os.Getpid(), start, labCount.Add(1)),
	}
	l.detach = context.AfterFunc(ctx, func() { l.Close() })
	return l, nil
}

// Context is the context that the lab was made with.
func (l *Lab) Context() context.Context { return l.ctx }

// Unique turns name into one that no other lab on this machine uses at the same
// time, at most 15 bytes long, so that it can name a network interface and the
// control socket that belongs to it: those live in the file system, which all
// namespaces share.
func (l *Lab) Unique(name string) string {
	tag := strconv.FormatUint(uint64(os.Getpid())<<8|labCountOf(l.prefix)&0xff, 36)
	if room := 15 - len(tag); len(name) > room {
		name = name[:room]
	}
	return name + tag
}

func labCountOf(prefix string) uint64 {
	n, _ := strconv.ParseUint(prefix[strings.LastIndexByte(prefix, '-')+1:], 10, 64)
	return n
}

// OnClose registers undo to run when the lab closes, after its processes have
// ended and before its namespaces go, last registered first. On a closed lab it
// runs at once.
func (l *Lab) OnClose(undo func() error) {
	l.mu.Lock()
	if !l.closed {
		l.undo = append(l.undo, undo)
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	_ = undo() // the lab's own verdict has been given already
}

// Close ends every process of the lab, runs what [Lab.OnClose] registered and
// removes the namespaces and with them links, addresses and routes. It takes at
// most a few seconds. It may be called more than once and always returns the
// verdict of the first call.
func (l *Lab) Close() error {
	l.closeOnce.Do(func() { l.closeErr = l.close() })
	return l.closeErr
}

func (l *Lab) close() error {
	if l.detach != nil {
		l.detach()
	}
	l.mu.Lock()
	l.closed = true
	procs, undo, nodes := l.procs, l.undo, l.nodes
	l.mu.Unlock()

	stopAll(procs)
	var errs []error
	for i := len(undo) - 1; i >= 0; i-- {
		errs = append(errs, undo[i]())
	}
	for _, n := range nodes {
		errs = append(errs, n.remove())
	}
	return errors.Join(errs...)
}

func stopAll(procs []*Process) {
	var wg sync.WaitGroup
	for _, p := range procs {
		wg.Go(func() { _ = p.Stop() })
	}
	wg.Wait()
}
