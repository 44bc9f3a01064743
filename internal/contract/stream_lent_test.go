package contract_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestStreamLends: what was set on the way to us is known to a check that asks for it for
// the first time when a stream has begun already.
func TestStreamLends(t *testing.T) {
	asks := func(w http.ResponseWriter, r *http.Request) error {
		v, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).GetString("map.out")
		return tagged(v)(w, r)
	}
	for name, first := range map[string]caddyhttp.HandlerFunc{
		"after an outage":      sequence(unreachable, unreachable, asks),
		"after the first beat": slowly(20*time.Second, asks),
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+"stream\ncheck_timeout 1m")
			s.before = func(w http.ResponseWriter, r *http.Request) {
				r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set("map.out", "x")
			}
			s.backend.say(first)
			c := s.get("/", events)
			settle(16 * time.Second)
			c.head(200)
			settle(14 * time.Second)
			c.hears("x state x")
		}))
	}
}
