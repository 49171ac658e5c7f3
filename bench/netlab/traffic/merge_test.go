package traffic

import "testing"

// What the server has to complain of is the flow's failure, but for a flow that
// was cut off before the server knew that it would be.
func TestMergeFailures(t *testing.T) {
	for _, test := range []struct {
		kind    Kind
		abandon bool
		served  serverFlow
		want    string
	}{
		{TCPBulk, true, serverFlow{Error: "connection reset by peer", Reset: true}, ""},
		{TCPBulk, false, serverFlow{Error: "connection reset by peer", Reset: true}, "connection reset by peer"},
		{TCPEcho, true, serverFlow{Error: "connection reset by peer", Reset: true}, "connection reset by peer"},
		{TCPBulk, true, serverFlow{Error: "damaged"}, "damaged"},
	} {
		f := Flow{Kind: test.kind}
		f.merge(&Plan{Abandon: test.abandon}, test.served)
		if f.Error != test.want {
			t.Errorf("%v, abandon %v, served %+v: error %q, want %q", test.kind, test.abandon, test.served, f.Error, test.want)
		}
	}
}
