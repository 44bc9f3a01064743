package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	etcd "go.etcd.io/etcd/client/v2"
)

// Clients that people have reported to get on badly with long polls.

// TestJDK is the HTTP client of the JDK. It offers h2c with each request.
func TestJDK(t *testing.T) {
	if _, err := exec.LookPath("java"); err != nil {
		t.Fatal("there is no java: install a JDK of 11 or later, such as Debian's openjdk-17-jdk-headless")
	}
	var offers atomic.Int64
	d := dialect{file: "rest", answer: func(w http.ResponseWriter, r *http.Request, value int) {
		if r.Header.Get("Upgrade") != "" || r.Header.Get("Http2-Settings") != "" {
			offers.Add(1)
		}
		record(w, r, value)
	}, clients: spoken("java", "java", "Rest.java")}
	t.Cleanup(func() {
		if n := offers.Load(); n > 0 {
			t.Errorf("%d offers of h2c have reached the backend with a check", n)
		}
	})
	d.run(t)
}

// TestCurlHTTP2 is curl --http2, which makes the same offer.
func TestCurlHTTP2(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Fatal("there is no curl: install Debian's curl")
	}
	b := newBackend(t, "", record)
	s := newSiteOf(t, "rest", b, 10*patience) // for those who do not say for how long
	curl := func(fields ...string) string {
		args := []string{"--silent", "--show-error", "--http2", "--max-time", fmt.Sprint(patience.Seconds()), "--include", s.url + "/api/order"}
		for _, f := range fields {
			args = append(args, "--header", f)
		}
		out, err := exec.Command("curl", args...).CombinedOutput()
		if err != nil {
			t.Errorf("curl: %v\n%s", err, out)
		}
		return string(out)
	}
	tagged := regexp.MustCompile(`(?mi)^etag: (.+)\r$`).FindStringSubmatch(curl("Prefer: wait=2"))
	if tagged == nil {
		t.Fatal("there is no ETag")
	}
	has := "If-None-Match: " + tagged[1]
	got := curl(has, "Prefer: wait=1")
	for range 5 { // its time may be up before the first check, where the machine stands still
		if !strings.Contains(got, "answered;held=") {
			break
		}
		got = curl(has, "Prefer: wait=1")
	}
	if !strings.HasPrefix(got, "HTTP/1.1 304 ") || !strings.Contains(got, "expired;held=") {
		t.Errorf("got %s; want a 304 that has expired", got)
	}
	news := make(chan string)
	go func() { news <- curl(has) }()
	await(t, "curl is parked", func() error { return s.parkedAre(1) })
	b.change()
	if got := <-news; !strings.HasPrefix(got, "HTTP/1.1 200 ") || !strings.Contains(got, "changed;held=") || !strings.Contains(got, `"value":"2"`) {
		t.Errorf("got %s; want the change", got)
	}
}

// TestConnectionThatIsJustBeingClosed: every other request meets a backend that closes
// the connection. A retry mends that, so that nobody is told.
func TestConnectionThatIsJustBeingClosed(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	b := newBackend(t, "", func(w http.ResponseWriter, r *http.Request, value int) {
		if requests.Add(1)%2 == 0 {
			record(w, r, value)
			return
		}
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			conn.Close()
		}
	})
	s := newSite(t, "rest", b)
	c := newCrowd(t, s, 1, restClients)
	await(t, "two time-outs", func() error {
		if n := s.outcomes("expired"); n < 2 {
			return fmt.Errorf("%d have expired", n)
		}
		return c.expect("1")
	})
	if n := s.metric(`checks_total{result="failed"}`); n > 0 || strings.Contains(s.logs.String(), "backend fails") {
		t.Errorf("%d checks have failed", n)
	}
	if requests.Load() < 6 {
		t.Errorf("the backend got %d requests only", requests.Load())
	}
}

// TestPostgREST is supabase's client of PostgREST.
func TestPostgREST(t *testing.T) {
	d := dialect{file: "postgrest", answer: orders, clients: script(t, "postgrest.js", "exact")}
	d.run(t)
}

