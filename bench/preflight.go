package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"kiloport/bench/lab"
	"kiloport/bench/netlab"
	"kiloport/bench/tunnels"
)

// preflight finds out before anything is measured what would hinder it, and gives
// the plan without the tunnels that are left out. Those are tunnels that nobody
// asked for by name, and that this machine cannot run.
func (o *runOptions) preflight(ctx context.Context, plan []lab.Experiment, progress io.Writer) ([]lab.Experiment, error) {
	if o.inThisKernel() {
		if os.Geteuid() != 0 {
			return nil, errors.New("measure in this kernel: not root; run this as root, or under sudo")
		}
		if err := missingQueues(plan); err != nil {
			return nil, err
		}
	}
	kept := o.tunnels[:0:0]
	for _, tunnel := range o.tunnels {
		err := o.possible(ctx, tunnel)
		switch {
		case err == nil:
			kept = append(kept, tunnel)
		case o.tunnelsNamed || strings.HasPrefix(tunnel, tunnelKiloport):
			return nil, fmt.Errorf("tunnel %s: %w", tunnel, err)
		default:
			fmt.Fprintf(progress, "bench run: without %s: %v\n", tunnel, err)
		}
	}
	o.tunnels = kept
	return slices.DeleteFunc(plan, func(e lab.Experiment) bool { return !slices.Contains(kept, e.Tunnel) }), nil
}

// inThisKernel tells whether no other kernel boots for the experiments.
func (o *runOptions) inThisKernel() bool { return o.real && o.kernel != kernelStock }

// possible is nil if the tunnel can be run.
func (o *runOptions) possible(ctx context.Context, tunnel string) error {
	if err := tunnels.Installed(tunnel, o.binaries()); err != nil {
		return err
	}
	if o.inThisKernel() {
		return tunnels.Supported(ctx, tunnel)
	}
	return nil
}

// missingQueues is nil if this kernel has all the queues of a plan.
func missingQueues(plan []lab.Experiment) error {
	seen := map[netlab.Path]bool{}
	for i := range plan {
		path := plan[i].Path
		if seen[path] || path == (netlab.Path{}) {
			continue
		}
		seen[path] = true
		if err := netlab.Missing(path); err != nil {
			var lacks *netlab.MissingError
			if errors.As(err, &lacks) {
				return fmt.Errorf("measure in this kernel (--real): %w; without --real the lab kernel is used", err)
			}
			return err
		}
	}
	return nil
}

// leastSpace is what must be free for a report, in bytes. A run has some 400 kB.
const leastSpace = 64 << 20

// reserve makes the folder of a report, and finds out whether something can be
// written there. It is undone by release, as far as nothing has been written.
func reserve(dir string) (release func(), err error) {
	var made []string // innermost first
	for missing := filepath.Clean(dir); ; missing = filepath.Dir(missing) {
		if _, err := os.Stat(missing); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		made = append(made, missing)
	}
	release = func() {
		for _, folder := range made {
			if os.Remove(folder) != nil { // it has something in it
				return
			}
		}
	}
	err = os.MkdirAll(dir, 0o755)
	if err == nil {
		err = unix.Access(dir, unix.W_OK|unix.X_OK)
	}
	var stat unix.Statfs_t
	if err == nil {
		err = unix.Statfs(dir, &stat)
	}
	if free := stat.Bavail * uint64(stat.Bsize); err == nil && free < leastSpace {
		err = fmt.Errorf("%d MiB are free there, of %d that a report may need", free>>20, leastSpace>>20)
	}
	if err != nil {
		release()
		return nil, fmt.Errorf("make the folder of the report %s: %w; name another with --out", dir, err)
	}
	return release, nil
}
