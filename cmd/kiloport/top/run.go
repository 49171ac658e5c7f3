package top

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/term"
)

// ErrNoTerminal says that there is nobody to look, or nothing to press keys on.
var ErrNoTerminal = errors.New("standard input and output must be a terminal")

// Run shows the screen until q is pressed or ctx ends; c must be valid. On a terminal that can only
// print (TERM=dumb, or none) it prints a listing each time instead.
func Run(ctx context.Context, c Config, in io.Reader, out io.Writer) error {
	if !isTerminal(in) || !isTerminal(out) {
		return ErrNoTerminal
	}
	if name := os.Getenv("TERM"); name == "dumb" || name == "" {
		return list(ctx, NewModel(c), out)
	}
	p := tea.NewProgram(NewModel(c), tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out), tea.WithoutSignalHandler())
	_, err := p.Run()
	if ctx.Err() != nil { // it was told to end
		return nil
	}
	return err
}

func isTerminal(of any) bool {
	f, ok := of.(*os.File)
	return ok && term.IsTerminal(f.Fd())
}

// list prints what the screen would show, all of it, until ctx ends.
func list(ctx context.Context, m Model, out io.Writer) error {
	for {
		a := m.ask()().(answer)
		next, _ := m.answered(a)
		m = next.(Model)
		if _, err := fmt.Fprintln(out, m.listing()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(m.config.Every, 9*a.took)):
		}
	}
}

// listing is the screen without what keys are for.
func (m Model) listing() string {
	if m.failed != nil {
		return clean(m.failed.Error()) + "\n"
	}
	t := &m.tables[m.view]
	t.cursor, t.top, m.height = -1, 0, len(t.rows)+headLines+2
	lines := append([]string{m.headline(), m.sums()}, m.tableLines(style{})...)
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n") + "\n"
}
