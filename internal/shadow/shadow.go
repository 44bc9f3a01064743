// Package shadow works out what would have been saved, where long_poll only looks on:
// the next handler gets each request, and its client the answer, as if it were not
// there. It parks nobody and changes nothing.
package shadow

import (
	"bytes"
	"io"
	"net/http"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/ops"
	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
	"github.com/caddy-longpoll/caddy-longpoll/internal/tap"
)

// Shadow looks on for one handler.
type Shadow struct {
	rules *poll.Rules
	probe bool      // the version is read from a probe
	slots tap.Slots // bound how many bodies are copied at once, as if they were checks
	tally tally
}

// New makes a Shadow that has seen nothing yet, and remembers so many resources.
func New(rules *poll.Rules, probe bool, slots tap.Slots, resources int) *Shadow {
	return &Shadow{rules: rules, probe: probe, slots: slots, tally: tally{max: resources}}
}

// Observe passes the request on and the answer back. Both are looked at in passing.
func (sh *Shadow) Observe(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if !sh.rules.Parkable(r) || httphdr.NamesEventStream(r.Header) {
		return next.ServeHTTP(w, r)
	}
	p := sh.rules.New(r)
	// Handlers behind us may change the request, and its body is known only when
	// they have read it.
	p.Request = r.Clone(r.Context())
	var heard *overheard
	if r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0 {
		heard = &overheard{ReadCloser: r.Body, left: sh.rules.MaxBody}
		r.Body = heard
	} else {
		p.Overhear()
	}
	var slot *tap.Slot
	defer func() { slot.Release() }()
	seen := tap.NewOnlooker(w, sh.rules.MaxBody, r.Method == http.MethodHead,
		func(status int, header http.Header) bool { return sh.needsBody(p, status, header) },
		func() bool {
			slot = sh.slots.Try()
			return slot != nil
		})
	if err := next.ServeHTTP(seen, r); err != nil {
		return err
	}
	if heard != nil {
		body, ok := heard.all()
		if !ok {
			ops.Shadow.Unseen.Add(1)
			return nil
		}
		p.Body = body
		p.Overhear()
	}
	sh.judge(p, seen)
	return nil
}

// needsBody reports whether an answer can not be judged by its head. What names a
// version is the client or the configuration.
func (sh *Shadow) needsBody(p *poll.Poll, status int, header http.Header) bool {
	head := p.Request.Header
	named := sh.rules.Since != "" || len(head["If-None-Match"]) > 0 || len(head["If-Modified-Since"]) > 0
	return status != http.StatusNotModified && !sh.probe &&
		(len(sh.rules.HoldWhile) > 0 || sh.rules.Version != "" || named && (sh.rules.State.Hashes() || header.Get("Etag") == ""))
}

// judge counts what would have become of p, whose client got what was seen.
func (sh *Shadow) judge(p *poll.Poll, seen *tap.Onlooker) {
	if !p.Shared() {
		return // no poll: nothing would be saved
	}
	said := seen.Said()
	notModified := seen.Status() == http.StatusNotModified && p.Conditional()
	switch {
	case said == nil, sh.probe && !notModified:
		// It is larger than max_body, a stream, or not what the version is read from.
		ops.Shadow.Unseen.Add(1)
		return
	case p.Limit == 0 || !notModified && !sh.wouldHold(p, said):
		ops.Shadow.Polls.Add(1)
		return
	}
	p.Find(sh.rules.Share.Variation(said.Header, nil))
	ops.Shadow.Polls.Add(1)
	ops.Shadow.Parked.Add(1)
	ops.Shadow.Checks.Add(sh.tally.checks(p.Key(), p.Arrived, p.Limit, sh.rules.Interval))
}

// wouldHold reports whether p would be parked if that were what its backend says.
func (sh *Shadow) wouldHold(p *poll.Poll, said *tap.Said) bool {
	a := state.Overheard(said.Status, said.Header, said.Body, sh.rules.MaxBody)
	s := &state.Reading{State: &state.State{Answer: a, Source: a}}
	s.Version.Status = a.Status
	var text string
	if sh.rules.Version != "" {
		text = p.Configured(s)
	}
	v := sh.rules.State.Version(a, text)
	return p.Holds(&state.Reading{State: &state.State{Answer: a, Source: a, Version: v, ETag: sh.rules.State.ETag(a, v)}})
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
