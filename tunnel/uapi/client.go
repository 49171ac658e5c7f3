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

const clientTimeout = 10 * time.Second // for a whole request and its answer

// ErrNotKiloport says that the daemon of an interface does not answer
// get=kiloport: it is another implementation.
var ErrNotKiloport = errors.New("its daemon is not kiloport")

// Client talks to the daemon of an interface. It is for one goroutine. After an
// error that is not a refusal (a syscall.Errno from the daemon) it is of no more
// use.
type Client struct {
	name string
	conn *net.UnixConn
	r    *bufio.Reader
}

// Dial connects to the daemon of an interface.
func Dial(name string) (*Client, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	path := SocketPath(name)
	conn, err := net.DialTimeout("unix", path, clientTimeout)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		err = fmt.Errorf("interface %s: no daemon listens on %s, is the interface up?: %w", name, path, err)
		if words := LastWords(name); words != "" {
			err = fmt.Errorf("%w; how the last one ended (%s): %s", err, lastWordsPath(name), words)
		}
		return nil, err
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("interface %s: socket %s is for root alone, try again with sudo: %w", name, path, err)
	case err != nil:
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	return &Client{name: name, conn: conn.(*net.UnixConn), r: bufio.NewReaderSize(conn, 1<<16)}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Get gives the present configuration, secrets included.
func (c *Client) Get() (DeviceState, error) {
	var p stateParser
	if err := c.ask("get=1\n\n", p.take); err != nil {
		return DeviceState{}, fmt.Errorf("interface %s: read its configuration: %w", c.name, err)
	}
	return p.state, nil
}

// Show gives the answer to get=kiloport, or an error that wraps
// [ErrNotKiloport].
func (c *Client) Show() (json.RawMessage, error) {
	var answer json.RawMessage
	err := c.ask("get=kiloport\n\n", func(key, value string) error {
		if key == "kiloport" {
			answer = json.RawMessage(value)
		}
		return nil
	})
	// wireguard-go hangs up on a request that it does not know.
	if answer == nil && (err == nil || isHangUp(err)) {
		err = ErrNotKiloport
	}
	if err != nil {
		return nil, fmt.Errorf("interface %s: read its status: %w", c.name, err)
	}
	return answer, nil
}

// Set sends the lines of a set request, without set=1; the empty line at the end
// may be missing. They are checked here first, so that a wrong one gives an
// [*Error] with its number, and nothing is sent then.
func (c *Client) Set(text io.Reader) error {
	r := bufio.NewReaderSize(io.MultiReader(text, strings.NewReader("\n\n")), maxLine)
	request, err := ParseSet(r)
	if err != nil {
		return err
	}
	for {
		line, err := readLine(r)
		if err == io.EOF {
			return c.Configure(request)
		}
		if err != nil || line != "" {
			return &Error{Errno: syscall.EINVAL, Err: errors.New("more lines follow the empty line that ends it: leave that out")}
		}
	}
}

// Configure sends a request. The error wraps the errno with which the daemon
// refused it; its log says more.
func (c *Client) Configure(request *SetRequest) error {
	var text strings.Builder
	text.WriteString("set=1\n")
	err := request.Write(&text)
	if err == nil {
		err = c.ask(text.String(), func(string, string) error { return nil })
	}
	if err != nil {
		return fmt.Errorf("interface %s: configure: %w", c.name, err)
	}
	return nil
}

// ask sends a request and hands over the lines of the answer up to errno.
func (c *Client) ask(request string, each func(key, value string) error) error {
	return c.askFor(clientTimeout, request, each)
}

// isHangUp tells whether the daemon cut the connection off instead of answering.
func isHangUp(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) }

func (c *Client) askFor(timeout time.Duration, request string, each func(key, value string) error) error {
	if err := c.conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := io.WriteString(c.conn, request); err != nil {
		return err
	}
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return fmt.Errorf("the daemon's answer broke off: %w", err)
		}
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if key == "errno" {
			return c.end(value)
		}
		if err := each(key, value); err != nil {
			return fmt.Errorf("the daemon answered %w", err)
		}
	}
}

// end reads the end of an answer. Both signs of errno are in use.
func (c *Client) end(value string) error {
	if _, err := c.r.ReadString('\n'); err != nil {
		return fmt.Errorf("the daemon's answer broke off: %w", err)
	}
	n, err := strconv.ParseInt(value, 10, 32)
	switch {
	case err != nil:
		return fmt.Errorf("the daemon answered errno=%q", value)
	case n == 0:
		return nil
	}
	return fmt.Errorf("the daemon refused, its log says why: %w", syscall.Errno(max(n, -n)))
}

// Pid is the process that listens on the socket, as the kernel recorded it when
// that began to listen (SO_PEERCRED, unix(7)).
func (c *Client) Pid() (int, error) {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("interface %s: find its daemon: %w", c.name, err)
	}
	var peer *syscall.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		peer, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err = errors.Join(err, failed); err != nil {
		return 0, fmt.Errorf("interface %s: find its daemon: %w", c.name, err)
	}
	return int(peer.Pid), nil
}
