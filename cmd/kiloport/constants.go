package main

import "kiloport/tunnel/noise"

// constants are WireGuard's timers; tests make them short. nil is the
// protocol's own.
var constants *noise.Constants
