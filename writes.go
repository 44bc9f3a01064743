package longpoll

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
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
		return d.Errf("wake writes: read %q, expected no block", d.Val())
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
	return nil
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
	return seeWrite(w, r, next)
}

// seenVar says of a request that it is no write, by true (a poll by POST), or at
// which path it was seen already.
const seenVar = "long_poll.seen"

// isWrite reports whether a request may change something.
func isWrite(method string) bool {
	switch method {
	case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		return true
	}
	return false
}

// seeWrite passes a write on, and wakes what it has changed.
//
//go:noinline
func seeWrite(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) (err error) {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil {
		return next.ServeHTTP(w, r)
	}
	if rec, ok := w.(*writeRecorder); ok && rec.at.Path == r.URL.Path {
		rec.list(server, r) // nothing is between it and us but what may set placeholders
		return next.ServeHTTP(w, r)
	}
	if caddyhttp.GetVar(r.Context(), seenVar) != nil || isCheck(w) {
		return next.ServeHTTP(w, r)
	}
	// Looked up before anybody behind us rewrites the path.
	rec := &writeRecorder{
		ResponseWriterWrapper: caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		host:                  strings.ToLower(r.Host),
		at:                    *r.URL,
	}
	if orig, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		if prefix, ok := strings.CutSuffix(orig.URL.Path, r.URL.Path); ok {
			rec.prefix = prefix
		}
	}
	rec.list(server, r)
	// Deferred, for whoever hangs up in the middle of the answer has written all the
	// same: reverse_proxy panics then.
	defer func() {
		if err != nil || rec.status < 200 || rec.status >= 400 {
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
	if rec.status == 0 {
		rec.note(http.StatusOK) // which net/http is about to say
	}
	return err
}

// isCheck reports whether w is the end of a check, or leads to it: a probe by POST
// is no write, and must not wake what it looks at.
func isCheck(w http.ResponseWriter) bool {
	for {
		switch v := w.(type) {
		case *recorder:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = v.Unwrap()
		default:
			return false
		}
	}
}

// wakeWritten wakes the resources at the paths, and at those listed for the
// handler, on the host.
func (h *Handler) wakeWritten(host string, paths []string, listed map[string]string) {
	if len(h.writes) == 0 {
		return
	}
	var woken int
	seen := make(map[string]bool)
	wake := func(path string) {
		if path = strings.TrimRight(path, "/"); !seen[path] {
			seen[path] = true
			woken += h.lot.Wake(path, func(n lot.Name) bool { return n.Host == host })
		}
	}
	for _, path := range paths {
		wake(path)
	}
	for _, ws := range h.writes {
		for _, text := range ws.Paths {
			if path := listed[text]; path != "" { // else its placeholders are empty
				wake(path)
			}
		}
	}
	if woken > 0 {
		h.metrics.woken("writes")
	}
}

// writeRecorder notes where a write went to, and what its answer says of it. It keeps
// nothing back.
type writeRecorder struct {
	caddyhttp.ResponseWriterWrapper
	host      string
	at        url.URL
	prefix    string            // of the path, that was stripped on the way to us
	listed    map[string]string // the listed paths, by their text
	status    int               // 0 before the final status
	locations []string          // as the backend says them: handlers in front of us may rewrite them
}

// list notes the listed paths as they are for this write. By their text, since a
// reload may come before the answer does: the new configuration lists the same ones
// as a rule.
func (w *writeRecorder) list(server *caddyhttp.Server, r *http.Request) {
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	for h := range live.on(server.Name()) {
		for _, ws := range h.writes {
			for _, path := range ws.Paths {
				if w.listed == nil {
					w.listed = make(map[string]string)
				}
				w.listed[path] = repl.ReplaceAll(path, "")
			}
		}
	}
}

func (w *writeRecorder) WriteHeader(status int) {
	w.note(status)
	w.ResponseWriterWrapper.WriteHeader(status)
}

func (w *writeRecorder) note(status int) {
	if w.status != 0 || status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	w.status = status
	for _, name := range []string{"Location", "Content-Location"} {
		if text := w.Header().Get(name); text != "" {
			w.locations = append(w.locations, text)
		}
	}
}

// wake wakes what was changed, on all handlers of the server.
func (w *writeRecorder) wake(server *caddyhttp.Server) {
	var known bool
	for h := range live.on(server.Name()) {
		known = known || len(h.writes) > 0 && !h.lot.Empty()
	}
	if !known {
		return // who comes now has not been told anything yet
	}
	// The writer is not to wait until ten thousand resources are marked, and its
	// request is not ours any more then.
	host, paths, listed := w.host, w.paths(), w.listed
	go func() {
		for h := range live.on(server.Name()) {
			h.wakeWritten(host, paths, listed)
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
