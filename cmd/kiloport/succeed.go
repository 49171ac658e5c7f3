package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"kiloport/tunnel"
	"kiloport/tunnel/tun"
	"kiloport/tunnel/tun/site"
	"kiloport/tunnel/uapi"
)

// goOn takes the place of a process before this one.
func (u *upped) goOn(ctx context.Context, from *predecessor) error {
	words := openLastWords(u.name, u.log) // nobody waits for this process
	if err := u.takeOver(ctx, from); err != nil {
		from.abandon()
		words.say(err)
		return err
	}
	u.daemon.words = words
	defer u.daemon.metrics.close()
	defer func() {
		if !u.elsewhere {
			u.daemon.socket.Remove()
		}
	}()
	u.log.Info("took over from the process before", "interface", u.name)
	return u.daemon.serve(ctx, u.device, operator{u.device, u})
}

// takeOver makes a device that has sessions before it has its first packet. The
// file may be another one by now: the difference is made.
func (u *upped) takeOver(ctx context.Context, from *predecessor) (err error) {
	if u.asked, err = u.request(ctx, from.Endpoints); err != nil {
		return err
	}
	d := &daemon{name: u.name, log: u.log, life: u}
	if d.metrics, err = from.metricsFor(u.options); err != nil {
		return err
	}
	if d.socket, err = uapi.ListenFile(from.control); err != nil {
		return err
	}
	from.control.Close()
	from.control = nil
	if d.tun, err = tun.FromFiles(from.tun, tunOptions(u.options, u.log)); err != nil {
		return errors.Join(err, d.socket.Remove())
	}
	from.tun = nil
	if u.device, err = d.device(u.options, from.listen, from.pool); err != nil {
		d.close()
		return errors.Join(err, d.socket.Remove())
	}
	from.listen, from.pool = nil, nil
	u.daemon, u.isUp = d, true
	request := *u.asked
	if from.Site.FwMark != 0 {
		request.FwMark = &from.Site.FwMark
	}
	if err := u.device.Configure(&request); err != nil {
		u.device.Close()
		return errors.Join(fmt.Errorf("configure interface %s: %w", u.name, err), d.socket.Remove())
	}
	if len(from.Device) == 0 {
		u.log.Warn("another process has had the sessions and ended: new handshakes are made")
	} else if err := u.device.Restore(from.Device); err != nil {
		u.log.Warn("sessions are lost, new handshakes are made", "error", err)
	}
	if err := u.device.Configure(movedPeers(from.Asked, u.asked)); err != nil {
		u.log.Error("not everything is as the file says", "interface", u.name, "error", err)
	}
	u.applied = site.Resume(u.name, from.Site, u.log)
	if err := u.applied.Change(ctx, u.plan(u.asked)); err != nil {
		u.log.Error("not everything is as the file says", "interface", u.name, "error", err)
	}
	return nil
}

// metricsFor gives the socket for Prometheus, the predecessor's if it is the same.
func (p *predecessor) metricsFor(o tunnel.Options) (metricsSocket, error) {
	inherited := p.metrics
	p.metrics = nil
	if inherited == nil {
		return listenMetrics(o)
	}
	defer inherited.Close()
	if p.Metrics != tunnel.MetricsName(o.Metrics) {
		return listenMetrics(o)
	}
	return inheritMetrics(inherited)
}

func askedEndpoints(r *uapi.SetRequest) map[string]netip.AddrPort {
	all := make(map[string]netip.AddrPort)
	for _, p := range r.Peers {
		if p.Endpoint != nil {
			all[p.PublicKey.String()] = *p.Endpoint
		}
	}
	return all
}

// movedPeers are those for which the file has another endpoint than before. Others
// stay where they were seen last.
func movedPeers(before map[string]netip.AddrPort, now *uapi.SetRequest) *uapi.SetRequest {
	r := new(uapi.SetRequest)
	for _, p := range now.Peers {
		if p.Endpoint != nil && *p.Endpoint != before[p.PublicKey.String()] {
			r.Peers = append(r.Peers, uapi.PeerChange{PublicKey: p.PublicKey, UpdateOnly: true, Endpoint: p.Endpoint})
		}
	}
	return r
}

// wanted is successor's.
func (u *upped) wanted() <-chan struct{} { return u.again }

// succeeded hands the device over, to systemd or to this program in the place of
// this process. A file that could not be used by the successor is found before.
func (u *upped) succeeded(device *tunnel.Device, bySystemd bool) (elsewhere, ended bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, err := u.load(u.path, u.stderr); err != nil {
		u.log.Error("not handed over, because the configuration cannot be used", "interface", u.name, "error", err)
		return false, false
	}
	files, ended, err := u.daemon.handOver(device, handedDaemon{
		Site: u.applied.Record(), Asked: askedEndpoints(u.asked), Metrics: tunnel.MetricsName(u.options.Metrics),
	})
	defer closeHanded(files)
	if err == nil && bySystemd {
		err = keepForSuccessor(files)
	} else if err == nil {
		err = startAgain(files)
	}
	if err != nil {
		u.log.Error("not handed over", "interface", u.name, "error", err)
		return false, ended
	}
	u.elsewhere = true
	return true, true
}
