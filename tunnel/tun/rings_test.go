package tun_test

import (
	"fmt"
	"net"
	"testing"

	"kiloport/tunnel/tun"
	"kiloport/tunnel/tun/tuntest"
)

// A flood that nobody reads fills its own ring. What other flows send meanwhile
// is there, and is read before the flood.
func TestFloodFillsItsOwnRing(t *testing.T) {
	tuntest.Namespace(t)
	const rings, others, flood = 8, 60, 4000
	d := open(t, "flood%d", tun.Options{Rings: rings})
	tuntest.IP(t, "addr add 10.97.0.1/24 dev "+d.Name())
	tuntest.IP(t, "link set up dev "+d.Name())
	if c := d.Capabilities(); c.Rings != rings || c.Queues != 1 {
		t.Fatalf("%+v", c)
	}
	send := func(to string, n int) {
		conn, err := net.Dial("udp4", to)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for range n {
			if _, err := conn.Write([]byte("0123456789")); err != nil {
				t.Fatal(err)
			}
		}
	}
	send("10.97.0.2:1000", flood)
	for i := range others {
		send(fmt.Sprintf("10.97.0.3:%d", 2000+i), 1)
	}
	q, buf := d.Queues()[0], make([]byte, 2000)
	arrived, before, flooded := 0, 0, 0
	for {
		_, n, err := q.TryRead(buf)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		switch buf[tun.Headroom+19] {
		case 2:
			flooded++
		case 3:
			arrived++
			before = flooded
		}
	}
	if flooded == 0 || flooded == flood {
		t.Fatalf("%d of %d packets of the flood arrived: the premise is wrong", flooded, flood)
	}
	// An eighth of them share the flood's ring, give or take.
	if arrived < others*6/10 {
		t.Errorf("%d of %d other packets arrived", arrived, others)
	}
	if before > 128 {
		t.Errorf("%d packets of the flood were read before the last of the others", before)
	}
}
