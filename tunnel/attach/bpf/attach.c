// The programs that give kernel WireGuard lanes. egress and ingress stand on the
// interfaces below a WireGuard device (egress_bare and ingress_bare where packets have
// no link header), hello and note on the device itself:
//
//	host → wg0 [note] → WireGuard → eth0 [egress]  → wire
//	wire → eth0 [ingress] → WireGuard → wg0 [hello] → host
//
// egress makes the source port and the flow label of what goes to a peer that puts
// ports back from the hash of the inner packet, which WireGuard computes before it
// encrypts and keeps in skb->hash. ingress puts the port back, so that WireGuard
// never sees another. hello takes the HELLO of the peer's kiloport out of what
// WireGuard has authenticated, and note leaves the inner DSCP where egress finds it.
//
// All end with TC_ACT_UNSPEC: other programs on the same interface have their turn.
//
// SPDX-License-Identifier: MIT
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// WireGuard: a message begins with its type, little endian with three bytes that
// are zero; data has a header of 16 bytes and a tag of 16.
#define MESSAGE_DATA bpf_htonl(0x04000000)
#define KEEPALIVE_LENGTH 32

#define HELLO_MIN 36 // the headers of IPv4 and UDP, and the magic
#define HELLO_MAX 512
#define HELLO_PORT 0xF1F1
#define HELLO_MAGIC_HIGH bpf_htonl(0x6b696c6f) // kilo
#define HELLO_MAGIC_LOW bpf_htonl(0x706f7274) // port

// What may be sent from other ports than WireGuard's own.
#define MODE_PLAIN 0
#define MODE_PROBE 1 // HELLO that asks
#define MODE_SPREAD 2 // every data message

#define DSCP_BITS 6
#define VLAN_VID_MASK 0x0fff

// An address of IPv4 is mapped into IPv6, as Go has it.
struct address {
	__u64 half[2];
};

// The WireGuard device.
struct settings {
	__be16 port; // on which it listens
	__u16 low; // first of the ports from which its data leaves
	__u16 count; // of these ports
	__u16 ask; // UDP length of the message that carries a HELLO which asks,
	__u16 answer; // and one that does not
	__u8 dscp_on; // note runs: the low bits of the hash are the inner DSCP
	__u8 dscp[64]; // the outer DSCP by the inner one
	__u8 zero[5];
	__u64 until; // spread no longer than this time of CLOCK_BOOTTIME, ns; 0: for ever
};

// Where data goes to.
struct endpoint {
	struct address address;
	__be16 port;
	__u8 zero[6];
};

// How data goes there.
struct spread {
	struct address from; // our address when the peer was probed
	__u32 slot; // in counters
	__u16 count; // of the ports to use
	__u8 mode;
	__u8 origin; // the peer reads the lowest bit of the port
};

// What comes from a peer.
struct restore {
	__u32 slot; // in counters
	__be16 port; // the peer's endpoint, 0: there is no peer
	__u16 low; // first of the ports from which it spreads
	__u16 count; // 0 if it does not
	__u8 origin; // it writes the lowest bit of the port
	__u8 zero;
};

// What comes from an address, at which several peers may be: of ports that are
// different. The first gets what is nobody's.
#define PEERS_AT_ADDRESS 4
struct restores {
	struct restore of[PEERS_AT_ADDRESS];
};

// Packets, and bytes of UDP payload, of one peer. What is by codepoint is indexed
// with the outer ECN field.
struct counts {
	__u64 sent[4];
	__u64 sent_bytes;
	__u64 spread; // of those sent, not from the canonical port
	__u64 received[4];
	__u64 received_bytes;
	__u64 restored; // of those received, to the canonical port
	__u64 strange; // from a port that is neither
	__u64 returned; // to a port of ours, turned to the one on which WireGuard listens
	__u64 ce_dropped; // CE around what was not ECN-capable
	__u64 data_sent; // of those sent, the host's
	__u64 data_received; // of those received, the host's
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} device SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct endpoint);
	__type(value, struct spread);
} endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct address);
	__type(value, struct restores);
} sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct counts);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} hellos SEC(".maps");

