package longpoll

import (
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/check"
	"github.com/caddy-longpoll/caddy-longpoll/internal/cluster"
	"github.com/caddy-longpoll/caddy-longpoll/internal/detach"
	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/ops"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/share"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
	"github.com/caddy-longpoll/caddy-longpoll/internal/wake"
)

// pollers is what the pollers of a handler have in common: when checks are made, by
// whom, and who is told of their end.
type pollers struct {
	site    *ops.Site
	wakes   *wake.Set
	checks  *check.Checker
	cluster *cluster.Set // nil without `cluster`
}

// start has a resource checked on behalf of p, whose request is lent to the checks but
// not theirs: neither p nor w may be kept.
func (ps *pollers) start(r *poll.Resource, p *poll.Poll, w http.ResponseWriter, next caddyhttp.Handler) {
	var b *check.Backend
	_ = poll.OnOwnStack(func() error { b = ps.checks.Backend(p, w, next); return nil })
	if field, many := b.Splits(); many {
		ps.site.Split(b.Name, field)
	}
	po := &poller{pollers: ps, resource: r, backend: b, key: p.Key()}
	if ps.cluster != nil {
		if m := ps.cluster.Join(r, po); m != nil {
			po.share = m
			r.Befriend(m)
		}
	}
	r.Schedule(po.turn)
}

// joinCluster has checks shared with other Caddys, if that is configured.
func (h *Handler) joinCluster(ctx caddy.Context) error {
	board, err := h.LoadBoard(ctx, h)
	if err != nil || board == nil {
		return err
	}
	h.polls.Scatter()
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	h.pollers.cluster = cluster.New(board, cluster.Config{
		Digest: cluster.Digest(cluster.PlaceOf(server), h.Methods, h.StripQuery, h.Probe, h.Probe != nil && h.OnChange != nil,
			h.Version, h.Ignore, h.IgnoreMatch, h.Key, h.Vary, h.Public, *h.MaxBody),
		Interval: h.polls.Interval, MaxPause: max(h.polls.MaxInterval, maxFaultPause), CheckTimeout: h.polls.CheckTimeout, MaxBody: *h.MaxBody,
		Wakes: cluster.WakesOf(h.WakeRaw), WakersUp: h.site.WakersUp, Wake: h.site.Wake,
	})
	h.site.Cluster = h.pollers.cluster
	h.wakes.Deaf = h.pollers.cluster.Deaf
	return nil
}

// detach has who is parked wait without a goroutine, if that is configured.
func (h *Handler) detach(ctx caddy.Context) {
	if h.Detach {
		lobby := &detach.Lobby{Spot: h.spot, Answer: h.replies.Answer, Told: h.site.Told, Count: h.site.Detached, Log: ctx.Logger()}
		lobby.Open(ctx, h.values())
	}
}

// sharer decides, where several Caddys share, whose a check is, and hands on what was
// read. Its methods are called by the poller alone: Turn first; then, where the check is
// made here, Begins, and at its end either Read or Drop.
type sharer interface {
	Turn() cluster.Whose
	Begins()
	Read(r *state.Reading, changed bool, next time.Duration)
	Drop()
}

// poller is the way of a check of one resource: when it is made, and what its end does
// to those who wait.
type poller struct {
	*pollers
	resource *poll.Resource
	backend  *check.Backend
	key      lot.Key // of the resource
	share    sharer  // nil where nobody else is asked
}

// turn is one check: the lot has it made again and again, while somebody waits.
func (p *poller) turn() {
	p.wakes.Watch(p.resource, p.backend.Replacer)
	if p.share == nil {
		if p.acquire() && p.begin() {
			p.check()
		}
		return
	}
	whose := p.share.Turn()
	if whose == cluster.Elsewhere {
		return
	}
	switch begun := whose == cluster.Begun; {
	case !p.acquire():
		if begun {
			p.resource.Abandon(p.resource.Due())
		}
	case begun || p.begin():
		p.share.Begins()
		p.check()
		return
	}
	p.share.Drop()
}

// acquire waits until a check may be made.
func (p *poller) acquire() bool { return p.backend.Acquire(p.resource.Abandoned()) }

