package stockkernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kiloport/bench/guest"
)

// name is what errors call it.
const name = "the stock kernel"

const qemu = "qemu-system-x86_64"

// How long, on a busy machine, a kernel may take from its start to its init. Five
// seconds are usual where the processor is emulated, one where it is not; KVM that
// does not work may go on for ever.
const (
	patience    = 2 * time.Minute
	patienceKVM = 20 * time.Second
)

// An Accelerator is what executes the guest's instructions.
type Accelerator string

// Accelerators of QEMU.
const (
	// KVM is this machine's processor.
	KVM Accelerator = "kvm"
	// TCG is an emulated one, in one thread: with more, QEMU 7.2 breaks the code
	// that the kernel changes as it runs.
	TCG Accelerator = "tcg"
)

// Accelerator is what the next guest is tried with, and what the last one ran with
// if any has.
func (k *Kernel) Accelerator() Accelerator {
	if k.noKVM.Load() || unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) != nil {
		return TCG
	}
	return KVM
}

// Run boots the kernel for one command, see [guest.Run]. Its init, which is this
// program if none is given, has to be static. Where there is a /dev/kvm that does
// not work, which only the attempt can tell, the processor is emulated.
func (k *Kernel) Run(ctx context.Context, g guest.Guest) error {
	if g.Init == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find this program, the guest's init: %w", err)
		}
		g.Init = self
	}
	if err := checkStatic(g.Init); err != nil {
		return fmt.Errorf("run in %s: %w", name, err)
	}
	if k.Accelerator() == KVM && k.Clock != InstructionClock {
		err := guest.Run(ctx, k.boot(KVM, patienceKVM), g)
		if !errors.Is(err, guest.ErrNoInit) {
			return err
		}
		k.noKVM.Store(true)
	}
	return guest.Run(ctx, k.boot(TCG, patience), g)
}

func (k *Kernel) boot(a Accelerator, patience time.Duration) guest.Boot {
	return guest.Boot{Kernel: name, Patience: patience, Machine: func(g *guest.Guest, folder string) (*exec.Cmd, error) {
		root := filepath.Join(folder, "initramfs")
		f, err := os.Create(root)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(k.writeRoot(f, g.Init), f.Close()); err != nil {
			return nil, fmt.Errorf("write the first root of %s: %w", name, err)
		}
		return exec.Command(qemu, k.commandLine(a, g, folder, root)...), nil
	}}
}

// commandLine is what QEMU is told.
func (k *Kernel) commandLine(a Accelerator, g *guest.Guest, folder, root string) []string {
	accel, cpu := "kvm", "host"
	if a == TCG {
		accel, cpu = "tcg,thread=single,tb-size=256", "max"
	}
	args := []string{
		"-accel", accel, "-cpu", cpu, "-smp", "1", "-m", fmt.Sprint(g.Memory),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-kernel", k.Path, "-initrd", root,
		"-append", fmt.Sprintf("console=ttyS0 quiet panic=-1 %s=%s", initEnv, k.Manifest.Release),
	}
	if a == TCG {
		args = append(args, k.Clock.option()...)
	}
	args = append(args, export(rootTag, "/", true)...)
	args = append(args, export(jobTag, folder, false)...)
	args = append(args, export(modulesTag, k.Modules, true)...)
	for i, path := range g.Shares() {
		args = append(args, export(shareTag(i), path, false)...)
	}
	return args
}

// export gives the guest a folder. What it makes there belongs to the user who runs
// QEMU. A comma in a path is written twice.
func export(tag, path string, readOnly bool) []string {
	fs := fmt.Sprintf("local,id=%s,path=%s,security_model=none,multidevs=remap", tag, strings.ReplaceAll(path, ",", ",,"))
	if readOnly {
		fs += ",readonly=on"
	}
	return []string{"-fsdev", fs, "-device", fmt.Sprintf("virtio-9p-pci,fsdev=%s,mount_tag=%s", tag, tag)}
}
