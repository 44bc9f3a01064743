package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A soak is a long life in short: clients that ask again at once while versions
// change, the configuration is reloaded, the backend restarts and Redis is killed.
// It ends well if every client has got every last version, nobody was sent back in
// time, let wait too long or shown an error but for those of a backend that is
// away, and the process holds on to nothing. Caddy by itself cuts some of the
// connections that are made in the instant of a reload: those are counted, and only
// a request that could have been parked by then must not be cut.

const (
	soakResources = 20
	soakClients   = 200
	writePause    = 10 * time.Millisecond
	awayFor       = time.Second     // a backend that restarts
	longest       = 3 * time.Second // from a write to its delivery: an interval is 1 s
	aftermath     = 5 * time.Second // of a restart: the pauses between checks have grown
	instant       = 200 * time.Millisecond
	ordinaryEvery = 10
)

func soakCommand(args []string) error {
	flags := flag.NewFlagSet("soak", flag.ExitOnError)
	length := flags.Duration("for", 30*time.Minute, "how long")
	flags.Parse(args)
	report, err := soak(*length)
	fmt.Println(report)
	return err
}

// soak runs for that long, and says what has happened.
func soak(length time.Duration) (report string, err error) {
	b := &record{addr: freeAddr(), versions: make([][]time.Time, soakResources)}
	for i := range b.versions {
		b.versions[i] = []time.Time{time.Now()}
	}
	if err := b.up(); err != nil {
		return "", err
	}
	defer b.down()
	s := &soaked{record: b}
	s.spec = spec{Subject: "long_poll", Addr: freeAddr(), Backend: b.addr, Admin: freeAddr(), Debug: freeAddr()}
	if _, err := exec.LookPath("redis-server"); err == nil {
		s.redisAddr = freeAddr()
		if err := s.startRedis(); err != nil {
			return "", err
		}
		defer func() { s.redis.stop() }()
	}
	s.spec.LongPoll = s.handler()
	if s.process, err = child("serve", s.spec); err != nil {
		return "", err
	}
	defer s.process.stop()

	// Whatever is made once is made now.
	if err := s.run(10 * time.Second); err != nil {
		return "", fmt.Errorf("warming up: %w", err)
	}
	before, err := s.atRest()
	if err != nil {
		return "", err
	}
	s.tally = tally{}
	if err := s.run(length); err != nil {
		return s.tally.String(), err
	}
	after, err := s.atRest()
	for deadline := time.Now().Add(20 * time.Second); err == nil && !after.like(before) && time.Now().Before(deadline); after, err = s.atRest() {
		time.Sleep(time.Second)
	}
	report = fmt.Sprintf("%v; held at rest before and after: %+v, %+v", &s.tally, before, after)
	if err != nil {
		return report, err
	}
	if !after.like(before) {
		return report, errors.New("the process holds on to more than at the start")
	}
	return report, nil
}

// like reports whether a process holds as much as it did before, give or take what
// Caddy keeps from each of its reloads.
func (a held) like(before held) bool {
	return a.Goroutines <= before.Goroutines+5 && a.Heap <= before.Heap+4<<20
}

// soaked is long_poll, and what happens to it.
type soaked struct {
	*process
	*record
	spec      spec
	redisAddr string // empty without Redis
	redis     *process
	reloads   int
	tally     tally
}

// tally is what has happened.
type tally struct {
	mu         sync.Mutex // protects all
	writes     int
	deliveries int
	released   int // without news
	ordinary   int // requests that were told what their client has
	away       int // errors while the backend was
	cut        int // new connections, by a reload
	reloads    int
	restarts   int
	kills      int
	lags       []time.Duration // from writes to deliveries, but for those around restarts
	wrong      []string
}

// fault notes what should not have happened.
func (t *tally) fault(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.wrong) < 20 {
		t.wrong = append(t.wrong, fmt.Sprintf(format, args...))
	}
}

func (t *tally) count(n *int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*n++
}

