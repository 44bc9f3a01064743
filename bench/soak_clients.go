package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"
)

// client asks for a resource again and again, and now and then without its version:
// that is an ordinary request, and is never sent back in time either. have is the version that it has, and
// is protected by record.mu.
func (s *soaked) client(ctx context.Context, transport http.RoundTripper, resource int, have *int) {
	url := fmt.Sprintf("http://%s/r/%d", s.spec.Addr, resource)
	for n := 1; ctx.Err() == nil; n++ {
		ordinary := n%ordinaryEvery == 0
		r, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
		if *have > 0 && !ordinary {
			r.Header.Set("If-None-Match", tag(int64(*have)))
		}
		began := time.Now()
		resp, err := transport.RoundTrip(r)
		var text []byte
		if err == nil {
			text, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		took, since := time.Since(began), s.awake(began)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && took-s.stood(began, time.Now()) < instant && s.overlap(&s.reloading, since, time.Now()):
			s.tally.count(&s.tally.cut)
		case err != nil:
			s.tally.fault("asking for %s: %v after %v", url, err, took)
		case took > 2*longest:
			s.tally.fault("%s was answered with %d after %v", url, resp.StatusCode, took)
		case resp.StatusCode == http.StatusNotModified && *have > 0:
			s.tally.count(&s.tally.released)
		case resp.StatusCode == http.StatusOK:
			v, _ := strconv.Atoi(string(text))
			if ordinary && v == *have {
				s.tally.count(&s.tally.ordinary)
				continue
			}
			s.got(resource, *have, v)
			s.record.mu.Lock()
			*have = v
			s.record.mu.Unlock()
		// Who names another version than the one that was known last, as after an ordinary
		// request, is told what the last check has failed with, until the next one is due.
		case resp.StatusCode >= 500 && resp.Header.Get("Retry-After") != "" && s.overlap(&s.away, since.Add(-aftermath), time.Now()),
			resp.StatusCode >= 500 && s.overlap(&s.away, since, time.Now()):
			s.tally.count(&s.tally.away)
			time.Sleep(100 * time.Millisecond)
		default:
			s.tally.fault("%s was answered with %d %q (%s) after %v", url, resp.StatusCode, text, resp.Header.Get("Long-Poll"), took)
		}
	}
}

// write makes new versions until quiet is closed: through the site, or past it with
// a message to Redis.
func (s *soaked) write(quiet <-chan struct{}) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for n := 0; ; n++ {
		select {
		case <-quiet:
			return
		case <-time.After(writePause):
		}
		path := fmt.Sprint("/r/", rand.IntN(soakResources))
		if n%2 == 1 && s.redisAddr != "" {
			s.set(path)
			if c, err := net.Dial("tcp", s.redisAddr); err == nil { // else it is found at the next interval
				fmt.Fprintf(c, "PUBLISH long_poll:%s x\r\nQUIT\r\n", path)
				io.Copy(io.Discard, c)
				c.Close()
			}
			s.tally.count(&s.tally.writes)
			continue
		}
		began := time.Now()
		resp, err := client.Post("http://"+s.spec.Addr+path, "", nil)
		began = s.awake(began)
		s.tally.count(&s.tally.writes)
		switch {
		case err == nil && resp.StatusCode == 200:
		case s.overlap(&s.away, began, time.Now()):
			s.tally.count(&s.tally.away)
		case err != nil && s.overlap(&s.reloading, began, time.Now()):
			s.tally.count(&s.tally.cut)
		case err != nil:
			s.tally.fault("writing %s: %v", path, err)
		default:
			s.tally.fault("writing %s: %s", path, resp.Status)
		}
		if err == nil {
			resp.Body.Close()
		}
	}
}
