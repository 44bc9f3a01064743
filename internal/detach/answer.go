package detach

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// answer is the response to a detached poll, until it is written as a whole. What is
// written to it must not change any more.
type answer struct {
	header http.Header
	status int // 0 until it is known
	body   []byte

	taken int // how much of the body the client has taken, in bytes
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
}

func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if a.body == nil {
		a.body = slices.Clip(b)
	} else {
		a.body = append(a.body, b...)
	}
	return len(b), nil
}

// line appends the status line, as net/http would write it.
func (a *answer) line(b *bytes.Buffer) {
	b.WriteString("HTTP/1.1 ")
	b.Write(strconv.AppendInt(b.AvailableBuffer(), int64(a.status), 10))
	b.WriteByte(' ')
	if text := http.StatusText(a.status); text != "" {
		b.WriteString(text)
	} else {
		b.WriteString("status code ")
		b.Write(strconv.AppendInt(b.AvailableBuffer(), int64(a.status), 10))
	}
	b.WriteString("\r\n")
}

// head appends the status line and the fields, as net/http would write them.
func (a *answer) head(b *bytes.Buffer, r *http.Request, closes bool) {
	a.line(b)
	h := a.header
	except := map[string]bool{"Content-Length": !httphdr.HasBody(a.status), "Content-Type": a.status == http.StatusNotModified}
	var length string
	if httphdr.HasBody(a.status) && r.Method != http.MethodHead {
		if n := strconv.Itoa(len(a.body)); !slices.Equal(h["Content-Length"], []string{n}) {
			except["Content-Length"], length = true, "Content-Length: "+n+"\r\n"
		}
		if _, set := h["Content-Type"]; !set && len(a.body) > 0 && len(h["Content-Encoding"]) == 0 {
			length += "Content-Type: " + http.DetectContentType(a.body) + "\r\n"
		}
	}
	a.fields(b, except, length, closes)
	b.WriteString("\r\n")
}

// fields appends the header but for some of it, and then what net/http adds, such as the
// length, which is not in the header that the access log shows.
func (a *answer) fields(b *bytes.Buffer, except map[string]bool, length string, closes bool) {
	h := a.header
	except["Transfer-Encoding"], except["Connection"] = true, closes
	_ = h.WriteSubset(b, except) // which has no line ends in its values, and what is no field is left out
	if _, set := h["Date"]; !set {
		b.WriteString("Date: " + date() + "\r\n")
	}
	b.WriteString(length)
	if closes {
		b.WriteString("Connection: close\r\n")
	}
}

// dates is the present second, as a Date field has it.
var dates struct {
	mu     sync.Mutex // protects what follows
	second int64
	text   string
}

func date() string {
	now := time.Now()
	dates.mu.Lock()
	defer dates.mu.Unlock()
	if second := now.Unix(); second != dates.second || dates.text == "" {
		dates.second, dates.text = second, now.UTC().Format(http.TimeFormat)
	}
	return dates.text
}

// tell answers the poll, and has the connection go on when that is written.
func (c *connection) tell(v poll.Verdict, closing bool) {
	k := c.poll
	c.stage = telling
	a := &answer{header: k.header.Clone()}
	err := k.answer(a, v)
	if v.Kind == poll.Gone {
		c.gone = true
		c.written(a, err)
		return
	}
	c.closes = k.closes || closing || c.gate.isClosing() || slices.ContainsFunc(a.header["Connection"], isClose)
	b := buffers.Get().(*bytes.Buffer)
	b.Reset()
	a.head(b, k.poll.Request, c.closes)
	body := a.body
	if k.poll.Request.Method == http.MethodHead || !httphdr.HasBody(a.status) {
		body = nil
	}
	a.taken = len(body)
	if len(body) <= oneWrite {
		b.Write(body)
		body = nil
	}
	n := 0
	if c.raw != nil && isBare(c.conn) {
		var failed error
		if n, failed = c.write(b.Bytes()); failed != nil {
			c.gone = true
			a.taken -= len(body) // what is small net/http takes for written, too
			n, body = b.Len(), nil
		}
	}
	if n == b.Len() && body == nil {
		buffers.Put(b)
		c.written(a, err)
		return
	}
	// The client is slow in reading, or something is done to what is written, such as to
	// encrypt it: nobody else waits for that.
	head := bytes.Clone(b.Bytes()[n:])
	buffers.Put(b)
	go c.writeRest(a, err, head, body)
}

// oneWrite is up to what size a body is copied to go out with its header.
const oneWrite = 8 << 10

// buffers are those of answers that are being written.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func isClose(field string) bool { return strings.EqualFold(strings.TrimSpace(field), "close") }

// answer fills in the response: what fails is told as Caddy tells it that has no routes
// for errors.
func (k *parked) answer(a *answer, v poll.Verdict) (err error) {
	defer func() {
		if p := recover(); p != nil {
			k.lobby.Log.Error("answering a detached poll panicked", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			err = caddyhttp.Error(http.StatusInternalServerError, fmt.Errorf("answering panicked: %v", p))
			a.status, a.body = http.StatusInternalServerError, nil
		}
	}()
	k.poll.Attach()
	err = k.lobby.Answer(k.poll, a, v)
	if err != nil {
		a.WriteHeader(statusOf(err))
	}
	a.WriteHeader(http.StatusOK)
	return err
}

// statusOf is the status of an error that a handler returns.
func statusOf(err error) int {
	var of caddyhttp.HandlerError
	if errors.As(err, &of) {
		return of.StatusCode
	}
	return http.StatusInternalServerError
}

// writeRest writes what is left of an answer, for as long as the server's timeouts allow.
func (c *connection) writeRest(a *answer, err error, head, body []byte) {
	n, failed := c.writeParts(c.poll.limits(), head, body)
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.guard()
	_ = c.conn.SetWriteDeadline(time.Time{})
	if failed != nil {
		c.gone = true
		a.taken -= min(len(head)+len(body)-n, len(body))
	}
	c.written(a, err)
}

// writeParts writes parts one after the other, each in time. n is how much of them all is
// written.
func (c *connection) writeParts(limits limits, parts ...[]byte) (n int, err error) {
	defer c.guardWrapped(&err)
	for _, b := range parts {
		for len(b) > 0 && err == nil {
			few := b[:min(len(b), chunk)]
			if at := limits.next(); !at.IsZero() {
				_ = c.conn.SetWriteDeadline(at)
			}
			var some int
			some, err = c.conn.Write(few)
			n, b = n+some, b[some:]
		}
	}
	return n, err
}

// chunk is how much of an answer has to be taken within write_idle_timeout.
const chunk = 64 << 10

// limits is until when an answer may take.
type limits struct {
	hard time.Time     // zero if it may take as long as it likes
	rest time.Duration // for one chunk; 0 is no limit
}

// limits are those of the server, from now on.
func (k *parked) limits() (l limits) {
	server, _ := k.poll.Request.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil {
		return l
	}
	if d := time.Duration(server.WriteTimeout); d > 0 {
		l.hard = time.Now().Add(d)
	}
	l.rest = max(time.Duration(server.WriteIdleTimeout), 0)
	return l
}

// next is until when the next chunk is to be written; zero is no limit.
func (l limits) next() time.Time {
	if l.rest == 0 {
		return l.hard
	}
	at := time.Now().Add(l.rest)
	if !l.hard.IsZero() && l.hard.Before(at) {
		return l.hard
	}
	return at
}

// written counts the poll, and has the access log tell of it, once its answer is written.
func (c *connection) written(a *answer, err error) {
	k := c.poll
	k.lobby.Told(k.poll)
	k.count()
	k.log(a, err)
	c.told()
}
