// Package queue decides which packet goes next and which does not go at all:
// FQ-CoDel (RFC 8290), flow queueing with CoDel (RFC 8289) on every flow.
//
// Start at [New] and [FQ]; codel.go is the control law alone. Time is an
// argument, nanoseconds of a monotonic clock, so that a test can let an hour
// pass in a microsecond. An FQ has one owner and takes no locks.
//
// Limits: flows that hash into one bucket share a queue, as in RFC 8290; there
// is no set-associative hashing. Nothing here paces: a packet is given whenever
// one is asked for.
package queue
