package tunnel

import "testing"

func TestParseMetrics(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"off", "off"}, {"OFF", "off"},
		{":9586", "127.0.0.1:9586"}, {"localhost:9586", "127.0.0.1:9586"}, {":0", "127.0.0.1:0"},
		{"127.0.0.1:9586", "127.0.0.1:9586"}, {"0.0.0.0:1", "0.0.0.0:1"}, {"[::]:9586", "[::]:9586"},
		{"[::1]:65535", "[::1]:65535"}, {"192.0.2.1:80", "192.0.2.1:80"}, {"[fe80::1%eth0]:80", "[fe80::1%eth0]:80"},
		{"", ""}, {"9586", ""}, {":", ""}, {":x", ""}, {":65536", ""}, {":-1", ""}, {"::1:80", ""}, {"::9586", ""},
		{"example.com:9586", ""}, {"localhost", ""}, {"127.0.0.1", ""}, {"127.0.0.1:", ""}, {"[::1]", ""}, {":80/metrics", ""},
	} {
		at, err := ParseMetrics(c.in)
		if (err != nil) != (c.want == "") || err == nil && MetricsName(at) != c.want {
			t.Errorf("%q: %v, %v; want %q", c.in, MetricsName(at), err, c.want)
		}
		if err == nil {
			if again, err := ParseMetrics(MetricsName(at)); err != nil || again != at {
				t.Errorf("%q: %v is read as %v, %v", c.in, at, again, err)
			}
		}
	}
}
