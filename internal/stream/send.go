package stream

import (
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/park"
)

// maxStall is for how long a client may take nothing of what it is told.
const maxStall = 10 * time.Second

// piece is what a client has to take within maxStall, in bytes: the end of a write says
// that all of it has been taken, and nothing before that says anything.
const piece = 8 << 10

// send writes text, and reports whether the client takes it. What is not flushed may be
// sent later.
func (l *line) send(text []byte) bool {
	defer park.ForgetStall(l.ctrl)
	for len(text) > 0 {
		n := min(len(text), piece)
		park.LimitStall(l.p, l.ctrl, maxStall)
		if _, err := l.w.Write(text[:n]); err != nil {
			return false
		}
		text = text[n:]
	}
	return true
}

// flush sends what was written, and reports whether the client takes it.
func (l *line) flush() bool {
	defer park.ForgetStall(l.ctrl)
	park.LimitStall(l.p, l.ctrl, maxStall)
	l.spoken = time.Now()
	return l.ctrl.Flush() == nil
}
