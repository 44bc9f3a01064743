package contract_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// apiStatus is the status that the admin endpoint answers an error with.
func apiStatus(err error) int {
	var e caddy.APIError
	if errors.As(err, &e) {
		return e.HTTPStatus
	}
	return http.StatusInternalServerError
}

// adminRoutes are those that the admin endpoint gets from us.
func adminRoutes() []caddy.AdminRoute {
	info, err := caddy.GetModule("admin.api.long_poll")
	if err != nil {
		panic(err)
	}
	return info.New().(caddy.AdminRouter).Routes()
}

// admin sends a request to the route that the admin endpoint would choose.
func admin(t testing.TB, r *http.Request) (*httptest.ResponseRecorder, error) {
	t.Helper()
	mux := http.NewServeMux()
	var err error
	for _, route := range adminRoutes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) { err = route.Handler.ServeHTTP(w, r) })
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w, err
}

// adminGet decodes what a GET answers.
func adminGet(t testing.TB, target string, into any) {
	t.Helper()
	w, err := admin(t, httptest.NewRequest(http.MethodGet, target, nil))
	if err != nil || w.Code != http.StatusOK {
		t.Fatalf("GET %s: %d, %v", target, w.Code, err)
	}
	if kind := w.Header().Get("Content-Type"); kind != "application/json" {
		t.Errorf("GET %s: got type %q", target, kind)
	}
	dec := json.NewDecoder(w.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		t.Fatalf("GET %s: %v", target, err)
	}
}

// resourceStats is what scripts read of one resource.
type resourceStats struct {
	Method     string   `json:"method"`
	Host       string   `json:"host"`
	Path       string   `json:"path"`
	Waiters    int      `json:"waiters"`
	Version    string   `json:"version"`
	Status     int      `json:"status"`
	Age        *float64 `json:"age"`
	LastResult string   `json:"last_result"`
	Reason     string   `json:"reason"`
	NextCheck  *float64 `json:"next_check"`
	Interval   float64  `json:"interval"`
	Differs    []string `json:"differs"`
}

// stats is what scripts read of the sums.
type stats struct {
	Uptime    float64           `json:"uptime"`
	Parked    int               `json:"parked"`
	Streams   int64             `json:"streams"`
	Resources int               `json:"resources"`
	Requests  map[string]uint64 `json:"requests"`
	Checks    map[string]uint64 `json:"checks"`
	Saved     uint64            `json:"checks_saved"`
	CheckTime timeSum           `json:"check_seconds"`
	Release   timeSum           `json:"release_seconds"`
	Wakes     map[string]uint64 `json:"wakes"`
	WakersUp  map[string]bool   `json:"wakers_up"`
	Outages   []outageStats     `json:"outages"`
	Cut       float64           `json:"cut_seconds"`
	Cuts      []cutStats        `json:"cuts"`
	Shadow    shadowStats       `json:"shadow"`
	Asked     uint64            `json:"backend_requests"`
	Bounds    []boundStats      `json:"bounds"`
	Recent    recentStats       `json:"recent"`
	Releases  releasesStats     `json:"releases"`
}

type boundStats struct {
	Bound   string `json:"bound"`
	Used    int64  `json:"used"`
	Limit   int64  `json:"limit"`
	Refused uint64 `json:"refused"`
}

type recentStats struct {
	Seconds  float64 `json:"seconds"`
	Requests uint64  `json:"requests"`
	Asked    uint64  `json:"backend_requests"`
	Refused  uint64  `json:"refused"`
	Failed   uint64  `json:"failed"`
}

type releasesStats struct {
	Seconds float64  `json:"seconds"`
	Count   uint64   `json:"count"`
	Half    *float64 `json:"half"`
	Most    *float64 `json:"most"`
}

type timeSum struct {
	Count uint64  `json:"count"`
	Sum   float64 `json:"sum"`
}

type outageStats struct {
	Since     time.Time `json:"since"`
	Seconds   float64   `json:"seconds"`
	Resources int       `json:"resources"`
	Parked    int       `json:"parked"`
	Method    string    `json:"method"`
	Host      string    `json:"host"`
	Path      string    `json:"path"`
	Status    int       `json:"status"`
	Reason    string    `json:"reason"`
}