// begin begins a check, if somebody still waits for it.
func (p *poller) begin() bool {
	if p.resource.Begin() {
		return true
	}
	p.backend.Release()
	return false
}

// check makes the check that has begun.
func (p *poller) check() {
	last, began := p.resource.Snapshot(), time.Now()
	now := p.backend.Check(last, p.resource.Abandoned())
	took := time.Since(began)
	if now == nil {
		p.resource.Abandon(p.resource.Due())
		if p.share != nil {
			p.share.Drop()
		}
		return
	}
	r, changed := p.end(last, now, took, nil)
	if p.share != nil {
		p.share.Read(r, changed, time.Until(r.Due))
	}
}

// CommonKey is what the resource is known by in all Caddys.
func (p *poller) CommonKey() (key lot.Key, personal, told, shared bool) { return p.backend.CommonKey() }

// Varied is the digest of what those who wait have of what s depends on.
func (p *poller) Varied(s *state.State) lot.Key { return p.backend.Varied(s) }

// Adopt publishes what another Caddy has read.
func (p *poller) Adopt(now *state.State, h cluster.Hand) bool {
	last := p.resource.Snapshot()
	switch {
	case now == nil && last.State == nil:
		return false
	case now == nil:
		now = last.State.State.Again(time.Now())
	case !p.backend.Adopt(now, last.State.Known()):
		return false
	}
	p.end(last, now, 0, &h)
	return true
}

// end publishes what has become of a check: of one that was made here, or of one that h
// says how it was handed on.
func (p *poller) end(last *poll.Snapshot, now *state.State, took time.Duration, h *cluster.Hand) (r *state.Reading, changed bool) {
	if now.Stale || now.Fault() && !now.Held {
		return p.fail(last, now, took, h), true
	}
	return p.publish(last, now, took, h)
}

// fail has everybody wait on, or see what the check has failed with. A challenge that says
// that a nonce is stale fails nobody: it has everybody come back with another one.
func (p *poller) fail(last *poll.Snapshot, now *state.State, took time.Duration, h *cluster.Hand) *state.Reading {
	r := &state.Reading{State: now, Result: state.Failed, Since: now.Ended, Fails: 1, Traits: p.backend.Traits()}
	r.Pause = p.checks.Interval
	if last.Failed() {
		r.Fails += last.Fault.Fails
		r.Pause = grown(last.Fault, took, max(maxFaultPause, r.Pause))
	}
	r.Due = due(r)
	p.take(r, h)
	r.Learnt = last.State != nil && last.State.Learnt || last.Failed() && last.Fault.Learnt
	p.find(r, r.Variation.Set())
	p.watchWeight(r)
	p.weigh(last.State, r)
	p.site.Checked(p.resource, r, took, h == nil)
	if !now.Stale {
		p.site.Fails(p.resource, r)
	}
	switch release := now.Stale || p.checks.Release; {
	case h == nil:
		p.resource.Fail(r, release, r.Due)
	case h.Ends:
		p.resource.Fail(r, release, h.Due)
	default:
		p.resource.OfferFault(r, h.Proof, release, h.Due)
	}
	return r
}

// take has r be what h says of the next check, if another Caddy has made this one.
func (p *poller) take(r *state.Reading, h *cluster.Hand) {
	if h != nil {
		r.Pause, r.Due = h.Pause, time.Now().Add(h.Next)
	}
}

// publish has everybody see what the check has read.
func (p *poller) publish(last *poll.Snapshot, now *state.State, took time.Duration, h *cluster.Hand) (r *state.Reading, changed bool) {
	p.site.FailsNoMore(p.resource)
	old := last.State
	changed = old == nil || now.News
	r = &state.Reading{State: now, Result: state.Changed, Since: now.Ended, Pause: p.nextPause(old, changed, took), Traits: p.backend.Traits()}
	if !changed {
		r.Result, r.Since = state.Unchanged, old.Since
	}
	if old != nil {
		r.Learnt, r.Restless, r.Blind = old.Learnt, old.Restless, old.Blind
	}
	r.Remember(old, p.checks.State)
	if h == nil || h.Ends {
		p.count(r, old)
	}
	p.find(r, r.Variation)
	r.Due = due(r)
	p.take(r, h)
	p.watchWeight(r)
	p.weigh(r, nil)
	p.site.Checked(p.resource, r, took, h == nil)
	switch {
	case h == nil:
		p.resource.Publish(r, changed, r.Due)
	case h.Ends:
		p.resource.Publish(r, changed, h.Due)
	default:
		p.resource.Offer(r, h.Proof, changed, h.Due)
	}
	return r, changed
}

