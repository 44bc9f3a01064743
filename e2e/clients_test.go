package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// The clients that are a few lines of HTTP each.

func TestREST(t *testing.T) {
	d := dialect{file: "rest", answer: record, clients: restClients}
	d.run(t)
}

// TestReloads reloads Caddy again and again. Who was released comes back at once,
// and meets no listener that is being closed.
func TestReloads(t *testing.T) {
	t.Parallel()
	const n = 20
	// Nobody's time is up, for who comes back because of that may meet such a listener.
	s := newSiteOf(t, "rest", newBackend(t, "", record), 10*patience)
	c := newCrowd(t, s, n, restWaiting(600))
	for reloads := range 20 {
		await(t, "the next round", func() error {
			if drained := s.outcomes("drained"); drained < n*reloads {
				return fmt.Errorf("%d were drained, of %d", drained, n*reloads)
			}
			return errors.Join(c.failed(), s.parkedAre(n))
		})
		s.reload()
	}
	if err := c.expect("1"); err != nil {
		t.Error(err)
	}
}

var restClients = restWaiting(2)

// restWaiting are clients that want to wait for so many seconds.
func restWaiting(seconds int) clients {
	wait := fmt.Sprint("wait=", seconds)
	return each(func(ctx context.Context, c *conn, tell func(string)) error {
		var etag string
		for {
			a, err := c.get(ctx, "/api/order", "If-None-Match", etag, "Prefer", wait)
			switch {
			case err != nil:
				return err
			case a.status == http.StatusNotModified && etag != "":
			case a.status != http.StatusOK || a.header.Get("Preference-Applied") != wait:
				return a.unexpected()
			default:
				etag = a.header.Get("ETag")
				tell(a.member("value"))
			}
		}
	})
}

func TestLiveResource(t *testing.T) {
	d := dialect{file: "liveresource", answer: record, clients: each(func(ctx context.Context, c *conn, tell func(string)) error {
		a, err := c.get(ctx, "/api/order")
		if err != nil {
			return err
		}
		for {
			etag := a.header.Get("ETag")
			if a.header.Get("Link") != "<>; rel=value-wait" || etag == "" {
				return a.unexpected()
			}
			switch a.status {
			case http.StatusOK:
				tell(a.member("value"))
			case http.StatusNotModified:
			default:
				return a.unexpected()
			}
			if a, err = c.get(ctx, "/api/order", "If-None-Match", etag, "Wait", "2"); err != nil {
				return err
			}
		}
	})}
	d.run(t)
}

func TestRestfulReact(t *testing.T) {
	d := dialect{file: "restful-react", answer: record, clients: each(func(ctx context.Context, c *conn, tell func(string)) error {
		prefer := "wait=2s;"
		for {
			a, err := c.get(ctx, "/api/order", "Prefer", prefer)
			switch {
			case err != nil:
				return err
			case a.status == http.StatusNotModified:
			case a.status != http.StatusOK || a.header.Get("X-Polling-Index") == "":
				return a.unexpected()
			default:
				prefer = "wait=2s;index=" + a.header.Get("X-Polling-Index")
				tell(a.member("value"))
			}
		}
	})}
	d.run(t)
}

// record is a record of a REST API.
func record(w http.ResponseWriter, r *http.Request, value int) {
	write(w, map[string]any{"value": strconv.Itoa(value)})
}

func TestFeed(t *testing.T) {
	d := dialect{file: "feed", answer: func(w http.ResponseWriter, r *http.Request, value int) {
		since, _ := strconv.Atoi(r.FormValue("since_id"))
		events := []int{}
		for id := since + 1; id <= value; id++ {
			events = append(events, id)
		}
		write(w, map[string]any{"events": events})
	}, clients: each(func(ctx context.Context, c *conn, tell func(string)) error {
		var since int
		for {
			a, err := c.get(ctx, "/events?since_id="+strconv.Itoa(since), "Prefer", "wait=2")
			if err != nil {
				return err
			}
			var feed struct{ Events []int }
			if err := json.Unmarshal(a.body, &feed); err != nil || feed.Events == nil {
				return a.unexpected()
			}
			for _, since = range feed.Events {
				tell(strconv.Itoa(since))
			}
		}
	})}
	d.run(t)
}

// TestCodings: a client that understands more content codings than we do gets its
// news at once too, in one that we understand.
func TestCodings(t *testing.T) {
	t.Parallel()
	s := newSite(t, "feed", newBackend(t, "", func(w http.ResponseWriter, r *http.Request, value int) {
		if strings.Contains(r.Header.Get("Accept-Encoding"), "br") {
			w.Header().Set("Content-Encoding", "br")
		}
		write(w, map[string]any{"events": []int{value}})
	}))
	c := &conn{site: s.url, transport: new(http.Transport)}
	defer c.transport.CloseIdleConnections()
	a, err := c.get(t.Context(), "/events", "Accept-Encoding", "gzip, deflate, br")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(a.header.Get("Long-Poll"), "answered;") || string(a.body) != "{\"events\":[1]}\n" {
		t.Error(a.unexpected())
	}
}

