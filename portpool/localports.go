package portpool

import (
	"fmt"
	"os"
)

// localPortRange is where the kernel says which ports it gives to sockets that ask
// for any.
const localPortRange = "/proc/sys/net/ipv4/ip_local_port_range"

// LocalPorts gives the first and the last of the ports that the kernel chooses from
// where [PoolConfig] names no range.
func LocalPorts() (low, high uint16, err error) {
	text, err := os.ReadFile(localPortRange)
	if err != nil {
		return 0, 0, fmt.Errorf("ask for the kernel's port range: %w", err)
	}
	if _, err := fmt.Sscan(string(text), &low, &high); err != nil || low == 0 || high < low {
		return 0, 0, fmt.Errorf("%s says %q: no range of ports", localPortRange, text)
	}
	return low, high, nil
}
