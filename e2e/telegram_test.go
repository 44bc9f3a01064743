package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"testing"
	"time"

	"gopkg.in/telebot.v3"
)

const telegramToken = "123:secret"

func TestTelegram(t *testing.T) {
	d := dialect{
		file: "telegram", answer: telegram, polled: "/getUpdates",
		clients: each(func(ctx context.Context, c *conn, tell func(string)) error {
			seen := &watchful{RoundTripper: c.transport}
			bot, err := telebot.NewBot(telebot.Settings{
				URL: c.site, Token: telegramToken, Synchronous: true,
				Client: &http.Client{Transport: seen},
				Poller: &telebot.LongPoller{Timeout: wait},
			})
			if err != nil {
				return err
			}
			bot.Handle(telebot.OnText, func(m telebot.Context) error {
				tell(m.Text())
				return nil
			})
			// It has no other word for a poll that fails than to poll again.
			ctx, cancel := context.WithCancelCause(ctx)
			defer cancel(nil)
			seen.met = cancel
			defer context.AfterFunc(ctx, bot.Stop)()
			bot.Start()
			if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		}),
	}
	d.run(t)
}

// watchful sees the errors that a client meets.
type watchful struct {
	http.RoundTripper
	met func(error)
}

func (w *watchful) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := w.RoundTripper.RoundTrip(r)
	switch {
	case w.met == nil:
	case err != nil:
		w.met(err)
	case resp.StatusCode != http.StatusOK:
		w.met(fmt.Errorf("%s is answered %s", path.Base(r.URL.Path), resp.Status))
	}
	return resp, err
}

// telegram sends an update for each value up to the present one.
func telegram(w http.ResponseWriter, r *http.Request, value int) {
	var result any = true
	switch path.Base(r.URL.Path) {
	case "getMe":
		result = map[string]any{"id": 123, "is_bot": true, "first_name": "bot", "username": "bot"}
	case "getUpdates":
		offset, _ := strconv.Atoi(r.FormValue("offset"))
		var asked struct{ Offset any }
		if json.NewDecoder(r.Body).Decode(&asked); asked.Offset != nil {
			offset, _ = strconv.Atoi(fmt.Sprint(asked.Offset))
		}
		updates := []any{}
		for id := max(offset, 1); id <= value; id++ {
			updates = append(updates, map[string]any{"update_id": id, "message": map[string]any{
				"message_id": id, "date": 1, "chat": map[string]any{"id": 1, "type": "private"}, "text": strconv.Itoa(id),
			}})
		}
		result = updates
	}
	write(w, map[string]any{"ok": true, "result": result})
}

// TestTelegramTimeout: the timeout is read in each form that the API knows, as a
// number or as a string. Without one, nobody waits.
func TestTelegramTimeout(t *testing.T) {
	t.Parallel()
	s := newSite(t, "telegram", newBackend(t, "", telegram))
	const (
		asJSON = "application/json"
		asForm = "application/x-www-form-urlencoded"
	)
	for _, poll := range []struct {
		method, query, kind, body string
		held                      bool
	}{
		{"POST", "", asJSON, `{"offset": 2, "timeout": 1}`, true},
		{"POST", "", asJSON, `{"offset": "2", "timeout": "1"}`, true},
		{"POST", "", asForm, url.Values{"offset": {"2"}, "timeout": {"1"}}.Encode(), true},
		{"GET", "?offset=2&timeout=1", "", "", true},
		{"POST", "", asJSON, `{"offset": 2}`, false},
		{"GET", "?offset=2", "", "", false},
		{"POST", "", asJSON, `{"offset": 1, "timeout": 1}`, false},
	} {
		t.Run(poll.method+poll.query+poll.body, func(t *testing.T) {
			t.Parallel()
			c := &conn{site: s.url, transport: new(http.Transport)}
			defer c.transport.CloseIdleConnections()
			var took time.Duration
			var outcome string
			for range 5 { // its time may be up before the first check, where the machine stands still
				began := time.Now()
				a, err := c.do(t.Context(), poll.method, "/bot"+telegramToken+"/getUpdates"+poll.query, poll.body, "Content-Type", poll.kind)
				if err != nil {
					t.Fatal(err)
				}
				if a.status != http.StatusOK {
					t.Error(a.unexpected())
				}
				took, outcome = time.Since(began), a.header.Get("Long-Poll")
				if !poll.held || !strings.HasPrefix(outcome, "answered;") {
					break
				}
			}
			// Up to a tenth less than what is asked for.
			expired := strings.HasPrefix(outcome, "expired;")
			if expired != poll.held || expired && took < 900*time.Millisecond {
				t.Errorf("held for %v: %s", took, outcome)
			}
		})
	}
}
