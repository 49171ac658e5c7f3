package stockkernel

import (
	"cmp"
	"context"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"kiloport/bench/host"
)

const (
	packagePrefix = "linux-image-"
	// wantedSeries is the kernel that the lab kernel has, too.
	wantedSeries = packagePrefix + "6.12."
	// metaPackage depends on the kernel of the release, whatever it is.
	metaPackage = "linux-image-amd64"
)

// An image is a package with a kernel in it, in the version that apt would get.
type image struct{ name, version string }

var errNoImage = errors.New("apt knows no package " + wantedSeries + "*-amd64 and no " + metaPackage +
	": add a Debian release's main and security archive to apt's sources, then run apt-get update")

// imageName is what packages of signed kernels for all machines are called:
// linux-image-6.12.117+deb12-amd64, linux-image-6.1.0-38-amd64. Others are for a
// cloud or for real time, unsigned, symbols for a debugger, or empty packages.
var imageName = regexp.MustCompile(`^linux-image-[0-9]+\.[0-9]+\.[0-9]+[^-]*(-[0-9]+)?-amd64$`)

// newestImage asks apt for the newest kernel of the wanted series, or else for
// that of the release.
func newestImage(ctx context.Context, h *host.Host) (image, error) {
	known, err := h.Run(ctx, "", nil, "apt-cache", "pkgnames", wantedSeries)
	if err != nil {
		return image{}, err
	}
	if i, err := firstCandidate(ctx, h, newestFirst(strings.Fields(known))); !errors.Is(err, errNoImage) {
		return i, err
	}
	depends, err := h.Run(ctx, "", nil, "apt-cache", "depends", metaPackage)
	if err != nil { // as where it does not know the package
		return image{}, errors.Join(errNoImage, err)
	}
	return firstCandidate(ctx, h, newestFirst(strings.Fields(depends)))
}

// firstCandidate is the first package that apt could get. Others are only
// mentioned, by packages that go with them.
func firstCandidate(ctx context.Context, h *host.Host, names []string) (image, error) {
	for _, name := range names {
		version, err := h.Candidate(ctx, name)
		if err != nil {
			return image{}, err
		}
		if version != "" {
			return image{name, version}, nil
		}
	}
	return image{}, errNoImage
}

// newestFirst are the names that are a kernel's, the newest first.
func newestFirst(names []string) []string {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !imageName.MatchString(name) })
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(slices.Compare(numbers(b), numbers(a)), cmp.Compare(b, a))
	})
	return slices.Compact(names)
}

var digits = regexp.MustCompile(`[0-9]+`)

// numbers are those in a name, in its order.
func numbers(name string) (list []int) {
	for _, text := range digits.FindAllString(strings.TrimSuffix(name, "-amd64"), -1) {
		n, _ := strconv.Atoi(text) // one that is too large counts as 0
		list = append(list, n)
	}
	return list
}
