package traffic

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"time"

	"kiloport/bench/netlab"
)

// roleEnv tells a started helper which side it is.
const roleEnv = "KILOPORT_BENCH_TRAFFIC"

const (
	roleClient = "client"
	roleServer = "server"
)

// RunIfHelper turns this process into a traffic helper if it was started as
// one, and then does not return. Call it first in main, and in TestMain.
func RunIfHelper() {
	var err error
	switch os.Getenv(roleEnv) {
	case "":
		return
	case roleClient:
		err = clientRole(os.Stdin, os.Stdout)
	case roleServer:
		err = serverRole(os.Stdin, os.Stdout)
	default:
		err = fmt.Errorf("unknown role %q", os.Getenv(roleEnv))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "traffic helper: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Between runs the plan with its client inside one node and its server inside
// another. Failures of flows are in the result, see [Result.Check]; an error
// means that there is no result. It is bounded by the times in the plan.
func Between(ctx context.Context, client, server *netlab.Node, plan Plan) (*Result, error) {
	if err := plan.complete(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, plan.bound())
	defer cancel()
	// Ping sockets are for the groups in this range; the default is nobody.
	if err := client.Sysctl("net/ipv4/ping_group_range", "0 2147483647"); err != nil {
		return nil, err
	}
	s, err := startHelper(ctx, server, roleServer, plan.server())
	if err != nil {
		return nil, err
	}
	defer s.stop()
	if _, err := s.line(); err != nil {
		return nil, fmt.Errorf("start the traffic server: %w", err)
	}
	c, err := startHelper(ctx, client, roleClient, plan)
	if err != nil {
		return nil, err
	}
	defer c.stop()
	var result Result
	if err := c.decode(&result); err != nil {
		return nil, fmt.Errorf("run the traffic client: %w", err)
	}
	if err := s.encode("report"); err != nil {
		return nil, fmt.Errorf("ask the traffic server for its report: %w", err)
	}
	var report serverReport
	if err := s.decode(&report); err != nil {
		return nil, fmt.Errorf("read the traffic server's report: %w", err)
	}
	result.merge(&plan, &report)
	return &result, nil
}

const dctcp = "dctcp"

// server is what the plan needs of its server.
func (p *Plan) server() serverConfig {
	c := serverConfig{Port: p.Port, Prompt: p.Prompt}
	seen := map[netip.Addr]bool{}
	for _, g := range p.Groups {
		if g.Kind != ICMPEcho && !seen[g.To] {
			seen[g.To] = true
			c.Addrs = append(c.Addrs, g.To)
		}
		// Only a listener with DCTCP accepts the ECN that DCTCP asks for, as
		// its first packet already is ECN-capable.
		if g.Congestion == dctcp {
			c.Congestion = dctcp
		}
	}
	return c
}

// bound is the time after which a plan can only have got stuck.
func (p *Plan) bound() time.Duration {
	bound := p.OpenTimeout + p.Duration + 2*p.Linger + time.Duration(p.IdleProbes)*roundTripPatience + 15*time.Second
	if p.RollCall {
		flows := 0
		for _, g := range p.Groups {
			flows += g.Count
		}
		bound += 2 * time.Duration(flows/len(rollLengths)+1) * rollPatience
	}
	return bound
}

// A helper is a started helper process with its two pipes.
type helper struct {
	process *netlab.Process
	in      *os.File
	out     *os.File
	reader  *bufio.Reader
	ctx     context.Context
}

// startHelper starts this program again in a role inside the node and gives it
// its configuration.
func startHelper(ctx context.Context, node *netlab.Node, role string, config any) (*helper, error) {
	inRead, inWrite, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start a traffic helper: %w", err)
	}
	defer inRead.Close()
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		inWrite.Close()
		return nil, fmt.Errorf("start a traffic helper: %w", err)
	}
	defer outWrite.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stdin, cmd.Stdout = inRead, outWrite
	h := &helper{in: inWrite, out: outRead, reader: bufio.NewReader(outRead), ctx: ctx}
	if h.process, err = node.Start(cmd); err != nil {
		return nil, errors.Join(err, inWrite.Close(), outRead.Close())
	}
	if err := h.encode(config); err != nil {
		h.stop()
		return nil, fmt.Errorf("configure the traffic %s: %w", role, err)
	}
	return h, nil
}

// stop ends the helper; closing its input is enough for one that is well.
func (h *helper) stop() {
	h.in.Close()
	_ = h.process.Stop() // its result has been taken, or its failure reported
	h.out.Close()
}

func (h *helper) encode(v any) error {
	if err := json.NewEncoder(h.in).Encode(v); err != nil {
		return h.explain(err)
	}
	return nil
}

func (h *helper) line() ([]byte, error) {
	line, err := h.reader.ReadBytes('\n')
	if err != nil {
		return nil, h.explain(err)
	}
	return line, nil
}

func (h *helper) decode(v any) error {
	line, err := h.line()
	if err != nil {
		return err
	}
	return json.Unmarshal(line, v)
}

// explain prefers what the helper said, or that it ran out of time, to the
// broken pipe that came of it.
func (h *helper) explain(err error) error {
	if h.ctx.Err() != nil {
		return h.ctx.Err()
	}
	if wait := h.process.Wait(h.ctx); wait != nil {
		return wait
	}
	return fmt.Errorf("the helper ended early: %w", err)
}

func clientRole(in io.Reader, out io.Writer) error {
	var plan Plan
	if err := json.NewDecoder(in).Decode(&plan); err != nil {
		return fmt.Errorf("read the plan: %w", err)
	}
	if plan.Prompt {
		if err := prompt(); err != nil {
			return err
		}
	}
	result, err := newClient(plan).run()
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(result)
}

// serverRole serves until its input ends; each line of it asks for a report.
func serverRole(in io.Reader, out io.Writer) error {
	decoder := json.NewDecoder(in)
	var config serverConfig
	if err := decoder.Decode(&config); err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	if config.Prompt {
		if err := prompt(); err != nil {
			return err
		}
	}
	s, err := listen(config)
	if err != nil {
		return err
	}
	defer s.close()
	if _, err := io.WriteString(out, "ready\n"); err != nil {
		return err
	}
	encoder := json.NewEncoder(out)
	for {
		var question string
		if err := decoder.Decode(&question); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read a request: %w", err)
		}
		if err := encoder.Encode(s.report()); err != nil {
			return err
		}
	}
}
