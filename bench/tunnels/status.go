package tunnels

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

// A Status is what `kiloport show NAME --json` says, as far as it is used here.
type Status struct {
	Up   bool `json:"up"`
	Pool struct {
		Limit int `json:"limit"` // source ports that can be had
		Open  int `json:"open"`
	} `json:"pool"`
	Queue struct {
		Marked uint64 `json:"marked"` // packets, by its own CoDel
	} `json:"queue"`
	// Attached are the interfaces that carry the programs of `kiloport attach`.
	Attached []string     `json:"attached"`
	Peers    []PeerStatus `json:"peers"`
	// Drops are datagrams of no peer, by reason, SendErrors by errno.
	Drops      map[string]uint64 `json:"drops"`
	SendErrors map[string]uint64 `json:"send_errors"`
}

// PeerStatus is one peer of a [Status].
type PeerStatus struct {
	Mode    string `json:"mode"`
	Reason  string `json:"reason"`
	PathMTU int    `json:"path_mtu"` // bytes, outer headers included
	Lanes   struct {
		Agreed int    `json:"agreed"`
		InUse  int    `json:"in_use"`
		Shared int    `json:"shared"`
		Dead   int    `json:"dead"`
		Moved  uint64 `json:"moved"` // flows whose lane died
	} `json:"lanes"`
	Sent struct {
		Packets uint64 `json:"packets"`
		Bytes   uint64 `json:"bytes"` // of the UDP payload
	} `json:"sent"`
	Received struct {
		Packets uint64 `json:"packets"`
	} `json:"received"`
	Attached struct {
		Spread     uint64 `json:"spread"`
		Restored   uint64 `json:"restored"`
		Strange    uint64 `json:"strange"`
		Unaccepted uint64 `json:"unaccepted"`  // bytes
		PortsAsked int    `json:"ports_asked"` // 0: all
	} `json:"attached"`
	Drops map[string]uint64 `json:"drops"`
}

// ModeDirect is the mode of a peer in which data goes on lanes from ports of our own
// to its listen port.
const ModeDirect = "direct"

// modeOff is that of a peer whose flows the configuration does not tell apart.
const modeOff = "off"

// Spreads says whether data to the peer leaves the ordinary path between the listen
// ports.
func (p *PeerStatus) Spreads() bool {
	switch p.Mode {
	case modeOff, "stock", "probing", "fallback":
		return false
	}
	return true
}

// Show asks the daemon of an interface how it is.
func Show(ctx context.Context, node *netlab.Node, binary, dev string) (*Status, error) {
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

func parseStatus(b []byte) (*Status, error) {
	var s Status
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("read what kiloport show --json printed: %w", err)
	}
	return &s, nil
}

// Peer is the one peer of a demonstration's daemon.
func (s *Status) Peer() (*PeerStatus, error) {
	if len(s.Peers) != 1 {
		return nil, fmt.Errorf("kiloport show tells of %d peers, not of one", len(s.Peers))
	}
	return &s.Peers[0], nil
}

// AwaitLanes returns when both ends have agreed on lanes and use them.
func (t *Tunnel) AwaitLanes(ctx context.Context, binary string) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for _, e := range []End{t.A, t.B} {
		for {
			err := e.CheckLanes(ctx, binary)
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

// CheckLanes is nil if the end has agreed on lanes and uses them; binary is
// kiloport.
func (e End) CheckLanes(ctx context.Context, binary string) error {
	s, err := Show(ctx, e.Site.Node, binary, e.Dev)
	if err != nil {
		return err
	}
	peer, err := s.Peer()
	if err != nil {
		return err
	}
	if peer.Mode == modeOff {
		return nil // as the configuration has it: one port is plain WireGuard
	}
	if !peer.Spreads() || peer.Lanes.Agreed == 0 {
		return fmt.Errorf("%s is in mode %s with %d lanes agreed on: %s", e.Dev, peer.Mode, peer.Lanes.Agreed, peer.Reason)
	}
	return nil
}
