package top

import (
	"cmp"
	"slices"
	"strings"
)

// column is one of a table. Its width is in characters; the first column takes what
// the others leave.
type column struct {
	title  string
	width  int
	number bool // flush right, the greatest first
	from   int  // width of the screen from which it is shown
	help   string
}

// cell is what a row has in a column.
type cell struct {
	text   string
	number float64 // to sort by, where the column is one of numbers
	alarm  bool    // somebody should look at it
}

// row is one peer, lane or flow.
type row struct {
	key   string // the same from one look to the next
	peer  string // whose it is
	cells []cell // one for each column of its table
}

// matches tells whether a filter's words are all in the row.
func (r *row) matches(words []string) bool {
	text := strings.ToLower(r.peer)
	for _, c := range r.cells {
		text += "\n" + strings.ToLower(c.text)
	}
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

// sortRows sorts by a column, and what is equal there by key, so that nothing
// jumps about.
func sortRows(rows []row, columns []column, by int, reverse bool) {
	slices.SortFunc(rows, func(a, b row) int {
		order := strings.Compare(a.cells[by].text, b.cells[by].text)
		if columns[by].number {
			order = cmp.Compare(b.cells[by].number, a.cells[by].number)
		}
		if reverse {
			order = -order
		}
		return cmp.Or(order, strings.Compare(a.key, b.key))
	})
}
