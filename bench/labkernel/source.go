package labkernel

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"kiloport/bench/host"
)

// needs are what a build uses.
var needs = []host.Need{
	{Name: "gcc", Package: "gcc"},
	{Name: "ld", Package: "binutils"},
	{Name: "strip", Package: "binutils"},
	{Name: "make", Package: "make"},
	{Name: "bc", Package: "bc"},
	{Name: "bison", Package: "bison"},
	{Name: "flex", Package: "flex"},
	{Name: "tar", Package: "tar"},
	{Name: "xz", Package: "xz-utils"},
	{Name: "/usr/include/stdlib.h", Package: "libc6-dev"},
	{Name: "/usr/include/gelf.h", Package: "libelf-dev"},
	{Name: "/usr/include/openssl/ssl.h", Package: "libssl-dev"},
}

// sourcePackages are Debian's packages of kernels known to do, the best first.
var sourcePackages = []string{"linux-source-6.12", "linux-source-6.1"}

// A source is a package with the kernel's source.
type source struct {
	pkg, version string
	installed    bool
}

func (s source) archive() string { return "/usr/src/" + s.pkg + ".tar.xz" }

// findSource finds the package to build from: installed, or else known to apt.
func findSource(ctx context.Context, h *host.Host) (source, error) {
	for _, pkg := range sourcePackages {
		if s, ok := installedSource(ctx, h, pkg); ok {
			return s, nil
		}
	}
	if !h.Exists("apt-get") {
		return source{}, fmt.Errorf("there is no apt here to get the kernel's source with: install %s, which has %s",
			strings.Join(sourcePackages, " or "), source{pkg: sourcePackages[0]}.archive())
	}
	for _, pkg := range sourcePackages {
		version, err := h.Candidate(ctx, pkg)
		if err != nil {
			return source{}, err
		}
		if version != "" {
			return source{pkg: pkg, version: version}, nil
		}
	}
	return source{}, errNoSource
}

var errNoSource = errors.New("apt knows no package " + strings.Join(sourcePackages, " or ") +
	": add a Debian release's main and security archive to apt's sources, then run apt-get update")

func installedSource(ctx context.Context, h *host.Host, pkg string) (source, bool) {
	s := source{pkg: pkg, installed: true}
	if !h.Exists(s.archive()) || !h.Exists("dpkg-query") {
		return source{}, false
	}
	var err error
	s.version, err = h.Run(ctx, "", nil, "dpkg-query", "-W", "-f", "${Version}", pkg)
	return s, err == nil && s.version != ""
}
