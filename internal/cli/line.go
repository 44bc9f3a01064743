package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// measured is how one request ended that was to be silent for a while.
type measured struct {
	asked time.Duration // how long it was to be silent
	lived time.Duration // for how long it was
	how   string        // what ended it
	end   end
}

// end is what kind of end that was.
type end int

const (
	held    end = iota // the server answered that nothing is new
	cut                // something on the way ended it
	lost               // nothing came, long after it should have: something on the way forgot it
	failed             // the server, or the request, failed; nothing is known of the line
	noHold             // the server answered at once
	renewed            // the resource changed too often
)

func lineCommand() *cobra.Command {
	var t target
	most := 2 * time.Minute
	cmd := &cobra.Command{
		Use:   "line <url>",
		Short: "Measures how long a silent connection lives",
		Long: `Measures how long a silent connection lives on the way to a URL that is held. It asks for
longer and longer waits, all at once, each on a connection of its own that nothing keeps alive,
and says what ended each: the server's own answer, an error and the Server that said so, a
reset, a close, or nothing at all. At the end it recommends a hold.

The server holds for no longer than its own hold: to measure beyond that, make hold
longer for as long as you measure.`,
		Example: `  caddy long-poll line https://shop.example/api/orders/42
  caddy long-poll line http://localhost:8080/api/orders/42 --max 10m
  caddy long-poll line https://shop.example/api/orders -H "Authorization: Bearer $TOKEN"`,
		Args: one("<url>"),
		RunE: run(func(ctx context.Context, args []string, out io.Writer) error {
			if err := t.read(args[0]); err != nil {
				return err
			}
			if most < time.Second || most > mostWait {
				return fmt.Errorf("reading max %v: expected a second or more, and a day at most", most)
			}
			return measure(ctx, &t, most, out)
		}),
	}
	t.flags(cmd)
	cmd.Flags().DurationVar(&most, "max", most, "The longest wait to ask for")
	return cmd
}

// atOnce is how many ask for the longest wait.
const atOnce = 3

// waits are those to ask for: from five seconds on each is twice the one before.
func waits(most time.Duration) (all []time.Duration) {
	for wait := 5 * time.Second; wait < most; wait *= 2 {
		all = append(all, wait)
	}
	for range atOnce {
		all = append(all, most)
	}
	return all
}

// measure asks for all waits, shows each end as it comes, and what they come to.
func measure(ctx context.Context, t *target, most time.Duration, out io.Writer) error {
	tag, err := t.tag(ctx)
	if err != nil {
		return err
	}
	all := waits(most)
	fmt.Fprintf(out, "asking %d times at once, for %s at most; Ctrl-C ends it\n", len(all), seconds(most))
	ends := make(chan measured)
	var asking sync.WaitGroup
	for _, wait := range all {
		asking.Go(func() { ends <- t.lives(ctx, tag, wait) })
	}
	go func() {
		asking.Wait()
		close(ends)
	}()
	var results []measured
	for m := range ends {
		if ctx.Err() != nil {
			continue
		}
		fmt.Fprintf(out, "%8s  %s (asked for %s)\n", seconds(m.lived), m.how, seconds(m.asked))
		results = append(results, m)
	}
	if ctx.Err() != nil {
		return nil
	}
	text, err := verdict(results, most)
	if err == nil {
		fmt.Fprintln(out, text)
	}
	return err
}

// tag is the entity tag of what the URL is now.
func (t *target) tag(ctx context.Context) (string, error) {
	client, end := t.client(-1)
	defer end()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r, err := t.request(ctx)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(r)
	if err != nil {
		return "", fmt.Errorf("asking %s: %s", t.url, what(err))
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxRead))
	switch tag := resp.Header.Get("ETag"); {
	case resp.StatusCode/100 != 2:
		return "", fmt.Errorf("asking %s: status %d; expected a 2xx, which can be held", t.url, resp.StatusCode)
	case tag == "":
		return "", fmt.Errorf("asking %s: the answer has no ETag; expected a URL that is held", t.url)
	default:
		return tag, nil
	}
}

// maxRenewed is how often a resource may change while one wait is measured.
const maxRenewed = 20

// lives measures one wait, again where the resource changes before its end.
func (t *target) lives(ctx context.Context, tag string, wait time.Duration) measured {
	client, end := t.client(-1)
	defer end()
	client.Transport.(*http.Transport).DisableKeepAlives = true
	for range maxRenewed {
		m, renewedTag := t.asks(ctx, client, tag, wait)
		if renewedTag == "" {
			return m
		}
		tag = renewedTag
	}
	return measured{wait, 0, "the resource changes too often to be measured", renewed}
}

