package detach

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// eligible is the writer of the server itself, and Caddy's server, if p can be detached
// (contract 15.1); nil if it can not.
func (l *Lobby) eligible(p *poll.Poll, w http.ResponseWriter) (http.Hijacker, *caddyhttp.Server) {
	r := p.Request
	ctx := r.Context()
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	std, _ := ctx.Value(http.ServerContextKey).(*http.Server)
	switch {
	case server == nil, std == nil, r.ProtoMajor != 1, r.ProtoMinor != 1:
		return nil, nil
	case p.Body == nil && r.ContentLength != 0: // unread
		return nil, nil
	case server.Errors != nil && len(server.Errors.Routes) > 0:
		return nil, nil // which an error is given to, with the request and its writer
	case p.Variation.Wants():
		return nil, nil // the placeholders that tell what it may read are the request's
	case ctx.Value(tlsOfWrapper) != nil:
		return nil, nil // Caddy asks the connection for its TLS, by a method that one which comes back has not
	case server.Logs != nil && !readsExtra:
		return nil, nil
	}
	return bottom(w), server
}

// tlsOfWrapper is the key by which Caddy keeps the TLS of a connection that a listener
// wrapper has made of one.
const tlsOfWrapper caddy.CtxKey = "tls_connection_state_func"

// bottom is the writer of net/http below w, if there is nothing between the two but what
// Caddy puts there itself and what only looks on.
func bottom(w http.ResponseWriter) http.Hijacker {
	for {
		switch of := w.(type) {
		case *caddyhttp.IdleTimeoutWriter:
		case caddyhttp.ResponseRecorder: // of the access log, or of metrics
			if of.Buffer() != nil || reflect.TypeOf(w) != recorder {
				return nil
			}
		default:
			t := reflect.Indirect(reflect.ValueOf(w)).Type()
			switch {
			case t.PkgPath() == "net/http" && t.Name() == "response":
				h, _ := w.(http.Hijacker)
				return h
			case t.PkgPath() != recorder.Elem().PkgPath() || t.Name() != "readDeadlineWriter":
				return nil
			}
		}
		below, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return nil
		}
		w = below.Unwrap()
	}
}

// twice reports whether what the handlers in front of the one that is provisioned in ctx
// do to a request can be done once more: it passes them again if it has to ask for itself
// after all. What stands behind on the same site is taken for being in front.
func twice(ctx caddy.Context) bool {
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok && addsOrTakes(server.Routes, false) {
		return false
	}
	for _, around := range ctx.Modules() {
		if sub, ok := around.(*caddyhttp.Subroute); ok && addsOrTakes(sub.Routes, true) {
			return false
		}
	}
	return true
}

// addsOrTakes reports whether one of the routes, deep or not, adds to fields of a request
// or takes them off. Caddy loads the handlers of one route after the other.
func addsOrTakes(routes caddyhttp.RouteList, deep bool) bool {
	for i := range routes {
		for _, handler := range routes[i].Handlers {
			switch h := handler.(type) {
			case *caddyhttp.Subroute:
				if deep && addsOrTakes(h.Routes, deep) {
					return true
				}
			case *headers.Handler:
				if changes(h.Request) {
					return true
				}
			}
		}
		for _, raw := range routes[i].HandlersRaw {
			var h struct {
				Handler string              `json:"handler"`
				Request *headers.HeaderOps  `json:"request"`
				Routes  caddyhttp.RouteList `json:"routes"`
			}
			if json.Unmarshal(raw, &h) != nil {
				continue // its own module says what is wrong
			}
			if h.Handler == "headers" && changes(h.Request) || deep && h.Handler == "subroute" && addsOrTakes(h.Routes, deep) {
				return true
			}
		}
	}
	return false
}

// changes reports whether what is done to the fields of a request is something else when
// it is done again.
func changes(ops *headers.HeaderOps) bool {
	return ops != nil && (len(ops.Add)+len(ops.Delete)+len(ops.Replace) > 0 || readsFields(ops.Set))
}

// readsFields reports whether what fields are set to speaks of other fields.
func readsFields(set http.Header) bool {
	for _, values := range set {
		for _, v := range values {
			if strings.Contains(v, "{http.request.header.") {
				return true
			}
		}
	}
	return false
}

// recorder is the type of Caddy's own.
var recorder = reflect.TypeOf(caddyhttp.NewResponseRecorder(nil, nil, nil))
