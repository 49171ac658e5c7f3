package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"kiloport/bench/lab"
	"kiloport/bench/netlab"
	"kiloport/bench/tunnels"
)

// plan is every experiment to be done.
func (o *runOptions) plan(names []string) ([]lab.Experiment, error) {
	if len(names) == 0 {
		names = []string{"rrul_be"}
	}
	if err := o.chooseKernel(); err != nil {
		return nil, err
	}
	scenarios, err := o.scenarios(names)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(o.checkBaseline(), o.checkPorts(), o.checkFlows()); err != nil {
		return nil, err
	}
	var all []lab.Experiment
	for _, s := range scenarios {
		some, err := o.experiments(s, o.binaries())
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// scenarios finds scenarios by their names, and turns to real time if they want it.
func (o *runOptions) scenarios(names []string) (some []*lab.Scenario, err error) {
	inReal := 0
	for _, name := range names {
		i := slices.IndexFunc(lab.Scenarios, func(s lab.Scenario) bool { return s.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no scenario %q: choose among %s", name, strings.Join(lab.Names(), ", "))
		}
		some = append(some, &lab.Scenarios[i])
		if some[len(some)-1].RealTime {
			inReal++
		}
	}
	switch {
	case inReal == len(some):
		o.real = true
	case inReal > 0 && !o.real:
		return nil, errors.New("some of these scenarios are in real time and some are not: run them apart, or all with --real")
	}
	return some, nil
}

func (o *runOptions) checkBaseline() error {
	if o.baseline != "" && !slices.Contains(o.tunnels, o.baseline) {
		return fmt.Errorf("--baseline %s is not among the --tunnels that are measured", o.baseline)
	}
	return nil
}

// binaries are the programs that are measured. Whether they are there is for
// preflight to find out.
func (o *runOptions) binaries() tunnels.Binaries {
	return tunnels.Binaries{Kiloport: absolute(o.kiloport), WireguardGo: absolute(o.wireguardGo)}
}

// absolute is a path that means the same in another folder.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path // the folder that this program is in is gone
}

func (o *runOptions) experiments(s *lab.Scenario, binaries tunnels.Binaries) (all []lab.Experiment, err error) {
	e := lab.Experiment{Scenario: s.Name, IPv4: o.ipv4, Load: s.Load, Binaries: binaries}
	if o.seconds > 0 {
		e.Load = time.Duration(o.seconds) * time.Second
	}
	if e.Load < s.Shortest() {
		return nil, fmt.Errorf("--seconds %d: scenario %s takes %.0f at least, as its figures leave out how the load begins", o.seconds, s.Name, s.Shortest().Seconds())
	}
	repeat := s.Repetitions
	if o.repeat > 0 {
		repeat = o.repeat
	}
	if inLab := !s.RealTime && !o.real && o.kernel != kernelStock; !inLab || o.congestion != linuxCongestion {
		e.Congestion = o.congestion // the lab kernel has Linux's
	}
	flows := o.flows
	if len(flows) == 0 || s.RealTime {
		flows = []int{s.Flows}
	}
	for _, tunnel := range o.tunnels {
		if _, _, err := tunnels.Ends(tunnel, binaries, nil); err != nil {
			return nil, err
		}
	}
	paths, err := o.paths(s)
	if err != nil {
		return nil, err
	}
	cases, err := o.choose(s)
	if err != nil {
		return nil, err
	}
	for _, e.Path = range paths {
		for _, e.Flows = range flows {
			for _, e.Case = range cases {
				all = append(all, o.turns(s, e, repeat)...)
			}
		}
	}
	return all, nil
}

// paths are those that the flags and the scenario make of the rates.
func (o *runOptions) paths(s *lab.Scenario) (paths []netlab.Path, err error) {
	if s.RealTime {
		return []netlab.Path{{}}, nil
	}
	for _, rate := range o.rates {
		p, err := o.path(s, rate)
		if err != nil {
			return nil, err
		}
		paths = append(paths, p)
	}
	return paths, nil
}

// linuxCongestion is what Linux has unless its distributor or administrator decides
// otherwise, as on some servers.
const linuxCongestion = "cubic"

// choose are the scenario's cases that were asked for; one without a name where
// it has none.
func (o *runOptions) choose(s *lab.Scenario) ([]string, error) {
	all := s.Cases()
	if len(all) == 0 {
		return []string{""}, nil
	}
	if len(o.cases) == 0 {
		return all, nil
	}
	chosen := slices.DeleteFunc(slices.Clone(all), func(name string) bool { return !slices.Contains(o.cases, name) })
	if len(chosen) == 0 {
		return nil, fmt.Errorf("--cases: scenario %s has none of them: choose among %s", s.Name, strings.Join(all, ", "))
	}
	return chosen, nil
}

// turns are the repetitions of an experiment through every tunnel, each with a seed
// of its own, the same for all tunnels. In real time the tunnels take turns, so that
// what else the machine does meets all of them.
func (o *runOptions) turns(s *lab.Scenario, e lab.Experiment, repeat int) (all []lab.Experiment) {
	for _, e.Tunnel = range o.tunnels {
		if s.Own && !strings.HasPrefix(e.Tunnel, tunnelKiloport) {
			continue
		}
		for _, e.Settings = range o.variants(e.Tunnel, s.Settings(&e)) {
			for e.Repetition = 1; e.Repetition <= repeat; e.Repetition++ {
				e.Seed = o.seed + uint64(e.Repetition) - 1
				all = append(all, e)
			}
		}
	}
	if o.real {
		slices.SortStableFunc(all, func(a, b lab.Experiment) int { return a.Repetition - b.Repetition })
	}
	return all
}

// variants are the settings that a tunnel is measured with, one after the other:
// those of the scenario, and after them those that were asked for.
func (o *runOptions) variants(tunnel string, scenario []string) (all [][]string) {
	settings := slices.Concat(scenario, o.settings)
	switch {
	case !strings.HasPrefix(tunnel, tunnelKiloport):
		return [][]string{nil}
	case len(o.ports) == 0 || tunnel != tunnelKiloport: // the other one has its size in its name
		return [][]string{settings}
	}
	for _, n := range o.ports {
		all = append(all, append([]string{fmt.Sprintf("Ports = %d", n)}, settings...))
	}
	return all
}

// Tunnels that the command treats in another way than the rest.
const tunnelKiloport = "kiloport"

// maxPorts is what kiloport takes for the size of its pool.
const maxPorts = 16383

func (o *runOptions) checkPorts() error {
	for _, n := range o.ports {
		if n < 1 || n > maxPorts {
			return fmt.Errorf("--ports %d is not within 1 to %d", n, maxPorts)
		}
	}
	if len(o.ports) > 0 && !slices.Contains(o.tunnels, tunnelKiloport) {
		return errors.New("--ports is for kiloport, which is not among the --tunnels")
	}
	return nil
}

func (o *runOptions) checkFlows() error {
	const most = 2000 // gateways note some 65 000 kinds of packets
	for _, n := range o.flows {
		if n < 1 || n > most {
			return fmt.Errorf("--flows %d is not within 1 to %d", n, most)
		}
	}
	return nil
}

// path is what the flags and the scenario make of one rate.
func (o *runOptions) path(s *lab.Scenario, rate string) (p netlab.Path, err error) {
	up, down, two := strings.Cut(rate, "/")
	if !two {
		down = up
	}
	if p.RateUp, err = megabits(up); err == nil {
		p.RateDown, err = megabits(down)
	}
	if err != nil {
		return p, fmt.Errorf("--rates %s: %w", rate, err)
	}
	p.RTT, p.MTU, p.Loss = o.rtt, o.mtu, o.loss
	p.Qdisc = netlab.Qdisc{Kind: o.qdisc}
	if p.Qdisc.Kind != netlab.KindPfifo && p.Qdisc.Kind != netlab.KindSFQ && p.Qdisc.Kind != netlab.KindFQ {
		p.Qdisc.ECN = o.ecn || s.ECN
		p.Qdisc.CEThreshold = s.CEThreshold
	}
	p.Burst = o.burst
	s.Path(&p)
	return p, p.Validate()
}

func megabits(s string) (int64, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f < 0 {
		return 0, fmt.Errorf("%q is not a rate in Mbit/s", s)
	}
	return int64(f * 1e6), nil
}
