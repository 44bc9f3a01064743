package contract_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	longpoll "github.com/caddy-longpoll/caddy-longpoll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/ops"
)

// gathered is what a configuration's registry says.
func gathered(t testing.TB, registry *prometheus.Registry) map[string]*dto.MetricFamily {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	byName := make(map[string]*dto.MetricFamily)
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "caddy_long_poll_") {
			byName[f.GetName()] = f
		}
	}
	return byName
}

// ourRegistry has all our collectors, as each configuration's registry has.
func ourRegistry(t testing.TB) *prometheus.Registry {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := ops.Register(registry); err != nil {
		t.Fatal(err)
	}
	return registry
}

// series is the one of a metric that has the value as its label, or no label.
func series(t testing.TB, name, label string) *dto.Metric {
	t.Helper()
	for _, m := range gathered(t, ourRegistry(t))["caddy_long_poll_"+name].GetMetric() {
		if labels := m.GetLabel(); len(labels) == 0 && label == "" || len(labels) == 1 && labels[0].GetValue() == label {
			return m
		}
	}
	return nil // of which everything is zero
}

// counter is the value of a counter.
func counter(t testing.TB, name, label string) uint64 {
	t.Helper()
	return uint64(series(t, name, label).GetCounter().GetValue())
}

// histogram is how many times a histogram has, and what they come to.
func histogram(t testing.TB, name, label string) (count uint64, sum float64) {
	t.Helper()
	h := series(t, name, label).GetHistogram()
	return h.GetSampleCount(), h.GetSampleSum()
}

// parkedNow is how many requests are parked in all handlers.
func parkedNow() (n int) {
	for _, s := range ops.Live.Sites() {
		n += s.Lot.Parked()
	}
	return n
}

// gauge is the value of a gauge without labels.
func gauge(t testing.TB, name string) float64 {
	t.Helper()
	return gathered(t, ourRegistry(t))[name].GetMetric()[0].GetGauge().GetValue()
}

// source is a source of wake-ups that can be heard, or not.
type source struct{ down atomic.Bool }

func (w *source) as(name string) ops.Source {
	return ops.Source{Name: name, Up: func() bool { return !w.down.Load() }}
}

// The names, the types and the labels are a contract (contract 10).
func TestMetricsNames(t *testing.T) {
	s := realSite(t, "")
	s.seen.Wakers = []ops.Source{new(source).as("redis")}
	families := gathered(t, ourRegistry(t))
	want := map[string]string{
		"caddy_long_poll_detached_requests":      "GAUGE",
		"caddy_long_poll_streams":                "GAUGE",
		"caddy_long_poll_events_total":           "COUNTER format",
		"caddy_long_poll_parked_requests":        "GAUGE",
		"caddy_long_poll_resources":              "GAUGE",
		"caddy_long_poll_requests_total":         "COUNTER outcome",
		"caddy_long_poll_hold_seconds":           "HISTOGRAM outcome",
		"caddy_long_poll_checks_total":           "COUNTER result",
		"caddy_long_poll_check_seconds":          "HISTOGRAM",
		"caddy_long_poll_release_seconds":        "HISTOGRAM",
		"caddy_long_poll_wakes_total":            "COUNTER source",
		"caddy_long_poll_waker_up":               "GAUGE source",
		"caddy_long_poll_checks_saved_total":     "COUNTER",
		"caddy_long_poll_backend_requests_total": "COUNTER",
		"caddy_long_poll_bound_used_ratio":       "GAUGE bound",
		"caddy_long_poll_cut_seconds":            "GAUGE",
		"caddy_long_poll_build_info":             "GAUGE version",
		"caddy_long_poll_leases":                 "GAUGE",
		"caddy_long_poll_states_total":           "COUNTER from",
	}
	got := make(map[string]string)
	for name, f := range families {
		text := f.GetType().String()
		for _, l := range f.GetMetric()[0].GetLabel() {
			text += " " + l.GetName()
		}
		got[name] = text
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v; want %v", got, want)
	}
	problems, err := promlint.NewWithMetricFamilies(slices.Collect(maps.Values(families))).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
}

