// Package top is the screen of `kiloport top`: peers, lanes and flows of an
// interface as they are now, with rates from one look to the next.
//
// Start at [Run]. In between, a [Model] is changed by messages alone (update.go),
// makes rows of two statuses (rows.go) and text of rows (view.go, table.go), and
// does nothing else: a test needs no terminal. Statuses are asked for through a
// function, the answers of `kiloport show --json`, so that the daemon has nothing
// to do with it.
//
// The terminal is Bubble Tea's: the best kept of the libraries for it, and the one
// whose programs are values and functions. Everything is plain ASCII and fits 80
// columns and 24 lines; what is shown in colour or reverse is told by letters too.
package top
