package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// story is what a plot tells: how many requests a backend gets in each second, before and
// after long_poll is put in front of it.
type story struct {
	Clients   int
	PerSecond []int     // requests that the backend got, in each second
	InFront   int       // the second at which long_poll is put in front
	Change    int       // the second at which the answer changes
	Down, Up  int       // the seconds at which the backend goes down, and is back
	Took      float64   // seconds from the change until all clients have it
	By        int       // requests to the backend meanwhile
	Errors    int       // that clients have seen in the outage
	When      time.Time // it was measured
	Machine   string
}

// plotCommand measures the story with real processes, and draws it.
func plotCommand(args []string) error {
	flags := flag.NewFlagSet("plot", flag.ExitOnError)
	n := flags.Int("n", 1000, "clients")
	phase := flags.Int("phase", 15, "seconds: how long nothing happens in front of each event; the outage is two thirds of it")
	out := flags.String("o", "../docs/img/backend.svg", "SVG file to write")
	_ = flags.Parse(args) // it exits
	if err := raiseFileLimit(); err != nil {
		return err
	}
	s := story{Clients: *n, InFront: *phase, Change: 2 * *phase, Down: 3 * *phase, When: time.Now(), Machine: machine()}
	s.Up = s.Down + max(1, *phase*2/3)
	if err := s.measure(s.Up + *phase); err != nil {
		return err
	}
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encoding what was measured: %w", err)
	}
	fmt.Printf("%s\n", text)
	if err := os.MkdirAll(filepath.Dir(*out), 0o755); err != nil {
		return fmt.Errorf("making the folder of the plot: %w", err)
	}
	if err := os.WriteFile(*out, s.draw(), 0o644); err != nil {
		return fmt.Errorf("writing the plot: %w", err)
	}
	return nil
}

// measure runs a backend, a Caddy, and clients that ask both ways alike: they say which
// version they have and that they would wait, and ask once a second, or as soon as they
// are answered if that took longer.
func (s *story) measure(seconds int) error {
	backend, err := child("backend", spec{Addr: freeAddr()})
	if err != nil {
		return err
	}
	defer backend.stop()
	before := spec{Subject: "polling", Addr: freeAddr(), Admin: freeAddr(), Backend: backend.addr}
	caddy, err := child("serve", before)
	if err != nil {
		return err
	}
	defer caddy.stop()
	after := before
	after.Subject, after.LongPoll = "long_poll", map[string]any{"hold": "25s", "jitter": 10, "wake": []any{}}
	inFront, err := after.config()
	if err != nil {
		return fmt.Errorf("making the configuration: %w", err)
	}

	c := newRegulars("http://"+caddy.addr+"/r", s.Clients)
	defer c.stop()
	asked := func() (n int) {
		text, err := call("GET", "http://"+backend.addr+"/asked", "")
		fatal(err)
		_, err = fmt.Sscan(string(text), &n)
		fatal(err)
		return n
	}
	tell := func(path string) error {
		_, err := call("POST", "http://"+backend.addr+path, "")
		return err
	}
	time.Sleep(2 * time.Second) // all have asked
	changed := make(chan struct{})
	last := asked()
	for second := range seconds {
		began := time.Now() // where the machine has stood still, a second is longer, and the others are not shorter
		fmt.Fprintf(os.Stderr, "\rsecond %d of %d", second+1, seconds)
		switch second {
		case s.InFront:
			err = load(before.Admin, inFront)
		case s.Change:
			err = tell("/r")
			at, had := time.Now(), last
			go func() {
				defer close(changed)
				c.all(2)
				s.Took, s.By = time.Since(at).Seconds(), asked()-had
			}()
		case s.Down:
			c.errors.Store(0)
			err = tell("/fail")
		case s.Up:
			err = tell("/recover")
		}
		if err != nil {
			return fmt.Errorf("in second %d: %w", second, err)
		}
		time.Sleep(time.Until(began.Add(time.Second)))
		n := asked()
		s.PerSecond = append(s.PerSecond, int(math.Round(float64(n-last)/time.Since(began).Seconds())))
		last = n
	}
	fmt.Fprintln(os.Stderr)
	s.Errors = int(c.errors.Load())
	select {
	case <-changed:
		return nil
	case <-time.After(time.Minute):
		return fmt.Errorf("the change has not reached all of %d clients", s.Clients)
	}
}

// regulars are clients that connect anew where a reload has cut them off, as any HTTP
// library does.
type regulars struct {
	n      int
	url    string
	http   *http.Client
	ctx    context.Context // until they leave
	leave  context.CancelFunc
	ended  sync.WaitGroup
	errors atomic.Int64 // answers that are no 200 or 304, and none at all

	mu   sync.Mutex // protects have
	more sync.Cond  // have has grown
	have map[int64]int
}

func newRegulars(url string, n int) *regulars {
	c := &regulars{n: n, url: url, have: make(map[int64]int)}
	c.ctx, c.leave = context.WithCancel(context.Background())
	c.more.L = &c.mu
	c.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n, DisableCompression: true}}
	for range n {
		c.ended.Go(c.poll)
	}
	return c
}

// poll is one client.
func (c *regulars) poll() {
	pause := time.Duration(rand.Int64N(int64(time.Second))) // not all at once
	for tag := ""; ; {
		select {
		case <-time.After(pause):
		case <-c.ctx.Done():
			return
		}
		began := time.Now()
		next, version, err := c.ask(tag)
		switch {
		case err != nil:
			c.errors.Add(1)
		case next != tag:
			tag = next
			c.mu.Lock()
			c.have[version]++
			c.more.Broadcast()
			c.mu.Unlock()
		}
		pause = time.Until(began.Add(time.Second))
	}
}

// ask returns the tag of the answer; with a new one, the version in the body too.
func (c *regulars) ask(tag string) (string, int64, error) {
	r, err := http.NewRequestWithContext(c.ctx, "GET", c.url, nil)
	if err != nil {
		return "", 0, err
	}
	r.Header.Set("Prefer", "wait=25")
	if tag != "" {
		r.Header.Set("If-None-Match", tag)
	}
	a, err := c.http.Do(r)
	if err != nil {
		return "", 0, err
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	switch {
	case err != nil:
		return "", 0, err
	case a.StatusCode == http.StatusNotModified:
		return tag, 0, nil
	case a.StatusCode != http.StatusOK:
		return "", 0, fmt.Errorf("got %s", a.Status)
	}
	return a.Header.Get("Etag"), versionOf(text), nil
}

// all waits until all clients have had the version.
func (c *regulars) all(version int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.have[version] < c.n {
		c.more.Wait()
	}
}

// stop has all of them leave, those that are parked too.
func (c *regulars) stop() {
	c.leave()
	c.ended.Wait()
	c.http.CloseIdleConnections()
}
