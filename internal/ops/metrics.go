package ops

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// sourceAdmin is the source of wake-ups through the admin endpoint; the others
// bear the names of their modules.
const sourceAdmin = "admin"

// sourceCluster is that of wake-ups that another Caddy has told of.
const sourceCluster = "cluster"

// metrics is what operators count. The collectors are those of the package: they
// outlive a reload, and each configuration registers them in its own registry.
// No label is ever a path, a key or a client.
type metrics struct {
	parked    prometheus.GaugeFunc
	detached  prometheus.GaugeFunc
	streams   prometheus.GaugeFunc
	events    *prometheus.CounterVec
	resources prometheus.GaugeFunc
	requests  *prometheus.CounterVec
	holds     *prometheus.HistogramVec
	checks    *prometheus.CounterVec
	checking  prometheus.Histogram
	releases  prometheus.Histogram
	wakes     *prometheus.CounterVec
	up        wakersUp
	saved     prometheus.Counter
	asked     prometheus.Counter
	used      boundsUsed
	cut       prometheus.GaugeFunc
	build     *prometheus.GaugeVec
	leases    prometheus.GaugeFunc
	states    *prometheus.CounterVec

	// The children of the above, so that no request has to look for them.
	ofOutcome map[poll.Outcome]outcomeMetrics
	ofResult  map[state.Result]prometheus.Counter
	ofFormat  map[string]prometheus.Counter

	fromCheck, fromCluster prometheus.Counter
}

// EventFormats are the formats of streams, as the metrics call them.
var EventFormats = []string{"sse", "ndjson"}

// outcomeMetrics are the children for one outcome.
type outcomeMetrics struct {
	requests prometheus.Counter
	held     prometheus.Observer
}

var theMetrics = newMetrics()

// newMetrics makes the collectors, which are registered nowhere yet.
func newMetrics() *metrics {
	const ns, sub = "caddy", "long_poll"
	m := &metrics{
		parked: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: ns, Subsystem: sub, Name: "parked_requests",
			Help: "Requests that are parked now, those that a reload is still releasing too.",
		}, func() float64 { return float64(Live.parked()) }),
		detached: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: ns, Subsystem: sub, Name: "detached_requests",
			Help: "Requests that wait now without a goroutine, because of `detach`: parked ones, and streams that wait for their first check.",
		}, func() float64 { return float64(Live.detached()) }),
		streams: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: ns, Subsystem: sub, Name: "streams",
			Help: "Streams that are open now. They are among the parked requests too.",
		}, func() float64 { return float64(Live.streams()) }),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "events_total",
			Help: "Counter of events that streams were told, by format: each of them is one change at one client.",
		}, []string{"format"}),
		resources: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: ns, Subsystem: sub, Name: "resources",
			Help: "Resources that are known now: somebody waits for them, or did so less than `linger` ago.",
		}, func() float64 { return float64(Live.resources()) }),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "requests_total",
			Help: "Counter of requests by outcome: what became of them.",
		}, []string{"outcome"}),
		holds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: ns, Subsystem: sub, Name: "hold_seconds",
			Help:    "Histogram of how long requests were parked, by outcome. Requests that were not parked are not in it.",
			Buckets: []float64{.1, .5, 1, 2.5, 5, 10, 15, 20, 25, 30, 60, 120, 300},
		}, []string{"outcome"}),
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "checks_total",
			Help: "Counter of checks, each of them a request to the backend on behalf of all who wait, by result. The first look at a resource is a change.",
		}, []string{"result"}),
		checking: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: ns, Subsystem: sub, Name: "check_seconds",
			Help:    "Histogram of how long checks took: if this is high, the backend is slow.",
			Buckets: prometheus.DefBuckets,
		}),
		releases: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: ns, Subsystem: sub, Name: "release_seconds",
			Help: "Histogram of the time from the end of the check that saw a change to the last byte handed to a parked client, for each of them: " +
				"if all of it is high, this process is slow; if only its tail is, some clients are slow in reading.",
			Buckets: releaseBuckets,
		}),
		wakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "wakes_total",
			Help: "Counter of wake-ups by source: the name of a waker, or admin.",
		}, []string{"source"}),
		up: wakersUp{prometheus.NewDesc(prometheus.BuildFQName(ns, sub, "waker_up"),
			"Whether a source of wake-ups can be heard: 1 or 0. While it can not, changes are found at the next interval.",
			[]string{"source"}, nil)},
		saved: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "checks_saved_total",
			Help: "Counter of requests that were answered (answered, changed, expired, drained or failed) without a request of their own to the backend: " +
				"what they were told had been read for somebody else, since they neither were the first to wait for their resource nor had it checked at once.",
		}),
		asked: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "backend_requests_total",
			Help: "Counter of requests to the backend: those of checks (a probe and what it finds are two), those that are their client's own exchange, and those that are passed through.",
		}),
		used: boundsUsed{prometheus.NewDesc(prometheus.BuildFQName(ns, sub, "bound_used_ratio"),
			"How much of a bound is used, of the handler that has the least left: 1 is all of it, and requests are refused. What is not bounded is 0.",
			[]string{"bound"}, nil)},
		cut: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: ns, Subsystem: sub, Name: "cut_seconds",
			Help: "Age at which something between the clients and Caddy cuts silent connections: of several the lowest; 0 as long as none is seen.",
		}, func() float64 { return Live.cut().Seconds() }),
		build: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: ns, Subsystem: sub, Name: "build_info",
			Help: "1, with the version of the module as a label.",
		}, []string{"version"}),
		leases: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: ns, Subsystem: sub, Name: "leases",
			Help: "Resources that this Caddy checks on behalf of all that share with it, by cluster.",
		}, func() float64 { return float64(Live.leases()) }),
		states: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Subsystem: sub, Name: "states_total",
			Help: "Counter of what was read of resources, changed or not, by where it came from: a check of this Caddy's own, or another Caddy of its cluster.",
		}, []string{"from"}),
		ofOutcome: make(map[poll.Outcome]outcomeMetrics),
		ofResult:  make(map[state.Result]prometheus.Counter),
		ofFormat:  make(map[string]prometheus.Counter),
	}
	m.begin()
	return m
}

