package detach

import (
	"encoding/json"
	"net/http"
	"reflect"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// eligible is the writer of the server itself, and Caddy's server, if p can be detached
// (contract 15.1); nil if it can not.
func (l *Lobby) eligible(p *poll.Poll, w http.ResponseWriter) (http.Hijacker, *caddyhttp.Server) {
	r := p.Request
	ctx := r.Context()
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	std, _ := ctx.Value(http.ServerContextKey).(*http.Server)
	came, _ := ctx.Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	switch {
	case server == nil, std == nil, r.ProtoMajor != 1, r.ProtoMinor != 1:
		return nil, nil
	case p.Body == nil && r.ContentLength != 0: // unread
		return nil, nil
	case came.Method != "" && came.Method != r.Method:
		return nil, nil // the server goes by what its client has asked with
	case ctx.Err() != nil:
		return nil, nil // its client has left: that the handlers around it return would not be noticed
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

// hindrance is why none of the requests that come by the handler which is provisioned in ctx
// can be detached; empty if they can.
func hindrance(ctx caddy.Context) string {
	if !watches {
		return "descriptors can not be watched on this platform"
	}
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil {
		return ""
	}
	if server.Errors != nil && len(server.Errors.Routes) > 0 {
		return "handle_errors is given an error with the request and its writer"
	}
	// A request that has to ask for itself after all goes to the server once more, with its
	// fields as they are then: nobody knows any more what its client has sent, which is what
	// a matcher, a basic_auth or the like in front has to see.
	changes := changesFields(server.Routes, false) // sites are subroutes of it
	for _, named := range server.NamedRoutes {
		changes = changes || changesFields(caddyhttp.RouteList{*named}, true)
	}
	for _, around := range ctx.Modules() {
		if sub, ok := around.(*caddyhttp.Subroute); ok {
			changes = changes || changesFields(sub.Routes, true)
		}
	}
	if changes {
		return "a handler of the site changes fields of requests, such as request_header or forward_auth with copy_headers"
	}
	return ""
}

// changesFields reports whether one of the routes changes fields of a request, or with deep
// one of those in them. What stands behind on the same site is taken for being in front.
// Caddy loads the handlers of one route after the other.
func changesFields(routes caddyhttp.RouteList, deep bool) bool {
	for i := range routes {
		for _, handler := range routes[i].Handlers {
			switch h := handler.(type) {
			case *caddyhttp.Subroute:
				if deep && changesFields(h.Routes, deep) {
					return true
				}
			case *reverseproxy.Handler:
				for _, of := range h.HandleResponse {
					if changesFields(of.Routes, true) {
						return true
					}
				}
			case *headers.Handler:
				if h.Request != nil {
					return true
				}
			}
		}
		for _, raw := range routes[i].HandlersRaw {
			var h struct {
				Handler        string              `json:"handler"`
				Request        *headers.HeaderOps  `json:"request"`
				Routes         caddyhttp.RouteList `json:"routes"`
				HandleResponse []struct {
					Routes caddyhttp.RouteList `json:"routes"`
				} `json:"handle_response"`
			}
			if json.Unmarshal(raw, &h) != nil {
				continue // its own module says what is wrong
			}
			switch {
			case h.Handler == "headers" && h.Request != nil, deep && h.Handler == "subroute" && changesFields(h.Routes, deep):
				return true
			case h.Handler == "reverse_proxy":
				for _, of := range h.HandleResponse {
					if changesFields(of.Routes, true) {
						return true
					}
				}
			}
		}
	}
	return false
}

// recorder is the type of Caddy's own.
var recorder = reflect.TypeOf(caddyhttp.NewResponseRecorder(nil, nil, nil))
