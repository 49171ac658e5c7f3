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
	"kiloport/tunnel/attach"
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
			writeStatuses(c.stdout, statuses, time.Now())
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
	names = append(names, attach.Names()...)
	slices.Sort(names)
	for _, name := range names {
		if s, err := askStatus(name); err == nil {
			all = append(all, s)
		}
	}
	return all, nil
}

// askStatus asks the daemon of an interface, or what is attached to the kernel's.
func askStatus(name string) (*tunnel.Status, error) {
	if s, err := attach.Show(name); !errors.Is(err, attach.ErrNotAttached) {
		return s, err
	}
	text, err := askShow(name)
	for tries := 0; errors.Is(err, uapi.ErrNotKiloport) && tries < 2; tries++ {
		time.Sleep(handingOver)
		text, err = askShow(name)
	}
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

// handingOver is for how long a process that is replaced by another may still be
// reached: it hangs up, as other programs do that know no such question.
const handingOver = 200 * time.Millisecond

func askShow(name string) ([]byte, error) {
	client, err := uapi.Dial(name)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return client.Show()
}

func (c *command) showJSON(statuses []*tunnel.Status, one bool) error {
	e := json.NewEncoder(c.stdout)
	e.SetIndent("", "  ")
	if one {
		return e.Encode(statuses[0])
	}
	return e.Encode(append([]*tunnel.Status{}, statuses...))
}

func writeStatuses(w io.Writer, all []*tunnel.Status, now time.Time) {
	for i, s := range all {
		if i > 0 {
			fmt.Fprintln(w)
		}
		writeStatus(w, s, now)
	}
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
	writeRates(field, s)
	o := s.Offloads
	if len(s.Attached) > 0 {
		field("attached", "kernel WireGuard, on %s", strings.Join(s.Attached, ", "))
	} else {
		field("offloads", "%d workers, tun %s, gso %s, gro %s", o.Workers, o.TUN, onOff(o.GSO), onOff(o.GRO))
		field("realtime", "%s", s.Realtime)
	}
	for _, m := range o.Missing {
		field("not used", "%s", m)
	}
	field("queue", "%d packets, %d bytes, %d marked in all", s.Queue.Packets, s.Queue.Bytes, s.Queue.Marked)
	field("fq_codel", "%s", queueParameters(&s.Queue.Parameters))
	writeCounts(field, "dropped", s.Drops)
	writeCounts(field, "send errors", s.SendErrors)
	for i := range s.Peers {
		fmt.Fprintln(w)
		writePeer(w, &s.Peers[i], s.Spread, now)
	}
}

func onOff(on bool) string { return switchWord(on, onWord) }

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
	writeLaneCounts(field, p)
	if p.PathMTU != 0 {
		field("path mtu", "%d (%s)", p.PathMTU, p.PathMTUHow)
	}
	if p.Cipher != "" {
		field("cipher", "%s", p.Cipher)
	}
	if a := p.Asks; a != nil {
		field("asks for no more than", "%s, %s; %d packets, %d bytes wait", a.Bandwidth, a.Overhead, a.Packets, a.Bytes)
	}
	writePath(field, p, now)
	field("sent", "%s", traffic(&p.Sent))
	field("received", "%s", traffic(&p.Received))
	writeCounts(field, "dropped", p.Drops)
	writeCounts(field, "ecn anomalies (inner/outer)", p.Anomalies)
}

// writeLaneCounts tells of lanes, or of the ports that stand for them where the kernel's
// WireGuard is at one end.
func writeLaneCounts(field func(string, string, ...any), p *tunnel.PeerStatus) {
	l := p.Lanes
	if a := p.Attached; a != nil {
		field("ports", "%d agreed, %d messages spread; %d put back, %d returned, %d strange", l.Agreed, a.Spread, a.Restored, a.Returned, a.Strange)
		if a.Unaccepted > 0 || a.PortsAsked > 0 {
			field("not accepted by WireGuard", "%d bytes; the peer is asked to use %d ports (0: any number)", a.Unaccepted, a.PortsAsked)
		}
		return
	}
	field("lanes", "%d in use for %d flows, %d shared, %d dead, %d agreed; %d received", l.InUse, l.Flows, l.Shared, l.Dead, l.Agreed, l.Received)
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
