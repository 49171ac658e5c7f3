package tunnels

import "testing"

// TestParseStatus reads a status in the form that `kiloport show --json` has.
func TestParseStatus(t *testing.T) {
	s, err := parseStatus([]byte(`{"name":"kp0","listen_port":51820,"pool":{"ports":1024,"limit":1000,"open":12,"range":"","idle":"1m0s"},
		"peers":[{"public_key":"x","mode":"direct","version":1,"lanes":{"agreed":1024,"flows":3,"in_use":2,"shared":1,"moved":4},"drops":{"replay":5}}],"new":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	peer, err := s.Peer()
	if err != nil {
		t.Fatal(err)
	}
	if s.Pool.Limit != 1000 || s.Pool.Open != 12 || peer.Mode != ModeDirect || peer.Lanes.Agreed != 1024 ||
		peer.Lanes.InUse != 2 || peer.Lanes.Shared != 1 || peer.Lanes.Moved != 4 || peer.Drops["replay"] != 5 {
		t.Errorf("%+v", s)
	}
	if _, err := parseStatus([]byte("no JSON")); err == nil {
		t.Error("no JSON was read")
	}
	if _, err := (&Status{}).Peer(); err == nil {
		t.Error("a status without a peer has one")
	}
}
