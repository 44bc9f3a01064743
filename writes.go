package longpoll

import (
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

// Watch has nothing to do: writes come by themselves.
func (*Writes) Watch(*caddy.Replacer, func()) (stop func()) { return func() {} }

// WritesHandler sees the writes of a site for `wake writes`. The directive puts it
// in the same place as long_poll but for all requests, so that a long_poll whose
// matcher covers reads only learns of writes too.
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
	return seeWrite(w, r, next)
}

// seenVar marks a request whose outcome is no write, or is seen already: a poll by
// POST, a check of such a poll, a write that passes two of us.
const seenVar = "long_poll.seen"

// isWrite reports whether a request may change something.
func isWrite(method string) bool {
	switch method {
	case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		return true
	}
	return false
}

// seeWrite passes r on, and wakes what it has changed if it is a write.
func seeWrite(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil || !isWrite(r.Method) || caddyhttp.GetVar(r.Context(), seenVar) != nil {
		return next.ServeHTTP(w, r)
	}
	// Looked up before anybody behind us rewrites the path.
	write := write{host: strings.ToLower(r.Host), at: *r.URL}
	if orig, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		write.prefix, _ = strings.CutSuffix(orig.URL.Path, r.URL.Path)
	}
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	listed := make(map[*Handler][]string)
	for _, h := range live.on(server.Name()) {
		for _, ws := range h.writes {
			for _, path := range ws.Paths {
				listed[h] = append(listed[h], repl.ReplaceAll(path, ""))
			}
		}
	}
	rec := &statusRecorder{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}}
	err := next.ServeHTTP(rec, r)
	// A request that long_poll has answered as a poll is no write.
	if err != nil || rec.status >= 400 || caddyhttp.GetVar(r.Context(), seenVar) != nil {
		return err
	}
	caddyhttp.SetVar(r.Context(), seenVar, true)
	paths := write.paths(w.Header())
	handlers := live.on(server.Name())
	// The writer is not to wait until ten thousand resources are marked.
	go func() {
		for _, h := range handlers {
			if len(h.writes) > 0 {
				h.wakeWritten(write.host, append(paths, listed[h]...))
			}
		}
	}()
	return nil
}

// write is where a write went to.
type write struct {
	host   string
	at     url.URL
	prefix string // of the path, that was stripped on the way to us
}

// paths are those that a write has changed, as far as its answer tells.
func (wr *write) paths(header http.Header) []string {
	paths := []string{wr.at.Path}
	for _, name := range []string{"Location", "Content-Location"} {
		text := header.Get(name)
		if text == "" {
			continue
		}
		u, err := wr.at.Parse(text)
		if err != nil {
			continue
		}
		paths = append(paths, u.Path)
		// The backend may speak of the path that the client has used.
		if rest, ok := strings.CutPrefix(u.Path, wr.prefix); ok && wr.prefix != "" {
			paths = append(paths, rest)
		}
	}
	return paths
}

// wakeWritten wakes the resources at the paths on the host.
func (h *Handler) wakeWritten(host string, paths []string) {
	var woken int
	seen := make(map[string]bool, len(paths))
	for _, path := range paths {
		if path = strings.TrimRight(path, "/"); seen[path] {
			continue
		}
		seen[path] = true
		woken += h.lot.Wake(path, func(n lot.Name) bool { return n.Host == host })
	}
	if woken > 0 {
		h.metrics.woken("writes")
	}
}

// statusRecorder notes the status and keeps nothing back.
type statusRecorder struct {
	*caddyhttp.ResponseWriterWrapper
	status int
}

func (w *statusRecorder) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

// Interface guards
var (
	_ Waker                       = (*Writes)(nil)
	_ caddyfile.Unmarshaler       = (*Writes)(nil)
	_ caddyhttp.MiddlewareHandler = (*WritesHandler)(nil)
)