func (t *tally) String() string {
	slices.Sort(t.lags)
	at := func(percent int) time.Duration {
		if len(t.lags) == 0 {
			return 0
		}
		return t.lags[(len(t.lags)-1)*percent/100].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("%d writes, %d deliveries, %d releases without news, %d ordinary requests without news, %d errors of a backend that was away, "+
		"%d new connections cut by a reload, %d reloads, %d restarts of the backend, %d of Redis; from write to delivery p50 %v, p99 %v, last %v",
		t.writes, t.deliveries, t.released, t.ordinary, t.away, t.cut, t.reloads, t.restarts, t.kills, at(50), at(99), at(100))
}

// handler is the configuration of long_poll. It differs from one reload to the next.
func (s *soaked) handler() map[string]any {
	wake := []any{map[string]any{"waker": "writes"}}
	if s.redisAddr != "" {
		wake = append(wake, map[string]any{"waker": "redis", "address": []string{s.redisAddr}})
	}
	return map[string]any{"hold": fmt.Sprint(4+s.reloads%2, "s"), "jitter": 10, "linger": "1s", "wake": wake}
}

func (s *soaked) reload() error {
	s.reloads++
	s.spec.LongPoll = s.handler()
	cfg, err := s.spec.config()
	if err != nil {
		return err
	}
	began := time.Now()
	end := s.begin(&s.reloading)
	if _, err := call("POST", "http://"+s.spec.Admin+"/load", string(cfg)); err != nil {
		return fmt.Errorf("reloading: %w", err)
	}
	end()
	if took := time.Since(began); took > longest {
		s.tally.fault("a reload took %v", took)
	}
	s.tally.count(&s.tally.reloads)
	return nil
}

func (s *soaked) startRedis() (err error) {
	host, port, _ := net.SplitHostPort(s.redisAddr)
	s.redis, err = start(s.redisAddr, "redis-server", "--bind", host, "--port", port, "--save", "", "--appendonly", "no")
	return err
}

// killRedis kills Redis, and starts it again after a while.
func (s *soaked) killRedis() error {
	if s.redis == nil {
		return nil
	}
	s.redis.stop()
	time.Sleep(awayFor)
	s.tally.count(&s.tally.kills)
	return s.startRedis()
}

// run has clients ask, and all that can happen to them happen, for that long.
func (s *soaked) run(length time.Duration) error {
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	transport := &http.Transport{MaxIdleConnsPerHost: soakClients}
	defer transport.CloseIdleConnections()
	var gone sync.WaitGroup
	have := make([]int, soakClients)
	for i := range have {
		gone.Go(func() { s.client(ctx, transport, i%soakResources, &have[i]) })
	}
	defer gone.Wait()
	defer leave()

	quiet := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() { s.write(quiet) })
	// Apart from one another more often than not.
	happenings := []struct {
		every time.Duration
		f     func() error
	}{{20 * time.Second, s.reload}, {27 * time.Second, s.restart}, {37 * time.Second, s.killRedis}}
	shorter := min(1, length.Seconds()/60)
	began := time.Now()
	var err error
	last := make([]time.Duration, len(happenings))
	for err == nil && time.Since(began) < length {
		time.Sleep(100 * time.Millisecond)
		for i, h := range happenings {
			if now := time.Since(began); err == nil && (now-last[i]).Seconds() >= h.every.Seconds()*shorter {
				last[i] = now
				err = h.f()
			}
		}
	}
	close(quiet)
	writer.Wait()
	if err != nil {
		return err
	}

	deadline := time.Now().Add(longest + aftermath)
	for time.Now().Before(deadline) && s.missing(have) > 0 {
		time.Sleep(50 * time.Millisecond)
	}
	if n := s.missing(have); n > 0 {
		s.tally.fault("%d of %d clients have never got the last version", n, soakClients)
	}
	if len(s.tally.wrong) > 0 {
		return errors.New(strings.Join(s.tally.wrong, "\n"))
	}
	return nil
}

// missing is how many clients have not got the last version.
func (s *soaked) missing(have []int) (n int) {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	for i, v := range have {
		if v != len(s.versions[i%soakResources]) {
			n++
		}
	}
	return n
}

// client asks for a resource again and again, and now and then without its version:
// that is an ordinary request, and is never sent back in time either. have is the version that it has, and
// is protected by record.mu.
func (s *soaked) client(ctx context.Context, transport http.RoundTripper, resource int, have *int) {
	url := fmt.Sprintf("http://%s/r/%d", s.spec.Addr, resource)
	for n := 1; ctx.Err() == nil; n++ {
		ordinary := n%ordinaryEvery == 0
		r, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
		if *have > 0 && !ordinary {
			r.Header.Set("If-None-Match", tag(int64(*have)))
		}
		began := time.Now()
		resp, err := transport.RoundTrip(r)
		var text []byte
		if err == nil {
			text, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		took := time.Since(began)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && took < instant && s.overlap(&s.reloading, began, time.Now()):
			s.tally.count(&s.tally.cut)
		case err != nil:
			s.tally.fault("asking for %s: %v after %v", url, err, took)
		case took > 2*longest:
			s.tally.fault("%s was answered with %d after %v", url, resp.StatusCode, took)
		case resp.StatusCode == http.StatusNotModified && *have > 0:
			s.tally.count(&s.tally.released)
		case resp.StatusCode == http.StatusOK:
			v, _ := strconv.Atoi(string(text))
			if ordinary && v == *have {
				s.tally.count(&s.tally.ordinary)
				continue
			}
			s.got(resource, *have, v)
			s.record.mu.Lock()
			*have = v
			s.record.mu.Unlock()
		// Who names another version than the one that was known last, as after an ordinary
		// request, is told what the last check has failed with, until the next one is due.
		case resp.StatusCode >= 500 && resp.Header.Get("Retry-After") != "" && s.overlap(&s.away, began.Add(-aftermath), time.Now()),
			resp.StatusCode >= 500 && s.overlap(&s.away, began, time.Now()):
			s.tally.count(&s.tally.away)
			time.Sleep(100 * time.Millisecond)
		default:
			s.tally.fault("%s was answered with %d %q (%s) after %v", url, resp.StatusCode, text, resp.Header.Get("Long-Poll"), took)
		}
	}
}

