package tap

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// model is what a script says, in the words of RFC 9110: the final status, and the
// body.
func model(sc script) (status int, body string, err error) {
	for _, letter := range sc {
		switch letter {
		case 'H', 'F', 'f':
			status = http.StatusOK
		case 'W':
			status, body = http.StatusOK, body+"five "
		case 'R':
			status, body = http.StatusOK, body+"read, "+strings.Repeat("and ", 200)+"read "
		case 'E':
			return status, body, errScript
		}
	}
	return status, body, nil
}

// TestRecorderKeeps: what was recorded stays as it is, whatever handlers write that go on,
// and takes no more memory than it must.
func TestRecorderKeeps(t *testing.T) {
	for _, pieces := range [][]int{{}, {0}, {1}, {64}, {300}, {1024}, {300, 1}, {40, 40, 40}, {1000, 1000, 1000}} {
		w, want := NewRecorder(nil, 1<<20, false), []byte{}
		w.WriteHeader(http.StatusOK)
		for i, n := range pieces {
			piece := bytes.Repeat([]byte{byte('a' + i)}, n)
			w.Write(piece)
			want = append(want, piece...)
			clear(piece) // it is the handler's
		}
		said, err := w.Result(nil)
		if err != nil {
			t.Fatal(err)
		}
		w.Write([]byte("more"))
		if said.Body == nil || !bytes.Equal(said.Body, want) || cap(said.Body) != len(want) {
			t.Errorf("pieces %v: got %d bytes of %d, and want %d", pieces, len(said.Body), cap(said.Body), len(want))
		}
		if now := append(said.Body, "other"...); !bytes.HasPrefix(w.body.Bytes(), want) || !bytes.HasPrefix(now, want) {
			t.Errorf("pieces %v: got that one writes over the other", pieces)
		}
	}
}

// TestRecorder holds the recorder against the model, for every order.
func TestRecorder(t *testing.T) {
	const limit = 900
	for _, sc := range every("HWFIRE", 4) {
		preset := http.Header{"X-Preset": {"1"}}
		w := NewRecorder(preset, limit, false)
		said, err := w.Result(sc.ServeHTTP(w, nil))
		status, body, want := model(sc)
		stopped := false
		select {
		case <-w.Stopped():
			stopped = true
		default:
		}
		switch {
		case len(body) > limit:
			want = ErrUnshared
		case want == nil && status == 0:
			want = ErrNothing
		}
		if !errors.Is(err, want) || want == nil && err != nil || stopped != (want == ErrUnshared) {
			t.Errorf("%q: %v, want %v; stopped %v", sc, err, want, stopped)
			continue
		}
		if err != nil {
			continue
		}
		if said.Status != status || string(said.Body) != body || cap(said.Body) != len(body) || said.Header.Get("X-Preset") != "1" || said.Header.Get("Link") != "" {
			t.Errorf("%q: said %d %q of %d bytes, %v", sc, said.Status, said.Body, cap(said.Body), said.Header)
		}
		first := strings.IndexAny(string(sc), "HWFR")
		if own := said.Header.Get("X-Own") != ""; own != (sc[first] == 'H') {
			t.Errorf("%q: header %v", sc, said.Header)
		}
		if len(preset) != 1 || w.Preset().Get("X-Preset") != "1" {
			t.Errorf("%q: preset %v", sc, preset)
		}
	}
}

// TestRecorderHeads has heads that say all there is to know.
func TestRecorderHeads(t *testing.T) {
	for _, test := range []struct {
		status      int
		field, text string
		bodiless    bool
		want        error
	}{
		{200, "Content-Type", "Text/Event-Stream; charset=utf-8", false, ErrUnshared},
		{101, "Upgrade", "websocket", false, ErrUnshared},
		{200, "Content-Length", "101", false, ErrUnshared},
		{200, "Content-Length", "99999999999999999999", false, ErrUnshared},
		{200, "Content-Length", "101", true, nil},
		{200, "Content-Length", "100", true, nil},
		{200, "Content-Length", "100", false, ErrAborted},
		{200, "Content-Length", "0", false, nil},
		{200, "Content-Length", "no", false, nil},
		{304, "Content-Length", "101", false, nil},
		{204, "Content-Length", "7", false, nil},
		{499, "X-Any", "", false, ErrAborted},
		{404, "X-Any", "", false, nil},
	} {
		w := NewRecorder(nil, 100, test.bodiless)
		w.Header().Set(test.field, test.text)
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(test.status)
		w.WriteHeader(http.StatusTeapot)
		said, err := w.Result(nil)
		if !errors.Is(err, test.want) || test.want == nil && (err != nil || said.Status != test.status) {
			t.Errorf("%v: %v %v", test, said, err)
		}
	}
}

