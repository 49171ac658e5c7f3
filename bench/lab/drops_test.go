package lab

import "testing"

func TestDropMetric(t *testing.T) {
	for reason, want := range map[string]string{
		"replay":               "kiloport_a_dropped_replay_count",
		"no session, or old":   "kiloport_a_dropped_no_session_or_old_count",
		"ENOBUFS":              "kiloport_a_dropped_enobufs_count",
		"CE on Not-ECT (RFC!)": "kiloport_a_dropped_ce_on_not_ect_rfc_count",
	} {
		if got := dropMetric("a", reason); got != want {
			t.Errorf("%q: %s, want %s", reason, got, want)
		}
	}
}