static __always_inline struct settings *the_settings(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&device, &zero);
}

static __always_inline void map_ipv4(struct address *a, __be32 v4)
{
	a->half[0] = 0;
	a->half[1] = (__u64)bpf_htonl(0x0000ffff) | (__u64)v4 << 32;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	a->half[1] = (__u64)0x0000ffff << 32 | v4;
#endif
}

// What kind of packet a program is for is known when it is compiled, so that nothing
// is asked for each packet: IPv4 or IPv6, and the length of what precedes that,
// ETH_HLEN on Ethernet and 0 where there is nothing.
struct kind {
	bool v4;
	__u32 link_header;
};

// Reads a word of the IP header or of what follows. The kernel aligns it to four
// bytes behind an Ethernet header; else it is aligned to two only, by which some
// processors do not read four.
static __always_inline __be32 word(const void *at, struct kind k)
{
	if (k.link_header == ETH_HLEN)
		return *(const __be32 *)at;
	const __u16 *half = at;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	return (__u32)half[0] << 16 | half[1];
#else
	return half[0] | (__u32)half[1] << 16;
#endif
}

static __always_inline void copy_ipv6(struct address *a, const struct in6_addr *v6, struct kind k)
{
	__be32 *to = (__be32 *)a;
#pragma unroll
	for (int i = 0; i < 4; i++)
		to[i] = word(&v6->s6_addr32[i], k);
}

// Makes size bytes of the packet readable. false if it has fewer.
static __always_inline bool linear(struct __sk_buff *skb, __u32 size)
{
	if ((void *)(long)skb->data + size <= (void *)(long)skb->data_end)
		return true;
	return skb->len >= size && bpf_skb_pull_data(skb, size) == 0;
}

// A UDP datagram that may be WireGuard's.
struct outer {
	void *ip;
	struct udphdr *udp;
	__u32 udp_at; // offset of udp
	__be32 message; // its first word
	__u8 ecn;
};