// begin has all series exist from the start: what appears with its first increment has
// no rate.
func (m *metrics) begin() {
	for _, o := range poll.Outcomes {
		m.ofOutcome[o] = outcomeMetrics{m.requests.WithLabelValues(string(o)), m.holds.WithLabelValues(string(o))}
	}
	for _, r := range state.Results {
		m.ofResult[r] = m.checks.WithLabelValues(string(r))
	}
	m.wakes.WithLabelValues(sourceAdmin)
	for _, format := range EventFormats {
		m.ofFormat[format] = m.events.WithLabelValues(format)
	}
	m.fromCheck, m.fromCluster = m.states.WithLabelValues("check"), m.states.WithLabelValues("cluster")
}

// wakersUp is a gauge whose label values are the sources of the live handlers.
type wakersUp struct{ desc *prometheus.Desc }

func (u wakersUp) Describe(descs chan<- *prometheus.Desc) { descs <- u.desc }

func (u wakersUp) Collect(metrics chan<- prometheus.Metric) {
	for source, up := range Live.wakersUp() {
		var v float64
		if up {
			v = 1
		}
		metrics <- prometheus.MustNewConstMetric(u.desc, prometheus.GaugeValue, v, source)
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{
		m.parked, m.detached, m.streams, m.events, m.resources, m.requests, m.holds, m.checks, m.checking, m.releases, m.wakes, m.up, m.saved,
		m.asked, m.used, m.cut, m.build, m.leases, m.states,
	}
}

// Register registers the collectors, for each configuration has a registry of its
// own. A nil registry is none.
func Register(registry *prometheus.Registry) error {
	if registry == nil {
		return nil
	}
	for _, c := range theMetrics.collectors() {
		var already prometheus.AlreadyRegisteredError // by another handler of this configuration
		if err := registry.Register(c); err != nil && !errors.As(err, &already) {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	return nil
}

// Built notes the version of the module.
func Built(version string) { theMetrics.build.WithLabelValues(version).Set(1) }

// Told counts a poll that has its answer.
func (s *Site) Told(p *poll.Poll) {
	switch p.Outcome {
	case poll.Changed:
		Released(p.Told.Since)
	case poll.Refused:
		s.Refused(p.Refusal)
	}
	s.Done(p)
}

// Done counts a request that has its outcome.
func (s *Site) Done(p *poll.Poll) {
	of := theMetrics.ofOutcome[p.Outcome]
	of.requests.Inc()
	theHistory.done(p.Outcome)
	if !p.ParkedAt.IsZero() {
		of.held.Observe(p.Held.Seconds())
	}
	if p.Saved() {
		theMetrics.saved.Inc()
	}
	if found := p.CountAge(s.Lot.Parked); found != nil {
		s.tellCut(found)
	}
	// Check has a stack frame of more than 1 KiB: ten thousand requests that are
	// released would have their stacks grown at once for nothing.
	if s.Log.Core().Enabled(zapcore.DebugLevel) {
		s.logDone(p)
	}
}

//go:noinline
func (s *Site) logDone(p *poll.Poll) {
	if c := s.Log.Check(zapcore.DebugLevel, "done"); c != nil {
		c.Write(zap.String("outcome", string(p.Outcome)), zap.Duration("held", p.Held),
			zap.String("method", p.Request.Method), zap.String("host", p.Request.Host), zap.String("path", p.Request.URL.Path))
	}
}

// Own counts a request that has its outcome, and asks the backend for itself.
func (s *Site) Own(p *poll.Poll) {
	Asked()
	s.Done(p)
}

// Checked counts a check of r that has read now: one that was made here, or what another
// Caddy has handed on.
func (s *Site) Checked(r *poll.Resource, now *state.Reading, took time.Duration, here bool) {
	if !here {
		theMetrics.fromCluster.Inc()
		return
	}
	theMetrics.fromCheck.Inc()
	theMetrics.ofResult[now.Result].Inc()
	theMetrics.checking.Observe(took.Seconds())
	if c := s.Log.Check(zapcore.DebugLevel, "checked"); c != nil {
		c.Write(append(logFields(r), zap.String("result", string(now.Result)), zap.Int("status", now.Code()),
			zap.Duration("took", took), zap.Duration("pause", now.Pause), zap.Int("waiters", r.Waiters()))...)
	}
}

// Released notes that a parked client was handed the last byte of a change that was
// seen at that time.
func Released(seen time.Time) {
	took := time.Since(seen)
	theMetrics.releases.Observe(took.Seconds())
	theHistory.released(took)
}

// Event counts an event that a stream was told.
func Event(format string) { theMetrics.ofFormat[format].Inc() }

// CountWakes has the wake-ups of a source counted, from zero.
func CountWakes(source string) { theMetrics.wakes.WithLabelValues(source) }

// Woken counts a wake-up.
func Woken(source string) { theMetrics.wakes.WithLabelValues(source).Inc() }

// readCounter is the value of a counter.
func readCounter(c prometheus.Counter) uint64 {
	var metric dto.Metric
	if err := c.Write(&metric); err != nil {
		return 0 // never happens
	}
	return uint64(metric.GetCounter().GetValue())
}

// timeSum is what a histogram of times comes to.
type timeSum struct {
	Count uint64  `json:"count"`
	Sum   float64 `json:"sum"`
}

func readHistogram(h prometheus.Histogram) timeSum {
	var metric dto.Metric
	if err := h.Write(&metric); err != nil {
		return timeSum{} // never happens
	}
	return timeSum{metric.GetHistogram().GetSampleCount(), metric.GetHistogram().GetSampleSum()}
}

// readByLabel is the values of a counter with one label.
func readByLabel(vec *prometheus.CounterVec) map[string]uint64 {
	values := make(map[string]uint64)
	children := make(chan prometheus.Metric)
	go func() {
		vec.Collect(children)
		close(children)
	}()
	for child := range children {
		var metric dto.Metric
		if err := child.Write(&metric); err == nil && len(metric.GetLabel()) == 1 {
			values[metric.GetLabel()[0].GetValue()] = uint64(metric.GetCounter().GetValue())
		}
	}
	return values
}
