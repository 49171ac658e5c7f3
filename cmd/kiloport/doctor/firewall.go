package doctor

import (
	"encoding/json"
	"fmt"
	"slices"
)

// ruleset is what is read of nft -j list ruleset (libnftables-json(5)).
type ruleset struct {
	Nftables []struct {
		Chain *nftChain `json:"chain"`
		Rule  *nftRule  `json:"rule"`
	} `json:"nftables"`
}

type nftChain struct {
	Family, Table, Name, Hook, Policy string
}

type nftRule struct {
	Family, Table, Chain string
	Expr                 []map[string]json.RawMessage
}

// firewall looks for chains that drop what comes in and have no rule that lets UDP
// to the listen port in. A packet must pass all chains of the hook.
func (e *examination) firewall() {
	if e.Config == nil || e.Config.ListenPort == 0 {
		return
	}
	if e.OldTables {
		e.say(Note, "iptables -L INPUT -n, ip6tables -L INPUT -n", "iptables has rules of the old kind, which are not looked into")
	}
	var rules ruleset
	if len(e.Ruleset) == 0 {
		return
	}
	if err := json.Unmarshal(e.Ruleset, &rules); err != nil {
		e.say(Note, "nft list ruleset", "the rules of nftables cannot be read: %v", err)
		return
	}
	port, shut := e.Config.ListenPort, false
	for _, entry := range rules.Nftables {
		c := entry.Chain
		if c == nil || c.Hook != "input" || !rules.shuts(c) || rules.admits(c, port, 0) {
			continue
		}
		shut = true
		e.say(Warning, fmt.Sprintf("nft insert rule %s %s %s udp dport %d accept; see deploy/firewall, also for firewalld and ufw", c.Family, c.Table, c.Name, port),
			"chain %s of table %s %s drops what comes in, and has no rule that accepts UDP to port %d: only answers come in", c.Name, c.Family, c.Table, port)
	}
	if !shut {
		e.say(OK, "", "no chain of nftables drops UDP to port %d unseen", port)
	}
}

func (r *ruleset) rulesOf(family, table, chain string) (all []*nftRule) {
	for _, entry := range r.Nftables {
		if rule := entry.Rule; rule != nil && rule.Family == family && rule.Table == table && rule.Chain == chain {
			all = append(all, rule)
		}
	}
	return all
}

// shuts tells whether a chain drops what no rule of it has accepted: by its policy,
// or by a last rule for everything.
func (r *ruleset) shuts(c *nftChain) bool {
	if c.Policy == "drop" {
		return true
	}
	all := r.rulesOf(c.Family, c.Table, c.Name)
	if len(all) == 0 {
		return false
	}
	last := all[len(all)-1]
	for _, expr := range last.Expr {
		for key := range expr {
			if !slices.Contains([]string{"drop", "reject", "counter", "log"}, key) {
				return false
			}
		}
	}
	return last.has("drop") || last.has("reject")
}

func (rule *nftRule) has(key string) bool {
	return slices.ContainsFunc(rule.Expr, func(e map[string]json.RawMessage) bool { _, ok := e[key]; return ok })
}

const maxJumps = 8

// admits tells whether a rule of a chain, or of one that it jumps to, accepts UDP to
// a port.
func (r *ruleset) admits(c *nftChain, port uint16, depth int) bool {
	for _, rule := range r.rulesOf(c.Family, c.Table, c.Name) {
		if rule.matchesPort(port) && rule.has("accept") || rule.forAll() && rule.has("accept") {
			return true
		}
		for _, expr := range rule.Expr {
			for _, key := range []string{"jump", "goto"} {
				var to struct{ Target string }
				if raw, ok := expr[key]; ok && depth < maxJumps && json.Unmarshal(raw, &to) == nil &&
					r.admits(&nftChain{Family: c.Family, Table: c.Table, Name: to.Target}, port, depth+1) {
					return true
				}
			}
		}
	}
	return false
}

// forAll tells whether a rule has no condition.
func (rule *nftRule) forAll() bool { return !rule.has("match") && !rule.has("vmap") }

// matchesPort tells whether a rule is for UDP to a port, among others perhaps.
func (rule *nftRule) matchesPort(port uint16) bool {
	for _, expr := range rule.Expr {
		var m struct {
			Op   string
			Left struct {
				Payload struct{ Protocol, Field string }
			}
			Right json.RawMessage
		}
		if raw, ok := expr["match"]; !ok || json.Unmarshal(raw, &m) != nil {
			continue
		}
		p := m.Left.Payload
		if (p.Protocol == "udp" || p.Protocol == "th") && p.Field == "dport" && m.Op != "!=" && hasPort(m.Right, port) {
			return true
		}
	}
	return false
}

// hasPort looks for a port in a value, a range or a set. A named set may have it.
func hasPort(raw json.RawMessage, port uint16) bool {
	var one uint16
	if json.Unmarshal(raw, &one) == nil {
		return one == port
	}
	var name string
	if json.Unmarshal(raw, &name) == nil {
		return true
	}
	var some struct {
		Set   []json.RawMessage
		Range []uint16
	}
	if json.Unmarshal(raw, &some) != nil {
		return false
	}
	if len(some.Range) == 2 {
		return some.Range[0] <= port && port <= some.Range[1]
	}
	return slices.ContainsFunc(some.Set, func(r json.RawMessage) bool { return hasPort(r, port) })
}
