package ops

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/share"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// seen is a resource that a test puts in sight.
type seen struct {
	path    string
	waiters int
	fails   bool
	pause   time.Duration
	asked   *http.Request
}

// show has the resources in sight for as long as the test lasts.
func show(t *testing.T, of ...seen) *Site {
	t.Helper()
	s, _ := newSite(zapcore.InfoLevel, time.Hour)
	for i, r := range of {
		members := make([]poll.Waiter, 0, r.waiters+1)
		for range r.waiters {
			m := s.Lot.Join(lot.Key{1, byte(i)}, lot.Name{Method: "GET", Host: "shop.example", Path: r.path})
			m.Watch()
			members = append(members, m)
		}
		at := members[0].Resource
		if !at.Begin() {
			t.Fatal("nobody waits")
		}
		reading := &state.Reading{State: state.Failure(nil, 200), Pause: r.pause, Result: state.Changed}
		if r.asked != nil {
			reading.Traits = share.Traits(r.asked)
		}
		if r.fails {
			reading.State, reading.Fails, reading.Result = state.Failure(nil, 502), 1, state.Failed
			at.Fail(reading, false, time.Now().Add(time.Hour))
		} else {
			at.Publish(reading, true, time.Now().Add(time.Hour))
		}
		t.Cleanup(func() {
			for i := range members {
				members[i].Leave()
			}
		})
	}
	s.Begin()
	t.Cleanup(func() { Live.remove(s) })
	return s
}

func TestListing(t *testing.T) {
	show(t,
		seen{path: "/orders/1", waiters: 9, pause: time.Second},
		seen{path: "/Orders/2", waiters: 3, pause: 3 * time.Second, fails: true},
		seen{path: "/jobs", waiters: 5, pause: 5 * time.Second},
	)
	for query, want := range map[string]string{
		"":                              "/orders/1 /jobs /Orders/2 of 3",
		"sort=waiters":                  "/orders/1 /jobs /Orders/2 of 3",
		"sort=path":                     "/Orders/2 /jobs /orders/1 of 3",
		"sort=failing":                  "/Orders/2 /jobs /orders/1 of 3",
		"sort=interval":                 "/jobs /Orders/2 /orders/1 of 3",
		"sort=age":                      "/Orders/2 /orders/1 /jobs of 3", // nothing is known of the first
		"path=orders":                   "/orders/1 /Orders/2 of 2",
		"path=ORDERS%2F1":               "/orders/1 of 1",
		"failing":                       "/Orders/2 of 1",
		"failing&path=jobs":             "of 0",
		"limit=1&offset=1":              "/jobs of 3",
		"limit=0":                       "of 3",
		"offset=9":                      "of 3",
		"path=orders&limit=1&sort=path": "/Orders/2 of 2",
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		q, err := readListing(values)
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		list, of := q.list()
		var got []string
		for _, r := range list {
			got = append(got, r.Path)
		}
		if text := strings.Join(append(got, fmt.Sprintf("of %d", of)), " "); text != want {
			t.Errorf("%s: got %s; want %s", query, text, want)
		}
	}
	for _, query := range []string{"sort=x", "limit=-1", "offset=x"} {
		values, _ := url.ParseQuery(query)
		if _, err := readListing(values); err == nil || !strings.Contains(err.Error(), "expected") {
			t.Errorf("%s: got %v", query, err)
		}
	}
}

