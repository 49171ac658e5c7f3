package traffic

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/net/ipv6"
)

// serverConfig says where the server role listens.
type serverConfig struct {
	Addrs []netip.Addr
	Port  uint16
	// Congestion is what the TCP listeners use, empty for the default.
	Congestion string
	Prompt     bool
}

// serverReport is what the server knows of the flows, by number.
type serverReport struct {
	Flows       map[int]serverFlow
	SocketDrops uint64
}

type serverFlow struct {
	Received Direction // Sent and Lost are the client's to fill in
	Sent     uint64
	Error    string   `json:",omitempty"`
	Reset    bool     `json:",omitempty"` // the Error is that the client cut the connection off
	TCP      *TCPInfo `json:",omitempty"` // of a bulk flow that the server sent
	Bins     []uint64 // of a bulk flow that the server received, if wanted
}

// A server answers the clients of one run; the first datagram or frame with
// content decides which run that is.
type server struct {
	congestion string // of the TCP listeners
	mu         sync.Mutex
	flows      map[uint32]*servedFlow
	udp        []*net.UDPConn
	tcp        []*net.TCPListener
}

type servedFlow struct {
	run     uint32
	tracker tracker
	corrupt uint64
	sent    uint64
	failure error
	tcp     *TCPInfo
	meter   *meter
}

// listen opens TCP and UDP on every address and serves them until closed.
func listen(c serverConfig) (*server, error) {
	s := &server{congestion: c.Congestion, flows: map[uint32]*servedFlow{}}
	for _, addr := range c.Addrs {
		if err := s.listenOn(netip.AddrPortFrom(addr, c.Port)); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

func (s *server) listenOn(addr netip.AddrPort) error {
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return fmt.Errorf("serve UDP: %w", err)
	}
	s.udp = append(s.udp, udp)
	if err := enlarge(udp); err != nil {
		return fmt.Errorf("serve UDP: %w", err)
	}
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
	if err != nil {
		return fmt.Errorf("serve TCP: %w", err)
	}
	s.tcp = append(s.tcp, tcp)
	go s.serveUDP(udp)
	go s.serveTCP(tcp, s.prepare(tcp))
	return nil
}

func (s *server) close() {
	for _, c := range s.udp {
		c.Close()
	}
	for _, l := range s.tcp {
		l.Close()
	}
}

// report closes nothing; it may be asked at any time. It waits for what was under
// way when flows were cut off.
func (s *server) report() serverReport {
	for _, m := range s.meters() {
		m.wait()
	}
	r := serverReport{Flows: map[int]serverFlow{}}
	for _, c := range s.udp {
		r.SocketDrops += drops(c)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, f := range s.flows {
		r.Flows[int(id)] = f.report()
	}
	return r
}

func (s *server) meters() (meters []*meter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.flows {
		if f.meter != nil {
			meters = append(meters, f.meter)
		}
	}
	return meters
}

func (f *servedFlow) report() serverFlow {
	r := serverFlow{Received: f.tracker.direction(0), Sent: f.sent, TCP: f.tcp}
	r.Received.Corrupted = f.corrupt
	if f.failure != nil {
		r.Error = f.failure.Error()
		r.Reset = errors.Is(f.failure, syscall.ECONNRESET)
	}
	if f.meter != nil {
		bins, total, cut := f.meter.read()
		r.Bins = bins
		if cut {
			r.Received.Bytes = total
		}
	}
	return r
}

// flow finds or makes the state of a flow. A new run's first datagram replaces
// what an old one left.
func (s *server) flow(h *header) *servedFlow {
	f := s.flows[h.flow]
	if f == nil || f.run != h.run {
		f = &servedFlow{run: h.run}
		s.flows[h.flow] = f
	}
	return f
}

// serveBatch is how many datagrams the server takes in one system call.
const serveBatch = 64

func (s *server) serveUDP(conn *net.UDPConn) {
	batches := ipv6.NewPacketConn(conn)
	batch := make([]ipv6.Message, serveBatch)
	for i := range batch {
		batch[i].Buffers = [][]byte{make([]byte, 64<<10)}
	}
	for {
		n, err := batches.ReadBatch(batch, 0)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier answer
		}
		for _, m := range batch[:n] {
			b := m.Buffers[0][:m.N]
			if answer, tos := s.datagram(b); answer {
				to := m.Addr.(*net.UDPAddr).AddrPort()
				_, _, _ = conn.WriteMsgUDPAddrPort(b, tosMessage(to.Addr(), tos), to) // if it fails, the client counts a loss
			}
		}
	}
}

// datagram counts b and turns it into the answer, if it wants one, and tells
// with which type of service.
func (s *server) datagram(b []byte) (answer bool, tos uint8) {
	var h header
	if !h.parse(b, true) {
		s.corrupt(b)
		return false, 0
	}
	if h.kind == typeReflect {
		return true, h.tos
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flow(&h)
	f.tracker.add(h.number, len(b))
	if h.kind != typeEcho {
		return false, 0
	}
	h.kind, h.number = typeAnswer, f.sent
	f.sent++
	h.put(b)
	return true, h.tos
}

// corrupt charges a broken datagram to the flow that it claims to be of.
func (s *server) corrupt(b []byte) {
	var h header
	if !h.parse(b, false) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.flows[h.flow]; f != nil && f.run == h.run {
		f.corrupt++
	}
}
