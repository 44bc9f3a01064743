package lot

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// backend answers checks, in virtual time. Its states are numbers that begin with
// 1; times are in milliseconds since its epoch.
type backend struct {
	interval time.Duration // between two checks
	takes    time.Duration // one check
	late     bool          // a check reads the state at its end instead of at its beginning
	prompt   bool          // a check that nobody waits for any more is given up
	turns    atomic.Int32  // of pollers, that have not ended

	mu       sync.Mutex // protects what follows
	epoch    time.Time
	state    int
	checks   []check
	inFlight bool
	twice    bool // two checks were in flight
}

// check is when one began, when it ended, and what it read: 0 if it was given up.
type check struct{ began, ended, read int }

func newBackend() *backend {
	return &backend{interval: time.Second, takes: 100 * time.Millisecond, epoch: time.Now(), state: 1}
}

func millis(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// at sleeps until then.
func (b *backend) at(ms int) { time.Sleep(time.Until(b.epoch.Add(millis(ms)))) }

func (b *backend) now() int { return int(time.Since(b.epoch) / time.Millisecond) }

func (b *backend) set(state int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state = state
}

// begins is when the checks began.
func (b *backend) begins() (all []int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.checks {
		all = append(all, c.began)
	}
	return all
}

// checking reports whether a check is in flight.
func (b *backend) checking() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.inFlight
}

// reset forgets the checks so far, and makes now the epoch.
func (b *backend) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.checks, b.epoch = nil, time.Now()
}

// start makes a poller.
func (b *backend) start(r *Resource[int]) {
	r.Schedule(func() {
		b.turns.Add(1)
		defer b.turns.Add(-1)
		if !r.Begin() {
			return
		}
		var abandoned <-chan struct{}
		if b.prompt {
			abandoned = r.Abandoned()
		}
		old, now := r.Snapshot(), b.check(abandoned)
		if due := time.Now().Add(b.interval); now == 0 {
			r.Abandon(due)
		} else {
			r.Publish(now, !old.Known() || now != old.State, due)
		}
	})
}

