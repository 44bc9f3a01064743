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
