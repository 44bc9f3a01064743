package detach

import (
	"fmt"
	"log"
	"net/http"
	"runtime/debug"
)

// guard keeps a panic to the connection that it is of, as the server does: nobody else's
// connection ends by it, and nor does the process. It is deferred by all that is done to a
// connection on goroutines that are not its request's, while c.mu is held.
func (c *connection) guard() {
	if p := recover(); p != nil {
		c.logPanic(p)
		c.fail()
	}
}

// guardWrapped has a panic of what a listener wrapper has made of the connection be an
// error of it. It is deferred where c.mu is not held.
func (c *connection) guardWrapped(err *error) {
	if p := recover(); p != nil {
		c.logPanic(p)
		*err = fmt.Errorf("the connection panicked: %v", p)
	}
}

// logPanic tells of a panic as the server tells of those of its requests.
func (c *connection) logPanic(p any) {
	if p == http.ErrAbortHandler {
		return
	}
	logf := log.Printf
	if of := c.gate.server.ErrorLog; of != nil {
		logf = of.Printf
	}
	logf("http: panic serving %v: %v\n%s", c.conn.RemoteAddr(), p, debug.Stack())
}

// fail closes the connection, and has its poll leave whatever it is counted in and has not
// left. Like one whose handler panics, it has no outcome.
func (c *connection) fail() {
	k := c.poll
	if k == nil {
		c.close()
		return
	}
	k.lobby.crowds.leave(c)
	c.poll = nil
	defer c.gate.answered()
	defer c.close()
	defer k.count()
	// Each of these may be what has panicked.
	k.try(c, func() { k.waiter.Leave(); k.lobby.Spot.Departed() })
	if s := k.stream; s != nil && s.Stream != nil {
		k.try(c, func() { k.askedWith(s.Accept()) })
		k.try(c, k.close)
	}
	k.try(c, func() { k.log(k.partial(), nil) })
}

// partial is as much of an answer as there is at the end of a stream, or when a panic ends it.
func (k *parked) partial() *answer {
	a := &answer{header: k.header}
	if s := k.stream; s != nil && s.begun {
		a.status, a.taken = http.StatusOK, s.size
	}
	return a
}

// try does one thing of several that are done whatever becomes of the others.
func (k *parked) try(c *connection, f func()) {
	defer func() {
		if p := recover(); p != nil {
			c.logPanic(p)
		}
	}()
	f()
}

// count counts the poll no more among the detached. Twice is once.
func (k *parked) count() {
	if !k.left {
		k.left = true
		k.lobby.Count(-1)
	}
}
