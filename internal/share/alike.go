package share

import (
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
)

// Alike has many resources keep once what their checks have in common: those that are
// asked for by clients of one kind differ in their path, and carry the same header. It
// knows the latest. What is the same for one client only is not looked for, so that
// nothing secret and nothing large outlives its client here.
type Alike struct {
	header atomic.Pointer[http.Header]
	traits atomic.Pointer[[]Trait]
}

// Bounds on a header that is kept once.
const (
	maxAlike     = 16      // fields
	maxAlikeText = 1 << 10 // bytes of all values
)

// headers are maps to compare with, all of them empty.
var headers = sync.Pool{New: func() any { return make(http.Header, maxAlike/2) }}

// Carried is [Rules.Carried], or the header of another resource that is the same. Neither
// is to be changed.
func (al *Alike) Carried(ru *Rules, r *http.Request, a *Asker, v *Variation) http.Header {
	if len(r.Header) > maxAlike {
		return ru.Carried(r, a, v)
	}
	header := headers.Get().(http.Header)
	defer func() {
		clear(header)
		headers.Put(header)
	}()
	ru.carry(header, r, a, v)
	if last := al.header.Load(); last != nil && maps.EqualFunc(*last, header, slices.Equal) {
		return *last
	}
	text := 0
	own := make(http.Header, len(header))
	for name, values := range header {
		own[name] = slices.Clone(values)
		for _, value := range values {
			text += len(value)
		}
		if httphdr.LikeCredentials(name) {
			text += maxAlikeText + 1
		}
	}
	if text <= maxAlikeText {
		al.header.Store(&own)
	}
	return own
}

// Traits are those of the request that checks are made from. They are not to be changed.
func (al *Alike) Traits(r *http.Request) []Trait {
	ts := Traits(r)
	if last := al.traits.Load(); last != nil && slices.Equal(*last, ts) {
		return *last
	}
	al.traits.Store(&ts)
	return ts
}
