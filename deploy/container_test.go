package deploy

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// What the container image has, the program and nothing else, is enough: it brings
// an interface up in an empty root, with the two capabilities that the recipe names,
// and answers.
func TestScratchContainer(t *testing.T) {
	recipe, err := os.ReadFile("container/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"\nFROM scratch\n", "CGO_ENABLED=0", `ENTRYPOINT ["/kiloport"]`} {
		if !strings.Contains(string(recipe), part) {
			t.Errorf("the recipe lacks %q", part)
		}
	}
	m := newMachine(t, "container")
	program := filepath.Join(m.dir, "root", "kiloport")
	m.sh("cd %s; mkdir -p root/etc/kiloport root/dev/net root/proc root/sys root/run/wireguard root/var; ln -s ../run root/var/run; touch root/dev/net/tun root/dev/null", m.dir)
	m.sh("cd %s/root; mount --bind /dev/net/tun dev/net/tun; mount --bind /dev/null dev/null; mount -t proc proc proc; mount --bind /proc/sys proc/sys || true", m.dir)
	static := filepath.Join(t.TempDir(), "kiloport")
	cmd := exec.Command("go", "build", "-o", static, "kiloport/cmd/kiloport")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	m.put(static, program, 0o755)
	m.sh("cd %s; kiloport=%s; $kiloport setup a@192.0.2.1 b >/dev/null; cp a/wg0.conf root/etc/kiloport", m.dir, static)

	caps := "setpriv --bounding-set=-all,+net_admin,+net_raw,+sys_chroot --inh-caps=-all "
	run := m.command("sh", "-c", "exec "+caps+"chroot "+m.dir+"/root /kiloport up -f wg0")
	var log bytes.Buffer
	run.Stderr = &log
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { run.Process.Kill(); run.Wait() })
	await(t, "the interface", func() bool {
		out, err := m.command("chroot", m.dir+"/root", "/kiloport", "show", "wg0").CombinedOutput()
		return err == nil && strings.Contains(string(out), "listening port: 51820")
	})
	m.run("chroot", m.dir+"/root", "/kiloport", "restart", "wg0")
	m.run("chroot", m.dir+"/root", "/kiloport", "down", "wg0")
}

// The objects of Kubernetes that are used, with those of their fields that we know: a
// field that is misspelt, or at the wrong place, is refused.
type (
	daemonSet struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Metadata   objectMeta
		Spec       struct {
			Selector struct {
				MatchLabels map[string]string `yaml:"matchLabels"`
			}
			UpdateStrategy struct {
				Type          string
				RollingUpdate struct {
					MaxUnavailable int `yaml:"maxUnavailable"`
				} `yaml:"rollingUpdate"`
			} `yaml:"updateStrategy"`
			Template struct {
				Metadata objectMeta
				Spec     podSpec
			}
		}
	}
	objectMeta struct {
		Name, Namespace string
		Labels          map[string]string
	}
	podSpec struct {
		HostNetwork                   bool              `yaml:"hostNetwork"`
		DNSPolicy                     string            `yaml:"dnsPolicy"`
		PriorityClassName             string            `yaml:"priorityClassName"`
		TerminationGracePeriodSeconds int               `yaml:"terminationGracePeriodSeconds"`
		AutomountServiceAccountToken  bool              `yaml:"automountServiceAccountToken"`
		NodeSelector                  map[string]string `yaml:"nodeSelector"`
		Tolerations                   []struct{ Operator string }
		Containers                    []container
		Volumes                       []struct {
			Name   string
			Secret *struct {
				SecretName  string `yaml:"secretName"`
				DefaultMode int    `yaml:"defaultMode"`
			}
			HostPath *struct{ Path, Type string } `yaml:"hostPath"`
		}
	}
	container struct {
		Name, Image string
		Args        []string
		Env         []struct {
			Name      string
			ValueFrom struct {
				FieldRef struct {
					FieldPath string `yaml:"fieldPath"`
				} `yaml:"fieldRef"`
			} `yaml:"valueFrom"`
		}
		SecurityContext struct {
			AllowPrivilegeEscalation bool `yaml:"allowPrivilegeEscalation"`
			ReadOnlyRootFilesystem   bool `yaml:"readOnlyRootFilesystem"`
			Capabilities             struct{ Drop, Add []string }
		} `yaml:"securityContext"`
		Resources      struct{ Requests, Limits map[string]string }
		ReadinessProbe probe `yaml:"readinessProbe"`
		LivenessProbe  probe `yaml:"livenessProbe"`
		VolumeMounts   []struct {
			Name        string
			MountPath   string `yaml:"mountPath"`
			SubPathExpr string `yaml:"subPathExpr"`
			ReadOnly    bool   `yaml:"readOnly"`
		} `yaml:"volumeMounts"`
	}
	probe struct {
		Exec                struct{ Command []string }
		InitialDelaySeconds int `yaml:"initialDelaySeconds"`
		PeriodSeconds       int `yaml:"periodSeconds"`
		TimeoutSeconds      int `yaml:"timeoutSeconds"`
	}
)

func TestDaemonSet(t *testing.T) {
	text, err := os.ReadFile("kubernetes/daemonset.yaml")
	if err != nil {
		t.Fatal(err)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	var d daemonSet
	if err := decoder.Decode(&d); err != nil {
		t.Fatal(err)
	}
	if d.APIVersion != "apps/v1" || d.Kind != "DaemonSet" || len(d.Spec.Template.Spec.Containers) != 1 {
		t.Fatalf("%+v", d)
	}
	for key, value := range d.Spec.Selector.MatchLabels {
		if d.Spec.Template.Metadata.Labels[key] != value {
			t.Errorf("the selector asks for %s=%s, which the pods do not have", key, value)
		}
	}
	pod := d.Spec.Template.Spec
	c := pod.Containers[0]
	volumes := make(map[string]bool)
	for _, v := range pod.Volumes {
		volumes[v.Name] = (v.Secret == nil) != (v.HostPath == nil)
	}
	for _, m := range c.VolumeMounts {
		if !volumes[m.Name] {
			t.Errorf("there is no volume %s, or none of one kind", m.Name)
		}
	}
	if len(c.VolumeMounts) != len(volumes) {
		t.Errorf("%d mounts of %d volumes", len(c.VolumeMounts), len(volumes))
	}
	if got := strings.Join(c.SecurityContext.Capabilities.Add, " "); got != "NET_ADMIN NET_RAW" {
		t.Errorf("capabilities %s", got)
	}
	// The program takes the arguments, up to the file that is not there.
	out, err := exec.Command(build(t), c.Args...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no such file") {
		t.Errorf("%v: %v %s", c.Args, err, out)
	}
}
