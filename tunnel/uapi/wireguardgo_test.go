package uapi

import (
	"bytes"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.zx2c4.com/wireguard/conn/bindtest"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"
)

// theirs is a device of wireguard-go, which is never brought up.
func theirs(t *testing.T) *device.Device {
	binds := bindtest.NewChannelBinds()
	d := device.NewDevice(tuntest.NewChannelTUN().TUN(), binds[0], device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(d.Close)
	return d
}

func theirErrno(err error) syscall.Errno {
	var e *device.IPCError
	if errors.As(err, &e) {
		return syscall.Errno(-e.ErrorCode())
	}
	return errno(err)
}

func TestErrnoIsThatOfWireguardGo(t *testing.T) {
	d := theirs(t)
	for _, c := range refused {
		if got := theirErrno(d.IpcSet(c.text + "\n")); got != c.errno {
			t.Errorf("%q: wireguard-go gives %v, we give %v", c.text, got, c.errno)
		}
	}
}

// TestStateOfWireguardGo has wireguard-go take a request of ours, and its answer
// read by us.
func TestStateOfWireguardGo(t *testing.T) {
	d := theirs(t)
	port, psk := uint16(0), SecretKey(fill(7))
	request := SetRequest{PrivateKey: ptr(SecretKey(fill(0x40))), ListenPort: &port, Peers: []PeerChange{{
		PublicKey: fill(2), PresharedKey: &psk, PersistentKeepalive: ptr(uint16(25)), ReplaceAllowedIPs: true,
		AllowedIPs: []AllowedIPChange{{Prefix: prefix("10.0.0.0/8")}, {Prefix: prefix("fd00::/64")}, {Prefix: prefix("10.0.0.0/8"), Remove: true}},
	}, {PublicKey: fill(3), UpdateOnly: true}, {PublicKey: fill(4)}, {PublicKey: fill(4), Remove: true}}}
	var text bytes.Buffer
	if err := request.Write(&text); err != nil {
		t.Fatal(err)
	}
	if err := d.IpcSet(text.String()); err != nil {
		t.Fatal(err)
	}
	answer, err := d.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseState(answer)
	want := DeviceState{PrivateKey: fill(0x40), ListenPort: got.ListenPort, Peers: []PeerState{{
		PublicKey: fill(2), PresharedKey: psk, PersistentKeepalive: 25, AllowedIPs: prefixes("fd00::/64"),
	}}}
	if d := cmp.Diff(want, got, sameAddresses); d != "" || err != nil {
		t.Errorf("%v %s", err, d)
	}
	var ours strings.Builder
	if WriteGet(&ours, want); ours.String() != answer {
		t.Errorf("we write\n%s\nwireguard-go writes\n%s", ours.String(), answer)
	}
}