// Fragments and IP options are not WireGuard's, and are left alone: what an IP
// layer has to cut goes from the canonical port, all of it.
static __always_inline bool find(struct __sk_buff *skb, struct outer *o, struct kind k)
{
	__u32 udp_at = k.link_header + (k.v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	__u32 size = udp_at + sizeof(struct udphdr) + sizeof(o->message);
	if (!linear(skb, size))
		return false;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	if (data + size > end)
		return false;
	o->ip = data + k.link_header;
	o->udp = data + udp_at;
	o->udp_at = udp_at;
	o->message = word(o->udp + 1, k);
	if (k.v4) {
		struct iphdr *ip = o->ip;
		o->ecn = ip->tos & 3;
		return *(__u8 *)ip == 0x45 && ip->protocol == IPPROTO_UDP && !(ip->frag_off & bpf_htons(0x3fff));
	}
	struct ipv6hdr *ip = o->ip;
	o->ecn = ip->flow_lbl[0] >> 4 & 3;
	return *(__u8 *)ip >> 4 == 6 && ip->nexthdr == IPPROTO_UDP;
}

static __always_inline void addresses(struct outer *o, struct kind k, struct address *from, struct address *to)
{
	if (k.v4) {
		struct iphdr *ip = o->ip;
		map_ipv4(from, word(&ip->saddr, k));
		map_ipv4(to, word(&ip->daddr, k));
	} else {
		struct ipv6hdr *ip = o->ip;
		copy_ipv6(from, &ip->saddr, k);
		copy_ipv6(to, &ip->daddr, k);
	}
}

// Writes a port of the UDP header. The checksum covers it, but where it is yet to
// be computed it holds the sum of the pseudo header only, which knows no ports: the
// helper sees to that, and to datagrams that have none.
static __always_inline void set_port(struct __sk_buff *skb, struct outer *o, __be16 *at, __be16 port)
{
	__be16 old = *at;
	*at = port;
	bpf_l4_csum_replace(skb, o->udp_at + __builtin_offsetof(struct udphdr, check), old, port,
			    BPF_F_MARK_MANGLED_0 | sizeof(port));
}

// Writes the outer DSCP.
static __always_inline void set_dscp(struct outer *o, const bool v4, __u8 dscp)
{
	if (v4) {
		struct iphdr *ip = o->ip;
		__be16 *word = o->ip;
		// RFC 1624, equation 3
		__u32 sum = (__u16)~ip->check;
		sum += (__u16)~*word;
		ip->tos = dscp << 2 | o->ecn;
		sum += *word;
		sum = (sum & 0xffff) + (sum >> 16);
		sum = (sum & 0xffff) + (sum >> 16);
		ip->check = ~sum;
		return;
	}
	__u8 *ip = o->ip;
	ip[0] = 0x60 | dscp >> 2;
	ip[1] = (ip[1] & 0x3f) | dscp << 6;
}

// A flow label of our own, never 0: RFC 6437.
static __always_inline void set_label(struct outer *o, __u32 hash)
{
	struct ipv6hdr *ip = o->ip;
	__u32 label = hash * 0x9e3779b1 >> 12;
	if (label == 0)
		label = 1;
	ip->flow_lbl[0] = (ip->flow_lbl[0] & 0xf0) | label >> 16;
	ip->flow_lbl[1] = label >> 8;
	ip->flow_lbl[2] = label;
}

static __always_inline bool same(const struct address *a, const struct address *b)
{
	return a->half[0] == b->half[0] && a->half[1] == b->half[1];
}

// Tells whether a message may leave from another port than the canonical one. The
// address that the peer knows us by is noted while it is probed: from another one
// nothing is spread, for the peer would not know whose ports to put back.
static __always_inline bool may_spread(const struct settings *ours, struct spread *s, const struct address *from, bool ask)
{
	// A filter outlives a process that is killed, which then agrees on nothing.
	if (ours->until && bpf_ktime_get_boot_ns() > ours->until)
		return false;
	if (s->mode == MODE_SPREAD)
		return same(&s->from, from);
	if (s->mode != MODE_PROBE || !ask)
		return false;
	s->from = *from;
	return true;
}

// Tells whether a message carries a packet, by its UDP length. A keepalive does not,
// and keeps a NAT's entry for the canonical port.
static __always_inline bool is_data(struct outer *o, __u16 length)
{
	return o->message == MESSAGE_DATA && length > sizeof(*o->udp) + KEEPALIVE_LENGTH;
}

static __always_inline int sent(struct __sk_buff *skb, struct kind k)
{
	struct outer o;
	struct endpoint to = {};
	struct address from;

	if (!find(skb, &o, k))
		return TC_ACT_UNSPEC;
	struct settings *ours = the_settings();
	if (!ours || o.udp->source != ours->port)
		return TC_ACT_UNSPEC;
	addresses(&o, k, &from, &to.address);
	to.port = o.udp->dest;
	struct spread *s = bpf_map_lookup_elem(&endpoints, &to);
	if (!s)
		return TC_ACT_UNSPEC;
	__u32 slot = s->slot;
	struct counts *c = bpf_map_lookup_elem(&counters, &slot);
	if (!c)
		return TC_ACT_UNSPEC;

	__u16 length = bpf_ntohs(o.udp->len);
	bool ask = length == ours->ask;
	c->sent[o.ecn]++;
	c->sent_bytes += length - sizeof(*o.udp);
	if (!is_data(&o, length))
		return TC_ACT_UNSPEC;
	if (!ask && length != ours->answer)
		c->data_sent++;

	__u32 hash = skb->hash ? skb->hash : bpf_get_hash_recalc(skb);
	if (ours->dscp_on)
		set_dscp(&o, k.v4, ours->dscp[hash & ((1 << DSCP_BITS) - 1)]);
	if (!may_spread(ours, s, &from, ask))
		return TC_ACT_UNSPEC;
	if (s->mode == MODE_PROBE)
		hash = bpf_get_prandom_u32(); // another port each time
	if (!k.v4)
		set_label(&o, hash);
	__u16 lane = (__u64)hash * s->count >> 32;
	if (s->origin)
		lane = (lane & ~1) | (o.ecn != 0);
	c->spread++;
	set_port(skb, &o, &o.udp->source, bpf_htons(ours->low + lane));
	return TC_ACT_UNSPEC;
}

// Tells whether a packet is that of a VLAN: it passes the programs on the VLAN's own
// interface as well, and is left to them. VLAN 0 is none, but a priority.
static __always_inline bool of_vlan(const struct __sk_buff *skb)
{
	return skb->vlan_present && (skb->vlan_tci & VLAN_VID_MASK) != 0;
}

static __always_inline int sent_of(struct __sk_buff *skb, __u32 link_header)
{
	if (of_vlan(skb))
		return TC_ACT_UNSPEC;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return sent(skb, (struct kind){true, link_header});
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return sent(skb, (struct kind){false, link_header});
	return TC_ACT_UNSPEC;
}

SEC("tc")
int egress(struct __sk_buff *skb)
{
	return sent_of(skb, ETH_HLEN);
}

SEC("tc")
int egress_bare(struct __sk_buff *skb)
{
	return sent_of(skb, 0);
}

// Gives the peer at an address that has a port, or spreads over it.
static __always_inline struct restore *whose(struct restores *at, __be16 port)
{
	__u16 n = bpf_ntohs(port);
#pragma unroll
	for (int i = 0; i < PEERS_AT_ADDRESS; i++) {
		struct restore *r = &at->of[i];
		if (r->port == port || (__u16)(n - r->low) < r->count)
			return r;
	}
	return &at->of[0];
}

static __always_inline int received(struct __sk_buff *skb, struct kind k)
{
	struct outer o;
	struct address from, to;

	if (!find(skb, &o, k))
		return TC_ACT_UNSPEC;
	struct settings *ours = the_settings();
	if (!ours)
		return TC_ACT_UNSPEC;
	bool ordinary = o.udp->dest == ours->port;
	if (!ordinary && (__u16)(bpf_ntohs(o.udp->dest) - ours->low) >= ours->count)
		return TC_ACT_UNSPEC;
	addresses(&o, k, &from, &to);
	struct restores *at = bpf_map_lookup_elem(&sources, &from);
	if (!at)
		return TC_ACT_UNSPEC;
	struct restore *r = whose(at, o.udp->source);
	__u32 slot = r->slot;
	struct counts *c = bpf_map_lookup_elem(&counters, &slot);
	if (!c)
		return TC_ACT_UNSPEC;

	__u16 lane = bpf_ntohs(o.udp->source) - r->low;
	bool canonical = o.udp->source == r->port;
	bool spread = !canonical && lane < r->count && o.message == MESSAGE_DATA;
	if (!ordinary && !spread && !canonical)
		return TC_ACT_UNSPEC;
	if (spread && r->origin && o.ecn == 3 && !(lane & 1)) {
		c->ce_dropped++; // RFC 6040, section 4.2: Not-ECT inside CE
		return TC_ACT_SHOT;
	}
	__u64 packets = skb->gso_segs ? skb->gso_segs : 1;
	__u16 length = bpf_ntohs(o.udp->len);
	c->received[o.ecn] += packets;
	c->received_bytes += length - sizeof(*o.udp);
	if (is_data(&o, length) && length != ours->ask && length != ours->answer)
		c->data_received += packets;
	if (spread)
		c->restored += packets;
	else if (!canonical)
		c->strange += packets;
	__be16 port = r->port;
	if (!ordinary) {
		// The peer's WireGuard took a port of ours for the canonical one.
		c->returned += packets;
		set_port(skb, &o, &o.udp->dest, ours->port);
		if (!spread || !find(skb, &o, k))
			return TC_ACT_UNSPEC;
	}
	if (spread)
		set_port(skb, &o, &o.udp->source, port);
	return TC_ACT_UNSPEC;
}

static __always_inline int received_of(struct __sk_buff *skb, __u32 link_header)
{
	// Frames to the address of a macvlan come by its own interface, too.
	if (of_vlan(skb) || skb->pkt_type == PACKET_OTHERHOST)
		return TC_ACT_UNSPEC;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return received(skb, (struct kind){true, link_header});
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return received(skb, (struct kind){false, link_header});
	return TC_ACT_UNSPEC;
}

SEC("tc")
int ingress(struct __sk_buff *skb)
{
	return received_of(skb, ETH_HLEN);
}

SEC("tc")
int ingress_bare(struct __sk_buff *skb)
{
	return received_of(skb, 0);
}

// Tells whether an inner packet of size bytes is HELLO, from the offset of the UDP
// header.
static __always_inline bool is_hello(struct __sk_buff *skb, __u32 udp_at)
{
	struct {
		struct udphdr udp;
		__be32 magic[2];
	} h;
	if (bpf_skb_load_bytes(skb, udp_at, &h, sizeof(h)) < 0)
		return false;
	return h.udp.dest == bpf_htons(HELLO_PORT) && h.magic[0] == HELLO_MAGIC_HIGH && h.magic[1] == HELLO_MAGIC_LOW;
}

static __always_inline bool carries_hello(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data;
		return data + sizeof(*ip) <= end && *(__u8 *)ip == 0x45 && ip->protocol == IPPROTO_UDP &&
		       !(ip->frag_off & bpf_htons(0x3fff)) && is_hello(skb, sizeof(*ip));
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data;
		return data + sizeof(*ip) <= end && ip->nexthdr == IPPROTO_UDP && is_hello(skb, sizeof(*ip));
	}
	return false;
}

