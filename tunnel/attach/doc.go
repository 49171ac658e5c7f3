// Package attach gives kernel WireGuard lanes.
package attach

// What precedes a message.
const (
	ethernetHeader = 14
	udpHeader      = 8
)
