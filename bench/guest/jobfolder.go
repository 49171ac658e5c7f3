package guest

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"kiloport/bench/host"
)

const (
	jobPrefix = "kiloport-guest-"
	ownerName = "owner" // locked while the job's host lives
	// youth is how long a folder may be without its lock.
	youth = time.Minute
)

// newJobFolder makes the folder that host and guest share, and in it the empty
// files for what the guest has to say. It first removes those whose hosts were
// killed. The caller calls remove.
func newJobFolder(base string, j *job) (folder string, remove func(), err error) {
	sweepJobs(base, time.Now())
	if folder, err = host.TempFolder(base, jobPrefix); err != nil {
		return "", nil, err
	}
	owner, err := os.Create(filepath.Join(folder, ownerName))
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(folder))
	}
	remove = func() {
		_ = os.RemoveAll(folder) // or a later job does it
		owner.Close()
	}
	err = errors.Join(unix.Flock(int(owner.Fd()), unix.LOCK_EX|unix.LOCK_NB), writeJob(folder, j))
	if err != nil {
		remove()
		return "", nil, err
	}
	return folder, remove, nil
}

func writeJob(folder string, j *job) error {
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{jobName: text, stdoutName: nil, stderrName: nil, outcomeName: nil} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// sweepJobs removes the folders of jobs whose hosts are dead. Failures are of
// no account: those folders are in nobody's way.
func sweepJobs(base string, now time.Time) {
	owners, err := filepath.Glob(filepath.Join(base, jobPrefix+"*", ownerName))
	if err != nil {
		return
	}
	for _, path := range owners {
		if info, err := os.Stat(path); err != nil || now.Sub(info.ModTime()) < youth {
			continue
		}
		owner, err := os.Open(path)
		if err != nil {
			continue
		}
		if unix.Flock(int(owner.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.RemoveAll(filepath.Dir(path))
		}
		owner.Close()
	}
}

// QuickFolder is where a guest's memory and output are kept, the folder for
// temporary files unless /dev/shm is at hand: nothing waits there for a disk. In
// a container it often is tiny, and a guest that finds it full dies of it.
func QuickFolder() string {
	const shm, large = "/dev/shm", 1 << 30
	var stat unix.Statfs_t
	if err := unix.Statfs(shm, &stat); err == nil && int64(stat.Bavail)*stat.Bsize >= large && unix.Access(shm, unix.W_OK) == nil {
		return shm
	}
	return os.TempDir()
}