type cutStats struct {
	Server string    `json:"server"`
	Age    float64   `json:"age"`
	Share  float64   `json:"share"`
	Since  time.Time `json:"since"`
	Hold   float64   `json:"hold"`
	Auto   bool      `json:"auto"`
}

type shadowStats struct {
	Handlers   int   `json:"handlers"`
	Polls      int64 `json:"polls"`
	WouldPark  int64 `json:"would_park"`
	WouldCheck int64 `json:"would_check"`
	WouldSave  int64 `json:"would_save"`
	Unseen     int64 `json:"unseen"`
}

// readStats asks the admin endpoint for the sums.
func readStats(t testing.TB) (s stats) {
	t.Helper()
	adminGet(t, "/long_poll/stats", &s)
	return s
}

func TestAdminResources(t *testing.T) {
	t.Run("what is shown", virtual(func(t *testing.T) {
		s := newSite(t, steady+"interval 10s")
		s.backend.say(tagged("1"))
		for range 3 {
			defer s.get("http://shop.example/orders/42?token=secret", `If-None-Match: "1"`,
				"Authorization: Bearer secret", "Cookie: secret=1").leave()
		}
		defer s.get("http://shop.example/orders/7?token=secret", `If-None-Match: "1"`).leave()
		settle(2 * time.Second)

		var list []resourceStats
		adminGet(t, "/long_poll/resources", &list)
		if len(list) != 2 {
			t.Fatalf("got %d resources; want 2", len(list))
		}
		got := list[0]
		if got.Age == nil || *got.Age != 2 {
			t.Errorf("got age %v; want 2", got.Age)
		}
		if got.NextCheck == nil || *got.NextCheck < 8 || *got.NextCheck > 9.1 {
			t.Errorf("got next check %v; want 8 to 9", got.NextCheck)
		}
		got.Age, got.NextCheck = nil, nil
		want := resourceStats{Method: "GET", Host: "shop.example", Path: "/orders/42", Waiters: 3,
			Version: "1", Status: 200, LastResult: "changed", Interval: 10}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v; want %+v", got, want)
		}
		w, _ := admin(t, httptest.NewRequest(http.MethodGet, "/long_poll/resources", nil))
		for _, secret := range []string{"secret", "token", "Bearer"} {
			if strings.Contains(w.Body.String(), secret) {
				t.Errorf("%q is shown: %s", secret, w.Body)
			}
		}
	}))
	t.Run("before, during and after an outage", virtual(func(t *testing.T) {
		s := newSite(t, steady+"interval 1s\nlinger 1h")
		stuck := make(chan struct{})
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			<-stuck
			return tagged("1")(w, r)
		})
		c := s.get("/x", `If-None-Match: "1"`)
		settle(0)
		one := func() resourceStats {
			t.Helper()
			var list []resourceStats
			adminGet(t, "/long_poll/resources", &list)
			if len(list) != 1 {
				t.Fatalf("got %d resources; want 1", len(list))
			}
			return list[0]
		}
		if r := one(); r.LastResult != "none" || r.Age != nil || r.Version != "" || r.Waiters != 1 {
			t.Errorf("before the first check has ended: got %+v", r)
		}
		close(stuck)
		settle(0)
		s.backend.say(reply(http.StatusServiceUnavailable, "secret"))
		settle(2 * time.Second)
		if r := one(); r.LastResult != "failed" || r.Status != 503 || r.Reason != "Service Unavailable" || r.Version != "1" || *r.Age != 2 {
			t.Errorf("in an outage: got %+v", r)
		}
		c.leave()
		settle(0)
		if r := one(); r.Waiters != 0 || r.NextCheck != nil {
			t.Errorf("when nobody waits: got %+v", r)
		}
	}))
	t.Run("limit, offset and order", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		for i := range 7 {
			for range i % 3 {
				defer s.get(fmt.Sprintf("/r%d", i), `If-None-Match: "1"`).leave()
			}
		}
		settle(0)
		paths := func(query string) (paths []string) {
			var list []resourceStats
			adminGet(t, "/long_poll/resources"+query, &list)
			for _, r := range list {
				paths = append(paths, r.Path)
			}
			return paths
		}
		all := []string{"/r2", "/r5", "/r1", "/r4"}
		for query, want := range map[string][]string{
			"": all, "?limit=2": all[:2], "?limit=2&offset=1": all[1:3], "?limit=100": all, "?limit=0": nil, "?offset=4": nil, "?offset=99": nil,
		} {
			if got := paths(query); !slices.Equal(got, want) {
				t.Errorf("%s: got %v; want %v", query, got, want)
			}
		}
	}))
	t.Run("100 by default", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		for i := range 120 {
			defer s.get(fmt.Sprintf("/r%d", i), `If-None-Match: "1"`).leave()
		}
		settle(0)
		var list []resourceStats
		adminGet(t, "/long_poll/resources", &list)
		if len(list) != 100 {
			t.Errorf("got %d resources; want 100", len(list))
		}
	}))
	t.Run("odd names", virtual(func(t *testing.T) {
		s := newSite(t, steady+"version {lp.json.v}")
		s.backend.say(reply(200, `{"v": "`+strings.Repeat("body ", 1000)+`"}`))
		r := newRequest(http.MethodGet, "http://shop.example/", "", "Prefer: wait=20")
		r.URL.Path = "/" + strings.Repeat("\u202e<b>", 1000)
		r.Host = "a\x00b"
		defer s.send(r).leave()
		settle(0)
		var list []resourceStats
		adminGet(t, "/long_poll/resources", &list)
		got := list[0]
		if len(got.Path) > 1024+3 || !strings.HasPrefix(got.Path, "/\u202e<b>") || got.Host != "a\ufffdb" {
			t.Errorf("got host %q and path %.20q of %d bytes", got.Host, got.Path, len(got.Path))
		}
		if len(got.Version) != 32 || strings.Contains(got.Version, "body") {
			t.Errorf("got version %q; want a digest", got.Version)
		}
	}))
}