// count counts the checks in a row that polls asked for and that found another version
// (contract 3.9), and the changes of the backend's ETag in a row of which ignore_match has
// left nothing.
func (p *poller) count(r, old *state.Reading) {
	switch {
	case old == nil:
	case old.Version != r.Version:
		r.Blind = 0
		if p.resource.Hurried() {
			if r.Restless++; r.Restless == poll.MaxRestless {
				p.site.Restless(p.resource)
			}
		}
	default:
		r.Restless = 0
		if len(p.checks.State.IgnoreMatch) > 0 && old.Source.Validator() != r.Source.Validator() {
			if r.Blind++; r.Blind == poll.MaxBlind {
				p.site.Blind(p.resource)
			}
		}
	}
}

// find has the resource found by v, which its answers turned out to depend on, before
// they are published: a poll that comes from now on finds it so. Of an outage v is only
// what was set on the way to us: a Vary on errors, however many fields it names, is to cost
// the backend no more checks.
func (p *poller) find(r *state.Reading, v *share.Variation) {
	if v != nil {
		memory, name := &p.checks.Share.Memory, p.backend.Name
		v = memory.Learn(name, v, !r.Learnt)
		if !r.Learnt {
			r.Learnt = true
			p.resource.OnForget(func() { memory.Forget(name) })
		}
		p.backend.Variation = v
	}
	if key := p.backend.Key(p.backend.Variation); key != p.key {
		p.key = key
		p.site.Lot.Rekey(p.resource, key)
	}
}

// watchWeight has the memory that is kept of r counted again whenever those who read it
// have more of it decoded.
func (p *poller) watchWeight(r *state.Reading) {
	r.OnGrow(func() {
		if s := p.resource.Snapshot(); s.State == r || s.Fault == r {
			p.weigh(s.State, s.Fault)
		}
	})
}

// weigh says how much memory is kept.
func (p *poller) weigh(s, fault *state.Reading) {
	var n int64
	if s != nil {
		n += s.Weight()
	}
	if fault != nil {
		n += fault.Weight()
	}
	p.resource.Weigh(n)
}

// nextPause is the pause after a good check: it grows while nothing changes, up to
// max_interval, and falls back to interval on a change.
func (ps *pollers) nextPause(old *state.Reading, changed bool, took time.Duration) time.Duration {
	pause := ps.checks.Interval
	if !changed && old.Pause > 0 {
		pause = grown(old, took, ps.checks.MaxInterval)
	}
	return max(pause, ps.checks.Interval)
}

// maxFaultPause bounds the growing pauses between checks of a backend that fails:
// shorter than the default hold, so that who is parked sees it recover.
const maxFaultPause = 10 * time.Second

// grown is the pause of old, by half longer and at most limit, after a check that took so
// long. One that has not gone by, since somebody has woken or asked, does not grow: a
// burst of wake-ups in an outage would make all wait who nobody wakes.
func grown(old *state.Reading, took, limit time.Duration) time.Duration {
	if time.Now().Add(-took).Before(old.Due) {
		return old.Pause
	}
	return min(old.Pause+old.Pause/2, limit)
}

// due is when the next check begins: after the pause, or the longer one that the backend
// asks for, and up to a tenth of it later, so that resources drift apart (contract 8).
func due(r *state.Reading) time.Time {
	pause := r.Pause
	if r.Source != nil {
		pause = max(pause, httphdr.RetryAfter(r.Source.Header, r.Ended))
	}
	return r.Ended.Add(pause + time.Duration(rand.Float64()*float64(pause)/10))
}
