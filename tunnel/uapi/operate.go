package uapi

import (
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"
)

// Operation is something that a daemon does with itself. WireGuard's protocol has
// none; a daemon that is not kiloport hangs up.
type Operation string

const (
	// Reload applies what has changed in the configuration file.
	Reload Operation = "reload"
	// Restart starts the program again, as it now is on the disk, and hands
	// everything over to it.
	Restart Operation = "restart"
)

// Operator is a [Backend] that can do more than be configured.
type Operator interface {
	// Operate does it, or begins with it. The text of an error goes to the
	// client, without keys.
	Operate(Operation) error
}

// operateTimeout is how long a client waits: names may have to be looked up.
const operateTimeout = 60 * time.Second

// operate serves a request for an operation.
func operate(w io.Writer, name string, backend Backend) error {
	operator, ok := backend.(Operator)
	if !ok {
		return &Error{syscall.EOPNOTSUPP, 1, shown("do=" + name), errHangUp}
	}
	err := operator.Operate(Operation(name))
	if err != nil {
		fmt.Fprintf(w, "error=%s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return err
}

// Operate asks the daemon to do something. An error of the daemon's comes with its
// text; one that wraps [ErrNotKiloport] says that it cannot do anything.
func (c *Client) Operate(o Operation) error {
	var said string
	heard := false
	err := c.askFor(operateTimeout, "do="+string(o)+"\n\n", func(key, value string) error {
		if key == "error" {
			said = value
		}
		heard = true
		return nil
	})
	switch {
	case err == nil:
		return nil
	case said != "":
		return fmt.Errorf("interface %s: %s: %s", c.name, o, said)
	case !heard && isHangUp(err):
		err = ErrNotKiloport
	}
	return fmt.Errorf("interface %s: %s: %w", c.name, o, err)
}
