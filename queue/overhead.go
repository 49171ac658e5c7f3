package queue

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Cells is how a link cuts what it carries.
type Cells uint8

const (
	// NoCells: a packet takes as many bytes as it has.
	NoCells Cells = iota
	// ATM: cells of 53 bytes that carry 48, the last one padded (ADSL).
	ATM
	// PTM: a byte for every 64 or part of them, as with the 64b/65b code of
	// VDSL2 (IEEE 802.3 section 61.3); cake counts it so, too.
	PTM
)

// String is the word for it, as tc-cake(8) has it.
func (c Cells) String() string {
	switch c {
	case ATM:
		return "atm"
	case PTM:
		return "ptm"
	}
	return "noatm"
}

// The bounds of an overhead, tc-cake(8).
const (
	minOverhead = -64
	maxOverhead = 256
)

// Overhead is what a link adds to IP packets. The zero value adds nothing.
type Overhead struct {
	// Bytes that every packet has in addition, -64 to 256. They count from the
	// outer IP header; on an Ethernet it has 14 before it that are not its own.
	Bytes int
	// MPU is what the link counts at least for a packet with Bytes, 0 to 256.
	MPU int
	// Cells come last.
	Cells Cells
}

// Cost gives how many bytes of the link's rate an IP packet of n bytes takes, at
// least 1. For a super-packet add what its segments cost.
func (o Overhead) Cost(n int) int {
	n = max(n+o.Bytes, o.MPU, 1)
	switch o.Cells {
	case ATM:
		return (n + 47) / 48 * 53
	case PTM:
		return n + (n+63)/64
	}
	return n
}

// String gives words that [ParseOverhead] reads.
func (o Overhead) String() string {
	return fmt.Sprintf("%v overhead %d mpu %d", o.Cells, o.Bytes, o.MPU)
}

// Validate names the first field that is out of range.
func (o Overhead) Validate() error {
	if o.Bytes < minOverhead || o.Bytes > maxOverhead {
		return fmt.Errorf("queue: the overhead is %d bytes, use %d to %d", o.Bytes, minOverhead, maxOverhead)
	}
	if o.MPU < 0 || o.MPU > maxOverhead {
		return fmt.Errorf("queue: the mpu is %d bytes, use 0 to %d", o.MPU, maxOverhead)
	}
	if o.Cells > PTM {
		return fmt.Errorf("queue: unknown cells %d, use atm, ptm or noatm", uint8(o.Cells))
	}
	return nil
}

// overheadWord is what one word of tc-cake(8) does. MPU is left alone if 0.
type overheadWord struct {
	word string
	Overhead
	absolute   bool // Bytes replaces what was, and is not added to it
	keepsCells bool
}

// overheadWords are the link technologies of tc-cake(8). It sums those given one
// after the other, as "pppoe-ptm ether-vlan".
var overheadWords = []overheadWord{
	{word: "raw", absolute: true},
	{word: "conservative", Overhead: Overhead{Bytes: 48, Cells: ATM}, absolute: true},
	{word: "ethernet", Overhead: Overhead{Bytes: 38, MPU: 84}},
	{word: "ether-vlan", Overhead: Overhead{Bytes: 4}, keepsCells: true},
	{word: "docsis", Overhead: Overhead{Bytes: 18, MPU: 64}},
	{word: "pppoe-ptm", Overhead: Overhead{Bytes: 30, Cells: PTM}},
	{word: "bridged-ptm", Overhead: Overhead{Bytes: 22, Cells: PTM}},
	{word: "pppoa-vcmux", Overhead: Overhead{Bytes: 10, Cells: ATM}},
	{word: "pppoa-llc", Overhead: Overhead{Bytes: 14, Cells: ATM}},
	{word: "pppoe-vcmux", Overhead: Overhead{Bytes: 32, Cells: ATM}},
	{word: "pppoe-llcsnap", Overhead: Overhead{Bytes: 40, Cells: ATM}},
	{word: "bridged-vcmux", Overhead: Overhead{Bytes: 24, Cells: ATM}},
	{word: "bridged-llcsnap", Overhead: Overhead{Bytes: 32, Cells: ATM}},
	{word: "ipoa-vcmux", Overhead: Overhead{Bytes: 8, Cells: ATM}},
	{word: "ipoa-llcsnap", Overhead: Overhead{Bytes: 16, Cells: ATM}},
	{word: "atm", Overhead: Overhead{Cells: ATM}},
	{word: "ptm", Overhead: Overhead{Cells: PTM}},
	{word: "noatm"},
	// What this was for, taking off the Ethernet header that Linux counts, is
	// not needed: packets count from their IP header here, as in today's cake.
	{word: "via-ethernet", keepsCells: true},
}

// ParseOverhead reads what follows the rate in the words of tc-cake(8), with
// spaces or commas between them: the names of link technologies, atm, ptm, noatm,
// "overhead N" and "mpu N". They count in the order given. No word at all is raw.
func ParseOverhead(text string) (o Overhead, err error) {
	words := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' })
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		switch word {
		case "overhead":
			o.Bytes, words, err = overheadNumber(word, words)
		case "mpu":
			o.MPU, words, err = overheadNumber(word, words)
		default:
			err = o.apply(word)
		}
		if err == nil {
			err = o.Validate()
		}
		if err != nil {
			return Overhead{}, err
		}
	}
	return o, nil
}

// overheadNumber reads the number after a word, and gives the words after that.
func overheadNumber(word string, words []string) (int, []string, error) {
	if len(words) == 0 {
		return 0, nil, fmt.Errorf("queue: %s needs a number of bytes after it", word)
	}
	n, err := strconv.Atoi(words[0])
	if err != nil {
		return 0, nil, fmt.Errorf("queue: %s %s: %w; use a number of bytes", word, words[0], errors.Unwrap(err))
	}
	return n, words[1:], nil
}

func (o *Overhead) apply(word string) error {
	i := slices.IndexFunc(overheadWords, func(w overheadWord) bool { return w.word == word })
	if i < 0 {
		return fmt.Errorf("queue: unknown overhead %q, use %s, overhead N, mpu N", word, OverheadWords())
	}
	w := &overheadWords[i]
	if w.absolute {
		*o = Overhead{MPU: o.MPU}
	}
	o.Bytes += w.Bytes
	if w.MPU > 0 {
		o.MPU = w.MPU
	}
	if !w.keepsCells {
		o.Cells = w.Cells
	}
	return nil
}

// OverheadWords lists the words that [ParseOverhead] knows and that stand for
// themselves, for a help text or a completion.
func OverheadWords() string {
	var words []string
	for i := range overheadWords {
		words = append(words, overheadWords[i].word)
	}
	return strings.Join(words, ", ")
}