// What has not happened yet is 0, and not missing.
func TestMetricsFromTheStart(t *testing.T) {
	families := gathered(t, ourRegistry(t))
	labels := func(name string) (values []string) {
		for _, m := range families[name].GetMetric() {
			values = append(values, m.GetLabel()[0].GetValue())
		}
		slices.Sort(values)
		return values
	}
	all := []string{"answered", "bypassed", "changed", "drained", "expired", "failed", "left", "refused", "streamed"}
	for name, want := range map[string][]string{
		"caddy_long_poll_requests_total": all,
		"caddy_long_poll_hold_seconds":   all,
		"caddy_long_poll_checks_total":   {"changed", "failed", "unchanged"},
		"caddy_long_poll_events_total":   {"ndjson", "sse"},
	} {
		if got := labels(name); !slices.Equal(got, want) {
			t.Errorf("%s: got %v; want %v", name, got, want)
		}
	}
	if got := labels("caddy_long_poll_wakes_total"); !slices.Contains(got, "admin") {
		t.Errorf("wakes_total: got %v; want admin among them", got)
	}
}

// Each configuration has a registry of its own, and several handlers.
func TestMetricsOfSeveralConfigurations(t *testing.T) {
	before := counter(t, "requests_total", "answered")
	for range 3 {
		ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
		defer cancel()
		for range 2 {
			h := new(longpoll.Handler)
			if err := h.Provision(ctx); err != nil {
				t.Fatal(err)
			}
			defer h.Cleanup()
			w := newResponse()
			r := caddyhttp.PrepareRequest(newRequest(http.MethodGet, "/", ""), caddy.NewReplacer(), w, new(caddyhttp.Server))
			if err := h.ServeHTTP(w, r, tagged("1")); err != nil {
				t.Fatal(err)
			}
		}
		families := gathered(t, ctx.GetMetricsRegistry())
		if len(families) < 9 { // waker_up has no series without wakers
			t.Errorf("got %d metrics: %v", len(families), slices.Sorted(maps.Keys(families)))
		}
	}
	if got := counter(t, "requests_total", "answered") - before; got != 6 {
		t.Errorf("got %d requests counted over all of them; want 6", got)
	}
}

// The gauge of the parked is right at every moment, through a reload too.
func TestMetricsParked(t *testing.T) {
	t.Run("parked and left", virtual(func(t *testing.T) {
		const name = "caddy_long_poll_parked_requests"
		s, other := newSite(t, steady), newSite(t, steady)
		s.backend.say(tagged("1"))
		parked := func(want float64) {
			t.Helper()
			if got := gauge(t, name); got != want {
				t.Errorf("got %v parked; want %v", got, want)
			}
		}
		parked(0)
		a := s.get("/a", has("1"))
		a.mustWait()
		parked(1)
		b := other.get("/a", has("1"))
		b.mustWait()
		parked(2)
		a.leave()
		settle(0)
		parked(1)
		b.wants("304 expired")
		parked(0)
		if got := gauge(t, "caddy_long_poll_resources"); got != 2 {
			t.Errorf("got %v resources; want 2 that linger", got)
		}
		settle(time.Minute)
		if got := gauge(t, "caddy_long_poll_resources"); got != 0 {
			t.Errorf("got %v resources; want 0", got)
		}
	}))
	t.Run("a reload", virtual(func(t *testing.T) {
		old := newSite(t, steady)
		for range 5000 {
			old.get("/a", has("1"))
		}
		settle(0)
		new := newSite(t, steady)
		new.get("/a", has("1")).mustWait()
		if got := parkedNow(); got != 5001 {
			t.Errorf("before: got %d parked; want 5001", got)
		}
		old.Cleanup()
		settle(100 * time.Millisecond)
		if got, of := parkedNow(), old.lot.Parked(); got != of+1 || of == 0 || of == 5000 {
			t.Errorf("while it drains: got %d parked; want 1 and the %d of the old configuration", got, of)
		}
		settle(2 * time.Second)
		if got := parkedNow(); got != 1 {
			t.Errorf("afterwards: got %d parked; want 1", got)
		}
		if slices.Contains(ops.Live.Sites(), old.seen) {
			t.Error("the old handler is still known")
		}
		if !slices.Contains(ops.Live.Sites(), new.seen) {
			t.Error("the new handler is not known any more")
		}
	}))
	t.Run("a configuration that fails", func(t *testing.T) {
		before := len(ops.Live.Sites())
		for _, h := range []*longpoll.Handler{{Ignore: []string{"a..b"}}, {}} {
			ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
			h.Provision(ctx)
			if err := h.Cleanup(); err != nil { // as Caddy does after an error too
				t.Error(err)
			}
			cancel()
		}
		if got := len(ops.Live.Sites()); got != before {
			t.Errorf("got %d handlers; want %d as before", got, before)
		}
	})
}

