package labkernel

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A change is what the lab has otherwise in its kernel's source: one passage for
// another.
type change struct {
	file     string // below the source's folder
	from, to string // from is there once
}

// changes make all randomness of a kernel come from one seed, if it is started
// with one: addresses, sequence numbers, ports, the hashes of queues, keys, and what
// programs inside ask for. Where the clock is virtual, too, nothing else is left to
// chance, and a guest does the same to the last digit each time.
//
// User-Mode Linux asks its host for random bytes, as other kernels do their
// processor, at the start and whenever its generator is seeded anew; and it mixes in
// what differs from start to start: interrupts, the command line, addresses. The
// former come from a generator of ours (SplitMix64) and the latter are left out:
// seeded or not, what the host gives is enough.
var changes = []change{
	{
		file: "arch/um/os-Linux/util.c",
		from: "return getrandom(buf, len, flags);",
		to: `static unsigned long long state;
	static int seeded;
	unsigned char *p = buf;

	if (!seeded) {
		const char *seed = getenv("` + seedEnv + `");

		if (!seed)
			return getrandom(buf, len, flags);
		state = strtoull(seed, NULL, 10);
		seeded = 1;
	}
	for (size_t i = 0; i < len; i++) {
		unsigned long long z = state += 0x9e3779b97f4a7c15ULL;

		z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
		z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
		p[i] = z ^ (z >> 31);
	}
	return len;`,
	},
	{
		file: "drivers/char/random.c",
		from: "blake2s_update(&input_pool.hash, buf, len);",
		to:   "/* left out, so that a seed decides everything */",
	},
}

// seedEnv is how a kernel is told its seed, a decimal number, in its environment.
const seedEnv = "KILOPORT_LABKERNEL_SEED"

// make changes the source in a folder.
func (c *change) make(tree string) error {
	path := filepath.Join(tree, c.file)
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("change the kernel's source: %w", err)
	}
	if n := strings.Count(string(text), c.from); n != 1 {
		return fmt.Errorf("change the kernel's source: %s has %q %d times instead of once: install %s, which are known to do", c.file, c.from, n, strings.Join(sourcePackages, " or "))
	}
	return os.WriteFile(path, []byte(strings.Replace(string(text), c.from, c.to, 1)), 0o644)
}