// check is one check.
func (b *backend) check(abandoned <-chan struct{}) int {
	c := check{began: b.now()}
	b.mu.Lock()
	b.twice = b.twice || b.inFlight
	b.inFlight = true
	c.read = b.state
	b.mu.Unlock()
	givenUp := false
	select {
	case <-time.After(b.takes):
	case <-abandoned:
		givenUp = true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inFlight = false
	if givenUp {
		c.read = 0
	} else if b.late {
		c.read = b.state
	}
	c.ended = int(time.Since(b.epoch) / time.Millisecond)
	b.checks = append(b.checks, c)
	return c.read
}

// client does what the handler does on behalf of one request.
type client struct {
	l     *Lot[int]
	key   Key
	name  Name
	who   string               // for the bound on one client
	start func(*Resource[int]) // makes a poller
	has   int                  // the state that it has; 0 is none
	paced time.Duration        // how much later than at once it wants a check

	w        Waiter[int]
	s        *Snapshot[int]  // what it looked at last
	awaited  <-chan struct{} // what it waits for because of that
	drained  <-chan struct{} // and what else, where that does not tell of a drain
	spurious bool            // it was woken without anything new
}

// client is one for the resource that all the scenes here are about.
func (b *backend) client(l *Lot[int], has int) *client {
	return &client{l: l, key: Key{1}, name: orders, start: b.start, has: has}
}

// verdict is what becomes of a request.
type verdict string

const (
	hold    verdict = "hold"
	ask     verdict = "ask"
	changed verdict = "changed" // to what s says
	fault   verdict = "fault"
	refused verdict = "refused"
	left    verdict = "left"
	drained verdict = "drained"
)

// join, look and enter are the steps between which anything may happen.
func (c *client) join() { c.w = c.l.Join(c.key, c.name) }

func (c *client) look() verdict {
	c.s = c.w.Snapshot()
	switch {
	case c.s.Failed() && !c.w.Parked() && c.w.Tried(c.s):
		return fault
	case c.s.Failed() && !c.w.Parked(), !c.s.Known(), c.s.State != c.has && !c.w.Asked(c.s):
		return ask
	case c.s.State != c.has:
		return changed
	}
	return hold
}

func (c *client) enter(v verdict) verdict {
	if c.w.Watch() {
		c.start(c.w.Resource)
	}
	if v == ask {
		c.awaited, c.drained = c.s.Next(), c.l.Drained()
		if !c.w.Parked() || !c.s.Failed() {
			c.w.WantAt(c.s, time.Now().Add(c.paced))
		}
		return hold
	}
	c.awaited, c.drained = c.s.Changed(), nil
	switch c.w.Park(c.who, false) {
	case nil:
		return hold
	case ErrDrained:
		return drained
	}
	return refused
}

// pause waits for what it has to look at next.
func (c *client) pause(gone <-chan struct{}) verdict {
	select {
	case <-c.awaited:
		now := c.w.Snapshot()
		if c.l.IsDrained() && c.drained == nil && now.State == c.s.State {
			return drained
		}
		if now == c.s || c.awaited == c.s.Changed() && now.State == c.s.State {
			c.spurious = true
		}
		return hold
	case <-gone:
		return left
	case <-c.drained:
		return drained
	}
}

// wait waits until there is something to say, or the client is gone.
func (c *client) wait(gone <-chan struct{}) verdict {
	c.join()
	defer c.w.Leave()
	for {
		v := c.look()
		if v == hold || v == ask {
			v = c.enter(v)
		}
		if v == hold {
			v = c.pause(gone)
		}
		if v != hold {
			return v
		}
	}
}

// follow has a client poll again and again, and returns what it was told and when.
func (b *backend) follow(c *client, gone <-chan struct{}) (told []string) {
	for {
		v := c.wait(gone)
		if v != changed {
			return append(told, fmt.Sprint(v, "@", b.now()))
		}
		c.has = c.s.State
		told = append(told, fmt.Sprint(c.has, "@", b.now()))
	}
}

// The sweeps act out in virtual time what can happen around the second check of a
// resource, which takes from 1100 to 1200. A number of clients come at 0, all with
// state 1. Then, each at any point or never, one of them leaves, the backend
// changes to 2 and there is a wake-up, the lot is drained. At 1500 another client
// comes, so that what the others may have left behind is seen. At 4000 all leave.
const (
	never    = 1 << 30
	unasked  = 1300 // when the backend changes where there is no wake-up
	latecome = 1500
	theEnd   = 4000
)

// points are during the first check, before, at the beginning of, during, at the
// end of and after the second. Where two things happen in one instant, they happen
// in any order.
var points = []int{50, 1050, 1100, 1150, 1200, 1250}

type scene struct {
	clients, leaver    int
	leave, wake, drain int
	late, prompt       bool // see backend
}

// plans are the ways in which checks may begin: several only where two things
// happen in one instant.
func (sc scene) plans() (plans [][]int) {
	for ties := range 32 {
		woken, there, undrained, finished, back := ties&1 != 0, ties&2 != 0, ties&4 != 0, ties&8 != 0, ties&16 != 0
		var plan []int
		heeded := false // the wake-up, by a check that was not given up
		for b := 0; b < theEnd && (b < sc.drain || b == sc.drain && undrained); {
			plan = append(plan, b)
			ended := b + 100
			givenUp := sc.prompt && sc.clients == 1 &&
				(sc.leave > b && sc.leave < ended || sc.leave == b && there || sc.leave == ended && !finished)
			if givenUp {
				ended = sc.leave
			}
			next := ended + 1000
			if sc.wake > b || sc.wake == b && woken {
				next = min(next, max(ended, sc.wake))
			} else if givenUp && !heeded {
				next = ended
			} else {
				heeded = true
			}
			if sc.prompt && sc.clients == 1 && next == ended && back && !givenUp {
				// Who was told of a change goes away for an instant, in which the check
				// of the wake-up is given up.
				plan = append(plan, next)
			}
			if givenUp || sc.clients == 1 && (next > sc.leave || next == sc.leave && !there) {
				next = max(next, latecome)
			}
			b = next
		}
		plans = append(plans, plan)
	}
	return plans
}

// stories are what a client may be told that comes at that time, by what the
// checks have read.
func (sc scene) stories(came int, leaves bool, checks []check) (stories []string) {
	end := min(theEnd, sc.drain)
	if leaves {
		end = min(end, sc.leave)
	}
	end = max(end, came)
	var ends []string
	if sc.drain <= end {
		ends = append(ends, fmt.Sprint(drained, "@", end))
	}
	if leaves && sc.leave == end || end == theEnd {
		ends = append(ends, fmt.Sprint(left, "@", end))
	}
	for _, c := range checks {
		if c.read != 2 {
			continue
		}
		if c.ended < came {
			break // it has that
		}
		for _, e := range ends {
			if c.ended <= end {
				stories = append(stories, fmt.Sprintf("[2@%d %s]", c.ended, e))
			}
			if c.ended >= end {
				stories = append(stories, fmt.Sprintf("[%s]", e))
			}
		}
		if c.began > came {
			return stories
		}
		// Where it came after the beginning of the check, it is told by the next.
	}
	for _, e := range ends {
		stories = append(stories, fmt.Sprintf("[%s]", e))
	}
	return stories
}

// act acts the scene out.
func (sc scene) act(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const linger = 30 * time.Second
		l, b := New[int](Limits{Linger: linger}), newBackend()
		b.late, b.prompt = sc.late, sc.prompt
		w := l.Join(Key{1}, orders)
		r := w.Resource
		var forgotten []int
		r.OnForget(func() { forgotten = append(forgotten, b.now()) })
		w.Leave()

		var everybody sync.WaitGroup
		leave, end := make(chan struct{}), make(chan struct{})
		told := make([][]string, sc.clients+1)
		for i := range sc.clients {
			gone := end
			if i == sc.leaver {
				gone = leave
			}
			everybody.Go(func() { told[i] = b.follow(b.client(l, 1), gone) })
		}
		do := func(ms int, f func()) {
			if ms != never {
				everybody.Go(func() { b.at(ms); f() })
			}
		}
		do(latecome, func() {
			w := l.Join(Key{1}, orders)
			has := w.Snapshot().State
			w.Leave()
			told[sc.clients] = b.follow(b.client(l, has), end)
		})
		do(sc.leave, func() { close(leave) })
		do(min(sc.wake, unasked), func() {
			b.set(2)
			if sc.wake != never {
				l.Wake(orders.Path, all)
			}
		})
		var last *Snapshot[int] // before the drain
		do(sc.drain, func() { l.Drain(); last = r.Snapshot() })
		do(theEnd, func() { close(end) })

		// Between these instants there is a poller while somebody waits, and otherwise
		// none but to end its check; and it has a goroutine for that and no longer.
		for _, ms := range []int{25, 75, 1075, 1125, 1175, 1225, 1275, 1525, 2675} {
			b.at(ms)
			synctest.Wait()
			waiters, turns := r.Waiters(), int32(0)
			if b.checking() {
				turns = 1
			}
			if n, got := b.turns.Load(), polling(r); n != turns || got != (turns > 0 || waiters > 0 && !l.IsDrained()) {
				t.Errorf("%+v: polling %v, and %d turns, at %d; want %d", sc, got, n, ms, turns)
			}
			read := ms > 100 && !sc.prompt || r.Snapshot().Known()
			if there := sc.present(ms); waiters != there || read && l.Parked() != there {
				t.Errorf("%+v: %d wait, %d are parked at %d; want %d", sc, waiters, l.Parked(), ms, there)
			}
		}
		everybody.Wait()
		synctest.Wait()
		if n := b.turns.Load(); n != 0 || polling(r) || b.twice {
			t.Errorf("%+v: polling %v, and %d turns, at the end, two checks in flight: %v", sc, polling(r), n, b.twice)
		}
		time.Sleep(linger)
		synctest.Wait()
		empty(t, l)

		plans := sc.plans()
		if got := b.begins(); !slices.ContainsFunc(plans, func(plan []int) bool { return slices.Equal(got, plan) }) {
			t.Errorf("%+v: checks began at %v; want one of %v", sc, got, plans)
		}
		for i, got := range told {
			came := 0
			if i == sc.clients {
				came = latecome
			}
			if want := sc.stories(came, i == sc.leaver, b.checks); !slices.Contains(want, fmt.Sprint(got)) {
				t.Errorf("%+v: client %d was told %v; want one of %v", sc, i, got, want)
			}
		}
		if want := []int{theEnd + 30_000}; sc.drain == never && !slices.Equal(forgotten, want) || len(forgotten) != 1 {
			t.Errorf("%+v: forgotten at %v", sc, forgotten)
		}
		if sc.drain != never && r.Snapshot() != last && !slices.ContainsFunc(b.checks, func(c check) bool { return c.ended == sc.drain }) {
			t.Errorf("%+v: published after the drain", sc)
		}
	})
}

