package detach

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/park"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// stage is where a connection is on its way.
type stage uint8

const (
	leaving stage = iota // the handlers around its request have not returned
	waiting              // its poll waits
	telling              // its poll is being answered
	idle                 // its poll has its answer, and the next request has not begun
	over                 // it is closed, or the server's again
)

// connection is one that was taken from the server, and what waits there.
type connection struct {
	gate *gate

	mu     sync.Mutex // protects what follows
	conn   net.Conn
	rest   []byte          // that were read of the next request
	poll   *parked         // nil once it is answered
	was    *returning      // as this poll the request comes back; nil if it was not parked
	timer  *time.Timer     // of the poll, and then of the idle connection
	due    time.Time       // when it is to go off: a call before that is of an older one
	raw    syscall.RawConn // by which it is watched; nil if it is read
	token  uint64          // that tells it from all others that are or were watched
	giving net.Conn        // what the server gets when a goroutine that reads has ended
	stage  stage
	early  bool // the next request has begun before the answer, or may have
	gone   bool // the client has left while it was answered
	closes bool // after the answer
	passes bool // the request goes to the server once more
	reads  bool // a goroutine reads from it
}

// parked is a poll that waits, and what its answer needs.
type parked struct {
	lobby  *Lobby
	poll   *poll.Poll
	waiter poll.Waiter
	header http.Header // as the handlers on the way to us have set it; shared
	logged bool        // the access log has a line of it
	closes bool        // the client wants no other answer on this connection
	left   bool        // it is not counted any more
	stream *following  // nil of a poll that is told once

	// protected by the lobby's crowds.mu
	crowd *crowd // nil if it is in none
	place int    // in the crowd
}

// returned is a connection of which something was read already.
type returned struct {
	net.Conn
	rest []byte
	poll *returning // nil if its request has been answered
}

func (c *returned) Read(b []byte) (int, error) { return readRest(&c.rest, c.Conn, b) }

// ReadFrom has a file sent as the connection sends it by itself.
func (c *returned) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// CloseWrite closes the side of the server, as one does that refuses the rest of a body.
func (c *returned) CloseWrite() error {
	if conn, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return conn.CloseWrite()
	}
	return errors.ErrUnsupported
}

// returnedTLS is that of a TLS connection, whose state the server asks for.
type returnedTLS struct {
	*tls.Conn
	rest []byte
	poll *returning
}

func (c *returnedTLS) Read(b []byte) (int, error) { return readRest(&c.rest, c.Conn, b) }

func readRest(rest *[]byte, conn net.Conn, b []byte) (int, error) {
	if len(*rest) == 0 {
		return conn.Read(b)
	}
	n := copy(b, *rest)
	if *rest = (*rest)[n:]; len(*rest) == 0 {
		*rest = nil
	}
	return n, nil
}

// own makes conn, of which r may have read more than the request, the connection's.
func (c *connection) own(conn net.Conn, r *bufio.Reader) {
	if n := r.Buffered(); n > 0 {
		rest, _ := r.Peek(n)
		c.rest = bytes.Clone(rest)
	}
	switch of := conn.(type) {
	case *returned:
		conn, c.rest = of.Conn, append(c.rest, of.rest...)
	case *returnedTLS:
		conn, c.rest = of.Conn, append(c.rest, of.rest...)
	}
	c.conn, c.early = conn, len(c.rest) > 0
}

// armed has the connection watched, and its poll look and wait: the handlers around it
// have returned. A stream is told v first, if that is Hold: by now its poll may have something
// to ask, and a client that waits for that is not to be left without a head. gone says that
// the client has left before that.
func (c *connection) armed(v poll.Verdict, gone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.guard()
	_ = c.conn.SetDeadline(time.Time{}) // what the server has set
	c.gate.add(c)
	c.stage = waiting
	left := c.poll.poll.TimeLeft()
	if st := c.poll.stream; st != nil {
		left = park.Pause(c.poll.poll, st)
	}
	c.due = time.Now().Add(left)
	c.timer = time.AfterFunc(left, c.timeUp)
	if c.gone = gone; gone {
		c.end(poll.Verdict{Kind: poll.Gone})
		return
	}
	c.watch()
	if st := c.poll.stream; st != nil && v.Kind == poll.Hold {
		if end, more := c.poll.lobby.Spot.Tell(c.poll.poll, &c.poll.waiter, v, st); !more {
			c.end(end)
			return
		}
	}
	c.step()
}

// look has the poll look again.
func (c *connection) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.guard()
	if c.stage == waiting {
		c.step()
	}
}

// step is one step of the poll: it ends, or awaits something.
func (c *connection) step() {
	k := c.poll
	if k.stream != nil {
		c.goOn()
		return
	}
	spot := k.lobby.Spot
	v, awaited := spot.Step(k.poll, &k.waiter)
	switch {
	case awaited == nil:
		c.end(v)
	case k.poll.Draining:
		// nothing comes any more
	case spot.Lot.IsDrained():
		k.poll.Draining = true
		c.reset(spot.DrainDelay())
	default:
		k.lobby.crowds.leave(c)
		k.lobby.crowds.join(c, awaited)
	}
}

