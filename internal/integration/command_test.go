package integration_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	longpoll "github.com/caddy-longpoll/caddy-longpoll"
)

// ran is what a command of the binary has printed, and how it ended.
type ran struct {
	out, errors string
	code        int
}

// command runs `caddy long-poll` to its end.
func (b binary) command(t *testing.T, args ...string) ran {
	t.Helper()
	var out, errors bytes.Buffer
	cmd := b.longPoll(t, args...)
	cmd.Stdout, cmd.Stderr = &out, &errors
	_ = cmd.Run() // which the code tells
	return ran{out.String(), errors.String(), cmd.ProcessState.ExitCode()}
}

func (b binary) longPoll(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), b.path, append([]string{"long-poll"}, args...)...)
	cmd.Env = environment(shortTempDir(t))
	return cmd
}

// want fails the test unless the command ended well and its output matches.
func (r ran) want(t *testing.T, pattern string) {
	t.Helper()
	if r.code != 0 || !regexp.MustCompile(pattern).MatchString(r.out) {
		t.Errorf("got %d\n%s%s\nwant 0 and %s", r.code, r.out, r.errors, pattern)
	}
}

// wantInTime runs a command until it prints what matches, or has failed to again and again:
// what it prints is about times, which are others where the machine stands still.
func (b binary) wantInTime(t *testing.T, pattern string, args ...string) {
	t.Helper()
	var r ran
	for range attempts / 2 {
		if r = b.command(t, args...); r.code == 0 && regexp.MustCompile(pattern).MatchString(r.out) {
			return
		}
	}
	r.want(t, pattern)
}

// wantError fails the test unless the command failed and said why.
func (r ran) wantError(t *testing.T, text string) {
	t.Helper()
	if r.code == 0 || !strings.Contains(r.errors, text) {
		t.Errorf("got %d\n%s%s\nwant an error with %s", r.code, r.out, r.errors, text)
	}
}

