package host

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// A Need is a file or program that something uses, and the Debian package that
// has it.
type Need struct {
	// Name is a path, or the name of a program without a slash.
	Name string
	// Package is the name of the package.
	Package string
}

// Missing lists the packages of what is not there, each once.
func (h *Host) Missing(needs []Need) []string {
	var list []string
	for _, n := range needs {
		if !h.Exists(n.Name) && !slices.Contains(list, n.Package) {
			list = append(list, n.Package)
		}
	}
	return list
}

// Candidate is the version of a package that apt would install, "" if it knows
// no such package.
func (h *Host) Candidate(ctx context.Context, pkg string) (string, error) {
	policy, err := h.Run(ctx, "", nil, "apt-cache", "policy", pkg)
	if err != nil {
		return "", err
	}
	return candidate(policy), nil
}

func candidate(policy string) string {
	for line := range strings.Lines(policy) {
		if version, ok := strings.CutPrefix(strings.TrimSpace(line), "Candidate: "); ok && version != "(none)" {
			return version
		}
	}
	return ""
}

// Install installs packages with apt, as they are known to it or, if that fails,
// after an update.
func (h *Host) Install(ctx context.Context, packages []string) error {
	list := strings.Join(packages, " ")
	switch {
	case !h.Exists("apt-get"):
		return fmt.Errorf("there is no apt here: install these, or what your distribution calls them: %s", list)
	case !h.Root:
		return fmt.Errorf("not root: run once as root: apt-get install %s", list)
	}
	args := append([]string{"install", "-q", "-y", "--no-install-recommends"}, packages...)
	if _, err := h.Run(ctx, "", nil, "apt-get", args...); err == nil {
		return nil
	}
	if err := h.Update(ctx); err != nil {
		return err
	}
	if _, err := h.Run(ctx, "", nil, "apt-get", args...); err != nil {
		return fmt.Errorf("install %s: %w", list, err)
	}
	return nil
}

// Update gets apt new lists of packages, for which it has to be root.
func (h *Host) Update(ctx context.Context) error {
	_, err := h.Run(ctx, "", nil, "apt-get", "update", "-q")
	return err
}
