// Package tap has response writers that see what the handlers behind say: kept
// back ([Recorder], [Serve]) or in passing ([Head], [Onlooker]). It knows HTTP and
// Caddy's handlers, and nothing of polls, states and versions.
//
// All of them agree on when an answer begins: informational responses (1xx) pass,
// and the first other status is final, 101 too (RFC 9110, section 15.2). A body or a
// flush without a status says 200.
package tap

import (
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
)

// once is the status of a head that is seen once: 0 before it.
type once int

// see reports whether status is that of the final head, which has not passed before.
func (o *once) see(status int) bool {
	if *o != 0 || status < 200 && status != http.StatusSwitchingProtocols {
		return false
	}
	*o = once(status)
	return true
}

// announced is how long a body is said to be, in bytes; negative if that is not said,
// or if there is none, as in the answer to a HEAD (RFC 9110, section 8.6).
func announced(status int, header http.Header, bodiless bool) int64 {
	if bodiless || !httphdr.HasBody(status) {
		return -1
	}
	length, err := strconv.ParseInt(header.Get("Content-Length"), 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return -1 // net/http drops it
	}
	return length
}

// beyond reports whether the head says that the answer can not be kept: another
// protocol, a stream of events, or a body that is longer than limit.
func beyond(status int, header http.Header, bodiless bool, limit int64) bool {
	return status == http.StatusSwitchingProtocols ||
		httphdr.EventStream(header) ||
		announced(status, header, bodiless) > limit
}

// sniffLen is how many bytes net/http looks at to find a missing Content-Type.
const sniffLen = 512

// readFirst reads the first piece of a body whose head has not passed, in bytes, and
// reports whether that was all. As in net/http, an answer does not begin before its
// source has something: a handler whose source fails may still say so.
func readFirst(w io.Writer, r io.Reader) (n int64, whole bool, err error) {
	n, err = io.Copy(writerOnly{w}, io.LimitReader(r, sniffLen))
	return n, n < sniffLen, err
}

// writerOnly hides ReadFrom.
type writerOnly struct{ io.Writer }

// replace makes the fields of header those of by. An append to a field's values leaves
// the other's alone.
func replace(header, by http.Header) {
	clear(header)
	for name, values := range by {
		header[name] = slices.Clip(values)
	}
}

// isTrailer reports whether the field follows the body: by its name
// ([http.TrailerPrefix]), or since the header announces it (RFC 9110, section 6.6.2).
func isTrailer(name string, header http.Header) bool {
	if strings.HasPrefix(name, http.TrailerPrefix) {
		return true
	}
	for _, list := range header["Trailer"] {
		for announced := range strings.SplitSeq(list, ",") {
			if http.CanonicalHeaderKey(textproto.TrimString(announced)) == name {
				return true
			}
		}
	}
	return false
}

// Said is an answer as the handlers behind have said it.
type Said struct {
	Status int
	Header http.Header // as it was with the final status
	Body   []byte
}

// Head is a response writer that says when the final head passes, and keeps nothing
// back. What is not a method of it (Hijack, deadlines, full duplex) is found by
// Unwrap.
type Head struct {
	caddyhttp.ResponseWriterWrapper

	// onHead is called once, right before the final head is sent. It may change the
	// header.
	onHead func(status int, header http.Header)

	status once
}

// NewHead makes a Head in front of w.
func NewHead(w http.ResponseWriter, onHead func(status int, header http.Header)) *Head {
	return &Head{ResponseWriterWrapper: caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, onHead: onHead}
}

// Status is the final status; 0 before it.
func (w *Head) Status() int { return int(w.status) }

// Finish says that the handlers have returned without an error. Where they have
// written nothing, net/http is about to say 200 for them.
func (w *Head) Finish() { w.see(http.StatusOK) }

func (w *Head) see(status int) {
	if w.status.see(status) {
		w.onHead(status, w.ResponseWriter.Header())
	}
}

func (w *Head) WriteHeader(status int) {
	w.see(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *Head) Write(p []byte) (int, error) {
	w.see(http.StatusOK)
	return w.ResponseWriter.Write(p)
}

// ReadFrom keeps sendfile where what is in front has it.
func (w *Head) ReadFrom(r io.Reader) (n int64, err error) {
	if w.status == 0 {
		var whole bool
		if n, whole, err = readFirst(w, r); whole || err != nil {
			return n, err
		}
	}
	rest, err := w.ResponseWriterWrapper.ReadFrom(r)
	return n + rest, err
}

// FlushError sends the head, if that has not been done.
func (w *Head) FlushError() error {
	w.see(http.StatusOK)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush is for handlers that ask for an [http.Flusher].
func (w *Head) Flush() { w.FlushError() }

// Interface guards
var (
	_ http.ResponseWriter = (*Head)(nil)
	_ http.Flusher        = (*Head)(nil)
	_ io.ReaderFrom       = (*Head)(nil)
)
