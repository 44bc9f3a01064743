package poll

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/share"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// scene is a poll, the resource that it waits for, and what has happened to both.
type scene struct {
	t     *testing.T
	rules *Rules
	r     *Resource
	join  func() Waiter
	p     *Poll
	m     Waiter
}

// joins makes the poll a member. What was checked before is older than its question.
func (s *scene) joins(target string, fields ...string) {
	s.p = ask(s.t, s.rules, target, fields...)
	s.m = s.join()
	s.t.Cleanup(s.m.Leave)
}

// check is one that has read st; with failed it has failed with it.
func (s *scene) check(st *state.Reading, failed bool) {
	s.t.Helper()
	if !s.r.Begin() {
		s.t.Fatal("nobody waits for a check")
	}
	st.Ended = time.Now()
	if failed {
		s.r.Fail(st, s.rules.Release, time.Now().Add(time.Second))
	} else {
		s.r.Publish(st, true, time.Now().Add(time.Second))
	}
}

// says is a good check.
func (s *scene) says(status int, etag, body string) {
	s.check(reading(s.rules, status, etag, body), false)
}

// fails is a check that could not connect.
func (s *scene) fails() {
	s.check(&state.Reading{State: state.Failure(caddyhttp.Error(http.StatusBadGateway, nil), http.StatusBadGateway)}, true)
}

// parks parks the poll on what is known.
func (s *scene) parks() {
	s.t.Helper()
	s.p.ParkOn(s.r.Snapshot().State)
	if err := s.m.Park("", false); err != nil {
		s.t.Fatal(err)
	}
}

// named is a version that a client has.
func named(v string) string { return `If-None-Match: "` + v + `"` }

