package tap

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// compare holds what a client gets of a script, with Serve in between, against what
// it gets without.
func compare(t testing.TB, s *server, sc script, limit int64, need bool) {
	t.Helper()
	compareBehind(t, s, sc, limit, need, owned)
	compareBehind(t, s, sc, limit, need, shown)
}

func compareBehind(t testing.TB, s *server, sc script, limit int64, need bool, behind func(caddyhttp.Handler, int64, Exchange) caddyhttp.Handler) {
	t.Helper()
	direct := s.alone(t, sc, sc)
	x := &plan{need: need}
	ours := s.alone(t, sc, behind(sc, limit, x))
	end, failed := strings.IndexAny(string(sc), "EX"), false
	if end >= 0 {
		failed, sc = true, sc[:end]
	}
	began := strings.ContainsAny(string(sc), "HCWLRFf")
	late := slices.Contains(x.calls, "late")
	// A body of the announced length goes out with its last byte, whatever comes then.
	whole := failed && slices.Contains(x.calls, "end")
	if whole && (!strings.Contains(string(sc), "C") || len(x.body) != 5) {
		t.Errorf("%q need %v: the end saw %q before the script failed", sc, need, x.body)
	}
	if need && failed && began && !late && !whole {
		// Kept back to the end, nothing was sent.
		if direct.Status == 0 && !ours.Broken || direct.Status != 0 && !ours.Broken && (ours.Status != 500 || ours.Header.Get("X-Own") != "" || ours.Header.Get("X-Preset") != "1") {
			t.Errorf("%q need %v: got %v", sc, need, ours)
		}
		return
	}
	if whole && direct.Broken && !ours.Broken {
		if ours.Status != 200 || ours.Body != x.body {
			t.Errorf("%q need %v: got %v of the whole body", sc, need, ours)
		}
		return
	}
	if ours.Trailer.Get("X-Later") != "" {
		// Where net/http says the length of a short body, there is no place for these: we
		// keep it from that.
		direct.Trailer, direct.Length = ours.Trailer, ours.Length
		delete(direct.Header, "Content-Length")
	}
	if ours.Broken && strings.Contains(string(sc), "C") && strings.Contains(string(sc), "R") {
		// Once its head is out, net/http does not count what ReadFrom copies: more than was
		// announced goes out, for the client to take for its next answer. We let it refuse.
		return
	}
	if strings.Contains(string(sc), "R") && direct.Length < 0 {
		// ReadFrom has net/http send its head after 512 bytes; we may spare it that.
		if ours.Length == int64(len(direct.Body)) {
			direct.Length = ours.Length
			direct.Header["Content-Length"] = ours.Header["Content-Length"]
		}
	}
	if direct.Broken && ours.Broken {
		// Where it broke off is a matter of buffers.
		if direct.Status == 0 || ours.Status == 0 {
			return
		}
		if shared := min(len(direct.Body), len(ours.Body)); direct.Body[:shared] == ours.Body[:shared] {
			direct.Body = ours.Body
		}
		if direct.Length < 0 || ours.Length < 0 {
			direct.Length = ours.Length
		}
	}
	if want, have := direct.String(), ours.without("X-Begun", "X-Ended", "X-Delayed"); want != have {
		t.Errorf("%q need %v:\nhave %s\nwant %s\ncalls %v", sc, need, have, want, x.calls)
	}
	want := []string{"begin 200"}
	switch {
	case failed && !began:
		want = nil
	case need && late:
		want = append(want, "late")
	case need:
		want = append(want, "end")
	}
	if !slices.Equal(x.calls, want) {
		t.Errorf("%q need %v: calls %v, want %v", sc, need, x.calls, want)
	}
	if len(want) == 2 && want[1] == "end" && !direct.Broken && (x.body != direct.Body || ours.Header.Get("X-Ended") != "1") {
		t.Errorf("%q need %v: the end saw %q", sc, need, x.body)
	}
}

// TestShown has handlers set a field, and look for it in front before the answer begins.
func TestShown(t *testing.T) {
	for _, need := range []bool{false, true} {
		front := httptest.NewRecorder()
		front.Header().Set("X-Preset", "1")
		saw := ""
		h := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("X-Own", "1")
			w.Header().Del("X-Preset")
			w.WriteHeader(http.StatusEarlyHints)
			saw = front.Header().Get("X-Own") + front.Header().Get("X-Preset")
			w.Write([]byte("body"))
			w.Header().Set("X-After", "1")
			return nil
		})
		if err := ServeShown(front, httptest.NewRequest("GET", "/", nil), h, 100, &plan{need: need}); err != nil {
			t.Fatal(err)
		}
		got := front.Result().Header
		if saw != "1" || got.Get("X-Own") != "1" || got.Get("X-Preset")+got.Get("X-After") != "" {
			t.Errorf("need %v: saw %q in front, then %v", need, saw, got)
		}
	}
}

// TestEveryOrder compares all short scripts, and some longer ones.
func TestEveryOrder(t *testing.T) {
	s := newServer(t, false)
	scripts := every("HWFIREX", 3)
	if testing.Short() {
		scripts = every("HWFIREX", 2)
	}
	for _, sc := range append(scripts, "CW", "CWF", "CR", "CWW", "CF", "C", "IHWFTt", "HTW", "HLt", "HLFtT", "HWFt", "IIHRT", "WTt", "HfW", "HRRRT", "HRRRRRRRRT", "HLLLT", "IHLLt", "LL", "HLLLX", "HLLLE", "CLW", "CWE", "CWX", "CWWE") {
		for _, need := range []bool{false, true} {
			compare(t, s, sc, 4000, need)
		}
	}
}

// TestHTTP2 compares scripts on HTTP/2.
func TestHTTP2(t *testing.T) {
	s := newServer(t, true)
	for _, sc := range append(every("HWFIR", 2), "IHWFTt", "HLFtT", "HWFt", "HTt", "HLLLT", "IHLLt", "HWX", "HFX", "CW", "CWW", "CE") {
		for _, need := range []bool{false, true} {
			compare(t, s, sc, 4000, need)
		}
	}
}

func FuzzExchange(f *testing.F) {
	s := newServer(f, false)
	f.Add("IHWFTt", uint16(100), true)
	f.Add("HLFtTX", uint16(5), true)
	f.Add("RRE", uint16(0), false)
	f.Add("CfCR", uint16(300), true)
	f.Add("FWWX", uint16(7), true)
	f.Fuzz(func(t *testing.T, text string, limit uint16, need bool) {
		sc := script(strings.Map(func(r rune) rune {
			if strings.ContainsRune("HCWLREFfITtX", r) {
				return r
			}
			return -1
		}, text))
		if len(sc) > 12 {
			sc = sc[:12]
		}
		compare(t, s, sc, int64(limit), need)
	})
}
