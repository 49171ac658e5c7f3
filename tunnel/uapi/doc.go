// Package uapi is the configuration protocol of userspace WireGuard: what the
// stock `wg` tool speaks over the socket /var/run/wireguard/NAME.sock
// (https://www.wireguard.com/xplatform/). It knows nothing of tunnels: a
// [Backend] holds the configuration.
//
// A daemon starts at [Listen] and [Serve], a tool at [Dial]. A request is read
// and checked wholly before the Backend sees it: neither a wrong line nor a
// client that dies in the middle changes anything. (wireguard-go applies line by
// line.)
//
// One request is our own: get=kiloport answers with one line, kiloport={...},
// the JSON of what the Backend shows. `wg` never sends it.
//
// An answer ends with errno=N and an empty line; N is 0 or a negated errno, as
// `wg set` and wireguard-go have it.
//
// Limits: a request has at most 64 MiB, a line at most 4 KiB, a server at most
// 32 connections at one time, and a client that says nothing for 30 s is cut
// off. Linux only.
package uapi
