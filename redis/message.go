package redis

import (
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// acknowledged appends to who all that have to look now, because n is heard from
// now on, within the time that it also returns.
func (ln *line) acknowledged(who []listener, msg *goredis.Subscription) ([]listener, time.Duration) {
	l := ln.link
	l.mu.Lock()
	defer l.mu.Unlock()

	if opposite, ok := strings.CutSuffix(msg.Kind, "unsubscribe"); ok {
		// It is the answer to ours, unless a cluster has moved the slot.
		n := name{command(opposite + "subscribe"), msg.Channel}
		if ln.sent[n] {
			delete(ln.sent, n)
			ln.touch(n)
		}
		return who, 0
	}

	n := name{command(msg.Kind), msg.Channel}
	s := l.subscriptions[n]
	if _, sent := ln.sent[n]; !sent || s == nil || s.line != ln {
		return who, 0 // let go meanwhile
	}
	ln.sent[n] = true
	delete(ln.alone, n)
	within := time.Duration(0)
	if s.missed {
		within = l.pace.spread
		s.missed = false
	}
	return s.appendTo(who), within
}

// listeners appends to who all that listen to what a message came on.
func (ln *line) listeners(who []listener, msg *goredis.Message) []listener {
	names := []name{{subscribe, msg.Channel}, {ssubscribe, msg.Channel}} // it does not say which
	if msg.Pattern != "" {
		names = []name{{psubscribe, msg.Pattern}}
	}

	l := ln.link
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range names {
		if s := l.subscriptions[n]; s != nil && s.line == ln {
			who = s.appendTo(who)
		}
	}
	return who
}