// patience is for how long after its wait a request may be silent before it is lost.
const patience = 15 * time.Second

// asks asks for one wait. It returns the tag of what the resource has become, if that is
// what ended the wait.
func (t *target) asks(ctx context.Context, client *http.Client, tag string, wait time.Duration) (m measured, renewedTag string) {
	asked, cancel := context.WithTimeout(ctx, wait+patience)
	defer cancel()
	m.asked = wait
	r, err := t.request(asked, "If-None-Match", tag, "Prefer", "wait="+strconv.Itoa(int(wait.Seconds())))
	if err != nil {
		m.how, m.end = what(err), failed
		return m, ""
	}
	began := time.Now()
	resp, err := client.Do(r)
	m.lived = time.Since(began)
	switch {
	case err != nil && asked.Err() != nil:
		m.how, m.end = "nothing came: something on the way has forgotten the connection, and told nobody", lost
		return m, ""
	case err != nil:
		m.how, m.end = what(err), cut
		if m.lived < time.Second {
			m.end = failed
		}
		return m, ""
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxRead))
	outcome, _, _ := strings.Cut(resp.Header.Get("Long-Poll"), ";")
	m.how = printable(strings.TrimSpace(strconv.Itoa(resp.StatusCode) + " " + outcome))
	switch next := resp.Header.Get("ETag"); {
	case resp.StatusCode >= 400 && outcome == "":
		by := resp.Header.Get("Server")
		if by == "" {
			by = "a server that does not say its name"
		}
		m.how += ", said by " + printable(by)
		m.end = cut
		if m.lived < time.Second || resp.StatusCode < 500 && resp.StatusCode != http.StatusRequestTimeout {
			m.end = failed
		}
	case resp.StatusCode >= 400:
		m.end = failed
	case resp.StatusCode/100 == 2 && next != "" && next != tag:
		return m, next
	case m.lived < time.Second:
		m.end = noHold
	}
	return m, ""
}

// together is within what two cuts are one.
const together = time.Second

// verdict says what the ends come to.
func verdict(results []measured, most time.Duration) (string, error) {
	count := func(kind end) (n int, longest, shortest time.Duration) {
		for _, m := range results {
			if m.end != kind {
				continue
			}
			if n++; n == 1 || m.lived < shortest {
				shortest = m.lived
			}
			longest = max(longest, m.lived)
		}
		return n, longest, shortest
	}
	survived, longest, _ := count(held)
	cuts, _, first := count(cut)
	switch losses, _, _ := count(lost); {
	case cuts > 0:
		var by []string
		same := 0
		for _, m := range results {
			if m.end == cut && m.lived < first+together {
				same++
				if !slices.Contains(by, m.how) {
					by = append(by, m.how)
				}
			}
		}
		text := fmt.Sprintf("something cuts silent connections after %s (%d of %d requests: %s)", seconds(first), same, len(results), strings.Join(by, "; "))
		if same == 1 {
			text += "; only one was, so measure again"
		}
		return text + "\nrecommended: " + recommended(first), nil
	case losses > 0 && survived > 0:
		return fmt.Sprintf("silent connections are forgotten somewhere after %s, and nobody is told\nrecommended: %s", seconds(longest), recommended(longest)), nil
	case losses > 0:
		return "", errors.New("no request was answered: the line can not be measured")
	case survived > 0 && longest < most*8/10:
		return fmt.Sprintf("nothing cuts silent connections up to %s, when the server itself answers\nrecommended: %s, or more if that is measured: the server's own hold is the limit here", seconds(longest), inWords(longest)), nil
	case survived > 0:
		return fmt.Sprintf("nothing cuts silent connections up to %s\nrecommended: %s, or more if that is measured with --max", seconds(longest), recommended(longest)), nil
	}
	if n, _, _ := count(noHold); n > 0 {
		return "", errors.New("the server answers at once: expected a URL that is held")
	}
	return "", errors.New("every request failed: the line can not be measured")
}

// recommended is a tenth below an age, in whole seconds where there are some.
func recommended(age time.Duration) string { return inWords(age * 9 / 10) }

func inWords(hold time.Duration) string {
	if hold >= 5*time.Second {
		hold = hold.Truncate(time.Second)
	} else {
		hold = hold.Truncate(100 * time.Millisecond)
	}
	return "hold " + hold.String() + ", or hold auto"
}
