package check

import (
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/share"
)

// lent is what a check may know of the placeholders that were set on the client's
// replacer on the way to us (an authenticated user, a match of a regular expression,
// the output of a map). Nobody can list them, so they are looked up when they are
// asked for: while the client's request is parked and touches nothing, by its own
// replacer; afterwards among those that were looked up before.
type lent struct {
	sync.Mutex // protects what follows, and the client's replacer while it is parked
	wanted     *wanted
	repl       *caddy.Replacer // nil when the client has it back
	values     map[string]any  // nil until there is one
	names      []string        // that a check has asked for, known or not, sorted: one more than share.MaxWanted at most
	user       bool            // those who share have the same authenticated user
}

// lend looks up what was asked for before, and lends the rest.
func (c *Checker) lend(repl *caddy.Replacer) *lent {
	l := &lent{wanted: &c.wanted, repl: repl, user: !c.Share.Public}
	for _, key := range c.wanted.list() {
		if v, ok := l.find(key); ok {
			l.note(key, v)
		}
	}
	return l
}

// note keeps the value of a placeholder for the checks that follow.
func (l *lent) note(key string, v any) {
	if l.values == nil {
		l.values = make(map[string]any)
	}
	l.values[key] = v
}

// find asks the client's replacer for what a check may ask for. A placeholder that panics
// has no value here, so that the others have theirs: when a check asks for it itself, it
// panics there, which the check survives.
func (l *lent) find(key string) (v any, ok bool) {
	defer func() {
		if recover() != nil {
			v, ok = nil, false
		}
	}()
	return l.repl.Get(key)
}

// End gives the client its replacer back.
func (l *lent) End() {
	l.Lock()
	defer l.Unlock()
	l.repl = nil
}

// get looks up a placeholder for a check.
func (l *lent) get(key string) (any, bool) {
	if _, ours := poll.OurKey(key); ours {
		return nil, false
	}
	l.Lock()
	defer l.Unlock()
	if at, known := slices.BinarySearch(l.names, key); !known && len(l.names) <= share.MaxWanted && !(l.user && key == "http.auth.user.id") {
		l.names = slices.Insert(l.names, at, key)
	}
	if v, ok := l.values[key]; ok {
		return v, true
	}
	if l.repl == nil {
		return nil, false
	}
	v, ok := l.repl.Get(key)
	if ok {
		l.note(key, v)
		l.wanted.add(key)
	}
	return v, ok
}

// asked are the placeholders that checks have asked for, sorted: an answer depends on
// them.
func (l *lent) asked() []string {
	l.Lock()
	defer l.Unlock()
	return slices.Clone(l.names)
}

// value is the value of a placeholder as a check gets it, and whether it has one. That it
// is asked for here is not noted.
func (l *lent) value(name string) (string, bool) {
	l.Lock()
	defer l.Unlock()
	v, ok := l.values[name]
	if !ok && l.repl != nil {
		v, ok = l.find(name)
	}
	return caddy.ToString(v), ok
}

// wanted is a small set of the placeholders that the handlers behind us ask for.
type wanted struct {
	mu  sync.Mutex // protects all
	all []string
}

func (w *wanted) add(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.all) < share.MaxWanted && !slices.Contains(w.all, name) {
		w.all = append(w.all, name)
	}
}

func (w *wanted) list() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clip(w.all)
}
