package top

import "strings"

// layout is which columns are shown, and how wide.
type layout struct {
	mark    int // width of the place before them, for the cursor
	columns []int
	widths  []int
}

// layout gives the first column what the others leave. On a screen too narrow for
// all, the last ones go.
func (t *table) layout(width int) (l layout) {
	l.mark = min(width, 1)
	left := width - l.mark
	for i, c := range t.columns {
		if c.from > width {
			continue
		}
		if left < c.width && i > 0 {
			break
		}
		l.columns, l.widths = append(l.columns, i), append(l.widths, c.width)
		left -= c.width + 1
	}
	l.widths[0] = max(l.widths[0]+left+1, 0)
	return l
}

// tableLines are the titles, and the rows for which there is room.
func (m Model) tableLines(s style) []string {
	t := &m.tables[m.view]
	l := t.layout(m.width)
	titles := make([]string, len(l.columns))
	for i, c := range l.columns {
		titles[i] = fit(t.columns[c].title, l.widths[i], t.columns[c].number)
		if c == t.by {
			titles[i] = s.bold(titles[i])
		}
	}
	lines := []string{fit("", l.mark, false) + strings.Join(titles, " ")}
	for i := t.top; i < min(t.top+m.room(), len(t.rows)); i++ {
		lines = append(lines, t.line(l, i, s))
	}
	if len(t.rows) == 0 {
		lines = append(lines, m.fill(" nothing to show"))
	}
	return lines
}

// line is one row. That of the cursor begins with a mark.
func (t *table) line(l layout, at int, s style) string {
	chosen := at == t.cursor
	mark := " "
	if chosen {
		mark = ">"
	}
	cells := make([]string, len(l.columns))
	for i, c := range l.columns {
		cell := &t.rows[at].cells[c]
		cells[i] = fit(cell.text, l.widths[i], t.columns[c].number)
		if cell.alarm && !chosen {
			cells[i] = s.red(cells[i])
		}
	}
	text := fit(mark, l.mark, false) + strings.Join(cells, " ")
	if chosen {
		return s.reverse(text)
	}
	return text
}