// present is how many clients are there.
func (sc scene) present(ms int) int {
	n := sc.clients
	if sc.leave < ms {
		n--
	}
	if ms > latecome {
		n++
	}
	if sc.drain < ms {
		n = 0
	}
	return n
}

// leaving calls f for every number of clients and every one of them that leaves at
// any point, and for nobody leaving. One who was alone leaves a check that goes on, or
// one that is given up.
func leaving(clients int, f func(sc scene)) {
	for n := 1; n <= clients; n++ {
		f(scene{clients: n, leaver: -1, leave: never, wake: never, drain: never})
		for leaver := range n {
			for _, leave := range points {
				sc := scene{clients: n, leaver: leaver, leave: leave, wake: never, drain: never}
				f(sc)
				if sc.prompt = true; n == 1 {
					f(sc)
				}
			}
		}
	}
}

func TestSweepLeaving(t *testing.T) {
	leaving(6, func(sc scene) { sc.act(t) })
}

func TestSweepWaking(t *testing.T) {
	leaving(6, func(sc scene) {
		for _, sc.wake = range points {
			for _, sc.late = range []bool{false, true} {
				sc.act(t)
			}
		}
	})
}

func TestSweepDraining(t *testing.T) {
	leaving(6, func(sc scene) {
		for _, sc.drain = range points {
			sc.act(t)
		}
	})
}

