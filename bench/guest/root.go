package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A Mount is one call of mount(2), its parameters in their order, on a folder that
// is made where it is missing.
type Mount struct {
	Source, Target, Kind string
	Flags                uintptr
	Data                 string
}

// Do mounts.
func (m *Mount) Do() error {
	if err := os.MkdirAll(m.Target, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", m.Kind, err)
	}
	if err := unix.Mount(m.Source, m.Target, m.Kind, m.Flags, m.Data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.Kind, m.Target, err)
	}
	return nil
}

// rootMounts are a root that looks like the host's, and in which everything can
// be written: an overlay of memory above the host's files.
func rootMounts(hostFiles string) []Mount {
	const harmless = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	overlay := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", hostFiles, Stage, Stage)
	return []Mount{
		{"overlay", newRoot, "overlay", 0, overlay},
		{"proc", newRoot + "/proc", "proc", harmless, ""},
		{"sysfs", newRoot + "/sys", "sysfs", harmless, ""},
		{"bpf", newRoot + "/sys/fs/bpf", "bpf", harmless, ""},
		{"devtmpfs", newRoot + "/dev", "devtmpfs", unix.MS_NOSUID, ""},
		{"devpts", newRoot + "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620"},
		{"tmpfs", newRoot + "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"tmpfs", newRoot + "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
	}
}

// enterRoot makes the command's root and moves this process there.
func (j *job) enterRoot(files Files) error {
	hostFiles, err := files.Root()
	if err != nil {
		return err
	}
	for _, folder := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(Stage, folder), 0o755); err != nil {
			return err
		}
	}
	for _, m := range rootMounts(hostFiles) {
		if err := m.Do(); err != nil {
			return err
		}
	}
	if err := completeDev(newRoot + "/dev"); err != nil {
		return err
	}
	if err := unix.Chroot(newRoot); err != nil {
		return fmt.Errorf("enter the guest's root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	// Only now, because a link on the way to a share is meant inside this root.
	for i, path := range j.Share {
		if err := files.Share(i, path); err != nil {
			return err
		}
	}
	return files.Complete()
}

// completeDev adds what a bare devtmpfs does not have and programs expect.
func completeDev(dev string) error {
	links := map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0",
		"stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	// The kernel makes it where it has TUN; some make it only on first use.
	tun := filepath.Join(dev, "net", "tun")
	if _, err := os.Stat(tun); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(tun), 0o755); err != nil {
		return err
	}
	if err := unix.Mknod(tun, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil {
		return fmt.Errorf("make %s: %w", strings.TrimPrefix(tun, newRoot), err)
	}
	return nil
}
