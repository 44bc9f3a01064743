package state

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-longpoll/caddy-longpoll/internal/delta"
)

// TestWeightOfHistory: what is kept for patches counts, the decoded text of what is
// compressed too, and what is kept with the answer does not count twice.
func TestWeightOfHistory(t *testing.T) {
	ru := &Rules{Delta: delta.JSONPatch}
	text := []byte(`{"text":"` + strings.Repeat("x", 10_000) + `"}`)
	var compressed bytes.Buffer
	w := gzip.NewWriter(&compressed)
	w.Write(text)
	w.Close()
	reading := func(status int, body []byte, coding string) *Reading {
		a := &Answer{Status: status, Header: http.Header{"Content-Encoding": {coding}}, Body: body, limit: 1 << 20}
		return &Reading{State: &State{Answer: a, Source: a, Version: Version{Status: status, Text: "1"}}}
	}
	plain, packed, gone := reading(200, text, "identity"), reading(200, compressed.Bytes(), "gzip"), reading(404, nil, "identity")
	plain.Remember(nil, ru)
	packed.Remember(nil, ru)
	gone.Remember(packed, ru)
	for name, c := range map[string]struct {
		r    *Reading
		want int
	}{"plain": {plain, 0}, "compressed": {packed, len(text)}, "gone": {gone, len(text)}} {
		if got := int(c.r.Weight() - c.r.State.Weight()); got != c.want {
			t.Errorf("%s: got %d bytes beside the answer; want %d", name, got, c.want)
		}
	}
}
