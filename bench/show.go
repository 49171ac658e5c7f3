package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"kiloport/bench/netlab"
)

// A status is what `kiloport show NAME --json` says, as far as it is used here.
type status struct {
	Up   bool `json:"up"`
	Pool struct {
		Limit int `json:"limit"` // source ports that can be had
		Open  int `json:"open"`
	} `json:"pool"`
	Peers []peerStatus `json:"peers"`
}

type peerStatus struct {
	Mode   string `json:"mode"`
	Reason string `json:"reason"`
	Lanes  struct {
		Agreed int    `json:"agreed"`
		InUse  int    `json:"in_use"`
		Shared int    `json:"shared"`
		Moved  uint64 `json:"moved"` // flows whose lane died
	} `json:"lanes"`
	Drops map[string]uint64 `json:"drops"`
}

// modeDirect is the mode of a peer in which data goes on lanes of their own.
const modeDirect = "direct"

// show asks the daemon of an interface how it is.
func show(ctx context.Context, node *netlab.Node, binary, dev string) (*status, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, "show", dev, "--json")
	cmd.Stdout = &out
	p, err := node.Start(cmd)
	if err != nil {
		return nil, err
	}
	if err := p.Wait(ctx); err != nil {
		return nil, err
	}
	return parseStatus(out.Bytes())
}

func parseStatus(b []byte) (*status, error) {
	var s status
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("read what kiloport show --json printed: %w", err)
	}
	return &s, nil
}

// peer is the one peer of a demonstration's daemon.
func (s *status) peer() (*peerStatus, error) {
	if len(s.Peers) != 1 {
		return nil, fmt.Errorf("kiloport show tells of %d peers, not of one", len(s.Peers))
	}
	return &s.Peers[0], nil
}

// awaitLanes returns when both ends have agreed on lanes and use them.
func (t *tunnel) awaitLanes(ctx context.Context, binary string) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for _, e := range []end{t.a, t.b} {
		for {
			err := e.checkLanes(ctx, binary)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return errors.Join(errors.New("the two ends did not agree on lanes in time"), err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}

func (e end) checkLanes(ctx context.Context, binary string) error {
	s, err := show(ctx, e.site.Node, binary, e.dev)
	if err != nil {
		return err
	}
	peer, err := s.peer()
	if err != nil {
		return err
	}
	if peer.Mode != modeDirect || peer.Lanes.Agreed == 0 {
		return fmt.Errorf("%s is in mode %s with %d lanes agreed on: %s", e.dev, peer.Mode, peer.Lanes.Agreed, peer.Reason)
	}
	return nil
}
