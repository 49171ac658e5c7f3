package tun

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// message makes a netlink message with another implementation.
func message(kind int, family uint8, index int32, flags uint32, attributes ...*nl.RtAttr) []byte {
	r := nl.NewNetlinkRequest(kind, 0)
	info := nl.NewIfInfomsg(int(family))
	info.Index, info.Flags = index, flags
	r.AddData(info)
	for _, a := range attributes {
		r.AddData(a)
	}
	return r.Serialize()
}

// failure is the kernel's answer to a request that it refuses.
func failure(errno int32) []byte {
	b := make([]byte, unix.NLMSG_HDRLEN+unix.SizeofNlMsgerr)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], unix.NLMSG_ERROR)
	binary.NativeEndian.PutUint32(b[unix.NLMSG_HDRLEN:], uint32(-errno))
	return b
}

func TestParseLinkStates(t *testing.T) {
	mtu := nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(1300))
	name := nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("kilo7"))
	for _, c := range []struct {
		what  string
		bytes []byte
		want  []linkState
	}{
		{"up", message(unix.RTM_NEWLINK, unix.AF_UNSPEC, 7, unix.IFF_UP, name, mtu), []linkState{{up: true, mtu: 1300, name: "kilo7"}}},
		{"down, running all the same", message(unix.RTM_NEWLINK, unix.AF_UNSPEC, 7, unix.IFF_RUNNING), []linkState{{}}},
		{"deleted", message(unix.RTM_DELLINK, unix.AF_UNSPEC, 7, 0, name, mtu), []linkState{{deleted: true}}},
		{"another link", message(unix.RTM_DELLINK, unix.AF_UNSPEC, 8, 0), nil},
		{"a bridge lets go of its port", message(unix.RTM_DELLINK, unix.AF_BRIDGE, 7, 0), nil},
		{"something else", message(unix.RTM_NEWADDR, unix.AF_UNSPEC, 7, 0), nil},
		{"an mtu of a wrong size", message(unix.RTM_NEWLINK, unix.AF_UNSPEC, 7, 0, nl.NewRtAttr(unix.IFLA_MTU, []byte{1})), []linkState{{}}},
		{"two", append(message(unix.RTM_NEWLINK, unix.AF_UNSPEC, 7, unix.IFF_UP), message(unix.RTM_DELLINK, unix.AF_UNSPEC, 7, 0)...), []linkState{{up: true}, {deleted: true}}},
		{"asked for a link that has gone", failure(int32(unix.ENODEV)), []linkState{{deleted: true}}},
		{"another error", failure(int32(unix.EPERM)), nil},
		{"an acknowledgement", failure(0), nil},
		{"cut off", message(unix.RTM_NEWLINK, unix.AF_UNSPEC, 7, 0)[:20], nil},
		{"nothing", nil, nil},
	} {
		got := parseLinkStates(c.bytes, 7)
		if d := cmp.Diff(c.want, got, cmp.AllowUnexported(linkState{})); d != "" {
			t.Errorf("%s: %s", c.what, d)
		}
	}
}

// The oracle is the netlink package, on each message that it can read.
func FuzzParseLinkStates(f *testing.F) {
	f.Add(message(unix.RTM_NEWLINK, unix.AF_UNSPEC, 7, unix.IFF_UP, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(1420)), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("kilo0"))))
	f.Add(message(unix.RTM_DELLINK, unix.AF_UNSPEC, 7, 0))
	f.Add(failure(int32(unix.ENODEV)))
	f.Fuzz(func(t *testing.T, b []byte) {
		states := parseLinkStates(b, 7)
		if len(states) > len(b)/unix.NLMSG_HDRLEN {
			t.Fatalf("%d states in %d bytes", len(states), len(b))
		}
		if len(states) != 1 || states[0].deleted || len(b) < unix.NLMSG_HDRLEN || int(binary.NativeEndian.Uint32(b)) != len(b) {
			return
		}
		defer func() { recover() }() // the oracle panics at attributes that are too short
		link, err := netlink.LinkDeserialize(nil, b[unix.NLMSG_HDRLEN:])
		if err != nil {
			return
		}
		if got, want := states[0].up, link.Attrs().RawFlags&unix.IFF_UP != 0; got != want {
			t.Errorf("up %v, want %v", got, want)
		}
		if got, want := states[0].mtu, link.Attrs().MTU; got != 0 && got != want {
			t.Errorf("mtu %d, want %d", got, want)
		}
	})
}
