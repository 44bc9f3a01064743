package tap

import (
	"bytes"
	"io"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Onlooker is a response writer that looks at what passes, and keeps nothing back.
type Onlooker struct {
	caddyhttp.ResponseWriterWrapper

	limit    int64
	bodiless bool
	need     func(status int, header http.Header) bool
	room     func() bool

	status once
	header http.Header  // as it was with the final status
	body   bytes.Buffer // a copy, where it is needed
	needed bool
	roomy  bool // room was asked, and said yes
	lost   bool // there is no whole answer to look at
}

// NewOnlooker makes an Onlooker in front of w. With the final head it asks need
// whether the body is needed too; need must not change the header. Before the first
// byte is copied it asks room whether there is a place for that. It copies at most
// limit bytes. It is bodiless for the answer to a HEAD.
func NewOnlooker(w http.ResponseWriter, limit int64, bodiless bool, need func(status int, header http.Header) bool, room func() bool) *Onlooker {
	return &Onlooker{
		ResponseWriterWrapper: caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		limit:                 limit,
		bodiless:              bodiless,
		need:                  need,
		room:                  room,
	}
}

// Status is the final status; 0 before it.
func (w *Onlooker) Status() int { return int(w.status) }

// Said is the answer that has passed, without a body where none was needed; nil if
// there was none, or none that can be kept. It is for when the handlers have returned.
func (w *Onlooker) Said() *Said {
	if w.lost || w.status == 0 {
		return nil
	}
	return &Said{Status: int(w.status), Header: w.header, Body: w.body.Bytes()}
}

func (w *Onlooker) see(status int) {
	if !w.status.see(status) {
		return
	}
	w.header = w.Header().Clone()
	w.lost = beyond(status, w.header, w.bodiless, w.limit)
	w.needed = !w.lost && w.need(status, w.header)
}

func (w *Onlooker) copy(p []byte) {
	if !w.needed {
		return
	}
	w.roomy = w.roomy || w.room()
	if !w.roomy || int64(w.body.Len()+len(p)) > w.limit {
		w.lost, w.needed, w.body = true, false, bytes.Buffer{}
		return
	}
	w.body.Write(p)
}

func (w *Onlooker) WriteHeader(status int) {
	w.see(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *Onlooker) Write(p []byte) (int, error) {
	w.see(http.StatusOK)
	n, err := w.ResponseWriter.Write(p)
	w.copy(p[:n])
	return n, err
}

// ReadFrom keeps sendfile where what is in front has it and the body is not needed.
func (w *Onlooker) ReadFrom(r io.Reader) (n int64, err error) {
	if w.status == 0 {
		var whole bool
		if n, whole, err = readFirst(w, r); whole || err != nil {
			return n, err
		}
	}
	if w.needed {
		r = io.TeeReader(r, copier{w})
	}
	rest, err := w.ResponseWriterWrapper.ReadFrom(r)
	return n + rest, err
}

// FlushError sends the head, if that has not been done.
func (w *Onlooker) FlushError() error {
	w.see(http.StatusOK)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush is for handlers that ask for an [http.Flusher].
func (w *Onlooker) Flush() { w.FlushError() }

// copier is a writer that copies what passes an Onlooker.
type copier struct{ w *Onlooker }

func (c copier) Write(p []byte) (int, error) {
	c.w.copy(p)
	return len(p), nil
}

// Interface guards
var (
	_ http.ResponseWriter = (*Onlooker)(nil)
	_ http.Flusher        = (*Onlooker)(nil)
	_ io.ReaderFrom       = (*Onlooker)(nil)
)
