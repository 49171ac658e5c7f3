package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"syscall"

	"kiloport/cmd/kiloport/quick"
	"kiloport/portpool"
	"kiloport/tunnel"
	"kiloport/tunnel/realtime"
	"kiloport/tunnel/tun"
	"kiloport/tunnel/tun/site"
	"kiloport/tunnel/uapi"
)

// The environment by which a parent hands descriptors to a daemon, as
// wireguard-go has it.
const (
	envTUN        = "WG_TUN_FD"
	envUAPI       = "WG_UAPI_FD"
	envForeground = "WG_PROCESS_FOREGROUND"
)

// envSyslog says that the daemon has no terminal to begin with: its log goes to syslog.
const envSyslog = "KILOPORT_SYSLOG"

// otherFiles is how many descriptors a daemon has open beside its pool.
const otherFiles = 128

// daemon is a device with its configuration socket.
type daemon struct {
	name    string
	tun     tun.Device
	socket  *uapi.Listener
	metrics metricsSocket
	anyIP   func() error // takes back what made source addresses ours
	log     *slog.Logger
	life    lifecycle
	words   *lastWords // nil: until packets flow, a terminal hears them
}

// lifecycle is what is around a device. The zero value is nothing.
type lifecycle interface {
	// started is called when packets flow; an error of it ends the device.
	started(context.Context) error
	// stopping is called before the device goes, and gone after it.
	stopping()
	gone()
}

// alone is the lifecycle of a device that others configure.
type alone struct{ log *slog.Logger }

func (a alone) started(context.Context) error { ready(a.log); return nil }
func (alone) stopping()                       {}
func (alone) gone()                           {}

// runDevice is `kiloport NAME`.
func (c *command) runDevice(ctx context.Context, name string) error {
	options := tunnel.DefaultOptions()
	if err := c.chosen.apply(&options); err != nil {
		return usageError{err}
	}
	log, err := c.logger(name)
	if err != nil {
		return err
	}
	if os.Getenv(envSyslog) == "1" {
		c.logTo.toSystem()
	}
	if err := portpool.RaiseFileLimit(options.Ports + otherFiles); err != nil {
		return err
	}
	prometheus, err := listenMetrics(options)
	if err != nil {
		return err
	}
	defer prometheus.close()
	d, err := openDaemon(name, options, log)
	if err != nil {
		return err
	}
	d.metrics = prometheus
	if !c.foreground && os.Getenv(envForeground) != "1" {
		return d.background(c)
	}
	outliveReaders()
	defer d.socket.Remove()
	device, err := d.device(options, nil, nil)
	if err != nil {
		d.close()
		return err
	}
	d.life = alone{log}
	return d.serve(ctx, device, device)
}

// lastWords is where a daemon, which may have let go of the terminal, says why it ends.
type lastWords struct{ file *os.File } // nil: nowhere

// openLastWords has a traceback of the Go runtime's kept there, too.
func openLastWords(name string, log *slog.Logger) *lastWords {
	f, err := uapi.OpenLastWords(name)
	if err == nil {
		err = debug.SetCrashOutput(f, debug.CrashOptions{})
	}
	if err != nil {
		log.Warn("if this process ends by itself, nobody will know why", "interface", name, "error", err)
	}
	return &lastWords{f}
}

// say is called at an end that is none of the runtime's. Of one without an error
// nothing is left.
func (w *lastWords) say(err error) {
	if w.file == nil {
		return
	}
	if err != nil {
		fmt.Fprintln(w.file, quick.Hide(err.Error()))
	} else {
		os.Remove(w.file.Name()) // a word too much, if that fails
	}
	w.file.Close()
}

// openDaemon makes, or inherits, the TUN device and the socket.
func openDaemon(name string, options tunnel.Options, log *slog.Logger) (*daemon, error) {
	d := &daemon{log: log}
	inherited, err := inheritedFile(envTUN)
	if err != nil {
		return nil, err
	}
	if inherited != nil {
		d.tun, err = tun.FromFile(inherited, tunOptions(options, log))
	} else {
		d.tun, err = tun.Create(name, tunOptions(options, log))
	}
	if err != nil {
		return nil, err
	}
	d.name = d.tun.Name() // the kernel fills in a %d
	if d.socket, err = openSocket(d.name); err != nil {
		d.tun.Close()
		return nil, err
	}
	return d, nil
}

func tunOptions(o tunnel.Options, log *slog.Logger) tun.Options {
	t := o.TUN()
	t.Log = log
	return t
}

func openSocket(name string) (*uapi.Listener, error) {
	inherited, err := inheritedFile(envUAPI)
	if err != nil {
		return nil, err
	}
	if inherited == nil {
		return uapi.Listen(name)
	}
	defer inherited.Close()
	return uapi.ListenFile(inherited)
}

// inheritedFile gives the descriptor that a variable of the environment names,
// or nil if there is no such variable.
func inheritedFile(variable string) (*os.File, error) {
	value := os.Getenv(variable)
	if value == "" {
		return nil, nil
	}
	fd, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return nil, fmt.Errorf("%s is %q: it must be the number of an open descriptor", variable, value)
	}
	return os.NewFile(uintptr(fd), variable), nil
}

func (d *daemon) close() {
	d.socket.Close()
	d.tun.Close()
}

