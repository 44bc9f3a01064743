package state

import (
	"errors"
	"net/http"
	"reflect"
	"testing"

	"golang.org/x/net/http/httpguts"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/share"
)

// wireStates are states as checks make them.
func wireStates() map[string]*State {
	a := NewAnswer(200, http.Header{"Etag": {`"1"`}, "X-Many": {"a", "b"}, "Set-Cookie": {"a=b"}}, []byte("body"), http.Header{"X-Preset": {"p"}}, 1<<20)
	p := NewAnswer(404, http.Header{"Content-Type": {"application/json"}}, []byte(`{"rev":7}`), nil, 1<<20)
	v := new(share.Rules).Variation(http.Header{"Vary": {"User-Agent, X-Real-Thing"}}, []string{"http.vars.x"})
	return map[string]*State{
		"plain":    {Answer: a, Source: a, Version: Version{200, `"1"`}},
		"probe":    {Answer: a, Source: p, Version: Version{404, "7"}},
		"vary":     {Answer: a, Source: a, Version: Version{200, "v"}, Variation: v, Varied: lot.Key{1, 2}},
		"unshared": {Unshared: true},
		"error":    {Err: errors.New("dial tcp: connection refused"), Version: Version{Status: 502}, ErrFields: NewAnswer(0, http.Header{"Www-Authenticate": {"Basic"}}, nil, nil, 1<<20)},
		"x509":     {Err: errors.New("x509: unknown authority"), Version: Version{Status: 502}},
		"stale":    {Answer: p, Source: p, Version: Version{404, "v"}, Stale: true},
	}
}

// contract 14.1
func TestWire(t *testing.T) {
	for name, s := range wireStates() {
		got, err := Read(s.Append(nil), 1<<20)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.Version != s.Version || got.Unshared != s.Unshared || got.Stale != s.Stale || !got.Variation.Equal(s.Variation) || got.Varied != s.Varied || got.Reason() != s.Reason() {
			t.Errorf("%s: got %+v; want %+v", name, got, s)
		}
		for _, pair := range [][2]*Answer{{got.Answer, s.Answer}, {got.Source, s.Source}, {got.ErrFields, s.ErrFields}} {
			g, w := pair[0], pair[1]
			if (g == nil) != (w == nil) {
				t.Errorf("%s: got %v; want %v", name, g, w)
			} else if w != nil && (g.Status != w.Status || !reflect.DeepEqual(g.Header, w.Header) || string(g.Body) != string(w.Body) || !reflect.DeepEqual(g.Absent, w.Absent) || len(g.Cookies) > 0) {
				t.Errorf("%s: got %+v; want %+v", name, g, w)
			}
		}
		if (got.Source == got.Answer) != (s.Source == s.Answer) {
			t.Errorf("%s: what the version was read from is another one", name)
		}
		text := s.Append(nil)
		for n := range len(text) {
			if got, err := Read(text[:n], 1<<20); err == nil {
				t.Errorf("%s: got %+v of %d bytes of %d", name, got, n, len(text))
			}
		}
	}
	if _, err := Read(wireStates()["plain"].Append(nil), 3); err == nil {
		t.Error("a body that is larger than max_body was read")
	}
}

// contract 14.5
func TestPersonal(t *testing.T) {
	ru := new(share.Rules)
	all := wireStates()
	for name, personal := range map[string]bool{"plain": true, "probe": true, "unshared": false, "error": false, "stale": false} { // the first two set a cookie
		if got := all[name].Personal(false); got != personal {
			t.Errorf("%s: got %v", name, got)
		}
	}
	for vary, want := range map[string][2]bool{"*": {true, true}, "User-Agent": {false, false}, "X-Forwarded-For": {true, true}} {
		s := &State{Variation: ru.Variation(http.Header{"Vary": {vary}}, nil)}
		if got := [2]bool{s.Personal(false), s.Personal(true)}; got != want {
			t.Errorf("Vary: %s: got %v; want %v", vary, got, want)
		}
	}
	s := &State{Variation: ru.Variation(http.Header{"Cache-Control": {"private"}}, nil)}
	if !s.Personal(false) || s.Personal(true) {
		t.Error("private is for one where nobody has credentials, and only there")
	}
	s = &State{Variation: (&share.Rules{Public: true}).Variation(http.Header{"Vary": {"Cookie"}}, nil)}
	if !s.Personal(false) || !s.Personal(true) {
		t.Error("a digest of a credential leaves the process")
	}
}

// Whoever can write to where Caddys share can write anything.
func FuzzRead(f *testing.F) {
	for _, s := range wireStates() {
		f.Add(s.Append(nil))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		const limit = 1 << 10
		s, err := Read(text, limit)
		if err != nil {
			return
		}
		if s.Err == nil && !s.Unshared {
			if s.Answer == nil || s.Answer.Status < 200 || s.Answer.Status > maxStatus || len(s.Answer.Body) > limit || len(s.Answer.Cookies) > 0 {
				t.Errorf("got %+v", s.Answer)
			}
			fields, _ := s.Fields()
			for _, field := range fields {
				if !httpguts.ValidHeaderFieldName(field.Name) {
					t.Errorf("got the field %q", field.Name)
				}
				for _, v := range field.Values {
					if !httpguts.ValidHeaderFieldValue(v) {
						t.Errorf("got the value %q of %s", v, field.Name)
					}
				}
			}
			_, _, _ = s.JSON("a"), s.Text(), s.Modified()
		}
		_, _, _, _ = s.Weight(), s.Reason(), s.Fault(), s.Personal(true)
		again, err := Read(s.Append(nil), limit)
		if err != nil || again.Version != s.Version {
			t.Errorf("got %+v, %v; want %+v", again, err, s)
		}
	})
}
