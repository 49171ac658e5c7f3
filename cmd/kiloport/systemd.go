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
)

// envUnit is the unit that this process is, set by its file in deploy/systemd.
const envUnit = "KILOPORT_UNIT"

const (
	systemctlTimeout = 5 * time.Second
	barrierTimeout   = 5 * time.Second
	// maxPassed is how many descriptors go in one message; the kernel takes 253.
	maxPassed = 64
)

// ready tells systemd, if it waits.
func ready(log *slog.Logger) {
	// What a process before this one has left is ours now.
	state := []string{sd.SdNotifyReady}
	for _, name := range handoverNames {
		state = append(state, "FDSTOREREMOVE=1\nFDNAME="+name)
	}
	for _, s := range state {
		if _, err := sd.SdNotify(false, s); err != nil {
			log.Warn("systemd was not told that the interface is ready", "error", err)
			return
		}
	}
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
	if unit == "" || os.Getenv("NOTIFY_SOCKET") == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), systemctlTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", "list-jobs", "--no-legend", "--plain", "--full", unit).Output()
	if err != nil {
		log.Warn("systemd does not say whether this is a restart: ending for good", "error", err)
		return false
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) >= 3 && f[1] == unit && strings.HasSuffix(f[2], "restart") {
			return true
		}
	}
	return false
}

// keepForSuccessor gives the descriptors to systemd, which gives them to the next
// process of this unit, and waits until it has them.
func keepForSuccessor(files []handedFile) error {
	address := &net.UnixAddr{Name: os.Getenv("NOTIFY_SOCKET"), Net: "unixgram"}
	conn, err := net.DialUnix("unixgram", nil, address)
	if err != nil {
		return fmt.Errorf("hand over to systemd: %w", err)
	}
	defer conn.Close()
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