// Rows of one name are told apart by the names of what their checks carry, and by
// nothing that a client has put there.
func TestDiffers(t *testing.T) {
	request := func(target string, fields ...string) *http.Request {
		r := httptest.NewRequest(http.MethodGet, target, nil)
		r.Header.Set("Accept", "*/*")
		for _, field := range fields {
			name, value, _ := strings.Cut(field, ": ")
			r.Header.Set(name, value)
		}
		return r
	}
	from := func(address string) *http.Request {
		r := request("/")
		r.RemoteAddr = address
		return r
	}
	secure := func(certificate string) *http.Request {
		r := request("/")
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Raw: []byte(certificate)}}}
		return r
	}
	for name, c := range map[string]struct {
		of   []*http.Request
		want []string
	}{
		"one":              {[]*http.Request{request("/")}, nil},
		"not checked yet":  {[]*http.Request{request("/"), nil}, nil},
		"a field":          {[]*http.Request{request("/", "Cookie: secret1"), request("/", "Cookie: secret2")}, []string{"Cookie"}},
		"a field or none":  {[]*http.Request{request("/"), request("/", "Authorization: secret1")}, []string{"Authorization"}},
		"of three":         {[]*http.Request{request("/"), request("/"), request("/", "X-A: secret1")}, []string{"X-A"}},
		"a parameter":      {[]*http.Request{request("/?a=1&since=secret1"), request("/?a=1&since=secret2")}, []string{"?since"}},
		"a token as query": {[]*http.Request{request("/?secret1"), request("/?secret2")}, []string{"query"}},
		"an odd parameter": {[]*http.Request{request("/?sec%20ret1=1"), request("/")}, []string{"query"}},
		"a long parameter": {[]*http.Request{request("/?secret1" + strings.Repeat("a", 30) + "=1"), request("/")}, []string{"query"}},
		"the order":        {[]*http.Request{request("/?a=1&b=2"), request("/?b=2&a=1")}, []string{otherwise}},
		"the address":      {[]*http.Request{from("192.0.2.7:0"), from("192.0.2.8:0")}, []string{"client address"}},
		"the scheme":       {[]*http.Request{request("/"), secure("secret1")}, []string{"client certificate", "scheme"}},
		"the certificate":  {[]*http.Request{secure("secret1"), secure("secret2")}, []string{"client certificate"}},
		"something else":   {[]*http.Request{request("/"), request("/")}, []string{otherwise}},
		"field, parameter": {[]*http.Request{request("/?a=1", "X-A: 1"), request("/?a=2", "X-A: 2")}, []string{"?a", "X-A"}},
	} {
		t.Run(name, func(t *testing.T) {
			var of []seen
			for _, r := range c.of {
				of = append(of, seen{path: "/a", waiters: 1, asked: r})
			}
			show(t, append(of, seen{path: "/b", waiters: 1, asked: request("/?a=other")})...)
			q, err := readListing(nil)
			if err != nil {
				t.Fatal(err)
			}
			list, _ := q.list()
			for _, r := range list {
				want := c.want
				if r.Path == "/b" {
					want = nil
				}
				if !slices.Equal(r.Differs, want) {
					t.Errorf("%s: got %q; want %q", r.Path, r.Differs, want)
				}
				if strings.Contains(fmt.Sprint(r), "secret") {
					t.Errorf("a value is shown: %+v", r)
				}
			}
		})
	}
	var many []string
	for i := range maxDiffers + 3 {
		many = append(many, fmt.Sprintf("X-%02d: 1", i))
	}
	show(t, seen{path: "/a", waiters: 1, asked: request("/")}, seen{path: "/a", waiters: 1, asked: request("/", many...)})
	q, _ := readListing(nil)
	if list, _ := q.list(); len(list[0].Differs) != maxDiffers+1 || list[0].Differs[maxDiffers] != "…" {
		t.Errorf("of many: got %q", list[0].Differs)
	}
}

// Who waits for what fails is not who waits.
func TestOutageCountsItsOwn(t *testing.T) {
	s := show(t, seen{path: "/good", waiters: 40}, seen{path: "/bad", waiters: 3}, seen{path: "/worse", waiters: 5})
	fault := &state.Reading{State: state.Failure(nil, 502)}
	for _, r := range s.Lot.Resources() {
		if r.Name.Path != "/good" {
			s.Fails(r, fault)
		}
	}
	if _, count, waiters, _, _ := s.outage.now(); count != 2 || waiters != 8 {
		t.Errorf("got %d that fail and %d that wait for them; want 2 and 8", count, waiters)
	}
}

// Of several handlers the one is shown that has the least left, and what lingers, or is
// retired, uses nothing.
func TestBounds(t *testing.T) {
	begin := func(limits lot.Limits, waiters int) *Site {
		s := &Site{Lot: lot.New[*state.Reading](limits), Log: zap.NewNop()}
		for range waiters {
			m := s.Lot.Join(lot.Key{1}, lot.Name{Path: "/"})
			if err := m.Park("192.0.2.7", false); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(m.Leave)
		}
		s.Begin()
		t.Cleanup(func() { Live.remove(s) })
		return s
	}
	if got := Live.bounds(recentStats{}); len(got) != 0 {
		t.Fatalf("without handlers: got %+v", got)
	}
	begin(lot.Limits{Parked: 100, Resources: 10}, 50)
	begin(lot.Limits{Parked: 20, PerClient: 30}, 19)
	full := begin(lot.Limits{Parked: 5}, 5)
	full.Drain(func(int) time.Duration { return 0 })
	got := Live.bounds(recentStats{refusedBy: [4]uint64{7}})
	want := []boundStats{{"max_parked", 19, 20, 7}, {"max_parked_per_client", 19, 30, 0}, {"max_resources", 1, 10, 0}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v; want %+v", got, want)
	}
}
