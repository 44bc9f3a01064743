package contract_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// say has the backend say the same to all sites from now on.
func (f *flock) say(says caddyhttp.HandlerFunc) {
	for _, s := range f.sites {
		s.backend.say(func(w http.ResponseWriter, r *http.Request) error {
			f.reads.Add(1)
			return says(w, r)
		})
	}
}

// contract 14.2 and 7.7: what has failed and works again has not failed for who comes then.
func TestClusterOutageIsOver(t *testing.T) {
	for _, handed := range []bool{false, true} {
		t.Run(fmt.Sprint("handed on ", handed), virtual(func(t *testing.T) {
			f := newFlock(t, 3, steady)
			var all []*client
			for _, s := range f.sites[:2] {
				all = append(all, s.get("/orders", `If-None-Match: "1"`))
			}
			settle(3 * time.Second)
			f.say(func(w http.ResponseWriter, r *http.Request) error {
				w.WriteHeader(http.StatusServiceUnavailable)
				return nil
			})
			settle(4 * time.Second)
			if handed {
				all[f.holder()].leave()
				settle(time.Second)
			}
			for _, s := range f.sites {
				s.backend.say(f.says(s))
			}
			settle(8 * time.Second)
			first := f.sites[2].get("/orders")
			settle(time.Second)
			first.wants("200 answered 1")
			f.sites[2].get("/orders", `If-None-Match: "1"`).mustWait()
			f.sites[2].get("/orders", "Prefer: wait=5").wants("200 answered 1")
		}))
	}
}
