package check

import (
	"math"
	"net/netip"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// CommonKey is the key of the resource whose answers depend on v as other Caddys make it
// too: the port that a request has come to is no part of it, unless something behind us
// looks at that. personal reports whether those who share have credentials, and told whether
// the key is made of any; shared is false where what is read is for nobody else.
//
// Only the poller calls it.
func (b *Backend) CommonKey() (key lot.Key, personal, told, shared bool) {
	v := b.Variation
	sharer := b.sharer()
	if v.Personal(sharer.Credentials) {
		return key, sharer.Credentials, false, false
	}
	asker := b.asker
	if !b.c.Share.Local {
		asker.Local = netip.AddrPort{}
	}
	told = sharer.Credentials || b.c.Share.KeyTells() || b.knows && (v.Wants() || asker.HasVars()) || v.Wants() && v.Tells()
	return v.Key(b.c.Share.Key(b.Request, b.Name, &asker), sharer), sharer.Credentials, told, true
}

// Varied is the digest of what those who share have of what s depends on.
func (b *Backend) Varied(s *state.State) lot.Key { return s.Variation.Key(lot.Key{}, b.sharer()) }

// Adopt makes s, which another Caddy has read, what a check here would have made of it. It
// reports false where that can not be done.
//
// Only the poller calls it.
func (b *Backend) Adopt(s, old *state.State) (ok bool) {
	defer func() { // as in Check
		if p := recover(); p != nil {
			b.c.Panicked("what another Caddy has read panicked", p)
			ok = false
		}
	}()
	s.Owner = math.MaxUint64 // a check, but of no poll here
	if s.Err != nil {
		s.Err = caddyhttp.Error(s.Version.Status, s.Err)
	}
	if s.Answer != nil {
		s.ETag = b.c.State.ETag(s.Answer, s.Version)
	}
	s.Held = s.Fault() && b.holds(s)
	s.News = old != nil && b.differ(old, s)
	s.Settle()
	return true
}
