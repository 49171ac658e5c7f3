package queue

import (
	"testing"
	"time"
)

func TestMeter(t *testing.T) {
	var m meter
	const start = int64(1e12)
	check := func(when string, now, least, most int64) {
		t.Helper()
		if got := m.rate(now); got < least || got > most {
			t.Errorf("%s: %d bit/s, want %d to %d", when, got, least, most)
		}
	}
	check("before", start, 0, 0)
	now := start
	for ; now < start+int64(3*time.Second); now += ms {
		m.add(now, 1000) // 8 Mbit/s
		if now > start+int64(time.Second) {
			check("steady", now, 7.9e6, 8.1e6)
		}
	}
	check("a quarter of a second later", now+250*ms, 3.9e6, 4.1e6)
	check("later", now+1000*ms, 0, 0)
	check("much later", now+int64(time.Hour), 0, 0)
	m.add(now+int64(time.Hour), 1000)
	check("again", now+int64(time.Hour), 16e3, 16e3)
}
