package lot

import (
	"testing"
	"testing/synctest"
	"time"
)

// ally counts what it is told.
type ally struct{ newcomers, ended int }

func (a *ally) Newcomer() { a.newcomers++ }
func (a *ally) Ended()    { a.ended++ }

// What somebody else has read releases who is parked, and is new enough for those only who
// came before the mark.
func TestOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New[int](Limits{})
		first := l.Join(Key{}, Name{})
		first.Watch()
		r := first.Resource
		var a ally
		r.Befriend(&a)
		calls := 0
		r.Schedule(func() { calls++ })
		r.Postpone(time.Now().Add(time.Hour))
		synctest.Wait()
		if calls == 0 || a.newcomers != 1 {
			t.Fatalf("called %d times, with %d newcomers; want a call, and to be told of the first", calls, a.newcomers)
		}
		_, made := r.Mark(false)
		if _, again := r.Mark(false); !made || again {
			t.Error("a mark says of nobody that he waits")
		}
		mark, made := r.Mark(true)
		if !made {
			t.Error("a mark that is made again does not say that somebody waits")
		}
		second := l.Join(Key{}, Name{})
		second.Watch()
		if a.newcomers != 2 {
			t.Errorf("told of %d newcomers; want 2", a.newcomers)
		}
		before := r.Snapshot()
		r.Offer(7, mark, true, time.Now().Add(time.Hour))
		s := r.Snapshot()
		select {
		case <-before.Changed():
		default:
			t.Error("who is parked was not released")
		}
		if !s.Known() || s.Failed() || s.State != 7 || !first.Asked(s) || second.Asked(s) {
			t.Errorf("known %v, failed %v, state %v, new enough for the first %v, for the second %v", s.Known(), s.Failed(), s.State, first.Asked(s), second.Asked(s))
		}
		r.OfferFault(8, Proof{}, false, time.Now().Add(time.Hour))
		if s := r.Snapshot(); !s.Failed() || s.Fault != 8 || s.State != 7 || first.Tried(s) {
			t.Error("a fault that proves nothing was taken for the end of somebody's check")
		}
		r.Offer(9, Proof{}, false, time.Now().Add(time.Hour))
		if s := r.Snapshot(); s.Failed() || first.Asked(s) || !s.Known() {
			t.Error("a state that proves nothing was taken for the end of somebody's check")
		}

		// A mark that is made during a check proves nothing of that check.
		r.Need()
		if !r.Begin() {
			t.Fatal("no check began")
		}
		third := l.Join(Key{}, Name{})
		third.Watch()
		later, _ := r.Mark(false)
		r.Publish(10, true, time.Now().Add(time.Hour))
		if s := r.Snapshot(); !second.Asked(s) || third.Asked(s) || later.Number <= r.Begun().Number {
			t.Error("a check was taken for one that began after who came during it")
		}
		first.Leave()
		second.Leave()
		third.Leave()
		synctest.Wait()
		if a.ended != 1 {
			t.Errorf("told %d times of the end; want once", a.ended)
		}
	})
}

// Who stays and is told a state is not told one that may have been read before it, though it
// was read after it had come: of that a mark says something that was made later.
func TestTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New[int](Limits{})
		stays := l.Join(Key{}, Name{})
		stays.Watch()
		r := stays.Resource
		var a ally
		r.Befriend(&a)
		r.Schedule(func() {})
		due := time.Now().Add(time.Hour)
		early, _ := r.Mark(false)
		if !r.Begin() {
			t.Fatal("no check began")
		}
		other := l.Join(Key{}, Name{})
		other.Watch()
		during, made := r.Mark(false)
		if !made {
			t.Fatal("no mark for who has come during the check")
		}
		r.Publish(2, true, due)
		s := r.Snapshot()
		if !stays.Asked(s) {
			t.Fatal("a check that has begun since is not new enough")
		}
		newcomers := a.newcomers
		stays.Told(s)
		if a.newcomers != newcomers+1 {
			t.Error("who was told and stays is not taken for a newcomer")
		}
		for _, mark := range []Proof{early, during} {
			r.Offer(1, mark, true, due)
			if stays.Asked(r.Snapshot()) {
				t.Errorf("what was read after mark %d is told to who was told what was read later", mark.Number)
			}
		}
		after, made := r.Mark(false)
		r.Offer(3, after, true, due)
		if !made || !stays.Asked(r.Snapshot()) {
			t.Error("what was certainly read later is not told")
		}
		stays.Leave()
		other.Leave()
		synctest.Wait()
	})
}
