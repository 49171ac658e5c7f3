package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kiloport/cmd/kiloport/quick"
	"kiloport/portpool"
	"kiloport/tunnel"
	"kiloport/tunnel/tun"
	"kiloport/tunnel/tun/site"
	"kiloport/tunnel/uapi"
)

const (
	resolveTimeout = 15 * time.Second
	upTimeout      = 60 * time.Second
	downTimeout    = 60 * time.Second
)

// configDirs is where a configuration is looked for by the name of its interface.
var configDirs = []string{"/etc/kiloport", "/etc/wireguard"}

func (c *command) up() *cobra.Command {
	up := &cobra.Command{
		Use:   "up CONFIG",
		Short: "Bring an interface up as a wg-quick file says",
		Long: `Bring an interface up as a wg-quick(8) file says: link, addresses, routes and
peers, and kiloport's own keys in [Interface]. CONFIG is a file, or the name of
an interface with a file in /etc/kiloport or /etc/wireguard. Everything is undone
when the daemon ends: by kiloport down, SIGTERM, SIGINT, SIGHUP, or deletion of
the link.`,
		Args: oneArg("one configuration file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			parent, err := waitingParent()
			if err != nil {
				return err
			}
			if c.foreground || parent != nil {
				return c.runUp(cmd.Context(), args[0], parent)
			}
			return c.upInBackground(cmd.Context(), args[0])
		},
	}
	up.Flags().BoolVarP(&c.foreground, "foreground", "f", false, "stay in the foreground, as for systemd")
	return up
}

