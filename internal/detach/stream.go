package detach

import (
	"bytes"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/park"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// following is a stream, whose client is told over the connection, in chunks (RFC 9112,
// section 7.1).
type following struct {
	park.Stream
	header  http.Header // of the head, until that is sent; nil until it is asked for
	begun   bool        // the head is sent
	size    int         // how much of the body the client has taken, in bytes
	rest    [][]byte    // what it has not taken yet
	left    int         // how much of that is of the body
	writing bool        // a goroutine writes that
	cut     bool        // the client has not taken all of it
}

// Header is that of the head, which goes out with what is said first.
func (c *connection) Header() http.Header {
	s := c.poll.stream
	if s.header == nil {
		s.header = c.poll.header.Clone()
	}
	return s.header
}

// head appends the head, as net/http would write it.
func (c *connection) head(b *bytes.Buffer) {
	k := c.poll
	k.header = k.lobby.preset(c.Header(), &k.lobby.lastHead)
	k.stream.header, k.stream.begun = nil, true
	head := &answer{header: k.header, status: http.StatusOK}
	head.line(b)
	head.fields(b, map[string]bool{"Content-Length": true}, "", c.closesAfter())
	b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
}

// closesAfter reports whether nothing comes on the connection after its answer.
func (c *connection) closesAfter() bool {
	k := c.poll
	return k.closes || k.lobby.Spot.Lot.IsDrained() || c.gate.isClosing() || slices.ContainsFunc(k.header["Connection"], isClose)
}

// plainly reports whether what follows the header of a stream is chunks and nothing else: a
// handler on the way to us may have named a trailer, or another coding.
func plainly(header http.Header) bool {
	for name := range header {
		if name == "Trailer" || name == "Transfer-Encoding" || strings.HasPrefix(name, http.TrailerPrefix) {
			return false
		}
	}
	return true
}

// lastChunk ends a body.
const lastChunk = "0\r\n\r\n"

// goOn has the client told what there is to say, and then waits for more.
func (c *connection) goOn() {
	k := c.poll
	p, spot := k.poll, k.lobby.Spot
	for !k.stream.writing && !p.Draining { // else it goes on when that has ended, or nothing comes any more
		v, awaited, more := spot.GoOn(p, &k.waiter, k.stream)
		switch {
		case !more:
			c.end(v)
			return
		case awaited == nil:
			continue
		}
		k.lobby.crowds.leave(c)
		switch drained := spot.Lot.IsDrained(); {
		case drained && !k.waiter.Parked():
			c.end(poll.Verdict{Kind: poll.Drain})
			return
		case drained:
			p.Draining = true
			c.reset(spot.DrainDelay())
			return
		}
		k.lobby.crowds.join(c, awaited)
		c.reset(park.Pause(p, k.stream))
		return
	}
}

// pauseOver is called when nothing has come of what the stream awaits.
func (c *connection) pauseOver() {
	k := c.poll
	p := k.poll
	switch {
	case k.stream.writing: // which takes the time that it takes
	case p.Draining:
		c.end(poll.Verdict{Kind: poll.Drain})
	default:
		if end, more := k.lobby.Spot.Beat(p, &k.waiter, k.stream); !more {
			c.end(end)
			return
		}
		c.reset(park.Pause(p, k.stream))
	}
}

// Say has the client told some texts, and the head before the first, and reports whether
// it can still be told something. What it does not take at once a goroutine of its own
// waits for.
func (c *connection) Say(texts ...[]byte) (ok bool) {
	s := c.poll.stream
	if s.cut {
		return false
	}
	b := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(b)
	b.Reset()
	if !s.begun {
		c.head(b)
	}
	n := 0
	for _, text := range texts {
		n += len(text)
	}
	s.left += n
	if n == 0 { // which would be the last chunk
		texts = nil
	} else {
		b.Write(strconv.AppendInt(b.AvailableBuffer(), int64(n), 16))
		b.WriteString("\r\n")
	}
	if n > oneWrite {
		c.send(b.Bytes(), true)
		b.Reset()
		for _, text := range texts {
			c.send(text, false)
		}
	} else {
		for _, text := range texts {
			b.Write(text)
		}
	}
	if n > 0 {
		b.WriteString("\r\n")
	}
	c.send(b.Bytes(), true)
	c.sent()
	return !s.cut
}

// send writes what the connection takes at once, and keeps the rest, or a copy of it where
// b is to be used again.
func (c *connection) send(b []byte, again bool) {
	s := c.poll.stream
	if s.cut {
		return
	}
	if len(s.rest) == 0 && c.raw != nil && isBare(c.conn) {
		n, err := c.write(b)
		if err != nil {
			s.cut = true
			return
		}
		b = b[n:]
	}
	switch {
	case len(b) == 0:
	case again:
		s.rest = append(s.rest, bytes.Clone(b))
	default:
		s.rest = append(s.rest, b)
	}
}

// sent is called when all has been sent or kept.
func (c *connection) sent() {
	switch s := c.poll.stream; {
	case s.cut:
	case len(s.rest) == 0:
		s.size, s.left = s.size+s.left, 0
	case !s.writing:
		s.writing = true
		go c.writeSlowly(c.poll)
	}
}

// writeSlowly writes what is kept for the client of k, which takes it slowly, or whose
// connection does something to what is written, such as to encrypt it.
func (c *connection) writeSlowly(k *parked) {
	var n int
	var err error
	for more := true; more; {
		var piece []byte
		if piece, more = c.took(k, n, err); more {
			n, err = c.writeTo(piece)
		}
	}
}

func (c *connection) writeTo(b []byte) (n int, err error) {
	defer c.guardWrapped(&err)
	return c.conn.Write(b)
}

// took notes that the client of k has taken n bytes of what is kept for it. It returns what
// is to be taken next, and within what time is set; nothing more has it go on otherwise.
func (c *connection) took(k *parked, n int, err error) (piece []byte, more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.poll != k {
		return nil, false // by a panic
	}
	defer c.guard()
	s := k.stream
	if s.rest[0] = s.rest[0][n:]; len(s.rest[0]) == 0 {
		s.rest = s.rest[1:]
	}
	if len(s.rest) > 0 && err == nil {
		piece = s.rest[0][:min(len(s.rest[0]), park.Piece)]
		_ = c.conn.SetWriteDeadline(time.Now().Add(park.MaxStall))
		return piece, true
	}
	kept := 0
	for _, b := range s.rest {
		kept += len(b)
	}
	s.size += max(s.left-kept, 0)
	s.rest, s.left, s.writing, s.cut = nil, 0, false, err != nil
	_ = c.conn.SetWriteDeadline(time.Time{})
	s.Taken()
	switch {
	case c.stage == telling:
		c.ended()
	case s.cut, c.gone:
		c.end(poll.Verdict{Kind: poll.Gone})
	default:
		c.goOn()
	}
	return nil, false
}

// endStream has the stream end between two events, or as what was cut: it has said what
// there was to say.
func (c *connection) endStream(err error) {
	s := c.poll.stream
	c.stage = telling
	c.closes = c.closesAfter()
	if s.cut = s.cut || err != nil; !s.cut {
		if !s.begun {
			c.Say()
		}
		c.send([]byte(lastChunk), false)
		c.sent()
	}
	if !s.writing {
		c.ended()
	}
}

// ended is called when the client has taken the end of the stream, or never will.
func (c *connection) ended() {
	k := c.poll
	c.gone = c.gone || k.stream.cut
	k.close()
	c.written(k.partial(), nil)
}

// close counts the stream no more. Twice is once.
func (k *parked) close() {
	if s := k.stream; s != nil && s.Stream != nil {
		s.Close()
		s.Stream = nil
	}
}

// askedWith has the request be as its client has sent it. A check may read what it was
// made of.
func (k *parked) askedWith(accept []string) {
	r := *k.poll.Request
	r.Header = maps.Clone(r.Header)
	r.Header["Accept"] = accept
	k.poll.Request = &r
}
