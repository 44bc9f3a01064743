package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/tidwall/gjson"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
)

// watch is a client that polls as the manual says that clients should.
type watch struct {
	target
	wait   time.Duration
	member string
	count  int
	stream bool

	out    io.Writer
	etag   string        // of what was read last
	event  string        // the id of the last event of a stream
	retry  time.Duration // of a stream: what the server asks for
	failed int           // in a row
	hasty  bool          // the last answer came too soon
	shown  int
}

// Of a poll that failed: the first pause, the longest, and the longest that Retry-After
// brings about.
const (
	firstPause = time.Second
	mostPause  = 30 * time.Second
	mostAfter  = time.Hour
)

// mostWait is the longest wait that anybody asks for: more, doubled, is no duration.
const mostWait = 24 * time.Hour

// tooSoon is within what an answer comes that was not held: who says again what is known,
// or answers so twice in a row with whatever version, is not asked again at once.
const tooSoon = time.Second

// maxShown bounds a body on a line, in bytes, and maxRead one that is read.
const (
	maxShown = 2000
	maxRead  = 16 << 20
)

func watchCommand() *cobra.Command {
	w := &watch{}
	cmd := &cobra.Command{
		Use:   "watch <url>",
		Short: "Polls a URL and shows each answer on a line",
		Long: `Polls a URL as a client should: it names the version that it has (If-None-Match), says
how long it will wait (Prefer: wait), comes back at once after an answer, and after a failure
with growing pauses, at least as long as Retry-After says. Each answer is a line:

  time status outcome held version size body

The body is cut to a line; --json shows a member of it instead. Ctrl-C ends it.`,
		Example: `  caddy long-poll watch http://localhost:8080/api/orders/42
  caddy long-poll watch localhost:8080/api/orders/42 --json status
  caddy long-poll watch https://shop.example/api/orders -H "Authorization: Bearer $TOKEN"
  caddy long-poll watch localhost:8080/api/orders/42 --stream --count 10`,
		Args: one("<url>"),
		RunE: run(func(ctx context.Context, args []string, out io.Writer) error {
			w.out = out
			if err := w.read(args[0]); err != nil {
				return err
			}
			if w.wait < time.Second || w.wait > mostWait || w.count < 0 {
				return fmt.Errorf("reading wait %v and count %d: expected a wait of a second to a day, and a count of 0 or more", w.wait, w.count)
			}
			return w.run(ctx)
		}),
	}
	w.flags(cmd)
	cmd.Flags().DurationVar(&w.wait, "wait", time.Minute, "How long to wait for an answer")
	cmd.Flags().StringVar(&w.member, "json", "", "Show this member of a JSON body (a dotted path)")
	cmd.Flags().IntVar(&w.count, "count", 0, "End after so many answers; 0 is never")
	cmd.Flags().BoolVar(&w.stream, "stream", false, "Take a stream of server-sent events where one is offered")
	return cmd
}

// run polls until the context ends, or enough has been shown.
func (w *watch) run(ctx context.Context) error {
	client, end := w.client(0)
	defer end()
	for ctx.Err() == nil {
		next := w.once(ctx, client)
		if w.count > 0 && w.shown >= w.count {
			return nil
		}
		if ctx.Err() == nil && !pause(ctx, next) {
			return nil
		}
	}
	return nil
}

