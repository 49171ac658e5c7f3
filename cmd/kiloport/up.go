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
	"sync"
	"time"

	"github.com/spf13/cobra"

	"kiloport/cmd/kiloport/quick"
	"kiloport/portpool"
	"kiloport/tunnel"
	"kiloport/tunnel/realtime"
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
			if c.foreground || parent != nil || os.Getenv(envHandover) != "" {
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
	log, err := c.logger(l.name)
	if err != nil {
		return err
	}
	if err := portpool.RaiseFileLimit(l.options.Ports + otherFiles); err != nil {
		return err
	}
	u := &upped{command: c, loaded: l, log: log, parent: parent, again: make(chan struct{}, 1)}
	if from := inherit(l.name, log); from != nil {
		return u.goOn(ctx, from)
	}
	return u.begin(ctx)
}

// begin makes everything.
func (u *upped) begin(ctx context.Context) error {
	request, err := u.request(ctx, nil)
	if err != nil {
		return err
	}
	prometheus, err := listenMetrics(u.options)
	if err != nil {
		return err
	}
	defer prometheus.close()
	d, err := u.openNew(ctx, u.loaded, u.log)
	if err != nil {
		return err
	}
	d.metrics = prometheus
	defer func() {
		if !u.elsewhere {
			d.socket.Remove()
		}
	}()
	if u.device, err = d.device(u.options, nil, nil); err != nil {
		d.close()
		return err
	}
	u.daemon, u.asked, d.life = d, request, u
	return d.serve(ctx, u.device, operator{u.device, u})
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
	device    *tunnel.Device
	daemon    *daemon
	log       *slog.Logger
	parent    *os.File      // nil: none waits
	again     chan struct{} // that it is to be started again
	elsewhere bool          // its life goes on in another process

	mu      sync.Mutex // of a reload with all else
	*loaded            // as it is in force
	asked   *uapi.SetRequest
	applied *site.Applied
	isUp    bool // PostUp was reached
}

// started configures the device and what is around it, unless it goes on with
// that. What it has done when it fails is undone by stopping.
func (u *upped) started(ctx context.Context) (err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.applied == nil {
		err = u.makeUp(ctx)
	} else if err = u.device.Listening(ctx); err != nil {
		err = fmt.Errorf("bring interface %s up: %w", u.name, err)
	}
	if err != nil {
		return err
	}
	ready(u.log)
	return u.tellParent()
}

func (u *upped) makeUp(ctx context.Context) (err error) {
	if err := u.device.Configure(u.asked); err != nil {
		return fmt.Errorf("configure interface %s: %w", u.name, err)
	}
	if u.applied, err = site.Apply(ctx, u.plan(u.asked), u.log); err != nil {
		return err
	}
	if err := u.mark(); err != nil {
		return err
	}
	if err := u.device.Listening(ctx); err != nil {
		return fmt.Errorf("bring interface %s up: %w", u.name, err)
	}
	u.isUp = true
	return u.hooks(ctx, u.name, "PostUp", u.config.Interface.PostUp)
}

// mark gives the tunnel's own packets the mark that its routes need.
func (u *upped) mark() error {
	mark := u.applied.FwMark
	if mark == 0 {
		return nil
	}
	if err := u.device.Configure(&uapi.SetRequest{FwMark: &mark}); err != nil {
		return fmt.Errorf("configure interface %s: %w", u.name, err)
	}
	return nil
}

// stopping undoes what started did, before the device goes.
func (u *upped) stopping() {
	u.mu.Lock()
	defer u.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), downTimeout)
	defer cancel()
	if u.isUp {
		u.complain(u.hooks(ctx, u.name, "PreDown", u.config.Interface.PreDown))
	}
	if u.applied != nil {
		u.complain(u.applied.Undo())
	}
}

// gone runs what is for when the interface has gone.
func (u *upped) gone() {
	ctx, cancel := context.WithTimeout(context.Background(), downTimeout)
	defer cancel()
	if u.isUp {
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

// request resolves the names of endpoints, but for those of peers that are known,
// by public key, which are where they were seen last.
func (l *loaded) request(ctx context.Context, known map[string]netip.AddrPort) (*uapi.SetRequest, error) {
	byLine := make(map[int]netip.AddrPort)
	for _, peer := range l.config.Peers {
		if at, ok := known[peer.PublicKey.String()]; ok {
			byLine[peer.Endpoint.Line] = at
		}
	}
	return l.config.Request(func(e quick.Endpoint) (netip.AddrPort, error) {
		if at, ok := byLine[e.Line]; ok {
			return at, nil
		}
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
		if err := realtime.Run(cmd); err != nil {
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
