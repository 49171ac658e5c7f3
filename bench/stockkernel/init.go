package stockkernel

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"kiloport/bench/guest"
)

// initEnv tells the init, by way of the kernel's command line, that it is one. Its
// value is the kernel's release.
const initEnv = "KILOPORT_STOCKKERNEL"

// RunIfInit turns this process into the init of a stock kernel if it was started
// as one, and then does not return. Call it first in main, and in TestMain.
func RunIfInit() {
	if release := os.Getenv(initEnv); os.Getpid() == 1 && release != "" {
		guest.Init(ninep{release})
	}
}

// Tags by which the guest knows the folders of its host.
const (
	rootTag    = "root"
	jobTag     = "job"
	modulesTag = "modules"
)

func shareTag(i int) string { return fmt.Sprintf("share%d", i) }

// ninep is how the guest has its host's files: by the 9P protocol over virtio.
type ninep struct{ release string }

var _ guest.Files = ninep{}

// Prepare implements guest.Files.
func (ninep) Prepare() error {
	list, err := os.ReadFile("/" + loadName)
	if err != nil {
		return err
	}
	for _, file := range strings.Fields(string(list)) {
		if err := loadModule(path.Join("/"+modulesFolder, file)); err != nil {
			return err
		}
	}
	return nil
}

func loadModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(file, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load the module %s: %w", filepath.Base(file), err)
	}
	return nil
}

// What is only read is cached, and what host and guest share is not: each write
// gets to the host before the writer goes on.
const (
	readOnly = "cache=loose"
	shared   = "cache=none"
)

func mount(tag, target string, flags uintptr, cache string) error {
	const options = "trans=virtio,version=9p2000.L,msize=512000,"
	m := guest.Mount{Source: tag, Target: target, Kind: "9p", Flags: flags, Data: options + cache}
	return m.Do()
}

// Job implements guest.Files.
func (ninep) Job(target string) error { return mount(jobTag, target, 0, shared) }

// Root implements guest.Files.
func (ninep) Root() (string, error) {
	const folder = guest.Stage + "/host"
	return folder, mount(rootTag, folder, unix.MS_RDONLY, readOnly)
}

// Share implements guest.Files.
func (ninep) Share(i int, path string) error {
	return mount(shareTag(i), path, unix.MS_NOSUID|unix.MS_NODEV, shared)
}

// Complete implements guest.Files: it adds the kernel's modules.
func (n ninep) Complete() error {
	return mount(modulesTag, "/lib/modules/"+n.release, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, readOnly)
}