// reset has the timer go off after d.
func (c *connection) reset(d time.Duration) {
	c.due = time.Now().Add(d)
	c.timer.Reset(d)
}

// timeUp is called by the timer.
func (c *connection) timeUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.guard()
	if time.Now().Before(c.due) {
		return
	}
	switch c.stage {
	case waiting:
		if c.poll.stream != nil {
			c.pauseOver()
			return
		}
		p := c.poll.poll
		v := p.TimeUp(&c.poll.waiter, c.poll.waiter.Snapshot())
		if v.Kind == poll.Patience {
			p.Limit = 0 // what the check says that it still waits for ends the wait
			c.reset(p.PatienceLeft())
			return
		}
		c.end(v)
	case idle:
		c.close()
	}
}

// end has the poll told v, and wait no more.
func (c *connection) end(v poll.Verdict) {
	k := c.poll
	p, spot := k.poll, k.lobby.Spot
	c.timer.Stop()
	k.lobby.crowds.leave(c)
	drained := spot.Lot.IsDrained()
	passes := (v.Kind == poll.Pass || v.Kind == poll.Moved) && !(k.stream != nil && k.stream.Begun())
	place := passes && !drained && k.waiter.Reserve()
	k.waiter.Leave()
	spot.Departed()
	if !p.ParkedAt.IsZero() {
		p.Held = time.Since(p.ParkedAt)
	}
	if s := k.stream; s != nil {
		p.Attach()
		k.askedWith(s.Accept())
		var err error
		if v, err = s.End(v); p.Outcome != "" {
			c.endStream(err)
			return
		}
	}
	if !passes {
		c.tell(v, drained)
		return
	}
	if !p.ParkedAt.IsZero() {
		c.was = expect(spot, p, place)
	}
	c.pass()
}

// pass gives the request back to the server, to ask for itself (contract 3.1).
func (c *connection) pass() {
	k := c.poll
	c.rest = append(once(k.poll), c.rest...)
	c.poll, c.passes = nil, true
	k.count()
	c.giveBack()
}

// told ends the answer.
func (c *connection) told() {
	c.gate.answered()
	c.poll = nil
	switch {
	case c.gone, c.closes, c.gate.isClosing():
		c.close()
	case c.early:
		c.giveBack()
	default:
		c.stage = idle
		c.due = c.due.Add(math.MaxInt64) // the timer may have gone off, and wait for us
		if limit := idleTimeout(c.gate.server); limit > 0 {
			c.reset(limit)
		}
		if c.gate.isClosing() { // it has not seen that this one is idle
			c.close()
		}
	}
}

// idleTimeout is for how long a connection may be idle; 0 is for ever.
func idleTimeout(s *http.Server) time.Duration {
	if s.IdleTimeout != 0 {
		return s.IdleTimeout
	}
	return s.ReadTimeout
}

// notice is called when there is something to read, or, with gone, when there will
// never be anything any more. The connection is not watched any more, but for what
// [connection.watchOn] asks for.
func (c *connection) notice(gone bool) {
	switch c.stage {
	case waiting:
		if s := c.poll.stream; gone && s != nil && s.writing {
			c.gone = true // what is being written fails, or is the last but for the end
			return
		}
		if c.gone = gone; gone {
			c.end(poll.Verdict{Kind: poll.Gone})
			return
		}
		c.early = true
		c.watchOn()
	case telling:
		c.early = c.early || !gone
		c.gone = c.gone || gone
	case idle:
		if gone {
			c.close()
			return
		}
		c.giveBack()
	}
}

// closeIdle closes the connection if it has its answer.
func (c *connection) closeIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.guard()
	if c.stage == idle {
		c.close()
	}
}

// close ends the connection. Twice is once.
func (c *connection) close() {
	if c.stage == over {
		return
	}
	c.stage = over
	c.timer.Stop()
	c.unwatch()
	c.gate.remove(c)
	if c.gone && !isBare(c.conn) {
		// The farewell of TLS waits for a client that has left without reading what there
		// was, and who notices that waits for nobody.
		go c.conn.Close()
		return
	}
	_ = c.conn.Close()
}

// giveBack gives the connection back to the server, which serves its next request.
func (c *connection) giveBack() {
	c.stage = over
	c.timer.Stop()
	c.unwatch()
	c.gate.remove(c)
	conn := c.conn
	if len(c.rest) > 0 {
		if t, ok := conn.(*tls.Conn); ok {
			conn = &returnedTLS{t, c.rest, c.was}
		} else {
			conn = &returned{conn, c.rest, c.was}
		}
	}
	if c.reads { // on a goroutine, which has to end first
		c.giving = conn
		_ = c.conn.SetReadDeadline(time.Unix(1, 0))
		return
	}
	c.give(conn)
}

// give has the server serve conn. One that is shut down reads from it no more: it is
// closed, unless its request is under way.
func (c *connection) give(conn net.Conn) {
	switch given := c.gate.give(conn, c.passes); {
	case c.passes && !given:
		c.gate.serveLast(conn)
	case c.passes:
		c.gate.answered()
	case !given:
		_ = conn.Close()
	}
}
