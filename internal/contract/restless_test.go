package contract_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// restless says something else each time.
func restless(fields ...string) caddyhttp.HandlerFunc {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) error {
		return reply(200, fmt.Sprintf(`{"nonce":%d}`, n.Add(1)), fields...)(w, r)
	}
}

// loop is a client that asks again as soon as it has an answer, until the time is up.
// It names what it was given, unless it insists on a version of its own.
func (s *site) loop(until time.Duration, insists string, fields ...string) (answers map[string]int) {
	answers = make(map[string]int)
	tag := insists
	for s.now() < until {
		all := fields
		if tag != "" {
			all = append(all[:len(all):len(all)], "If-None-Match: "+tag)
		}
		c := s.get("/nonce", all...).answer()
		answers[c.outcome()]++
		if insists == "" {
			tag = c.w.sent.Get("ETag")
		}
		if len(answers) > 0 && answers["answered"] > 10000 {
			s.t.Error("a client goes round and round")
			return answers
		}
	}
	return answers
}

// Contract 3.9.
func TestNoHotLoop(t *testing.T) {
	// Two clients, each of which always asks for something that it does not have.
	for name, test := range map[string]struct {
		first, second string // what they insist on
		fields        []string
	}{
		"who ask without a version":    {"", "", nil},
		"who insist on a version":      {`"a"`, `"b"`, nil},
		"of whom one insists":          {"", `"a"`, nil},
		"of whom one insists, slowly":  {"", `"a"`, []string{waits(20)}},
		"who ask with the backend's":   {"", "", []string{waits(20)}},
		"who are in a hurry":           {`"a"`, `"b"`, []string{waits(1)}},
		"who do not want to be parked": {`"a"`, `"b"`, []string{waits(0)}},
	} {
		t.Run("two clients "+name, virtual(func(t *testing.T) {
			const long = 30 * time.Second
			s := newSite(t, "hold 25s 0%")
			s.backend.say(restless())
			fields := test.fields
			if fields == nil {
				fields = []string{waits(10)}
			}
			type end map[string]int
			ends := make(chan end, 2)
			for _, insists := range []string{test.first, test.second} {
				go func() { ends <- s.loop(long, insists, fields...) }()
			}
			a, b := <-ends, <-ends
			// Four that nobody can know to be in vain, and then one per interval.
			if n := s.backend.checks(); n > 4+1+int(long/time.Second) || n < 20 {
				t.Errorf("got %d checks in %v; want one per interval", n, long)
			}
			for _, answers := range []end{a, b} {
				if answers["changed"] < 20 || answers["failed"]+answers["refused"]+answers["bypassed"] > 0 {
					t.Errorf("got %v; want that the client gets each version", answers)
				}
			}
		}))
	}

	t.Run("the next one begins an interval after the last", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 7s")
		s.backend.say(restless())
		for i := range 5 {
			s.get("/", waits(20)).wants(fmt.Sprintf(`200 answered {"nonce":%d}`, i+1)).within(0, 0)
		}
		settle(2 * time.Second)
		c, d := s.get("/", waits(20)), s.get("/", `If-None-Match: "mine"`)
		settle(2 * time.Second)
		c.mustWait()
		if n := s.lot.Parked(); n != 2 {
			t.Errorf("got %d parked; want both", n)
		}
		c.wants(`200 changed {"nonce":6}`).within(5*time.Second, 5*time.Second).wantsField("Long-Poll", "changed;held=5.000")
		d.wants(`200 changed {"nonce":6}`).within(5*time.Second, 5*time.Second)
		// Who comes late enough waits for nobody.
		settle(8 * time.Second)
		s.get("/", waits(20)).wants(`200 answered {"nonce":7}`).within(0, 0)
	}))

	t.Run("one that is the same ends it", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 7s")
		s.backend.say(restless())
		for range 5 {
			s.get("/", waits(20)).wants("200 answered").within(0, 0)
		}
		s.backend.say(tagged("1"))
		for i := range 3 {
			c := s.get("/", waits(20))
			if i == 0 {
				c.wants("200 changed state 1").within(7*time.Second, 7*time.Second)
			} else if i == 1 {
				c.wants("200 changed state 1").within(7*time.Second, 7*time.Second) // nobody knows yet
			} else {
				c.wants("200 answered state 1").within(0, 0)
			}
		}
	}))

	t.Run("changes that nobody asked for are none", virtual(func(t *testing.T) {
		// A resource that changes all the time is one that is worth to be asked for.
		s := newSite(t, "hold 25s 0%")
		s.backend.say(restless())
		tag := s.get("/", waits(20)).field("ETag")
		for range 10 {
			tag = s.get("/", "If-None-Match: "+tag).wants("200 changed").field("ETag")
		}
		s.get("/", waits(20)).wants("200 answered").within(0, 0)
		s.wantsTold(t, nil)
	}))

	t.Run("nor are those that wake-ups find", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 1h")
		s.backend.say(restless())
		tag := s.get("/", waits(20)).field("ETag")
		for range 10 {
			c := s.get("/", "If-None-Match: "+tag)
			c.mustWait()
			s.wake("/")
			tag = c.wants("200 changed").within(0, 0).field("ETag")
		}
		s.get("/", waits(20)).wants("200 answered").within(0, 0)
		s.wantsTold(t, nil)
	}))

	t.Run("a wake-up does not wait", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 10s")
		s.backend.say(restless())
		for range 5 {
			s.get("/", waits(20)).wants("200 answered").within(0, 0)
		}
		c := s.get("/", waits(20))
		settle(time.Second)
		c.mustWait()
		s.wake("/")
		c.wants(`200 changed {"nonce":6}`).within(time.Second, time.Second)
	}))

	t.Run("its time would be up before", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 20s")
		s.backend.say(restless())
		for range 5 {
			s.get("/", waits(20)).wants("200 answered").within(0, 0)
		}
		s.get("/", waits(8)).wants(`200 changed {"nonce":6}`).within(6*time.Second, 6*time.Second)
		// All of them are checked for together.
		a, b := s.get("/", waits(4)), s.get("/", waits(2))
		b.wants(`200 changed {"nonce":7}`).within(1500*time.Millisecond, 1500*time.Millisecond)
		a.wants(`200 changed {"nonce":7}`).within(1500*time.Millisecond, 1500*time.Millisecond)
		// But who hardly waits is no reason to hurry.
		s.get("/", "Wait: 10ms").wants(`200 changed {"nonce":8}`).within(time.Second, time.Second)
		s.get("/", waits(0)).wants(`200 changed {"nonce":9}`).within(20*time.Second, 20*time.Second)
	}))

	t.Run("an interval that is longer than the hold", virtual(func(t *testing.T) {
		s := newSite(t, "hold 20s 0%\ninterval 1m")
		s.backend.say(restless())
		for range 5 {
			s.get("/", waits(20)).wants("200 answered").within(0, 0)
		}
		for range 10 {
			s.get("/", `If-None-Match: "mine"`).wants("200 changed").within(15*time.Second, 15*time.Second)
		}
	}))

	t.Run("who leaves, and a drain", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 20s")
		s.backend.say(restless())
		for range 5 {
			s.get("/", waits(20)).wants("200 answered").within(0, 0)
		}
		c, d := s.get("/", waits(20)), s.get("/", waits(20))
		settle(time.Second)
		c.leave()
		c.wants("499 left")
		if n := s.lot.Parked(); n != 1 {
			t.Errorf("got %d parked; want 1", n)
		}
		s.drain()
		d.within(time.Second, 2*time.Second)
		if got := d.outcome(); got != "drained" && got != "bypassed" {
			t.Errorf("got %v", d)
		}
	}))

	t.Run("a bound", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 20s\nmax_parked 1")
		s.backend.say(restless())
		for range 5 {
			s.get("/", waits(20)).wants("200 answered").within(0, 0)
		}
		c := s.get("/", waits(20))
		c.mustWait()
		s.get("/", waits(20)).wants("503 refused").within(0, 0)
		c.wants("200 changed")
	}))

	t.Run("is told once", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%")
		s.backend.say(restless())
		for range 100 {
			s.get("/nonce?q=secret", waits(20)).answer()
		}
		var told []string
		for _, entry := range s.logs.FilterLevelExact(zapcore.WarnLevel).All() {
			text := entry.Message
			for _, f := range entry.Context {
				text += " " + f.Key + "=" + f.String
			}
			told = append(told, text)
		}
		if len(told) != 1 {
			t.Fatalf("got warnings %q; want one", told)
		}
		for _, want := range []string{"/nonce", "ignore", "ignore_match", "version"} {
			if !strings.Contains(told[0], want) {
				t.Errorf("got warning %q; want that it names %s", told[0], want)
			}
		}
		if strings.Contains(told[0], "secret") {
			t.Errorf("got warning %q", told[0])
		}
	}))

	t.Run("ordinary requests are none", virtual(func(t *testing.T) {
		s := newSite(t, "hold 25s 0%\ninterval 20s")
		s.backend.say(restless())
		for range 20 {
			s.get("/").wants("200 answered").within(0, 0)
		}
		synctest.Wait()
		s.wantsUntouched(20)
	}))
}
