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

	"kiloport/portpool"
	"kiloport/tunnel"
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
}

// runDevice is `kiloport NAME`.
func (c *command) runDevice(ctx context.Context, name string) error {
	options := tunnel.DefaultOptions()
	if err := c.chosen.apply(&options); err != nil {
		return usageError{err}
	}
	log, err := c.logger()
	if err != nil {
		return err
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
	device, err := d.device(options)
	if err != nil {
		d.close()
		return err
	}
	return d.serve(ctx, device, func(context.Context) error { ready(log); return nil }, func() {}, func() {})
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

func (d *daemon) device(options tunnel.Options) (*tunnel.Device, error) {
	debug.SetGCPercent(heapGrowth)
	var err error
	if d.anyIP, err = site.AnyIP(options.SourcePrefixes.All()); err != nil {
		return nil, err
	}
	device, err := tunnel.New(tunnel.Config{TUN: d.tun, Options: options, Log: d.log, Constants: constants, Clock: tunnel.NewPreciseClock()})
	if err != nil {
		return nil, errors.Join(err, d.anyIP())
	}
	return device, nil
}

// serve runs the device until its link or its socket is deleted or ctx ends.
// started is called when packets flow; an error of it ends the device. stopping
// is called before the device goes and gone after it. The socket's clients are
// let go last of all, so that who waits for that knows that everything is undone.
func (d *daemon) serve(ctx context.Context, device *tunnel.Device, started func(context.Context) error, stopping, gone func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	unlinked, err := uapi.Watch(ctx, d.socket.Path())
	if err != nil {
		d.socket.Close()
		device.Close()
		return err
	}
	serveCtx, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() { served <- uapi.Serve(serveCtx, d.socket, device, d.log) }()
	ran := make(chan error, 1)
	go func() { ran <- device.Run(context.WithoutCancel(ctx)) }()
	stopMetrics := d.metrics.serve(device, d.log)

	err = started(ctx)
	if err == nil {
		select {
		case <-ctx.Done():
		case <-unlinked:
			d.log.Info("the configuration socket was removed: ending", "interface", d.name)
		case err = <-ran:
			ran <- nil
		}
	}
	stopping()
	stopMetrics()
	device.Close()
	err = errors.Join(err, <-ran)
	err = errors.Join(err, d.socket.Remove())
	err = errors.Join(err, d.anyIP())
	gone() // before those are let go who wait for everything to be undone
	stopServing()
	return errors.Join(err, <-served)
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
	}
	if err := child.Start(); err != nil {
		d.socket.Remove()
		return fmt.Errorf("go to the background: %w", err)
	}
	return child.Process.Release()
}
