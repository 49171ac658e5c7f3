// Package deploy holds what a site is set up from: configurations, units, firewall
// rules, packages, and documents. It has no code; its tests load every file in the
// program that reads it; grafana/kiloport.json is checked by those of tunnel/metrics
// against the metrics that there are.
//
// Start with README.md. attach is for WireGuard in the kernel: a systemd unit, the lines
// for wg-quick, and an init script for OpenWrt.
package deploy
