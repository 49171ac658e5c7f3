package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"kiloport/bench/netlab"
)

// A status is what `kiloport show NAME --json` says, as far as it is used here.
type status map[string]any

// show asks the daemon of an interface how it is.
func show(ctx context.Context, node *netlab.Node, binary, dev string) (status, error) {
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
	var s status
	if err := json.Unmarshal(out.Bytes(), &s); err != nil {
		return nil, fmt.Errorf("read what kiloport show %s --json printed: %w", dev, err)
	}
	return s, nil
}

// lanes adds up the lanes that the daemon says it is sending on to its peers.
func (s status) lanes() (int, bool) {
	peers, ok := field(s, "peers").([]any)
	if !ok {
		return 0, false
	}
	total := 0
	for _, p := range peers {
		peer, ok := p.(map[string]any)
		if !ok {
			return 0, false
		}
		switch lanes := field(peer, "lanes").(type) {
		case float64:
			total += int(lanes)
		case []any:
			total += len(lanes)
		default:
			return 0, false
		}
	}
	return total, true
}

// field finds a member of a JSON object, in whatever case it is spelled.
func field(object map[string]any, name string) any {
	for key, value := range object {
		if strings.EqualFold(key, name) {
			return value
		}
	}
	return nil
}