// TestPostgRESTCounts: who asks for a count waits beside who asks for none, and each
// gets what it prefers.
func TestPostgRESTCounts(t *testing.T) {
	t.Parallel()
	b := newBackend(t, "", orders)
	s := newSite(t, "postgrest", b)
	exact, none := newCrowd(t, s, 5, script(t, "postgrest.js", "exact")), newCrowd(t, s, 5, script(t, "postgrest.js", "none"))
	for _, want := range [][]string{{"1"}, {"1", "2"}} {
		await(t, fmt.Sprint(want), func() error {
			return errors.Join(exact.expect(want...), none.expect(want...), s.parkedAre(10))
		})
		b.change()
	}
	// What a client prefers reaches the backend when it does not wait, too.
	c := &conn{site: s.url, transport: new(http.Transport)}
	defer c.transport.CloseIdleConnections()
	a, err := c.get(t.Context(), "/orders?select=id", "Prefer", "count=exact")
	if err != nil {
		t.Fatal(err)
	}
	if a.header.Get("Content-Range") != "0-2/3" || a.header.Get("Preference-Applied") != "count=exact" {
		t.Error(a.unexpected())
	}
}

// orders is a table of as many rows as the value says, which are counted for who prefers
// that.
func orders(w http.ResponseWriter, r *http.Request, value int) {
	rows, count := []map[string]int{}, "*"
	for id := range value {
		rows = append(rows, map[string]int{"id": id})
	}
	for _, preferences := range r.Header.Values("Prefer") {
		if strings.Contains(preferences, "count=exact") {
			count = strconv.Itoa(value)
			w.Header().Set("Preference-Applied", "count=exact")
		}
	}
	w.Header().Set("Vary", "Prefer")
	w.Header().Set("Content-Range", fmt.Sprintf("0-%d/%s", value-1, count))
	write(w, rows)
}

// TestEtcd watches a key with etcd's own client. A watch that begins with an index that
// has passed is told at once.
func TestEtcd(t *testing.T) {
	d := dialect{file: "etcd", answer: key, clients: each(func(ctx context.Context, c *conn, tell func(string)) error {
		client, err := etcd.New(etcd.Config{Endpoints: []string{c.site}, Transport: c.transport})
		if err != nil {
			return err
		}
		keys := etcd.NewKeysAPI(client)
		now, err := keys.Get(ctx, "color", nil)
		if err != nil {
			return err
		}
		if now.Index != now.Node.ModifiedIndex {
			return fmt.Errorf("the index is %d, and that of the key %d", now.Index, now.Node.ModifiedIndex)
		}
		tell(now.Node.Value)
		watcher := keys.Watcher("color", &etcd.WatcherOptions{AfterIndex: now.Node.ModifiedIndex})
		for {
			next, err := watcher.Next(ctx)
			if err != nil {
				return err
			}
			tell(next.Node.Value)
		}
	})}
	d.run(t)
}

// TestEtcdMissedChanges: an index is awaited by order. A client that was away does not
// wait for the one that it names.
func TestEtcdMissedChanges(t *testing.T) {
	t.Parallel()
	b := newBackend(t, "", key)
	b.value.Store(9)
	s := newSite(t, "etcd", b)
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	client, err := etcd.New(etcd.Config{Endpoints: []string{s.url}, Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	watcher := etcd.NewKeysAPI(client).Watcher("color", &etcd.WatcherOptions{AfterIndex: firstIndex + 3})
	if next, err := watcher.Next(ctx); err != nil || next.Node.Value != "9" {
		t.Fatalf("got %v, %v; want what there is", next, err)
	}
	if waited := s.outcomes("expired") + s.outcomes("changed"); waited > 0 {
		t.Error("it has waited for what has passed")
	}
}

// firstIndex is where the indexes of a key begin: beyond what a float64 tells apart.
const firstIndex = 1 << 60

// key is a key of etcd v2's keyspace.
func key(w http.ResponseWriter, r *http.Request, value int) {
	index := uint64(firstIndex + value)
	w.Header().Set("X-Etcd-Index", strconv.FormatUint(index, 10))
	write(w, map[string]any{"action": "get", "node": map[string]any{
		"key": "/color", "value": strconv.Itoa(value), "modifiedIndex": index, "createdIndex": uint64(firstIndex),
	}})
}
