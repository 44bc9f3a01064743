package lot

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// seed repeats what the actors of TestModel do, though not how they meet.
var seed = flag.Uint64("seed", 0, "of TestModel; 0 is a new one each time")

// model acts out at random, on real goroutines and in real time, what happens to a
// lot: some backends, each with a path of its own and two keys, whose states are
// numbers that only grow.
type model struct {
	t      *testing.T
	seed   uint64
	actors atomic.Uint64
	lot    *Lot[int]
	states [4]atomic.Int64
	known  sync.WaitGroup // resources that are not forgotten yet

	mu      sync.Mutex // protects records
	records map[*Resource[int]]*record
}

// record is what is known of a resource that was ever checked.
type record struct{ turns, forgotten atomic.Int32 }

func (m *model) record(r *Resource[int]) *record {
	m.mu.Lock()
	defer m.mu.Unlock()
	rec := m.records[r]
	if rec == nil {
		rec = new(record)
		m.records[r] = rec
	}
	return rec
}

func (m *model) path(site int) string { return fmt.Sprint("/", site) }

// dice are those of one more actor.
func (m *model) dice() *dice {
	return &dice{rand.New(rand.NewPCG(m.seed, m.actors.Add(1)))}
}

type dice struct{ *rand.Rand }

// pause takes no time, or a little.
func (d *dice) pause() {
	if n := d.IntN(20); n < 15 {
		for range n {
			runtime.Gosched()
		}
	} else {
		<-time.After(d.patience())
	}
}

func (d *dice) patience() time.Duration { return time.Duration(d.IntN(500)) * time.Microsecond }

// start makes a poller. The next check is an hour away where the last one was good:
// every change has to be delivered by its wake-up.
func (m *model) start(r *Resource[int]) {
	d, site := m.dice(), int(r.Name.Path[1]-'0')
	r.Schedule(func() {
		rec := m.record(r)
		if n := rec.turns.Add(1); n != 1 {
			m.t.Errorf("%d turns of a poller at once", n)
		}
		defer rec.turns.Add(-1)
		if r.Once() {
			m.known.Add(1)
			r.OnForget(func() {
				if rec.forgotten.Add(1) == 1 {
					m.known.Done()
				}
			})
		}
		d.pause()
		if d.IntN(2) == 0 && closed(r.Abandoned()) || !r.Begin() {
			return
		}
		old, early := r.Snapshot(), int(m.states[site].Load())
		d.pause()
		read := early
		if d.IntN(2) == 0 {
			read = int(m.states[site].Load())
		}
		if d.IntN(10) == 0 {
			m.lot.Rekey(r, Key{byte(site), byte(d.IntN(3))})
		}
		r.Weigh(d.Int64N(400))
		if closed(r.Abandoned()) && d.IntN(4) > 0 {
			d.pause() // somebody may come meanwhile
			r.Abandon(time.Now().Add(time.Hour))
		} else if d.IntN(10) == 0 {
			r.Fail(-1, false, time.Now().Add(d.patience()))
		} else {
			r.Publish(read, !old.Known() || read != old.State, time.Now().Add(time.Hour))
		}
	})
}

// poll has one request answered.
func (m *model) poll(c *client, gone <-chan struct{}) verdict {
	site := c.key[0]
	least := int(m.states[site].Load())
	v := c.wait(gone)
	switch {
	case c.spurious:
		m.t.Error("a client was woken without anything new")
	case v == changed && (c.s.State == c.has || c.s.State < least):
		m.t.Errorf("a client that has %d came at %d, and was told %d", c.has, least, c.s.State)
	case v == drained && !m.lot.IsDrained():
		m.t.Error("a client was drained without a drain")
	}
	if v == changed {
		c.has = c.s.State
	}
	m.bounds()
	if r := find(m.lot, c.key); r != nil && c.has%3 == 0 {
		r.Weigh(int64(c.has % 400)) // as who decodes something does, too late maybe
	}
	return v
}

