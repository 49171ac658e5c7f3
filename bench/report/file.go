package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// FileName is the document's name in the folder that Write makes.
const FileName = "report.json"

// Read reads a document back. path is the file, or the folder that Write made.
// It refuses what is no such document, what was written by a newer version,
// fields that it does not know, and figures that contradict each other.
func Read(path string) (*Document, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, FileName)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read report: %w; give the folder that bench run wrote, or the %s in it", err, FileName)
	}
	doc, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("read report %s: %w", path, err)
	}
	return doc, nil
}

func decode(data []byte) (*Document, error) {
	var head struct {
		Schema string `json:"schema"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("this is no JSON document: %w", err)
	}
	if err := checkSchema(head.Schema); err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	var doc Document
	if err := decoder.Decode(&doc); err != nil {
		return nil, fmt.Errorf("this does not follow %s: %w", Schema, err)
	}
	if err := doc.check(); err != nil {
		return nil, err
	}
	return &doc, nil
}

// checkSchema compares the schema of a document with the one known here.
func checkSchema(found string) error {
	name, version, _ := strings.Cut(found, "/")
	wantName, wantVersion, _ := strings.Cut(Schema, "/")
	if name != wantName {
		return fmt.Errorf("this is no report of bench: schema is %q, want %q", found, Schema)
	}
	have, err := strconv.Atoi(version)
	want, _ := strconv.Atoi(wantVersion)
	switch {
	case err != nil:
		return fmt.Errorf("schema %q has no version, want %q", found, Schema)
	case have > want:
		return fmt.Errorf("schema %q is newer than this program, which knows %q: use the bench of the version that wrote it, or a newer one", found, Schema)
	case have < oldestVersion:
		return fmt.Errorf("schema %q is older than %q and no longer read: measure again, or use the bench that wrote it", found, Schema)
	}
	return nil
}

// encode writes the document with all figures that its series give.
func encode(doc *Document) ([]byte, error) {
	full := *doc
	full.Schema = Schema
	full.Runs = slices.Clone(doc.Runs)
	for i := range full.Runs {
		if run := &full.Runs[i]; run.Error == "" {
			run.Metrics = Figures(*run)
		}
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(full); err != nil {
		return nil, err
	}
	return foldNumbers(b.Bytes()), nil
}

// foldNumbers puts the elements of an array of numbers on one line, which
// leaves the rest of the file readable.
func foldNumbers(indented []byte) []byte {
	lines := bytes.Split(indented, []byte("\n"))
	var b bytes.Buffer
	for i, line := range lines {
		bare := bytes.TrimSpace(line)
		folded := isNumber(bare)
		if i > 0 && !folded && !(bytes.HasPrefix(bare, []byte("]")) && isNumber(bytes.TrimSpace(lines[i-1]))) {
			b.WriteByte('\n')
		}
		if folded || bytes.HasPrefix(bare, []byte("]")) && i > 0 && isNumber(bytes.TrimSpace(lines[i-1])) {
			line = bare
		}
		b.Write(line)
	}
	return b.Bytes()
}

// isNumber tells whether a line is nothing but an element that is a number.
func isNumber(line []byte) bool {
	text := strings.TrimSuffix(string(line), ",")
	if text == "null" {
		return true
	}
	_, err := strconv.ParseFloat(text, 64)
	return err == nil
}

// Write makes the folder dir, if it is not there, and in it report.json,
// index.html (one page that needs nothing else), and plots/ with every plot as
// SVG and PNG. Files of these names are replaced, others are left alone; after an
// error, such as that of a full disk, all are as they were. It is an error if the
// document contradicts itself.
func Write(doc *Document, dir string) error {
	if err := write(doc, dir); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

func write(doc *Document, dir string) (err error) {
	if doc.Schema != "" && doc.Schema != Schema {
		return fmt.Errorf("the document says schema %q, this program writes %q", doc.Schema, Schema)
	}
	if err := doc.check(); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	stage, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(stage)) }()
	if err := fill(doc, stage); err != nil {
		return err
	}
	return moveInto(dir, stage)
}

const plotsName = "plots"

// fill writes everything into a folder.
func fill(doc *Document, dir string) error {
	data, err := encode(doc)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, FileName), data, 0o644); err != nil {
		return err
	}
	page, err := newPage(doc)
	if err != nil {
		return err
	}
	plots := filepath.Join(dir, plotsName)
	if err := os.Mkdir(plots, 0o755); err != nil {
		return err
	}
	for _, f := range page.figures() {
		if err := f.save(plots); err != nil {
			return fmt.Errorf("plot %s: %w", f.Name, err)
		}
	}
	return writeFile(filepath.Join(dir, "index.html"), page.render)
}

// moveInto moves the files of a folder, and of those in it, to where they belong.
func moveInto(dir, stage string) error {
	entries, err := os.ReadDir(stage)
	if err != nil {
		return err
	}
	for _, e := range entries {
		from, to := filepath.Join(stage, e.Name()), filepath.Join(dir, e.Name())
		if !e.IsDir() {
			err = os.Rename(from, to)
		} else if err = os.MkdirAll(to, 0o755); err == nil {
			err = moveInto(to, from)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeFile creates a file and fills it.
func writeFile(path string, fill func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := errors.Join(fill(f), f.Close()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
