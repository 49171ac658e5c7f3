package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kiloport/tunnel"
	"kiloport/tunnel/uapi"
)

func (c *command) show() *cobra.Command {
	var asJSON bool
	show := &cobra.Command{
		Use: "show [NAME]", Short: "Show peers, lanes, and what was dropped and why",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError{fmt.Errorf("%s wants one interface at most, got %q", cmd.CommandPath(), args)}
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			statuses, err := statusesOf(args)
			if err != nil {
				return err
			}
			if asJSON {
				return c.showJSON(statuses, len(args) == 1)
			}
			for i, s := range statuses {
				if i > 0 {
					fmt.Fprintln(c.stdout)
				}
				writeStatus(c.stdout, s, time.Now())
			}
			return nil
		},
	}
	show.Flags().BoolVar(&asJSON, "json", false, "as JSON: one object for NAME, else a list")
	return show
}

// statusesOf asks one interface, or all that answer.
func statusesOf(args []string) (all []*tunnel.Status, err error) {
	if len(args) == 1 {
		s, err := askStatus(args[0])
		return []*tunnel.Status{s}, err
	}
	names, err := uapi.Names()
	if err != nil {
		return nil, fmt.Errorf("list the interfaces: %w", err)
	}
	slices.Sort(names)
	for _, name := range names {
		if s, err := askStatus(name); err == nil {
			all = append(all, s)
		}
	}
	return all, nil
}

func askStatus(name string) (*tunnel.Status, error) {
	client, err := uapi.Dial(name)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	text, err := client.Show()
	if errors.Is(err, uapi.ErrNotKiloport) {
		return nil, fmt.Errorf("interface %s is not run by kiloport: try wg show %s", name, name)
	}
	if err != nil {
		return nil, err
	}
	s := new(tunnel.Status)
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("interface %s: read its status: %w", name, err)
	}
	return s, nil
}

func (c *command) showJSON(statuses []*tunnel.Status, one bool) error {
	e := json.NewEncoder(c.stdout)
	e.SetIndent("", "  ")
	if one {
		return e.Encode(statuses[0])
	}
	return e.Encode(append([]*tunnel.Status{}, statuses...))
}

// writeStatus writes what `wg show` does not know, in its style.
func writeStatus(w io.Writer, s *tunnel.Status, now time.Time) {
	fmt.Fprintf(w, "interface: %s\n", s.Name)
	field := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %s: %s\n", name, fmt.Sprintf(format, args...))
	}
	if s.PublicKey != "" {
		field("public key", "%s", s.PublicKey)
	}
	if s.Up {
		field("listening port", "%d", s.ListenPort)
	} else {
		field("link", "down")
	}
	field("spread", "%s, %d of %d ports open%s", s.Spread, s.Pool.Open, s.Pool.Limit, fewer(s.Pool))
	field("ecn, dscp", "%s, %s (%s), control messages %s", s.ECN, s.DSCP, s.DSCPDecap, s.ControlDSCP)
	if s.Bandwidth != "" && s.Bandwidth != tunnel.FormatBandwidth(0) {
		field("bandwidth", "%s", s.Bandwidth)
	}
	o := s.Offloads
	field("offloads", "%d workers, tun %s, gso %s, gro %s", o.Workers, o.TUN, onOff(o.GSO), onOff(o.GRO))
	for _, m := range o.Missing {
		field("not used", "%s", m)
	}
	if s.Queue.Packets > 0 || s.Queue.Marked > 0 {
		field("queue", "%d packets, %d bytes, %d marked in all", s.Queue.Packets, s.Queue.Bytes, s.Queue.Marked)
	}
	writeCounts(field, "dropped", s.Drops)
	writeCounts(field, "send errors", s.SendErrors)
	for i := range s.Peers {
		fmt.Fprintln(w)
		writePeer(w, &s.Peers[i], s.Spread, now)
	}
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func fewer(p tunnel.PoolStatus) string {
	if p.Limit < p.Ports {
		return fmt.Sprintf(" (%d asked for)", p.Ports)
	}
	return ""
}

func writePeer(w io.Writer, p *tunnel.PeerStatus, spread string, now time.Time) {
	fmt.Fprintf(w, "peer: %s\n", p.PublicKey)
	field := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %s: %s\n", name, fmt.Sprintf(format, args...))
	}
	if p.Endpoint != "" {
		field("endpoint", "%s", p.Endpoint)
	}
	if p.LastHandshake != nil {
		field("latest handshake", "%v ago", now.Sub(*p.LastHandshake).Round(time.Second))
	}
	mode := p.Mode
	if spread == "auto" && mode == "direct" {
		mode += " (auto: probes from other ports get through, so flows have ports)"
	}
	if p.Reason != "" {
		mode += " (" + p.Reason + ")"
	}
	field("mode", "%s", mode)
	l := p.Lanes
	field("lanes", "%d in use for %d flows, %d shared, %d dead, %d agreed; %d received", l.InUse, l.Flows, l.Shared, l.Dead, l.Agreed, l.Received)
	if p.PathMTU != 0 {
		field("path mtu", "%d (%s)", p.PathMTU, p.PathMTUHow)
	}
	if p.Cipher != "" {
		field("cipher", "%s", p.Cipher)
	}
	writePath(field, p, now)
	field("sent", "%s", traffic(&p.Sent))
	field("received", "%s", traffic(&p.Received))
	writeCounts(field, "dropped", p.Drops)
	writeCounts(field, "ecn anomalies (inner/outer)", p.Anomalies)
}

// traffic is the counts in words; with none of the marks it leaves them out.
func traffic(t *tunnel.TrafficStatus) string {
	s := fmt.Sprintf("%d packets, %d bytes", t.Packets, t.Bytes)
	if t.ECT0+t.ECT1+t.CE > 0 {
		s += fmt.Sprintf(", %d with ECT(0), %d with ECT(1), %d with CE", t.ECT0, t.ECT1, t.CE)
	}
	return s
}

// writeCounts writes counters by name, the greatest first.
func writeCounts(field func(string, string, ...any), name string, counts map[string]uint64) {
	var names []string
	for n := range counts {
		names = append(names, n)
	}
	slices.SortFunc(names, func(a, b string) int {
		if counts[a] != counts[b] {
			return map[bool]int{true: -1, false: 1}[counts[a] > counts[b]]
		}
		return strings.Compare(a, b)
	})
	for i, n := range names {
		names[i] = fmt.Sprintf("%d %s", counts[n], n)
	}
	if len(names) > 0 {
		field(name, "%s", strings.Join(names, ", "))
	}
}
