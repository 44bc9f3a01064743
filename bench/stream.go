package main

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// changes is how many events each stream is sent, beyond the first.
const changes = 5

// beat is after how long without a byte a stream says that it lives: the default, but
// where less of all is measured. Between two of them a process is quiet for long enough to
// have settled.
func (o options) beat() time.Duration { return min(max(5*o.idle, 2*time.Second), 15*time.Second) }

// streaming opens n streams, leaves them silent for as long as it takes each to say that
// it lives, and has changes come, each when all have heard of the last.
func streaming(t trial) (values, error) {
	t.spec.LongPoll = map[string]any{"stream": []string{"sse"}, "stream_timeout": "1h", "heartbeat": t.beat().String()}
	s, err := t.begin()
	defer s.stop()
	if err != nil {
		return nil, err
	}
	if _, err := s.warm(); err != nil {
		return nil, err
	}
	if err := s.warmStreams(); err != nil {
		return nil, err
	}
	v := make(values)
	s.settled()
	before := s.pss()
	v[idle] = s.busy(t.idle)

	h := &hearers{took: make([]time.Duration, t.n), version: make([]int64, t.n), base: time.Now()}
	c, err := s.connect(t.n, h.hear)
	if err != nil {
		return nil, err
	}
	defer c.close()
	h.expect(s.version)
	s.settled()
	stop := s.profiles("arrival")
	cpu, began := s.cpu(), time.Now()
	for i := range t.n {
		if err := c.ask(i, listening); err != nil {
			return nil, err
		}
	}
	if err := h.await(); err != nil {
		return nil, fmt.Errorf("opening streams on %s: %w", t.subject, err)
	}
	v[opening] = float64(t.n) / s.settled().Sub(began).Seconds()
	v[openCPU] = us(s.cpu()-cpu) / float64(t.n)
	stop()
	v[memory] = (s.pss() - before) / float64(t.n)
	if err := s.confirm(t.n, int64(t.n), nil); err != nil {
		return nil, err
	}
	stop = s.profiles("events")
	var p50s, p99s, lasts []float64
	asked := s.asked()
	var used time.Duration
	for range changes {
		cpu := s.cpu()
		h.expect(s.version + 1)
		if err := s.change(); err != nil {
			return nil, err
		}
		if err := h.await(); err != nil {
			return nil, fmt.Errorf("telling streams of %s: %w", t.subject, err)
		}
		s.settled()
		used += s.cpu() - cpu
		slices.Sort(h.took)
		p50s = append(p50s, us(h.took[t.n/2])/1000)
		p99s = append(p99s, us(h.took[t.n*99/100])/1000)
		lasts = append(lasts, us(h.took[t.n-1])/1000)
	}
	v[eventAsk] = (s.asked() - asked) / changes
	v[eventCPU] = us(used) / float64(t.n*changes)
	v[eventP50], _ = median(p50s)
	v[eventP99], _ = median(p99s)
	v[eventEnd], _ = median(lasts)
	v[eventful] = (s.pss() - before) / float64(t.n)
	v[beatless] = s.busy(t.beat() / 5) // the heartbeats come together, as the events did
	v[silence] = s.busy(t.beat())
	stop()
	if s.spec.Debug != "" {
		if _, err := call("POST", "http://"+s.spec.Debug+"/collect", ""); err != nil {
			return nil, err
		}
		v[live] = (s.pss() - before) / float64(t.n)
	}
	v[lost] = float64(h.missing.Load())
	return v, nil
}

var listening = poll{method: "GET", path: "/r", accept: eventStream}

// warmStreams pages in the code of streams.
func (s *subject) warmStreams() error {
	const n = 50
	h := &hearers{took: make([]time.Duration, n), version: make([]int64, n), base: time.Now()}
	c, err := s.connect(n, h.hear)
	if err != nil {
		return err
	}
	defer c.close()
	h.expect(s.version)
	for i := range n {
		if err := c.ask(i, listening); err != nil {
			return err
		}
	}
	if err := h.await(); err != nil {
		return fmt.Errorf("warming up streams of %s: %w", s.subject, err)
	}
	return nil
}

// hearers is clients of streams, and when each has heard of the version that is awaited.
type hearers struct {
	base    time.Time
	took    []time.Duration // since the version was expected
	version []int64         // that each has heard of; written by one goroutine
	awaited atomic.Int64
	start   atomic.Int64 // nanoseconds since base
	missing atomic.Int64 // clients that have not heard of it
	all     atomic.Pointer[chan struct{}]
	bad     atomic.Pointer[answer]
}

// expect has all hear of a version from now on.
func (h *hearers) expect(version int64) {
	all := make(chan struct{})
	h.all.Store(&all)
	h.missing.Store(int64(len(h.took)))
	h.start.Store(int64(time.Since(h.base)))
	h.awaited.Store(version)
}

func (h *hearers) hear(i int, a answer) {
	if a.status != 200 || a.version == h.version[i] {
		h.bad.Store(&a)
		return
	}
	if h.version[i] = a.version; a.version != h.awaited.Load() {
		return
	}
	h.took[i] = time.Since(h.base) - time.Duration(h.start.Load())
	if h.missing.Add(-1) == 0 {
		close(*h.all.Load())
	}
}

// await waits until all have heard of it.
func (h *hearers) await() error {
	select {
	case <-*h.all.Load():
	case <-time.After(20 * time.Second):
	}
	if bad, missing := h.bad.Load(), h.missing.Load(); bad != nil || missing > 0 {
		return fmt.Errorf("%d of %d clients have not heard of it; the last bad answer: %+v", missing, len(h.took), bad)
	}
	return nil
}
