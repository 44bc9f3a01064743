package longpoll

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	_ "github.com/caddy-longpoll/caddy-longpoll/redis" // so that one --with is enough
)

// Waker is a guest module in the namespace http.long_poll.wakers: a source of
// wake-ups. A wake-up says when to look, never what there is to see, so it may be
// lost, doubled or forged without harm beyond one check.
type Waker interface {
	// Watch is called when a resource gets its first waiter, never on the path of
	// a request. repl resolves the placeholders of the request that is asked on
	// behalf of all; it is only valid during the call. wake marks the resource for
	// a check: it never blocks, and may be called from any goroutine, any number
	// of times, after stop too.
	//
	// Watch returns at once. stop is called exactly once, when the resource is
	// forgotten, which is up to `linger` after its last waiter left, and returns
	// at once.
	Watch(repl *caddy.Replacer, wake func()) (stop func())
}

// PathWaker is a Waker whose messages name paths themselves. OnPath is called once,
// in Provision, before any Watch. wake is like that of Watch.
type PathWaker interface {
	Waker
	OnPath(wake func(path string))
}

// StatusWaker is a Waker that knows whether it can hear its source now.
type StatusWaker interface {
	Waker
	Up() bool
}

// namedWaker is a Waker and the name of its source.
type namedWaker struct {
	Waker
	source string
}

// provisionWakers loads the guests of `wake`.
func (h *Handler) provisionWakers(ctx caddy.Context) error {
	if len(h.WakeRaw) == 0 {
		return nil
	}
	guests, err := ctx.LoadModule(h, "WakeRaw")
	if err != nil {
		return fmt.Errorf("loading wake: %w", err)
	}
	for _, guest := range guests.([]any) {
		w, ok := guest.(Waker)
		if !ok {
			return fmt.Errorf("wake: module %T is not a Waker", guest)
		}
		source := string(guest.(caddy.Module).CaddyModule().ID.Name())
		if ws, ok := guest.(*Writes); ok {
			h.writes = append(h.writes, ws)
			continue
		}
		h.wakers = append(h.wakers, namedWaker{Waker: w, source: source})
		if p, ok := guest.(PathWaker); ok {
			p.OnPath(func(path string) {
				theMetrics.woken(source) // h's may not be there yet
				h.lot.Wake(path, func(lot.Name) bool { return true })
			})
		}
	}
	return nil
}

// wakesOnWrites reports whether a `wake writes` is configured. It looks at the raw
// configuration, since a Caddyfile is adapted without provisioning anything.
func (h *Handler) wakesOnWrites() bool {
	return slices.ContainsFunc(h.WakeRaw, func(raw json.RawMessage) bool {
		var guest struct {
			Waker string `json:"waker"`
		}
		return json.Unmarshal(raw, &guest) == nil && guest.Waker == "writes"
	})
}