func TestAdminStats(t *testing.T) {
	t.Run("numbers", virtual(func(t *testing.T) {
		var before, now, after stats
		adminGet(t, "/long_poll/stats", &before)
		s := newSite(t, steady)
		s.backend.say(tagged("1"))
		s.get("/x").wants("200 answered")
		cs := []*client{s.get("/x", `If-None-Match: "1"`), s.get("/x", `If-None-Match: "1"`), s.get("/x", `If-None-Match: "1"`)}
		settle(0)
		adminGet(t, "/long_poll/stats", &now)
		if got := now.Parked - before.Parked; got != 3 {
			t.Errorf("got %d parked; want 3", got)
		}
		if got := now.Resources - before.Resources; got != 1 {
			t.Errorf("got %d resources; want 1", got)
		}
		s.backend.say(tagged("2"))
		for _, c := range cs {
			c.wants("200 changed")
		}
		adminGet(t, "/long_poll/stats", &after)
		for outcome, want := range map[string]uint64{"answered": 1, "changed": 3, "expired": 0, "drained": 0, "failed": 0, "refused": 0, "left": 0, "bypassed": 0} {
			if got := after.Requests[outcome] - before.Requests[outcome]; got != want {
				t.Errorf("got %d %s; want %d", got, outcome, want)
			}
		}
		if got := after.Saved - before.Saved; got != 2 {
			t.Errorf("got %d saved; want 2: one of the three had the checks made", got)
		}
		if got := after.Checks["changed"] - before.Checks["changed"]; got != 2 {
			t.Errorf("got %d changes; want 2", got)
		}
		if after.Parked != before.Parked {
			t.Errorf("got %d parked; want %d", after.Parked, before.Parked)
		}
		if len(after.Requests) != len(poll.Outcomes) || len(after.Checks) != len(state.Results) {
			t.Errorf("not all outcomes and results are there: %+v", after)
		}
	}))
	t.Run("an outage", virtual(func(t *testing.T) {
		s := newSite(t, steady)
		s.backend.say(tagged("1"))
		for range 9 {
			defer s.get("http://shop.example/orders/42?q=secret", `If-None-Match: "1"`).leave()
		}
		settle(0)
		s.backend.say(func(http.ResponseWriter, *http.Request) error {
			return caddyhttp.Error(http.StatusBadGateway, errors.New("secret"))
		})
		settle(5 * time.Second)
		var now stats
		adminGet(t, "/long_poll/stats", &now)
		if len(now.Outages) != 1 {
			t.Fatalf("got outages %+v; want one", now.Outages)
		}
		o := now.Outages[0]
		if o.Seconds < 3 || o.Seconds > 5 || o.Parked != 9 || o.Resources != 1 || o.Path != "/orders/42" || o.Status != 502 || o.Reason != "Bad Gateway" {
			t.Errorf("got outage %+v", o)
		}
		if took := time.Since(o.Since).Seconds(); math.Abs(took-o.Seconds) > 0.001 {
			t.Errorf("got %v since then and %v seconds", took, o.Seconds)
		}
		s.backend.say(tagged("1"))
		settle(15 * time.Second)
		adminGet(t, "/long_poll/stats", &now)
		if len(now.Outages) != 0 {
			t.Errorf("got outages %+v after it; want none", now.Outages)
		}
	}))
}

