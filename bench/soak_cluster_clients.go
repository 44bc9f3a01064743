package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"
)

// client asks one Caddy after the other for a resource. Of ten requests one is no poll, and
// one names no version and waits: it is answered by a check that has begun since. have is
// the version that it has, and is protected by record.mu.
func (s *soakedFlock) client(ctx context.Context, ways []http.RoundTripper, i int, have *int) {
	resource := i % soakResources
	for n := i; ctx.Err() == nil; n++ {
		at := n % len(ways)
		s.ask(ctx, s.caddys[at], ways[at], resource, n/len(ways)%10, have)
	}
}

// askedFor is one request of a client, and what has become of it.
type askedFor struct {
	url    string
	status int
	text   string
	result string // Long-Poll
	began  time.Time
	err    error
}

// get asks for a resource; had is the version that is named, if it is not 0.
func (s *soakedFlock) get(ctx context.Context, way http.RoundTripper, resource, had int, waits bool) (a askedFor) {
	ctx, cancel := context.WithTimeout(ctx, max(soakPatience, longest))
	defer cancel()
	a.url = fmt.Sprintf("http://soak/r/%d", resource)
	r, _ := http.NewRequestWithContext(ctx, "GET", a.url, nil)
	if had > 0 {
		r.Header.Set("If-None-Match", tag(int64(had)))
	}
	if waits {
		r.Header.Set("Prefer", "wait=3")
	}
	a.began = time.Now()
	resp, err := way.RoundTrip(r)
	if err != nil {
		a.err = err
		return a
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	a.status, a.text, a.err, a.result = resp.StatusCode, string(text), err, resp.Header.Get("Long-Poll")
	return a
}

// ask has a client ask once, and judges what it is told.
func (s *soakedFlock) ask(ctx context.Context, c *soakedCaddy, way http.RoundTripper, resource, turn int, have *int) {
	had := *have
	ordinary, waits := turn == 0, turn == 5
	named := had
	if ordinary || waits {
		named = 0
	}
	was := s.latest(resource)
	a := s.get(ctx, way, resource, named, waits)
	took, now := time.Since(a.began), time.Now()
	began := s.awake(a.began)
	down := s.overlap(&c.down, began.Add(-instant), now)
	switch {
	case ctx.Err() != nil:
	case a.err != nil && down:
		s.tally.count(&s.tally.cut)
		time.Sleep(20 * time.Millisecond)
	case a.err != nil:
		s.tally.fault("asking %s for %s: %v after %v", c.spec.Addr, a.url, a.err, took)
	case a.status == http.StatusNotModified && named > 0:
		s.tally.count(&s.tally.released)
		if took < clusterHold*9/10-instant && !down {
			s.tally.fault("%s was released after %v (%s)", a.url, took, a.result)
		}
	case a.status == http.StatusOK:
		v, _ := strconv.Atoi(a.text)
		switch {
		case v < was && named == 0:
			s.tally.fault("%s: got version %d without naming one; it was %d when it was asked", a.url, v, was)
		case v == had && named == 0:
			s.tally.count(&s.tally.ordinary)
			return
		}
		s.got(resource, had, v)
		s.late(resource, had)
		s.record.mu.Lock()
		*have = v
		s.record.mu.Unlock()
	case a.status >= 500 && s.overlap(&s.away, began.Add(-aftermath), now):
		s.tally.count(&s.tally.away)
		time.Sleep(100 * time.Millisecond)
	default:
		s.tally.fault("%s was answered with %d %q (%s) after %v", a.url, a.status, a.text, a.result, took)
	}
}

// latest is the version that there is.
func (s *soakedFlock) latest(resource int) int {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	return len(s.versions[resource])
}

// late complains where the first version that a client did not have was written long ago.
func (s *soakedFlock) late(resource, had int) {
	s.record.mu.Lock()
	written := time.Now()
	if had > 0 && had < len(s.versions[resource]) {
		written = s.versions[resource][had]
	}
	s.record.mu.Unlock()
	if lag := time.Since(written); lag > longest+overdue {
		s.tally.fault("/r/%d: what came after version %d took %v", resource, had, lag)
	}
}

// write makes new versions until quiet is closed: through one of the Caddys, past them with a
// message to Redis, or without a word.
func (s *soakedFlock) write(ways []http.RoundTripper, quiet <-chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-quiet:
			return
		case <-time.After(2 * writePause):
		}
		path := fmt.Sprint("/r/", rand.IntN(soakResources))
		s.tally.count(&s.tally.writes)
		switch n % 3 {
		case 0:
			s.set(path)
		case 1:
			s.set(path)
			go s.publish(path)
		case 2:
			go s.post(ways[rand.IntN(len(ways))], path)
		}
	}
}

// publish tells Redis of a write, if that is there.
func (s *soakedFlock) publish(path string) {
	c, err := net.DialTimeout("tcp", s.redisAddr, time.Second)
	if err != nil {
		return // it is found at the next interval
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(stoppedFor))
	fmt.Fprintf(c, "PUBLISH long_poll:%s x\r\nQUIT\r\n", path)
	_, _ = io.Copy(io.Discard, c)
}

// post writes through a Caddy, which may be away.
func (s *soakedFlock) post(way http.RoundTripper, path string) {
	ctx, cancel := context.WithTimeout(context.Background(), stoppedFor)
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, "POST", "http://soak"+path, nil)
	if resp, err := way.RoundTrip(r); err == nil {
		resp.Body.Close()
	}
}
