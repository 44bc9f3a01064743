package park

import (
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// clearDeadlines takes away what would cut a request that is silent for longer:
// the server's write_timeout and read_timeout, and the rates that idle timeouts may
// ask for.
//
//go:noinline
func clearDeadlines(p *poll.Poll, w http.ResponseWriter) {
	p.Deadlines.Cleared = true
	ctx := p.Request.Context()
	reader, writer := caddyhttp.IdleTimeoutsFromContext(ctx)
	if reader != nil {
		reader.Deadline.HardDeadline = time.Time{}
	}
	if writer != nil {
		writer.Deadline.HardDeadline = time.Time{}
	}
	ctrl := http.NewResponseController(w)
	_ = ctrl.SetReadDeadline(time.Time{}) // what can not be set does not cut
	_ = ctrl.SetWriteDeadline(time.Time{})
	// For RestartDeadlines: a context is a chain of values, and when ten thousand
	// are released none of it is in any cache.
	p.Deadlines.Writer = writer
	if server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); server != nil {
		p.Deadlines.Timeout = time.Duration(server.WriteTimeout)
	}
}

// RestartDeadlines has the server's timeouts count from now on, for the client may
// be slow in reading its answer.
func RestartDeadlines(p *poll.Poll, w http.ResponseWriter) {
	now, writer := time.Now(), p.Deadlines.Writer
	if writer != nil {
		writer.Deadline.Start = now
	}
	if p.Deadlines.Timeout <= 0 {
		return
	}
	deadline := now.Add(p.Deadlines.Timeout)
	if writer != nil {
		writer.Deadline.HardDeadline = deadline
		writer.Ctrl = http.NewResponseController(laterDeadline{writer.ResponseWriter, deadline})
	}
	_ = http.NewResponseController(w).SetWriteDeadline(deadline)
}

// laterDeadline sets no deadline that is before min. A `timeouts` handler around us
// puts the one back that it found, which may have passed while the request was
// parked, and with which the answer would be lost that is still in the buffers.
type laterDeadline struct {
	http.ResponseWriter
	min time.Time
}

func (w laterDeadline) SetWriteDeadline(deadline time.Time) error {
	if !deadline.IsZero() && deadline.Before(w.min) {
		deadline = w.min
	}
	return http.NewResponseController(w.ResponseWriter).SetWriteDeadline(deadline)
}

// MaxStall is for how long the client of a stream may take nothing of what it is told.
const MaxStall = 10 * time.Second

// Piece is what the client of a stream has to take within MaxStall, in bytes: the end of a
// write says that all of it has been taken, and nothing before that says anything.
const Piece = 8 << 10

// LimitStall has what a stream writes next fail unless its client takes it within [MaxStall].
func LimitStall(p *poll.Poll, ctrl *http.ResponseController) {
	now := time.Now()
	if writer := p.Deadlines.Writer; writer != nil {
		writer.Deadline.Start = now // its least rate is not that of a stream, which is silent
	}
	_ = ctrl.SetWriteDeadline(now.Add(MaxStall))
}

// ForgetStall ends what LimitStall has begun: on HTTP/2 a deadline that passes ends a
// stream that is silent, and on HTTP/1.1 it is that of the next answer too.
func ForgetStall(ctrl *http.ResponseController) {
	_ = ctrl.SetWriteDeadline(time.Time{})
}
