package stockkernel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Files that list the modules of a kernel: those of a package, which depmod has
// written, and those that are part of the kernel.
const (
	depName     = "modules.dep"
	builtinName = "modules.builtin"
)

// modules are what there is in a folder of modules, by their names without folder
// and suffix, in which - and _ are the same.
type modules struct {
	paths   map[string]string   // relative to the folder
	needs   map[string][]string // names
	builtin map[string]bool
}

// readModules reads the lists in a folder of modules.
func readModules(folder string) (*modules, error) {
	m := &modules{paths: map[string]string{}, needs: map[string][]string{}, builtin: map[string]bool{}}
	for name, parse := range map[string]func(io.Reader) error{depName: m.parseDep, builtinName: m.parseBuiltin} {
		f, err := os.Open(filepath.Join(folder, name))
		if errors.Is(err, fs.ErrNotExist) && name == builtinName {
			continue // then all of them are files
		}
		if err != nil {
			return nil, fmt.Errorf("read which modules there are: %w", err)
		}
		err = parse(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", f.Name(), err)
		}
	}
	return m, nil
}

// moduleName is the name of the module in a file.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// parseDep reads lines of a module's path, a colon, and the paths of those that it
// needs.
func (m *modules) parseDep(r io.Reader) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		file, needs, ok := strings.Cut(lines.Text(), ":")
		if !ok || !filepath.IsLocal(file) {
			return fmt.Errorf("%q is not a module's path and a colon", lines.Text())
		}
		name := moduleName(file)
		m.paths[name] = file
		m.needs[name] = nil
		for _, need := range strings.Fields(needs) {
			m.needs[name] = append(m.needs[name], moduleName(need))
		}
	}
	return lines.Err()
}

// parseBuiltin reads lines of a path that a module would have.
func (m *modules) parseBuiltin(r io.Reader) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		m.builtin[moduleName(lines.Text())] = true
	}
	return lines.Err()
}

// order lists the paths of modules and of all that they need, in an order in which
// they can be loaded. What is part of the kernel is left out.
func (m *modules) order(names ...string) (paths []string, err error) {
	done := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		if m.builtin[name] || done[name] {
			return nil
		}
		done[name] = true // before what it needs, because that may need it
		file, ok := m.paths[name]
		if !ok {
			return fmt.Errorf("the kernel has no module %s", name)
		}
		for _, need := range m.needs[name] {
			if err := add(need); err != nil {
				return fmt.Errorf("%w, which %s needs", err, name)
			}
		}
		paths = append(paths, file)
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return paths, nil
}
