package queue

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// rateUnits are those of tc(8), longest first. Its "bps", bytes a second, is left
// out: everybody else means bits by that.
var rateUnits = []struct {
	name string
	bits float64
}{
	{"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}, {"tbit", 1e12}, {"bit", 1},
	{"k", 1e3}, {"m", 1e6}, {"g", 1e9}, {"t", 1e12},
}

// ParseRate reads a rate as tc(8) does, in bit/s: "20mbit", "1.5gbit", "500k",
// "8000000", in capitals or not, with "/s" after it or not. It is from [MinRate] to
// [MaxRate].
func ParseRate(text string) (int64, error) {
	number := strings.TrimSuffix(strings.ToLower(strings.TrimSpace(text)), "/s")
	if strings.HasSuffix(number, "bps") {
		return 0, fmt.Errorf("queue: rate %q: bps is bytes for some and bits for others, use bit, kbit, mbit or gbit", text)
	}
	bits := 1.0
	for _, unit := range rateUnits {
		if n, ok := strings.CutSuffix(number, unit.name); ok {
			number, bits = strings.TrimSpace(n), unit.bits
			break
		}
	}
	return scaleRate(text, number, bits)
}

func scaleRate(text, number string, bits float64) (int64, error) {
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || strings.ContainsAny(number, "xXpP_naif") {
		return 0, fmt.Errorf("queue: rate %q is not a number with bit, kbit, mbit or gbit", text)
	}
	n = math.Round(n * bits)
	if n < float64(MinRate) || n > float64(MaxRate) {
		return 0, fmt.Errorf("queue: rate %q is not within %s to %s", text, FormatRate(MinRate), FormatRate(MaxRate))
	}
	return int64(n), nil
}

// ParseRates reads a range of rates, "5mbit-50mbit", of which the first is not the
// larger one; its unit may be left to the second: "5-50mbit".
func ParseRates(text string) (least, most int64, err error) {
	low, high, ok := strings.Cut(text, "-")
	if !ok {
		return 0, 0, fmt.Errorf("queue: rates %q are not two with a - between them, such as 5mbit-50mbit", text)
	}
	if most, err = ParseRate(high); err != nil {
		return 0, 0, err
	}
	if strings.Trim(low, "0123456789. ") == "" {
		low += strings.TrimLeft(strings.TrimSpace(high), "0123456789. ")
	}
	if least, err = ParseRate(low); err != nil {
		return 0, 0, err
	}
	if least > most {
		return 0, 0, fmt.Errorf("queue: rates %q: the first one is more than the second", text)
	}
	return least, most, nil
}

// FormatRate writes a rate so that [ParseRate] reads the same: "20mbit".
func FormatRate(rate int64) string {
	for _, unit := range []string{"tbit", "gbit", "mbit", "kbit"} {
		size := map[string]int64{"tbit": 1e12, "gbit": 1e9, "mbit": 1e6, "kbit": 1e3}[unit]
		if rate >= size {
			return strconv.FormatFloat(float64(rate)/float64(size), 'f', -1, 64) + unit
		}
	}
	return strconv.FormatInt(rate, 10) + "bit"
}
