package uapi

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const clientTimeout = 10 * time.Second

// ErrNotKiloport says that the daemon of an interface does not answer
// get=kiloport: it is another implementation.
var ErrNotKiloport = errors.New("not run by kiloport")

// Client talks to the daemon of an interface.
type Client struct {
	name string
	conn *net.UnixConn
	r    *bufio.Reader
}

// Dial connects to the daemon of an interface.
func Dial(name string) (*Client, error) {
	conn, err := net.DialTimeout("unix", SocketPath(name), clientTimeout)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("interface %s has no daemon that listens on %s: is it up?", name, SocketPath(name))
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("interface %s: %s is for root alone: try again with sudo", name, SocketPath(name))
	case err != nil:
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	return &Client{name: name, conn: conn.(*net.UnixConn), r: bufio.NewReaderSize(conn, 1<<16)}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Show gives the answer to get=kiloport, or [ErrNotKiloport].
func (c *Client) Show() (json.RawMessage, error) {
	c.conn.SetDeadline(time.Now().Add(clientTimeout))
	if _, err := io.WriteString(c.conn, "get=kiloport\n\n"); err != nil {
		return nil, fmt.Errorf("interface %s: %w", c.name, err)
	}
	var answer json.RawMessage
	err := c.lines(func(key, value string) error {
		if key == "kiloport" {
			answer = json.RawMessage(value)
		}
		return nil
	})
	if answer == nil {
		return nil, fmt.Errorf("interface %s: %w", c.name, errors.Join(ErrNotKiloport, err))
	}
	return answer, err
}

// Set sends a request and gives the daemon's refusal.
func (c *Client) Set(request *SetRequest) error {
	c.conn.SetDeadline(time.Now().Add(clientTimeout))
	w := bufio.NewWriter(c.conn)
	fmt.Fprintln(w, "set=1")
	if err := request.WriteSet(w); err != nil {
		return fmt.Errorf("interface %s: %w", c.name, err)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("interface %s: %w", c.name, err)
	}
	return c.lines(func(string, string) error { return nil })
}

// lines hands over the lines of an answer up to errno.
func (c *Client) lines(each func(key, value string) error) error {
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return fmt.Errorf("interface %s: the daemon's answer broke off: %w", c.name, err)
		}
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if key != "errno" {
			if err := each(key, value); err != nil {
				return err
			}
			continue
		}
		c.r.ReadString('\n')
		n, err := strconv.Atoi(value)
		if err != nil {
			return fmt.Errorf("interface %s: the daemon answered errno %q", c.name, value)
		}
		if n != 0 {
			return fmt.Errorf("interface %s: the daemon refused: %w", c.name, syscall.Errno(max(n, -n)))
		}
		return nil
	}
}

// Pid is the process that listens on the socket.
func (c *Client) Pid() (int, error) {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *syscall.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		peer, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, fmt.Errorf("interface %s: who listens on its socket: %w", c.name, failed)
	}
	return int(peer.Pid), nil
}
