package detach

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-longpoll/caddy-longpoll/internal/poll"
)

// A stream whose client has left before it is taken from the server is over when the
// handlers around its request go on: what they still do with that is seen by nobody else.
func TestStreamLeftBefore(t *testing.T) {
	h := newHouse(t)
	h.streams = true
	first := h.park() // what it was told is known from now on
	defer first.Close()
	rules := h.Spot.Rules
	rules.Freshness = time.Hour
	done := make(chan string, 1)
	h.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		left, leave := context.WithCancel(r.Context())
		leave()
		r = r.WithContext(left)
		p := rules.New(caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, new(caddyhttp.Server)))
		p.Follow("", time.Hour)
		if err := p.Ask(func() error { return nil }); err != nil {
			t.Error(err)
		}
		told := h.told.Load()
		v := h.Spot.Follow(p, w, h.start, &buggy{p: p, open: &h.open})
		switch {
		case v.Kind != poll.Detached:
			done <- "was not detached"
		case h.told.Load() != told+1 || h.open.Load() != 1:
			done <- "is not over"
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
	h.until("one is left", func() bool { return h.detached.Load() == 1 && h.open.Load() == 1 })
}
