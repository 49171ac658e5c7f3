package top

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// unknown is what is shown where there is nothing to say yet.
const unknown = "-"

// short gives a count, or a rate, in at most five characters: 0, 7, 940, 1.2k,
// 12.3M.
func short(x float64) string {
	switch {
	case x <= 0:
		return "0"
	case x < 10 && x != math.Trunc(x):
		return fmt.Sprintf("%.1f", x)
	case x < 999.5:
		return fmt.Sprintf("%.0f", x)
	}
	units := "kMGTPE"
	for x /= 1000; x >= 999.5 && len(units) > 1; x /= 1000 {
		units = units[1:]
	}
	if x < 99.95 {
		return fmt.Sprintf("%.1f%c", x, units[0])
	}
	return fmt.Sprintf("%.0f%c", x, units[0])
}

// ms gives milliseconds in at most five characters.
func ms(x float64) string {
	switch {
	case x < 9.995:
		return fmt.Sprintf("%.2f", max(x, 0))
	case x < 99.95:
		return fmt.Sprintf("%.1f", x)
	case x < 99999.5:
		return fmt.Sprintf("%.0f", x)
	}
	return short(x)
}

// age gives a time in at most four characters: 12s, 4m, 3h, 20d.
func age(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 100*time.Second:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 100*time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 100*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", min(d/(24*time.Hour), 999))
}

// clean makes text that no terminal takes for anything else. What is printed comes
// from another process.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

// fit makes text exactly so wide.
func fit(s string, width int, right bool) string {
	switch n := width - len(s); {
	case width <= 0:
		return ""
	case n < 0 && width > 1:
		return s[:width-1] + "~"
	case n < 0:
		return s[:width]
	case right:
		return strings.Repeat(" ", n) + s
	default:
		return s + strings.Repeat(" ", n)
	}
}
