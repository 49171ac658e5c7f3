package queue

import (
	"strings"
	"testing"
)

func TestParseRate(t *testing.T) {
	for text, want := range map[string]int64{
		"20mbit": 20e6, "20Mbit/s": 20e6, "20M": 20e6, " 20 mbit ": 20e6, "1.5gbit": 15e8, "500k": 5e5, "512kbit": 512e3,
		"8000000": 8e6, "8000bit": 8000, "1tbit": 1e12, "1T": 1e12, "0.008mbit": 8000, ".1g": 1e8, "2e7": 2e7,
	} {
		if got, err := ParseRate(text); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"": "not a number", "mbit": "not a number", "20mb": "not a number", "20 apples": "not a number", "nan": "not a number", "infk": "not a number",
		"0x10m": "not a number", "1_000k": "not a number", "20mbps": "bytes for some", "20kbps/s": "bytes for some",
		"-5mbit": "not within 8kbit to 1tbit", "7999": "not within", "1001gbit": "not within", "0": "not within", "1e300t": "not within",
	} {
		if got, err := ParseRate(text); err == nil || !strings.Contains(err.Error(), want) || got != 0 {
			t.Errorf("%q: %d, %v; want an error with %q", text, got, err, want)
		}
	}
}

func TestParseRates(t *testing.T) {
	for text, want := range map[string][2]int64{
		"5mbit-50mbit": {5e6, 50e6}, "5-50mbit": {5e6, 50e6}, "500k-1.5G": {5e5, 15e8}, "5 - 50 M": {5e6, 50e6}, "8000-9000": {8000, 9000}, "1g-1g": {1e9, 1e9},
	} {
		if least, most, err := ParseRates(text); err != nil || least != want[0] || most != want[1] {
			t.Errorf("%q: %d, %d, %v; want %d", text, least, most, err, want)
		}
	}
	for text, want := range map[string]string{
		"5mbit": "not two", "": "not two", "50mbit-5mbit": "more than the second", "5mbit-": "not a number", "-5mbit": "not a number", "a-5mbit": "not a number",
	} {
		if _, _, err := ParseRates(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want an error with %q", text, err, want)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	f.Add("20mbit")
	f.Add("1.5Gbit/s")
	f.Add("5-50m")
	f.Fuzz(func(t *testing.T, text string) {
		if rate, err := ParseRate(text); err == nil {
			if rate < MinRate || rate > MaxRate {
				t.Errorf("%q is %d", text, rate)
			}
			if again, err := ParseRate(FormatRate(rate)); err != nil || again != rate {
				t.Errorf("%d is written %q, and that read as %d, %v", rate, FormatRate(rate), again, err)
			}
		}
		if least, most, err := ParseRates(text); err == nil && (least < MinRate || least > most || most > MaxRate) {
			t.Errorf("%q is %d to %d", text, least, most)
		}
	})
}
