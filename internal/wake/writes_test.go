package wake

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
	"github.com/caddy-longpoll/caddy-longpoll/internal/ops"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// The same path on another port is another thing.
func TestWriteOnAnotherServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		checks := make(map[string]int)
		for _, server := range []string{"", "srv1"} { // a new Server has no name
			site := &ops.Site{Server: server, Lot: lot.New[*state.Reading](lot.Limits{}), Log: zap.NewNop()}
			s := NewSet(site)
			s.add(new(Writes), "writes")
			s.Listen()
			defer s.Ignore()
			m := site.Lot.Join(lot.Key{}, lot.Name{Method: "GET", Host: "example.com", Path: "/orders"})
			defer m.Leave()
			m.Watch()
			r := m.Resource
			r.Schedule(func() {
				if r.Begin() {
					checks[server]++
					r.Publish(new(state.Reading), false, time.Now().Add(time.Hour))
				}
			})
			synctest.Wait()
		}
		w := httptest.NewRecorder()
		r := caddyhttp.PrepareRequest(httptest.NewRequest(http.MethodPost, "/orders", nil), caddy.NewReplacer(), w, new(caddyhttp.Server))
		if err := see(w, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if checks[""] != 2 || checks["srv1"] != 1 {
			t.Errorf("got %v checks; want one more on the server that was written to", checks)
		}
	})
}

// Who is ignored again is listened to no more, and leaves nothing behind.
func TestIgnore(t *testing.T) {
	var sets []*Set
	for range 3 {
		s := NewSet(&ops.Site{Server: "srv2"})
		s.add(new(Writes), "writes")
		s.Listen()
		sets = append(sets, s)
	}
	before := listening.on("srv2")
	sets[1].Ignore()
	sets[1].Ignore()
	if now := listening.on("srv2"); len(now) != 2 || now[0] != sets[0] || now[1] != sets[2] || len(before) != 3 || before[1] != sets[1] {
		t.Errorf("got %v of %v", now, before)
	}
	NewSet(&ops.Site{Server: "srv2"}).Listen() // without wake writes
	sets[0].Ignore()
	sets[2].Ignore()
	if _, ok := listening.all["srv2"]; ok {
		t.Errorf("got %v when all have gone", listening.all)
	}
}