// bounds fails the test where a bound is exceeded.
func (m *model) bounds() {
	l := m.lot
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Parked() > l.limits.Parked || len(l.resources) > l.limits.Resources {
		m.t.Errorf("%d are parked on %d resources", l.Parked(), len(l.resources))
	}
	if l.Memory() > l.limits.Memory && l.idle.Len() > 0 {
		m.t.Errorf("%d bytes are kept, and %d resources are idle", l.Memory(), l.idle.Len())
	}
	for who, n := range l.clients {
		if n > l.limits.PerClient {
			m.t.Errorf("%d requests of client %s are parked", n, who)
		}
	}
}

// change changes the state of a backend, and wakes its path.
func (m *model) change(site int, by int64) {
	m.states[site].Add(by)
	m.lot.Wake(m.path(site), all)
}

func (m *model) client(site, key, who int) *client {
	return &client{
		l: m.lot, key: Key{byte(site), byte(key)}, name: at(m.path(site)),
		who: fmt.Sprint(who), start: m.start, paced: time.Duration(who%2) * 100 * time.Microsecond,
	}
}

// come and go until the lot is drained.
func (m *model) comeAndGo() {
	for d := m.dice(); ; d.pause() {
		c := m.client(d.IntN(len(m.states)), d.IntN(2), d.IntN(4))
		c.has = int(m.states[c.key[0]].Load()) - d.IntN(3)
		gone := make(chan struct{})
		timer := time.AfterFunc(d.patience(), func() { close(gone) })
		v := m.poll(c, gone)
		timer.Stop()
		if v == drained {
			return
		}
	}
}

// last is what the last change adds.
const last = 1 << 20

// stay polls until it is told of the last change.
func (m *model) stay(c *client) {
	for d := m.dice(); c.has < last; {
		if v := m.poll(c, nil); v != changed {
			d.pause() // refused, or a check that failed
		}
	}
}

// TestModel: at most one check of a resource is in flight, nobody is released without
// a change or a drain, nobody is told what was read before it came, everybody whose
// state is outdated is told, and in the end nothing is left.
func TestModel(t *testing.T) {
	m := &model{t: t, seed: *seed, records: make(map[*Resource[int]]*record)}
	if m.seed == 0 {
		m.seed = rand.Uint64()
	}
	t.Logf("again with -run TestModel -args -seed=%d", m.seed)
	m.lot = New[int](Limits{Parked: 16, PerClient: 6, Resources: 6, Memory: 1500, Linger: 500 * time.Microsecond})
	for site := range m.states {
		m.states[site].Store(1)
	}
	within := func(what string, all *sync.WaitGroup) {
		done := make(chan struct{})
		go func() { all.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatal(what)
		}
	}

	var passers, stayers, changers sync.WaitGroup
	churn := make(chan struct{})
	for range 12 {
		passers.Go(m.comeAndGo)
	}
	for i := range 2 * len(m.states) {
		stayers.Go(func() { m.stay(m.client(i/2, i%2, 4+i/2)) })
	}
	change := func(until <-chan struct{}) {
		for range 2 {
			changers.Go(func() {
				for d := m.dice(); !closed(until); d.pause() {
					m.change(d.IntN(len(m.states)), 1)
				}
			})
		}
	}
	change(churn)
	time.AfterFunc(150*time.Millisecond, func() { close(churn) })
	within("the changes do not end", &changers)
	for site := range m.states {
		m.change(site, last)
	}
	within("somebody is not told of the last change", &stayers)
	change(m.lot.Drained())
	<-time.After(30 * time.Millisecond)
	m.lot.Drain()
	within("the changes do not end", &changers)
	within("somebody is not told of the drain", &passers)
	within("a resource is not forgotten", &m.known)
	empty(t, m.lot)
	m.mu.Lock()
	records := maps.Clone(m.records) // a turn that begins late finds out by itself that nobody waits
	m.mu.Unlock()
	for r, rec := range records {
		for deadline := time.Now().Add(time.Minute); polling(r); runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatal("a poller is left")
			}
		}
		if n := rec.forgotten.Load(); n != 1 {
			t.Errorf("OnForget was called %d times for %v", n, r.Name)
		}
	}
}
