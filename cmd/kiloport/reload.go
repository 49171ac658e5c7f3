package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"kiloport/cmd/kiloport/quick"
	"kiloport/tunnel"
	"kiloport/tunnel/uapi"
)

func (c *command) reload() *cobra.Command {
	return &cobra.Command{
		Use: "reload NAME", Short: "Apply what has changed in the configuration file",
		Long: `Apply what has changed in the configuration file of an interface: peers, keys,
addresses, routes. No packet is dropped, and sessions with peers that stay go on.
If an option of kiloport's own has changed, the daemon is restarted, see kiloport
restart. PreUp and its like are not run. What wg(8) has changed is undone, but
endpoints: peers stay where they were seen last, unless the file says another.`,
		Args: oneArg("the name of an interface, or its configuration file"),
		RunE: func(_ *cobra.Command, args []string) error { return c.operate(args[0], uapi.Reload) },
	}
}

func (c *command) restart() *cobra.Command {
	return &cobra.Command{
		Use: "restart NAME", Short: "Start the program of an interface anew, without ending connections",
		Long: `Start the program of an interface anew, as after an update: the new process takes
the place of the old one, with its number, and gets the TUN device, the sockets and
the sessions. Packets wait meanwhile, and the peers notice nothing.`,
		Args: oneArg("the name of an interface, or its configuration file"),
		RunE: func(_ *cobra.Command, args []string) error { return c.operate(args[0], uapi.Restart) },
	}
}

func (c *command) operate(arg string, o uapi.Operation) error {
	name, err := quick.InterfaceName(arg)
	if err != nil {
		return err
	}
	client, err := uapi.Dial(name)
	if err != nil {
		return err
	}
	defer client.Close()
	err = client.Operate(o)
	if errors.Is(err, uapi.ErrNotKiloport) {
		return fmt.Errorf("%w, or was not brought up by kiloport up: there is no file that it could read again", err)
	}
	if err != nil || o != uapi.Restart {
		return err
	}
	if err := client.WaitForEnd(upTimeout); err != nil {
		return err
	}
	return waitForAnswer(name)
}

// waitForAnswer waits until a daemon that has just begun answers.
func waitForAnswer(name string) error {
	for end := time.Now().Add(upTimeout); ; time.Sleep(10 * time.Millisecond) {
		_, err := askStatus(name)
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// operator is the device, and what kiloport up can do with it.
type operator struct {
	*tunnel.Device
	up *upped
}

// Operate is part of [uapi.Operator].
func (o operator) Operate(what uapi.Operation) error {
	switch what {
	case uapi.Reload:
		ctx, cancel := context.WithTimeout(context.Background(), upTimeout)
		defer cancel()
		return o.up.reread(ctx)
	case uapi.Restart:
		return o.up.startSoon()
	}
	return fmt.Errorf("%q is unknown: use reload or restart", what)
}

var errNotYetUp = errors.New("the interface is not up yet: try again")

// startSoon has the daemon started again once its client has been answered.
func (u *upped) startSoon() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.isUp {
		return errNotYetUp
	}
	if _, err := u.load(u.path, u.stderr); err != nil {
		return fmt.Errorf("the configuration cannot be used, see kiloport check %s", u.path)
	}
	u.startAgain()
	return nil
}

func (u *upped) startAgain() {
	select {
	case u.again <- struct{}{}:
	default: // it will be
	}
}

// reread applies what has changed in the file.
func (u *upped) reread(ctx context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.isUp {
		return errNotYetUp
	}
	l, err := u.load(u.path, u.stderr)
	if err != nil {
		return fmt.Errorf("the configuration cannot be used, nothing was changed, see kiloport check %s", u.path)
	}
	now, err := l.request(ctx, sameNames(u.loaded, l, u.asked))
	if err != nil {
		return err
	}
	if err := u.device.Configure(difference(u.asked, now, u.device.State())); err != nil {
		return fmt.Errorf("configure interface %s: %w", u.name, err)
	}
	// From here on the file is what is in force, whatever else fails: the next
	// reload makes the difference to it.
	changed := changedOptions(&u.options, &l.options)
	u.loaded, u.asked = l, now
	err = errors.Join(u.applied.Change(ctx, l.plan(now)), u.mark())
	if changed != "" {
		u.log.Info("starting again because of an option", "interface", u.name, "option", changed)
		u.startAgain()
	}
	if err == nil {
		u.log.Info("reloaded", "interface", u.name, "peers", len(l.config.Peers))
	}
	return err
}

// sameNames are the endpoints of peers whose name of a host has not changed: it is
// not looked up again, for the peer may be elsewhere by now.
func sameNames(old, now *loaded, asked *uapi.SetRequest) map[string]netip.AddrPort {
	hosts := make(map[string]quick.Endpoint)
	for _, p := range old.config.Peers {
		hosts[p.PublicKey.String()] = p.Endpoint
	}
	known := make(map[string]netip.AddrPort)
	for _, p := range now.config.Peers {
		key := p.PublicKey.String()
		if was := hosts[key]; was.Host == p.Endpoint.Host && was.Port == p.Endpoint.Port {
			for i := range asked.Peers {
				if asked.Peers[i].PublicKey == p.PublicKey && asked.Peers[i].Endpoint != nil {
					known[key] = *asked.Peers[i].Endpoint
				}
			}
		}
	}
	return known
}

// difference is the request that makes of a device in some state, of which old was
// asked, one of which now was. Sessions with peers that stay go on.
func difference(old, now *uapi.SetRequest, state uapi.DeviceState) *uapi.SetRequest {
	r := &uapi.SetRequest{PrivateKey: now.PrivateKey}
	if *now.ListenPort != *old.ListenPort {
		r.ListenPort = now.ListenPort
	}
	if *now.FwMark != *old.FwMark {
		r.FwMark = now.FwMark
	}
	stays := make(map[uapi.PublicKey]bool)
	before := make(map[uapi.PublicKey]*uapi.PeerChange)
	for i := range old.Peers {
		before[old.Peers[i].PublicKey] = &old.Peers[i]
	}
	for _, p := range now.Peers {
		stays[p.PublicKey] = true
	}
	for _, p := range state.Peers {
		if !stays[p.PublicKey] {
			r.Peers = append(r.Peers, uapi.PeerChange{PublicKey: p.PublicKey, Remove: true})
		}
	}
	for _, p := range now.Peers {
		was := before[p.PublicKey]
		if p.Endpoint != nil && was != nil && was.Endpoint != nil && *was.Endpoint == *p.Endpoint {
			p.Endpoint = nil
		}
		if p.PresharedKey == nil {
			p.PresharedKey = new(uapi.SecretKey)
		}
		if p.PersistentKeepalive == nil {
			p.PersistentKeepalive = new(uint16)
		}
		r.Peers = append(r.Peers, p)
	}
	return r
}

// changedOptions names the first option that is another one, "" for none.
func changedOptions(a, b *tunnel.Options) string {
	for _, o := range options {
		if o.get(a) != o.get(b) {
			return o.key
		}
	}
	return ""
}
