package tunnels

import "testing"

// TestTincSure reads what tincd logs on SIGUSR2, more than once.
func TestTincSure(t *testing.T) {
	const (
		itself = " sitea at MYSELF cipher 0 digest 0 maclength 0 compression 0 options c status 0018 nexthop sitea via sitea pmtu 1518 (min 0 max 1518)\n"
		looks  = " siteb at 198.18.0.2 port 655 cipher 427 digest 672 maclength 4 compression 0 options c status 001a nexthop siteb via siteb pmtu 1461 (min 1437 max 1461)\n"
		knows  = " siteb at 198.18.0.2 port 655 cipher 427 digest 672 maclength 4 compression 0 options c status 001a nexthop siteb via siteb pmtu 1451 (min 1451 max 1451)\n"
		no     = " siteb at 198.18.0.2 port 655 cipher 427 digest 672 maclength 4 compression 0 options c status 001a nexthop siteb via siteb pmtu 0 (min 0 max 0)\n"
		edges  = "End of nodes.\nEdges:\n sitea to siteb at 198.18.0.2 port 655 options c weight 7\n"
	)
	for name, test := range map[string]struct {
		log  string
		want bool
	}{
		"nothing":      {"", false},
		"looks":        {"Nodes:\n" + itself + looks + edges, false},
		"knows":        {"Nodes:\n" + itself + knows + edges, true},
		"found it out": {itself + looks + edges + itself + knows + edges, true},
		"lost it":      {itself + knows + edges + itself + looks + edges, false},
		"none at all":  {itself + no + edges, false},
	} {
		if got := tincSure(test.log, "siteb"); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
