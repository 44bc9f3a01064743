package detach

import (
	"net/http"
	"reflect"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

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
	case server.Logs != nil && !readsExtra:
		return nil, nil
	}
	return bottom(w), server
}

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

// recorder is the type of Caddy's own.
var recorder = reflect.TypeOf(caddyhttp.NewResponseRecorder(nil, nil, nil))