// What becomes of a poll, case by case: at once, and when its time is up.
func TestVerdict(t *testing.T) {
	holdWhileQueued := func(ru *Rules) {
		ru.HoldWhile = []Condition{{Value: "{lp.json.status}", Op: "is", Literals: []string{"queued"}}}
	}
	const queued, done = `{"status":"queued"}`, `{"status":"done"}`
	unshared := func(s *scene) { s.check(&state.Reading{State: &state.State{Unshared: true}}, false) }
	for _, test := range []struct {
		name   string
		rules  func(ru *Rules)
		does   func(s *scene)
		look   Kind
		timeUp Kind
	}{
		{"nothing is known", nil, func(s *scene) {
			s.joins("/", named("1"))
		}, Ask, Patience},
		{"nothing is known when its patience ends", nil, func(s *scene) {
			s.joins("/", named("1"))
			time.Sleep(25 * time.Second)
		}, Ask, Fault},
		{"nothing is known, and two checks take longer than hold", func(ru *Rules) { ru.CheckTimeout = 20 * time.Second }, func(s *scene) {
			s.joins("/", named("1"))
			time.Sleep(25 * time.Second)
		}, Ask, Patience},

		// By version.
		{"it has what was known", nil, func(s *scene) {
			s.says(200, `"1"`, "")
			s.joins("/", named("1"))
		}, Hold, Patience},
		{"it has what is read", nil, func(s *scene) {
			s.joins("/", named("1"))
			s.says(200, `"1"`, "")
		}, Hold, Patience},
		{"it has something else than was known", nil, func(s *scene) {
			s.says(200, `"1"`, "")
			s.joins("/", named("2"))
		}, Ask, Patience},
		{"it has something else than is read", nil, func(s *scene) {
			s.joins("/", named("1"))
			s.says(200, `"2"`, "")
		}, Ready, Ready},
		{"it names nothing", nil, func(s *scene) {
			s.says(200, `"1"`, "")
			s.joins("/")
		}, Ask, Patience},
		{"it names nothing, and it is read", nil, func(s *scene) {
			s.joins("/")
			s.says(200, `"1"`, "")
		}, Ready, Ready},
		{"a 404 holds nobody", nil, func(s *scene) {
			s.joins("/", named("1"))
			s.says(404, `"1"`, "")
		}, Ready, Ready},
		{"by since", func(ru *Rules) { ru.Since, ru.State.Named = "{http.request.uri.query.v}", true }, func(s *scene) {
			s.joins("/?v=1")
			s.says(200, `"1"`, "")
		}, Hold, Patience},
		{"by since, something else", func(ru *Rules) { ru.Since, ru.State.Named = "{http.request.uri.query.v}", true }, func(s *scene) {
			s.joins("/?v=2")
			s.says(200, `"1"`, "")
		}, Ready, Ready},

		// Limit 0: it is not to be parked.
		{"it does not wait, and it was known", nil, func(s *scene) {
			s.says(200, `"1"`, "")
			s.joins("/", named("1"), "Wait: 0")
		}, Ask, Patience},
		{"it does not wait, and it is read", nil, func(s *scene) {
			s.joins("/", named("1"), "Wait: 0")
			s.says(200, `"1"`, "")
		}, Same, Same},
		{"it does not wait, and something else is read", nil, func(s *scene) {
			s.joins("/", named("1"), "Wait: 0")
			s.says(200, `"2"`, "")
		}, Ready, Ready},

		// Freshness.
		{"fresh enough", func(ru *Rules) { ru.Freshness = 10 * time.Second }, func(s *scene) {
			s.says(200, `"1"`, "")
			time.Sleep(10 * time.Second)
			s.joins("/")
		}, Ready, Ready},
		{"not fresh enough", func(ru *Rules) { ru.Freshness = 10 * time.Second }, func(s *scene) {
			s.says(200, `"1"`, "")
			time.Sleep(10*time.Second + 1)
			s.joins("/")
		}, Ask, Patience},

		// Parked.
		{"parked, and nothing has changed", nil, func(s *scene) {
			s.says(200, `"1"`, "")
			s.joins("/", named("1"))
			s.parks()
		}, Hold, Expire},
		{"parked, and it has changed", nil, func(s *scene) {
			s.says(200, `"1"`, "")
			s.joins("/", named("1"))
			s.parks()
			s.says(200, `"2"`, "")
		}, Ready, Ready},
		{"parked, and it is a 403 with the same tag", nil, func(s *scene) {
			s.says(200, `"1"`, "")
			s.joins("/", named("1"))
			s.parks()
			s.says(403, `"1"`, "")
		}, Ready, Ready},
		{"parked by *, and it has changed", nil, func(s *scene) {
			s.says(200, `"1"`, "")
			s.joins("/", "If-None-Match: *")
			s.parks()
			s.says(200, `"2"`, "")
		}, Hold, Expire},
		{"drained", nil, func(s *scene) {
			s.says(200, `"1"`, "")
			s.joins("/", named("1"))
			s.parks()
			s.p.Draining = true
		}, Hold, Drain},

		// unversioned park.
		{"the first change, of what was known", func(ru *Rules) { ru.ParkUnnamed = true }, func(s *scene) {
			s.says(200, `"1"`, "")
			s.joins("/")
		}, Ask, Patience},
		{"the first change, of what is read", func(ru *Rules) { ru.ParkUnnamed = true }, func(s *scene) {
			s.joins("/")
			s.says(200, `"1"`, "")
		}, Hold, Patience},
		{"the first change has come", func(ru *Rules) { ru.ParkUnnamed = true }, func(s *scene) {
			s.joins("/")
			s.says(200, `"1"`, "")
			s.parks()
			s.says(200, `"2"`, "")
		}, Ready, Ready},
		{"the first change, drained before", func(ru *Rules) { ru.ParkUnnamed = true }, func(s *scene) {
			s.joins("/")
			s.says(200, `"1"`, "")
			s.parks()
			s.p.Draining = true
		}, Hold, Drain},

		// hold_while.
		{"hold_while, as was known", holdWhileQueued, func(s *scene) {
			s.says(200, "", queued)
			s.joins("/")
		}, Hold, Patience},
		{"hold_while on a 404", holdWhileQueued, func(s *scene) {
			s.joins("/")
			s.says(404, "", queued)
		}, Hold, Patience},
		{"hold_while no more", holdWhileQueued, func(s *scene) {
			s.says(200, "", queued)
			s.joins("/")
			s.parks()
			s.says(200, "", done)
		}, Ready, Ready},
		{"hold_while, read again before its time is up", holdWhileQueued, func(s *scene) {
			s.says(200, "", queued)
			s.joins("/")
			s.parks()
			s.says(200, "", queued)
		}, Hold, Expire},
		// It would be told again what was read before it asked.
		{"hold_while, not read again", holdWhileQueued, func(s *scene) {
			s.says(200, "", queued)
			s.joins("/")
			s.parks()
		}, Hold, Fault},
		{"hold_while, drained", holdWhileQueued, func(s *scene) {
			s.says(200, "", queued)
			s.joins("/")
			s.parks()
			s.p.Draining = true
		}, Hold, Drain},
		// What it has may be newer than what is known.
		{"hold_while, drained, with another version", holdWhileQueued, func(s *scene) {
			s.says(200, `"1"`, queued)
			s.joins("/", named("2"))
			s.parks()
			s.p.Draining = true
		}, Hold, Pass},

		// Outages.
		{"it had failed before", nil, func(s *scene) {
			s.fails()
			s.joins("/", named("1"))
		}, Fault, Fault},
		{"it had failed before, and the pause is over", nil, func(s *scene) {
			s.fails()
			time.Sleep(time.Second)
			s.joins("/", named("1"))
		}, Ask, Fault},
		{"it had failed before, and its client has what was known", nil, func(s *scene) {
			s.says(200, `"1"`, "")
			s.fails()
			s.joins("/", named("1"))
		}, Hold, Fault},
		{"it had failed before, and its client has something else than was known", nil, func(s *scene) {
			s.says(200, `"1"`, "")
			s.fails()
			s.joins("/", named("2"))
		}, Fault, Fault},
		{"it had failed before, and its client has what was known, but does not wait", nil, func(s *scene) {
			s.says(200, `"1"`, "")
			s.fails()
			s.joins("/", named("1"), "Wait: 0")
		}, Fault, Fault},
		{"it had failed before, and its client has what was known, but errors release", func(ru *Rules) { ru.Release = true }, func(s *scene) {
			s.says(200, `"1"`, "")
			s.fails()
			s.joins("/", named("1"))
		}, Fault, Fault},
		{"it had failed before, and a wake-up came", nil, func(s *scene) {
			s.fails()
			s.r.Wake()
			s.joins("/", named("1"))
		}, Ask, Fault},
		{"it had failed before, which is fresh", func(ru *Rules) { ru.Freshness = 10 * time.Second }, func(s *scene) {
			s.fails()
			time.Sleep(5 * time.Second)
			s.joins("/", named("1"))
		}, Fault, Fault},
		{"it has tried", nil, func(s *scene) {
			s.joins("/", named("1"))
			s.fails()
		}, Fault, Fault},
		{"it has tried, and its client has what was known", nil, func(s *scene) {
			s.says(200, `"1"`, "")
			s.joins("/", named("1"))
			s.fails()
		}, Fault, Fault},
		{"parked in an outage", nil, func(s *scene) {
			s.says(200, `"1"`, "")
			s.joins("/", named("1"))
			s.parks()
			s.fails()
		}, Hold, Fault},
		{"parked in an outage that began after it had an answer", nil, func(s *scene) {
			s.joins("/", named("1"))
			s.says(200, `"1"`, "")
			s.parks()
			s.fails()
		}, Hold, Expire},
		{"parked in an outage that releases", func(ru *Rules) { ru.Release = true }, func(s *scene) {
			s.says(200, `"1"`, "")
			s.joins("/", named("1"))
			s.parks()
			s.fails()
		}, Fault, Fault},
		{"parked, and the outage is over", nil, func(s *scene) {
			s.says(200, `"1"`, "")
			s.joins("/", named("1"))
			s.parks()
			s.fails()
			s.says(200, `"1"`, "")
		}, Hold, Expire},
		{"drained in an outage", nil, func(s *scene) {
			s.says(200, `"1"`, "")
			s.joins("/", named("1"))
			s.parks()
			s.fails()
			s.p.Draining = true
		}, Hold, Fault},

		// What can not be shared.
		{"it can not be shared", nil, func(s *scene) {
			unshared(s)
			s.joins("/", named("1"))
		}, Pass, Pass},
		{"it could not be shared a while ago", nil, func(s *scene) {
			unshared(s)
			time.Sleep(30 * time.Second)
			s.joins("/", named("1"))
		}, Ask, Patience},
		{"it is another's", nil, func(s *scene) {
			st := reading(s.rules, 200, `"1"`, "")
			st.Variation = s.rules.Share.Variation(http.Header{"Vary": {"Referer"}}, nil)
			st.Varied = st.Variation.Key(lot.Key{}, share.Sharer{Header: http.Header{"Referer": {"a"}}, ID: 0})
			s.check(st, false)
			s.joins("/", named("1"), "Referer: b")
		}, Moved, Moved},
		{"it is its own", nil, func(s *scene) {
			st := reading(s.rules, 200, `"1"`, "")
			st.Variation = s.rules.Share.Variation(http.Header{"Vary": {"Referer"}}, nil)
			st.Varied = st.Variation.Key(lot.Key{}, share.Sharer{Header: http.Header{"Referer": {"a"}}, ID: 0})
			s.check(st, false)
			s.joins("/", named("1"), "Referer: a")
		}, Hold, Patience},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &scene{t: t, rules: newRules()}
				if test.rules != nil {
					test.rules(s.rules)
				}
				l := lot.New[*state.Reading](lot.Limits{})
				other := l.Join(lot.Key{}, lot.Name{})
				other.Watch() // somebody waits for checks
				defer other.Leave()
				s.r, s.join = other.Resource, func() Waiter { return l.Join(lot.Key{}, lot.Name{}) }
				test.does(s)

				snap := s.r.Snapshot()
				now := s.p.Look(&s.m, snap)
				if now.Kind != test.look {
					t.Errorf("at once: got %d; want %d", now.Kind, test.look)
				}
				later := s.p.TimeUp(&s.m, snap)
				if later.Kind != test.timeUp {
					t.Errorf("when its time is up: got %d; want %d", later.Kind, test.timeUp)
				}
				for _, v := range []Verdict{now, later} {
					switch v.Kind {
					case Ready, Same, Expire, Drain, Fault:
						if v.State == nil {
							t.Errorf("verdict %d tells no state", v.Kind)
						}
					}
					if v.Kind == Fault && v.State != snap.Fault && v.State.Code() != overdueStatus {
						t.Errorf("got the fault %v; want that of the last check", v.State.Err)
					}
				}
				// A verdict changes nothing.
				if again := s.p.Look(&s.m, snap); again != now {
					t.Errorf("got %v, then %v", now, again)
				}
			})
		})
	}
}
