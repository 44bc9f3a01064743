package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// profiles writes the heap profile of a subject now, if that is asked for, and its
// CPU profile until stop is called; of is what the subject does meanwhile.
func (s *subject) profiles(of string) (stop func()) {
	if s.profile == "" {
		return func() {}
	}
	save := func(what, file string) {
		resp, err := http.Get("http://" + s.spec.Debug + what)
		fatal(err)
		defer resp.Body.Close()
		f, err := os.Create(filepath.Join(s.profile, fmt.Sprintf("%s-%s-%s.%s", filepath.Base(s.subject), s.scenario, of, file)))
		fatal(err)
		_, err = io.Copy(f, resp.Body)
		fatal(err)
		fatal(f.Close())
	}
	save("/stats", "json")
	save("/debug/pprof/heap?gc=1", "heap")
	save("/debug/pprof/goroutine", "goroutines")
	var saved sync.WaitGroup
	saved.Go(func() { save(fmt.Sprintf("/debug/pprof/profile?seconds=%d", max(2, int(s.churn.Seconds()))), "cpu") })
	time.Sleep(100 * time.Millisecond) // it has begun
	return func() {
		saved.Wait()
		save("/stats", "after.json") // it collects, without which the next one lacks the latest
		save("/debug/pprof/allocs", "allocs")
	}
}
