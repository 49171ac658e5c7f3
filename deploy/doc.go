// Package deploy holds what a site is set up from: configurations, units, firewall
// rules, packages, and documents. It has no code; its tests load every file in the
// program that reads it; grafana/kiloport.json is checked by those of tunnel/metrics
// against the metrics that there are.
//
// Start with README.md.
package deploy
