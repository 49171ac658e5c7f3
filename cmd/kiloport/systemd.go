package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"kiloport/tunnel/realtime"
)

// envUnit is the unit that this process is, set by its file in deploy/systemd.
const envUnit = "KILOPORT_UNIT"

// envNotify is where systemd listens (sd_notify(3)).
const envNotify = "NOTIFY_SOCKET"

const (
	systemctlTimeout = 5 * time.Second
	barrierTimeout   = 5 * time.Second
	// maxPassed is how many descriptors go in one message; the kernel takes 253.
	maxPassed = 64
)

// ready tells systemd, if it waits.
func ready(log *slog.Logger) {
	_, err := sd.SdNotify(false, sd.SdNotifyReady)
	if err == nil {
		err = letGo() // what a process before this one has left is ours now
	}
	if err != nil {
		log.Warn("systemd was not told that the interface is ready", "error", err)
	}
}

// letGo has systemd close the descriptors that it keeps.
func letGo() error {
	for _, name := range handoverNames {
		if _, err := sd.SdNotify(false, "FDSTOREREMOVE=1\nFDNAME="+name); err != nil {
			return err
		}
	}
	return nil
}

// forgetKept is letGo, and waits until systemd has done it.
func forgetKept() error {
	if os.Getenv(envNotify) == "" {
		return nil
	}
	if err := letGo(); err != nil {
		return err
	}
	conn, err := dialSystemd()
	if err != nil {
		return err
	}
	defer conn.Close()
	return barrier(conn)
}

func dialSystemd() (*net.UnixConn, error) {
	return net.DialUnix("unixgram", nil, &net.UnixAddr{Name: os.Getenv(envNotify), Net: "unixgram"})
}

// watchdog tells systemd that the device is at work, for as long as it answers and
// ctx lasts.
func watchdog(ctx context.Context, responsive func() bool, log *slog.Logger) {
	interval, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("no watchdog", "error", err)
	}
	if err != nil || interval == 0 {
		return
	}
	ticker := time.NewTicker(interval / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if responsive() {
			sd.SdNotify(false, sd.SdNotifyWatchdog)
		}
	}
}

// toBeRestarted tells whether systemd ends this process to start it again, and not
// for good. If that cannot be found out it is for good.
func toBeRestarted(log *slog.Logger) bool {
	unit := os.Getenv(envUnit)
	if unit == "" || os.Getenv(envNotify) == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), systemctlTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemctl", "list-jobs", "--no-legend", "--plain", "--full", unit)
	var out strings.Builder
	cmd.Stdout = &out
	if err := realtime.Run(cmd); err != nil {
		log.Warn("systemd does not say whether this is a restart: ending for good", "error", err)
		return false
	}
	for line := range strings.Lines(out.String()) {
		if f := strings.Fields(line); len(f) >= 3 && f[1] == unit && strings.HasSuffix(f[2], "restart") {
			return true
		}
	}
	return false
}

// keepForSuccessor gives the descriptors to systemd, which gives them to the next
// process of this unit, and waits until it has them. If that fails it is to keep
// none.
func keepForSuccessor(files []handedFile) error {
	conn, err := dialSystemd()
	if err != nil {
		return fmt.Errorf("hand over to systemd: %w", err)
	}
	defer conn.Close()
	if err = keep(conn, files); err != nil {
		err = errors.Join(err, letGo())
	}
	return err
}

func keep(conn *net.UnixConn, files []handedFile) error {
	for len(files) > 0 {
		n := 1
		for n < len(files) && n < maxPassed && files[n].name == files[0].name {
			n++
		}
		if err := pass(conn, "FDSTORE=1\nFDPOLL=0\nFDNAME="+files[0].name, files[:n]); err != nil {
			return fmt.Errorf("hand over %s to systemd: %w", files[0].name, err)
		}
		files = files[n:]
	}
	return barrier(conn)
}

func pass(conn *net.UnixConn, message string, files []handedFile) error {
	var fds []int
	for _, f := range files {
		fd, err := duplicate(f.file)
		if err != nil {
			return err
		}
		defer syscall.Close(fd)
		fds = append(fds, fd)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	// WriteMsgUnix takes no socket of datagrams that is connected.
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		failed = syscall.Sendmsg(int(fd), []byte(message), syscall.UnixRights(fds...), nil, 0)
		return failed != syscall.EAGAIN
	})
	return errors.Join(err, failed)
}

// barrier waits until systemd has read all that it was told: it closes the
// descriptor that comes last (sd_notify_barrier(3)).
func barrier(conn *net.UnixConn) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	err = pass(conn, "BARRIER=1", []handedFile{{"barrier", w}})
	w.Close()
	if err == nil {
		r.SetReadDeadline(time.Now().Add(barrierTimeout))
		_, err = io.ReadAll(r)
	}
	if err != nil {
		return fmt.Errorf("wait for systemd to take over: %w", err)
	}
	return nil
}
