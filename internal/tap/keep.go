package tap

import (
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
)

// patience is for how long an answer is kept back (contract 3.8).
const patience = time.Second / 2

// firstKept bounds what is allocated for a body because of its announced length
// alone, in bytes: what comes is to be paid for, and not what is said to come.
const firstKept = 64 << 10

// kept is what is kept back of an answer. It is let go by the handlers' goroutine, or
// by that of the timer while they are blocked: the lock is held while that one writes
// to the client, and nobody waits for it but the handlers, who would wait for the
// client themselves. Once it is let go, the timer's goroutine touches nothing any more.
type kept struct {
	timer *time.Timer // the handlers' goroutine's

	mu       sync.Mutex  // protects what follows
	header   http.Header // the client's; nil once it is sent
	preset   []field     // what it was before
	length   int64       // announced, in bytes; negative if it is not
	body     []byte
	flush    bool  // the handlers have flushed
	out      bool  // it was let go: all streams
	bodiless bool  // it was, without its body
	over     bool  // the handlers have failed before
	err      error // of writing it to the client
	trouble  any   // what was panicked with on the timer's goroutine
}

// keep begins to keep back an answer with a body of the announced length.
func (w *own) keep(length int64) {
	header := w.ResponseWriter.Header()
	preset := w.preset
	if !w.shown {
		preset = fieldsOf(header)
	}
	k := &kept{header: header, preset: preset, length: length}
	replace(header, w.header)
	w.kept = k
	k.timer = time.AfterFunc(patience, w.timeUp)
}

// field is a header field.
type field struct {
	name   string
	values []string
}

// fieldsOf are the fields of a header: in a slice, few take less memory than in a map.
func fieldsOf(header http.Header) []field {
	all := make([]field, 0, len(header))
	for name, values := range header {
		all = append(all, field{name, values})
	}
	return all
}

// failLocked ends the keeping for handlers that have failed: nothing was sent, and the
// client's header is as it was.
func (k *kept) failLocked() {
	k.over = true
	clear(k.header)
	for _, f := range k.preset {
		k.header[f.name] = f.values
	}
}

// room is what is allocated for the body at first.
func (k *kept) room() int64 {
	if k.length > 0 {
		return min(k.length, firstKept) + 1 // 1 to read the end with
	}
	return sniffLen
}

// outLocked reports whether nothing is kept back any more, or why nothing is taken.
func (k *kept) outLocked() (bool, error) {
	if k.trouble != nil {
		panic(k.trouble)
	}
	if k.over {
		return false, errEnded
	}
	return k.out, k.err
}

// timeUp lets go of what there is. A panic of those in front is for the handlers'
// goroutine, where somebody recovers.
func (w *own) timeUp() {
	k := w.kept
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.out || k.over {
		return
	}
	defer func() { k.trouble = recover() }()
	w.lateLocked()
}

// keepBack keeps p, or reports that it is to be written, since nothing is kept back
// any more.
func (w *own) keepBack(p []byte) (n int, write bool, err error) {
	k := w.kept
	k.mu.Lock()
	defer k.mu.Unlock()
	if out, err := k.outLocked(); out || err != nil {
		return 0, out && err == nil, err
	}
	size := int64(len(k.body) + len(p))
	switch {
	case size == k.length && k.length > 0 && len(k.body) == 0:
		// It is the whole body, which need not be kept any more.
		k.timer.Stop()
		w.endLocked(p)
		return len(p), false, k.err
	case size <= w.limit && (k.length < 0 || size <= k.length):
		// More than was announced is net/http's to refuse.
		if k.body == nil {
			k.body = make([]byte, 0, k.room())
		}
		k.body = append(k.body, p...) // in place, where p is from space
		return len(p), false, nil
	}
	k.timer.Stop()
	w.lateLocked()
	return 0, k.err == nil, k.err
}

// space is where to read the next piece of a body to; nil if nothing is kept back any
// more. Of a body that is too large no more is read than shows that it is.
func (w *own) space() ([]byte, error) {
	k := w.kept
	k.mu.Lock()
	defer k.mu.Unlock()
	if out, err := k.outLocked(); out || err != nil {
		return nil, err
	}
	if k.body == nil {
		k.body = make([]byte, 0, k.room())
	} else if len(k.body) == cap(k.body) {
		k.body = slices.Grow(k.body, sniffLen)
	}
	end := min(int64(cap(k.body)), w.limit+1)
	return k.body[len(k.body):end:end], nil
}

// flushLater notes a flush, or reports that it is to be done, since nothing is kept
// back any more.
func (w *own) flushLater() (flush bool, err error) {
	k := w.kept
	k.mu.Lock()
	defer k.mu.Unlock()
	out, err := k.outLocked()
	if !k.flush && len(k.body) == 0 && k.header != nil {
		// The head went out before net/http has seen what to make a Content-Type of.
		if _, ok := k.header["Content-Type"]; !ok {
			k.header["Content-Type"] = nil
		}
	}
	k.flush = true
	return out && err == nil, err
}

// letGo sends what is kept back, if anything is.
func (w *own) letGo() {
	k := w.kept
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.out && !k.over {
		k.timer.Stop()
		w.lateLocked()
	}
}

// endKeeping ends the keeping after the handlers have returned err. It reports whether
// the answer is out, and may have trailers.
func (w *own) endKeeping(err error) bool {
	k := w.kept
	k.timer.Stop()
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.trouble != nil:
		panic(k.trouble)
	case k.out:
		return !k.bodiless
	case err != nil:
		k.failLocked()
		return false
	case int64(len(k.body)) < k.length:
		w.lateLocked()
		return true
	}
	w.endLocked(k.body)
	return !k.bodiless
}

// endLocked sends the answer with the whole body, if it is to have one.
func (w *own) endLocked(body []byte) {
	k := w.kept
	status := w.x.End(int(w.status), k.header, body)
	if k.bodiless = !httphdr.HasBody(status); k.bodiless {
		delete(k.header, "Trailer")
	}
	k.body = body
	w.sendLocked(status)
}

// abort ends the keeping when the handlers panic.
func (w *own) abort() {
	k := w.kept
	if k == nil {
		return
	}
	k.timer.Stop()
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.out && !k.over {
		k.failLocked()
	}
}

func (w *own) lateLocked() {
	w.kept.out = true // whatever becomes of it
	w.x.Late(int(w.status), w.kept.header)
	w.sendLocked(int(w.status))
}

func (w *own) sendLocked(status int) {
	k := w.kept
	k.out = true
	if !w.mute || status != http.StatusOK {
		w.ResponseWriter.WriteHeader(status)
	}
	if len(k.body) > 0 && httphdr.HasBody(status) {
		_, k.err = w.ResponseWriter.Write(k.body)
	}
	k.header, k.body = nil, nil
	if k.flush && k.err == nil {
		http.NewResponseController(w.ResponseWriter).Flush()
	}
}
