package portpool

import (
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dropAll puts a filter before a socket's queue that lets nothing in.
//
// All sockets have the same program, where the process may load one (CAP_BPF or
// CAP_SYS_ADMIN): to attach it costs a microsecond. Elsewhere each gets its own
// classic filter, which anybody may attach but which the kernel compiles each
// time, 80 µs that a flow's first packet would wait.
func dropAll(fd int) error {
	if prog, err := dropProgram(); err == nil {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, prog) == nil {
			return nil
		}
	}
	return dropAllClassic(fd)
}

func dropAllClassic(fd int) error {
	program := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}} // return 0
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}

// dropProgram is the descriptor of a loaded socket filter (bpf(2)) that returns
// 0, "keep no byte". Programs belong to no network namespace, so one serves the
// process, for as long as it lives.
var dropProgram = sync.OnceValues(func() (fd int, err error) {
	// struct bpf_insn: operation, registers, offset, constant.
	code := [][8]byte{
		{unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K}, // r0 = 0
		{unix.BPF_JMP | unix.BPF_EXIT},
	}
	license := []byte("MIT\x00")
	// The kernel gets addresses as plain numbers, which keep nothing alive.
	var pin runtime.Pinner
	pin.Pin(&code[0])
	pin.Pin(&license[0])
	defer pin.Unpin()
	attr := struct { // union bpf_attr for BPF_PROG_LOAD
		progType, count uint32
		code, license   uint64
		logLevel        uint32
		logSize         uint32
		log             uint64
		version, flags  uint32
	}{
		progType: unix.BPF_PROG_TYPE_SOCKET_FILTER,
		count:    uint32(len(code)),
		code:     uint64(uintptr(unsafe.Pointer(&code[0]))),
		license:  uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	r, _, e := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if e != 0 {
		return -1, e
	}
	return int(r), nil
})
