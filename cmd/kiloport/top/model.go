package top

import (
	"fmt"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"kiloport/tunnel"
)

// Config is what a [Model] works with.
type Config struct {
	// Names are the interfaces that may be looked at, at least one.
	Names []string
	// Ask gives the status of one of them, and may take its time.
	Ask func(name string) (*tunnel.Status, error)
	// Clock gives the time at which an answer came.
	Clock func() time.Time
	// Every is the time between two looks. A daemon that takes long to answer
	// is asked less often, so that it spends a tenth of its time on it at most.
	Every time.Duration
	// View is what to begin with: one of Views.
	View string
}

// Views are the names of the views.
var Views = []string{"peers", "lanes", "flows"}

// Validate names the first of View and Every that is wrong.
func (c *Config) Validate() error {
	if !slices.Contains(Views, c.View) {
		return fmt.Errorf("view %q: use one of %s", c.View, strings.Join(Views, ", "))
	}
	if c.Every < minEvery || c.Every > maxEvery {
		return fmt.Errorf("interval %v: use %v to %v", c.Every, minEvery, maxEvery)
	}
	return nil
}

const (
	minEvery = 100 * time.Millisecond
	maxEvery = time.Hour
)

// Model is the state of the screen. Update gives the next one; View shows it.
type Model struct {
	config Config
	name   int // of config.Names

	look   *look // nil: no answer yet
	failed error // of the last look
	asked  int   // number of the last request; answers to others are late
	paused bool

	tables [3]table
	view   int    // of tables
	peer   string // only what is this peer's; empty is all
	filter string
	typing bool // the filter
	help   bool

	width, height int
}

// table is what a person has chosen for one view, and what it shows.
type table struct {
	columns []column
	by      int // column to sort by
	reverse bool
	rows    []row
	all     int    // rows before the filter
	cursor  int    // of rows
	at      string // key of that row
	top     int    // first row on the screen
}

// NewModel gives a model that has not looked yet. The configuration must be valid.
func NewModel(c Config) Model {
	m := Model{config: c, width: 80, height: 24, asked: 1}
	m.tables = [3]table{{columns: peerColumns, by: 3}, {columns: laneColumns, by: 2}, {columns: flowColumns, by: 3}}
	m.view = slices.Index(Views, c.View)
	return m
}

// refresh makes the rows of the view anew.
func (m Model) refresh() Model {
	t := &m.tables[m.view]
	t.rows = nil
	if m.look != nil {
		t.rows = [...]func() []row{m.look.peerRows, m.look.laneRows, m.look.flowRows}[m.view]()
	}
	if m.peer != "" && m.view > 0 {
		t.rows = slices.DeleteFunc(t.rows, func(r row) bool { return r.peer != m.peer })
	}
	t.all = len(t.rows)
	if words := strings.Fields(strings.ToLower(m.filter)); len(words) > 0 {
		t.rows = slices.DeleteFunc(t.rows, func(r row) bool { return !r.matches(words) })
	}
	sortRows(t.rows, t.columns, t.by, t.reverse)
	t.follow()
	t.scroll(m.room())
	return m
}

// follow keeps the cursor on the row that it was on, or as far down as it was if
// that has gone. At the top it stays at the top: there is what one looks for.
func (t *table) follow() {
	if at := slices.IndexFunc(t.rows, func(r row) bool { return r.key == t.at }); at >= 0 && t.cursor > 0 {
		t.cursor = at
	}
	t.moveTo(t.cursor)
}

func (t *table) moveTo(cursor int) {
	t.cursor = max(min(cursor, len(t.rows)-1), 0)
	t.at = ""
	if len(t.rows) > 0 {
		t.at = t.rows[t.cursor].key
	}
}

// scroll brings the cursor on the screen, which has room for so many rows.
func (t *table) scroll(room int) {
	t.top = max(min(t.top, len(t.rows)-room), 0)
	if t.cursor < t.top {
		t.top = t.cursor
	}
	if t.cursor >= t.top+room {
		t.top = t.cursor - room + 1
	}
}

// room is how many rows the screen has for a table.
func (m Model) room() int { return max(m.height-headLines-1, 1) }

// Init is part of [tea.Model].
func (m Model) Init() tea.Cmd { return m.ask() }

// answer is a status that came, or did not.
type answer struct {
	number int
	sample sample
	took   time.Duration
	err    error
}

// again says that it is time for another look.
type again struct{ number int }

// ask asks for a status. The answer is a message.
func (m Model) ask() tea.Cmd {
	c, name, number := m.config, m.config.Names[m.name], m.asked
	return func() tea.Msg {
		start := c.Clock()
		s, err := c.Ask(name)
		now := c.Clock()
		return answer{number: number, sample: sample{s, now}, took: now.Sub(start), err: err}
	}
}

// askNow forgets the request that is under way.
func (m Model) askNow() (Model, tea.Cmd) {
	m.asked++
	return m, m.ask()
}
