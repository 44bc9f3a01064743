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

// say sends some texts, or the head alone, and reports whether the client takes them.
func (l *line) say(texts ...[]byte) bool {
	park.LimitStall(l.p, l.ctrl, maxStall)
	defer park.ForgetStall(l.ctrl)
	for _, text := range texts {
		for more := false; len(text) > 0; more = true {
			if more {
				park.LimitStall(l.p, l.ctrl, maxStall)
			}
			n := min(len(text), piece)
			if _, err := l.w.Write(text[:n]); err != nil {
				l.cut = true
				return false
			}
			text = text[n:]
		}
	}
	l.spoken = time.Now()
	l.cut = l.ctrl.Flush() != nil
	return !l.cut
}
