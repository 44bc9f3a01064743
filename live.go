package longpoll

import (
	"slices"
	"sync"
)

// live is every handler that can have requests, those of a retired configuration
// included until it is cleaned up. The admin API and the metrics read it, for they
// are provisioned before any handler; writes find by it whom to wake.
var live registry

type registry struct {
	mu  sync.Mutex // protects all
	all []*Handler
}

func (l *registry) add(h *Handler) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, h)
}

func (l *registry) remove(h *Handler) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = slices.DeleteFunc(l.all, func(o *Handler) bool { return o == h })
}

func (l *registry) handlers() []*Handler {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

// on is the handlers of the server with that name, in the retired and in the
// current configuration.
func (l *registry) on(server string) []*Handler {
	return slices.DeleteFunc(l.handlers(), func(h *Handler) bool { return h.server != server })
}
