package site

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A change from one plan to another gives what applying that at once gives, over
// a record that another process has read or not, and can be undone.
func TestChange(t *testing.T) {
	plans := []Plan{
		{MTU: 1400, Addresses: prefixes("10.0.0.1/24", "fd00::1/64"), Routes: prefixes("10.9.0.0/16", "fd09::/48")},
		{MTU: 1300, Addresses: prefixes("10.0.0.1/24"), Routes: prefixes("10.8.0.0/16")},
		{MTU: 1400, Addresses: prefixes("10.0.0.1/24", "10.7.0.1/16"), Routes: prefixes("10.9.0.0/16", "0.0.0.0/0")},
		{MTU: 1350, Addresses: prefixes("10.0.0.7/24"), Routes: prefixes("0.0.0.0/0", "::/0")},
		{MTU: 1400, Addresses: prefixes("10.0.0.1/24"), Routes: prefixes("10.9.0.0/16"), Table: "77"},
		{MTU: 1400, Addresses: prefixes("10.0.0.1/24"), Routes: prefixes("10.9.0.0/16"), Table: "off"},
	}
	for from := range plans {
		for _, to := range []int{(from + 1) % len(plans), (from + 2) % len(plans)} {
			inNamespace(t, func(t *testing.T) {
				first, second := plans[from], plans[to]
				first.Link, second.Link = "tunnel", "tunnel"
				before := snapshot(t)
				whole, err := Apply(t.Context(), second, quiet)
				if err != nil {
					t.Fatal(err)
				}
				want := snapshot(t)
				if err := whole.Undo(); err != nil {
					t.Fatal(err)
				}
				a, err := Apply(t.Context(), first, quiet)
				if err != nil {
					t.Fatal(err)
				}
				text, err := json.Marshal(a.Record())
				var r Record
				if err == nil {
					err = json.Unmarshal(text, &r)
				}
				if err != nil {
					t.Fatal(err)
				}
				a = Resume("tunnel", r, quiet)
				for range 2 {
					if err := a.Change(t.Context(), second); err != nil {
						t.Fatalf("%d to %d: %v", from, to, err)
					}
				}
				if d := cmp.Diff(sorted(want), sorted(snapshot(t))); d != "" {
					t.Errorf("%d to %d:\n%s", from, to, d)
				}
				if err := a.Undo(); err != nil {
					t.Error(err)
				}
				if d := cmp.Diff(before, snapshot(t)); d != "" {
					t.Errorf("%d to %d: not undone:\n%s", from, to, d)
				}
			})
		}
	}
}

// sorted is a snapshot with its lines in order: which address came first does not
// matter.
func sorted(snapshot string) []string {
	lines := strings.Split(snapshot, "\n")
	slices.Sort(lines)
	return lines
}
