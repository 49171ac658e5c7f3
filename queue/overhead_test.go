package queue

import (
	"strings"
	"testing"
)

// The numbers of tc-cake(8), each keyword's "equivalent to", and what comes of
// several.
func TestParseOverhead(t *testing.T) {
	for words, want := range map[string]Overhead{
		"":                {},
		"raw":             {0, 0, NoCells},
		"conservative":    {48, 0, ATM},
		"pppoa-vcmux":     {10, 0, ATM},
		"pppoa-llc":       {14, 0, ATM},
		"pppoe-vcmux":     {32, 0, ATM},
		"pppoe-llcsnap":   {40, 0, ATM},
		"bridged-vcmux":   {24, 0, ATM},
		"bridged-llcsnap": {32, 0, ATM},
		"ipoa-vcmux":      {8, 0, ATM},
		"ipoa-llcsnap":    {16, 0, ATM},
		"pppoe-ptm":       {30, 0, PTM},
		"bridged-ptm":     {22, 0, PTM},
		"docsis":          {18, 64, NoCells},
		"ethernet":        {38, 84, NoCells},

		"overhead 44 mpu 88 ptm":                 {44, 88, PTM},
		"overhead -14":                           {-14, 0, NoCells},
		"mpu 96,overhead 18":                     {18, 96, NoCells},
		"ethernet ether-vlan ether-vlan":         {46, 84, NoCells},
		"pppoe-ptm ether-vlan":                   {34, 0, PTM},
		"via-ethernet pppoe-ptm via-ethernet":    {30, 0, PTM},
		"atm overhead 10":                        {10, 0, ATM},
		"pppoe-vcmux noatm":                      {32, 0, NoCells},
		"ethernet raw":                           {0, 84, NoCells},
		"ethernet overhead 20":                   {20, 84, NoCells},
		"overhead 20 conservative mpu 64":        {48, 64, ATM},
		"  docsis \t overhead 256 , mpu 256,atm": {256, 256, ATM},
	} {
		got, err := ParseOverhead(words)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", words, got, err, want)
		}
		if again, err := ParseOverhead(got.String()); err != nil || again != got {
			t.Errorf("%q is written %q, and that read as %+v, %v", words, got, again, err)
		}
	}
}

func TestParseOverheadSaysWhatIsWrong(t *testing.T) {
	for words, want := range map[string]string{
		"dsl":               `unknown overhead "dsl", use raw, conservative, ethernet`,
		"overhead":          "overhead needs a number",
		"mpu ethernet":      "mpu ethernet: invalid syntax",
		"overhead 257":      "257 bytes, use -64 to 256",
		"overhead -65":      "-65 bytes, use -64 to 256",
		"mpu -1":            "-1 bytes, use 0 to 256",
		"mpu 257":           "257 bytes, use 0 to 256",
		"overhead 1e2":      "invalid syntax",
		"mpu 9999999999999": "use 0 to 256",
		"Ethernet":          `unknown overhead "Ethernet"`,
	} {
		if o, err := ParseOverhead(words); err == nil || !strings.Contains(err.Error(), want) || o != (Overhead{}) {
			t.Errorf("%q: %+v, %v; want an error with %q", words, o, err, want)
		}
	}
	if err := (Overhead{Cells: 3}).Validate(); err == nil {
		t.Error("three kinds of cells are valid")
	}
}

// What packets take on the links: an acknowledgement, the examples of
// tc-stab(8), full packets.
func TestOverheadCost(t *testing.T) {
	for _, test := range []struct {
		words   string
		n, want int
	}{
		{"raw", 40, 40}, {"raw", 1500, 1500},
		{"ethernet", 40, 84}, {"ethernet", 46, 84}, {"ethernet", 47, 85}, {"ethernet", 1500, 1538},
		{"docsis", 40, 64}, {"docsis", 1500, 1518},
		{"atm", 100, 159}, {"atm", 48, 53}, {"atm", 49, 106}, {"atm", 96, 106},
		{"pppoa-vcmux", 40, 2 * 53}, {"pppoa-vcmux", 1478, 31 * 53}, {"pppoa-vcmux", 1479, 32 * 53},
		{"pppoe-llcsnap", 40, 2 * 53}, {"pppoe-llcsnap", 1492, 32 * 53}, {"pppoe-llcsnap", 1500, 33 * 53},
		{"conservative", 1500, 33 * 53},
		{"ptm", 64, 65}, {"ptm", 65, 67}, {"ptm", 128, 130},
		{"pppoe-ptm", 1492, 1522 + 24}, {"bridged-ptm", 40, 62 + 1},
		{"overhead -14", 1514, 1500}, {"overhead -64", 40, 1}, {"raw", 0, 1}, {"raw", -5, 1},
		{"overhead -64 mpu 64 atm", 40, 106},
	} {
		o, err := ParseOverhead(test.words)
		if err != nil {
			t.Fatal(err)
		}
		if got := o.Cost(test.n); got != test.want {
			t.Errorf("%s: a packet of %d bytes costs %d, want %d", test.words, test.n, got, test.want)
		}
	}
}

func FuzzParseOverhead(f *testing.F) {
	f.Add("pppoe-ptm ether-vlan mpu 68", 1500)
	f.Add("overhead -64 mpu 0 noatm", 0)
	f.Add("docsis,overhead", -9)
	f.Fuzz(func(t *testing.T, words string, n int) {
		o, err := ParseOverhead(words)
		if err != nil {
			if o != (Overhead{}) {
				t.Errorf("%q: %v, and yet %+v", words, err, o)
			}
			return
		}
		if err := o.Validate(); err != nil {
			t.Errorf("%q is read as %+v: %v", words, o, err)
		}
		if again, err := ParseOverhead(o.String()); err != nil || again != o {
			t.Errorf("%+v is written %q, and that read as %+v, %v", o, o, again, err)
		}
		n = max(min(n, 1<<16), 0)
		if cost := o.Cost(n); cost < 1 || cost < o.Cost(max(n-1, 0)) || cost > 2*(n+maxOverhead) {
			t.Errorf("%+v: %d bytes cost %d", o, n, cost)
		}
	})
}
