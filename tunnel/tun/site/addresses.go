package site

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	addressesSettle = 50 * time.Millisecond // several changes within that are one
	addressesRetry  = 10 * time.Second      // after the kernel was not to be asked
)

// WatchAddresses calls changed soon after addresses that can be used have come to or
// gone from the host, but for those of one interface, the tunnel's, until ctx ends.
// Where the kernel does not tell, that is logged once and tried again.
func WatchAddresses(ctx context.Context, tunnel string, changed func(), log *slog.Logger) {
	for said := false; ; said = true {
		err := watchAddresses(ctx, tunnel, changed)
		if ctx.Err() != nil {
			return
		}
		if !said {
			log.Warn("changes of the host's addresses are not noticed", "reason", err, "retry", addressesRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(addressesRetry):
			changed() // who knows
		}
	}
}

func watchAddresses(ctx context.Context, tunnel string, changed func()) error {
	done, updates := make(chan struct{}), make(chan netlink.AddrUpdate, 64)
	failed := make(chan error, 1)
	err := netlink.AddrSubscribeWithOptions(updates, done, netlink.AddrSubscribeOptions{
		ErrorCallback: func(err error) {
			select {
			case failed <- err:
			default:
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch the addresses: %w", err)
	}
	defer func() {
		close(done)
		go func() { // the library's goroutine ends when it has said what it had to
			for range updates {
			}
		}()
	}()
	known, err := usableAddresses(tunnel)
	if err != nil {
		return err
	}
	var settled <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case u, more := <-updates:
			if !more {
				return fmt.Errorf("watch the addresses: %w", <-failed)
			}
			if known.take(&u) && settled == nil {
				settled = time.After(addressesSettle)
			}
		case <-settled:
			settled = nil
			changed()
		}
	}
}

// addressAt is an address with the interface that has it.
type addressAt struct {
	link int
	addr netip.Addr
}

// addressSet is the addresses that can be used, of interfaces but one.
type addressSet struct {
	except int // index of the tunnel's, 0 = none
	usable map[addressAt]bool
}

// usableAddresses asks the kernel.
func usableAddresses(tunnel string) (*addressSet, error) {
	s := &addressSet{usable: make(map[addressAt]bool)}
	if link, err := netlink.LinkByName(tunnel); err == nil {
		s.except = link.Attrs().Index
	}
	all, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the addresses: %w", err)
	}
	for _, a := range all {
		s.take(&netlink.AddrUpdate{LinkAddress: *a.IPNet, LinkIndex: a.LinkIndex, Flags: a.Flags, NewAddr: true})
	}
	return s, nil
}

// take notes what the kernel says of an address, and whether that is new. It says so
// again and again where routers refresh addresses.
func (s *addressSet) take(u *netlink.AddrUpdate) (changed bool) {
	addr, ok := netip.AddrFromSlice(u.LinkAddress.IP)
	if addr = addr.Unmap(); !ok || u.LinkIndex == s.except || addr.IsLinkLocalUnicast() {
		return false
	}
	const notYet = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
	at := addressAt{u.LinkIndex, addr}
	if usable := u.NewAddr && u.Flags&notYet == 0; usable == s.usable[at] {
		return false
	} else if usable {
		s.usable[at] = true
	} else {
		delete(s.usable, at)
	}
	return true
}
