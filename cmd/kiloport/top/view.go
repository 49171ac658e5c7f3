package top

import (
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"

	"kiloport/tunnel"
)

// headLines are above the rows of a table: interface, sums, views, titles.
const headLines = 4

// View is part of [tea.Model].
func (m Model) View() tea.View {
	v := tea.NewView(strings.Join(m.lines(style{on: true}), "\n"))
	v.AltScreen = true
	return v
}

// style marks text for a terminal. What the terminal cannot do is left out by who
// prints it, and nothing is told by style alone.
type style struct{ on bool }

func (s style) mark(code, text string) string {
	if !s.on {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s style) bold(text string) string    { return s.mark("1", text) }
func (s style) reverse(text string) string { return s.mark("7", text) }
func (s style) red(text string) string     { return s.mark("31", text) }

// lines are what the screen shows, each exactly as wide and no more than it is
// high.
func (m Model) lines(s style) []string {
	lines := []string{
		s.bold(m.fill(m.headline())),
		m.fill(m.sums()),
		m.choices(s),
	}
	body := m.help || m.look == nil
	if body {
		lines = append(lines, m.bodyLines()...)
	} else {
		lines = append(lines, m.tableLines(s)...)
	}
	for len(lines) < m.height-1 {
		lines = append(lines, m.fill(""))
	}
	lines = append(lines[:min(len(lines), max(m.height-1, 0))], m.lastLine(s))
	return lines
}

func (m Model) fill(text string) string { return fit(text, m.width, false) }

// headline tells which interface it is, and how it is.
func (m Model) headline() string {
	text := "kiloport " + clean(m.config.Names[m.name])
	if m.look == nil {
		return text
	}
	st := m.look.now.status
	link := "link down"
	if st.Up {
		link = fmt.Sprintf("port %d", st.ListenPort)
	}
	paused := ""
	if m.paused {
		paused = "  PAUSED"
	}
	text += fmt.Sprintf("  %s  %d peers%s%s  %d of %d ports open", link, len(st.Peers), paused, rate(st), st.Pool.Open, st.Pool.Limit)
	return text
}

// rate is that at which packets leave, if there is one, and why if it is found.
func rate(st *tunnel.Status) string {
	if st.BandwidthBitS == 0 {
		return ""
	}
	text := "  rate " + short(float64(st.BandwidthBitS))
	if a := st.Autorate; a != nil {
		text += " " + clean(a.Reason)
	}
	return text
}

// roomForPackets is how wide the screen is on which the sums have packets too.
const roomForPackets = 100

// sums are of all peers.
func (m Model) sums() string {
	if m.look == nil {
		return ""
	}
	l := m.look
	n, b := &l.now.status.Totals, new(tunnel.TotalStatus)
	q, before := &l.now.status.Queue, new(tunnel.QueueStatus)
	if l.seconds > 0 {
		b, before = &l.before.status.Totals, &l.before.status.Queue
	}
	per := func(before, now uint64, times float64) string { return l.perSecond(true, before, now, times).text }
	way := func(before, now *tunnel.TrafficStatus) string {
		text := per(before.Bytes, now.Bytes, bits) + "bit/s"
		if m.width >= roomForPackets {
			text += " " + per(before.Packets, now.Packets, 1) + "pkt/s"
		}
		return text
	}
	return fmt.Sprintf("sent %s  recv %s  queue %s %sms  marks %s/s  drops %s/s",
		way(&b.Sent, &n.Sent), way(&b.Received, &n.Received),
		short(float64(q.Packets)), l.sojourn(before.Sojourn, q.Sojourn).text,
		per(before.Marked, q.Marked, 1), per(sum(b.Drops), sum(n.Drops), 1))
}

// choices are the views, and what was chosen for this one.
func (m Model) choices(s style) string {
	var plain, styled strings.Builder
	for i, name := range Views {
		text := fmt.Sprintf(" %d %s ", i+1, name)
		if i == m.view {
			text = fmt.Sprintf("[%d %s]", i+1, name)
			styled.WriteString(s.reverse(text))
		} else {
			styled.WriteString(text)
		}
		plain.WriteString(text)
	}
	t := &m.tables[m.view]
	rest := "  by " + t.columns[t.by].title
	if t.reverse {
		rest += " reversed"
	}
	if m.peer != "" && m.view > 0 {
		rest += "  of " + clean(m.peer[:min(len(m.peer), 8)])
	}
	rest += fmt.Sprintf("  %d", len(t.rows))
	if len(t.rows) != t.all {
		rest += fmt.Sprintf(" of %d", t.all)
	}
	if m.filter != "" && !m.typing {
		rest += fmt.Sprintf("  with %q", m.filter)
	}
	return cut(plain.String(), styled.String(), m.width) + fit(rest, m.width-plain.Len(), false)
}

// cut gives the styled text if there is room for all of it.
func cut(plain, styled string, width int) string {
	if len(plain) > width {
		return fit(plain, width, false)
	}
	return styled
}

// bodyLines are shown in place of a table.
func (m Model) bodyLines() (lines []string) {
	var text []string
	switch {
	case m.help:
		text = m.helpText()
	case m.failed == nil:
		text = []string{"", "waiting for the daemon's answer"}
	}
	for _, line := range text {
		lines = append(lines, m.fill(line))
	}
	return lines
}

// helpText tells of the keys, and of what the view shows.
func (m Model) helpText() []string {
	text := []string{
		"", "q quit    tab 1 2 3 other view    s S sort by next or last column    r reverse",
		"/ filter: all of its words are in a row    esc no filter, all peers",
		"up down pgup pgdn home end move    enter lanes of a peer    space pause    i interface", "",
	}
	for _, c := range m.tables[m.view].columns {
		if c.from <= m.width {
			text = append(text, fmt.Sprintf("%-9s %s", c.title, c.help))
		}
	}
	return text
}

// lastLine is what went wrong, the filter while it is typed, or the keys.
func (m Model) lastLine(s style) string {
	switch {
	case m.typing:
		return m.fill("filter: " + m.filter + "_")
	case m.failed != nil:
		return s.red(m.fill(clean(m.failed.Error())))
	}
	keys := "q quit  tab view  s sort  r reverse  / filter  enter lanes  space pause  ? help"
	if len(m.config.Names) > 1 {
		keys += "  i interface"
	}
	return m.fill(keys)
}