func TestAdminWake(t *testing.T) {
	const maxWakeBody = 64 << 10
	post := func(body string, fields ...string) (*httptest.ResponseRecorder, error) {
		r := httptest.NewRequest(http.MethodPost, "/long_poll/wake", strings.NewReader(body))
		for _, field := range fields {
			name, value, _ := strings.Cut(field, ": ")
			r.Header.Set(name, value)
		}
		return admin(t, r)
	}
	t.Run("path and prefix", virtual(func(t *testing.T) {
		s := newSite(t, "hold 2h 0%\ninterval 1h")
		s.backend.say(tagged("1"))
		a, b, c := s.get("/orders/42?x=1", `If-None-Match: "1"`), s.get("/orders/7", `If-None-Match: "1"`), s.get("/other", `If-None-Match: "1"`)
		settle(0)
		counted := counter(t, "wakes_total", "admin")
		wake := func(body string, want int) {
			t.Helper()
			w, err := post(body, "Content-Type: application/json; charset=utf-8")
			if err != nil || w.Code != 200 || strings.TrimSpace(w.Body.String()) != fmt.Sprintf(`{"woken":%d}`, want) {
				t.Errorf("%s: got %d %s, %v; want %d woken", body, w.Code, w.Body, err, want)
			}
		}
		s.backend.say(tagged("2"))
		wake(`{"path": "/nobody"}`, 0)
		wake(`{"path": "/orders/42/"}`, 1)
		a.wants("200 changed")
		b.mustWait()
		wake(`{"prefix": "/orders/"}`, 2)
		b.wants("200 changed")
		c.mustWait()
		wake(`{"prefix": "/"}`, 3)
		c.wants("200 changed")
		if got := counter(t, "wakes_total", "admin") - counted; got != 4 {
			t.Errorf("got %d wake-ups counted; want 4", got)
		}
	}))
	t.Run("what is no wake-up", func(t *testing.T) {
		counted := counter(t, "wakes_total", "admin")
		for _, c := range []struct {
			body, field string
			status      int
			says        string
		}{
			{``, "", 400, "EOF"},
			{`{}`, "", 400, "expected"},
			{`null`, "", 400, "expected"},
			{`[]`, "", 400, "cannot unmarshal"},
			{`"/orders"`, "", 400, "cannot unmarshal"},
			{`{"path": "/a"`, "", 400, "unexpected EOF"},
			{`{"path": "/a"} {"path": "/b"}`, "", 400, "more than one"},
			{`{"path": "/a"} x`, "", 400, "invalid character"},
			{`{"path": "/a", "prefix": "/b"}`, "", 400, "not both"},
			{`{"path": "a"}`, "", 400, `"a" does not begin with a slash`},
			{`{"path": ""}`, "", 400, `"" does not begin with a slash`},
			{`{"prefix": ""}`, "", 400, `"" does not begin with a slash`},
			{`{"path": 7}`, "", 400, "cannot unmarshal"},
			{`{"paths": ["/a"]}`, "", 400, `unknown field "paths"`},
			{`{"path": "/a", "host": "b"}`, "", 400, `unknown field "host"`},
			{`{"path": "/` + strings.Repeat("a", maxWakeBody) + `"}`, "", 413, "larger than"},
			{`{"path": "/a"}` + strings.Repeat(" ", maxWakeBody), "", 413, "larger than"},
			{`path=/a`, "Content-Type: application/x-www-form-urlencoded", 415, "expected application/json"},
			{`{"path": "/a"}`, "Content-Type: text/plain", 415, `"text/plain"`},
			{`{"path": "/a"}`, "Content-Type: ;", 415, "expected application/json"},
		} {
			_, err := post(c.body, c.field)
			if err == nil || apiStatus(err) != c.status || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%.60s: got %d %v; want %d %s", c.body, apiStatus(err), err, c.status, c.says)
			}
			if err != nil && len(err.Error()) > 2000 {
				t.Errorf("%.60s: the error has %d bytes", c.body, len(err.Error()))
			}
		}
		if got := counter(t, "wakes_total", "admin"); got != counted {
			t.Errorf("%d of them were counted", got-counted)
		}
	})
	t.Run("no type is fine", func(t *testing.T) {
		if _, err := post(`{"path": "/a"}`); err != nil {
			t.Error(err)
		}
	})
}

