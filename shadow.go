package longpoll

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
)

// observe is what `shadow` does with a request: the next handler gets it, and the
// client gets the answer, as if we were not there. Both are looked at in passing.
func (h *Handler) observe(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if !h.parkable(r) {
		return next.ServeHTTP(w, r)
	}
	q := h.question(r)
	q.begin()
	// Handlers behind us may change the request, and its body is known only when
	// they have read it.
	q.r = r.Clone(r.Context())
	var heard *overheard
	if r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0 {
		heard = &overheard{ReadCloser: r.Body, left: *h.MaxBody}
		r.Body = heard
	} else {
		q.overhear()
	}
	seen := &onlooker{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, q: q}
	defer seen.release()
	if err := next.ServeHTTP(seen, r); err != nil {
		return err
	}
	if heard != nil {
		body, ok := heard.all()
		if !ok {
			theShadow.unseen.Add(1)
			return nil
		}
		q.body = body
		q.overhear()
	}
	h.judge(q, seen)
	return nil
}

// overhear reads what is asked. What would be a bad request is not parked.
func (q *question) overhear() {
	if q.readWait() != nil {
		q.limit = 0
	}
	q.readSince()
	q.name = lot.Name{Method: q.r.Method, Host: strings.ToLower(q.r.Host), Path: q.r.URL.Path}
	q.base = q.digest()
}

// judge counts what would have become of q, whose client got what was seen.
func (h *Handler) judge(q *question, seen *onlooker) {
	a := seen.answer()
	notModified := seen.status == http.StatusNotModified && q.conditional()
	switch {
	case a == nil, h.Probe != nil && !notModified:
		// It is larger than max_body, a stream, or not what the version is read from.
		theShadow.unseen.Add(1)
		return
	case q.limit == 0 || !notModified && !q.wouldHold(a):
		theShadow.polls.Add(1)
		return
	}
	key := q.base
	if v := h.variationOf(a.header); v != nil {
		key = v.key(key, q.r.Header, q.id)
	}
	theShadow.polls.Add(1)
	theShadow.parked.Add(1)
	theShadow.checks.Add(h.shadow.checks(key, q.arrived, q.limit, time.Duration(*h.Interval)))
}

// wouldHold reports whether q would be parked if a were what its backend says.
func (q *question) wouldHold(a *answer) bool {
	s := &state{answer: a, seen: a, version: version{status: a.status}}
	// For placeholders; those in logs are not to notice.
	q.state = s
	defer func() { q.state = nil }()
	var text string
	if q.h.Version != "" {
		text = q.repl.ReplaceAll(q.h.Version, "")
	}
	q.h.identify(s, text)
	return q.holds(s)
}

// theShadow is what all handlers that shadow have counted since the process began.
var theShadow shadowCounts

type shadowCounts struct {
	polls  atomic.Int64 // whose answer was looked at
	parked atomic.Int64 // of these, those that would have been parked
	checks atomic.Int64 // that would have been made while they were
	unseen atomic.Int64 // polls whose answer could not be looked at
}

// shadow works out how many checks the resources would have had that the polls
// would have been parked on. It remembers those of max_resources at most, in two
// generations, so that it need not look for what to forget.
type shadow struct {
	mu          sync.Mutex // protects what follows
	max         int
	young, aged map[lot.Key]watched
}

// watched is a resource that somebody would be parked on.
type watched struct {
	due   time.Time // when the next check would begin
	until time.Time // when the last of those parked would go
}

// checks is how many checks there would have been since the last poll for the same
// resource that would have been parked, and because of this one: the first look,
// one per interval while somebody was parked, and one at once if its pause was
// over when nobody was.
func (s *shadow) checks(key lot.Key, now time.Time, limit, interval time.Duration) (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, known := s.young[key]
	if !known {
		w, known = s.aged[key]
	}
	end := now
	if w.until.Before(now) {
		end = w.until
	}
	if known && !w.due.After(end) {
		n = 1 + int64(end.Sub(w.due)/interval)
		w.due = w.due.Add(time.Duration(n) * interval)
	}
	if !w.due.After(now) {
		n++
		w.due = now.Add(interval)
	}
	if until := now.Add(limit); until.After(w.until) {
		w.until = until
	}
	if _, young := s.young[key]; s.young == nil || !young && len(s.young) >= max(s.max/2, 1) {
		s.aged, s.young = s.young, make(map[lot.Key]watched)
	}
	s.young[key] = w
	return n
}

