package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/directive"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
	"github.com/caddy-longpoll/caddy-longpoll/internal/tap"
)

// revalidate asks for what may have changed since has, which a 304 says it has not;
// nil is nothing. uri and method are those of a probe, or nil and empty for the
// resource itself. A 304 gives the answer that it stands for.
func (b *Backend) revalidate(has *state.Answer, uri *url.URL, method string) (*state.Answer, error) {
	tag := has.Validator()
	a, err := b.exchange(uri, method, tag)
	if b.retries && mendable(err) && safe(cmp.Or(method, b.Request.Method)) {
		// A backend closes a connection that was idle in the instant in which it is
		// used again: nothing is wrong. Once, and not during an outage.
		b.retries = false
		if !b.Acquire(b.abandoned) {
			return nil, errAbandoned
		}
		a, err = b.exchange(uri, method, tag)
	}
	switch {
	case err != nil || a.Status != http.StatusNotModified:
		return a, err
	case tag == "":
		return nil, state.ErrUnasked
	}
	return has.Freshened(a), nil
}

// failed is an error of the handlers, with the fields that they have set for its answer:
// a challenge, or what is allowed.
type failed struct {
	error
	fields *state.Answer
}

func (f failed) Unwrap() error { return f.error }

// mendable reports whether err is of a kind that a retry mends.
func mendable(err error) bool {
	if err == nil || errors.Is(err, tap.ErrUnshared) || errors.Is(err, errAbandoned) || errors.Is(err, state.ErrTimeout) {
		return false
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return true
	}
	text := err.Error()
	return slices.ContainsFunc(closing, func(c string) bool { return strings.Contains(text, c) })
}

// closing is what net/http says of connections that were closed while they were being
// used again, and exports no error for: HTTP/1.1, and two ends of HTTP/2.
var closing = []string{"server closed idle connection", "http2: client connection lost", "http2: server sent GOAWAY"}

// safe reports whether a request may be made twice (RFC 9110, section 9.2.1).
func safe(method string) bool { return method == http.MethodGet || method == http.MethodHead }

// exchange asks the handlers behind us once, for method and uri if they are given,
// and with tag as If-None-Match. The slot is given back when the handlers have
// returned. They have a goroutine of their own for that: some do not notice that
// their context has ended (FastCGI), and its stack goes when it goes.
//
// An answer that can not be shared or held gives tap.ErrUnshared.
func (b *Backend) exchange(uri *url.URL, method, tag string) (*state.Answer, error) {
	// Cancelled without a cause and without a deadline: those count against the
	// upstream in passive health checks.
	ctx, cancel := context.WithCancel(b.ctx)
	w := tap.NewRecorder(b.preset, b.c.MaxBody, cmp.Or(method, b.Request.Method) == http.MethodHead)
	repl := caddy.NewReplacer()
	done := make(chan error, 1)
	slot, of := b.slot, b.Request
	b.slot = nil // it is the exchange's now
	b.c.Asked()
	go func() {
		defer slot.Release()
		defer func() {
			switch p := recover(); {
			case p == nil:
			case p != http.ErrAbortHandler:
				b.c.Panicked("a handler panicked during a check", p)
				done <- tap.ErrAborted
			case w.Before() != nil:
				// No answer had begun that could break off: a handler (abort) hangs up on
				// whoever asks, and is to do so on each of them.
				done <- tap.ErrUnshared
			default:
				done <- tap.ErrAborted
			}
		}()
		r := b.request(ctx, of, repl, w)
		// What handlers behind us ask of the poll's body and query is what all who share
		// have in common. There is no answer yet to speak of.
		about := &poll.Subject{Request: of, Body: b.Body}
		repl.Map(func(key string) (any, bool) { return about.Placeholder(b.c.State, nil, key) })
		if uri != nil {
			r.Method, r.URL, r.RequestURI = method, uri, uri.RequestURI()
			r.Body, r.ContentLength = http.NoBody, 0
		}
		if tag != "" {
			r.Header.Set("If-None-Match", tag)
		}
		done <- b.next.ServeHTTP(w, r)
	}()
	timer := time.NewTimer(b.c.CheckTimeout)
	defer timer.Stop()
	defer cancel()
	select {
	case err := <-done:
		answer, err := w.Result(err)
		if err != nil {
			if header := w.Before(); len(header) > 0 {
				err = failed{err, state.NewAnswer(0, header, nil, b.preset, b.c.MaxBody)}
			}
			return nil, err
		}
		a := state.NewAnswer(answer.Status, answer.Header, answer.Body, b.preset, b.c.MaxBody)
		if of.Header.Get("Accept-Encoding") == "identity" && !a.Gunzip() { // who shares it takes no gzip
			return nil, tap.ErrUnshared
		}
		return a, nil
	case <-w.Stopped():
		return nil, tap.ErrUnshared
	case <-b.abandoned:
		w.GiveUp() // who does not notice that the context has ended may notice this
		return nil, errAbandoned
	case <-timer.C:
		if w.GiveUp() {
			return nil, tap.ErrUnshared
		}
		return nil, state.ErrTimeout
	}
}

