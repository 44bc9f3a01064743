package longpoll

import (
	"errors"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// What a check found.
const (
	resultChanged   = "changed"
	resultUnchanged = "unchanged"
	resultFailed    = "failed"
)

// metrics is what operators count. The collectors are those of the package: they
// outlive a reload, and each configuration registers them in its own registry.
type metrics struct {
	requests *prometheus.CounterVec
	holds    *prometheus.HistogramVec
	checks   *prometheus.CounterVec
	checking prometheus.Histogram
	wakes    *prometheus.CounterVec
}

var theMetrics = &metrics{
	requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "long_poll", Name: "requests_total",
		Help: "Counter of requests by outcome.",
	}, []string{"outcome"}),
	holds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "caddy", Subsystem: "long_poll", Name: "hold_seconds",
		Help:    "Histogram of the time that requests were parked, by outcome.",
		Buckets: []float64{.1, .5, 1, 2.5, 5, 10, 15, 20, 25, 30, 60, 120, 300},
	}, []string{"outcome"}),
	checks: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "long_poll", Name: "checks_total",
		Help: "Counter of checks of the backend by result.",
	}, []string{"result"}),
	checking: prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "caddy", Subsystem: "long_poll", Name: "check_seconds",
		Help:    "Histogram of the time that checks of the backend took.",
		Buckets: prometheus.DefBuckets,
	}),
	wakes: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "long_poll", Name: "wakes_total",
		Help: "Counter of wake-ups by source.",
	}, []string{"source"}),
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.holds, m.checks, m.checking, m.wakes}
}

func (h *Handler) provisionMetrics(ctx caddy.Context) error {
	h.metrics = theMetrics
	registry := ctx.GetMetricsRegistry()
	if registry == nil {
		return nil
	}
	for _, c := range h.metrics.collectors() {
		var already prometheus.AlreadyRegisteredError
		if err := registry.Register(c); err != nil && !errors.As(err, &already) {
			return err
		}
	}
	return nil
}

func (m *metrics) done(q *question) {
	m.requests.WithLabelValues(string(q.outcome)).Inc()
	if !q.parkedAt.IsZero() {
		m.holds.WithLabelValues(string(q.outcome)).Observe(q.held.Seconds())
	}
}

func (m *metrics) checked(result string, took time.Duration) {
	m.checks.WithLabelValues(result).Inc()
	m.checking.Observe(took.Seconds())
}

func (m *metrics) woken(source string) { m.wakes.WithLabelValues(source).Inc() }
