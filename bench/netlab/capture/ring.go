package capture

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sizes of the ring that the kernel fills (packet(7), TPACKET_V3): it hands a
// block over when it is full or has waited for retireAfter. Of a trickle of packets
// each takes a block: there are to be blocks for seconds, in which a busy machine may
// leave who reads them waiting.
const (
	blockSize   = 128 << 10
	retireAfter = 10 * time.Millisecond
)

// A ring is a packet socket on one interface together with the memory that it
// shares with the kernel.
type ring struct {
	fd     int
	memory []byte
	blocks int
	next   int
	drops  uint64
}

// openRing starts to capture the first snap bytes of every frame on the
// interface with the given index, in the namespace of the calling thread.
func openRing(ifindex, snap, size int) (*ring, error) {
	// Protocol 0: nothing arrives before bind, when the ring is ready.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w (it needs CAP_NET_RAW)", err)
	}
	r := &ring{fd: fd, blocks: max(2, size/blockSize)}
	if err := r.setUp(ifindex, snap); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *ring) setUp(ifindex, snap int) error {
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return fmt.Errorf("ask for a version 3 packet ring: %w", err)
	}
	// A filter of one instruction: accept the packet, cut it to snap bytes.
	program := [1]unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: uint32(snap)}}
	fprog := unix.SockFprog{Len: 1, Filter: &program[0]}
	if err := unix.SetsockoptSockFprog(r.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog); err != nil {
		return fmt.Errorf("attach the filter that cuts packets: %w", err)
	}
	const frameSize = 2048 // version 3 packs frames; this only has to divide the block
	request := unix.TpacketReq3{
		Block_size: blockSize, Block_nr: uint32(r.blocks),
		Frame_size: frameSize, Frame_nr: uint32(r.blocks) * (blockSize / frameSize),
		Retire_blk_tov: uint32(retireAfter / time.Millisecond),
	}
	if err := unix.SetsockoptTpacketReq3(r.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &request); err != nil {
		return fmt.Errorf("make a packet ring of %d KiB: %w", r.blocks*blockSize>>10, err)
	}
	memory, err := unix.Mmap(r.fd, 0, r.blocks*blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the packet ring: %w", err)
	}
	r.memory = memory
	all := uint16(unix.ETH_P_ALL)<<8 | unix.ETH_P_ALL>>8 // network byte order
	if err := unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifindex}); err != nil {
		return fmt.Errorf("bind the packet socket to interface %d: %w", ifindex, err)
	}
	return nil
}

func (r *ring) close() error {
	var err error
	if r.memory != nil {
		err = unix.Munmap(r.memory)
	}
	return errors.Join(err, unix.Close(r.fd))
}

// wait returns after at most timeout, earlier if a block is ready.
func (r *ring) wait(timeout time.Duration) error {
	fds := []unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}}
	_, err := unix.Poll(fds, int(timeout/time.Millisecond))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return os.NewSyscallError("poll", err)
	}
	return nil
}

// A frame is one captured frame, within the ring.
type frame struct {
	at       time.Time
	data     []byte
	length   int
	outgoing bool
}

// drain gives every frame of every finished block to f, and the blocks back to
// the kernel. It returns how many blocks there were.
func (r *ring) drain(f func(*frame)) int {
	for n := range r.blocks {
		block := r.memory[r.next*blockSize:][:blockSize]
		header := (*unix.TpacketHdrV1)(unsafe.Pointer(&block[unsafe.Offsetof(unix.TpacketBlockDesc{}.Hdr)]))
		status := (*uint32)(unsafe.Pointer(&header.Block_status))
		if atomic.LoadUint32(status)&unix.TP_STATUS_USER == 0 {
			return n
		}
		eachFrame(block, int(header.Offset_to_first_pkt), int(header.Num_pkts), f)
		atomic.StoreUint32(status, unix.TP_STATUS_KERNEL)
		r.next = (r.next + 1) % r.blocks
	}
	return r.blocks
}

func eachFrame(block []byte, offset, count int, f func(*frame)) {
	const addressAt = (unix.SizeofTpacket3Hdr + unix.TPACKET_ALIGNMENT - 1) &^ (unix.TPACKET_ALIGNMENT - 1)
	for range count {
		header := (*unix.Tpacket3Hdr)(unsafe.Pointer(&block[offset]))
		address := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(&block[offset+addressAt]))
		f(&frame{
			at:       time.Unix(int64(header.Sec), int64(header.Nsec)),
			data:     block[offset+int(header.Mac):][:header.Snaplen],
			length:   int(header.Len),
			outgoing: address.Pkttype == unix.PACKET_OUTGOING,
		})
		offset += int(header.Next_offset)
	}
}

// dropped is how many frames the kernel has dropped since the start. Reading
// the kernel's counter resets it, so the sum is kept here.
func (r *ring) dropped() (uint64, error) {
	stats, err := unix.GetsockoptTpacketStatsV3(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return r.drops, fmt.Errorf("read the capture's drop counter: %w", err)
	}
	r.drops += uint64(stats.Drops)
	return r.drops, nil
}
