//go:build race

package labkernel

// raceDetector tells whether this program is built with it.
const raceDetector = true
