package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"kiloport/cmd/kiloport/quick"
	"kiloport/cmd/kiloport/sites"
	"kiloport/tunnel"
)

// setupRequest is what the flags of setup say.
type setupRequest struct {
	name, dir, hub, here string
	listenPort           uint16
	inner                []string
}

func (c *command) setup() *cobra.Command {
	r := setupRequest{}
	setup := &cobra.Command{
		Use:   "setup SITE SITE...",
		Short: "Make the configuration files of sites that are to be joined",
		Long: `Make the configuration files of two or more sites, with keys, addresses and
firewall rules, and check them against each other. A SITE is

  NAME[@HOST[:PORT]][,NETWORK...]

HOST is the address or name at which the others reach it; a site without one, as
behind a NAT, begins by itself and keeps its mapping alive. NETWORKs are behind
the site. All sites are joined with each other, or with --hub through one.

For each there is then a folder of its name, with NAME/wg0.conf, which holds its
private key and goes to /etc/kiloport there by a way that nobody can listen to,
and NAME/wg0.nft, what its firewall has to let through.`,
		Example: `  kiloport setup --here berlin berlin@192.0.2.1,10.1.0.0/16 paris@198.51.100.1,10.2.0.0/16
  kiloport setup office@vpn.example.com,10.1.0.0/16 home,192.168.7.0/24
  kiloport setup --hub a a@192.0.2.1 b c d`,
		Args: cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error { return c.makeSites(&r, args) },
	}
	flags := setup.Flags()
	flags.StringVar(&r.name, "name", "wg0", "the interface")
	flags.StringVar(&r.dir, "dir", ".", "where the sites' folders are made")
	flags.StringVar(&r.here, "here", "", "the site that this machine is: its configuration goes to /etc/kiloport at once")
	flags.StringVar(&r.hub, "hub", "", "the site through which all others are joined")
	flags.Uint16Var(&r.listenPort, "listen-port", 51820, "where each site listens that has no port of its own")
	flags.StringSliceVar(&r.inner, "inner", nil, "the tunnel's own networks; default 10.99.0.0/24 and a random one of IPv6")
	return setup
}

func (c *command) makeSites(r *setupRequest, args []string) error {
	plan, err := c.sitePlan(r, args)
	if err != nil {
		return usageError{err}
	}
	files, err := plan.Make(rand.Reader)
	if err != nil {
		return usageError{err}
	}
	written, err := writeSites(r, files)
	if err != nil {
		return err
	}
	if err := c.checkTogether(written, io.Discard); err != nil {
		return err
	}
	for i := range files {
		config, firewall := written[i], filepath.Join(r.dir, files[i].Site, r.name+".nft")
		if files[i].Site == r.here {
			fmt.Fprintf(c.stdout, "%s: %s is in its place, %s goes into the firewall here if there is one\n", r.here, config, firewall)
			continue
		}
		fmt.Fprintf(c.stdout, "%s: %s goes to %s there, %s into its firewall if it has one\n", files[i].Site, config, configDirs[0], firewall)
	}
	return nil
}

func (c *command) sitePlan(r *setupRequest, args []string) (*sites.Plan, error) {
	if name, err := quick.InterfaceName(r.name); err != nil || name != r.name {
		return nil, fmt.Errorf("--name %q is no name of an interface: use 1 to 15 of letters, digits and _ = + . -", r.name)
	}
	options := tunnel.DefaultOptions()
	options.PortRange = tunnel.PortRange{Low: 40000, High: 40000 + uint16(options.Ports) - 1}
	if ports, ok := c.chosen.values["ports"]; ok && c.chosen.values["port-range"] == "" {
		if err := setKey(&options, "ports", ports); err != nil {
			return nil, err
		}
		options.PortRange.High = options.PortRange.Low + uint16(options.Ports) - 1
	}
	if err := c.chosen.apply(&options); err != nil {
		return nil, err
	}
	p := &sites.Plan{
		Hub: r.hub, Interface: r.name, ListenPort: r.listenPort,
		Ports: options.Ports, PortRange: options.PortRange,
	}
	for _, text := range args {
		site, err := sites.Parse(text)
		if err != nil {
			return nil, err
		}
		p.Sites = append(p.Sites, site)
	}
	var err error
	p.Inner, err = innerNetworks(r.inner)
	if err == nil && r.here != "" && !slices.ContainsFunc(p.Sites, func(s sites.Site) bool { return s.Name == r.here }) {
		err = fmt.Errorf("--here %s is none of the sites", r.here)
	}
	return p, err
}

func innerNetworks(texts []string) (all []netip.Prefix, err error) {
	if len(texts) == 0 {
		return sites.DefaultInner(rand.Reader)
	}
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("--inner: %q is no network, such as 10.99.0.0/24 or fd99::/64", text)
		}
		all = append(all, prefix)
	}
	return all, nil
}

// siteFile is a file to be written.
type siteFile struct {
	path, text string
	mode       os.FileMode
}

// writeSites writes the files, all or none, and gives the paths of the
// configurations. It overwrites nothing: a key that is in use would be lost.
func writeSites(r *setupRequest, files []sites.Files) (configs []string, err error) {
	var all []siteFile
	for _, f := range files {
		path := filepath.Join(r.dir, f.Site, r.name)
		config := path + ".conf"
		if f.Site == r.here {
			config = filepath.Join(configDirs[0], r.name+".conf")
		}
		configs = append(configs, config)
		all = append(all, siteFile{config, f.Config, 0o600}, siteFile{path + ".nft", f.Firewall, 0o644})
	}
	for _, f := range all {
		if _, err := os.Lstat(f.path); err == nil {
			return nil, fmt.Errorf("%s is there: it is not overwritten, for its keys may be in use: remove it, or choose another --dir", f.path)
		}
	}
	for i, f := range all {
		if err := writeNew(f); err != nil {
			for _, written := range all[:i] {
				os.Remove(written.path)
			}
			return nil, fmt.Errorf("write the files of the sites: %w", err)
		}
	}
	return configs, nil
}

func writeNew(n siteFile) error {
	if err := os.MkdirAll(filepath.Dir(n.path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(n.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, n.mode)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(f, n.text); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// checkTogether reads several configurations and says what is wrong with them,
// each by itself and with the others.
func (c *command) checkTogether(paths []string, notes io.Writer) error {
	var all []sites.Named
	for _, path := range paths {
		l, err := c.load(path, notes)
		if err != nil {
			return err
		}
		all = append(all, sites.Named{File: path, Config: l.config})
	}
	problems := sites.Compare(all)
	for _, p := range problems {
		fmt.Fprintf(c.stderr, "kiloport: %v\n", p)
	}
	if len(problems) > 0 {
		return errSilent
	}
	return nil
}