// once asks once, shows what comes of it, and returns after what pause to ask again.
func (w *watch) once(ctx context.Context, client *http.Client) time.Duration {
	fields := []string{
		"If-None-Match", w.etag,
		"Prefer", "wait=" + strconv.Itoa(int(w.wait.Seconds())),
	}
	if w.stream {
		fields = append(fields, "Accept", "text/event-stream, */*;q=0.5", "Last-Event-ID", w.event)
	}
	// What is silent for longer than it was asked to be is dead; a stream never is.
	asked, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := time.AfterFunc(w.wait+w.wait/4+10*time.Second, func() { cancel(context.DeadlineExceeded) })
	defer patience.Stop()
	r, err := w.request(asked, fields...)
	if err != nil {
		return w.failure(ctx, err, 0)
	}
	began := time.Now()
	resp, err := client.Do(r)
	if err != nil {
		return w.failure(ctx, causeOf(asked, err), time.Since(began))
	}
	defer resp.Body.Close()
	if media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); media == "text/event-stream" && resp.StatusCode == http.StatusOK {
		patience.Stop()
		return w.events(ctx, resp)
	}
	w.event = ""
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxRead))
	if err != nil {
		return w.failure(ctx, causeOf(asked, err), time.Since(began))
	}
	took := time.Since(began)
	w.line(resp, len(body), body)
	tag, ok := resp.Header.Get("ETag"), resp.StatusCode/100 == 2 || resp.StatusCode == http.StatusNotModified
	if !ok {
		return max(w.backOff(), min(httphdr.RetryAfter(resp.Header, time.Now()), mostAfter))
	}
	w.failed = 0
	if resp.StatusCode/100 == 2 {
		w.stream = false // none is offered, and who asks for one all the same is passed on and never held
	}
	again, hasty := tag == "" || tag == w.etag, w.hasty
	w.hasty = took < tooSoon
	if resp.StatusCode/100 == 2 || tag != "" {
		w.etag = tag
	}
	if w.hasty && (again || hasty) {
		return jittered(firstPause)
	}
	return 0
}

// causeOf is why a request failed: a deadline of ours says so itself.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// failure shows that there was no answer, and returns after what pause to ask again.
func (w *watch) failure(ctx context.Context, err error, took time.Duration) time.Duration {
	if ctx.Err() != nil {
		return 0 // the command ends
	}
	w.shown++
	fmt.Fprintf(w.out, "%s  ---  %s after %s\n", clock(), what(err), seconds(took))
	return w.backOff()
}

// backOff is the pause after a failure: it doubles, and differs from client to client.
func (w *watch) backOff() time.Duration {
	d := firstPause << min(w.failed, 10)
	w.failed++
	return jittered(min(d, mostPause))
}

// jittered is a half to all of d.
func jittered(d time.Duration) time.Duration {
	return d/2 + time.Duration(rand.Float64()*float64(d)/2)
}

func clock() string { return time.Now().Format("15:04:05.000") }

// line shows an answer.
func (w *watch) line(resp *http.Response, size int, body []byte) {
	outcome, held, _ := strings.Cut(resp.Header.Get("Long-Poll"), ";held=")
	w.show(strconv.Itoa(resp.StatusCode), outcome, held, resp.Header.Get("ETag"), size, body)
}

// show shows one thing that was said: what is not there is a dash.
func (w *watch) show(status, outcome, held, version string, size int, body []byte) {
	w.shown++
	dash := func(text string) string {
		if text == "" {
			return "-"
		}
		return printable(text)
	}
	if held != "" {
		held += "s"
	}
	text := string(body)
	if w.member != "" {
		text = gjson.GetBytes(body, w.member).String()
	}
	if len(text) > maxShown {
		text = strings.ToValidUTF8(text[:maxShown], "") + "…"
	}
	line := fmt.Sprintf("%s  %s  %-8s  %s  %s  %d B  %s", clock(), status, dash(outcome), dash(held), dash(version), size, printable(text))
	fmt.Fprintln(w.out, strings.TrimRight(line, " "))
}

// events shows a stream until it ends, and returns after what pause to ask for it again.
func (w *watch) events(ctx context.Context, resp *http.Response) time.Duration {
	w.failed = 0
	err := readEvents(resp.Body, func(e event) bool {
		if e.retry > 0 {
			w.retry = min(e.retry, mostPause)
		}
		if e.data == nil {
			return true
		}
		w.event, w.etag = e.id, "" // the id says more than a tag
		name := e.name
		if name == "" {
			name = "message"
		}
		w.show("200", name, "", e.id, len(e.data), e.data)
		return w.count == 0 || w.shown < w.count
	})
	switch {
	case ctx.Err() != nil, w.count > 0 && w.shown >= w.count:
		return 0
	case err != nil && !errors.Is(err, io.EOF):
		return w.failure(ctx, err, 0)
	}
	return max(jittered(firstPause), w.retry)
}
