package e2e

import (
	"context"
	"net/http"
	"path"
	"strconv"
	"strings"
	"testing"

	"github.com/go-kivik/kivik/v4"
	"github.com/go-kivik/kivik/v4/couchdb"
)

func TestCouchDB(t *testing.T) {
	d := dialect{
		file: "couchdb", answer: changes, polled: "/_changes", silent: true,
		clients: each(func(ctx context.Context, c *conn, tell func(string)) error {
			client, err := kivik.New("couch", c.site, couchdb.OptionHTTPClient(c.client()))
			if err != nil {
				return err
			}
			defer client.Close()
			since := "now"
			for {
				feed := client.DB("db").Changes(ctx, kivik.Params(map[string]any{
					"feed": "longpoll", "since": since, "timeout": wait.Milliseconds(),
				}))
				for feed.Next() {
					tell(feed.ID())
				}
				if err := feed.Err(); err != nil {
					return err
				}
				meta, err := feed.Metadata()
				if err != nil {
					return err
				}
				since = meta.LastSeq
			}
		}),
	}
	d.run(t)
}

// changes is a database with a document for each value up to the present one, whose
// sequence is opaque, as CouchDB's is.
func changes(w http.ResponseWriter, r *http.Request, value int) {
	last := strconv.Itoa(value) + "-g1AAAA"
	if path.Base(r.URL.Path) != "_changes" {
		write(w, map[string]any{"db_name": "db", "update_seq": last})
		return
	}
	since := r.URL.Query().Get("since")
	if since == "now" {
		since = last
	}
	seen, _, _ := strings.Cut(since, "-")
	results := []any{}
	n, _ := strconv.Atoi(seen)
	for n++; n <= value; n++ {
		id := strconv.Itoa(n)
		results = append(results, map[string]any{"seq": id + "-g1AAAA", "id": id, "changes": []any{map[string]string{"rev": "1-" + id}}})
	}
	write(w, map[string]any{"results": results, "last_seq": last, "pending": 0})
}
