package tunnels

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// Tinc is tinc 1.0 of the distribution, as a router with its own defaults.
type Tinc struct{}

var _ Daemon = Tinc{}

// Tinc's customary port, and the size of the keys that it makes by itself.
const (
	tincPort = 655
	tincBits = 2048
)

// Up implements [Daemon].
func (t Tinc) Up(ctx context.Context, mine, theirs *End, c *Config) error {
	return t.up(ctx, mine, theirs, func(string) error { return nil })
}

// up lets change see the folder of the configuration before tinc reads it.
func (t Tinc) up(ctx context.Context, mine, theirs *End, change func(dir string) error) (err error) {
	if err := installed("tincd", "tinc"); err != nil {
		return err
	}
	dir, err := folder(mine)
	if err != nil {
		return err
	}
	if err := t.configure(dir, mine, theirs); err != nil {
		return err
	}
	if err := change(dir); err != nil {
		return err
	}
	cmd := exec.Command("tincd", "-c", dir, "--pidfile="+filepath.Join(dir, "pid"), "-D")
	if mine.Process, err = mine.Site.Start(cmd); err != nil {
		return err
	}
	return AwaitDaemon(ctx, mine.Process, func() error {
		if _, err := mine.Site.Link(mine.Dev); err != nil {
			return err
		}
		return mine.link(theirs, 0)
	})
}

// tincGivesUp is how long tincd looks for the MTU of the path: 30 probes, one a
// second, fewer if it is sure before.
const tincGivesUp = 31 * time.Second

// settle waits until tincd knows the MTU of the path. Until then it sends longer
// packets through its TCP connection, where they wait for each other, and tells
// hosts nothing of the MTU.
func (Tinc) settle(ctx context.Context, mine, theirs *End) error {
	for began := time.Now(); time.Since(began) < tincGivesUp; {
		// It answers the signal with what it knows of all nodes, in its log.
		if err := mine.Process.Signal(syscall.SIGUSR2); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
		if tincSure(mine.Process.Output(), tincName(theirs)) {
			return nil
		}
	}
	return nil // it has given up, and takes the largest that got through
}

var tincNode = regexp.MustCompile(`(?m)^.*\b(\w+) at .* pmtu (\d+) \(min (\d+) max (\d+)\)`)

// tincSure tells whether the last that a log says of a node is that the bounds of
// its path MTU have met.
func tincSure(log, node string) bool {
	sure := false
	for _, m := range tincNode.FindAllStringSubmatch(log, -1) {
		if m[1] == node {
			sure = m[3] == m[4] && m[2] != "0"
		}
	}
	return sure
}

// Version implements [Daemon].
func (Tinc) Version(ctx context.Context) (string, error) { return version(ctx, "tincd", "--version") }

// configure writes the folder of one end.
func (t Tinc) configure(dir string, mine, theirs *End) error {
	conf := []string{"Name = " + tincName(mine), "Interface = " + mine.Dev, "Mode = router"}
	if !theirs.Hidden {
		conf = append(conf, "ConnectTo = "+tincName(theirs))
	}
	private, err := tincKey(mine)
	if err != nil {
		return err
	}
	other, err := tincKey(theirs)
	if err != nil {
		return err
	}
	files := map[string]string{
		"tinc.conf":                 strings.Join(conf, "\n") + "\n",
		"rsa_key.priv":              pemText("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(private)),
		"hosts/" + tincName(mine):   tincHost(mine, &private.PublicKey),
		"hosts/" + tincName(theirs): tincHost(theirs, &other.PublicKey),
	}
	if err := os.Mkdir(filepath.Join(dir, "hosts"), 0o700); err != nil {
		return fmt.Errorf("make the folder of tinc's hosts: %w", err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write tinc's configuration: %w", err)
		}
	}
	return nil
}

// tincName is an end's name, of letters and digits alone.
func tincName(e *End) string { return "site" + strings.TrimPrefix(e.Site.RouterDev, "wan-") }

func tincHost(e *End, key *rsa.PublicKey) string {
	return fmt.Sprintf("Address = %v %d\nSubnet = %v\nSubnet = %v\n%s", e.Outer, tincPort, e.Site.Net4, e.Site.Net6,
		pemText("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(key)))
}

func pemText(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// tincKey makes an end's RSA key, or finds the one that it has.
func tincKey(e *End) (*rsa.PrivateKey, error) {
	if e.rsa != nil {
		return e.rsa, nil
	}
	key, err := rsa.GenerateKey(rand.Reader, tincBits)
	if err != nil {
		return nil, fmt.Errorf("make an RSA key: %w", err)
	}
	e.rsa = key
	return key, nil
}
