package stockkernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"kiloport/bench/host"
)

const (
	packagePrefix = "linux-image-"
	// usualSeries is that of the lab kernel, too.
	usualSeries = "6.12"
	// metaPackage depends on the kernel of the release, whatever it is.
	metaPackage = "linux-image-amd64"
)

// An image is a package with a kernel in it, in the version that apt would get.
type image struct{ name, version string }

// ErrNoImage says that apt knows no kernel of a series.
var ErrNoImage = errors.New("apt knows no such kernel: add a Debian release's main and security archive to apt's sources, then run apt-get update")

// imageName is what packages of signed kernels for all machines are called:
// linux-image-6.12.117+deb12-amd64, linux-image-6.1.0-38-amd64. Others are for a
// cloud or for real time, unsigned, symbols for a debugger, or empty packages.
var imageName = regexp.MustCompile(`^linux-image-[0-9]+\.[0-9]+\.[0-9]+[^-]*(-[0-9]+)?-amd64$`)

// newestImage asks apt for the newest kernel of a series, or in place of the usual
// one for that of the release.
func newestImage(ctx context.Context, h *host.Host, series string) (image, error) {
	prefix := packagePrefix + series + "."
	known, err := h.Run(ctx, "", nil, "apt-cache", "pkgnames", prefix)
	if err != nil {
		return image{}, err
	}
	i, err := firstCandidate(ctx, h, newestFirst(strings.Fields(known)))
	if errors.Is(err, ErrNoImage) && series == usualSeries {
		i, err = releaseImage(ctx, h)
	}
	if errors.Is(err, ErrNoImage) {
		err = fmt.Errorf("%s*-amd64: %w", prefix, err)
	}
	return i, err
}

// releaseImage asks apt for the kernel of the release.
func releaseImage(ctx context.Context, h *host.Host) (image, error) {
	depends, err := h.Run(ctx, "", nil, "apt-cache", "depends", metaPackage)
	if err != nil { // as where it does not know the package
		return image{}, errors.Join(ErrNoImage, err)
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
	return image{}, ErrNoImage
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
