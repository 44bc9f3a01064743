package httphdr

import (
	"net/http"
	"testing"
)

// contract 5
func TestRevalidate(t *testing.T) {
	for backend, want := range map[string]string{
		"":                                       "no-cache",
		"max-age=60":                             "no-cache",
		"public, max-age=60":                     "no-cache",
		"max-age=0":                              "no-cache",
		"s-maxage=60":                            "no-cache",
		"no-cache":                               "no-cache",
		"no-store":                               "no-store",
		"No-Store, max-age=0":                    "No-Store, max-age=0",
		"private":                                "private, no-cache",
		"private, no-cache":                      "private, no-cache",
		`no-cache="Set-Cookie"`:                  "no-cache",
		`private="a, no-store, b"`:               "private, no-cache",
		"max-age=0, must-revalidate":             "max-age=0, must-revalidate",
		"max-age=0, proxy-revalidate":            "no-cache",
		"max-age=0, must-revalidate, s-maxage=9": "no-cache",
		"max-age=60, max-age=0, must-revalidate": "no-cache",
		"no-transform, max-age=3":                "no-transform, no-cache",
		"immutable, stale-while-revalidate=60":   "no-cache",
	} {
		header := http.Header{"Cache-Control": {backend}}
		if backend == "" {
			header = http.Header{}
		}
		header["Cdn-Cache-Control"] = []string{"max-age=60"}
		Revalidate(header)
		if got := header.Get("Cache-Control"); got != want {
			t.Errorf("%q: got %q; want %q", backend, got, want)
		}
		if len(header) != 1 {
			t.Errorf("%q: got %v", backend, header)
		}
	}
}

func TestDropShared(t *testing.T) {
	header := http.Header{"Cache-Control": {"a"}, "Surrogate-Key": {"a"}, "Access-Control-Allow-Origin": {"*"}, "X-Accel-Buffering": {"no"}}
	for _, name := range []string{
		"CDN-Cache-Control", "Cloudflare-CDN-Cache-Control", "Akamai-Cache-Control", "ExampleCDN-Cache-Control", "X-LiteSpeed-Cache-Control",
		"Surrogate-Control", "Edge-Control", "X-Accel-Expires",
	} {
		header.Set(name, "max-age=60")
	}
	if DropShared(header); len(header) != 4 {
		t.Errorf("got %v", header)
	}
}

// contract 5
func TestOfRepresentation(t *testing.T) {
	for name, want := range map[string]bool{
		"Content-Type": true, "Content-Length": true, "Content-Encoding": true, "Content-Language": true, "Content-Range": true, "Content-Digest": true,
		"Content-Location": false, "Etag": false, "Access-Control-Allow-Origin": false, "X-Content-Type-Options": false,
	} {
		if got := OfRepresentation(name); got != want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

// contract 3.8
func TestStreams(t *testing.T) {
	for kind, want := range map[string]bool{
		"text/event-stream": true, "Text/Event-Stream; charset=utf-8": true, "application/x-ndjson": true, "application/ndjson": true,
		"application/jsonl": true, "application/json-seq": true, "application/geo+json-seq": true, "multipart/x-mixed-replace; boundary=a": true,
		"application/grpc": true, "application/grpc-web+proto": true,
		"": false, "application/json": false, "text/plain; a=text/event-stream": false, "text/event-streams": false, "application/x-www-form-urlencoded": false,
	} {
		if got := Streams(http.Header{"Content-Type": {kind}}); got != want {
			t.Errorf("%q: got %v", kind, got)
		}
	}
	for field, want := range map[[2]string]bool{
		{"X-Accel-Buffering", "no"}: true, {"X-Accel-Buffering", "No"}: true, {"X-Accel-Buffering", "yes"}: false,
		{"Incremental", "?1"}: true, {"Incremental", "?1;a=b"}: true, {"Incremental", "?0"}: false, {"Incremental", "1"}: false,
	} {
		header := http.Header{field[0]: {field[1]}}
		if got := Streams(header); got != want || EventStream(header) {
			t.Errorf("%q: got %v", field, got)
		}
	}
	if !EventStream(http.Header{"Content-Type": {"text/event-stream;charset=utf-8"}}) || EventStream(http.Header{"Content-Type": {"application/x-ndjson"}}) {
		t.Error("want text/event-stream alone to be one")
	}
}

// contract 8
func TestStale(t *testing.T) {
	for field, want := range map[string]bool{
		`Digest realm="a", nonce="b", stale=true`:      true,
		`Digest realm="a", STALE = "True"`:             true,
		`Digest stale=true, realm="a"`:                 true,
		`Basic realm="a", Digest stale="TRUE"`:         true,
		`Digest realm="a", stale=false`:                false,
		`Digest realm="stale=true"`:                    false,
		`Digest realm="a, stale=true"`:                 false,
		`Digest realm="a\", stale=true, x", nonce="b"`: false,
		`Digest realm="a", x-stale=true`:               false,
		"Negotiate":                                    false,
		"":                                             false,
	} {
		if got := Stale(http.Header{"Www-Authenticate": {field}}); got != want {
			t.Errorf("%s: got %v", field, got)
		}
	}
	if !Stale(http.Header{"Www-Authenticate": {"Basic", "Digest stale=true"}}) {
		t.Error("the second field is not read")
	}
}

// contract 4
func TestWithoutSuffix(t *testing.T) {
	for tag, want := range map[string]string{
		"v1-gzip": "v1", "v1-br": "v1", "v1-zstd": "v1", "v1-deflate": "v1", "v1--gzip": "v1", "v1;gz": "v1", "v1-gzip-gzip": "v1-gzip",
		"v1": "", "-gzip": "", "gzip": "", "": "", "v1-gzipped": "",
	} {
		got, ok := WithoutSuffix(tag)
		if ok != (want != "") || ok && got != want || !ok && got != tag {
			t.Errorf("%q: got %q, %v; want %q", tag, got, ok, want)
		}
	}
}

func TestHasBody(t *testing.T) {
	for status, want := range map[int]bool{0: false, 101: false, 103: false, 200: true, 204: false, 304: false, 404: true} {
		if got := HasBody(status); got != want {
			t.Errorf("%d: got %v", status, got)
		}
	}
}
