package ops

import (
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// newSite is a site whose logs of a level and above are kept.
func newSite(level zapcore.Level, linger time.Duration) (*Site, *observer.ObservedLogs) {
	core, logs := observer.New(level)
	return &Site{Lot: lot.New[*state.Reading](lot.Limits{Linger: linger}), Log: zap.New(core)}, logs
}

// An outage keeps each resource that fails or has failed, once, until it is forgotten.
func TestOutageKeepsWhatIsKnown(t *testing.T) {
	s, logs := newSite(zapcore.InfoLevel, 0)
	fault := &state.Reading{State: state.Failure(nil, 503)}
	m := s.Lot.Join(lot.Key{1}, lot.Name{Method: "GET", Path: "/a"})
	r := m.Resource
	for range 3 {
		s.Fails(r, fault)
		s.Fails(r, fault)
		if o := &s.outage; o.count != 1 || len(o.failing) != 1 || o.failing[r] != fails {
			t.Errorf("while it fails: got %d of %v", o.count, o.failing)
		}
		s.FailsNoMore(r)
		if o := &s.outage; o.count != 0 || len(o.failing) != 1 || o.failing[r] != none || !o.since.IsZero() {
			t.Errorf("when it does not: got %d of %v since %v", o.count, o.failing, o.since)
		}
	}
	if n := logs.Len(); n != 6 {
		t.Errorf("got %d logs; want each beginning and end", n)
	}
	s.Fails(r, fault)
	m.Leave()
	if o := &s.outage; o.count != 0 || len(o.failing) != 0 || o.since.IsZero() {
		t.Errorf("when it is forgotten: got %d of %v since %v; want an outage of nothing", o.count, o.failing, o.since)
	}
	s.Fails(r, fault) // its last check was in flight
	if o := &s.outage; o.count != 0 || len(o.failing) != 0 {
		t.Errorf("after it was forgotten: got %d of %v", o.count, o.failing)
	}
	s.FailsNoMore(r)
	if since, _, _, where, _ := s.outage.now(); where != nil || !since.IsZero() {
		t.Errorf("got an outage of %v since %v", where, since)
	}
}

// A drained handler tells of no outage.
func TestNoOutageOnceDrained(t *testing.T) {
	s, logs := newSite(zapcore.InfoLevel, 0)
	m := s.Lot.Join(lot.Key{1}, lot.Name{})
	defer m.Leave()
	s.Lot.Drain()
	s.Fails(m.Resource, &state.Reading{State: state.Failure(nil, 503)})
	if logs.Len() != 0 || len(s.outage.failing) != 0 {
		t.Errorf("got %v, %v", logs.All(), s.outage.failing)
	}
}

// The log of refusals is told of each bound by itself, once in refusedPause.
func TestRefusals(t *testing.T) {
	var rs refusals
	now := time.Now()
	for _, step := range []struct {
		bound error
		after time.Duration
		count int
		due   bool
	}{
		{lot.ErrParked, 0, 1, true},
		{lot.ErrParked, 0, 1, false},
		{lot.ErrResources, 0, 1, true},
		{lot.ErrParked, refusedPause - 1, 2, false},
		{lot.ErrParked, refusedPause, 3, true},
		{lot.ErrParked, refusedPause, 1, false},
	} {
		if count, due := rs.add(step.bound, now.Add(step.after)); count != step.count || due != step.due {
			t.Errorf("%+v: got %d, %v", step, count, due)
		}
	}
}

// donePoll is a poll that was parked and released.
func donePoll(t testing.TB) *poll.Poll {
	t.Helper()
	return &poll.Poll{
		Told:    &state.Reading{State: &state.State{Owner: 1}},
		Outcome: poll.Changed, ParkedAt: time.Now(), Held: time.Second,
	}
}

// To count a request allocates nothing, and debug costs nothing that counts where it is
// off.
func TestDoneAllocatesNothing(t *testing.T) {
	s, logs := newSite(zapcore.InfoLevel, 0)
	p, since := donePoll(t), time.Now()
	if n := testing.AllocsPerRun(1000, func() {
		Released(since)
		s.Done(p)
	}); n != 0 {
		t.Errorf("got %v allocations per request", n)
	}
	if logs.Len() != 0 {
		t.Errorf("got %d logs", logs.Len())
	}
}

// BenchmarkDone is the counting of a request that was released.
func BenchmarkDone(b *testing.B) {
	s, _ := newSite(zapcore.InfoLevel, 0)
	p, since := donePoll(b), time.Now()
	b.ReportAllocs()
	for b.Loop() {
		Released(since)
		s.Done(p)
	}
}
