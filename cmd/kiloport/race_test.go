//go:build race

package main

import "math"

// mayBeLost is no limit here: with the race detector a process takes so long to start
// that the TUN device's ring is full before it reads.
const mayBeLost = math.MaxInt64
