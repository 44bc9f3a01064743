package ops

import "github.com/prometheus/client_golang/prometheus"

// boundStats is a bound of a handler, and how much of it is used: of several handlers it
// is that which has the least left. Refused is how many requests it has turned away in
// the last minute, over all handlers.
type boundStats struct {
	Bound   string `json:"bound"`
	Used    int64  `json:"used"`
	Limit   int64  `json:"limit"`
	Refused uint64 `json:"refused"`
}

// ratio is how much of the bound is used: 1 is all of it. What can be exceeded for a
// moment (memory) may be more.
func (b boundStats) ratio() float64 { return float64(b.Used) / float64(max(b.Limit, 1)) }

// bounds are those of the live handlers that have one.
func (l *registry) bounds(recent recentStats) []boundStats {
	all := make([]boundStats, 0, len(bounds))
	found := make([]*boundStats, len(bounds))
	for _, s := range l.Sites() {
		if s.ending.drained.Load() || s.Lot == nil {
			continue // it parks nobody any more
		}
		limits, used := s.Lot.Limits(), s.Lot.Used()
		for i, b := range bounds {
			is := boundStats{Bound: b.name, Used: b.share(used), Limit: b.share(limits), Refused: recent.refusedBy[i]}
			if is.Limit > 0 && (found[i] == nil || is.ratio() > found[i].ratio()) {
				found[i] = &is
			}
		}
	}
	for _, b := range found {
		if b != nil {
			all = append(all, *b)
		}
	}
	return all
}

// boundsUsed is a gauge of the bounds of the live handlers: what is not bounded is 0.
type boundsUsed struct{ desc *prometheus.Desc }

func (u boundsUsed) Describe(descs chan<- *prometheus.Desc) { descs <- u.desc }

func (u boundsUsed) Collect(metrics chan<- prometheus.Metric) {
	used := make(map[string]float64, len(bounds))
	for _, b := range Live.bounds(recentStats{}) {
		used[b.Bound] = b.ratio()
	}
	for _, b := range bounds {
		metrics <- prometheus.MustNewConstMetric(u.desc, prometheus.GaugeValue, used[b.name], b.name)
	}
}
