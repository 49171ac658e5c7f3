package attach

// The objects are committed: clang and libbpf's headers (libbpf-dev) are for who
// changes the programs. The second line notes the source that they were made of.
//
//go:generate go tool bpf2go -go-package attach -cflags "-O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -I/usr/include/x86_64-linux-gnu" -target bpfel,bpfeb -type settings -type endpoint -type spread -type restores -type counts -type address program bpf/attach.c
//go:generate sh -c "sha256sum bpf/attach.c >bpf/source.sha256"
