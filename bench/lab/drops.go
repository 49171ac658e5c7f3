package lab

import (
	"context"
	"regexp"
	"strings"

	"kiloport/bench/tunnels"
)

// putDrops adds what each kiloport says that it has dropped since it was started,
// by reason, and how many packets its own queue has marked. What the gateways have
// not dropped and the senders have sent again may be explained by it.
func (b *bench) putDrops(ctx context.Context) error {
	binary, ok := b.kiloport()
	if !ok {
		return nil
	}
	for name, end := range map[string]*tunnels.End{"a": &b.tunnel.A, "b": &b.tunnel.B} {
		s, err := tunnels.Show(ctx, end.Site.Node, binary, end.Dev)
		if err != nil {
			return err
		}
		counts := []map[string]uint64{s.Drops, s.SendErrors}
		for _, peer := range s.Peers {
			counts = append(counts, peer.Drops)
		}
		for _, reasons := range counts {
			for reason, n := range reasons {
				b.run.Metrics[dropMetric(name, reason)] += float64(n)
			}
		}
		b.run.Metrics["kiloport_"+name+"_marks_count"] = float64(s.Queue.Marked)
	}
	return nil
}

var notOfName = regexp.MustCompile(`[^a-z0-9]+`)

// dropMetric is the name of the metric of one end's reason to drop.
func dropMetric(end, reason string) string {
	return "kiloport_" + end + "_dropped_" + strings.Trim(notOfName.ReplaceAllString(strings.ToLower(reason), "_"), "_") + "_count"
}