func TestMetricsWakerUp(t *testing.T) {
	one, two := realSite(t, "wake spy"), realSite(t, "")
	up := func() map[string]float64 {
		values := make(map[string]float64)
		for _, m := range gathered(t, ourRegistry(t))["caddy_long_poll_waker_up"].GetMetric() {
			values[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
		}
		return values
	}
	if got := up(); len(got) > 0 {
		t.Errorf("without wakers that know: got %v", got)
	}
	a, b, c := new(source), new(source), new(source)
	one.seen.Wakers = []ops.Source{a.as("redis")}
	two.seen.Wakers = []ops.Source{b.as("redis"), c.as("other")}
	for _, step := range []struct {
		a, b, c bool
		want    map[string]float64
	}{
		{true, true, false, map[string]float64{"redis": 1, "other": 0}},
		{false, true, true, map[string]float64{"redis": 0, "other": 1}},
		{true, false, true, map[string]float64{"redis": 0, "other": 1}},
	} {
		a.down.Store(!step.a)
		b.down.Store(!step.b)
		c.down.Store(!step.c)
		if got := up(); !maps.Equal(got, step.want) {
			t.Errorf("%+v: got %v", step, got)
		}
	}
	two.Cleanup()
	if got, want := up(), map[string]float64{"redis": 1}; !maps.Equal(got, want) {
		t.Errorf("after a reload without it: got %v; want %v", got, want)
	}
}

// Which requests count as saved: those that were answered without a request of
// their own to the backend.
func TestMetricsSaved(t *testing.T) {
	// Those who come during a check need one more, since it may have read before
	// they asked: of ten at once, one or two have the backend asked.
	const allButChecks = 0xffff
	for name, test := range map[string]struct {
		block string
		do    func(s *site)
		want  uint64
	}{
		"one that is no poll":   {"", func(s *site) { s.get("/").wants("200 answered") }, 0},
		"one that asks at once": {"", func(s *site) { s.get("/", waits(5)).wants("200 answered") }, 0},
		"one that waits":        {"", func(s *site) { s.get("/", has("1")).wants("304 expired") }, 0},
		"one that comes back again and again": {"", func(s *site) {
			for range 5 {
				s.get("/", has("1")).wants("304 expired")
			}
		}, 0},
		"ten that ask at once": {"", func(s *site) {
			s.backend.say(slowly(time.Second, tagged("1")))
			var cs []*client
			for range 10 {
				cs = append(cs, s.get("/", waits(5)))
			}
			for _, c := range cs {
				c.wants("200 answered")
			}
		}, allButChecks},
		"ten that wait, until their time is up": {"", func(s *site) {
			var cs []*client
			for range 10 {
				cs = append(cs, s.get("/", has("1")))
			}
			for _, c := range cs {
				c.wants("304 expired")
			}
		}, 9},
		"one that asks at once where another one waits": {"", func(s *site) {
			s.get("/", has("1")).mustWait()
			settle(100 * time.Millisecond)
			s.get("/", waits(5)).wants("200 answered") // it has the backend checked
		}, 0},
		"ten that need no check, by freshness": {"freshness 10s", func(s *site) {
			for range 10 {
				s.get("/").wants("200 answered")
			}
		}, 9},
		"ten that get an error": {"", func(s *site) {
			s.backend.say(slowly(time.Second, unreachable))
			var cs []*client
			for range 10 {
				cs = append(cs, s.get("/", waits(5)))
			}
			for _, c := range cs {
				c.wants("502 failed")
			}
		}, allButChecks},
		"ten that a drain releases": {"", func(s *site) {
			var cs []*client
			for range 10 {
				cs = append(cs, s.get("/", has("1")))
			}
			settle(0)
			s.drain()
			for _, c := range cs {
				c.wants("304 drained")
			}
		}, 9},
		"those that leave": {"", func(s *site) {
			for range 10 {
				c := s.get("/", has("1"))
				c.mustWait()
				defer c.leave()
			}
		}, 0},
		"those that are refused": {"max_parked 1", func(s *site) {
			s.get("/", has("1")).mustWait()
			s.get("/", has("1")).wants("503 refused")
		}, 0},
		"those that are passed through": {"", func(s *site) { s.post("/", "x").answer() }, 0},
		"those that are no question":    {"wait {query.wait}", func(s *site) { s.get("/?wait=x").wants("400 answered") }, 0},
	} {
		t.Run(name, virtual(func(t *testing.T) {
			s := newSite(t, steady+test.block)
			s.backend.say(tagged("1"))
			before := counter(t, "checks_saved_total", "")
			test.do(s)
			settle(0)
			want := test.want
			if want == allButChecks {
				want = uint64(10 - s.backend.checks())
			}
			if got := counter(t, "checks_saved_total", "") - before; got != want {
				t.Errorf("got %d saved; want %d", got, want)
			}
		}))
	}
}

// Times tell a slow backend from a slow client.
func TestMetricsTimes(t *testing.T) {
	t.Run("a slow backend", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		n, took := histogram(t, "check_seconds", "")
		s.backend.say(slowly(3*time.Second, tagged("1")))
		s.get("/", waits(5)).wants("200 answered")
		after, all := histogram(t, "check_seconds", "")
		if n, took := after-n, all-took; n != 1 || took < 2.999 || took > 3.001 {
			t.Errorf("got %d checks that took %vs; want 1 that took 3s", n, took)
		}
	}))
	t.Run("a slow client", virtual(func(t *testing.T) {
		s := newSite(t, steady+"interval 1s")
		s.backend.say(tagged("1"))
		n, took := histogram(t, "release_seconds", "")
		fast, slow := s.get("/", has("1")), s.sendTo(&slowResponse{newResponse(), 2 * time.Second}, newRequest(http.MethodGet, "/", "", has("1")))
		settle(100 * time.Millisecond)
		s.backend.say(tagged("2"))
		fast.wants("200 changed")
		<-slow
		after, all := histogram(t, "release_seconds", "")
		if n, took := after-n, all-took; n != 2 || took < 1.999 || took > 2.001 {
			t.Errorf("got %d releases that took %vs; want 2 that took 2s together", n, took)
		}
	}))
	t.Run("how long they were held", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(tagged("1"))
		n, took := histogram(t, "hold_seconds", "expired")
		atOnce, _ := histogram(t, "hold_seconds", "answered")
		s.get("/", has("1")).wants("304 expired")
		s.get("/").wants("200 answered")
		s.get("/", waits(5)).wants("200 answered")
		after, all := histogram(t, "hold_seconds", "expired")
		if n, took := after-n, all-took; n != 1 || took < 24.999 || took > 25.001 {
			t.Errorf("got %d that were held %vs; want 1 that was held 25s", n, took)
		}
		if now, _ := histogram(t, "hold_seconds", "answered"); now != atOnce {
			t.Error("what was not parked was counted as held")
		}
	}))
	// A release is late since the change was seen, whatever was checked since.
	t.Run("since the change", virtual(func(t *testing.T) {
		s := newSite(t, steady+"interval 1s")
		s.backend.say(tagged("1"))
		s.get("/", has("1")).mustWait()
		seen := time.Now()
		settle(10 * time.Second)
		for _, r := range s.lot.Resources() {
			if st := r.Snapshot().State; !st.Since.Equal(seen) || !st.Ended.After(seen.Add(8*time.Second)) {
				t.Errorf("seen since %v, read at %v; want since %v", st.Since, st.Ended, seen)
			}
		}
	}))
}

// slowResponse is a client that is slow in reading.
type slowResponse struct {
	*response
	delay time.Duration
}

func (w *slowResponse) Write(p []byte) (int, error) {
	time.Sleep(w.delay)
	return w.response.Write(p)
}

// sendTo has the handler answer r to w, and closes what it returns when it has.
func (s *site) sendTo(w http.ResponseWriter, r *http.Request) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ServeHTTP(w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, s.server), s.backend)
	}()
	return done
}
