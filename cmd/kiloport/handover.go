package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"

	"kiloport/tunnel"
	"kiloport/tunnel/tun"
	"kiloport/tunnel/tun/site"
)

// A daemon hands over to its successor, which is this program started again, by
// descriptors. Either it starts it itself, in its own place, and names them in the
// environment; or systemd does, which keeps them meanwhile (sd_notify(3),
// FDSTORE=1) and names them as those of sockets are (sd_listen_fds(3)).

// envHandover lists descriptors as NAME=NUMBER, with commas between.
const envHandover = "KILOPORT_HANDOVER"

// The names of the descriptors, of which tun, listen and pool may come more than once.
const (
	handedState   = "kiloport-state"
	handedTUN     = "kiloport-tun"
	handedListen  = "kiloport-listen"
	handedPool    = "kiloport-pool"
	handedControl = "kiloport-control"
	handedMetrics = "kiloport-metrics"
)

// handoverNames are all of them.
var handoverNames = []string{handedState, handedTUN, handedListen, handedPool, handedControl, handedMetrics}

// maxState bounds what is read of the state, in bytes: 10 000 peers with all lanes
// in use, and more.
const maxState = 1 << 30

// handedFile is a descriptor with its name.
type handedFile struct {
	name string
	file *os.File
}

// handedDaemon is what there is beside descriptors. It holds keys.
type handedDaemon struct {
	Interface string
	Device    []byte // for tunnel.Device.Restore
	Site      site.Record
	Endpoints map[string]netip.AddrPort // where peers are, by public key,
	Asked     map[string]netip.AddrPort // and where the file had them
	Metrics   string                    // the option that the socket is for
}

// predecessor is what a daemon before this one has left.
type predecessor struct {
	handedDaemon
	tun, listen      []*os.File
	pool             []*os.File
	control, metrics *os.File
	log              *slog.Logger
}

// inherit gives what was handed over to this process, nil if nothing was. It takes
// it out of the environment. Where it cannot be used, systemd forgets it too: while
// its descriptors are open, the interface is there.
func inherit(name string, log *slog.Logger) *predecessor {
	p, err := readHandover(handedFiles())
	if p != nil {
		p.log = log
		if p.Interface != name {
			p.abandon()
			err = fmt.Errorf("it is for interface %s", p.Interface)
		}
	}
	if err != nil {
		log.Error("what was handed over cannot be used: starting anew", "error", err)
		if err := forgetKept(); err != nil {
			log.Warn("what was handed over may still be there", "error", err)
		}
		return nil
	}
	return p
}

// handedFiles collects the descriptors, whichever way they came.
func handedFiles() (files []handedFile) {
	for _, f := range activation.Files(true) {
		files = append(files, handedFile{f.Name(), f})
	}
	list := os.Getenv(envHandover)
	os.Unsetenv(envHandover)
	for entry := range strings.SplitSeq(list, ",") {
		name, number, _ := strings.Cut(entry, "=")
		if fd, err := strconv.ParseUint(number, 10, 31); err == nil {
			syscall.CloseOnExec(int(fd))
			files = append(files, handedFile{name, os.NewFile(uintptr(fd), name)})
		}
	}
	return files
}

