package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"kiloport/cmd/kiloport/quick"
	"kiloport/queue"
	"kiloport/tunnel"
	"kiloport/tunnel/ecn"
)

// option is one thing that a person may choose: as a flag, or as a key in the
// [Interface] section of a configuration file.
type option struct {
	flag  string // --flag
	key   string // Key =
	value string // what the value is, for help
	help  string
	// set checks the value by itself: whether it goes together with others is
	// known when all have been read.
	set func(o *tunnel.Options, value string) error
	get func(o *tunnel.Options) string
}

var options = []option{
	{
		flag: "ports", key: "Ports", value: "N",
		help: "source ports in the pool, hence flows told apart outside, 1 to 16383; 1 is plain WireGuard",
		set: func(o *tunnel.Options, v string) (err error) {
			one := tunnel.DefaultOptions()
			if one.Ports, err = strconv.Atoi(v); err != nil {
				return fmt.Errorf("%q is not a number, use 1 to 16383", v)
			}
			o.Ports = one.Ports
			return one.Validate()
		},
		get: func(o *tunnel.Options) string { return strconv.Itoa(o.Ports) },
	},
	{
		flag: "port-range", key: "PortRange", value: "LOW-HIGH",
		help: "where the pool's ports are, or auto for the kernel's choice",
		set:  func(o *tunnel.Options, v string) (err error) { o.PortRange, err = tunnel.ParsePortRange(v); return err },
		get:  func(o *tunnel.Options) string { return o.PortRange.String() },
	},
	{
		flag: "lane-idle", key: "LaneIdle", value: "DURATION",
		help: "close a source port after this long without use, at least 1s",
		set: func(o *tunnel.Options, v string) (err error) {
			one := tunnel.DefaultOptions()
			if one.LaneIdle, err = time.ParseDuration(v); err != nil {
				return fmt.Errorf("%q is not a duration, such as 60s or 5m", v)
			}
			o.LaneIdle = one.LaneIdle
			return one.Validate()
		},
		get: func(o *tunnel.Options) string { return o.LaneIdle.String() },
	},
	{
		flag: "spread", key: "Spread", value: "auto|off|ports|labels|addresses",
		help: "how flows are told apart outside: by source port, IPv6 flow label, source address, several of these (ports+addresses), not at all, or auto: by port if probes get through, else by label",
		set:  func(o *tunnel.Options, v string) (err error) { o.Spread, err = tunnel.ParseSpread(v); return err },
		get:  func(o *tunnel.Options) string { return o.Spread.String() },
	},
	{
		flag: "source-prefix", key: "SourcePrefix", value: "PREFIX|none",
		help: "where --spread=addresses takes source addresses from: a prefix that is routed to this host, or one of each family with a comma between them",
		set: func(o *tunnel.Options, v string) (err error) {
			o.SourcePrefixes, err = tunnel.ParseSourcePrefixes(v)
			return err
		},
		get: func(o *tunnel.Options) string { return o.SourcePrefixes.String() },
	},
	{
		flag: "max-lanes-per-peer", key: "MaxLanesPerPeer", value: "N",
		help: "lanes that one peer may have in each direction, hence connections that a router on the way tracks for it; 0 is as many as there are ports",
		set: func(o *tunnel.Options, v string) (err error) {
			one := tunnel.DefaultOptions()
			if one.MaxLanes, err = strconv.Atoi(v); err != nil {
				return fmt.Errorf("%q is not a number, use 0 to 16383", v)
			}
			o.MaxLanes = one.MaxLanes
			return one.Validate()
		},
		get: func(o *tunnel.Options) string { return strconv.Itoa(o.MaxLanes) },
	},
	{
		flag: "dscp", key: "DSCP", value: "inherit|zero|DSCP|MAP",
		help: "the outer DSCP: that of the inner packet, 0, a fixed one (0 to 63, or a name such as EF), or a map such as AF41=CS1,EF=0,*=inherit",
		set:  func(o *tunnel.Options, v string) error { return o.DSCP.Set(v) },
		get:  func(o *tunnel.Options) string { return o.DSCP.String() },
	},
	{
		flag: "dscp-decap", key: "DSCPDecap", value: "pipe|uniform",
		help: "what becomes of the outer DSCP at this end: nothing, or it is copied inside (RFC 2983)",
		set:  func(o *tunnel.Options, v string) (err error) { o.DSCPDecap, err = ecn.ParseModel(v); return err },
		get:  func(o *tunnel.Options) string { return o.DSCPDecap.String() },
	},
	{
		flag: "control-dscp", key: "ControlDSCP", value: "DSCP",
		help: "the outer DSCP of handshakes and control messages",
		set:  func(o *tunnel.Options, v string) (err error) { o.ControlDSCP, err = ecn.ParseCodepoint(v); return err },
		get:  func(o *tunnel.Options) string { return ecn.NameDSCP(o.ControlDSCP) },
	},
	{
		flag: "ecn", key: "ECN", value: "auto|on|off",
		help: "carry ECN outside: if peer and path are able, always, or never",
		set:  func(o *tunnel.Options, v string) (err error) { o.ECN, err = tunnel.ParseECN(v); return err },
		get:  func(o *tunnel.Options) string { return o.ECN.String() },
	},
	{
		flag: "workers", key: "Workers", value: "N",
		help: "queues of the tun device, each with its own goroutines; 0 is one for each processor, up to 8",
		set: func(o *tunnel.Options, v string) (err error) {
			one := tunnel.DefaultOptions()
			if one.Workers, err = strconv.Atoi(v); err != nil {
				return fmt.Errorf("%q is not a number, use 0 to %d", v, tunnel.MaxWorkers)
			}
			o.Workers = one.Workers
			return one.Validate()
		},
		get: func(o *tunnel.Options) string { return strconv.Itoa(o.Workers) },
	},
	{
		flag: "bandwidth", key: "Bandwidth", value: "RATE[/RATE]|off",
		help: "send no faster than this, such as 20mbit, so that packets wait in kiloport's queue and not in the modem's; after a slash, what each peer is asked to send at most",
		set: func(o *tunnel.Options, v string) (err error) {
			o.Bandwidth, o.ReceiveBandwidth, err = tunnel.ParseBandwidth(v)
			return err
		},
		get: func(o *tunnel.Options) string { return tunnel.FormatBandwidth(o.Bandwidth, o.ReceiveBandwidth) },
	},
	{
		flag: "autorate", key: "Autorate", value: "MIN-MAX|off",
		help: "let the rate of sending follow what the path takes, within these bounds, such as 5mbit-50mbit; it begins at the bandwidth, if there is one",
		set:  func(o *tunnel.Options, v string) (err error) { o.Autorate, err = tunnel.ParseAutorate(v); return err },
		get:  func(o *tunnel.Options) string { return o.Autorate.String() },
	},
	{
		flag: "overhead", key: "Overhead", value: "WORDS",
		help: "what the link of that bandwidth adds to each packet, in tc-cake's words, such as ethernet or \"pppoe-ptm\"",
		set:  func(o *tunnel.Options, v string) (err error) { o.Overhead, err = queue.ParseOverhead(v); return err },
		get:  func(o *tunnel.Options) string { return o.Overhead.String() },
	},
	{
		flag: "clamp-mss", key: "ClampMSS", value: "on|off",
		help: "lower the segment size that TCP connections agree on to what the path carries, for hosts that do not hear ICMP",
		set: func(o *tunnel.Options, v string) (err error) {
			o.ClampMSS, err = parseOnOff(v)
			return err
		},
		get: func(o *tunnel.Options) string { return onOff(o.ClampMSS) },
	},
	{
		flag: "pin", key: "Pin", value: "on|off",
		help: "bind each worker to one processor",
		set: func(o *tunnel.Options, v string) (err error) {
			o.Pin, err = parseOnOff(v)
			return err
		},
		get: func(o *tunnel.Options) string { return onOff(o.Pin) },
	},
	{
		flag: "realtime", key: "Realtime", value: "auto|off",
		help: "let packets go before other programs (SCHED_RR) while processors are short and some flow is sparse, or packets are lost",
		set: func(o *tunnel.Options, v string) (err error) {
			o.Realtime, err = parseSwitch(v, autoWord)
			return err
		},
		get: func(o *tunnel.Options) string { return switchWord(o.Realtime, autoWord) },
	},
	{
		flag: "cipher", key: "Cipher", value: "auto|chacha20poly1305|aes256gcm",
		help: "what seals packets between two kiloports: aes256gcm if both processors are fast at it, or always one",
		set:  func(o *tunnel.Options, v string) (err error) { o.Cipher, err = tunnel.ParseCipher(v); return err },
		get:  func(o *tunnel.Options) string { return o.Cipher.String() },
	},
	{
		flag: "gso", key: "GSO", value: "auto|on|off",
		help: "take packets of one flow from the host, and send them, as one",
		set:  func(o *tunnel.Options, v string) (err error) { o.GSO, err = tunnel.ParseOffload(v); return err },
		get:  func(o *tunnel.Options) string { return o.GSO.String() },
	},
	{
		flag: "gro", key: "GRO", value: "auto|on|off",
		help: "receive packets of one flow, and hand them to the host, as one",
		set:  func(o *tunnel.Options, v string) (err error) { o.GRO, err = tunnel.ParseOffload(v); return err },
		get:  func(o *tunnel.Options) string { return o.GRO.String() },
	},
	{
		flag: "metrics", key: "Metrics", value: "ADDRESS:PORT|:PORT|off",
		help: "answer Prometheus there; without an address, to this host alone",
		set:  func(o *tunnel.Options, v string) (err error) { o.Metrics, err = tunnel.ParseMetrics(v); return err },
		get:  func(o *tunnel.Options) string { return tunnel.MetricsName(o.Metrics) },
	},
}

