package top

import (
	"time"

	tea "charm.land/bubbletea/v2"
)

// Update is part of [tea.Model].
func (m Model) Update(message tea.Msg) (tea.Model, tea.Cmd) {
	switch message := message.(type) {
	case answer:
		return m.answered(message)
	case again:
		if message.number == m.asked && !m.paused {
			return m.askNow()
		}
	case tea.WindowSizeMsg:
		m.width, m.height = message.Width, message.Height
		m.tables[m.view].scroll(m.room())
	case tea.KeyPressMsg:
		if m.typing {
			return m.typed(message), nil
		}
		return m.key(message.String())
	}
	return m, nil
}

// answered takes a status, and sets the time for the next.
func (m Model) answered(a answer) (tea.Model, tea.Cmd) {
	if a.number != m.asked {
		return m, nil
	}
	if m.failed = a.err; a.err == nil && !m.paused {
		var before sample
		if m.look != nil {
			before = m.look.now
		}
		m.look = compare(before, a.sample)
		m = m.refresh()
	}
	wait := max(m.config.Every, 9*a.took)
	return m, tea.Tick(wait, func(time.Time) tea.Msg { return again{a.number} })
}

// typed edits the filter. What is there of it filters at once.
func (m Model) typed(k tea.KeyPressMsg) Model {
	switch k.String() {
	case "enter":
		m.typing = false
	case "esc", "ctrl+c":
		m.typing, m.filter = false, ""
	case "backspace":
		if n := len(m.filter); n > 0 {
			m.filter = m.filter[:n-1]
		}
	case "ctrl+u":
		m.filter = ""
	default:
		if text := clean(k.Key().Text); len(m.filter)+len(text) <= maxFilter {
			m.filter += text
		}
	}
	return m.refresh()
}

const maxFilter = 64

// key does what a key is for.
func (m Model) key(k string) (tea.Model, tea.Cmd) {
	t := &m.tables[m.view]
	switch k {
	case "q", "ctrl+c":
		return m, tea.Quit
	case "?", "h":
		m.help = !m.help
		return m, nil
	case "esc":
		m.escape()
	case "space":
		if m.paused = !m.paused; !m.paused {
			return m.askNow()
		}
		return m, nil
	case "tab":
		m.view = (m.view + 1) % len(m.tables)
	case "shift+tab":
		m.view = (m.view + len(m.tables) - 1) % len(m.tables)
	case "1", "2", "3":
		m.view = int(k[0] - '1')
	case "s", "S":
		t.sortNext(k == "S", m.width)
	case "r":
		t.reverse = !t.reverse
	case "/":
		m.typing, m.help = true, false
	case "enter":
		if m.view == 0 && len(t.rows) > 0 {
			m.peer, m.view = t.rows[t.cursor].peer, 1
		}
	case "i":
		return m.nextInterface()
	default:
		t.move(k, m.room())
		t.scroll(m.room())
		return m, nil
	}
	return m.refresh(), nil
}

// escape leaves what was chosen last.
func (m *Model) escape() {
	switch {
	case m.help:
		m.help = false
	case m.filter != "":
		m.filter = ""
	default:
		m.peer = ""
	}
}

// nextInterface looks at another one, from the start.
func (m Model) nextInterface() (tea.Model, tea.Cmd) {
	if len(m.config.Names) == 1 {
		return m, nil
	}
	m.name = (m.name + 1) % len(m.config.Names)
	m.look, m.failed, m.peer, m.paused = nil, nil, "", false
	return m.refresh().askNow()
}

// sortNext sorts by the next column that is on the screen, or by the one before.
func (t *table) sortNext(back bool, width int) {
	step := 1
	if back {
		step = len(t.columns) - 1
	}
	for range t.columns {
		if t.by = (t.by + step) % len(t.columns); t.columns[t.by].from <= width {
			break
		}
	}
	t.reverse = false
}

// move moves the cursor.
func (t *table) move(k string, room int) {
	switch k {
	case "up", "k":
		t.moveTo(t.cursor - 1)
	case "down", "j":
		t.moveTo(t.cursor + 1)
	case "pgup", "ctrl+b":
		t.moveTo(t.cursor - room)
	case "pgdown", "ctrl+f":
		t.moveTo(t.cursor + room)
	case "home", "g":
		t.moveTo(0)
	case "end", "G":
		t.moveTo(len(t.rows) - 1)
	}
}
