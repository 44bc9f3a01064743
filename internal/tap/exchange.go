package tap

import (
	"bufio"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
)

// Exchange says what is to be done to the answer of a client's own exchange with the
// backend (contract 3.8). Its methods are called once at most, one after the other;
// End and Late may be called on a goroutine of their own.
//
// The header that they get is that of the answer. It may be changed, but not kept: only
// what Begin gets, which is the handlers', may be read by these later.
type Exchange interface {
	// Begin is called with the final head, before any of it is sent. It reports
	// whether the body is needed to finish the header; else the answer streams.
	Begin(status int, header http.Header) (needBody bool)

	// End is called with the whole body, where Begin has asked for it. It finishes
	// the header, and returns the status of the answer: where that has no body (304),
	// none is sent. The body must neither be changed nor kept.
	End(status int, header http.Header, body []byte) int

	// Late is called in place of End where the body is too large, has not come within
	// half a second, or is not as long as announced. The answer then goes out as it is.
	Late(status int, header http.Header)
}

// Serve has next answer a client's own exchange, and x look at it. At most limit
// bytes of a body are kept back.
//
// Where x does not need the body, the answer streams as if Serve was not there. Where
// it does, head and body are kept back until next has returned, and so are flushes;
// informational responses pass. If next fails or panics before the head is out,
// nothing was sent, and w's header is as it was. An answer to a HEAD, one without a
// body and one that is announced to be larger than limit never wait.
func Serve(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, limit int64, x Exchange) error {
	return serve(w, r, next, &own{limit: limit, x: x})
}

// ServeShown is Serve where handlers behind look at the fields of the answer before its
// head: the placeholders http.response.header read w's header, and so what the handlers
// set is there at once. They must not change what Header has given them before the head
// once that is out, but ask it again, as for trailers.
func ServeShown(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, limit int64, x Exchange) error {
	return serve(w, r, next, &own{limit: limit, x: x, shown: true, preset: fieldsOf(w.Header())})
}

func serve(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, o *own) error {
	o.ResponseWriter, o.head = w, r.Method == http.MethodHead
	returned := false
	defer func() {
		if !returned {
			o.abort()
		}
	}()
	err := next.ServeHTTP(o, r)
	returned = true
	return o.finish(err)
}

// own is the response writer of a client's own exchange.
type own struct {
	caddyhttp.ResponseWriterWrapper
	x     Exchange
	limit int64
	head  bool // the request is a HEAD
	mute  bool // the handlers have returned without a word
	shown bool // the handlers' header is the client's until the head

	preset []field // the client's header before, where it is shown

	// The handlers' header. It is not the client's, for they may set trailers in it
	// while the time that a body is waited for runs out on another goroutine.
	header http.Header

	status once
	kept   *kept // nil where the answer streams from the start
}

// Header is the handlers'.
func (w *own) Header() http.Header {
	if w.shown && w.status == 0 {
		return w.ResponseWriter.Header()
	}
	if w.header == nil {
		preset := w.ResponseWriter.Header()
		w.header = make(http.Header, max(len(preset), headerSize))
		replace(w.header, preset)
	}
	return w.header
}

// headerSize is how many fields there is room for from the start: most answers have
// no more, and up to so many a map is one piece of memory.
const headerSize = 8

// begin has x look at the final head, and hands it over or begins to keep back. It
// returns the status of the answer.
func (w *own) begin(status int) int {
	header := w.Header()
	if w.x.Begin(status, header) {
		length := announced(status, header, w.head)
		switch {
		case !w.head && status == http.StatusNoContent:
			status = w.x.End(status, header, []byte{}) // all of it is here
		// A status that net/http panics about is to do so here, where somebody recovers.
		case !w.head && httphdr.HasBody(status) && length <= w.limit && status <= 999:
			w.keep(length)
			return status
		default:
			w.x.Late(status, header)
		}
	}
	replace(w.ResponseWriter.Header(), header)
	return status
}

