// Package ecn carries the ECN field and the DSCP between the inner and outer IP
// headers of a tunnel.
//
// On the way in (the ingress, RFC 6040, section 4.1), read the inner header
// with [Of], and build the outer traffic class from [Encapsulate],
// [DSCPPolicy.Outer] and [TrafficClass]. On the way out (the egress, section
// 4.2), give the inner and the outer codepoint to [Decapsulate], drop the packet
// if it says so, else give it what [Model.Inner] says with [SetClass]. A queue
// that signals congestion itself uses [MarkCE].
//
// The tables are those of RFC 6040, which RFC 9601 extends to tunnels with a
// shim between the two IP headers, as WireGuard's is. An ingress that does not
// know whether the egress follows them clears the outer field (RFC 6040, section
// 4.3): that is [Compatibility], the zero [Mode]. ECT(1) is copied like ECT(0),
// as RFC 8311 and RFC 9331 need. The DSCP follows the pipe model of RFC 2983,
// chosen at the ingress and not copied back at the egress, unless one asks for
// the uniform one.
//
// Limits: the functions on packets touch the first IP header only and check no
// more of it than they need.
package ecn
