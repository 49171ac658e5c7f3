package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/net/icmp"
)

// Echo messages (RFC 792 and RFC 4443, section 4): type, code, checksum,
// identifier, sequence number, data.
const (
	pingHeader  = 8
	pingRequest = 8
	pingReply   = 0
	ping6Reply  = 129
	ping6       = 128
)

// pingCarrier is a ping socket (ping(7) of the kernel: it fills in identifier
// and checksum, and delivers only the answers to this identifier).
type pingCarrier struct {
	conn     *icmp.PacketConn
	src, dst netip.AddrPort
	to       net.Addr
	out, in  []byte
	sequence uint16
}

func dialPing(to netip.Addr, tos uint8) (*pingCarrier, error) {
	from, err := sourceTowards(to)
	if err != nil {
		return nil, err
	}
	network := "udp4"
	if to.Is6() {
		network = "udp6"
	}
	conn, err := icmp.ListenPacket(network, from.String())
	if err != nil {
		return nil, fmt.Errorf("open a ping socket: %w", err)
	}
	if to.Is6() {
		err = conn.IPv6PacketConn().SetTrafficClass(int(tos))
	} else {
		err = conn.IPv4PacketConn().SetTOS(int(tos))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set the type of service of a ping socket: %w", err), conn.Close())
	}
	id := conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	return &pingCarrier{
		conn: conn, src: netip.AddrPortFrom(from, id), dst: netip.AddrPortFrom(to, 0),
		to:  net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 0)),
		out: make([]byte, pingHeader+maxSize), in: make([]byte, pingHeader+maxSize+headerSize),
	}, nil
}

// sourceTowards is the address that the kernel would send from.
func sourceTowards(to netip.Addr) (netip.Addr, error) {
	const anyPort = 9
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, anyPort)))
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

func (p *pingCarrier) send(b []byte) error {
	clear(p.out[:pingHeader])
	p.out[0] = pingRequest
	if p.dst.Addr().Is6() {
		p.out[0] = ping6
	}
	p.sequence++
	binary.BigEndian.PutUint16(p.out[6:], p.sequence)
	n := copy(p.out[pingHeader:], b)
	_, err := p.conn.WriteTo(p.out[:pingHeader+n], p.to)
	return err
}

func (p *pingCarrier) receive() ([]byte, error) {
	for {
		n, _, err := p.conn.ReadFrom(p.in)
		if err != nil {
			return nil, err
		}
		if n >= pingHeader && (p.in[0] == pingReply || p.in[0] == ping6Reply) {
			return p.in[pingHeader:n], nil
		}
	}
}

func (p *pingCarrier) overhead() int { return ipHeader(p.dst.Addr()) + pingHeader }

func (p *pingCarrier) addrs() (src, dst netip.AddrPort) { return p.src, p.dst }

// drops is not known of a ping socket; its few answers fit its buffer.
func (p *pingCarrier) drops() uint64 { return 0 }

func (p *pingCarrier) close() error { return p.conn.Close() }