func TestSweepWakingAndDraining(t *testing.T) {
	leaving(3, func(sc scene) {
		for _, sc.wake = range points {
			for _, sc.drain = range points {
				sc.act(t)
			}
		}
	})
}

// interleave calls f for every order in which steps of several actors can follow
// each other, those of each in turn.
func interleave(steps []int, f func(order []int)) {
	var order []int
	var next func()
	next = func() {
		done := true
		for actor := range steps {
			if steps[actor] == 0 {
				continue
			}
			done = false
			steps[actor]--
			order = append(order, actor)
			next()
			order = order[:len(order)-1]
			steps[actor]++
		}
		if done {
			f(order)
		}
	}
	next()
}

// TestNoLostChange acts out every order of a client's three steps, a check's three
// steps, the departure of who the check began for, and the backend's change and its
// wake-up or a drain (contract 7.2, 7.3
// and 7.8). Time stands still, and the next check is an hour away: what a client is
// to be told it must be told because of the wake-up, or because it asked.
func TestNoLostChange(t *testing.T) {
	type world struct {
		known bool // a state was read before
		stay  bool // somebody else waits all the time, or until that step
		fails bool // the check fails
		holds bool // the check goes on when nobody waits any more
		paced bool // the client can wait a minute for a check
		has   int  // what the client has
	}
	try := func(t *testing.T, wo world, order []int) {
		l, b := New[int](Limits{Linger: time.Hour}), newBackend()
		b.interval, b.takes = time.Hour, 0
		if wo.known {
			b.client(l, 0).wait(nil)
			synctest.Wait()
		}
		var r *Resource[int] // with a poller that is acted out here
		c := b.client(l, wo.has)
		if wo.paced {
			c.paced = time.Minute
		}
		c.start = func(started *Resource[int]) { r = started }
		stay := l.Join(Key{1}, orders)
		shared := stay.Resource
		if wo.stay && stay.Watch() {
			c.start(shared)
		}

		var v verdict
		least := 1 // what it may be told
		var begun *Resource[int]
		var abandoned <-chan struct{} // that check
		read := 0
		woken, lost := false, false // the wake-up was for a check that failed
		var last *Snapshot[int]     // before the drain
		steps := [][]func(){{
			func() { c.join(); least = b.state },
			func() { v = c.look() },
			func() {
				if v == hold || v == ask {
					v = c.enter(v)
				}
			},
		}, {
			func() { b.set(2) },
			func() { l.Wake(orders.Path, all); woken = true },
		}, {
			func() {
				if r != nil && r.Begin() {
					begun, abandoned, lost = r, r.Abandoned(), wo.fails && woken
				}
			},
			func() { read = b.state },
			func() {
				due := time.Now().Add(time.Hour)
				switch {
				case begun == nil:
				case closed(abandoned) && !wo.holds:
					lost = false
					begun.Abandon(due)
				case wo.fails:
					begun.Fail(-1, false, due)
				default:
					old := begun.Snapshot()
					begun.Publish(read, !old.Known() || read != old.State, due)
				}
			},
		}, {
			func() { l.Drain(); last = shared.Snapshot() },
		}, {
			func() { stay.Leave() },
		}}
		for _, actor := range order {
			steps[actor][0]()
			steps[actor] = steps[actor][1:]
		}
		b.reset()
		if r != nil {
			b.start(r)
		}
		gone := make(chan struct{})
		var rest sync.WaitGroup
		rest.Go(func() {
			for v == hold {
				if v = c.pause(gone); v != hold {
					return
				}
				if v = c.look(); v == hold || v == ask {
					v = c.enter(v)
				}
			}
		})
		time.Sleep(2 * c.paced)
		synctest.Wait()

		switch {
		case last != nil:
			if v == hold || shared.Snapshot() != last {
				t.Errorf("%+v %v: drained, but got %s, published %v", wo, order, v, shared.Snapshot() != last)
			}
		case wo.fails && v == fault:
			// It was not parked yet, and the check began after it had come.
		case lost && v == hold:
			// It is told when the backend can be read again.
		case wo.has == 2 && least == 1:
			// It claims to have what there is not: whatever it was told is so.
		case wo.has == 2:
			if v != hold {
				t.Errorf("%+v %v: sent back in time: %s %d", wo, order, v, c.s.State)
			}
		case v != changed || c.s.State < least || wo.has == 1 && c.s.State != 2 || c.spurious:
			t.Errorf("%+v %v: got %s, %d, spurious %v", wo, order, v, c.s.State, c.spurious)
		}
		if n := len(b.checks); n > 1 {
			t.Errorf("%+v %v: %d more checks", wo, order, n)
		}
		close(gone)
		rest.Wait()
		c.w.Leave()
		stay.Leave()
		l.Drain()
		synctest.Wait()
		empty(t, l)
	}
	for i := range 48 {
		wo := world{known: i&1 != 0, stay: i&2 != 0, fails: i&4 != 0, paced: i&8 != 0, has: i / 16}
		synctest.Test(t, func(t *testing.T) {
			interleave([]int{3, 2, 3, 0, 0}, func(order []int) { try(t, wo, order) })
			interleave([]int{3, 0, 3, 1, 0}, func(order []int) { try(t, wo, order) })
			if !wo.stay || wo.paced {
				return // nobody to leave, or nothing that is not seen above
			}
			wo.holds = wo.known && wo.fails
			interleave([]int{3, 2, 3, 0, 1}, func(order []int) { try(t, wo, order) })
			interleave([]int{3, 0, 3, 1, 1}, func(order []int) { try(t, wo, order) })
			if wo.holds = wo.known && !wo.fails; wo.holds {
				interleave([]int{3, 2, 3, 0, 1}, func(order []int) { try(t, wo, order) })
			}
		})
	}
}
