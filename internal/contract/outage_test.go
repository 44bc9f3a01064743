package contract_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"
)

// told are the logs of at least a level, as "message field=value" for the fields
// that are asked for.
func (s *site) told(level zapcore.Level, fields ...string) (told []string) {
	for _, entry := range s.logs.All() {
		if entry.Level < level {
			continue
		}
		text, all := entry.Message, entry.ContextMap()
		for _, f := range fields {
			if v, ok := all[f]; ok {
				text += fmt.Sprintf(" %s=%v", f, v)
			}
		}
		told = append(told, text)
	}
	return told
}

func (s *site) wantsTold(t *testing.T, fields []string, want ...string) {
	t.Helper()
	if got := s.told(zapcore.InfoLevel, fields...); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("got logs %q; want %q", got, want)
	}
}

// An operator is told what to act on, once, and not of each request.
func TestLogs(t *testing.T) {
	t.Run("nothing of what is usual", virtual(func(t *testing.T) {
		s := newSite(t, steady+"freshness 1s")
		s.get("/").wants("200 answered")
		c := s.get("/", has("1"))
		c.mustWait()
		s.backend.say(tagged("2"))
		c.wants("200 changed")
		s.get("/", has("2")).wants("304 expired")
		s.get("/", "Range: bytes=0-").answer()
		gone := s.get("/", has("2"))
		settle(time.Second)
		gone.leave()
		settle(time.Second)
		s.get("/?x=1", "Wait: nonsense").wants("200 answered")
		s.wantsTold(t, nil)
		if s.logs.FilterMessage("done").Len() != 6 || s.logs.FilterMessage("checked").Len() < 20 {
			t.Errorf("debug says %q", s.told(zapcore.DebugLevel))
		}
	}))
	t.Run("an outage", virtual(func(t *testing.T) {
		s := newSite(t, "hold 1h 0%")
		s.backend.say(tagged("1"))
		for i := range 5 {
			for range 10 {
				s.get(fmt.Sprintf("/r%d?token=secret", i), has("1"))
			}
		}
		settle(0)
		s.backend.say(unreachable)
		settle(5 * time.Minute)
		fields := []string{"status", "parked"} // by the first of five resources that failed
		s.wantsTold(t, fields, "backend fails status=502 parked=10")
		s.backend.say(tagged("1"))
		settle(time.Minute)
		s.wantsTold(t, fields, "backend fails status=502 parked=10", "backend fails no more parked=50")
		took, _ := s.logs.FilterMessage("backend fails no more").All()[0].ContextMap()["duration"].(time.Duration)
		if took < 4*time.Minute || took > 6*time.Minute {
			t.Errorf("got a duration of %v; want 5m", took)
		}
		for _, entry := range s.logs.All() {
			for name, v := range entry.ContextMap() {
				if text := fmt.Sprint(v); text == "secret" || len(text) > 200 {
					t.Errorf("%s has %s %q", entry.Message, name, text)
				}
			}
		}
	}))
	// A client that is alone and leaves takes the resource along, which says nothing
	// of the backend.
	t.Run("an outage that is forgotten", virtual(func(t *testing.T) {
		s := newSite(t, steady+"linger 1s")
		s.backend.say(unreachable)
		for range 10 {
			s.get("/", waits(5)).wants("502 failed")
			settle(10 * time.Second)
		}
		s.wantsTold(t, nil, "backend fails")
		s.backend.say(tagged("1"))
		s.get("/other", waits(5)).wants("200 answered")
		s.wantsTold(t, []string{"duration"}, "backend fails", "backend fails no more duration=1m40s")
	}))
	// A check that nobody waits for any more is given up: it says nothing.
	t.Run("no outage after everybody has left", virtual(func(t *testing.T) {
		s := newSite(t, steady+"linger 0s")
		s.backend.say(func(http.ResponseWriter, *http.Request) error {
			time.Sleep(5 * time.Second)
			return unreachable(nil, nil)
		})
		c := s.get("/", waits(5))
		settle(time.Second)
		c.leave()
		settle(10 * time.Second)
		if o := readStats(t).Outages; len(o) != 0 {
			t.Errorf("got outages %+v; want none", o)
		}
		s.wantsTold(t, nil)
	}))
	t.Run("a backend that comes and goes", virtual(func(t *testing.T) {
		s := newSite(t, "hold 1h 0%")
		s.backend.say(tagged("1"))
		s.get("/", has("1")).mustWait()
		for range 3 {
			s.backend.say(unreachable)
			settle(20 * time.Second)
			s.backend.say(tagged("1"))
			settle(20 * time.Second)
		}
		s.wantsTold(t, nil, "backend fails", "backend fails no more", "backend fails", "backend fails no more", "backend fails", "backend fails no more")
		if o := readStats(t).Outages; len(o) != 0 {
			t.Errorf("got outages %+v; want none", o)
		}
	}))
	t.Run("a hold_while on an error is no outage", virtual(func(t *testing.T) {
		s := newSite(t, steady+"hold_while {lp.status} is 503")
		s.backend.say(reply(503, "not yet"))
		s.get("/").wants("503 expired")
		s.wantsTold(t, nil)
	}))
	// What is behind a retired configuration says nothing of the backend.
	t.Run("no outage in a drain", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(tagged("1"))
		s.get("/", has("1")).mustWait()
		s.backend.say(func(http.ResponseWriter, *http.Request) error {
			time.Sleep(time.Second)
			return unreachable(nil, nil)
		})
		settle(1500 * time.Millisecond)
		s.drain()
		settle(10 * time.Second)
		s.wantsTold(t, nil, "draining", "drained")
	}))
	t.Run("a drain", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(tagged("1"))
		for range 1000 {
			s.get("/", has("1"))
		}
		settle(0)
		s.drain()
		settle(2 * time.Second)
		s.drain()
		s.Cleanup()
		s.wantsTold(t, []string{"parked"}, "draining parked=1000", "drained parked=1000")
		took, _ := s.logs.FilterMessage("drained").All()[0].ContextMap()["duration"].(time.Duration)
		if took < 50*time.Millisecond || took > 100*time.Millisecond {
			t.Errorf("got a duration of %v; want a tenth of a second", took)
		}
	}))
	t.Run("a drain of nobody", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.get("/").wants("200 answered")
		s.Cleanup()
		s.wantsTold(t, nil)
	}))
}

// A bound that is hit is told once a minute, with how often it was.
func TestLogsOfBounds(t *testing.T) {
	virtual(func(t *testing.T) {
		s := newSite(t, "hold 1h 0%\nmax_parked 2\nmax_resources 1")
		s.backend.say(tagged("1"))
		s.get("/", has("1")).mustWait()
		s.get("/", has("1")).mustWait()
		fields := []string{"error", "refused", "parked"}
		for range 100 {
			s.get("/", has("1")).wants("503 refused")
		}
		s.get("/other", has("1")).wants("503 refused")
		want := []string{
			"refusing requests error=max_parked is reached refused=1 parked=2",
			"refusing requests error=max_resources is reached refused=1 parked=2",
		}
		s.wantsTold(t, fields, want...)
		settle(time.Minute)
		s.get("/", has("1")).wants("503 refused")
		s.wantsTold(t, fields, append(want, "refusing requests error=max_parked is reached refused=100 parked=2")...)
	})(t)
}