// TestJobs waits for one job after the other, of which the first are done.
func TestJobs(t *testing.T) {
	d := dialect{file: "jobs", answer: func(w http.ResponseWriter, r *http.Request, value int) {
		status := "running"
		if job, _ := strconv.Atoi(path.Base(r.URL.Path)); job <= value {
			status = "done"
		}
		w.Header().Set("Retry-After", "1")
		write(w, map[string]any{"status": status})
	}, clients: each(func(ctx context.Context, c *conn, tell func(string)) error {
		for job := 1; ; {
			a, err := c.get(ctx, "/jobs/"+strconv.Itoa(job), "Prefer", "wait=2")
			switch {
			case err != nil:
				return err
			case a.status != http.StatusOK:
				return a.unexpected()
			case a.member("status") == "done":
				tell(strconv.Itoa(job))
				job++
			}
		}
	})}
	d.run(t)
}

// TestExports waits until one thing after the other exists.
func TestExports(t *testing.T) {
	d := dialect{file: "jobs", answer: func(w http.ResponseWriter, r *http.Request, value int) {
		if export, _ := strconv.Atoi(path.Base(r.URL.Path)); export > value {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, "a,b,c\n")
	}, clients: each(func(ctx context.Context, c *conn, tell func(string)) error {
		for export := 1; ; {
			a, err := c.get(ctx, "/exports/"+strconv.Itoa(export), "Prefer", "wait=2")
			switch {
			case err != nil:
				return err
			case a.status == http.StatusNotFound:
			case a.status != http.StatusOK:
				return a.unexpected()
			default:
				tell(strconv.Itoa(export))
				export++
			}
		}
	})}
	d.run(t)
}

// TestList watches two records in one poll.
func TestList(t *testing.T) {
	d := dialect{file: "list", answer: func(w http.ResponseWriter, r *http.Request, value int) {
		write(w, []map[string]int{{"id": 4, "rev": value / 2}, {"id": 7, "rev": (value + 1) / 2}})
	}, clients: each(func(ctx context.Context, c *conn, tell func(string)) error {
		var revs string
		for {
			a, err := c.get(ctx, "/records?ids=4,7&revs="+revs, "Prefer", "wait=2")
			if err != nil {
				return err
			}
			var records []struct{ Rev int }
			if err := json.Unmarshal(a.body, &records); err != nil || len(records) != 2 {
				return a.unexpected()
			}
			now := fmt.Sprintf("[%d,%d]", records[0].Rev, records[1].Rev)
			if now != revs {
				tell(strconv.Itoa(records[0].Rev + records[1].Rev))
			}
			revs = now
		}
	})}
	d.run(t)
}

// TestMatrix is what a Matrix client does to stay in sync.
func TestMatrix(t *testing.T) {
	d := dialect{file: "matrix", answer: func(w http.ResponseWriter, r *http.Request, value int) {
		next := "s" + strconv.Itoa(value)
		rooms := map[string]any{}
		if r.FormValue("since") != next {
			rooms["!room:example.com"] = value
		}
		write(w, map[string]any{"next_batch": next, "rooms": rooms})
	}, clients: each(func(ctx context.Context, c *conn, tell func(string)) error {
		query := url.Values{}
		for {
			a, err := c.get(ctx, "/_matrix/client/v3/sync?"+query.Encode(), "Authorization", "Bearer token")
			if err != nil {
				return err
			}
			var sync struct {
				Next  string `json:"next_batch"`
				Rooms map[string]int
			}
			if err := json.Unmarshal(a.body, &sync); err != nil || sync.Next == "" {
				return a.unexpected()
			}
			for _, value := range sync.Rooms {
				tell(strconv.Itoa(value))
			}
			query = url.Values{"since": {sync.Next}, "timeout": {strconv.FormatInt(wait.Milliseconds(), 10)}}
		}
	})}
	d.run(t)
}

// each makes clients of one, which ends with the error that it has met. It is
// given a connection of its own, as clients in different places have.
func each(one func(ctx context.Context, c *conn, tell func(value string)) error) clients {
	return func(ctx context.Context, site string, n int, tell tell) error {
		var all sync.WaitGroup
		for client := range n {
			all.Go(func() {
				c := &conn{site: site, transport: new(http.Transport)}
				defer c.transport.CloseIdleConnections()
				for ctx.Err() == nil {
					if err := one(ctx, c, func(value string) { tell(client, value, nil) }); err != nil {
						tell(client, "", err)
						return
					}
				}
			})
		}
		all.Wait()
		return nil
	}
}

// conn is a client's connection to a site.
type conn struct {
	site      string
	transport *http.Transport
}

func (c *conn) client() *http.Client { return &http.Client{Transport: c.transport} }

// get asks for path, with header fields; those with an empty value are left out.
func (c *conn) get(ctx context.Context, path string, fields ...string) (*answer, error) {
	return c.do(ctx, http.MethodGet, path, "", fields...)
}

func (c *conn) do(ctx context.Context, method, path, body string, fields ...string) (*answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.site+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(fields); i += 2 {
		if fields[i+1] != "" {
			req.Header.Set(fields[i], fields[i+1])
		}
	}
	resp, err := c.client().Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	a := &answer{status: resp.StatusCode, header: resp.Header}
	a.body, err = io.ReadAll(resp.Body)
	return a, err
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a *answer) unexpected() error {
	return fmt.Errorf("unexpected answer %d %v %q", a.status, a.header, a.body)
}

// member is a member of the JSON body that is a string.
func (a *answer) member(name string) string {
	var members map[string]any
	json.Unmarshal(a.body, &members)
	text, _ := members[name].(string)
	return text
}

// write answers in JSON.
func write(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}
