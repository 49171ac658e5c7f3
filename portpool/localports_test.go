package portpool

import (
	"net"
	"testing"
)

// TestLocalPorts wants a port of the kernel's choice to be in the range.
func TestLocalPorts(t *testing.T) {
	low, high, err := LocalPorts()
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if port := c.LocalAddr().(*net.UDPAddr).Port; port < int(low) || port > int(high) {
		t.Errorf("the kernel chose %d, not from %d to %d", port, low, high)
	}
}
