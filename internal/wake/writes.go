package wake

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/directive"
	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/ops"
	"github.com/caddy-longpoll/caddy-longpoll/internal/tap"
)

func init() {
	caddy.RegisterModule(new(Writes))
	caddy.RegisterModule(new(WritesHandler))
}

// Writes is the Waker of `wake writes`: a POST, PUT, PATCH or DELETE that passes
// through the same server and succeeds wakes the resources at its own path, at its
// Location and Content-Location, and at the listed paths, on the host that it was
// sent to.
type Writes struct {
	// Further paths to wake, with placeholders of the write: `{dir}` is the
	// collection above.
	Paths []string `json:"paths,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Writes) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.long_poll.wakers.writes",
		New: func() caddy.Module { return new(Writes) },
	}
}

// UnmarshalCaddyfile parses `writes [<path>...]`.
func (ws *Writes) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // writes
	ws.Paths = d.RemainingArgs()
	if d.NextBlock(d.Nesting()) {
		return d.Err("parsing writes: unexpected block; expected writes [<path>...]")
	}
	return nil
}

// Validate judges the paths.
func (ws *Writes) Validate() error {
	for _, path := range ws.Paths {
		if path == "" || !strings.ContainsAny(path[:1], "/{") || strings.ContainsAny(path, "*?#") {
			return fmt.Errorf("wake writes %q: expected a path that begins with a slash or a placeholder, without wildcards or a query", path)
		}
	}
	return directive.Placeholders(map[string][]string{"wake writes": ws.Paths})
}

// Watch has nothing to do: writes come by themselves.
func (*Writes) Watch(*caddy.Replacer, func()) (stop func()) { return func() {} }

// WritesHandler sees the writes of a site for `wake writes`. The directive puts it
// in the same place as a long_poll that has a matcher but for all requests, so that
// one whose matcher covers reads only learns of writes too.
type WritesHandler struct{}

// CaddyModule returns the Caddy module information.
func (*WritesHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.long_poll_writes",
		New: func() caddy.Module { return new(WritesHandler) },
	}
}

// ServeHTTP passes the request on and looks at its method and at the status.
func (*WritesHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if !isWrite(r.Method) {
		return next.ServeHTTP(w, r) // on as little stack as can be: it may park
	}
	return see(w, r, next)
}

// seenVar says of a request that it is no write, by true (a poll by POST), or at
// which path it was seen already.
const seenVar = "long_poll.seen"

// NoWrite says of a request that it is no write: a poll by POST.
func NoWrite(r *http.Request) {
	if isWrite(r.Method) {
		caddyhttp.SetVar(r.Context(), seenVar, true)
	}
}

// isWrite reports whether a request may change something.
func isWrite(method string) bool {
	switch method {
	case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		return true
	}
	return false
}

// see passes a write on, and wakes what it has changed.
//
//go:noinline
func see(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) (err error) {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil {
		return next.ServeHTTP(w, r)
	}
	if rec, ok := w.(*writeRecorder); ok && rec.at.Path == r.URL.Path {
		rec.list(server, r) // nothing is between it and us but what may set placeholders
		return next.ServeHTTP(w, r)
	}
	if caddyhttp.GetVar(r.Context(), seenVar) != nil || tap.MarkOf(r.Context()) == tap.Check {
		return next.ServeHTTP(w, r)
	}
	// Looked up before anybody behind us rewrites the path.
	rec := &writeRecorder{host: strings.ToLower(r.Host), at: *r.URL}
	rec.Head = tap.NewHead(w, rec.note)
	if orig, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		if prefix, ok := strings.CutSuffix(orig.URL.Path, r.URL.Path); ok {
			rec.prefix = prefix
		}
	}
	rec.list(server, r)
	// Deferred, for whoever hangs up in the middle of the answer has written all the
	// same: reverse_proxy panics then.
	defer func() {
		if status := rec.Status(); err != nil || status < 200 || status >= 400 {
			return
		}
		switch caddyhttp.GetVar(r.Context(), seenVar) {
		case true, rec.at.Path:
			return
		}
		caddyhttp.SetVar(r.Context(), seenVar, rec.at.Path)
		rec.wake(server)
	}()
	err = next.ServeHTTP(rec, r)
	rec.Finish()
	return err
}

// written wakes the resources at the paths, and at those listed for any handler of the
// server, on the host.
func (s *Set) written(host string, paths []string, listed map[string]string) {
	var woken int
	seen := make(map[string]bool)
	wake := func(path string) {
		if path = strings.TrimRight(path, "/"); !seen[path] {
			seen[path] = true
			woken += s.site.Lot.Wake(path, func(n lot.Name) bool { return n.Host == host })
			if s.site.Cluster != nil {
				s.site.Cluster.Tell(host, path, false)
			}
		}
	}
	for _, path := range paths {
		wake(path)
	}
	for _, path := range listed {
		if path != "" { // else its placeholders are empty
			wake(path)
		}
	}
	if woken > 0 {
		ops.Woken("writes")
	}
}

// writeRecorder notes where a write went to, and what its answer says of it. It keeps
// nothing back.
type writeRecorder struct {
	*tap.Head
	host      string
	at        url.URL
	prefix    string            // of the path, that was stripped on the way to us
	listed    map[string]string // the listed paths, by their text
	locations []string          // as the backend says them: handlers in front of us may rewrite them
}

// list notes the listed paths as they are for this write, before anybody behind us rewrites
// what they speak of.
func (w *writeRecorder) list(server *caddyhttp.Server, r *http.Request) {
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	for _, s := range listening.on(server.Name()) {
		for _, ws := range s.writes {
			for _, path := range ws.Paths {
				if w.listed == nil {
					w.listed = make(map[string]string)
				}
				w.listed[path] = repl.ReplaceAll(path, "")
			}
		}
	}
}

// note notes where the answer says that something has changed.
func (w *writeRecorder) note(_ int, header http.Header) {
	for _, name := range []string{"Location", "Content-Location"} {
		if text := header.Get(name); text != "" {
			w.locations = append(w.locations, text)
		}
	}
}

// wake wakes what was changed, on all handlers of the server.
func (w *writeRecorder) wake(server *caddyhttp.Server) {
	var known bool
	for _, s := range listening.on(server.Name()) {
		known = known || !s.site.Lot.Empty() || s.site.Cluster != nil
	}
	if !known {
		return // who comes now has not been told anything yet
	}
	// The writer is not to wait until ten thousand resources are marked, and its
	// request is not ours any more then.
	host, paths, listed := w.host, w.paths(), w.listed
	go func() {
		for _, s := range listening.on(server.Name()) {
			s.written(host, paths, listed)
		}
	}()
}

// paths are those that a write has changed, as far as its answer tells.
func (w *writeRecorder) paths() []string {
	paths := []string{w.at.Path}
	for _, text := range w.locations {
		u, err := w.at.Parse(text)
		if err != nil || u.Opaque != "" {
			continue
		}
		paths = append(paths, u.Path)
		// The backend may speak of the path that the client has used.
		if rest, ok := strings.CutPrefix(u.Path, w.prefix); ok && w.prefix != "" {
			paths = append(paths, rest)
		}
	}
	return paths
}

// Interface guards
var (
	_ Waker                       = (*Writes)(nil)
	_ caddy.Validator             = (*Writes)(nil)
	_ caddyfile.Unmarshaler       = (*Writes)(nil)
	_ caddyhttp.MiddlewareHandler = (*WritesHandler)(nil)
)

// listening is the sets that writes wake, by the name of their server: those of a
// retired configuration too, until the last of its requests has left.
var listening listeners

type listeners struct {
	mu  sync.Mutex        // protects all
	all map[string][]*Set // replaced and never changed, for each write reads it
}

// on is the sets of the server with that name. The caller does not change it.
func (l *listeners) on(server string) []*Set {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all[server]
}

// Listen has writes wake, where `wake writes` is configured.
func (s *Set) Listen() {
	if len(s.writes) == 0 {
		return
	}
	listening.mu.Lock()
	defer listening.mu.Unlock()
	if listening.all == nil {
		listening.all = make(map[string][]*Set)
	}
	server := s.site.Server
	listening.all[server] = append(slices.Clone(listening.all[server]), s)
}

// Ignore ends Listen.
func (s *Set) Ignore() {
	listening.mu.Lock()
	defer listening.mu.Unlock()
	server := s.site.Server
	rest := slices.DeleteFunc(slices.Clone(listening.all[server]), func(o *Set) bool { return o == s })
	if len(rest) == 0 {
		delete(listening.all, server)
	} else {
		listening.all[server] = rest
	}
}