// heapGrowth is how much garbage, in percent of what is in use, there may be
// before it is collected. The packet path makes none, so little room for it costs
// nothing, and a home router has none to spare.
const heapGrowth = 25

func (d *daemon) device(options tunnel.Options, listen, pool []*os.File) (*tunnel.Device, error) {
	debug.SetGCPercent(heapGrowth)
	var err error
	if d.anyIP, err = site.AnyIP(options.SourcePrefixes.All()); err != nil {
		return nil, err
	}
	device, err := tunnel.New(tunnel.Config{
		TUN: d.tun, Options: options, Log: d.log, Constants: constants, Clock: tunnel.NewPreciseClock(),
		Scheduler: d.scheduler(options), Listen: listen, Pool: pool,
	})
	if err != nil {
		return nil, errors.Join(err, d.anyIP())
	}
	return device, nil
}

// scheduler gives what lets workers go before other programs, nil if they are not to.
func (d *daemon) scheduler(options tunnel.Options) tunnel.Scheduler {
	if !options.Realtime {
		return nil
	}
	s, err := realtime.New()
	if err != nil {
		d.log.Warn("realtime is off", "reason", err)
		return nil
	}
	return s
}

// successor is a lifecycle that may go on in another process.
type successor interface {
	lifecycle
	// wanted gives a token when this process is to be replaced by its successor.
	wanted() <-chan struct{}
	// succeeded hands the device over. It reports whether the device goes on
	// elsewhere, and whether it has ended here.
	succeeded(device *tunnel.Device, bySystemd bool) (elsewhere, ended bool)
}

// serve runs the device until its link or its socket is deleted, ctx ends, or it
// has a successor. The socket's clients, whom backend serves, are let go last of
// all, so that who waits for that knows that everything is undone.
func (d *daemon) serve(ctx context.Context, device *tunnel.Device, backend uapi.Backend) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	heard := d.words == nil
	if heard {
		d.words = openLastWords(d.name, d.log)
	}
	unlinked, err := uapi.Watch(ctx, d.socket.Path())
	if err != nil {
		d.socket.Close()
		device.Close()
		d.say(err, heard)
		return err
	}
	serveCtx, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() { served <- uapi.Serve(serveCtx, d.socket, backend, d.log) }()
	ran := make(chan error, 1)
	go func() { ran <- device.Run(context.WithoutCancel(ctx)) }()
	stopMetrics := d.metrics.serve(device, d.log)
	go watchdog(serveCtx, device.Responsive, d.log)
	go site.WatchAddresses(serveCtx, d.name, device.AddressesChanged, d.log)

	elsewhere := false
	if err = d.life.started(ctx); err == nil {
		heard = false
		elsewhere, err = d.wait(ctx, device, unlinked, ran)
	}
	if !elsewhere {
		d.life.stopping()
	}
	stopMetrics()
	device.Close()
	err = errors.Join(err, <-ran)
	if !elsewhere {
		err = errors.Join(err, d.socket.Remove())
		err = errors.Join(err, d.anyIP())
		d.life.gone() // before those are let go who wait for everything to be undone
	}
	d.say(err, heard)
	stopServing()
	return errors.Join(err, <-served)
}

// say says the last words, unless a terminal hears them.
func (d *daemon) say(err error, heard bool) {
	if heard {
		err = nil
	}
	d.words.say(err)
}

// wait waits for the end, which is not one if there is a successor.
func (d *daemon) wait(ctx context.Context, device *tunnel.Device, unlinked <-chan struct{}, ran chan error) (elsewhere bool, err error) {
	var wanted <-chan struct{}
	next, hasNext := d.life.(successor)
	if hasNext {
		wanted = next.wanted()
	}
	for {
		select {
		case <-ctx.Done():
			if hasNext && toBeRestarted(d.log) {
				elsewhere, _ = next.succeeded(device, true)
			}
			return elsewhere, nil
		case <-wanted:
			if _, ended := next.succeeded(device, false); ended {
				return false, errors.New("could not be started again")
			}
		case <-unlinked:
			d.log.Info("the configuration socket was removed: ending", "interface", d.name)
			return false, nil
		case err = <-ran:
			ran <- nil
			return false, err
		}
	}
}

// background starts this program again with the descriptors, and leaves it
// alone. What both printed so far was to the caller's terminal; the daemon only
// goes on with that if much is to be said.
func (d *daemon) background(c *command) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("go to the background: %w", err)
	}
	socket, err := d.socket.File()
	if err != nil {
		return fmt.Errorf("go to the background: %w", err)
	}
	child := exec.Command(program, os.Args[1:]...)
	child.Env = append(os.Environ(), envTUN+"=3", envUAPI+"=4", envForeground+"=1", "LOG_LEVEL="+c.logLevel)
	child.ExtraFiles = []*os.File{d.tun.File(), socket}
	prometheus, err := d.metrics.file()
	if err != nil {
		return fmt.Errorf("go to the background: %w", err)
	}
	if prometheus != nil {
		child.Env = append(child.Env, envMetrics+"=5")
		child.ExtraFiles = append(child.ExtraFiles, prometheus)
	}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if c.verbose() {
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
	} else {
		child.Env = append(child.Env, envSyslog+"=1")
	}
	if err := child.Start(); err != nil {
		d.socket.Remove()
		return fmt.Errorf("go to the background: %w", err)
	}
	return child.Process.Release()
}
