//go:build !race

package main

// mayBeLost is how many datagrams must not be, at restarts.
const mayBeLost = 50