func init() {
	at := slices.IndexFunc(options, func(o option) bool { return o.flag == "pin" })
	options = slices.Insert(options, at, queueOptions...)
}

// What an option that is not off is: on, or on where it is of use.
const (
	onWord   = "on"
	autoWord = "auto"
	offWord  = "off"
)

func parseOnOff(v string) (bool, error) { return parseSwitch(v, onWord) }

func parseSwitch(v, on string) (bool, error) {
	switch strings.ToLower(v) {
	case on:
		return true, nil
	case offWord:
		return false, nil
	}
	return false, fmt.Errorf("%q is none of %s, %s", v, on, offWord)
}

func switchWord(is bool, on string) string {
	if is {
		return on
	}
	return offWord
}

// chosen is the options given as flags, which override a configuration file.
type chosen struct {
	values map[string]string // by flag
}

// flag is one option of chosen on a command line.
type flag struct {
	option option
	chosen *chosen
}

func (f flag) String() string {
	if v, ok := f.chosen.values[f.option.flag]; ok {
		return v
	}
	o := tunnel.DefaultOptions()
	return f.option.get(&o)
}

// Set checks the value by itself, so that the error names the flag.
func (f flag) Set(value string) error {
	o := tunnel.DefaultOptions()
	if err := f.option.set(&o, value); err != nil {
		return err
	}
	f.chosen.values[f.option.flag] = value
	return nil
}

func (f flag) Type() string { return f.option.value }

func addFlags(flags *pflag.FlagSet) *chosen {
	c := &chosen{values: make(map[string]string)}
	for _, o := range options {
		flags.Var(flag{o, c}, o.flag, o.help)
	}
	return c
}

// apply overrides o, and checks whether all of it goes together.
func (c *chosen) apply(o *tunnel.Options) error {
	for _, known := range options {
		if v, ok := c.values[known.flag]; ok {
			if err := known.set(o, v); err != nil {
				return fmt.Errorf("--%s: %w", known.flag, err)
			}
		}
	}
	return o.Validate()
}

// setKey reads an option of a configuration file; keys are in lower case there.
func setKey(o *tunnel.Options, key, value string) error {
	for _, known := range options {
		if strings.EqualFold(known.key, key) {
			return known.set(o, value)
		}
	}
	return quick.ErrUnknownKey
}