// Each command of `caddy long-poll`, as people run it.
func testCommands(t *testing.T, caddy binary) {
	port := freePort(t)
	b := serveBackend(t, nil)
	s := caddy.start(t, "", fmt.Sprintf(":%s {\n\tlong_poll {\n\t\thold 25s 0%%\n\t\tinterval 100ms\n\t}\n\treverse_proxy %s\n}\n", port, b.addr))
	url := "http://127.0.0.1:" + port + "/orders/42"
	socket := strings.Fields(s.options)[2] // after `{ admin`

	for name, test := range map[string]func(t *testing.T){
		"version": func(t *testing.T) { caddy.command(t, "version").want(t, "^"+regexp.QuoteMeta(longpoll.Version)+"\n$") },
		"help": func(t *testing.T) {
			caddy.command(t).want(t, "watch +Polls")
			for _, name := range []string{"watch", "line", "wake", "stats"} {
				caddy.command(t, name, "--help").want(t, "Examples:\n  caddy long-poll "+name)
			}
			// What the manual has people type is understood.
			typed := 0
			for _, b := range blocks(t, "sh") {
				for line := range strings.Lines(b.code) {
					args, ok := strings.CutPrefix(strings.TrimSpace(line), "caddy long-poll ")
					if !ok {
						continue
					}
					typed++
					cmd := exec.Command("sh", "-c", caddy.path+" long-poll "+args+" --help")
					cmd.Env = environment(shortTempDir(t))
					if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "Usage:") {
						t.Errorf("%v: %s%v\n%s", b, line, err, out)
					}
				}
			}
			if typed < 5 {
				t.Errorf("the manual has %d lines", typed)
			}
			caddy.command(t, "wach").wantError(t, `unknown command "wach"`)
			caddy.command(t, "watch").wantError(t, "read []; expected one <url>")
			caddy.command(t, "watch", "ftp://x/").wantError(t, "expected http://")
		},
		"watch": func(t *testing.T) {
			caddy.command(t, "watch", url, "--count", "1").want(t, `^\d\d:\d\d:\d\d\.\d{3}  200  answered  \d+\.\d{3}s  "one"  15 B  \{"value":"one"\}\n$`)
			caddy.wantInTime(t, `  one\n.*  304  expired  .*  "one"  0 B\n$`, "watch", url, "--count", "2", "--json", "value", "--wait", "3s")
			// A request for a stream passes where none is offered: from then on it polls.
			caddy.wantInTime(t, `^\S+  200  bypassed  .*one"\}\n.*  304  expired  .*  "one"  0 B\n$`, "watch", url, "--count", "2", "--stream", "--wait", "3s")
			caddy.command(t, "watch", "127.0.0.1:"+freePort(t), "--count", "1").want(t, `  ---  connection refused after `)
		},
		"watch, a change and an interrupt": func(t *testing.T) {
			changing := serveBackend(t, nil)
			port := freePort(t)
			site := caddy.start(t, "", fmt.Sprintf(":%s {\n\tlong_poll {\n\t\tinterval 100ms\n\t}\n\treverse_proxy %s\n}\n", port, changing.addr))
			var out journal
			cmd := caddy.longPoll(t, "watch", "localhost:"+port, "--json", "value")
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			site.waitParked(1)
			changing.set("two")
			waitFor(t, "the change", func() bool { return strings.Contains(out.String(), `changed`) })
			site.waitParked(1)
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("an interrupt is an error: %v", err)
			}
			if got := strings.Count(out.String(), "\n"); got != 2 || !strings.Contains(out.String(), `"two"  15 B  two`) {
				t.Errorf("printed\n%s", out.String())
			}
			site.waitParked(0)
		},
		"watch, certificates and fields": func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, r.Header.Get("Authorization")+r.Host)
			}))
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			server.StartTLS()
			defer server.Close()
			caddy.command(t, "watch", server.URL, "--count", "1").want(t, "  ---  .*certificate")
			caddy.command(t, "watch", server.URL, "--count", "1", "--insecure", "-H", "Authorization: Bearer x", "-H", "Host: y").want(t, "  Bearer xy\n$")
		},
		"watch, a stream": func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				io.WriteString(w, "id: 7\ndata: {\"a\":1}\n\n")
			}))
			defer server.Close()
			caddy.command(t, "watch", server.URL, "--count", "2", "--stream").want(t, `(?s)  200  message   -  7  7 B  \{"a":1\}\n.*  7 B  `)
		},
		"line, the server's own hold": func(t *testing.T) {
			port := freePort(t)
			caddy.start(t, "", fmt.Sprintf(":%s {\n\tlong_poll 3s\n\treverse_proxy %s\n}\n", port, b.addr))
			caddy.wantInTime(t, `(?s)304 expired.*nothing cuts silent connections up to [2-7]\.\d s, when the server itself answers\nrecommended: hold `,
				"line", "localhost:"+port, "--max", "8s")
		},
		"line, nginx": func(t *testing.T) {
			hop := nginx.start(t, port)
			caddy.wantInTime(t, `(?s)504, said by nginx/.*something cuts silent connections after [45]\.\d s \([34] of 4 requests: 504, said by nginx/.*recommended: hold [34]`,
				"line", "localhost:"+hop+"/orders/42", "--max", "8s")
		},
		"watch, nginx": func(t *testing.T) {
			hop := nginx.start(t, port)
			caddy.wantInTime(t, `(?s)  200  .*  504  -  .*  504  -  `, "watch", "localhost:"+hop+"/orders/42", "--count", "3")
		},
		"line, nothing to measure": func(t *testing.T) {
			server := httptest.NewServer(http.NotFoundHandler())
			defer server.Close()
			caddy.command(t, "line", server.URL).wantError(t, "status 404")
		},
		"wake": func(t *testing.T) {
			caddy.command(t, "wake", "/orders/never", "--address", socket).want(t, "^0 woken\n$")
			caddy.command(t, "wake", "orders", "--address", socket).wantError(t, "begins with a slash")
			caddy.command(t, "wake", "/x", "--address", "127.0.0.1:"+freePort(t)).wantError(t, "asking the admin endpoint")
		},
		"stats": func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "Caddyfile")
			if err := os.WriteFile(file, []byte(s.options), 0o600); err != nil {
				t.Fatal(err)
			}
			caddy.command(t, "stats", "--config", file).want(t, `(?m)^up +\d+.*\nparked +\d+ requests, for \d+ resources known\nrequests +`)
			raw := caddy.command(t, "stats", "--address", socket, "--json")
			if raw.code != 0 || !json.Valid([]byte(raw.out)) {
				t.Errorf("got %d\n%s%s", raw.code, raw.out, raw.errors)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

// What is parked is woken, by its path and by what that begins with.
func testCommandWakes(t *testing.T, caddy binary) {
	port := freePort(t)
	b := serveBackend(t, nil)
	s := caddy.start(t, "", fmt.Sprintf(":%s {\n\tlong_poll {\n\t\tinterval 1h\n\t}\n\treverse_proxy %s\n}\n", port, b.addr))
	client := newClient(t, port)
	for i, args := range [][]string{{"/orders/42"}, {"/orders/", "--prefix"}} {
		p := client.send("GET", "/orders/42", "", `If-None-Match: "`+b.get()+`"`)
		s.waitParked(1)
		b.set(fmt.Sprint("changed ", i))
		caddy.command(t, append([]string{"wake", "--address", strings.Fields(s.options)[2]}, args...)...).want(t, "^1 woken\n$")
		<-p.done
		p.reply.want(t, 200, "changed")
	}
}