// overheard is a request's body that is copied while others read it.
type overheard struct {
	io.ReadCloser

	mu   sync.Mutex // protects what follows: it may be read when its handler has returned
	copy bytes.Buffer
	left int64 // how much more may be copied; negative if it was too little
	end  bool  // all was read
}

func (b *overheard) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left -= int64(n); b.left >= 0 {
		b.copy.Write(p[:n])
	} else {
		b.copy = bytes.Buffer{}
	}
	b.end = b.end || err == io.EOF
	return n, err
}

// all is the whole body, if it was read to its end.
func (b *overheard) all() ([]byte, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.copy.Bytes()), b.end && b.left >= 0
}

// onlooker is a response writer that looks at what passes, and keeps nothing back.
type onlooker struct {
	*caddyhttp.ResponseWriterWrapper
	q      *question
	status int
	header http.Header
	body   bytes.Buffer // a copy, where it is needed
	needed bool
	slot   bool // of those that bound how many bodies are copied at once
	lost   bool // it can not be judged
}

func (w *onlooker) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.see(status)
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

func (w *onlooker) Write(p []byte) (int, error) {
	w.see(http.StatusOK)
	n, err := w.ResponseWriterWrapper.Write(p)
	w.copy(p[:n])
	return n, err
}

func (w *onlooker) ReadFrom(r io.Reader) (int64, error) {
	w.see(http.StatusOK)
	if w.needed {
		r = io.TeeReader(r, copier{w})
	}
	return w.ResponseWriterWrapper.ReadFrom(r)
}

// copier is a writer that copies what passes an onlooker.
type copier struct{ w *onlooker }

func (c copier) Write(p []byte) (int, error) {
	c.w.copy(p)
	return len(p), nil
}

// see notes how the answer begins.
func (w *onlooker) see(status int) {
	if w.status != 0 {
		return
	}
	h := w.q.h
	w.status, w.header = status, w.Header().Clone()
	length, err := strconv.ParseInt(w.header.Get("Content-Length"), 10, 64)
	w.lost = status == http.StatusSwitchingProtocols || err == nil && length > *h.MaxBody ||
		strings.HasPrefix(strings.ToLower(w.header.Get("Content-Type")), "text/event-stream")
	// Most answers can be judged by their header. What names a version is the
	// client or the configuration.
	named := h.Since != "" || len(w.q.r.Header["If-None-Match"]) > 0 || len(w.q.r.Header["If-Modified-Since"]) > 0
	w.needed = !w.lost && status != http.StatusNotModified && h.Probe == nil &&
		(len(h.HoldWhile) > 0 || h.Version != "" || named && (len(h.ignore) > 0 || w.header.Get("Etag") == ""))
}

// copy keeps a copy of a piece of the body: no more than max_body of each, and of
// no more answers at once than max_checks, as if they were checks.
func (w *onlooker) copy(p []byte) {
	if !w.needed {
		return
	}
	h := w.q.h
	if !w.slot {
		select {
		case h.slots <- struct{}{}:
			w.slot = true
		default:
		}
	}
	if !w.slot || int64(w.body.Len()+len(p)) > *h.MaxBody {
		w.lost, w.needed, w.body = true, false, bytes.Buffer{}
		return
	}
	w.body.Write(p)
}

// release gives the slot back.
func (w *onlooker) release() {
	if w.slot {
		w.q.h.slots.release()
	}
}

// answer is what was seen; nil if that can not be judged.
func (w *onlooker) answer() *answer {
	if w.lost || w.status == 0 {
		return nil
	}
	a := &answer{status: w.status, header: w.header, body: w.body.Bytes()}
	a.plain = decoder(strings.ToLower(a.header.Get("Content-Encoding")), a.body, *w.q.h.MaxBody)
	return a
}

// Interface guards
var (
	_ http.ResponseWriter = (*onlooker)(nil)
	_ io.ReaderFrom       = (*onlooker)(nil)
)
