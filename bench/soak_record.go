package main

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// record is a backend that answers at once. What it knows outlives its restarts.
type record struct {
	addr   string
	server *http.Server

	mu        sync.Mutex
	versions  [][]time.Time // of each resource: when each was written
	away      []span        // when the backend was
	reloading []span        // when Caddy was
	still     []span        // when this machine stood still
	looked    time.Time     // when it was last seen not to; zero while nobody looks
}

// newRecord starts a backend that has the first version of everything.
func newRecord() (*record, error) {
	b := &record{addr: freeAddr(), versions: make([][]time.Time, soakResources)}
	for i := range b.versions {
		b.versions[i] = []time.Time{time.Now()}
	}
	return b, b.up()
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

// watch notes when this machine stands still, or this process at least, until the returned
// function is called.
func (b *record) watch() (stop func()) {
	done := make(chan struct{})
	var ended sync.WaitGroup
	look := func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		now := time.Now()
		if !b.looked.IsZero() && now.Sub(b.looked) > instant/4 {
			b.still = append(b.still, span{b.looked, now})
		}
		b.looked = now
	}
	look()
	ended.Go(func() {
		tick := time.NewTicker(instant / 20)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				look()
			case <-done:
				return
			}
		}
	})
	return func() { close(done); ended.Wait() }
}

// stood is for how long the machine stood still between two times: whoever runs again first
// may ask before that is noted.
func (b *record) stood(from, to time.Time) (d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	add := func(begin, end time.Time) {
		if begin.Before(from) {
			begin = from
		}
		if end.After(to) {
			end = to
		}
		d += max(0, end.Sub(begin))
	}
	for i := len(b.still) - 1; i >= 0 && b.still[i].to.After(from); i-- {
		add(b.still[i].from, b.still[i].to)
	}
	if now := time.Now(); !b.looked.IsZero() && now.Sub(b.looked) > instant/4 {
		add(b.looked, now)
	}
	return d
}

// awake is when what began at a time would have, had the machine not stood still shortly
// before: what goes on for an instant after a span, or for an aftermath, goes on for longer then.
func (b *record) awake(began time.Time) time.Time {
	return began.Add(-b.stood(began.Add(-2*aftermath), began))
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
