package traffic

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// TCPInfo is the state of a sending TCP socket (TCP_INFO of tcp(7)).
type TCPInfo struct {
	// Congestion is the congestion control that was really in use. DCTCP whose
	// ends did not agree on ECN calls itself dctcp-reno.
	Congestion string
	// Retransmits, Delivered and DeliveredCE count segments since the
	// connection was opened: sent again, acknowledged, acknowledged with a
	// congestion mark (ECN).
	Retransmits, Delivered, DeliveredCE uint32
	// SegmentsOut and SegmentsIn count what the socket sent and received since
	// then, acknowledgements without data as well.
	SegmentsOut, SegmentsIn uint32
	// Duplicates counts segments that were sent again for nothing, as the
	// receiver said (DSACK, RFC 2883), Reorderings how often segments were seen
	// to have overtaken each other.
	Duplicates, Reorderings uint32
	// RTT is the smoothed round-trip time, MinRTT the least of late.
	RTT, MinRTT time.Duration
	// Cwnd is the congestion window in segments.
	Cwnd uint32
}

// tcpInfo is nil if the socket does not tell.
func tcpInfo(conn *net.TCPConn) *TCPInfo {
	var t *TCPInfo
	_ = control(conn, func(fd int) error { // a socket without information has none to report
		name, err := congestion(fd)
		if err != nil {
			return err
		}
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return err
		}
		t = &TCPInfo{
			Congestion: name, Retransmits: info.Total_retrans, Delivered: info.Delivered, DeliveredCE: info.Delivered_ce,
			SegmentsOut: info.Segs_out, SegmentsIn: info.Segs_in,
			Duplicates: info.Dsack_dups, Reorderings: info.Reord_seen,
			RTT: microseconds(info.Rtt), MinRTT: microseconds(info.Min_rtt), Cwnd: info.Snd_cwnd,
		}
		return nil
	})
	return t
}

func microseconds(n uint32) time.Duration { return time.Duration(n) * time.Microsecond }

// maxCongestion is the longest name of a congestion control (TCP_CA_NAME_MAX).
const maxCongestion = 15

// setCongestion sets a socket's congestion control; an empty name leaves it.
func setCongestion(fd int, name string) error {
	if name == "" {
		return nil
	}
	err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name)
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("set congestion control %s: the kernel does not have it; choose one of net.ipv4.tcp_available_congestion_control", name)
	}
	if err != nil {
		return fmt.Errorf("set congestion control %s: %w", name, err)
	}
	return nil
}

func congestion(fd int) (string, error) {
	name, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	if err != nil {
		return "", fmt.Errorf("read a socket's congestion control: %w", err)
	}
	return name, nil
}
