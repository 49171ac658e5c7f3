package guest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// processors spreads machines over this host's processors, each on one of them. The
// processes of a machine with one processor do what they do in turn, a hundred
// thousand turns a second, and to wake one on another processor takes longer than its
// turn: kept together they take half of the time.
type processors struct {
	mu   sync.Mutex
	all  []int       // that this process may use
	on   map[int]int // where each machine is, by its session
	move func(session, processor int) error
}

// here are those of this host. If they cannot be listed, machines are where they are.
var here = sync.OnceValue(func() *processors {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil {
		return nil
	}
	p := &processors{on: make(map[int]int), move: moveSession}
	for i := range len(set) * strconv.IntSize {
		if set.IsSet(i) {
			p.all = append(p.all, i)
		}
	}
	return p
})

// load is how many machines there are on each processor of all.
func (p *processors) load() (least, most int, count map[int]int) {
	count = make(map[int]int)
	for _, at := range p.on {
		count[at]++
	}
	least, most = p.all[0], p.all[0]
	for _, i := range p.all {
		if count[i] < count[least] {
			least = i
		}
		if count[i] > count[most] {
			most = i
		}
	}
	return least, most, count
}

// begin takes a machine that was just started to where the fewest are.
func (p *processors) begin(session int) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	least, _, _ := p.load()
	p.put(session, least)
}

// put moves a machine, which works where it is, too, if it cannot be moved.
func (p *processors) put(session, processor int) {
	if p.move(session, processor) == nil {
		p.on[session] = processor
	}
}

// end forgets a machine that is gone, and lets others use its place.
func (p *processors) end(session int) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.on, session)
	least, most, count := p.load()
	if count[most]-count[least] < 2 {
		return
	}
	for other, at := range p.on {
		if at == most {
			p.put(other, least)
			return
		}
	}
}

// moveSession moves the processes of a session. What they start meanwhile may be on
// the old processor, so it looks until nothing is new.
func moveSession(session, processor int) error {
	var only unix.CPUSet
	only.Set(processor)
	done := make(map[int]bool)
	for more := true; more; {
		more = false
		for _, pid := range sessionOf(session) {
			if done[pid] {
				continue
			}
			done[pid], more = true, true
			tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
			if err != nil {
				continue // it has ended
			}
			for _, task := range tasks {
				tid, err := strconv.Atoi(task.Name())
				if err == nil {
					err = unix.SchedSetaffinity(tid, &only)
				}
				if err != nil && !errors.Is(err, unix.ESRCH) {
					return fmt.Errorf("move thread %s to processor %d: %w", task.Name(), processor, err)
				}
			}
		}
	}
	return nil
}

// sessionOf gives the processes of a session.
func sessionOf(session int) (all []int) {
	folders, _ := filepath.Glob("/proc/[0-9]*") // fails only for its pattern
	for _, folder := range folders {
		text, err := os.ReadFile(filepath.Join(folder, "stat"))
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid pgrp session, where the name may have anything in it.
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		pid, err := strconv.Atoi(filepath.Base(folder))
		if err == nil && len(fields) > 3 && fields[3] == strconv.Itoa(session) {
			all = append(all, pid)
		}
	}
	return all
}
