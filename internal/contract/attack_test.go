package contract_test

import (
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Contract 7.5: a handler that does not look at its context, but at what its writes come
// to, ends with the check.
func TestRule5ChattyHandler(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"max_checks 1")
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			for range 100 {
				if _, err := io.WriteString(w, "x"); err != nil {
					return err
				}
				time.Sleep(time.Second)
			}
			return nil
		})
		c := s.get("/a", has("1"))
		settle(3 * time.Second)
		c.leave()
		settle(2 * time.Second)
		if now, _ := s.backend.inFlight(); now != 0 {
			t.Errorf("%d in flight; want none, two seconds after everybody left", now)
		}
		s.backend.say(tagged("1"))
		s.get("/b", waits(0)).wants("200 answered state 1").within(0, 0)
	})(t)
}

// Contract 7.9: who is parked keeps nothing of the answer that it was parked on.
func TestRule9OldStatesAreNotKept(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, "hold 60s 0%\nmax_memory 4MiB")
		body := strings.Repeat("x", 1<<20-1)
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			_, err := io.WriteString(w, body)
			return err
		})
		first := s.get("/", waits(0))
		tag := first.field("ETag")
		first.w.body.Reset()
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for range 30 {
			c := s.get("/", "If-None-Match: "+tag)
			settle(time.Second)
			c.mustWait()
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if kept := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) >> 20; kept > 8 {
			t.Errorf("30 parked on one resource keep %d MiB; want that of one answer, or two", kept)
		}
	})(t)
}

// Contract 7.6: a time that is up while the check is in flight that tells is up when
// that ends.
func TestRule6TimeUpDuringACheck(t *testing.T) {
	t.Run("the first one", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(sequence(slowly(3*time.Second, tagged("1")), tagged("1")))
		s.get("/", has("1"), waits(1)).wants("304 answered").within(3*time.Second, 3*time.Second)
	}))

	t.Run("of what holds it", virtual(func(t *testing.T) {
		s := newSite(t, steady+"hold_while {lp.header.Busy} is yes")
		s.backend.say(slowly(3*time.Second, reply(200, "nothing yet", "Busy: yes")))
		s.get("/", waits(1)).wants("200 answered nothing yet").within(3*time.Second, 3*time.Second)
	}))

	t.Run("with unversioned park", virtual(func(t *testing.T) {
		s := newSite(t, steady+"unversioned park")
		s.backend.say(slowly(3*time.Second, tagged("1")))
		s.get("/", waits(1)).wants("200 answered state 1").within(3*time.Second, 3*time.Second)
	}))

	t.Run("one that confirms a change, and fails", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(sequence(tagged("1"), slowly(3*time.Second, tagged("2")), hung, tagged("2")))
		other := s.get("/", has("1"))
		settle(2 * time.Second)
		c := s.get("/", has("1"), waits(5))
		c.wants("504 failed").within(5*time.Second, 13*time.Second)
		other.wants("200 changed state 2")
	}))

	t.Run("one that finds it as it was", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(sequence(tagged("1"), slowly(3*time.Second, tagged("2")), slowly(4*time.Second, tagged("1"))))
		other := s.get("/", has("1"))
		settle(2 * time.Second)
		c := s.get("/", has("1"), waits(5))
		c.wants("304 expired").within(5*time.Second, 8*time.Second)
		other.wants("200 changed state 2")
	}))
}

// A poll that does not wait is no longer held by what was different each time, once that
// is what it has.
func TestRule6NotParkedAfterItsPace(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"interval 5s")
		s.backend.say(restless())
		for range 5 {
			s.get("/", waits(20)).wants("200 answered").within(0, 0)
		}
		s.backend.say(tagged("mine"))
		s.get("/", has("mine"), waits(0)).wants("304 expired").within(5*time.Second, 5*time.Second)
	})(t)
}

// Contract 3.9 and 7.6: a pause that is longer than anybody waits is cut short.
func TestNoHotLoopNorATimeOut(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"interval 1m")
		s.backend.say(restless())
		for range 5 {
			s.get("/", waits(0)).wants("200 answered").within(0, 0)
		}
		for range 4 {
			s.get("/", waits(0)).wants("200 changed").within(20*time.Second, 25*time.Second)
		}
	})(t)
}

// Contract 7.9: who is parked stays parked, on the way to another resource too.
func TestRule9PlaceOfWhoMoves(t *testing.T) {
	for _, bound := range []string{"max_parked 2", "max_parked_per_client 2"} {
		t.Run(bound, virtual(func(t *testing.T) {
			s := newSite(t, steady+bound)
			a, b := s.get("/", has("1"), "Referer: a"), s.get("/", has("1"), "Referer: b")
			settle(500 * time.Millisecond)
			s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
				if r.URL.Path == "/other" {
					return tagged("1")(w, r)
				}
				return slowly(time.Second, tagged("1", "Vary: Referer"))(w, r)
			})
			settle(2 * time.Second) // both ask for themselves
			s.get("/other", has("1"), waits(3)).wants("503 refused")
			a.wants("304 expired")
			b.wants("304 expired")
			if n := s.lot.Parked(); n != 0 {
				t.Errorf("%d are parked in the end", n)
			}
			for _, c := range []*client{s.get("/", has("1")), s.get("/", has("1"))} {
				c.mustWait() // no place is lost
			}
		}))
	}
}

// Contract 7.8 and 7.9: a place that is kept for a body outlives a drain, and is given up.
func TestRule8BodyAfterADrain(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, steady+"methods POST\nmax_parked 1")
		body, rest := io.Pipe()
		r := newRequest(http.MethodPost, "/", "", waits(5))
		r.Body, r.ContentLength = body, -1
		c := s.send(r)
		settle(time.Second)
		s.post("/", "x", waits(5)).wants("503 refused")
		s.drain()
		settle(time.Second)
		c.mustWait()
		io.WriteString(rest, "x")
		rest.Close()
		c.wants("200 bypassed state 1")
		s.post("/", "x", waits(5)).wants("200 bypassed state 1")
	})(t)
}
