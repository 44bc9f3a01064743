package e2e

import (
	"bufio"
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// The clients from npm, each driven by a script in node/.

func TestApollo(t *testing.T) {
	d := dialect{
		file: "apollo", answer: apollo, polled: "/release/", silent: true,
		clients: script(t, "apollo.js"),
	}
	d.run(t)
}

// apollo is a backend that knows of its latest release, and nothing of
// notifications.
func apollo(w http.ResponseWriter, r *http.Request, value int) {
	switch {
	case r.URL.Path == "/release/latest":
		write(w, map[string]any{"id": value})
	case strings.HasPrefix(r.URL.Path, "/configs/"):
		write(w, map[string]any{"configurations": map[string]string{"value": strconv.Itoa(value)}, "releaseKey": strconv.Itoa(value)})
	default:
		http.NotFound(w, r)
	}
}

// TestApolloList watches two namespaces, which change in turn, in one poll.
func TestApolloList(t *testing.T) {
	d := dialect{
		file: "apollo-list", polled: "/notifications/", silent: true, late: true,
		answer: func(w http.ResponseWriter, r *http.Request, value int) {
			ids := map[string]int{"even": value / 2 * 2, "odd": (value-1)/2*2 + 1}
			if name := path.Base(r.URL.Path); strings.HasPrefix(r.URL.Path, "/configs/") {
				write(w, map[string]any{"configurations": map[string]string{"value": strconv.Itoa(ids[name])}})
				return
			}
			type notification struct {
				Name string `json:"namespaceName"`
				ID   int    `json:"notificationId"`
			}
			var asked []notification
			json.Unmarshal([]byte(r.FormValue("notifications")), &asked)
			news := []notification{}
			for _, n := range asked {
				if n.ID != ids[n.Name]+10 {
					news = append(news, notification{n.Name, ids[n.Name] + 10})
				}
			}
			write(w, news)
		},
		clients: script(t, "apollo.js", "even", "odd"),
	}
	d.run(t)
}

// TestNacos watches two configs, which change in turn, in one poll.
func TestNacos(t *testing.T) {
	run := script(t, "nacos.js", "even", "odd")
	d := dialect{
		file: "nacos", answer: nacos, polled: "/listener", silent: true,
		clients: func(ctx context.Context, site string, n int, tell tell) error {
			// What is there when it begins it tells as if it had changed.
			var mu sync.Mutex
			first := make(map[int]int)
			return run(ctx, site, n, func(client int, value string, err error) {
				mu.Lock()
				defer mu.Unlock()
				if first[client]++; err == nil && first[client] <= 2 {
					return
				}
				tell(client, value, err)
			})
		},
	}
	d.run(t)
}

// nacos answers a listener at once: with the names of the configs whose digests
// differ.
func nacos(w http.ResponseWriter, r *http.Request, value int) {
	configs := map[string]string{"even": strconv.Itoa(value / 2 * 2), "odd": strconv.Itoa((value-1)/2*2 + 1)}
	if path.Base(r.URL.Path) != "listener" {
		io.WriteString(w, configs[r.FormValue("dataId")])
		return
	}
	for listened := range strings.SplitSeq(r.FormValue("Listening-Configs"), "\x01") {
		words := strings.Split(listened, "\x02")
		if sum := md5.Sum([]byte(configs[words[0]])); len(words) > 2 && words[2] != hex.EncodeToString(sum[:]) {
			io.WriteString(w, url.QueryEscape(words[0]+"\x02"+words[1]+"\x01"))
		}
	}
}

func TestNano(t *testing.T) {
	d := dialect{file: "couchdb", answer: changes, polled: "/_changes", silent: true, clients: script(t, "nano.js")}
	d.run(t)
}

func TestPouchDB(t *testing.T) {
	d := dialect{file: "couchdb", answer: changes, polled: "/_changes", silent: true, clients: script(t, "pouchdb.js")}
	d.run(t)
}

func TestGrammy(t *testing.T) {
	d := dialect{file: "telegram", answer: telegram, polled: "/getUpdates", clients: script(t, "grammy.js")}
	d.run(t)
}

// script makes clients of a script.
func script(t *testing.T, name string, args ...string) clients {
	t.Helper()
	if err := installed(); errors.Is(err, exec.ErrNotFound) {
		t.Skipf("the clients from npm need node and npm: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	return spoken("node", "node", name, args...)
}

// spoken makes clients of a script in dir: `program name SITE N args` runs N of them
// until its standard input ends, and says a line of JSON for each value or error that one
// of them is told.
func spoken(dir, program, name string, args ...string) clients {
	return func(ctx context.Context, site string, n int, tell tell) error {
		cmd := exec.Command(program, append([]string{name, site, strconv.Itoa(n)}, args...)...)
		cmd.Dir = dir
		var stderr buffer
		cmd.Stderr = &stderr
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		defer context.AfterFunc(ctx, func() { stdin.Close() })() // it ends then
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			var said struct {
				Client       int
				Value, Error string
			}
			if err := json.Unmarshal(lines.Bytes(), &said); err != nil {
				tell(0, "", fmt.Errorf("%s says %q", name, lines.Bytes()))
			} else if said.Error != "" {
				tell(said.Client, "", errors.New(said.Error))
			} else {
				tell(said.Client, said.Value, nil)
			}
		}
		if err := cmd.Wait(); err != nil || ctx.Err() == nil {
			return fmt.Errorf("%s has ended: %v\n%s", name, err, &stderr)
		}
		return nil
	}
}

// installed installs what node/package-lock.json says, unless that was done.
var installed = sync.OnceValue(func() error {
	for _, name := range []string{"node", "npm"} {
		if _, err := exec.LookPath(name); err != nil {
			return err
		}
	}
	lock, err := os.Stat("node/package-lock.json")
	if err != nil {
		return err
	}
	// npm writes it last.
	if done, err := os.Stat("node/node_modules/.package-lock.json"); err == nil && done.ModTime().After(lock.ModTime()) {
		return nil
	}
	cmd := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = "node"
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return nil
})
