package queue

import "time"

// meterWindow is how far back a rate looks.
const meterWindow = int64(500 * time.Millisecond)

// meter is the rate of the last meterWindow, about: the bytes of the window under
// way, and of the one before it that part which is not yet so long ago.
type meter struct {
	since        int64 // when the window under way began
	bytes, early uint32
}

func (m *meter) add(now int64, n int) {
	if age := now - m.since; age >= meterWindow {
		m.turn(now, age)
	}
	m.bytes += uint32(n)
}

// turn begins a window.
func (m *meter) turn(now, age int64) {
	if age < 2*meterWindow {
		m.since, m.early = m.since+meterWindow, m.bytes
	} else {
		m.since, m.early = now, 0
	}
	m.bytes = 0
}

// rate is in bit/s.
func (m meter) rate(now int64) int64 {
	age := now - m.since
	if age >= meterWindow {
		m.turn(now, age)
		age = now - m.since
	}
	early := float64(m.early) * float64(meterWindow-age) / float64(meterWindow)
	return int64((float64(m.bytes) + early) * 8 / time.Duration(meterWindow).Seconds())
}
