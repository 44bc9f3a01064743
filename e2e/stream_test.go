package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/tmaxmax/go-sse"
)

// The clients of streams: each hears each change once, through a reload and an outage.

func TestEventSource(t *testing.T) { runStreams(t, script(t, "eventsource.js")) }

func TestGoSSE(t *testing.T) {
	runStreams(t, each(func(ctx context.Context, c *conn, tell func(string)) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.site+"/api/order", nil)
		if err != nil {
			return err
		}
		client := sse.Client{HTTPClient: c.client(), Backoff: sse.Backoff{InitialInterval: time.Second}}
		stream := client.NewConnection(r)
		var failed error
		stream.SubscribeToAll(func(e sse.Event) {
			var record struct{ Value string }
			if err := json.Unmarshal([]byte(e.Data), &record); err != nil || e.Type != "" {
				failed = fmt.Errorf("got %+v: %w", e, err)
				return
			}
			tell(record.Value)
		})
		if err := stream.Connect(); ctx.Err() == nil {
			return err
		}
		return failed
	}))
}

// TestLines reads NDJSON line by line: it comes back and says which one it had last.
func TestLines(t *testing.T) {
	runStreams(t, each(func(ctx context.Context, c *conn, tell func(string)) error {
		for since := "0"; ctx.Err() == nil; {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.site+"/api/order?since="+since, nil)
			if err != nil {
				return err
			}
			r.Header.Set("Accept", "application/x-ndjson")
			resp, err := c.client().Do(r)
			if err == nil {
				err = readLines(resp, func(rev int, value string) { since = strconv.Itoa(rev); tell(value) })
			}
			if err != nil && ctx.Err() == nil {
				return err
			}
		}
		return nil
	}))
}

// readLines reads a stream to its end.
func readLines(resp *http.Response, tell func(rev int, value string)) error {
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/x-ndjson" {
		return fmt.Errorf("got %s %s", resp.Status, resp.Header)
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue // it lives
		}
		var record struct {
			Rev   int
			Value string
		}
		if err := json.Unmarshal(lines.Bytes(), &record); err != nil {
			return fmt.Errorf("reading %q: %w", lines.Bytes(), err)
		}
		tell(record.Rev, record.Value)
	}
	return lines.Err()
}

// runStreams takes a client of streams through changes, a reload and an outage, alone and
// with many others.
func runStreams(t *testing.T, clients clients) {
	t.Parallel()
	b := newBackend(t, "/api/", func(w http.ResponseWriter, r *http.Request, value int) {
		write(w, map[string]any{"rev": value, "value": strconv.Itoa(value)})
	})
	s := newSite(t, "streams", b)
	for _, n := range []int{1, many} {
		c := newCrowd(t, s, n, clients)
		streams := func() error {
			if open := s.metric("streams"); open != n {
				return fmt.Errorf("%d streams are open, not %d", open, n)
			}
			return c.failed()
		}
		heard := []string{b.now()}
		expect := func(what string) {
			t.Helper()
			await(t, what, func() error { return c.expect(heard...) })
		}
		change := func(what string) {
			t.Helper()
			began, polls := time.Now(), b.polls.Load()
			heard = append(heard, b.change())
			expect(what)
			if asked, most := int(b.polls.Load()-polls), int(time.Since(began)/interval)+2; asked > most {
				t.Errorf("%s took %d requests to the backend; want at most %d", what, asked, most)
			}
		}
		expect("what there is")
		await(t, "the streams", streams)
		change("a change")
		change("another one")

		ended := s.outcomes("streamed")
		s.reload()
		await(t, "the reload", func() error {
			if now := s.outcomes("streamed"); now < ended+n {
				return fmt.Errorf("%d streams have ended, of %d", now-ended, n)
			}
			return streams()
		})
		change("a change after the reload")

		failed := s.metric(`checks_total{result="failed"}`)
		b.stop()
		await(t, "the outage", func() error {
			if s.metric(`checks_total{result="failed"}`) == failed {
				return fmt.Errorf("no check has failed")
			}
			return nil
		})
		b.start()
		change("a change in the outage")
		if err := streams(); err != nil {
			t.Errorf("after the outage: %v", err)
		}
		c.stop()
		await(t, "the departure", func() error { return s.parkedAre(0) })
	}
}