// inform sends an informational response, whose fields are not those of the final one
// unless the handlers leave them there.
func (w *own) inform(status int) {
	if w.header == nil {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	header := w.ResponseWriter.Header()
	preset := maps.Clone(header)
	replace(header, w.header)
	w.ResponseWriter.WriteHeader(status)
	replace(header, preset)
}

func (w *own) WriteHeader(status int) {
	switch {
	case w.status.see(status):
		status = w.begin(status)
	case w.status == 0:
		w.inform(status)
		return
	}
	if w.kept == nil {
		w.ResponseWriter.WriteHeader(status) // a second one too: net/http has a log line for it
	}
}

func (w *own) Write(p []byte) (int, error) {
	if w.status.see(http.StatusOK) {
		w.begin(http.StatusOK)
	}
	if w.kept != nil {
		if n, write, err := w.keepBack(p); !write {
			return n, err
		}
	}
	return w.ResponseWriter.Write(p)
}

// ReadFrom keeps sendfile where what is in front has it, and nothing is kept back.
func (w *own) ReadFrom(r io.Reader) (n int64, err error) {
	if w.status == 0 {
		var whole bool
		if n, whole, err = readFirst(w, r); whole || err != nil {
			return n, err
		}
	}
	for w.kept != nil {
		space, err := w.space()
		if err != nil {
			return n, err
		}
		if space == nil {
			break // all streams now
		}
		got, readErr := r.Read(space)
		if got > 0 {
			put, err := w.Write(space[:got])
			n += int64(put)
			if err != nil {
				return n, err
			}
		}
		if readErr == io.EOF {
			return n, nil
		}
		if readErr != nil {
			return n, readErr
		}
	}
	rest, err := w.ResponseWriterWrapper.ReadFrom(r)
	return n + rest, err
}

// FlushError sends what there is, if nothing is kept back; else it is done later.
func (w *own) FlushError() error {
	if w.status.see(http.StatusOK) {
		w.begin(http.StatusOK)
	}
	if w.kept != nil {
		if flush, err := w.flushLater(); !flush {
			return err
		}
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush is for handlers that ask for an [http.Flusher].
func (w *own) Flush() { w.FlushError() }

// Hijack ends the exchange: its connection is the handlers' now.
func (w *own) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.kept != nil {
		w.letGo()
	}
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.status.see(http.StatusSwitchingProtocols)
	}
	return conn, rw, err
}

// finish ends the exchange after the handlers have returned err.
func (w *own) finish(err error) error {
	if w.status == 0 {
		if err != nil {
			// The answer to an error has their fields: file_server's Allow with a 405.
			if w.header != nil {
				replace(w.ResponseWriter.Header(), w.header)
			}
			return err
		}
		// Nothing was written, which is a 200 without a body when it gets to net/http.
		w.mute = true
		w.status.see(http.StatusOK)
		w.begin(http.StatusOK)
	}
	if w.kept != nil && !w.endKeeping(err) {
		return err
	}
	w.trail()
	return err
}

// trail hands over the trailers, which the handlers may set until they return.
func (w *own) trail() {
	var header http.Header
	announced := len(w.header["Trailer"]) > 0
	for name, values := range w.header {
		if !strings.HasPrefix(name, http.TrailerPrefix) && !(announced && isTrailer(name, w.header)) {
			continue
		}
		if header == nil {
			header = w.ResponseWriter.Header()
		}
		if strings.HasPrefix(name, http.TrailerPrefix) && !w.mute {
			// Of a short body that it has in one piece, net/http says the length, and then
			// there is no place for trailers that were not announced.
			http.NewResponseController(w.ResponseWriter).Flush()
		}
		header[name] = values
	}
}

// Interface guards
var (
	_ http.ResponseWriter = (*own)(nil)
	_ http.Flusher        = (*own)(nil)
	_ http.Hijacker       = (*own)(nil)
	_ io.ReaderFrom       = (*own)(nil)
)
