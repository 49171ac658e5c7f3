package labkernel

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMergeConfig(t *testing.T) {
	for _, test := range []struct {
		name, base, wanted, want, err string
	}{
		{"added", "CONFIG_A=y\n", "CONFIG_B=y\n", "CONFIG_A=y\nCONFIG_B=y\n", ""},
		{"replaced", "CONFIG_A=m\nCONFIG_C=\"x=1\"\n", "CONFIG_A=y\n", "CONFIG_C=\"x=1\"\nCONFIG_A=y\n", ""},
		{"off", "CONFIG_A=y\n", "CONFIG_A=n\n", "# CONFIG_A is not set\n", ""},
		{"on", "# CONFIG_A is not set\n", "CONFIG_A=y\n", "CONFIG_A=y\n", ""},
		{"prefix of another", "CONFIG_AB=y\n", "CONFIG_A=y\n", "CONFIG_AB=y\nCONFIG_A=y\n", ""},
		{"comments", "# Linux\n\nCONFIG_A=y\n", "# why\nCONFIG_B=n\n", "CONFIG_A=y\n# CONFIG_B is not set\n", ""},
		{"contradiction", "", "CONFIG_A=y\nCONFIG_A=n\n", "", "CONFIG_A is wanted both as y and as n"},
		{"no option", "", "CONFIG_A\n", "", `"CONFIG_A" is no CONFIG_SYMBOL=value`},
		{"no value", "CONFIG_A=\n", "", "", `"CONFIG_A=" is no CONFIG_SYMBOL=value`},
		{"no prefix", "", "A=y\n", "", `"A=y" is no`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := mergeConfig(test.base, test.wanted)
			wantError(t, err, test.err)
			if got != test.want {
				t.Errorf("merged:\n%s\nwant:\n%s", got, test.want)
			}
		})
	}
}

func TestUnmet(t *testing.T) {
	got := "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\n"
	list, err := unmet(got, "CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=y\nCONFIG_D=y\nCONFIG_E=n\n")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"CONFIG_B is n, not y", "CONFIG_C is m, not y", "CONFIG_D is n, not y"}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Errorf("unmet (-want +got):\n%s", diff)
	}
}

func TestHashRecipe(t *testing.T) {
	made := []change{{"a.c", "x", "y"}}
	hash := hashRecipe("CONFIG_A=y\n# CONFIG_B is not set\n", made)
	for name, text := range map[string]string{
		"comment": "# why\nCONFIG_A=y\n# CONFIG_B is not set\n",
		"blanks":  "\n CONFIG_A=y \n\n# CONFIG_B is not set",
	} {
		if hashRecipe(text, made) != hash {
			t.Errorf("%s: a text that says the same has another hash", name)
		}
	}
	for _, text := range []string{"CONFIG_A=y\n", "CONFIG_A=m\n# CONFIG_B is not set\n"} {
		if hashRecipe(text, made) == hash {
			t.Errorf("%q has the hash of another configuration", text)
		}
	}
	for _, other := range []change{{"b.c", "x", "y"}, {"a.c", "z", "y"}, {"a.c", "x", "z"}} {
		if hashRecipe("CONFIG_A=y\n# CONFIG_B is not set\n", []change{other}) == hash {
			t.Errorf("%q has the hash of another change", other)
		}
	}
}

// TestFragment holds what the lab cannot do without.
func TestFragment(t *testing.T) {
	var wanted strings.Builder
	for _, symbol := range strings.Fields(`
		UML_TIME_TRAVEL_SUPPORT HIGH_RES_TIMERS HOSTFS OVERLAY_FS TMPFS DEVTMPFS NAMESPACES NET_NS BPF_SYSCALL
		IPV6 PACKET UNIX INET_DIAG VETH TUN IFB DUMMY BRIDGE WIREGUARD
		TCP_CONG_ADVANCED TCP_CONG_CUBIC TCP_CONG_BBR TCP_CONG_DCTCP DEFAULT_CUBIC
		NET_SCHED NET_SCH_FQ_CODEL NET_SCH_CAKE NET_SCH_NETEM NET_SCH_HTB NET_SCH_TBF NET_SCH_FQ NET_SCH_CODEL NET_SCH_PIE
		NET_SCH_FQ_PIE NET_SCH_INGRESS NET_CLS_ACT NET_CLS_BPF NET_CLS_U32 NET_ACT_BPF NET_ACT_MIRRED
		NETFILTER NF_CONNTRACK NF_TABLES NF_TABLES_INET NFT_CT NFT_NAT NFT_MASQ`) {
		wanted.WriteString("CONFIG_" + symbol + "=y\n")
	}
	wanted.WriteString("CONFIG_MODULES=n\n")
	list, err := unmet(fragment, wanted.String())
	if err != nil {
		t.Fatal(err)
	}
	if len(list) > 0 {
		t.Errorf("the fragment lacks: %s", strings.Join(list, ", "))
	}
	if _, err := mergeConfig("", fragment); err != nil {
		t.Error(err)
	}
}

// wantError fails unless err contains part; "" is no error at all.
func wantError(t *testing.T, err error, part string) {
	t.Helper()
	switch {
	case part == "" && err != nil:
		t.Errorf("error %v, want none", err)
	case part != "" && (err == nil || !strings.Contains(err.Error(), part)):
		t.Errorf("error %v, want one with %q", err, part)
	}
}
