package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"kiloport/bench/tunnels"
)

// clockTick is the unit of processor time in /proc, on every architecture that
// Go knows (USER_HZ is 100).
const clockTick = 10 * time.Millisecond

// A usage is what one daemon has taken since it was started.
type usage struct {
	cpu    time.Duration // of all threads and of the children that have ended
	memory int64         // most that was resident at once, in bytes
	unread uint64        // packets dropped because it did not take them in time
}

// holders are the processes that have the TUN interface dev open. The process
// that was started need not be among them: kiloport goes to the background.
func holders(dev string) ([]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, path := range files {
		// Processes and files come and go; one that is gone holds nothing.
		if to, err := os.Readlink(path); err != nil || to != "/dev/net/tun" {
			continue
		}
		process := filepath.Dir(filepath.Dir(path))
		info, err := os.ReadFile(filepath.Join(process, "fdinfo", filepath.Base(path)))
		if err != nil || tunOf(string(info)) != dev {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(process)); err == nil && !slices.Contains(pids, pid) {
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("no process holds the tunnel interface %s: its daemon has gone, or is hidden from this program", dev)
	}
	return pids, nil
}

// tunOf is the interface in the fdinfo of an open /dev/net/tun, empty if it has
// none.
func tunOf(fdinfo string) string { return lineOf(fdinfo, "iff:") }

// lineOf is what follows a key at the start of a line.
func lineOf(text, key string) string {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// readUsage adds up what processes have taken.
func readUsage(pids []int) (sum usage, err error) {
	for _, pid := range pids {
		folder := filepath.Join("/proc", strconv.Itoa(pid))
		stat, err := os.ReadFile(filepath.Join(folder, "stat"))
		if err != nil {
			return sum, fmt.Errorf("read what a daemon takes: %w; has it crashed?", err)
		}
		status, err := os.ReadFile(filepath.Join(folder, "status"))
		if err != nil {
			return sum, fmt.Errorf("read what a daemon takes: %w; has it crashed?", err)
		}
		cpu, err := parseStat(string(stat))
		if err != nil {
			return sum, fmt.Errorf("read %s/stat: %w", folder, err)
		}
		memory, err := parsePeak(string(status))
		if err != nil {
			return sum, fmt.Errorf("read %s/status: %w", folder, err)
		}
		sum.cpu += cpu
		sum.memory += memory
	}
	return sum, nil
}

// parseStat reads the processor time in /proc/PID/stat: fields 14 to 17 of
// proc(5), the process's own and its dead children's, in and out of the kernel.
func parseStat(stat string) (time.Duration, error) {
	// Field 2, the program's name, may hold spaces and parentheses.
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, errors.New("no program's name")
	}
	fields := strings.Fields(stat[end+1:])
	const first, last = 14 - 3, 17 - 3
	if len(fields) <= last {
		return 0, fmt.Errorf("%d fields after the program's name are too few", len(fields))
	}
	ticks := int64(0)
	for _, f := range fields[first : last+1] {
		n, err := strconv.ParseInt(f, 10, 64)
		const most = 1 << 40 // 350 years
		if err != nil || n < 0 || n > most {
			return 0, fmt.Errorf("%q is not a processor time", f)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// parsePeak reads the peak of resident memory in /proc/PID/status, in bytes.
func parsePeak(status string) (int64, error) {
	line := lineOf(status, "VmHWM:")
	number, ok := strings.CutSuffix(line, " kB")
	n, err := strconv.ParseInt(number, 10, 64)
	const most = 1 << 50 // in KiB; what is more is no memory
	if !ok || err != nil || n < 0 || n > most {
		return 0, fmt.Errorf("VmHWM: %q is not a size in kB", line)
	}
	return n << 10, nil
}

// A meter tells what both daemons take during a load.
type meter struct {
	ends   [2]*tunnels.End
	pids   [2][]int
	before [2]usage
}

// meter is ready to be read after the load; nil where no daemon runs, because
// the kernel does not say whose time it takes.
func (b *bench) meter() (*meter, error) {
	if b.tunnel == nil || b.tunnel.A.Process == nil {
		return nil, nil
	}
	m := &meter{ends: [2]*tunnels.End{&b.tunnel.A, &b.tunnel.B}}
	for i, e := range m.ends {
		var err error
		if m.pids[i], err = holders(e.Dev); err != nil {
			return nil, err
		}
	}
	var err error
	m.before, err = m.read()
	return m, err
}

func (m *meter) read() (both [2]usage, err error) {
	for i, e := range m.ends {
		if both[i], err = readUsage(m.pids[i]); err != nil {
			return both, err
		}
		link, err := e.Site.Link(e.Dev)
		if err != nil {
			return both, err
		}
		if s := link.Attrs().Statistics; s != nil {
			both[i].unread = s.TxDropped
		}
	}
	return both, nil
}

// put adds the metrics of what a load cost.
func (m *meter) put(metrics map[string]float64, f *filled) error {
	if m == nil {
		return nil
	}
	after, err := m.read()
	if err != nil {
		return err
	}
	cpu := time.Duration(0)
	for i, names := range [2][2]string{{MetricMemoryA, "daemon_a_unread_dropped_count"}, {MetricMemoryB, "daemon_b_unread_dropped_count"}} {
		metrics[names[0]] = float64(after[i].memory) / (1 << 20)
		metrics[names[1]] = float64(after[i].unread - m.before[i].unread)
		cpu += after[i].cpu - m.before[i].cpu
	}
	metrics["daemons_cpu_percent"] = 100 * cpu.Seconds() / f.load.Seconds()
	if bytes := f.bytes[0] + f.bytes[1]; bytes > 0 {
		metrics[MetricCPUPerGB] = cpu.Seconds() / (float64(bytes) / 1e9)
	}
	if f.carried > 0 {
		metrics[MetricCPUPerPacket] = cpu.Seconds() * 1e6 / float64(f.carried)
	}
	return nil
}
