package main

import (
	"strings"
	"testing"

	"kiloport/tunnel/attach/accord"
)

func TestAttachConfig(t *testing.T) {
	for _, test := range []struct {
		flags map[string]string
		ports accord.Range
		count uint16
		want  string // in the error, "" for none
	}{
		{nil, accord.Range{}, 0, ""},
		{map[string]string{"ports": "4096"}, accord.Range{}, 4096, ""},
		{map[string]string{"port-range": "20000-20099"}, accord.Range{Low: 20000, Count: 100}, 0, ""},
		{map[string]string{"port-range": "20000-20099", "ports": "10"}, accord.Range{Low: 20000, Count: 10}, 10, ""},
		{map[string]string{"port-range": "20099-20000"}, accord.Range{}, 0, "--port-range"},
		{map[string]string{"bandwidth": "20mbit"}, accord.Range{}, 0, "there are only --ports, --port-range, --dscp, --metrics"},
	} {
		c := &command{chosen: &chosen{test.flags}, logLevel: "error"}
		got, err := c.attachConfig("wg0")
		switch {
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%v: error %v, want %q", test.flags, err, test.want)
		case test.want == "" && err != nil:
			t.Errorf("%v: %v", test.flags, err)
		case err == nil && (got.Range != test.ports || got.Ports != test.count || got.DSCP != nil):
			t.Errorf("%v: %+v", test.flags, got.Config)
		}
	}
}

func TestAttachDSCP(t *testing.T) {
	for value, outer := range map[string]uint8{"inherit": 46, "EF=CS1": 8, "zero": 0, "7": 7} {
		c := &command{chosen: &chosen{map[string]string{"dscp": value}}, logLevel: "error"}
		got, err := c.attachConfig("wg0")
		if err != nil {
			t.Fatal(err)
		}
		if (got.DSCP == nil) != (value == "zero") || got.DSCP != nil && got.DSCP.Outer(46) != outer {
			t.Errorf("%s: %v", value, got.DSCP)
		}
	}
}
