// Package redis is a waker for long_poll: a message on a Redis channel says
// that a resource is worth a look.
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
	// The server as host:port. Several are nodes of a cluster, or with `master`
	// sentinels. Global placeholders such as `{env.REDIS_ADDRESS}` are replaced.
	// Default: 127.0.0.1:6379; with `master` 127.0.0.1:26379.
	Address []string `json:"address,omitempty"`

	// The name by which the sentinels know the master. Default: none, `address`
	// is no sentinel.
	Master string `json:"master,omitempty"`

	// The ACL user; needs `password`. Global placeholders are replaced.
	// Default: Redis' own default user.
	Username string `json:"username,omitempty"`

	// Global placeholders such as `{env.REDIS_PASSWORD}` are replaced.
	// Default: none.
	Password string `json:"password,omitempty"`

	// The number of the database, which matters to `keyspace` only: channels
	// belong to none. A cluster has no other than 0. Default: 0.
	DB *int `json:"db,omitempty"`

	// Encrypts the connections, those to sentinels too. Default: off.
	TLS *TLS `json:"tls,omitempty"`

	// All of the above in one: `redis://`, `rediss://` (TLS) or `unix://`, in the
	// form that go-redis reads: with the parameter `addr` it is a cluster, with
	// `master_name` sentinels, with `skip_verify` TLS without verification. Its
	// parameters for pools and time-outs have no effect. Global placeholders are
	// replaced first, so what they stand for must be percent-encoded. Excludes
	// the fields above.
	URL string `json:"url,omitempty"`

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

// TLS is how connections are encrypted.
type TLS struct {
	// Accept any certificate. Default: it must be valid for the host's name.
	InsecureSkipVerify bool `json:"insecure_skip_verify,omitempty"`
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
		return err
	}
	w.link = join(s, cmp.Or(w.pace, &defaultPace), w.logger)
	return nil
}

// server resolves where and as whom to connect.
func (w *Waker) server(repl *caddy.Replacer) (server, error) {
	if w.URL != "" {
		return parseURL(repl.ReplaceKnown(w.URL, ""))
	}
	s := server{
		master:   w.Master,
		username: repl.ReplaceKnown(w.Username, ""),
		password: repl.ReplaceKnown(w.Password, ""),
		tls:      w.TLS != nil,
	}
	if w.TLS != nil {
		s.insecureSkipVerify = w.TLS.InsecureSkipVerify
	}
	if w.DB != nil {
		s.db = *w.DB
	}
	for _, a := range w.Address {
		s.addrs = append(s.addrs, repl.ReplaceKnown(a, ""))
	}
	if len(s.addrs) == 0 {
		s.addrs = []string{"127.0.0.1:6379"}
		if s.master != "" {
			s.addrs[0] = "127.0.0.1:26379"
		}
	}
	return s, nil
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
