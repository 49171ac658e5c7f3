package site

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// register is the one in which all rules compute.
const register = 1

// firewall makes what a default route needs, in a table of nftables that is
// named after the interface:
//
//   - A packet to one of the tunnel's addresses that did not come out of the
//     tunnel is dropped: the address is for the inside alone.
//   - A UDP packet for a socket with the tunnel's mark gets that mark, so that
//     reverse path filters look for the way back where the tunnel's own packets
//     go. wg-quick(8) keeps the mark by connection tracking instead, which knows
//     answers only; here a peer may send from ports to which nothing was sent.
//
// Without them the tunnel works where no such filter is, so that their lack is
// only told.
func (a *Applied) firewall(s *Step) (done bool) {
	table := a.table()
	batch := &nftables.Conn{}
	batch.AddTable(table) // so that deleting what an end by force left cannot fail
	batch.DelTable(table)
	batch.AddTable(table)
	guard := batch.AddChain(chain(table, "guard", *nftables.ChainPriorityRaw))
	for text := range strings.SplitSeq(s.Own, ",") {
		if address, err := netip.ParseAddr(text); err == nil {
			batch.AddRule(&nftables.Rule{Table: table, Chain: guard, Exprs: dropFromOutside(a.link, address)})
		}
	}
	mark := batch.AddChain(chain(table, "mark", *nftables.ChainPriorityMangle))
	batch.AddRule(&nftables.Rule{Table: table, Chain: mark, Exprs: markLikeSocket(s.Mark)})
	if err := batch.Flush(); err != nil {
		a.log.Warn("no firewall rules for the default route: where net.ipv4.conf.*.rp_filter is 1, nothing arrives; "+
			"set it to 2, or load the kernel's modules nft_fib_inet and nft_socket", "interface", a.link, "error", err)
		return false
	}
	return true
}

func (a *Applied) table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: "kiloport-" + a.link}
}

func (a *Applied) removeFirewall() error {
	end := &nftables.Conn{}
	end.DelTable(a.table())
	return end.Flush()
}

// chain sees what arrives.
func chain(table *nftables.Table, name string, priority nftables.ChainPriority) *nftables.Chain {
	return &nftables.Chain{
		Table: table, Name: name, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: &priority,
	}
}

// dropFromOutside is
//
//	iifname != LINK ip daddr ADDRESS fib saddr type != local drop
func dropFromOutside(link string, address netip.Addr) []expr.Any {
	family, offset := byte(unix.NFPROTO_IPV4), uint32(16)
	if address.Is6() {
		family, offset = unix.NFPROTO_IPV6, 24
	}
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, link)
	return slices.Concat(
		[]expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register}}, differs(name),
		[]expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register}}, is([]byte{family}),
		[]expr.Any{&expr.Payload{
			DestRegister: register, Base: expr.PayloadBaseNetworkHeader,
			Offset: offset, Len: uint32(address.BitLen() / 8),
		}}, is(address.AsSlice()),
		[]expr.Any{&expr.Fib{Register: register, FlagSADDR: true, ResultADDRTYPE: true}}, differs(local),
		[]expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}},
	)
}

// markLikeSocket is
//
//	meta l4proto udp fib daddr type local socket mark MARK meta mark set MARK
//
// A packet that is passed on is not for a socket here, though one that is bound
// to every address would be found for it.
func markLikeSocket(mark uint32) []expr.Any {
	return slices.Concat(
		[]expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}}, is([]byte{unix.IPPROTO_UDP}),
		[]expr.Any{&expr.Fib{Register: register, FlagDADDR: true, ResultADDRTYPE: true}}, is(local),
		[]expr.Any{&expr.Socket{Key: expr.SocketKeyMark, Register: register}}, is(binaryutil.NativeEndian.PutUint32(mark)),
		[]expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: register}},
	)
}

// local is the type of the addresses that are this host's.
var local = binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)

func is(data []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data}}
}

func differs(data []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: data}}
}
