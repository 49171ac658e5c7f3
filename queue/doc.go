// Package queue decides which packet goes next and when, and which does not go at
// all: FQ-CoDel (RFC 8290), flow queueing with CoDel (RFC 8289) on every flow, and
// a shaper whose rate is given or found.
//
// Start at [New] and [FQ]; codel.go is the control law alone. [Shaper] paces what
// comes out of an FQ to the rate of a link, counting by [Overhead] what the link
// adds; [Autorate] finds the rate of a path that has no constant one. On the other
// side, [Admission] keeps the wait in a socket short and fair.
//
// Time is an argument, nanoseconds of a monotonic clock, so that a test can let an
// hour pass in a microsecond. Everything has one owner and takes no locks.
//
// Limits: a flow chooses among eight queues; where all of them are taken, it
// shares one (RFC 8290 has one queue to choose from, and shares sooner). A
// super-packet is marked, dropped and sent as a whole: where it would hold up
// others, cut it before.
package queue
