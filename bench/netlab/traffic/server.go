package traffic

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// serverConfig says where the server role listens.
type serverConfig struct {
	Addrs []netip.Addr
	Port  uint16
}

// serverReport is what the server knows of the flows, by number.
type serverReport struct {
	Flows       map[int]serverFlow
	SocketDrops uint64
}

type serverFlow struct {
	Received Direction // Sent and Lost are the client's to fill in
	Sent     uint64
	Error    string `json:",omitempty"`
}

// A server answers the clients of one run; the first datagram or frame with
// content decides which run that is.
type server struct {
	mu    sync.Mutex
	flows map[uint32]*servedFlow
	udp   []*net.UDPConn
	tcp   []*net.TCPListener
}

type servedFlow struct {
	run     uint32
	tracker tracker
	corrupt uint64
	sent    uint64
	failure error
}

// listen opens TCP and UDP on every address and serves them until closed.
func listen(c serverConfig) (*server, error) {
	s := &server{flows: map[uint32]*servedFlow{}}
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
	go s.serveTCP(tcp)
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

// report closes nothing; it may be asked at any time.
func (s *server) report() serverReport {
	r := serverReport{Flows: map[int]serverFlow{}}
	for _, c := range s.udp {
		r.SocketDrops += drops(c)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, f := range s.flows {
		d := f.tracker.direction(0)
		d.Corrupted = f.corrupt
		served := serverFlow{Received: d, Sent: f.sent}
		if f.failure != nil {
			served.Error = f.failure.Error()
		}
		r.Flows[int(id)] = served
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

func (s *server) serveUDP(conn *net.UDPConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier answer
		}
		if s.datagram(buf[:n]) {
			_, _ = conn.WriteToUDPAddrPort(buf[:n], from) // if it fails, the client counts a loss
		}
	}
}

// datagram counts b and turns it into the answer, if it wants one.
func (s *server) datagram(b []byte) (answer bool) {
	var h header
	if !h.parse(b, true) {
		s.corrupt(b)
		return false
	}
	if h.kind == typeReflect {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flow(&h)
	f.tracker.add(h.number, len(b))
	if h.kind != typeEcho {
		return false
	}
	h.kind, h.number = typeAnswer, f.sent
	f.sent++
	h.put(b)
	return true
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

func (s *server) serveTCP(l *net.TCPListener) {
	for {
		conn, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of files, for a while perhaps
			continue
		}
		go func() {
			defer conn.Close()
			s.serveStream(newStream(conn))
		}()
	}
}

// serveStream serves one connection, and charges a failure to its flow.
func (s *server) serveStream(st *stream) {
	bulk := newBulkReceiver()
	var last header
	for {
		h, frame, err := st.read()
		if err == nil {
			last = h
			err = s.frame(st, bulk, h, frame)
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			s.mu.Lock()
			s.flow(&last).failure = err
			s.mu.Unlock()
			return
		}
	}
}

// frame does what one frame of a stream asks for.
func (s *server) frame(st *stream, bulk *bulkReceiver, h header, frame []byte) error {
	switch h.kind {
	case typeReflect:
		return st.write(h, h.length)
	case typeEcho:
		s.mu.Lock()
		f := s.flow(&h)
		f.tracker.add(h.number, h.length)
		h.kind, h.number = typeAnswer, f.sent
		f.sent++
		s.mu.Unlock()
		return st.write(h, h.length)
	case typeBulk:
		if err := bulk.add(h, frame); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.flow(&h).tracker.add(h.number, h.length)
		return nil
	case typeSum:
		return st.writeSum(h, bulk.total)
	case typePull:
		return s.push(st, h)
	}
	return fmt.Errorf("frame of unknown type %d", h.kind)
}

// push sends bulk for as long as the client asked, in nanoseconds, and the sum.
func (s *server) push(st *stream, h header) error {
	bulk := newBulkSender(h)
	err := bulk.send(st.conn, time.Now().Add(time.Duration(h.time)))
	s.mu.Lock()
	s.flow(&h).sent = bulk.total.frames
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return st.writeSum(h, bulk.total)
}
