package cluster

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// aState is a state as a check makes it.
func aState(body string) *state.State {
	a := state.NewAnswer(200, http.Header{"Etag": {`"1"`}, "Content-Type": {"text/plain"}}, []byte(body), nil, 1<<20)
	return &state.State{Answer: a, Source: a, Version: state.Version{Status: 200, Text: `"1"`}}
}

// What comes from the board can be anything.
func FuzzReport(f *testing.F) {
	full := report{
		kind: news, name: "n", from: 1, token: 2, seq: 3, state: stateID{2, 3}, next: time.Second, pause: time.Minute, wakes: 5, by: "host:1",
		heard: []heard{{7, 8}, {9, 10}}, blob: pack(aState(strings.Repeat("a", 2000)).Append(nil)),
	}
	f.Add(full.append(nil), "n")
	for k := beat; k < last; k++ {
		r := full
		r.kind, r.host, r.path = k, "h", "/p"
		f.Add(r.append(nil), "n")
	}
	f.Add([]byte{format, byte(news), 0xff, 0xff, 0xff, 0xff, 0x0f}, "n")
	f.Fuzz(func(t *testing.T, message []byte, name string) {
		r, err := parse(message, name)
		if err != nil {
			return
		}
		if r.name != name || r.next < 0 || r.next > maxPause || len(r.heard) > maxHeard {
			t.Errorf("got %+v", r)
		}
		again, err := parse(r.append(nil), name)
		if err != nil || again.kind != r.kind || !slices.Equal(again.heard, r.heard) || !bytes.Equal(again.blob, r.blob) || again.path != r.path {
			t.Errorf("got %+v, %v; want %+v", again, err, r)
		}
		const limit = 1 << 16
		text, err := unpack(r.blob, limit)
		if err != nil {
			return
		}
		if len(text) > limit {
			t.Errorf("got %d bytes", len(text))
		}
		_, _ = state.Read(text, 1<<10)
	})
}

func TestReport(t *testing.T) {
	r := report{kind: news, name: "n", from: 1, token: 2, seq: 3, state: stateID{2, 3}, next: 1500 * time.Millisecond, pause: time.Second, wakes: 9, by: "b", heard: []heard{{1, 2}}, blob: []byte("x")}
	text := r.append(nil)
	got, err := parse(text, "n")
	if err != nil || got.from != 1 || got.token != 2 || got.seq != 3 || got.state != r.state || got.next != r.next || got.pause != r.pause || got.wakes != 9 || got.by != "b" || !slices.Equal(got.heard, r.heard) || string(got.blob) != "x" {
		t.Errorf("got %+v, %v; want %+v", got, err, r)
	}
	for n := range len(text) - 1 {
		if got, err := parse(text[:n], "n"); err == nil {
			t.Errorf("of %d bytes: got %+v", n, got)
		}
	}
	if _, err := parse(text, "m"); err == nil {
		t.Error("a message about another resource was read")
	}
}

// contract 14.5
func TestPack(t *testing.T) {
	for _, n := range []int{0, 1, worthPacking - 1, worthPacking, 100_000} {
		text := bytes.Repeat([]byte("ab"), n/2)
		blob := pack(text)
		if got, err := unpack(blob, 1<<20); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%d bytes: got %d, %v", n, len(got), err)
		}
		if n >= worthPacking && len(blob) > n/2 {
			t.Errorf("%d bytes are packed into %d", n, len(blob))
		}
	}
	if _, err := unpack(pack(make([]byte, 1<<20)), 1<<19); err == nil {
		t.Error("what is larger than the limit was unpacked")
	}
}
