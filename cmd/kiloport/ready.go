package main

import (
	"log/slog"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"kiloport/tunnel/noise"
)

// constants are WireGuard's timers; tests make them short. nil is the
// protocol's own.
var constants *noise.Constants

// ready tells systemd, if it waits.
func ready(log *slog.Logger) {
	if _, err := sd.SdNotify(false, sd.SdNotifyReady); err != nil {
		log.Warn("systemd was not told that the interface is ready", "error", err)
	}
}