// got judges a delivery to a client that had another version before.
func (s *soaked) got(resource, had, v int) {
	now := time.Now()
	s.record.mu.Lock()
	known := v > 0 && v <= len(s.versions[resource])
	var written time.Time
	if known && v > had {
		written = s.versions[resource][had] // of the first version that it did not have
	}
	s.record.mu.Unlock()
	switch {
	case !known || v <= had:
		s.tally.fault("/r/%d: a client that had version %d got %d", resource, had, v)
		return
	case had == 0:
		return // it has just come
	}
	s.tally.count(&s.tally.deliveries)
	if s.overlap(&s.away, written.Add(-aftermath), now) {
		return
	}
	lag := now.Sub(written)
	if lag > longest {
		s.tally.fault("/r/%d: version %d came %v after it was written", resource, v, lag)
	}
	s.tally.mu.Lock()
	s.tally.lags = append(s.tally.lags, lag)
	s.tally.mu.Unlock()
}

// write makes new versions until quiet is closed: through the site, or past it with
// a message to Redis.
func (s *soaked) write(quiet <-chan struct{}) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for n := 0; ; n++ {
		select {
		case <-quiet:
			return
		case <-time.After(writePause):
		}
		path := fmt.Sprint("/r/", rand.IntN(soakResources))
		if n%2 == 1 && s.redisAddr != "" {
			s.set(path)
			if c, err := net.Dial("tcp", s.redisAddr); err == nil { // else it is found at the next interval
				fmt.Fprintf(c, "PUBLISH long_poll:%s x\r\nQUIT\r\n", path)
				io.Copy(io.Discard, c)
				c.Close()
			}
			s.tally.count(&s.tally.writes)
			continue
		}
		began := time.Now()
		resp, err := client.Post("http://"+s.spec.Addr+path, "", nil)
		s.tally.count(&s.tally.writes)
		switch {
		case err == nil && resp.StatusCode == 200:
		case s.overlap(&s.away, began, time.Now()):
			s.tally.count(&s.tally.away)
		case err != nil && s.overlap(&s.reloading, began, time.Now()):
			s.tally.count(&s.tally.cut)
		case err != nil:
			s.tally.fault("writing %s: %v", path, err)
		default:
			s.tally.fault("writing %s: %s", path, resp.Status)
		}
		if err == nil {
			resp.Body.Close()
		}
	}
}

// atRest is what the process holds when nobody is there, after a reload: what the
// last configuration has kept for its backend is gone.
func (s *soaked) atRest() (h held, err error) {
	if err := s.reload(); err != nil {
		return h, err
	}
	s.settled()
	return holds(s.spec)
}

// record is a backend that answers at once. What it knows outlives its restarts.
type record struct {
	addr   string
	server *http.Server

	mu        sync.Mutex
	versions  [][]time.Time // of each resource: when each was written
	away      []span        // when the backend was
	reloading []span        // when Caddy was
}

type span struct{ from, to time.Time } // to is zero while it lasts

// begin begins a span. What was done in it is noticed a little after its end.
func (b *record) begin(spans *[]span) (end func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := len(*spans)
	*spans = append(*spans, span{from: time.Now()})
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		(*spans)[i].to = time.Now().Add(instant)
	}
}

// overlap reports whether one of the spans and the time between two have an instant
// in common.
func (b *record) overlap(spans *[]span, from, to time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range *spans {
		if s.from.Before(to) && (s.to.IsZero() || s.to.After(from)) {
			return true
		}
	}
	return false
}

// set makes the next version of what is at a path.
func (b *record) set(path string) {
	i, _ := strconv.Atoi(strings.TrimPrefix(path, "/r/"))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.versions[i] = append(b.versions[i], time.Now())
}

func (b *record) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		b.set(r.URL.Path)
		return
	}
	i, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/r/"))
	b.mu.Lock()
	v := len(b.versions[i])
	b.mu.Unlock()
	w.Header().Set("Etag", tag(int64(v)))
	if r.Header.Get("If-None-Match") == tag(int64(v)) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	fmt.Fprint(w, v)
}

func (b *record) up() error {
	l, err := net.Listen("tcp", b.addr)
	if err != nil {
		return fmt.Errorf("starting the backend: %w", err)
	}
	b.server = &http.Server{Handler: b}
	go b.server.Serve(l)
	return nil
}

// down cuts all connections.
func (b *record) down() { b.server.Close() }

// restart takes the backend away for a while.
func (s *soaked) restart() error {
	end := s.begin(&s.away)
	s.down()
	time.Sleep(awayFor)
	if err := s.up(); err != nil {
		return err
	}
	end()
	s.tally.count(&s.tally.restarts)
	return nil
}
