package ops

import (
	"crypto/sha256"
	"encoding/json"
	"math"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/line"
)

// place is where a handler stands in its configuration.
type place struct {
	config *prometheus.Registry // each configuration has one; nil outside of Caddy
	server string
	given  [sha256.Size]byte // what the handler was given: its digest, since that may have secrets
}

// Hear gives the site its line. What is known of it survives a reload: the line is that of
// the handler which the configuration before had there, of the same server and the same in
// all that it is given, and of several such the one in the same order; else a new one. most
// and auto are as [line.New] has them.
func (s *Site) Hear(ctx caddy.Context, handler any, most time.Duration, auto bool) {
	s.Line = line.New(most, auto)
	given, err := json.Marshal(handler)
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if s.place.config = ctx.GetMetricsRegistry(); s.place.config == nil || err != nil || !ok {
		s.place.config = nil
		return
	}
	s.place.server, s.place.given = server.Name(), sha256.Sum256(given)
	taken := make(map[*line.Line]bool)
	all := Live.Sites()
	for _, o := range all {
		if o.place.config == s.place.config {
			taken[o.Line] = true
		}
	}
	for _, o := range all {
		if o.place.config != nil && o.place.server == s.place.server && o.place.given == s.place.given && !taken[o.Line] {
			s.Line = o.Line
			return
		}
	}
}

// cutStats is something on the way to a handler that cuts silent connections.
type cutStats struct {
	Server string    `json:"server"` // the name of the server that the handler is part of
	Age    float64   `json:"age"`    // at which it cuts, in seconds
	Share  float64   `json:"share"`  // of those who reach that age: 0 to 1
	Since  time.Time `json:"since"`  // when it was found
	Hold   float64   `json:"hold"`   // for how long requests are held, in seconds
	Auto   bool      `json:"auto"`   // hold auto
}

// cuts are those that are known.
func (l *registry) cuts() []cutStats {
	cuts := []cutStats{}
	for _, s := range l.Sites() {
		if cut := s.Line.Cut(); cut.Age > 0 && !s.ending.retired.Load() {
			cuts = append(cuts, cutStats{
				Server: s.Server, Age: roundSeconds(cut.Age), Share: roundShare(cut.Share), Since: cut.Since.UTC(),
				Hold: roundSeconds(s.Line.Kept()), Auto: s.Line.Auto(),
			})
		}
	}
	return cuts
}

// cut is the lowest age at which something cuts; 0 if nothing is known to.
func (l *registry) cut() (lowest time.Duration) {
	for _, s := range l.Sites() {
		if cut := s.Line.Cut(); cut.Age > 0 && !s.ending.retired.Load() && (lowest == 0 || cut.Age < lowest) {
			lowest = cut.Age
		}
	}
	return lowest
}

func roundShare(share float64) float64 { return math.Round(share*1000) / 1000 }

// tellCut tells of something on the way that cuts silent connections, or has ceased to: a
// warning once, and after that what is found for whoever wants to know.
//
//go:noinline
func (s *Site) tellCut(found *line.Finding) {
	fields := []zap.Field{
		zap.Duration("age", found.Age), zap.Float64("share", roundShare(found.Share)), zap.Duration("hold", s.Line.Kept()),
	}
	after := strconv.FormatFloat(found.Age.Seconds(), 'f', -1, 64) + " s"
	if found.Mended {
		s.Log.Info("nothing cuts silent connections after "+after+" any more", fields...)
		return
	}
	advice := "choose hold below that"
	if s.Line.Auto() {
		advice = "hold is kept below that"
	}
	tell := s.Log.Info
	s.cut.Do(func() { tell = s.Log.Warn })
	tell("something cuts silent connections after "+after+": "+advice, fields...)
}
