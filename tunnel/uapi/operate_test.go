package uapi

import (
	"errors"
	"strings"
	"testing"
)

// operating is a backend that can do more, or refuses to.
type operating struct {
	fake
	asked   []Operation
	refusal error
}

func (o *operating) Operate(what Operation) error {
	o.asked = append(o.asked, what)
	return o.refusal
}

// A client's requests arrive, and refusals come back in words; a backend that cannot
// do more says so, and one answers what comes after.
func TestOperate(t *testing.T) {
	name := testName("o")
	o := &operating{}
	serve(t, name, o)
	c := dial(t, name)
	for _, what := range []Operation{Reload, Restart} {
		if err := c.Operate(what); err != nil {
			t.Error(err)
		}
	}
	o.refusal = errors.New("one\ntwo")
	if err := c.Operate(Reload); err == nil || !strings.HasSuffix(err.Error(), "reload: one; two") {
		t.Errorf("refused with %v", err)
	}
	if len(o.asked) != 3 || o.asked[1] != Restart {
		t.Errorf("asked for %v", o.asked)
	}
	if _, err := c.Get(); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	plain := testName("p")
	serve(t, plain, &fake{})
	if err := dial(t, plain).Operate(Reload); !errors.Is(err, ErrNotKiloport) {
		t.Errorf("a backend that cannot: %v", err)
	}
}
