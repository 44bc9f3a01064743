// Package longpoll is a client of long_poll in one file, with the standard library only:
// made to be copied, or imported.
package longpoll

import (
	"context"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// Options are how to watch. The zero value is good for most.
type Options struct {
	// For how long the server may hold a request, in whole seconds. Default: 25s.
	Wait time.Duration

	// More request fields, read anew for each request. Default: none.
	Header http.Header

	// It needs no time-out: each request has one, of Wait and 35s more. Default:
	// http.DefaultClient.
	Client *http.Client
}

// Error is an answer that is neither 2xx nor 304.
type Error struct {
	StatusCode int
	Header     http.Header
}

// Error says the status.
func (e *Error) Error() string {
	return fmt.Sprintf("answered %d %s", e.StatusCode, http.StatusText(e.StatusCode))
}

// Watch yields the body that is at url, again each time that it has changed, and once more
// when an error is over; and each error, after which it goes on by itself. It ends with ctx,
// with the caller's loop, or after an error where no request can be made for url.
func Watch(ctx context.Context, url string, o Options) iter.Seq2[[]byte, error] {
	if o.Wait <= 0 {
		o.Wait = 25 * time.Second
	}
	if o.Client == nil {
		o.Client = http.DefaultClient
	}
	return func(yield func([]byte, error) bool) {
		var etag string
		var value []byte
		var failures int
		var known, hasty bool
		for ctx.Err() == nil {
			asked, sent := time.Now(), etag
			// The first one after an error waits for a second only: to learn soon that
			// it is over.
			wait := o.Wait
			if failures > 0 {
				wait = min(wait, time.Second)
			}
			req, err := request(ctx, url, o.Header, wait, sent)
			if err != nil {
				yield(nil, err)
				return
			}
			status, fields, body, err := exchange(o.Client, req, o.Wait+35*time.Second)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				if !yield(nil, err) {
					return
				}
				sleep(ctx, min(time.Second<<min(failures, 5), 30*time.Second), retryAfter(fields))
				failures++
				continue
			}
			early := time.Since(asked) < time.Second
			news, fresh := false, false
			if status != http.StatusNotModified {
				value, known, etag = body, true, fields.Get("ETag")
				news, fresh = etag == "" || etag != sent, etag != "" && etag != sent
			}
			// Nobody has waited for this answer, or for two in a row: a site without
			// long_poll, a reload.
			pause := status != http.StatusNotModified && !fresh || early && (hasty || !news)
			if (news || known && failures > 0) && !yield(value, nil) {
				return
			}
			failures, hasty = 0, early
			if pause {
				sleep(ctx, time.Second, retryAfter(fields))
			}
		}
	}
}

func request(ctx context.Context, url string, more http.Header, wait time.Duration, etag string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	for name, values := range more {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	req.Header.Set("Prefer", fmt.Sprintf("wait=%d", int(wait.Seconds())))
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	return req, nil
}

// exchange has patience, which is more than the wait: a connection that died silently
// never answers.
func exchange(client *http.Client, req *http.Request, patience time.Duration) (int, http.Header, []byte, error) {
	ctx, cancel := context.WithTimeout(req.Context(), patience)
	defer cancel()
	resp, err := client.Do(req.WithContext(ctx))
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNotModified && resp.StatusCode/100 != 2 {
		// so that the connection can be used again
		io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
		return 0, resp.Header, nil, &Error{resp.StatusCode, resp.Header}
	}
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, body, err
}

// retryAfter is for how long, an hour at most, an answer says to stay away: seconds or a
// date (RFC 9110, 10.2.3), which is one by the server's clock.
func retryAfter(fields http.Header) time.Duration {
	said := fields.Get("Retry-After")
	if seconds, err := strconv.ParseUint(said, 10, 64); err == nil {
		return time.Duration(min(seconds, 3600)) * time.Second
	}
	until, err := http.ParseTime(said)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(fields.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return max(0, min(until.Sub(now), time.Hour))
}

// sleep takes a pause and up to the same again by chance, so that not all come back at
// once, and no less than least.
func sleep(ctx context.Context, pause, least time.Duration) {
	timer := time.NewTimer(max(pause, least) + rand.N(pause))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
