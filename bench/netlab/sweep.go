package netlab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespaceFolder is where iproute2 and this package keep named namespaces.
const namespaceFolder = "/run/netns"

// shareFolder makes the folder of namespaces a mount point that is shared between
// mount namespaces, as `ip netns add` does when it is first used. If iproute2 were
// to do that later, it would hide the mounts that are already there, and nobody
// could remove them.
func shareFolder() error {
	if err := os.MkdirAll(namespaceFolder, 0o755); err != nil {
		return fmt.Errorf("make the folder for namespaces: %w", err)
	}
	folder, err := os.Open(namespaceFolder)
	if err != nil {
		return fmt.Errorf("open the folder for namespaces: %w", err)
	}
	defer folder.Close()
	// Two who do it at the same time would do it twice.
	if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", namespaceFolder, err)
	}
	share := func() error { return unix.Mount("", namespaceFolder, "none", unix.MS_SHARED|unix.MS_REC, "") }
	err = share()
	if errors.Is(err, unix.EINVAL) { // no mount point yet
		if err := unix.Mount(namespaceFolder, namespaceFolder, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("make %s a mount point: %w (in a container, run it with CAP_SYS_ADMIN)", namespaceFolder, err)
		}
		err = share()
	}
	if err != nil {
		return fmt.Errorf("share %s: %w", namespaceFolder, err)
	}
	return nil
}

// Sweep removes the namespaces of labs whose process is dead, together with the
// processes that still run inside them, and returns their names. A namespace is
// known by its name, which holds the process id and start time of its maker, so
// nothing of a living process or of another program is touched.
func Sweep() ([]string, error) {
	entries, err := os.ReadDir(namespaceFolder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for abandoned namespaces: %w", err)
	}
	var swept []string
	var errs []error
	for _, e := range entries {
		if !abandoned(e.Name()) {
			continue
		}
		killInside(filepath.Join(namespaceFolder, e.Name()))
		err := removeNamespace(e.Name())
		if err == nil {
			swept = append(swept, e.Name())
		}
		errs = append(errs, err)
	}
	return swept, errors.Join(errs...)
}

// abandoned reports whether name belongs to a lab whose process has gone.
func abandoned(name string) bool {
	pid, start, ok := parseName(name)
	if !ok {
		return false
	}
	now, err := startTime(pid)
	return errors.Is(err, fs.ErrNotExist) || err == nil && now != start
}

// parseName reads the maker's process id and start time out of a namespace's
// name: kiloport-PID-START-COUNT-NODE.
func parseName(name string) (pid int, start uint64, ok bool) {
	parts := strings.SplitN(name, "-", 5)
	if len(parts) != 5 || parts[0] != namePrefix {
		return 0, 0, false
	}
	pid, err := strconv.Atoi(parts[1])
	if err != nil || pid <= 0 {
		return 0, 0, false
	}
	start, err = strconv.ParseUint(parts[2], 10, 64)
	return pid, start, err == nil
}

// startTime is when the process pid started, in clock ticks since boot
// (proc(5), field 22 of stat); with the pid it names a process for good.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, syscall.ESRCH) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return 0, fmt.Errorf("read the start time of process %d: %w", pid, err)
	}
	// The second field, the program's name, may hold spaces and parentheses.
	rest := string(stat[strings.LastIndexByte(string(stat), ')')+1:])
	fields := strings.Fields(rest)
	const startField = 22 - 3
	if len(fields) <= startField {
		return 0, fmt.Errorf("read the start time of process %d: stat is too short", pid)
	}
	return strconv.ParseUint(fields[startField], 10, 64)
}

// removeNamespace unbinds a namespace; one that has gone already is no error.
func removeNamespace(name string) error {
	path := filepath.Join(namespaceFolder, name)
	err := unix.Unmount(path, unix.MNT_DETACH)
	// EINVAL: the file was made, but nothing was bound to it yet.
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the namespace %s: unmount: %w (by hand: ip netns del %s)", name, err, name)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the namespace %s: %w (by hand: ip netns del %s)", name, err, name)
	}
	return nil
}

// killInside kills the processes inside the namespace at path, but for this
// one, and gives them up to a second to go.
func killInside(path string) {
	for range 20 {
		pids := inside(path)
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// inside lists the processes in the namespace at path, but for this one.
func inside(path string) []int {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil
	}
	defer ns.Close()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		other, err := netns.GetFromPid(pid)
		if err != nil {
			continue
		}
		if other.Equal(ns) {
			pids = append(pids, pid)
		}
		other.Close()
	}
	return pids
}
