package tunnels

import "testing"

func TestEnds(t *testing.T) {
	for _, test := range []struct {
		name  string
		a, b  Daemon
		lanes bool
		fails bool
	}{
		{"none", nil, nil, false, false},
		{"kiloport", Kiloport{Binary: "k"}, Kiloport{Binary: "k"}, true, false},
		{"kiloport>wireguard-go", Kiloport{Binary: "k"}, WireguardGo{Binary: "w"}, false, false},
		{"wireguard-go>kiloport", WireguardGo{Binary: "w"}, Kiloport{Binary: "k"}, false, false},
		{"kiloport>none", nil, nil, false, true},
		{"kiloport>", nil, nil, true, true},
		{"ipsec", nil, nil, false, true},
	} {
		a, b, err := Ends(test.name, Binaries{Kiloport: "k", WireguardGo: "w"}, nil)
		if (err != nil) != test.fails {
			t.Errorf("%s: error %v", test.name, err)
			continue
		}
		if test.fails {
			continue
		}
		if !same(a, test.a) || !same(b, test.b) || Lanes(test.name) != test.lanes {
			t.Errorf("%s: ends %#v and %#v, lanes %v", test.name, a, b, Lanes(test.name))
		}
	}
}

func same(a, b Daemon) bool {
	ka, oka := a.(Kiloport)
	kb, okb := b.(Kiloport)
	if oka || okb {
		return oka && okb && ka.Binary == kb.Binary
	}
	return a == b
}
