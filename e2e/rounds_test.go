package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// dialect is a system that long-polls: a plain backend, and the real clients.
type dialect struct {
	file    string // below testdata/dialects
	answer  func(w http.ResponseWriter, r *http.Request, value int)
	clients clients

	polled string // a part of the path that the backend is polled at; empty if it has no other
	silent bool   // who is new is told nothing until there is a change
	late   bool   // who is new asks for less at first
}

// many is how many clients wait for the same thing.
const many = 50

// rounds is one run of a dialect.
type rounds struct {
	*dialect
	t *testing.T
	b *backend
	s *site
	c *crowd
}

// run takes a client of the dialect through time-outs, changes, a reload and an
// outage, and then many at once.
func (d *dialect) run(t *testing.T) {
	t.Parallel()
	r := &rounds{dialect: d, t: t}
	r.b = newBackend(t, d.polled, d.answer)
	r.s = newSite(t, d.file, r.b)

	r.enter(1)
	alone := r.timeOut()
	r.change()
	r.timeOut()
	r.reload()
	r.change()
	r.outage()
	r.change()
	r.c.stop()
	await(t, "the client's departure", func() error { return r.s.parkedAre(0) })

	r.enter(many)
	crowded := r.timeOut()
	r.change()
	r.timeOut()
	r.c.stop()
	t.Logf("requests to the backend per second while nothing changes: %.2f with one client, %.2f with %d", alone, crowded, many)
}

// await waits until cond finds nothing wrong, but not if a client has met an error.
func (r *rounds) await(what string, cond func() error) {
	r.t.Helper()
	await(r.t, what, func() error {
		if err := r.c.failed(); err != nil {
			r.t.Fatalf("awaiting %s: %v", what, err)
		}
		return cond()
	})
}

// enter has n clients begin, and waits until they are parked. Each may have a
// request of its own made to the backend: it has nothing yet.
func (r *rounds) enter(n int) {
	r.t.Helper()
	began, polls := time.Now(), r.b.polls.Load()
	r.c = newCrowd(r.t, r.s, n, r.clients)
	r.await("the first round", func() error {
		if err := r.s.parkedAre(n); err != nil || r.silent {
			return err
		}
		return r.c.latest(r.b.now())
	})
	r.atMost("to begin", int(r.b.polls.Load()-polls), time.Since(began), n)
	r.c.forget()
	if r.late {
		r.expire()
	}
	r.quiet("beginning")
}

// expire waits until every client has gone through a time-out, and is parked again.
func (r *rounds) expire() {
	r.t.Helper()
	expired := r.s.outcomes("expired")
	r.await("a time-out", func() error {
		if now := r.s.outcomes("expired"); now < expired+r.c.n {
			return fmt.Errorf("%d have expired, of %d", now-expired, r.c.n)
		}
		return r.s.parkedAre(r.c.n)
	})
}

// timeOut has every client go through a time-out. None of them may notice more than
// that. It returns how many requests the backend has got in a second.
func (r *rounds) timeOut() float64 {
	r.t.Helper()
	began, polls := time.Now(), r.b.polls.Load()
	r.expire()
	n := int(r.b.polls.Load() - polls)
	took := time.Since(began)
	r.quiet("a time-out")
	r.atMost("a time-out", n, took, 0)
	return float64(n) / took.Seconds()
}

// change changes what the backend says. Every client is told, once, within one
// interval and some, and goes on.
func (r *rounds) change() {
	r.t.Helper()
	began, polls := time.Now(), r.b.polls.Load()
	value := r.b.change()
	r.await("a change", func() error { return r.c.expect(value) })
	// The pause is up to a tenth longer, and the machine may be slow and busy.
	if took := time.Since(began); took > interval+interval/10+patience/3 {
		r.t.Errorf("a change took %v to arrive; want at most %v and some", took, interval)
	}
	r.await("the round after a change", func() error { return r.s.parkedAre(r.c.n) })
	// Where the client says what it has, what it waits for is another resource from
	// now on.
	r.atMost("a change", int(r.b.polls.Load()-polls), time.Since(began), 2)
	if err := r.c.expect(value); err != nil {
		r.t.Fatalf("after a change: %v", err)
	}
	r.c.forget()
}

// reload reloads Caddy while the clients are parked. They notice nothing.
func (r *rounds) reload() {
	r.t.Helper()
	for range 5 { // where the machine stands still, their time is up right before it
		drained, expired := r.s.outcomes("drained"), r.s.outcomes("expired")
		r.s.reload()
		var by int
		r.await("a reload", func() error {
			by = r.s.outcomes("drained") - drained
			if all := by + r.s.outcomes("expired") - expired; all < r.c.n {
				return fmt.Errorf("%d were drained, and %d came back, of %d", by, all, r.c.n)
			}
			return r.s.parkedAre(r.c.n)
		})
		r.quiet("a reload")
		if by >= r.c.n {
			return
		}
	}
	r.t.Errorf("none of five reloads has drained all of %d clients", r.c.n)
}

// outage takes the backend away while the clients are parked, and brings it back.
// They notice nothing.
func (r *rounds) outage() {
	r.t.Helper()
	r.timeOut() // so that they have a while to go
	failed := r.s.metric(`checks_total{result="failed"}`)
	r.b.stop()
	r.s.wake()
	r.await("a failed check", func() error {
		if r.s.metric(`checks_total{result="failed"}`) == failed {
			return fmt.Errorf("no check has failed")
		}
		return nil
	})
	r.b.start()
	r.s.wake()
	r.expire()
	r.quiet("an outage")
}

// quiet is that no client was told anything, no error either.
func (r *rounds) quiet(what string) {
	r.t.Helper()
	if err := r.c.expect(); err != nil {
		r.t.Fatalf("after %s: %v", what, err)
	}
}

// atMost checks how many requests the backend has got: one per interval, however
// many wait, and some.
func (r *rounds) atMost(what string, n int, took time.Duration, some int) {
	r.t.Helper()
	// One is under way when the count begins, and one when it ends.
	if most := int(took/interval) + 2 + some; n > most {
		r.t.Errorf("%s of %d clients took %d requests to the backend in %v; want at most %d", what, r.c.n, n, took, most)
	}
}
