package cli

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

func TestWaits(t *testing.T) {
	t.Parallel()
	if got := fmt.Sprint(waits(30 * time.Second)); got != "[5s 10s 20s 30s 30s 30s]" {
		t.Error(got)
	}
	if got := fmt.Sprint(waits(2 * time.Second)); got != "[2s 2s 2s]" {
		t.Error(got)
	}
}

// A wait that would be no duration when it is doubled is refused.
func TestWaitsAreBounded(t *testing.T) {
	t.Parallel()
	for name, cmd := range map[string]*cobra.Command{"max": lineCommand(), "wait": watchCommand()} {
		cmd.SetArgs([]string{"127.0.0.1:1/", "--" + name, "2562047h"})
		cmd.SilenceUsage, cmd.SilenceErrors = true, true
		if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "reading "+name) {
			t.Errorf("--%s: %v", name, err)
		}
	}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	const s = time.Second
	said := "504, said by nginx"
	for _, test := range []struct {
		results []measured
		want    string // empty is an error
	}{
		{[]measured{{5 * s, 5 * s, "304 expired", held}, {30 * s, 20 * s, said, cut}, {30 * s, 20*s + 20*time.Millisecond, said, cut}},
			"something cuts silent connections after 20.0 s (2 of 3 requests: 504, said by nginx)\nrecommended: hold 18s, or hold auto"},
		{[]measured{{30 * s, 4 * s, said, cut}, {30 * s, 20 * s, "reset", cut}},
			"something cuts silent connections after 4.0 s (1 of 2 requests: 504, said by nginx); only one was, so measure again\nrecommended: hold 3.6s, or hold auto"},
		{[]measured{{10 * s, 9500 * time.Millisecond, "304 expired", held}, {120 * s, 115 * s, "304 expired", held}},
			"nothing cuts silent connections up to 115.0 s\nrecommended: hold 1m43s, or hold auto, or more if that is measured with --max"},
		{[]measured{{10 * s, 9500 * time.Millisecond, "304 expired", held}, {120 * s, 24 * s, "304 expired", held}},
			"nothing cuts silent connections up to 24.0 s, when the server itself answers\nrecommended: hold 24s, or hold auto, or more if that is measured: the server's own hold is the limit here"},
		{[]measured{{20 * s, 19 * s, "304 expired", held}, {40 * s, 55 * s, "nothing came", lost}},
			"silent connections are forgotten somewhere after 19.0 s, and nobody is told\nrecommended: hold 17s, or hold auto"},
		{[]measured{{20 * s, 35 * s, "nothing came", lost}}, ""},
		{[]measured{{20 * s, 0, "304", noHold}}, ""},
		{[]measured{{20 * s, 0, "connection refused", failed}}, ""},
	} {
		got, err := verdict(test.results, test.results[len(test.results)-1].asked)
		if got != test.want || (err != nil) != (test.want == "") {
			t.Errorf("got %q, %v; want %q", got, err, test.want)
		}
	}
}

// Each of what can end a wait is told from the others.
func TestLives(t *testing.T) {
	t.Parallel()
	after := func(r *http.Request, d time.Duration) {
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
	}
	const moment = 1100 * time.Millisecond // more than at once
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		end     end
		how     string
	}{
		"held": {func(w http.ResponseWriter, r *http.Request) {
			wait, _ := strconv.Atoi(strings.TrimPrefix(r.Header.Get("Prefer"), "wait="))
			after(r, time.Duration(wait)*time.Second)
			w.Header().Set("Long-Poll", "expired;held=2.000")
			w.WriteHeader(http.StatusNotModified)
		}, held, "304 expired"},
		"at once": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }, noHold, "304"},
		"a gateway's 504": {func(w http.ResponseWriter, r *http.Request) {
			after(r, moment)
			w.Header().Set("Server", "hop/1")
			w.WriteHeader(http.StatusGatewayTimeout)
		}, cut, "504, said by hop/1"},
		"an error of the backend": {func(w http.ResponseWriter, r *http.Request) {
			after(r, moment)
			w.Header().Set("Long-Poll", "failed;held=1.100")
			w.WriteHeader(http.StatusBadGateway)
		}, failed, "502 failed"},
		"a refusal": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, failed, "403, said by a server that does not say its name"},
		"a close": {func(w http.ResponseWriter, r *http.Request) {
			after(r, moment)
			hijack(w).Close()
		}, cut, "closed without an answer"},
		"a change, then a close": {func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("If-None-Match") == `"1"` {
				w.Header().Set("ETag", `"2"`)
				return
			}
			after(r, moment)
			hijack(w).Close()
		}, cut, "closed without an answer"},
		"no end of changes": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", r.Header.Get("If-None-Match")+"x")
		}, renewed, "the resource changes too often to be measured"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(test.handler)
			defer server.Close()
			var target target
			if err := target.read(server.URL); err != nil {
				t.Fatal(err)
			}
			var m measured
			for range attempts { // it tells them apart by how long they take
				if m = target.lives(context.Background(), `"1"`, 2*time.Second); m.end == test.end && m.how == test.how {
					return
				}
			}
			t.Errorf("got %+v; want end %d, %q", m, test.end, test.how)
		})
	}
}

// A URL that nothing can be learnt from says why.
func TestMeasureNothing(t *testing.T) {
	t.Parallel()
	for name, handler := range map[string]http.HandlerFunc{
		"status 404": func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) },
		"no ETag":    func(http.ResponseWriter, *http.Request) {},
		"at once": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"1"`)
			if r.Header.Get("If-None-Match") != "" {
				w.WriteHeader(http.StatusNotModified)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(handler)
			defer server.Close()
			var target target
			if err := target.read(server.URL); err != nil {
				t.Fatal(err)
			}
			var err error
			for range attempts { // "at once" is within a second
				if err = measure(context.Background(), &target, time.Second, new(screen)); err != nil && strings.Contains(err.Error(), name) {
					return
				}
			}
			t.Errorf("got %v", err)
		})
	}
}
