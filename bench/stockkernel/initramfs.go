package stockkernel

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Names in the first root.
const (
	initName      = "init" // where the kernel looks for it
	modulesFolder = "modules"
	loadName      = modulesFolder + "/load" // the modules' files in order, one a line
)

// firstModules are what the init needs to see this machine's files.
var firstModules = []string{"virtio_pci", "9pnet_virtio", "9p", "overlay"}

// writeRoot writes the guest's first root: the init, and the modules without which
// it sees nothing else.
func (k *Kernel) writeRoot(to io.Writer, init string) error {
	known, err := readModules(k.Modules)
	if err != nil {
		return err
	}
	files, err := known.order(firstModules...)
	if err != nil {
		return err
	}
	w := &cpioWriter{to: to}
	w.folder(modulesFolder)
	var load strings.Builder
	for _, file := range files {
		fmt.Fprintln(&load, path.Base(file))
		if err := addFile(w, modulesFolder+"/"+path.Base(file), filepath.Join(k.Modules, file)); err != nil {
			return err
		}
	}
	w.file(loadName, 0o644, int64(load.Len()), strings.NewReader(load.String()))
	if err := addFile(w, initName, init); err != nil {
		return err
	}
	return w.close()
}

func addFile(w *cpioWriter, name, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	w.file(name, 0o755, info.Size(), f)
	return nil
}

// checkStatic refuses a program that could not run where there is no other file.
func checkStatic(program string) error {
	f, err := elf.Open(program)
	if err != nil {
		return fmt.Errorf("read the guest's init %s: %w", program, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s cannot be the guest's init, because it is not static: %w", program, errDynamic)
		}
	}
	return nil
}

var errDynamic = errors.New("build it with CGO_ENABLED=0 and without the race detector, or set Guest.Init to one that is")
