package tun

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// request checks a name as the kernel's dev_valid_name would, which itself
// says no more than "invalid argument".
func request(name string) (*unix.Ifreq, error) {
	hint := ""
	switch {
	case name == "":
		hint = "is empty"
	case len(name) >= unix.IFNAMSIZ:
		hint = fmt.Sprintf("has %d bytes, a link's name has at most %d", len(name), unix.IFNAMSIZ-1)
	case name == "." || name == "..":
		hint = "is a directory's"
	case name == "all" || name == "default":
		hint = "is taken by sysctl for the settings of all links"
	case slices.ContainsFunc([]byte(name), forbidden):
		hint = "contains a slash, a colon, white space, or a byte (NUL or 0xa0) that the kernel takes for it"
	case strings.Contains(strings.Replace(name, "%d", "", 1), "%"):
		hint = "contains a % that is not its only %d"
	}
	if hint != "" {
		return nil, fmt.Errorf("create tun link %q: the name %s: choose another, such as kilo0 or kilo%%d: %w", name, hint, unix.EINVAL)
	}
	return unix.NewIfreq(name)
}

// forbidden looks at bytes, not runes, as the kernel does.
func forbidden(b byte) bool {
	return strings.IndexByte("/:\x00 \t\n\v\f\r\xa0", b) >= 0
}

func openError(err error) error {
	hint := "see whether the kernel has tun"
	switch {
	case errors.Is(err, unix.ENOENT):
		hint = "load the module (modprobe tun), or give the container the device (--device " + cloneDevice + ")"
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		hint = "the kernel has no tun driver: load the module (modprobe tun), or use a kernel with CONFIG_TUN"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		hint = "run as root or with access to the device (in a container: --device " + cloneDevice + ")"
	}
	return fmt.Errorf("open %s: %w: %s", cloneDevice, err, hint)
}

func attachError(name string, err error) error {
	hint := "see ip link show dev " + name
	switch {
	case errors.Is(err, unix.EPERM):
		hint = "this needs CAP_NET_ADMIN: run as root, or set AmbientCapabilities=CAP_NET_ADMIN, or inherit the descriptor in WG_TUN_FD"
	case errors.Is(err, unix.ENOTTY):
		hint = cloneDevice + " is another file: remove it and make it anew (mknod " + cloneDevice + " c 10 200)"
	case errors.Is(err, unix.EBUSY):
		hint = "another process serves this link: stop it, or choose another name"
	case errors.Is(err, unix.EINVAL) && exists(name):
		hint = "a link of this name exists and is not a single-queue tun device: choose another name, or remove it with ip link delete dev " + name
	case errors.Is(err, unix.ENFILE):
		hint = "every number for %d is in use: remove links, or choose another name"
	}
	return fmt.Errorf("create tun link %s: %w: %s", name, err, hint)
}

func exists(name string) bool {
	_, err := net.InterfaceByName(name)
	return err == nil
}
