package tun

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Files gives descriptors of all queues of a device, for a process that goes on
// with them by [FromFiles] after the device here was closed. The link lives on
// while any of them is open, and what the host sends meanwhile waits in its queues.
// They are the caller's to close. A device that is none of the kernel's has none.
func Files(d Device) (files []*os.File, err error) {
	own, ok := d.(*device)
	if !ok {
		return nil, nil
	}
	for _, q := range own.queues {
		fd, err := duplicate(q.file)
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, fmt.Errorf("hand over the tun device %s: %w", d.Name(), err)
		}
		files = append(files, os.NewFile(uintptr(fd), "tun"))
	}
	return files, nil
}

// FromFiles is FromFile with the descriptors of several queues, as [Files] gives
// them. If there are more than Options ask for, the rest is closed.
func FromFiles(files []*os.File, o Options) (Device, error) {
	fds, err := duplicateAll(files)
	if err != nil {
		return nil, err
	}
	a := newAttacher(o)
	if err := a.takeOver(fds); err != nil {
		closeAll(fds)
		return nil, fmt.Errorf("take over file %s: %w", files[0].Name(), err)
	}
	d, err := start(a, o)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		f.Close()
	}
	return d, nil
}

func duplicateAll(files []*os.File) (fds []int, err error) {
	if len(files) == 0 || files[0] == nil {
		return nil, fmt.Errorf("take over a tun descriptor: there is no file: %w", os.ErrInvalid)
	}
	for _, f := range files {
		fd, err := duplicate(f)
		if err != nil {
			closeAll(fds)
			return nil, fmt.Errorf("take over file %s: %w: pass an open descriptor of %s after TUNSETIFF", f.Name(), err, cloneDevice)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// MemoryFile gives a file that is nowhere but in memory (memfd_create(2)), for what
// goes along with the descriptors. name is for people who look into /proc.
func MemoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