// readHandover sorts the descriptors. What is not ours, or not complete, is closed.
func readHandover(files []handedFile) (*predecessor, error) {
	p := new(predecessor)
	var state *os.File
	for _, f := range files {
		switch f.name {
		case handedState:
			state = f.file
		case handedTUN:
			p.tun = append(p.tun, f.file)
		case handedListen:
			p.listen = append(p.listen, f.file)
		case handedPool:
			p.pool = append(p.pool, f.file)
		case handedControl:
			p.control = f.file
		case handedMetrics:
			p.metrics = f.file
		default:
			f.file.Close()
		}
	}
	if state == nil {
		p.close()
		return nil, nil
	}
	defer state.Close()
	err := p.take(state)
	if err == nil && (len(p.tun) == 0 || p.control == nil) {
		err = errors.New("the tun device or the control socket is missing")
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// take reads the state and leaves it without the sessions. Should this process end
// before it is ready, systemd gives the same file to another one, which must not use
// keys and counters that were used here.
func (p *predecessor) take(state *os.File) error {
	text, err := io.ReadAll(io.NewSectionReader(state, 0, maxState))
	defer clear(text)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &p.handedDaemon); err != nil {
		return errors.Join(err, state.Truncate(0))
	}
	rest := p.handedDaemon
	rest.Device = nil
	return writeState(state, rest)
}

// writeState writes the state in place of what was there, of which nothing is left.
func writeState(state *os.File, d handedDaemon) error {
	text, err := json.Marshal(d)
	defer clear(text)
	if err == nil {
		err = state.Truncate(0)
	}
	if err == nil {
		_, err = state.WriteAt(text, 0)
	}
	return err
}

func (p *predecessor) close() {
	for _, f := range slices.Concat([]*os.File{p.control, p.metrics}, p.tun, p.listen, p.pool) {
		if f != nil {
			f.Close()
		}
	}
	clear(p.Device)
}

// abandon undoes what the predecessor did, when this process cannot go on with it.
func (p *predecessor) abandon() {
	if err := site.Resume(p.Interface, p.Site, p.log).Undo(); err != nil {
		p.log.Error("while going down", "interface", p.Interface, "error", err)
	}
	p.close()
}

// handOver ends the device and gives what its successor needs. What it gives is the
// caller's to close. It reports whether the device has ended, for it may fail before
// or after that.
func (d *daemon) handOver(device *tunnel.Device, rest handedDaemon) (files []handedFile, ended bool, err error) {
	rest.Interface = d.name
	rest.Endpoints = make(map[string]netip.AddrPort)
	for _, peer := range device.State().Peers {
		if peer.Endpoint.IsValid() {
			rest.Endpoints[peer.PublicKey.String()] = peer.Endpoint
		}
	}
	control, err := d.socket.File()
	if err != nil {
		return nil, false, fmt.Errorf("hand over the control socket: %w", err)
	}
	files = append(files, handedFile{handedControl, control})
	metrics, err := d.metrics.file()
	if err != nil {
		return files, false, fmt.Errorf("hand over the socket of the metrics: %w", err)
	}
	if metrics != nil {
		files = append(files, handedFile{handedMetrics, metrics})
	}
	state, err := tun.MemoryFile(handedState)
	if err != nil {
		return files, false, err
	}
	files = append(files, handedFile{handedState, state})
	h, err := device.HandOver()
	if err != nil {
		return files, false, err
	}
	for _, f := range h.TUN {
		files = append(files, handedFile{handedTUN, f})
	}
	for _, f := range h.Listen {
		files = append(files, handedFile{handedListen, f})
	}
	for _, f := range h.Pool {
		files = append(files, handedFile{handedPool, f})
	}
	rest.Device = h.State
	err = writeState(state, rest)
	clear(h.State)
	if err != nil {
		return files, true, fmt.Errorf("hand over the sessions: %w", err)
	}
	return files, true, nil
}

func closeHanded(files []handedFile) {
	for _, f := range files {
		f.file.Close()
	}
}

// duplicate gives a descriptor that exec does not close. It leaves the file as it
// is, where Fd would make it blocking.
func duplicate(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	var failed error
	err = raw.Control(func(old uintptr) { fd, failed = syscall.Dup(int(old)) })
	return fd, errors.Join(err, failed)
}

// startAgain starts this program in the place of this process, with the
// descriptors. It returns only if that fails.
func startAgain(files []handedFile) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start again: %w", err)
	}
	var list []string
	for _, f := range files {
		fd, err := duplicate(f.file)
		if err != nil {
			return fmt.Errorf("start again: hand over %s: %w", f.name, err)
		}
		list = append(list, f.name+"="+strconv.Itoa(fd))
	}
	env := append(os.Environ(), envHandover+"="+strings.Join(list, ","))
	return fmt.Errorf("start again: %w", syscall.Exec(program, os.Args, env))
}