func TestAdminUnknown(t *testing.T) {
	for _, c := range []struct {
		method, target string
		status         int
	}{
		{"GET", "/long_poll/nothing", 404},
		{"GET", "/long_poll/resources/", 404},
		{"GET", "/long_poll/resources/42", 404},
		{"POST", "/long_poll/stats/x", 404},
		{"POST", "/long_poll/", 405},
		{"POST", "/long_poll/stats", 405},
		{"DELETE", "/long_poll/resources", 405},
		{"GET", "/long_poll/wake", 405},
		{"PUT", "/long_poll/wake", 405},
		{"GET", "/long_poll/resources?limit=", 400},
		{"GET", "/long_poll/resources?limit=x", 400},
		{"GET", "/long_poll/resources?limit=-1", 400},
		{"GET", "/long_poll/resources?limit=1.5", 400},
		{"GET", "/long_poll/resources?limit=1&limit=2", 400},
		{"GET", "/long_poll/resources?offset=-1", 400},
		{"GET", "/long_poll/resources?limit=99999999999999999999", 400},
	} {
		w, err := admin(t, httptest.NewRequest(c.method, c.target, nil))
		var e caddy.APIError
		if !errors.As(err, &e) || e.HTTPStatus != c.status {
			t.Errorf("%s %s: got %v; want %d", c.method, c.target, err, c.status)
		}
		if c.status == 405 && w.Header().Get("Allow") == "" {
			t.Errorf("%s %s: Allow is missing", c.method, c.target)
		}
	}
	for _, target := range []string{"/long_poll/", "/long_poll/stats", "/long_poll/resources"} {
		if w, err := admin(t, httptest.NewRequest(http.MethodHead, target, nil)); err != nil || w.Code != 200 {
			t.Errorf("HEAD %s: got %d, %v", target, w.Code, err)
		}
	}
	if w, _ := admin(t, httptest.NewRequest(http.MethodGet, "/long_poll", nil)); w.Code/100 != 3 || w.Header().Get("Location") != "/long_poll/" {
		t.Errorf("GET /long_poll: got %d to %q", w.Code, w.Header().Get("Location"))
	}
}

// Ten thousand resources cost a list of those that are shown, and little else.
func BenchmarkAdminResources(b *testing.B) {
	s := realSite(b, "max_resources 20000")
	for i := range 10000 {
		m := s.lot.Join([32]byte{byte(i), byte(i >> 8)}, lot.Name{Method: "GET", Host: "shop.example", Path: fmt.Sprintf("/orders/%d", i)})
		m.Watch()
		defer m.Leave()
	}
	var size int
	for b.Loop() {
		w, err := admin(b, httptest.NewRequest(http.MethodGet, "/long_poll/resources", nil))
		if err != nil {
			b.Fatal(err)
		}
		size = w.Body.Len()
	}
	b.ReportMetric(float64(size), "B/answer")
}

func TestAdminErrorForm(t *testing.T) {
	_, err := admin(t, httptest.NewRequest(http.MethodGet, "/long_poll/x", nil))
	var e caddy.APIError
	if !errors.As(err, &e) {
		t.Fatalf("got %T", err)
	}
	// What Caddy makes of it.
	e.Message = e.Err.Error()
	text, _ := json.Marshal(e)
	if !bytes.HasPrefix(text, []byte(`{"error":"unknown path`)) {
		t.Errorf("got %s", text)
	}
}