// chosen reports whether clients choose the value of a placeholder, or may: parts of the
// request, its body, and what an expression has found in it.
func chosen(name string) bool {
	_, ours := poll.OurKey(name)
	return ours || slices.ContainsFunc([]string{"http.request.", "http.regexp.", "http.auth."}, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// ofPath reports whether the value of a placeholder is a path, or a part of one.
func ofPath(name string) bool {
	return strings.HasPrefix(name, "http.request.uri.path") || strings.HasPrefix(name, "http.request.orig_uri.path")
}

// Validate judges p, wherever it was written; nil is none.
func (p *Probe) Validate() error {
	if p == nil {
		return nil
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(p.URI, "{"), "}")
	switch {
	case p.Method != "" && !directive.Method(p.Method):
		return fmt.Errorf("probe %q: expected an HTTP method such as GET before the URI", p.Method)
	case !strings.HasPrefix(p.URI, "/") && !strings.HasPrefix(p.URI, "{"):
		return fmt.Errorf("probe %q: expected a URI that begins with a slash or a placeholder", p.URI)
	case strings.HasPrefix(p.URI, "{") && chosen(first) && !ofPath(first):
		return fmt.Errorf("probe %q: expected a URI that begins with a slash, or with a placeholder of a path ({path}, {dir}) or of the configuration (of map, vars, env), and not with what clients choose", p.URI)
	}
	return nil
}

// probeURL replaces the placeholders in a probe's URI so that none of their values
// can reach beyond the part of the URI that it stands in. Its error has the status 400
// where a client's value would climb out of the path.
func probeURL(uri string, repl *caddy.Replacer) (*url.URL, error) {
	path, query, hasQuery := strings.Cut(uri, "?")
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "{"), "}")
	path, _ = repl.ReplaceFunc(path, func(name string, v any) (any, error) {
		text := caddy.ToString(v)
		if ofPath(name) || name == first && !chosen(name) {
			return (&url.URL{Path: text}).EscapedPath(), nil // slashes are its own
		}
		return url.PathEscape(text), nil
	})
	u, err := url.ParseRequestURI(path) // two slashes do not make a host of what follows
	if err != nil || !strings.HasPrefix(path, "/") {
		return nil, fmt.Errorf("reading probe %q: expected a path, with or without a query", path)
	}
	// Escaped or not, a segment of dots is a step up for most of those who read it.
	for segment := range strings.FieldsFuncSeq(u.Path, func(r rune) bool { return r == '/' || r == '\\' }) {
		if segment == "." || segment == ".." {
			return nil, caddyhttp.Error(http.StatusBadRequest, fmt.Errorf("reading probe %q: unexpected segment %q; expected none that climbs", path, segment))
		}
	}
	if hasQuery {
		u.RawQuery, _ = repl.ReplaceFunc(query, func(name string, v any) (any, error) {
			text := caddy.ToString(v)
			if name == "http.request.uri.query" {
				return text, nil
			}
			return url.QueryEscape(text), nil
		})
	}
	return u, nil
}
