package portpool

import "fmt"

// OpenGroup opens n sockets on one port (SO_REUSEPORT), for as many workers.
// cfg.Port may be 0; all get the port that the kernel chose for the first.
//
// The kernel chooses the socket for what arrives by a keyed hash of addresses
// and ports, not of the flow label. All that has one outer 5-tuple, hence all
// of a lane, arrives at the same socket in its order, as long as no socket of
// the group is closed or added: then most 5-tuples move to another one, and
// what was waiting at a closed one is lost. So open the group once and close it
// as a whole. Datagrams that arrive while the group is being opened may still
// find fewer sockets than there will be.
//
// Each socket has buffers of the sizes asked for: a single fast flow has the
// whole of one. The error is the first one's, with no socket left open.
func OpenGroup(cfg SocketConfig, n int) (group []*UDPSocket, err error) {
	if n < 1 {
		return nil, fmt.Errorf("open a group of %d udp sockets: ask for at least one", n)
	}
	cfg.ReusePort = n > 1
	if cfg.Shared == nil {
		cfg.Shared = NewShared(SharedConfig{})
	}
	for range n {
		s, err := Open(cfg)
		if err != nil {
			for _, s := range group {
				s.Close()
			}
			return nil, err
		}
		cfg.Port = s.Port()
		group = append(group, s)
	}
	return group, nil
}
