package tunnel

import (
	"log/slog"
	"sync"
)

const limitedEvery = int64(10e9)

// limitedLog is for what bytes from the network can cause: each message at most
// once in ten seconds, with the number that was left out. Messages are constants
// of the program, so the table is bounded.
type limitedLog struct {
	log   *slog.Logger
	clock Clock
	mu    sync.Mutex
	said  map[string]*limitedLine
}

type limitedLine struct {
	next    int64
	skipped uint64
}

// warn logs unless the same message was logged just now. Its arguments cost an
// allocation even then: on the packet path ask due first, then say.
func (l *limitedLog) warn(message string, args ...any) {
	if skipped, ok := l.due(message); ok {
		l.say(message, skipped, args...)
	}
}

// say logs a message that is due.
func (l *limitedLog) say(message string, skipped uint64, args ...any) {
	if skipped > 0 {
		args = append(args, "left out since", skipped)
	}
	l.log.Warn(message, args...)
}

// due reports whether a message may be logged now, and how many were not.
func (l *limitedLog) due(message string) (skipped uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := l.said[message]
	if line == nil {
		line = new(limitedLine)
		l.said[message] = line
	}
	now := l.clock.Now()
	if now < line.next {
		line.skipped++
		return 0, false
	}
	skipped, line.skipped = line.skipped, 0
	line.next = now + limitedEvery
	return skipped, true
}
