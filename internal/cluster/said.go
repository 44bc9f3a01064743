package cluster

import (
	"bytes"
	"net/http"
	"slices"

	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// said is what a state says beyond its version: it may be another thing although that is the
// same, and then it is handed on too.
type said struct {
	bodies [2][]byte
	fields [2]http.Header // as all Caddys have them
	read   [2]http.Header // as the last check has read them
	moving map[string]int // fields that were others lately, and for how many checks yet they are taken for such
}

// movesFor is for how many checks a field that has changed is taken for one that does so all
// the time (X-Request-Id): the next change is handed on with the next thing that is, or as
// soon as the field has come to rest.
const movesFor = 4

// is notes that all Caddys have s.
func (sd *said) is(s *state.State) {
	sd.bodies, sd.fields = of(s)
	sd.read = sd.fields
}

// same reports whether a check that has read s has found nothing that all should have.
func (sd *said) same(s *state.State) bool {
	bodies, fields := of(s)
	if !slices.EqualFunc(bodies[:], sd.bodies[:], bytes.Equal) {
		return false
	}
	sd.bodies = bodies // those of before need not be kept, too
	same := true
	for i := range fields {
		sd.compare(sd.fields[i], fields[i], func(name string) { same = same && sd.moving[name] > 0 })
	}
	sd.move(fields)
	return same
}

// move notes which fields have changed since the last check.
func (sd *said) move(now [2]http.Header) {
	for name, left := range sd.moving {
		if left--; left > 0 {
			sd.moving[name] = left
		} else {
			delete(sd.moving, name)
		}
	}
	for i := range now {
		sd.compare(sd.read[i], now[i], func(name string) {
			if sd.moving == nil {
				sd.moving = make(map[string]int)
			}
			sd.moving[name] = movesFor
		})
	}
	sd.read = now
}

// compare calls f for each field that is another one in b than in a, but for those that are
// in each message.
func (*said) compare(a, b http.Header, f func(name string)) {
	differ := func(name string, values []string) {
		if name != "Date" && name != "Age" && !slices.Equal(a[name], values) {
			f(name)
		}
	}
	for name, values := range b {
		differ(name, values)
	}
	for name := range a {
		if _, there := b[name]; !there {
			differ(name, nil)
		}
	}
}

// of is what s says.
func of(s *state.State) (bodies [2][]byte, fields [2]http.Header) {
	for i, a := range []*state.Answer{s.Answer, s.Source} {
		if a != nil && (i == 0 || a != s.Answer) {
			bodies[i], fields[i] = a.Body, a.Header
		}
	}
	return bodies, fields
}
