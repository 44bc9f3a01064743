package detach

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// late is a context that has ended just after it was looked at.
type late struct {
	context.Context
	looked *atomic.Bool
}

func (l late) Err() error {
	if !l.looked.Swap(true) {
		return nil
	}
	return context.Canceled
}

// A stream whose client leaves just when it is taken from the server is over a little
// later: nothing tells when the handlers around its request have returned.
func TestStreamLeftBefore(t *testing.T) {
	h := newHouse(t)
	h.streams = true
	first := h.park() // what it was told is known from now on
	defer first.Close()
	rules := h.Spot.Rules
	rules.Freshness = time.Hour
	done := make(chan string, 1)
	h.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = r.WithContext(late{r.Context(), new(atomic.Bool)})
		p := rules.New(caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, new(caddyhttp.Server)))
		p.Follow("", time.Hour)
		if err := p.Ask(func() error { return nil }); err != nil {
			t.Error(err)
		}
		v := h.Spot.Follow(p, w, h.start, &buggy{p: p, open: &h.open})
		switch {
		case v.Kind != poll.Detached:
			done <- "was not detached"
		default:
			done <- ""
		}
	})
	for range 20 {
		conn, err := net.Dial("tcp", h.server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if got := <-done; got != "" {
			t.Error(got)
		}
		_, _ = bufio.NewReader(conn).ReadByte()
		conn.Close()
	}
	h.until("all are over", func() bool { return h.told.Load() == 20 })
	h.until("one is left", func() bool { return h.detached.Load() == 1 && h.open.Load() == 1 })
}
