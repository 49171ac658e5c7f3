package portpool

import (
	"fmt"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Steering says which socket of a group gets what arrives. The zero value leaves
// it to the kernel, which goes by a keyed hash of addresses and ports.
type Steering struct {
	// Words are offsets in the UDP payload of the 16-bit words that decide,
	// such as those that name a session and a lane. Datagrams too short for
	// them go to the first socket. The hash is not keyed: do not hope for an
	// even distribution of what others may choose.
	Words []int
}

// maxSteeringWords bounds the length of the program that the kernel runs.
const maxSteeringWords = 32

// OpenGroup opens n sockets on one port (SO_REUSEPORT), for as many workers.
// cfg.Port may be 0; all get the port that the kernel chose for the first.
//
// Left to the kernel, all that has one outer 5-tuple arrives at the same socket
// in its order; the flow label does not matter. So a lane keeps its worker,
// until a NAT gives it another port, and lanes that differ only in their label
// all have the same. With words of the payload it is what they name that keeps
// its worker, wherever it comes from: a datagram that somebody replays from
// another address goes where the first one went, too.
//
// All of this holds as long as no socket of the group is closed or added: then
// most 5-tuples move to another one, and what was waiting at a closed one is
// lost. So open the group once and close it as a whole. Datagrams that arrive
// while it is being opened may still find fewer sockets than there will be.
//
// Each socket has buffers of the sizes asked for: a single fast flow has the
// whole of one. The error is the first one's, with no socket left open.
func OpenGroup(cfg SocketConfig, n int, by Steering) (group []*UDPSocket, err error) {
	if n < 1 {
		return nil, fmt.Errorf("open a group of %d udp sockets: ask for at least one", n)
	}
	cfg.ReusePort = n > 1
	if cfg.Shared == nil {
		cfg.Shared = NewShared(SharedConfig{})
	}
	defer func() {
		if err != nil {
			closeAll(group)
			group = nil
		}
	}()
	for range n {
		s, err := Open(cfg)
		if err != nil {
			return group, err
		}
		cfg.Port = s.Port()
		group = append(group, s)
	}
	if n > 1 && len(by.Words) > 0 {
		err = group[0].steer(n, by)
	}
	return group, err
}

func closeAll(group []*UDPSocket) {
	for _, s := range group {
		s.Close()
	}
}

// steer gives the group a program that chooses the socket by its number.
func (s *UDPSocket) steer(n int, by Steering) error {
	program, err := by.program(n)
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(program))
	for i, p := range program {
		filter[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	err = onDescriptor(s.raw, func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF,
			&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	})
	if err != nil {
		return fmt.Errorf("steer what arrives on udp port %d to its workers: %w", s.port, err)
	}
	return nil
}

// program hashes the words by multiplication and takes the upper half modulo n.
func (by Steering) program(n int) ([]bpf.RawInstruction, error) {
	const golden = 0x9e3779b1 // 2^32 divided by the golden ratio, and odd
	if len(by.Words) > maxSteeringWords {
		return nil, fmt.Errorf("steer by %d words of the payload: choose at most %d", len(by.Words), maxSteeringWords)
	}
	var code []bpf.Instruction
	for _, at := range by.Words {
		if at < 0 || at > 1<<16 {
			return nil, fmt.Errorf("steer by the word at %d of the payload: choose 0 to 65536", at)
		}
		code = append(code,
			bpf.StoreScratch{Src: bpf.RegA, N: 0},
			bpf.LoadAbsolute{Off: uint32(at), Size: 2}, // ends the program with 0 if there is none
			bpf.LoadScratch{Dst: bpf.RegX, N: 0},
			bpf.ALUOpX{Op: bpf.ALUOpAdd},
			bpf.ALUOpConstant{Op: bpf.ALUOpMul, Val: golden})
	}
	code = append(code,
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 16},
		bpf.ALUOpConstant{Op: bpf.ALUOpMod, Val: uint32(n)},
		bpf.RetA{})
	return bpf.Assemble(code)
}
