package host

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// TempFolder makes a new folder for its caller alone, in another one, or where the
// machine has its temporary files if base is empty. Its name begins with prefix. Unlike
// os.MkdirTemp's, all names of a prefix are of one length: a guest that has no other
// randomness than its seed's is not to differ by the memory that a name takes.
func TempFolder(base, prefix string) (string, error) {
	if base == "" {
		base = os.TempDir()
	}
	for try := 1; ; try++ {
		path := filepath.Join(base, fmt.Sprintf("%s%08x", prefix, rand.Uint32()))
		err := os.Mkdir(path, 0o700)
		if err == nil || !errors.Is(err, fs.ErrExist) || try == tempTries {
			return path, err
		}
	}
}

const tempTries = 100