// TestGiveUp ends a recording while its handlers go on.
func TestGiveUp(t *testing.T) {
	for _, sc := range []script{"", "I", "H", "HW"} {
		w := NewRecorder(nil, 100, false)
		sc.ServeHTTP(w, nil)
		if begun := w.GiveUp(); begun != strings.Contains(string(sc), "H") {
			t.Errorf("%q: begun %v", sc, begun)
		}
		w.WriteHeader(http.StatusOK)
		if _, err := w.Write([]byte("more")); err == nil {
			t.Errorf("%q: takes more", sc)
		}
		if said, err := w.Result(nil); err != ErrUnshared {
			t.Errorf("%q: %v %v", sc, said, err)
		}
	}
}

// TestPassers holds what keeps nothing back against the handlers alone, for every
// order, and has it see the head once.
func TestPassers(t *testing.T) {
	for _, sc := range every("HWFfIR", 4) {
		status, body, _ := model(sc)
		alone := &client{header: make(http.Header)}
		sc.ServeHTTP(alone, nil)
		want := strings.ReplaceAll(strings.Join(alone.did, ""), "from ", "")

		var heads []string
		c := &client{header: make(http.Header)}
		head := NewHead(c, func(status int, header http.Header) {
			heads = append(heads, strconv.Itoa(status)+" "+header.Get("X-Own"))
			header.Set("X-Seen", "1")
		})
		sc.ServeHTTP(head, nil)
		if head.Status() != status {
			t.Errorf("%q: status %d", sc, head.Status())
		}
		head.Finish()
		head.Finish()
		if len(heads) != 1 || !strings.HasPrefix(heads[0], "200 ") {
			t.Errorf("%q: heads %q", sc, heads)
		}
		check := func(c *client) {
			t.Helper()
			got := strings.ReplaceAll(strings.Join(c.did, ""), "from ", "")
			if strings.Contains(string(sc), "f") {
				// The client here takes no Flush, but ours does.
				got, want := strings.ReplaceAll(got, "flush", ""), strings.ReplaceAll(want, "flush", "")
				if got != want {
					t.Errorf("%q: did %q, want %q", sc, got, want)
				}
			} else if got != want {
				t.Errorf("%q: did %q, want %q", sc, got, want)
			}
		}
		check(c)

		c = &client{header: make(http.Header)}
		var asked []int
		on := NewOnlooker(c, 900, false,
			func(status int, _ http.Header) bool { asked = append(asked, status); return true },
			func() bool { return true })
		sc.ServeHTTP(on, nil)
		check(c)
		said := on.Said()
		if on.Status() != status || (said != nil) != (status != 0 && len(body) <= 900) || said != nil && (string(said.Body) != body || said.Status != status) {
			t.Errorf("%q: said %v", sc, said)
		}
		if status != 0 && !slices.Equal(asked, []int{200}) {
			t.Errorf("%q: asked %v", sc, asked)
		}
	}
}

// TestOnlooker has no room, no need, or a head that tells enough.
func TestOnlooker(t *testing.T) {
	for _, test := range []struct {
		script     script
		need, room bool
		want       string
	}{
		{"HW", true, true, "five "},
		{"HW", false, true, ""},
		{"HW", true, false, "lost"},
		{"H", true, false, ""}, // no byte, no room
		{"C", true, true, ""},
		{"HL", true, true, "lost"},
		{"", true, true, "lost"},
		{"I", true, true, "lost"},
	} {
		on := NewOnlooker(httptest.NewRecorder(), 1000, false, func(int, http.Header) bool { return test.need }, func() bool { return test.room })
		test.script.ServeHTTP(on, nil)
		got := "lost"
		if said := on.Said(); said != nil {
			got = string(said.Body)
		}
		if got != test.want {
			t.Errorf("%v: got %q", test, got)
		}
	}
}

// broken is a source that fails at once.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errScript }

// TestBrokenSource leaves the head to handlers whose source has nothing to give.
func TestBrokenSource(t *testing.T) {
	heads := 0
	count := func(int, http.Header) { heads++ }
	c := &client{header: make(http.Header)}
	x := new(plan)
	for _, w := range []http.ResponseWriter{
		NewHead(c, count),
		NewOnlooker(c, 100, false, func(int, http.Header) bool { heads++; return false }, nil),
		&own{ResponseWriterWrapper: NewHead(c, count).ResponseWriterWrapper, x: x},
	} {
		if n, err := io.Copy(w, broken{}); n != 0 || err != errScript {
			t.Errorf("%T: %d, %v", w, n, err)
		}
		if heads != 0 || len(x.calls) != 0 || len(c.did) != 0 {
			t.Errorf("%T: head seen", w)
		}
	}
}
