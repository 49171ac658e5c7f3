package netlab

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The features that let a packet larger than the MTU cross an interface, by
// their names in `ethtool -k`.
var offloadFeatures = []string{
	"tx-tcp-segmentation",
	"tx-tcp6-segmentation",
	"tx-tcp-ecn-segmentation",
	"tx-tcp-mangleid-segmentation",
	"tx-udp-segmentation",
	"tx-generic-segmentation",
	"tx-sctp-segmentation",
	"tx-gso-list",
	"rx-gro",
	"rx-gro-list",
	"rx-udp-gro-forwarding",
	"rx-lro",
}

// Layout of the ethtool requests (linux/ethtool.h). A string is 32 bytes; a
// feature set is a pair of 32-bit words, which bits to change and their values.
const (
	ethtoolStringLen = 32
	stringSetHeader  = 12 // cmd, string set, length
	featuresHeader   = 8  // cmd, number of words
	maxFeatures      = 1024

	stringSetFeatures = 4 // ETH_SS_FEATURES
)

// OffloadOff turns off everything on the interface dev that lets a packet
// larger than its MTU pass: TCP, UDP and generic segmentation, and merging on
// receipt. Features that the interface does not have are passed over.
func (n *Node) OffloadOff(dev string) error { return n.turnOff(dev, offloadFeatures) }

// ChecksumOff makes the kernel finish every checksum before it hands a packet to
// the interface dev.
func (n *Node) ChecksumOff(dev string) error {
	return n.turnOff(dev, []string{"tx-checksum-ip-generic"})
}

func (n *Node) turnOff(dev string, features []string) error {
	return n.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open a socket: %w", err)
		}
		defer unix.Close(fd)
		names, err := featureNames(fd, dev)
		if err != nil {
			return fmt.Errorf("node %s: read the offloads of %s: %w", n.Name, dev, err)
		}
		if err := ethtool(fd, dev, featuresRequest(names, features)); err != nil {
			return fmt.Errorf("node %s: turn off the offloads of %s: %w", n.Name, dev, err)
		}
		return nil
	})
}

// Offloads lists the segmentation and merging features that are on.
func (n *Node) Offloads(dev string) ([]string, error) {
	var on []string
	err := n.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open a socket: %w", err)
		}
		defer unix.Close(fd)
		names, err := featureNames(fd, dev)
		if err != nil {
			return fmt.Errorf("node %s: read the offloads of %s: %w", n.Name, dev, err)
		}
		active, err := activeFeatures(fd, dev, len(names))
		if err != nil {
			return fmt.Errorf("node %s: read the offloads of %s: %w", n.Name, dev, err)
		}
		for i, name := range names {
			if active[i] && slices.Contains(offloadFeatures, name) {
				on = append(on, name)
			}
		}
		return nil
	})
	return on, err
}

// featureNames returns the names of all features, by bit number. Newer kernels
// give the names only to a caller that knows how many there are.
func featureNames(fd int, dev string) ([]string, error) {
	count, err := featureCount(fd, dev)
	if err != nil {
		return nil, err
	}
	request := make([]byte, stringSetHeader+count*ethtoolStringLen)
	binary.NativeEndian.PutUint32(request[0:], unix.ETHTOOL_GSTRINGS)
	binary.NativeEndian.PutUint32(request[4:], stringSetFeatures)
	binary.NativeEndian.PutUint32(request[8:], uint32(count))
	if err := ethtool(fd, dev, request); err != nil {
		return nil, err
	}
	if got := int(binary.NativeEndian.Uint32(request[8:])); got != count {
		return nil, fmt.Errorf("the kernel names %d of %d features", got, count)
	}
	names := make([]string, count)
	for i := range names {
		raw := request[stringSetHeader+i*ethtoolStringLen:][:ethtoolStringLen]
		names[i], _, _ = strings.Cut(string(raw), "\x00")
	}
	return names, nil
}

// featureCount asks how many features this kernel knows.
func featureCount(fd int, dev string) (int, error) {
	request := make([]byte, 20) // cmd, reserved, mask of sets (64 bits), count
	binary.NativeEndian.PutUint32(request[0:], unix.ETHTOOL_GSSET_INFO)
	binary.NativeEndian.PutUint64(request[8:], 1<<stringSetFeatures)
	if err := ethtool(fd, dev, request); err != nil {
		return 0, err
	}
	count := int(binary.NativeEndian.Uint32(request[16:]))
	if count > maxFeatures {
		return 0, fmt.Errorf("the kernel claims %d features", count)
	}
	return count, nil
}

// featuresRequest asks for every feature of off that is among names to be off.
func featuresRequest(names, off []string) []byte {
	words := (len(names) + 31) / 32
	request := make([]byte, featuresHeader+8*words)
	binary.NativeEndian.PutUint32(request[0:], unix.ETHTOOL_SFEATURES)
	binary.NativeEndian.PutUint32(request[4:], uint32(words))
	for bit, name := range names {
		if !slices.Contains(off, name) {
			continue
		}
		valid := request[featuresHeader+8*(bit/32):]
		binary.NativeEndian.PutUint32(valid, binary.NativeEndian.Uint32(valid)|1<<(bit%32))
	}
	return request
}

// activeFeatures tells for each feature whether it is in force.
func activeFeatures(fd int, dev string, count int) ([]bool, error) {
	const wordBytes = 16 // available, requested, active, never changed
	words := (count + 31) / 32
	request := make([]byte, featuresHeader+wordBytes*words)
	binary.NativeEndian.PutUint32(request[0:], unix.ETHTOOL_GFEATURES)
	binary.NativeEndian.PutUint32(request[4:], uint32(words))
	if err := ethtool(fd, dev, request); err != nil {
		return nil, err
	}
	active := make([]bool, count)
	for bit := range active {
		word := binary.NativeEndian.Uint32(request[featuresHeader+wordBytes*(bit/32)+8:])
		active[bit] = word&(1<<(bit%32)) != 0
	}
	return active, nil
}

// ethtool makes one SIOCETHTOOL call. The kernel answers SFEATURES with a
// positive number when it could not do all, which is no failure here: it means
// a feature that this interface never had.
func ethtool(fd int, dev string, request []byte) error {
	if len(dev) >= unix.IFNAMSIZ {
		return fmt.Errorf("interface name %q is longer than %d bytes", dev, unix.IFNAMSIZ-1)
	}
	var ifreq struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}
	copy(ifreq.name[:], dev)
	ifreq.data = unsafe.Pointer(&request[0])
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifreq)))
	runtime.KeepAlive(request)
	if errno != 0 {
		return errno
	}
	return nil
}
