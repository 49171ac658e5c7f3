// Package recipes reads what deploy has for containers in the readers of those who run
// them: docker's of its Dockerfile, Kubernetes' of its objects. Its module is that of
// the tools for packages, so that the daemon's has none of them.
package recipes

import (
	"bytes"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// docker takes the recipe: one stage builds, and the image has the program alone.
func TestDockerfile(t *testing.T) {
	parsed, err := parser.Parse(bytes.NewReader(read(t, "../container/Dockerfile")))
	if err != nil || len(parsed.Warnings) > 0 {
		t.Fatalf("%v %v", err, parsed.Warnings)
	}
	stages, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil || len(stages) != 2 || stages[1].BaseName != "scratch" {
		t.Fatalf("%v %+v", err, stages)
	}
	for _, c := range stages[1].Commands {
		if copied, ok := c.(*instructions.CopyCommand); ok && copied.From != stages[0].Name {
			t.Errorf("%s copies from %q", copied, copied.From)
		}
	}
}

// Kubernetes takes every field of the DaemonSet, and its parts go together.
func TestDaemonSet(t *testing.T) {
	var d apps.DaemonSet
	if err := yaml.UnmarshalStrict(read(t, "../kubernetes/daemonset.yaml"), &d); err != nil {
		t.Fatal(err)
	}
	pod := d.Spec.Template.Spec
	if d.APIVersion != "apps/v1" || d.Kind != "DaemonSet" || len(pod.Containers) != 1 {
		t.Fatalf("%+v", d)
	}
	for key, value := range d.Spec.Selector.MatchLabels {
		if d.Spec.Template.Labels[key] != value {
			t.Errorf("the selector asks for %s=%s, which the pods do not have", key, value)
		}
	}
	c := pod.Containers[0]
	if len(c.VolumeMounts) != len(pod.Volumes) {
		t.Errorf("%d mounts of %d volumes", len(c.VolumeMounts), len(pod.Volumes))
	}
	for _, m := range c.VolumeMounts {
		if !slices.ContainsFunc(pod.Volumes, func(v core.Volume) bool { return v.Name == m.Name }) {
			t.Errorf("there is no volume %s", m.Name)
		}
	}
	if got := c.SecurityContext.Capabilities.Add; !slices.Equal(got, []core.Capability{"NET_ADMIN", "NET_RAW", "SYS_NICE"}) {
		t.Errorf("capabilities %v", got)
	}
	// The program takes the arguments, up to the file that is not there.
	out, err := exec.Command(os.Getenv("KILOPORT"), c.Args...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no such file") {
		t.Errorf("%v: %v %s", c.Args, err, out)
	}
}