// hello takes HELLO before the host's stack, its firewall and its routes see it: it
// need not be to an address that the host has.
SEC("tc")
int hello(struct __sk_buff *skb)
{
	if (!carries_hello(skb))
		return TC_ACT_UNSPEC;
	// Two comparisons, which the compiler is kept from making one: the verifiers of
	// Linux 5.10 and 6.1 do not follow that.
	__u64 size = skb->len;
	if (size < HELLO_MIN)
		return TC_ACT_SHOT;
	barrier_var(size);
	if (size > HELLO_MAX)
		return TC_ACT_SHOT;
	__u8 *at = bpf_ringbuf_reserve(&hellos, HELLO_MAX, 0);
	if (!at)
		return TC_ACT_SHOT;
	if (bpf_skb_load_bytes(skb, 0, at, size) < 0) {
		bpf_ringbuf_discard(at, 0);
		return TC_ACT_SHOT;
	}
	bpf_ringbuf_submit(at, 0);
	return TC_ACT_SHOT;
}

// note writes the inner DSCP into the low bits of the hash, the only thing that
// WireGuard keeps of a packet.
SEC("tc")
int note(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u8 *ip = data;
	if (data + 2 > end)
		return TC_ACT_UNSPEC;
	__u8 dscp = 0;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		dscp = ip[1] >> 2;
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		dscp = (ip[0] & 0x0f) << 2 | ip[1] >> 6;
	__u32 hash = bpf_get_hash_recalc(skb);
	bpf_set_hash(skb, (hash & ~((1 << DSCP_BITS) - 1)) | dscp);
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "Dual MIT/GPL";
