package stream

import (
	"net/http"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/park"
)

// say sends some texts, or the head alone, and reports whether the client takes them.
func (l *line) say(texts ...[]byte) bool {
	if l.detached != nil {
		l.spoken, l.cut = time.Now(), !l.detached.Say(texts...)
		return !l.cut
	}
	ctrl := http.NewResponseController(l.w)
	park.LimitStall(l.p, ctrl)
	defer park.ForgetStall(ctrl)
	for _, text := range texts {
		for more := false; len(text) > 0; more = true {
			if more {
				park.LimitStall(l.p, ctrl)
			}
			n := min(len(text), park.Piece)
			if _, err := l.w.Write(text[:n]); err != nil {
				l.cut = true
				return false
			}
			text = text[n:]
		}
	}
	l.spoken = time.Now()
	l.cut = ctrl.Flush() != nil
	return !l.cut
}
