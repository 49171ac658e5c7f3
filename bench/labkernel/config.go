package labkernel

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"strings"
)

// fragment is what the lab needs of its kernel, in the kernel's own format.
//
//go:embed kernel.config
var fragment string

// An option is one line of a kernel configuration.
type option struct {
	symbol string // with CONFIG_
	value  string // "n" where it is not set
}

// parseConfig reads a kernel configuration, in which "# CONFIG_X is not set"
// and "CONFIG_X=n" are the same. Other comments are skipped.
func parseConfig(text string) ([]option, error) {
	var options []option
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if unset, ok := strings.CutSuffix(line, " is not set"); ok && strings.HasPrefix(unset, "# CONFIG_") {
			options = append(options, option{unset[len("# "):], "n"})
			continue
		}
		if line == "" || line[0] == '#' {
			continue
		}
		symbol, value, ok := strings.Cut(line, "=")
		if !ok || !strings.HasPrefix(symbol, "CONFIG_") || value == "" {
			return nil, fmt.Errorf("read a kernel configuration: %q is no CONFIG_SYMBOL=value", line)
		}
		options = append(options, option{symbol, value})
	}
	return options, nil
}

// mergeConfig returns base with what wanted says instead, and what base does
// not mention at the end.
func mergeConfig(base, wanted string) (string, error) {
	add, err := parseConfig(wanted)
	if err != nil {
		return "", err
	}
	have, err := parseConfig(base)
	if err != nil {
		return "", err
	}
	want := map[string]string{}
	for _, o := range add {
		if other, twice := want[o.symbol]; twice && other != o.value {
			return "", fmt.Errorf("merge a kernel configuration: %s is wanted both as %s and as %s", o.symbol, other, o.value)
		}
		want[o.symbol] = o.value
	}
	var merged strings.Builder
	for _, o := range have {
		if _, replaced := want[o.symbol]; !replaced {
			merged.WriteString(o.line())
		}
	}
	for _, o := range add {
		merged.WriteString(o.line())
	}
	return merged.String(), nil
}

func (o option) line() string {
	if o.value == "n" {
		return "# " + o.symbol + " is not set\n"
	}
	return o.symbol + "=" + o.value + "\n"
}

// unmet lists what wanted says and got does not, in the order of wanted. The
// kernel's configuration tool drops silently what it does not know and what
// depends on something that is off.
func unmet(got, wanted string) ([]string, error) {
	have, err := parseConfig(got)
	if err != nil {
		return nil, err
	}
	want, err := parseConfig(wanted)
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for _, o := range have {
		values[o.symbol] = o.value
	}
	var list []string
	for _, o := range want {
		value, ok := values[o.symbol]
		if !ok {
			value = "n"
		}
		if value != o.value {
			list = append(list, fmt.Sprintf("%s is %s, not %s", o.symbol, value, o.value))
		}
	}
	return list, nil
}

// hashRecipe is the hash of what a configuration says, whatever its comments, and of
// changes to the source.
func hashRecipe(config string, changes []change) string {
	h := sha256.New()
	for line := range strings.Lines(config) {
		line = strings.TrimSpace(line)
		if line != "" && (line[0] != '#' || strings.HasSuffix(line, " is not set")) {
			fmt.Fprintln(h, line)
		}
	}
	for _, c := range changes {
		fmt.Fprintf(h, "%q %q %q\n", c.file, c.from, c.to)
	}
	return hex.EncodeToString(h.Sum(nil))
}
