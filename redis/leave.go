package redis

import (
	"slices"
	"time"

	"go.uber.org/zap"
)

// leave gives back what join has given.
func (l *link) leave(logger *zap.Logger) error {
	l.mu.Lock()
	if i := slices.Index(l.loggers, logger); i >= 0 {
		l.loggers = slices.Delete(l.loggers, i, i+1)
	}
	l.mu.Unlock()
	_, err := links.Delete(l.server.key())
	return err
}

// Destruct closes all connections. Who listens has something to say before: members of a
// cluster hand their leases on, and stop listening when that is done.
func (l *link) Destruct() error {
	if l.up() {
		select {
		case <-l.silence():
		case <-time.After(l.pace.goodbye):
		}
	}
	l.cancel()
	l.mu.Lock()
	l.closed = true
	client := l.client
	l.mu.Unlock()
	if client != nil {
		// A dial that is under way would keep a reload waiting.
		go client.Close()
	}
	return nil
}

// silence is closed as soon as nobody listens any more.
func (l *link) silence() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.quiet == nil {
		l.quiet = make(chan struct{})
		l.hushLocked()
	}
	return l.quiet
}

// hushLocked closes quiet if nobody listens any more and somebody waits for that.
func (l *link) hushLocked() {
	if l.quiet == nil {
		return
	}
	for _, s := range l.subscriptions {
		if len(s.listeners) > 0 {
			return
		}
	}
	select {
	case <-l.quiet:
	default:
		close(l.quiet)
	}
}
