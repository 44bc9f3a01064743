package ops

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// listing is which resources are to be shown, and in which order.
type listing struct {
	limit, offset int
	path          string // in lower case: part of a path
	failing       bool   // only those whose last check has failed
	order         func(a, b *listed) int
}

// listed is a resource in a list, with what it may be ordered by.
type listed struct {
	site    *Site
	r       *poll.Resource
	snap    *poll.Snapshot
	waiters int
}

// defaultLimit is how many resources are shown without ?limit=.
const defaultLimit = 100

// orders are what resources can be ordered by. In doubt it is by their names.
var orders = map[string]func(a, b *listed) int{
	"waiters":  func(a, b *listed) int { return cmp.Compare(b.waiters, a.waiters) },
	"path":     func(a, b *listed) int { return 0 },
	"failing":  func(a, b *listed) int { return cmp.Compare(b.fails(), a.fails()) },
	"age":      func(a, b *listed) int { return a.read().Compare(b.read()) },
	"interval": func(a, b *listed) int { return cmp.Compare(b.pause(), a.pause()) },
}

// fails is how many checks in a row have failed.
func (l *listed) fails() int {
	if l.snap.Failed() {
		return l.snap.Fault.Fails
	}
	return 0
}

// read is when what is known was read.
func (l *listed) read() time.Time {
	if l.snap.Known() {
		return l.snap.State.Ended
	}
	return time.Time{}
}

// pause is that after the latest check.
func (l *listed) pause() time.Duration {
	switch {
	case l.snap.Failed():
		return l.snap.Fault.Pause
	case l.snap.Known():
		return l.snap.State.Pause
	}
	return l.site.Interval
}

// readListing reads the parameters of a list.
func readListing(query url.Values) (q listing, err error) {
	if q.limit, err = queryNumber(query, "limit", defaultLimit); err != nil {
		return q, err
	}
	if q.offset, err = queryNumber(query, "offset", 0); err != nil {
		return q, err
	}
	q.path, q.failing = strings.ToLower(query.Get("path")), query.Has("failing")
	sort := cmp.Or(query.Get("sort"), "waiters")
	if q.order = orders[sort]; q.order == nil {
		return q, apiError(400, "reading sort %q: expected waiters, path, failing, age or interval", shownPath(sort))
	}
	return q, nil
}

// list is what is to be shown, and of how many that are meant.
func (q listing) list() (shown []resourceStats, of int) {
	var all, meant []*listed
	for _, site := range Live.Sites() {
		for _, r := range site.Lot.Resources() {
			l := &listed{site, r, r.Snapshot(), r.Waiters()}
			all = append(all, l)
			if (!q.failing || l.snap.Failed()) && (q.path == "" || strings.Contains(strings.ToLower(r.Name.Path), q.path)) {
				meant = append(meant, l)
			}
		}
	}
	slices.SortFunc(meant, func(a, b *listed) int {
		if c := cmp.Or(q.order(a, b), strings.Compare(a.r.Name.Path, b.r.Name.Path)); c != 0 {
			return c
		}
		return cmp.Or(strings.Compare(a.r.Name.Host, b.r.Name.Host), strings.Compare(a.r.Name.Method, b.r.Name.Method),
			cmp.Compare(a.r.Number(), b.r.Number()))
	})
	of = len(meant)
	meant = meant[min(q.offset, of):]
	meant = meant[:min(q.limit, len(meant))]
	named := make(map[nameOnSite][]*listed)
	for _, l := range meant {
		named[l.name()] = nil
	}
	for _, l := range all {
		if others, ok := named[l.name()]; ok && len(others) < maxCompared {
			named[l.name()] = append(others, l)
		}
	}
	differ := make(map[nameOnSite][]string)
	for name, of := range named {
		if len(of) > 1 {
			differ[name] = differences(of)
		}
	}
	shown = make([]resourceStats, 0, len(meant))
	for _, l := range meant {
		stats := l.site.statsOf(l.r, l.snap, l.waiters)
		stats.Differs = differ[l.name()]
		shown = append(shown, stats)
	}
	return shown, of
}

// nameOnSite is what several resources of one handler may share.
type nameOnSite struct {
	site *Site
	name lot.Name
}

func (l *listed) name() nameOnSite { return nameOnSite{l.site, l.r.Name} }
