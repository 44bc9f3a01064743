package integration_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// few is how many descriptors a Caddy may have in the tests that are about them.
const few = 256

// startWithFew starts a Caddy that may have few descriptors, and asks it something on a
// connection of the admin endpoint that stays.
func (b binary) startWithFew(t *testing.T, sites string) *sidecar {
	t.Helper()
	b.files = few
	s := b.start(t, "\tservers {\n\t\ttimeouts {\n\t\t\tread_header 10m\n\t\t}\n\t}", sites)
	s.outcomes("left")
	return s
}

// waitFull waits until the process has no descriptor for another connection, of which some
// wait for one. It tries to accept them each second at least: what is free for longer than
// that is none.
func (s *sidecar) waitFull() {
	s.t.Helper()
	var open, looks int
	waitUntil(s.t, func() string { return fmt.Sprintf("%d descriptors are open", open) }, func() bool {
		if open = s.files(); open != few {
			looks = 0
		}
		looks++
		return looks > 150 // a hundred in a second
	})
}

// testDetachedMoreThanFiles has more clients than descriptors: who finds none waits for
// one, or a bound refuses, and all have answers in the end.
func testDetachedMoreThanFiles(t *testing.T, caddy binary) {
	const clients = 2 * few
	for name, bound := range map[string]int{"no bound": 0, "max_parked": few / 4} {
		t.Run(name, func(t *testing.T) {
			b := serveBackend(t, nil)
			port := freePort(t)
			s := caddy.startWithFew(t, site(port, fmt.Sprintf(`
	long_poll {
		hold 10m
		interval 100ms
		max_parked %d
		detach
	}
	reverse_proxy %s`, bound, b.addr)))
			newClient(t, port).get("/").want(t, 200, "answered") // by a connection to the backend that stays
			var mu sync.Mutex                                    // protects got
			got := make(map[string]int)
			count := func(what string) int {
				mu.Lock()
				defer mu.Unlock()
				return got[what]
			}
			var all sync.WaitGroup
			for range clients {
				w := dialWire(t, port)
				w.say(ask("/", "one"))
				all.Go(func() {
					defer w.Close()
					resp, err := http.ReadResponse(w.read, &http.Request{Method: "GET"})
					what := "nothing"
					if err == nil {
						outcome, _, _ := strings.Cut(resp.Header.Get("Long-Poll"), ";")
						what = fmt.Sprint(resp.StatusCode, " ", outcome)
						if outcome == "refused" && resp.Header.Get("Retry-After") == "" {
							t.Error("a 503 has no Retry-After")
						}
						_, err = io.Copy(io.Discard, resp.Body)
					}
					if err != nil {
						t.Errorf("got %s, then %v", what, err)
					}
					mu.Lock()
					defer mu.Unlock()
					got[what]++
				})
			}
			parked := bound
			if bound == 0 {
				s.waitFull()
				parked = few / 2
				waitUntil(t, func() string { return fmt.Sprintf("fewer than %d are detached", parked) }, func() bool {
					return s.metric("caddy_long_poll_detached_requests") >= parked
				})
			} else {
				waitUntil(t, func() string { return fmt.Sprintf("%d were refused", count("503 refused")) }, func() bool {
					return count("503 refused") == clients-bound
				})
				s.waitDetached(bound)
			}
			b.set("two")
			all.Wait()
			s.waitDetached(0)
			if changed := got["200 changed"]; changed < parked || changed+got["200 answered"]+got["503 refused"] != clients {
				t.Errorf("got %v", got)
			}
			newClient(t, port).get("/").want(t, 200, "answered")
		})
	}
}

// testDetachedNoFileForChecks breaks the connections to the backend of a process that has no
// descriptor for another one. That is an outage of its backend as any other (contract 7.7),
// which ends as soon as there are descriptors again.
func testDetachedNoFileForChecks(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.startWithFew(t, site(port, `
	long_poll {
		hold 10m
		interval 100ms
		detach
	}
	reverse_proxy `+b.addr))
	here := dialWire(t, port)
	here.say("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
	here.want(200, "answered")
	var all []*wire
	for range few + few/4 { // the last of which are not accepted
		w := dialWire(t, port)
		w.say(ask("/", "one"))
		all = append(all, w)
	}
	s.waitFull()
	stay, leave := all[:few/2], all[few/2:]
	waitFor(t, "those who find a descriptor", func() bool { return s.metric("caddy_long_poll_detached_requests") >= len(stay) })

	checks := func(result string) int {
		return s.metric(fmt.Sprintf("caddy_long_poll_checks_total{result=%q}", result))
	}
	b.kill()
	s.waitFull() // of clients, one of which has what was the backend's
	b.listen(t, b)
	before, asked := checks("failed"), b.asked.Load()
	waitFor(t, "checks that fail", func() bool { return checks("failed") >= before+2 })
	if n := b.asked.Load() - asked; n > 0 {
		t.Errorf("%d checks have found a descriptor: the test is of no use", n)
	}
	if n := s.metric("caddy_long_poll_detached_requests"); n < len(stay) {
		t.Errorf("%d are detached still", n)
	}
	here.say(ask("/", "another"))
	if resp := here.want(502, "failed"); resp.Header.Get("Retry-After") == "" {
		t.Error("a 502 has no Retry-After")
	}
	here.say("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
	here.want(502, "answered")

	for _, w := range leave {
		w.Close()
	}
	s.waitDetached(len(stay))
	before = checks("unchanged")
	waitFor(t, "checks that succeed", func() bool { return checks("unchanged") >= before+2 })
	b.set("two")
	for _, w := range stay {
		w.want(200, "changed")
	}
	here.say(ask("/", "another"))
	here.want(200, "answered")
}

// epolls is how many sets of descriptors to wait for the process has.
func (s *sidecar) epolls() (n int) {
	s.t.Helper()
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, name := range all {
		if to, _ := os.Readlink(name); to == "anon_inode:[eventpoll]" {
			n++
		}
	}
	return n
}

// testDetachedNoFileToWatch has polls detached where there is no descriptor left for the set
// that their connections are watched by: each is read from.
func testDetachedNoFileToWatch(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.startWithFew(t, detachedSite(port, b, "hold 10m"))
	var first []*wire
	for range 3 {
		w := dialWire(t, port)
		w.say("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") // by one connection to the backend, which stays
		w.want(200, "answered")
		first = append(first, w)
	}
	var others []*wire
	for range few + few/4 {
		others = append(others, dialWire(t, port))
	}
	s.waitFull()
	epolls := s.epolls() // of the runtime
	for _, w := range first {
		w.say(ask("/", "one"))
	}
	s.waitDetached(len(first))
	if n := s.epolls(); n != epolls {
		t.Errorf("there are %d sets instead of %d: the test is of no use", n, epolls)
	}

	// What the set would have noticed is noticed.
	leaves, early, stays := first[0], first[1], first[2]
	leaves.Close()
	s.waitDetached(2)
	early.say(ask("/early", "other"))
	wantStays(t, s, 2)
	b.set("two")
	stays.want(200, "changed")
	early.want(200, "changed")
	early.want(200, "answered")
	stays.say(ask("/", "two"))
	s.waitDetached(1)
	b.set("three")
	stays.want(200, "changed")

	for _, w := range others {
		w.Close()
	}
	waitFor(t, "descriptors", func() bool { return s.files() < few/2 })
	stays.say(ask("/", "three"))
	s.waitDetached(1)
	if n := s.epolls(); n != epolls+1 {
		t.Errorf("there are %d sets; want one more than %d, now that there are descriptors", n, epolls)
	}
	b.set("four")
	stays.want(200, "changed")
}
