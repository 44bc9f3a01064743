package ops

import (
	"math"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-longpoll/caddy-longpoll/internal/line"
)

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
