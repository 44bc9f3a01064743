package tap

import (
	"bytes"
	"errors"
	"net/http"
	"slices"
	"sync"
)

// Why there is no answer in a Recorder, where no handler says it.
var (
	// ErrUnshared is of an answer that can not be shared: it is larger than the
	// limit, a stream or another protocol (101), or the recording was given up.
	ErrUnshared = errors.New("the answer can not be shared")

	// ErrAborted is of an answer that ends before its announced length, or that the
	// handlers have broken off.
	ErrAborted = errors.New("the backend aborted its answer")

	// ErrNothing is of handlers that have returned without an answer and without an
	// error.
	ErrNothing = errors.New("no handler answered the check")

	// errEnded is what handlers get that go on when nobody takes it any more.
	errEnded = errors.New("the exchange has ended")
)

// statusAborted is reverse_proxy's word for an exchange that was broken off.
const statusAborted = 499

// Recorder is a response writer that keeps an answer in memory. It does not unwrap
// to that of any client. Handlers may go on writing after it was given up.
type Recorder struct {
	preset   http.Header
	limit    int64
	bodiless bool
	stopped  chan struct{}

	header http.Header // the handlers'

	mu     sync.Mutex  // protects what follows
	status once        //
	final  http.Header // header as it was with the final status
	body   bytes.Buffer
	over   bool // no more is recorded
}

// NewRecorder makes a Recorder whose header begins as a copy of preset, and that
// keeps a body of at most limit bytes. It is bodiless for the answer to a HEAD, whose
// Content-Length announces nothing.
func NewRecorder(preset http.Header, limit int64, bodiless bool) *Recorder {
	header := preset.Clone()
	if header == nil {
		header = make(http.Header)
	}
	return &Recorder{preset: preset, limit: limit, bodiless: bodiless, stopped: make(chan struct{}), header: header}
}

// Preset is what the header began with. It must not be changed.
func (w *Recorder) Preset() http.Header { return w.preset }

// Stopped is closed when the answer turns out to be one that can not be shared.
func (w *Recorder) Stopped() <-chan struct{} { return w.stopped }

// Header is the handlers'.
func (w *Recorder) Header() http.Header { return w.header }

func (w *Recorder) WriteHeader(status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seeLocked(status)
}

func (w *Recorder) seeLocked(status int) {
	if w.over || !w.status.see(status) {
		return
	}
	w.final = w.header.Clone()
	if beyond(status, w.final, w.bodiless, w.limit) {
		w.stopLocked()
	}
}

func (w *Recorder) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seeLocked(http.StatusOK)
	if w.over {
		return 0, errEnded
	}
	if int64(w.body.Len()+len(p)) > w.limit {
		w.stopLocked()
		return 0, errEnded
	}
	return w.body.Write(p)
}

// FlushError begins the answer, as a flush does. It must be there: without it a flush
// is an error.
func (w *Recorder) FlushError() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seeLocked(http.StatusOK)
	return nil
}

func (w *Recorder) stopLocked() {
	w.over = true
	w.body = bytes.Buffer{}
	close(w.stopped)
}

// GiveUp ends the recording, and reports whether an answer had begun.
func (w *Recorder) GiveUp() (begun bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.body = bytes.Buffer{}
	return w.status != 0
}

// Before is the header as the handlers have left it; nil if an answer had begun. It is
// for when they have returned an error, whose answer bears it.
func (w *Recorder) Before() http.Header {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status != 0 {
		return nil
	}
	return w.header
}

// Result is what was recorded, after the handlers have returned err. It is an
// [ErrUnshared], err itself, an [ErrNothing] or an [ErrAborted] where there is no
// answer, in that order.
func (w *Recorder) Result(err error) (*Said, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.over:
		return nil, ErrUnshared
	case err != nil:
		return nil, err
	case w.status == 0:
		return nil, ErrNothing
	case w.status == statusAborted, int64(w.body.Len()) < announced(int(w.status), w.final, w.bodiless):
		return nil, ErrAborted
	}
	body := slices.Clip(w.body.Bytes()) // whatever the handlers still write comes behind it
	if body == nil || w.body.Cap()-len(body) > len(body)/8 {
		// Of what came in pieces the buffer's own array is up to twice as large.
		body = append(make([]byte, 0, len(body)), body...)
	}
	return &Said{Status: int(w.status), Header: w.final, Body: body}, nil
}

// Interface guards
var _ http.ResponseWriter = (*Recorder)(nil)
