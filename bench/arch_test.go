package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module      = "kiloport"
	moduleRoot  = ".."
	unixPackage = "golang.org/x/sys/unix"
)

// topFolders are all folders of the project.
var topFolders = []string{"bench", "cmd", "deploy", "flowhash", "portpool", "queue", "tunnel"}

// leaves know nothing of each other, nor of what is above them. What lies below
// a leaf belongs to it.
var leaves = []string{"flowhash", "portpool", "queue", "tunnel/ecn", "tunnel/noise", "tunnel/realtime", "tunnel/tun", "tunnel/uapi"}

// systemCallers may call the kernel by themselves.
var systemCallers = []string{"bench", "portpool", "tunnel/realtime", "tunnel/tun"}

// within tells whether the package at dir is one of the trees or below one, and
// which.
func within(dir string, trees []string) (string, bool) {
	for _, tree := range trees {
		if dir == tree || strings.HasPrefix(dir, tree+"/") {
			return tree, true
		}
	}
	return "", false
}

// mayImport is the rule of the layers: cmd → tunnel → leaves, and bench apart
// from all. Both are folders, relative to the root.
func mayImport(from, to string) bool {
	if tree, ok := within(from, leaves); ok {
		return to == tree || strings.HasPrefix(to, tree+"/")
	}
	_, toLeaf := within(to, leaves)
	_, toTunnel := within(to, []string{"tunnel"})
	top, _, _ := strings.Cut(from, "/")
	switch top {
	case "tunnel":
		return toLeaf || toTunnel
	case "cmd": // a command's packages are one program's
		command := strings.Join(strings.SplitN(from+"/", "/", 3)[:2], "/")
		return toLeaf || toTunnel || to == command || strings.HasPrefix(to, command+"/")
	default: // bench and deploy use the binary from outside
		return strings.HasPrefix(to, top+"/")
	}
}

func TestLayerRule(t *testing.T) {
	for _, test := range []struct {
		from, to string
		want     bool
	}{
		{"cmd/kiloport", "tunnel", true},
		{"cmd/kiloport", "cmd/kiloport/config", true},
		{"cmd/kiloport/sites", "cmd/kiloport/quick", true},
		{"cmd/kiloport/sites", "cmd/other", false},
		{"cmd/kiloport/sites", "cmd/kiloportal", false},
		{"cmd/kiloport", "bench/netlab", false},
		{"tunnel", "queue", true},
		{"tunnel", "tunnel/noise", true},
		{"tunnel", "cmd/kiloport", false},
		{"tunnel/attach", "flowhash", true},
		{"tunnel/tun", "tunnel/tun/offload", true},
		{"tunnel/tun/offload", "tunnel/tun", true},
		{"tunnel/tun", "tunnel", false},
		{"tunnel/tun", "tunnel/ecn", false},
		{"tunnel/noise", "tunnel/noisemaker", false},
		{"queue", "flowhash", false},
		{"bench", "bench/netlab", true},
		{"bench", "tunnel", false},
	} {
		if got := mayImport(test.from, test.to); got != test.want {
			t.Errorf("%s importing %s is allowed: %v, want %v", test.from, test.to, got, test.want)
		}
	}
}

// A source is one file of the project.
type source struct {
	path string // relative to the root
	dir  string
	test bool
	file *ast.File
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	fset := token.NewFileSet()
	err := filepath.WalkDir(moduleRoot, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() {
			if name != moduleRoot && (strings.HasPrefix(base, ".") || base == "testdata" || base == "bin") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(base, ".go") {
			return nil
		}
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(moduleRoot, name)
		if err != nil {
			return err
		}
		all = append(all, source{path: rel, dir: path.Dir(filepath.ToSlash(rel)), test: strings.HasSuffix(base, "_test.go"), file: file})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		for _, spec := range s.file.Imports {
			target, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if to, ours := strings.CutPrefix(target, module+"/"); ours && to != s.dir && !mayImport(s.dir, to) {
				t.Errorf("%s imports %s: dependencies go cmd → tunnel → leaves, and bench stands apart", s.path, target)
			}
			if _, allowed := within(s.dir, systemCallers); target == unixPackage && !s.test && !allowed {
				t.Errorf("%s imports %s: only %v make system calls of their own", s.path, target, systemCallers)
			}
			if target == "C" {
				t.Errorf("%s uses cgo: the binary is static and pure Go", s.path)
			}
		}
	}
}

func TestFolders(t *testing.T) {
	entries, err := os.ReadDir(moduleRoot)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := e.Name()
		switch {
		case strings.HasPrefix(name, ".") || name == "bin":
		case e.IsDir() && !slices.Contains(topFolders, name):
			t.Errorf("the folder %s is not one of %v", name, topFolders)
		case strings.HasSuffix(name, ".go"):
			t.Errorf("%s lies outside of the packages", name)
		}
	}
}

