package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/compute/metadata"
)

// TestElasticsearch waits for one async search after the other, of which the first have
// come to their end.
func TestElasticsearch(t *testing.T) {
	d := dialect{file: "elasticsearch", answer: func(w http.ResponseWriter, r *http.Request, value int) {
		search, _ := strconv.Atoi(path.Base(r.URL.Path))
		write(w, map[string]any{"id": strconv.Itoa(search), "is_running": search > value})
	}, clients: each(func(ctx context.Context, c *conn, tell func(string)) error {
		for search := 1; ; {
			a, err := c.get(ctx, fmt.Sprintf("/_async_search/%d?wait_for_completion_timeout=2s&keep_alive=5d", search))
			switch {
			case err != nil:
				return err
			case a.status != http.StatusOK || a.member("id") != strconv.Itoa(search):
				return a.unexpected()
			case strings.Contains(string(a.body), `"is_running":false`):
				tell(a.member("id"))
				search++
			}
		}
	})}
	d.run(t)
}

// TestGCE subscribes to an attribute of an instance with Google's own client, which does
// not say how long it waits.
func TestGCE(t *testing.T) {
	d := dialect{file: "gce", answer: func(w http.ResponseWriter, r *http.Request, value int) {
		if r.Header.Get("Metadata-Flavor") != "Google" {
			http.Error(w, "Metadata-Flavor is missing", http.StatusForbidden)
			return
		}
		w.Header().Set("ETag", fmt.Sprintf("%016x", value)) // without quotes
		w.Header().Set("Metadata-Flavor", "Google")
		fmt.Fprint(w, value)
	}, clients: func(ctx context.Context, site string, n int, tell tell) error {
		os.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(site, "http://")) // nobody else reads it
		return each(func(ctx context.Context, c *conn, tell func(string)) error {
			var last string
			return metadata.NewClient(c.client()).SubscribeWithContext(ctx, "instance/attributes/color", func(_ context.Context, value string, ok bool) error {
				if !ok {
					return fmt.Errorf("there is no such attribute")
				}
				if value != last { // at a time-out it is the same
					tell(value)
				}
				last = value
				return nil
			})
		})(ctx, site, n, tell)
	}}
	d.run(t)
}

// TestRSS reads a feed that is made anew for each reader.
func TestRSS(t *testing.T) {
	d := dialect{file: "rss", answer: feed, clients: each(func(ctx context.Context, c *conn, tell func(string)) error {
		var etag string
		for {
			a, err := c.get(ctx, "/feed.xml", "If-None-Match", etag, "Prefer", "wait=2")
			switch {
			case err != nil:
				return err
			case a.status == http.StatusNotModified && etag != "":
			case a.status != http.StatusOK:
				return a.unexpected()
			default:
				etag = a.header.Get("ETag")
				tell(regexp.MustCompile(`<guid>(\d+)`).FindStringSubmatch(string(a.body))[1])
			}
		}
	})}
	d.run(t)
}

// TestRSSReader: who only revalidates has its 304 at once.
func TestRSSReader(t *testing.T) {
	t.Parallel()
	s := newSite(t, "rss", newBackend(t, "", feed))
	c := &conn{site: s.url, transport: new(http.Transport)}
	defer c.transport.CloseIdleConnections()
	a, err := c.get(t.Context(), "/feed.xml")
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.get(t.Context(), "/feed.xml", "If-None-Match", a.header.Get("ETag"))
	if err != nil {
		t.Fatal(err)
	}
	if again.status != http.StatusNotModified || !strings.HasPrefix(again.header.Get("Long-Poll"), "answered;") {
		t.Error(again.unexpected())
	}
}

// feed is a feed with an item for the value.
func feed(w http.ResponseWriter, r *http.Request, value int) {
	w.Header().Set("Content-Type", "application/rss+xml")
	fmt.Fprintf(w, "<rss><channel><lastBuildDate>%s</lastBuildDate>\n<item><guid>%d</guid></item></channel></rss>\n",
		time.Now().Format(time.RFC3339Nano), value)
}
