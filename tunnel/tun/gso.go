package tun

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// limitGSO sets how long, in bytes, a super-packet from the host may be. The
// kernel cuts longer ones itself, packet by packet.
func limitGSO(tunFD, size int) error {
	name, _, err := attached(tunFD)
	if err != nil {
		return err
	}
	fd, err := routeSocket(tunFD)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	index, err := linkIndex(fd, name)
	if err != nil {
		return err
	}
	request := linkRequest(unix.RTM_NEWLINK, unix.NLM_F_REQUEST|unix.NLM_F_ACK, index)
	request = appendUint32(request, unix.IFLA_GSO_MAX_SIZE, uint32(size))
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	// The answer is there when the request is done, which is at once.
	var answer [512]byte
	n, _, err := unix.Recvfrom(fd, answer[:], 0)
	if err != nil {
		return err
	}
	return acknowledged(answer[:n])
}

// linkRequest makes a netlink message about a link, without attributes.
func linkRequest(kind, flags uint16, index int32) []byte {
	b := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg)
	order := binary.NativeEndian
	order.PutUint32(b[0:], uint32(len(b)))
	order.PutUint16(b[4:], kind)
	order.PutUint16(b[6:], flags)
	order.PutUint32(b[unix.SizeofNlMsghdr+4:], uint32(index))
	return b
}

// appendUint32 adds an attribute of four bytes to a netlink message.
func appendUint32(message []byte, attribute uint16, value uint32) []byte {
	order := binary.NativeEndian
	message = order.AppendUint16(message, unix.SizeofRtAttr+4)
	message = order.AppendUint16(message, attribute)
	message = order.AppendUint32(message, value)
	order.PutUint32(message, uint32(len(message)))
	return message
}

// acknowledged reads the kernel's answer to a request (struct nlmsgerr).
func acknowledged(answer []byte) error {
	order := binary.NativeEndian
	if len(answer) < unix.SizeofNlMsghdr+4 || order.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("the kernel answers a netlink request with something else than an acknowledgement")
	}
	if errno := -int32(order.Uint32(answer[unix.SizeofNlMsghdr:])); errno != 0 {
		return fmt.Errorf("the kernel refuses the netlink request: %w", unix.Errno(errno))
	}
	return nil
}
