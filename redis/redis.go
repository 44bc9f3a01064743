// Package redis has Redis serve long_poll in two ways: as a waker, where a message on a
// channel says that a resource is worth a look ([Waker]), and as the place where the
// Caddys of a cluster meet ([Board]).
//
// All wakers of this process that name the same server share one link, across
// sites and reloads. A link has one line, which is one connection; on a cluster
// one more for each node that alone can be heard for a channel. A line is two
// goroutines: one reads and only marks, the other one writes.
//
//	Waker ──┐            ┌── line ◄──► server
//	Waker ──┼──► link ───┤
//	Waker ──┘            └── line ◄──► another node of a cluster
package redis

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() {
	caddy.RegisterModule(new(Waker))
}

// Waker wakes resources by messages on Redis channels. It subscribes while
// somebody waits and lets go afterwards. Nothing fails while the server can not
// be reached: checks go on at their interval, and when it is back, everything
// that is waited for is checked once.
//
// The Redis user needs no more than the commands SUBSCRIBE, PSUBSCRIBE or
// SSUBSCRIBE, their opposites, and PING; with db SELECT, and on a cluster
// CLUSTER SLOTS.
type Waker struct {
	Server

	// Channels, with placeholders of the request. Every message wakes, whatever
	// it says. Default: `long_poll:{http.request.uri.path}`, the path without
	// percent-encoding, unless there is a `pattern` or a `keyspace`.
	Channel []string `json:"channel,omitempty"`

	// Patterns of channels, as PSUBSCRIBE knows them. A message wakes the path
	// that it names: its payload if that begins with a slash, else what the
	// pattern's `*` matched, with a slash in front. With several `*` that is
	// all from the first one to the last one. Global placeholders are replaced.
	Pattern []string `json:"pattern,omitempty"`

	// Keys, with placeholders of the request, whose keyspace notifications wake.
	// The server must send them: `notify-keyspace-events` with K and the classes
	// of commands. On a cluster the node that owns the key is listened to.
	Keyspace []string `json:"keyspace,omitempty"`

	// `channel` means sharded channels (SSUBSCRIBE, Redis 7). Excludes `pattern`.
	Sharded bool `json:"sharded,omitempty"`

	logger   *zap.Logger
	link     *link
	patterns []string          // resolved
	onPath   func(path string) // nil if nobody asks for paths
	pace     *pace             // nil but in tests

	mu      sync.Mutex // protects the following
	watches map[*watch]struct{}
	closed  bool
}

// CaddyModule returns the Caddy module information.
func (*Waker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.long_poll.wakers.redis",
		New: func() caddy.Module { return new(Waker) },
	}
}

// Provision finds the link that the waker shares. It dials nothing: that is for
// the first Watch.
func (w *Waker) Provision(ctx caddy.Context) error {
	w.logger = ctx.Logger()
	w.watches = make(map[*watch]struct{})

	repl := caddy.NewReplacer()
	for _, p := range w.Pattern {
		resolved, err := repl.ReplaceOrErr(p, true, true)
		if err != nil {
			return fmt.Errorf("wake redis: replacing placeholders of pattern %q: %w; expected global placeholders only", p, err)
		}
		if !slices.Contains(w.patterns, resolved) {
			w.patterns = append(w.patterns, resolved)
		}
	}
	s, err := w.server(repl)
	if err != nil {
		return fmt.Errorf("wake redis: %w", err)
	}
	w.link = join(s, cmp.Or(w.pace, &defaultPace), w.logger)
	return nil
}

// OnPath sets who is told of paths that messages name. It is called before any
// Watch.
func (w *Waker) OnPath(wake func(path string)) {
	w.onPath = wake
}

// Up reports whether the server can be heard. It is true until an attempt to
// connect has failed, so also as long as nobody has waited and none was made.
func (w *Waker) Up() bool {
	return w.link.up()
}

// Watch calls wake at each message for a resource, and once as soon as none can
// be missed any more. repl gives the channels' names.
func (w *Waker) Watch(repl *caddy.Replacer, wake func()) (stop func()) {
	s := &watch{wake: wake, names: w.names(repl)}

	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return func() {}
	}
	w.watches[s] = struct{}{}
	for _, n := range s.names {
		w.link.listen(n, s)
	}
	switch {
	case len(w.watches) == 1:
		for _, p := range w.patterns {
			w.link.listen(name{psubscribe, p}, paths{w, p})
		}
	case len(w.patterns) > 0:
		// They may have been acknowledged long ago, and will not be again.
		go wake()
	}
	return func() { w.forget(s) }
}

func (w *Waker) forget(s *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.watches[s]; !ok {
		return // Cleanup was faster
	}
	delete(w.watches, s)
	for _, n := range s.names {
		w.link.ignore(n, s)
	}
	if len(w.watches) == 0 {
		for _, p := range w.patterns {
			w.link.ignore(name{psubscribe, p}, paths{w, p})
		}
	}
}

// maxName is the longest name of a channel that is subscribed to. Names are made
// from what clients send, and Redis keeps each of them in memory.
const maxName = 4 << 10

// names returns the channels for the request that repl knows.
func (w *Waker) names(repl *caddy.Replacer) []name {
	channels := w.Channel
	if len(channels) == 0 && len(w.Pattern) == 0 && len(w.Keyspace) == 0 {
		channels = []string{"long_poll:{http.request.uri.path}"}
	}
	how := subscribe
	if w.Sharded {
		how = ssubscribe
	}

	var names []name
	add := func(how command, prefix, text string) {
		text = repl.ReplaceAll(text, "")
		n := name{how, prefix + text}
		switch {
		case len(n.channel) > maxName:
			w.logger.Debug("not subscribing: name of channel is too long", zap.Int("length", len(n.channel)))
		case text != "" && !slices.Contains(names, n):
			names = append(names, n)
		}
	}
	for _, c := range channels {
		add(how, "", c)
	}
	for _, key := range w.Keyspace {
		add(subscribe, fmt.Sprintf("%s%d__:", keyspacePrefix, w.link.server.db), key)
	}
	return names
}

// Cleanup gives the link back, which is closed if nobody else shares it.
func (w *Waker) Cleanup() error {
	if w.link == nil {
		return nil
	}
	w.mu.Lock()
	w.closed = true
	watches := maps.Clone(w.watches) // others forget theirs meanwhile
	w.mu.Unlock()

	for s := range watches { // nobody adds to it any more
		w.forget(s)
	}
	return w.link.leave(w.logger)
}

// Interface guards. What long_poll asks of a waker is spelled out, because this
// package does not import it.
var (
	_ caddy.Provisioner     = (*Waker)(nil)
	_ caddy.Validator       = (*Waker)(nil)
	_ caddy.CleanerUpper    = (*Waker)(nil)
	_ caddyfile.Unmarshaler = (*Waker)(nil)

	_ interface {
		Watch(repl *caddy.Replacer, wake func()) (stop func())
		OnPath(wake func(path string))
		Up() bool
	} = (*Waker)(nil)
)
