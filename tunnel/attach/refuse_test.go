package attach

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"

	"kiloport/tunnel/attach/accord"
)

// pretend makes a host of files.
func pretend(t *testing.T, localPorts, reserved string, owned ...string) host {
	t.Helper()
	h := host{proc: t.TempDir()}
	for name, text := range map[string]string{
		"sys/net/ipv4/ip_local_port_range":     localPorts + "\n",
		"sys/net/ipv4/ip_local_reserved_ports": reserved + "\n",
		"self/net/udp":                         "  sl  local_address rem_address   st tx_queue rx_queue\n" + strings.Join(owned, "\n"),
	} {
		path := filepath.Join(h.proc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

const usual, wireguardSocket = "32768\t60999", "  12: 00000000:CA6C 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 0"

func TestRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		host   host
		r      accord.Range
		others []attached
		want   string // in the error; "" is none
	}{
		"free":           {pretend(t, usual, "", wireguardSocket), accord.Range{Low: 20480, Count: 8192}, nil, ""},
		"given out":      {pretend(t, usual, ""), accord.Range{Low: 30000, Count: 4096}, nil, "the kernel gives 32768 to others (net.ipv4.ip_local_port_range): choose another with --port-range, or reserve it: sysctl net.ipv4.ip_local_reserved_ports=30000-34095"},
		"reserved":       {pretend(t, usual, "1,32768-34095"), accord.Range{Low: 30000, Count: 4096}, nil, ""},
		"not all of it":  {pretend(t, usual, "32768-34094"), accord.Range{Low: 30000, Count: 4096}, nil, "gives 34095 to others"},
		"a socket":       {pretend(t, usual, "", wireguardSocket, "  13: 0100007F:5001 00000000:0000 07"), accord.Range{Low: 20480, Count: 8192}, nil, "a UDP socket has port 20481"},
		"listen port":    {pretend(t, "1024 2048", ""), accord.Range{Low: 51000, Count: 1000}, nil, "WireGuard itself listens on 51820"},
		"nothing":        {pretend(t, usual, ""), accord.Range{Low: 20480}, nil, "has no ports"},
		"another device": {pretend(t, usual, ""), accord.Range{Low: 20480, Count: 1024}, []attached{{"wg1", accord.Range{Low: 21503, Count: 1}}}, "wg1 is spread over 21503-21503"},
	} {
		err := test.host.checkRange(test.r, 51820, test.others)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: error %v, want %q", name, err, test.want)
		}
	}
}

func TestChooseRange(t *testing.T) {
	for name, test := range map[string]struct {
		host host
		want accord.Range
	}{
		"the usual":        {pretend(t, usual, ""), accord.Range{Low: 20480, Count: 8192}},
		"a socket":         {pretend(t, usual, "", "  13: 0100007F:5001 00000000:0000 07"), accord.Range{Low: 21504, Count: 8192}},
		"everything local": {pretend(t, "1024 65535", "50000-60000"), accord.Range{Low: 52224, Count: 4096}},
		"below":            {pretend(t, "20480 65535", ""), accord.Range{Low: 1024, Count: 8192}},
	} {
		if got, err := test.host.chooseRange(8192, 51820, nil); err != nil || got != test.want {
			t.Errorf("%s: %v, error %v, want %v", name, got, err, test.want)
		}
	}
	if r, err := pretend(t, "1 65535", "").chooseRange(8192, 51820, nil); err == nil || !strings.Contains(err.Error(), "no 8192 free ports") {
		t.Errorf("without room: %v, error %v", r, err)
	}
}

func TestSocketElsewhere(t *testing.T) {
	h := pretend(t, usual, "", wireguardSocket)
	if err := h.checkSocket("wg0", 51820); err != nil {
		t.Error(err)
	}
	if err := h.checkSocket("wg0", 51821); err == nil || !strings.Contains(err.Error(), "not in this network namespace") {
		t.Errorf("error %v", err)
	}
}

// TestOwnedPorts asks the machine.
func TestOwnedPorts(t *testing.T) {
	for _, network := range []string{"udp4", "udp6"} {
		c, err := net.ListenPacket(network, ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		port := uint16(c.LocalAddr().(*net.UDPAddr).Port)
		if err := thisHost.checkSocket("wg0", port); err != nil {
			t.Error(err)
		}
		if err := thisHost.checkRange(accord.Range{Low: port, Count: 1}, 1, nil); err == nil {
			t.Errorf("%s: port %d is taken for free", network, port)
		}
	}
}

func TestRefusesWhatIsNotWireGuard(t *testing.T) {
	client, err := wgctrl.New()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, name := range []string{"lo", "nosuch0"} {
		if _, err := checkDevice(client, name); err == nil || !strings.Contains(err.Error(), "there is no WireGuard interface "+name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestUptime(t *testing.T) {
	h := host{proc: t.TempDir()}
	for text, want := range map[string]time.Duration{"8.25 3.00\n": 8250 * time.Millisecond, "350735.47 234388.90\n": 350735470 * time.Millisecond, "": 0, "x": 0} {
		if err := os.WriteFile(filepath.Join(h.proc, "uptime"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := h.uptime(); got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %v, error %v, want %v", text, got, err, want)
		}
	}
}
