package reply

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// contract 5: a 304 bears the fields of the answer that it stands for, but those of a
// body.
func TestNotModified(t *testing.T) {
	p, s := told(t)
	for name, value := range map[string]string{
		"Access-Control-Allow-Origin": "*", "X-Ratelimit-Remaining": "7", "Content-Language": "en", "Content-Location": "/1",
	} {
		s.Answer.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	w.Header().Set("Server", "Caddy")
	if err := new(Writer).Answer(p, w, poll.Verdict{Kind: poll.Expire, State: s}); err != nil {
		t.Fatal(err)
	}
	if w.Code != http.StatusNotModified {
		t.Errorf("got %d", w.Code)
	}
	for name, want := range map[string]string{
		"Access-Control-Allow-Origin": "*", "X-Ratelimit-Remaining": "7", "Content-Location": "/1", "Server": "Caddy",
		"Etag": `"v7"`, "Last-Modified": "Mon, 23 Nov 2026 07:00:00 GMT", "Cache-Control": "no-cache",
		"Content-Type": "", "Content-Length": "", "Content-Language": "",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("got %s %q; want %q", name, got, want)
		}
	}
}

// A page of another origin may read what is told in the place of what it may read.
func TestBodyForAnotherOrigin(t *testing.T) {
	p, s := told(t)
	s.Answer.Header.Set("Access-Control-Allow-Origin", "*")
	s.Answer.Header.Set("X-Other", "1")
	b := NewBody(&Reply{Status: http.StatusOK, Body: "{}"})
	for _, re := range []*Writer{{OnTimeout: b}, {OnChange: b}} {
		for _, kind := range []poll.Kind{poll.Ready, poll.Expire} {
			w := httptest.NewRecorder()
			if err := re.Answer(p, w, poll.Verdict{Kind: kind, State: s}); err != nil {
				t.Fatal(err)
			}
			if got := w.Header().Get("Access-Control-Allow-Origin"); got != "*" {
				t.Errorf("got Access-Control-Allow-Origin %q", got)
			}
			if w.Body.String() == "{}" && w.Header().Get("X-Other") != "" {
				t.Error("other fields of the answer are told, too")
			}
		}
	}
	// The probe is another resource: who may read it is another question.
	w := httptest.NewRecorder()
	if err := (&Writer{OnChange: b, Probe: true}).Answer(p, w, poll.Verdict{Kind: poll.Ready, State: s}); err != nil {
		t.Fatal(err)
	}
	if got := w.Header().Get("Access-Control-Allow-Origin"); got != "" {
		t.Errorf("got the probe's Access-Control-Allow-Origin %q", got)
	}
}

// RFC 7240, section 3: what the backend has applied of a client's preferences stays.
func TestPreferenceApplied(t *testing.T) {
	for applied, want := range map[string]string{"": "wait=5", "count=exact": "count=exact, wait=5"} {
		for _, kind := range []poll.Kind{poll.Ready, poll.Expire} {
			p, s := told(t)
			p.Applied = "wait=5"
			if applied != "" {
				s.Answer.Header.Set("Preference-Applied", applied)
			}
			for range 2 { // what is kept stays as it is
				w := httptest.NewRecorder()
				if err := new(Writer).Answer(p, w, poll.Verdict{Kind: kind, State: s}); err != nil {
					t.Fatal(err)
				}
				if got := w.Header().Values("Preference-Applied"); len(got) != 1 || got[0] != want {
					t.Errorf("got %q; want %q", got, want)
				}
			}
		}
	}
}

// contract 15.1: the error of a client that has left is the same whether its request's context
// says so or, for a poll that is detached, does not.
func TestLeft(t *testing.T) {
	p, _ := told(t)
	texts := make(map[bool]string)
	for _, detached := range []bool{true, false} {
		if !detached {
			ctx, cancel := context.WithCancel(p.Request.Context())
			p.Request = p.Request.WithContext(ctx)
			cancel()
		}
		err := new(Writer).Answer(p, httptest.NewRecorder(), poll.Verdict{Kind: poll.Gone})
		var of caddyhttp.HandlerError
		if !errors.As(err, &of) || of.StatusCode != 499 || !errors.Is(of.Err, context.Canceled) {
			t.Fatalf("got %v, want a 499 because of %v", err, context.Canceled)
		}
		texts[detached] = of.Err.Error()
	}
	if texts[true] != texts[false] {
		t.Errorf("got %q, and %q where it is detached", texts[false], texts[true])
	}
}