func (c *command) check() *cobra.Command {
	return &cobra.Command{
		Use: "check CONFIG...", Short: "Say what is wrong with configuration files, and what does not go together in several",
		Long: `Say what is wrong with a configuration file. With the files of several sites,
say also what does not go together in them: keys, endpoints, addresses.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{fmt.Errorf("%s wants a configuration file, or those of several sites: see %s --help", cmd.CommandPath(), cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			for _, arg := range args {
				plan, err := c.load(arg, c.stderr)
				if err != nil {
					return err
				}
				fmt.Fprintf(c.stdout, "%s: ok, interface %s, %d peers\n", plan.path, plan.name, len(plan.config.Peers))
			}
			return c.checkTogether(args, io.Discard)
		},
	}
}

// loaded is a configuration file that can be used.
type loaded struct {
	path, name string
	config     *quick.Config
	options    tunnel.Options
}

// load reads a configuration, prints all that is wrong, and to notes what is
// worth knowing.
func (c *command) load(arg string, notes io.Writer) (*loaded, error) {
	path, err := findConfig(arg)
	if err != nil {
		return nil, err
	}
	l := &loaded{path: path, options: tunnel.DefaultOptions()}
	if l.name, err = quick.InterfaceName(path); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		fmt.Fprintf(notes, "kiloport: note: %s can be read by others than its owner: chmod 600 %s\n", path, path)
	}
	config, problems := quick.Parse(f, path, func(key, value string) error { return setKey(&l.options, key, value) })
	for _, p := range problems {
		fmt.Fprintf(c.stderr, "kiloport: %v\n", p)
	}
	if len(problems) > 0 {
		return nil, errSilent
	}
	for _, note := range config.Notes {
		fmt.Fprintf(notes, "kiloport: note: %v\n", note)
	}
	l.config = config
	if err := c.chosen.apply(&l.options); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

// findConfig gives the file for a path or the name of an interface.
func findConfig(arg string) (string, error) {
	if strings.Contains(arg, "/") || strings.HasSuffix(arg, ".conf") {
		if _, err := os.Stat(arg); err != nil {
			return "", fmt.Errorf("read the configuration: %w", err)
		}
		return filepath.Abs(arg)
	}
	for _, dir := range configDirs {
		path := filepath.Join(dir, arg+".conf")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		} else if !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("read the configuration: %w", err)
		}
	}
	return "", fmt.Errorf("no configuration %s.conf in %s: write one, or give its path", arg, strings.Join(configDirs, " or "))
}

// runUp brings everything up, waits, and takes it down. parent waits for the
// interface to be up, and has printed the notes; nil if none does.
func (c *command) runUp(ctx context.Context, arg string, parent *os.File) error {
	outliveReaders()
	notes := c.stderr
	if parent != nil {
		notes = io.Discard
	}
	l, err := c.load(arg, notes)
	if err != nil {
		return err
	}
	log, err := c.logger()
	if err != nil {
		return err
	}
	if err := portpool.RaiseFileLimit(l.options.Ports + otherFiles); err != nil {
		return err
	}
	request, err := l.request(ctx)
	if err != nil {
		return err
	}
	prometheus, err := listenMetrics(l.options)
	if err != nil {
		return err
	}
	defer prometheus.close()
	d, err := c.openNew(ctx, l, log)
	if err != nil {
		return err
	}
	d.metrics = prometheus
	defer d.socket.Remove()
	device, err := d.device(l.options)
	if err != nil {
		d.close()
		return err
	}
	u := &upped{command: c, loaded: l, device: device, log: log, parent: parent}
	return d.serve(ctx, device, func(ctx context.Context) error { return u.start(ctx, request) }, u.stop, u.afterwards)
}

// openNew makes the TUN device and the socket, and inherits neither. The socket
// comes first: an interface that is up already is found before PreUp runs.
func (c *command) openNew(ctx context.Context, l *loaded, log *slog.Logger) (d *daemon, err error) {
	d = &daemon{name: l.name, log: log}
	if d.socket, err = uapi.Listen(l.name); err != nil {
		return nil, err
	}
	if err = c.hooks(ctx, l.name, "PreUp", l.config.Interface.PreUp); err == nil {
		d.tun, err = tun.Create(l.name, tunOptions(l.options, log))
	}
	if err != nil {
		d.socket.Close()
		return nil, errors.Join(err, d.socket.Remove())
	}
	return d, nil
}

// upped is an interface that was brought up, or half of one.
type upped struct {
	*command
	*loaded
	device  *tunnel.Device
	log     *slog.Logger
	applied *site.Applied
	parent  *os.File // nil: none waits
	started bool     // PostUp was reached
}

// start configures the device and what is around it. What it has done when it
// fails is undone by stop.
func (u *upped) start(ctx context.Context, request *uapi.SetRequest) (err error) {
	if err := u.device.Configure(request); err != nil {
		return fmt.Errorf("configure interface %s: %w", u.name, err)
	}
	if u.applied, err = site.Apply(ctx, u.plan(request), u.log); err != nil {
		return err
	}
	if mark := u.applied.FwMark; mark != 0 {
		if err := u.device.Configure(&uapi.SetRequest{FwMark: &mark}); err != nil {
			return fmt.Errorf("configure interface %s: %w", u.name, err)
		}
	}
	if err := u.device.Listening(ctx); err != nil {
		return fmt.Errorf("bring interface %s up: %w", u.name, err)
	}
	u.started = true
	if err := u.hooks(ctx, u.name, "PostUp", u.config.Interface.PostUp); err != nil {
		return err
	}
	ready(u.log)
	return u.tellParent()
}

// stop undoes what start did, before the device goes.
func (u *upped) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), downTimeout)
	defer cancel()
	if u.started {
		u.complain(u.hooks(ctx, u.name, "PreDown", u.config.Interface.PreDown))
	}
	if u.applied != nil {
		u.complain(u.applied.Undo())
	}
}

// afterwards runs what is for when the interface has gone.
func (u *upped) afterwards() {
	ctx, cancel := context.WithTimeout(context.Background(), downTimeout)
	defer cancel()
	if u.started {
		u.complain(u.hooks(ctx, u.name, "PostDown", u.config.Interface.PostDown))
	}
}

func (u *upped) complain(err error) {
	if err != nil {
		u.log.Error("while going down", "interface", u.name, "error", err)
	}
}

func (l *loaded) plan(request *uapi.SetRequest) site.Plan {
	in := l.config.Interface
	p := site.Plan{Link: l.name, MTU: in.MTU, Addresses: in.Addresses, Table: in.Table}
	if in.FwMark != nil {
		p.FwMark = *in.FwMark
	}
	for _, peer := range l.config.Peers {
		p.Routes = append(p.Routes, peer.AllowedIPs...)
	}
	for _, peer := range request.Peers {
		if peer.Endpoint != nil {
			p.Endpoints = append(p.Endpoints, peer.Endpoint.Addr())
		}
	}
	return p
}

// request resolves the names of endpoints.
func (l *loaded) request(ctx context.Context) (*uapi.SetRequest, error) {
	return l.config.Request(func(e quick.Endpoint) (netip.AddrPort, error) {
		ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
		defer cancel()
		found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", e.Host)
		if err != nil {
			return netip.AddrPort{}, err
		}
		return netip.AddrPortFrom(found[0].Unmap(), e.Port), nil
	})
}

// hooks runs the commands of one key in order; the first that fails ends them.
func (c *command) hooks(ctx context.Context, name, key string, commands []string) error {
	for _, line := range commands {
		line = strings.ReplaceAll(line, "%i", name)
		cmd := exec.CommandContext(ctx, shell(), "-c", line)
		cmd.Stdout, cmd.Stderr = c.stderr, c.stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s of interface %s: %q: %w", key, name, quick.Hide(line), err)
		}
	}
	return nil
}

// shell is what wg-quick's files expect, if it is there.
func shell() string {
	if bash, err := exec.LookPath("bash"); err == nil {
		return bash
	}
	return "/bin/sh"
}