// TestEverythingPublicIsDocumented wants a comment on every package and on every
// exported name of it.
func TestEverythingPublicIsDocumented(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		documented[s.dir] = documented[s.dir] || s.file.Doc != nil
		for _, name := range undocumented(s.file) {
			t.Errorf("%s: %s has no comment", s.path, name)
		}
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("package %s has no comment", dir)
		}
	}
}

// undocumented lists the exported names of a file that have no comment.
func undocumented(file *ast.File) (names []string) {
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Doc == nil && d.Name.IsExported() && exportedReceiver(d) {
				names = append(names, d.Name.Name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				names = append(names, undocumentedSpec(d, spec)...)
			}
		}
	}
	return names
}

func undocumentedSpec(d *ast.GenDecl, spec ast.Spec) (names []string) {
	switch s := spec.(type) {
	case *ast.TypeSpec:
		if s.Name.IsExported() && s.Doc == nil && (d.Doc == nil || d.Lparen.IsValid()) {
			names = append(names, s.Name.Name)
		}
	case *ast.ValueSpec:
		// A group of constants or variables may be explained once for all.
		if s.Doc != nil || s.Comment != nil || d.Doc != nil {
			return nil
		}
		for _, name := range s.Names {
			if name.IsExported() {
				names = append(names, name.Name)
			}
		}
	}
	return names
}

// exportedReceiver tells whether a function is none of a hidden type's methods.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	receiver := d.Recv.List[0].Type
	for {
		switch r := receiver.(type) {
		case *ast.StarExpr:
			receiver = r.X
		case *ast.IndexExpr:
			receiver = r.X
		case *ast.IndexListExpr:
			receiver = r.X
		case *ast.Ident:
			return r.IsExported()
		default:
			return true
		}
	}
}

func TestUndocumentedIsFound(t *testing.T) {
	const text = `package p
// A Good is documented.
type Good struct{}
type Bad struct{}
func (Good) Bad1() {}
// Good1 is documented.
func (*Good) Good1() {}
func (*Good) hidden() {}
type hidden[T any] struct{}
func (*hidden[T]) Fine() {}
func Bad2() {}
// All of them.
const ( Good2 = 1; Good3 = 2 )
const ( Bad3 = 1; Good4 = 2 // explained
)
var Bad4 int
`
	file, err := parser.ParseFile(token.NewFileSet(), "p.go", text, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(undocumented(file)), "[Bad Bad1 Bad2 Bad3 Bad4]"; got != want {
		t.Errorf("found %s, want %s", got, want)
	}
}

// TestLicences looks at the licence of every module that is compiled in, tests
// and tools included: the project is MIT and takes nothing under the GPL.
func TestLicences(t *testing.T) {
	cmd := exec.Command("go", "list", "-e", "-deps", "-test", "-json=Module", "./...", "tool")
	cmd.Dir = moduleRoot
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	type listed struct {
		Module *struct{ Path, Dir string }
	}
	checked := map[string]bool{}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if p.Module == nil || p.Module.Path == module || checked[p.Module.Path] {
			continue
		}
		checked[p.Module.Path] = true
		checkLicence(t, p.Module.Path, p.Module.Dir)
	}
	if len(checked) < 5 {
		t.Errorf("only %d modules were looked at; is the list complete?", len(checked))
	}
}

func checkLicence(t *testing.T, name, dir string) {
	t.Helper()
	for _, pattern := range []string{"LICEN[SC]E*", "COPYING*"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Error(err)
				continue
			}
			title := bytes.ToUpper(text[:min(len(text), 400)])
			// Some leave the choice between the GPL and another; we take the other.
			choice := bytes.Contains(title, []byte("YOUR CHOICE OF EXACTLY ONE"))
			if bytes.Contains(title, []byte("GENERAL PUBLIC LICENSE")) && !choice {
				t.Errorf("module %s is under the GPL, says %s", name, f)
			}
		}
	}
}
