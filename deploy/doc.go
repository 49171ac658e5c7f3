// Package deploy holds what a site is set up from: configuration files to copy
// and fill in. It has no code; its tests load every file in the program that
// reads it; grafana/kiloport.json is checked by those of tunnel/metrics against
// the metrics that there are.
//
// Start with two-sites, a pair of files for the two ends of a tunnel. attach is for
// WireGuard in the kernel: a systemd unit, the lines for wg-quick, and an init script
// for OpenWrt.
package deploy
