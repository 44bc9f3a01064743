package redis

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func TestUnmarshalCaddyfile(t *testing.T) {
	t.Parallel()
	three := 3
	for _, c := range []struct {
		input string
		want  *Waker
	}{
		{"redis", &Waker{}},
		{"redis {\n}", &Waker{}},
		{
			"redis {\naddress a:1 b:2\nmaster main\nusername u\npassword p\ndb 3\ntls\nchannel c1 c2\nkeyspace k1 k2\nsharded\n}",
			&Waker{
				Server:  Server{Address: []string{"a:1", "b:2"}, Master: "main", Username: "u", Password: "p", DB: &three, TLS: &TLS{}},
				Channel: []string{"c1", "c2"}, Keyspace: []string{"k1", "k2"}, Sharded: true,
			},
		},
		{
			"redis {\nurl redis://h\ntls insecure_skip_verify\npattern p1 `p 2`\n}",
			&Waker{Server: Server{URL: "redis://h", TLS: &TLS{InsecureSkipVerify: true}}, Pattern: []string{"p1", "p 2"}},
		},
	} {
		var got Waker
		if err := got.UnmarshalCaddyfile(caddyfile.NewTestDispenser(c.input)); err != nil {
			t.Errorf("%s: %v", c.input, err)
			continue
		}
		if !reflect.DeepEqual(&got, c.want) {
			t.Errorf("%s: got %+v, want %+v", c.input, &got, c.want)
		}
		// What it is adapted to gives the same.
		b, err := json.Marshal(&got)
		if err != nil {
			t.Fatal(err)
		}
		var again Waker
		if err := caddy.StrictUnmarshalJSON(b, &again); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(&again, c.want) {
			t.Errorf("%s: got %+v from %s, want %+v", c.input, &again, b, c.want)
		}
	}
}

func TestUnmarshalCaddyfileErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ block, want string }{
		{"adress a:1", `wake redis: unknown subdirective "adress"; expected address, channel, db, keyspace, master, password, pattern, sharded, tls, url or username`},
		{"address", "address: missing argument; expected address <host:port>..."},
		{"address redis://:secret@a\naddress b:1", "address: given twice; expected at most one address"},
		{`address "" :secret@a`, "address: empty argument; expected address <host:port>..."},
		{"master", `master "": missing argument; expected master <name>`},
		{"master a b", `master "a b": surplus argument "b"; expected master <name>`},
		{`master ""`, `master "": empty argument; expected master <name>`},
		{"username", "username: missing argument; expected username <text>"},
		{"username u secret", "username: surplus argument; expected username <text>"},
		{`username ""`, "username: empty argument; expected username <text>"},
		{"password", "password: missing argument; expected password <text>"},
		{"password my secret", "password: surplus argument; expected password <text>"},
		{`password ""`, "password: empty argument; expected password <text>"},
		{"db one", `db "one": "one" is not a whole number; expected db <n>`},
		{"db", `db "": missing argument; expected db <n>`},
		{"db 1 2", `db "1 2": surplus argument "2"; expected db <n>`},
		{"tls on", `tls "on": unknown option "on"; expected tls [insecure_skip_verify]`},
		{"url redis://:secret@a redis://:secret@b", "url: surplus argument; expected url <redis url>"},
		{"channel", `channel "": missing argument; expected channel <text>...`},
		{"pattern", `pattern "": missing argument; expected pattern <text>...`},
		{"keyspace", `keyspace "": missing argument; expected keyspace <key>...`},
		{"sharded yes", `sharded "yes": surplus argument "yes"; expected sharded alone`},
		{"channel a\nchannel b", `channel "b": given twice; expected at most one channel`},
		{"password secret\npassword secret", "password: given twice; expected at most one password"},
		{"sharded\nsharded", `sharded "": given twice; expected at most one sharded`},
		{"channel a {\nb\n}", "channel: unexpected block; expected channel <text>..."},
	} {
		err := new(Waker).UnmarshalCaddyfile(caddyfile.NewTestDispenser("redis {\n" + c.block + "\n}"))
		if err == nil || !strings.HasPrefix(err.Error(), "parsing "+c.want+", at ") {
			t.Errorf("%s: got error %v, want %q", c.block, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error repeats the password: %v", c.block, err)
		}
	}
	err := new(Waker).UnmarshalCaddyfile(caddyfile.NewTestDispenser("redis redis://:secret@localhost:6379"))
	if want := "parsing wake redis: surplus argument; expected wake redis { ... }, at Testfile:1"; err == nil || err.Error() != want {
		t.Errorf("got error %v, want %q", err, want)
	}
}

// judge provisions and validates JSON, as Caddy does.
func judge(t *testing.T, config string) error {
	t.Helper()
	w := new(Waker)
	if err := caddy.StrictUnmarshalJSON([]byte(config), w); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	defer w.Cleanup()
	if err := w.Provision(ctx); err != nil {
		return err
	}
	return w.Validate()
}

func TestValidate(t *testing.T) {
	t.Setenv("TEST_EMPTY", "")
	t.Setenv("TEST_ADDRESS", "localhost")
	for _, c := range []struct{ config, want string }{
		{`{}`, ""},
		{`{"address": ["[::1]:6379"], "db": 0}`, ""},
		{`{"address": ["a:1", "b:1"], "db": 0, "sharded": true, "keyspace": ["{http.request.uri.path}"]}`, ""},
		{`{"address": ["a:1", "b:1"], "master": "m", "db": 3, "username": "u", "password": "p", "tls": {}}`, ""},
		{`{"url": "redis://user:pa%73s@host:1/2", "channel": ["c"], "pattern": ["p:*"]}`, ""},
		{`{"url": "rediss://host"}`, ""},
		{`{"url": "unix:///run/redis.sock?db=2"}`, ""},
		{`{"url": "redis://host:1?addr=other:1"}`, ""},
		{`{"url": "redis://host:1/0?addr=other:1"}`, ""},

		{`{"url": "redis://h", "address": ["a:1"]}`, "url with address: expected one of them"},
		{`{"url": "redis://h", "master": "m"}`, "url with master: expected one of them"},
		{`{"url": "redis://h", "username": "u"}`, "url with username: expected one of them"},
		{`{"url": "redis://h", "password": "secret"}`, "url with password: expected one of them"},
		{`{"url": "redis://h", "db": 0}`, "url with db: expected one of them"},
		{`{"url": "redis://h", "tls": {}}`, "url with tls: expected one of them"},
		{`{"sharded": true, "pattern": ["p:*"]}`, `sharded with pattern ["p:*"]: expected one of them`},

		{`{"url": "{env.TEST_EMPTY}"}`, "parsing url: malformed"},
		{`{"url": "host:6379"}`, "parsing url: malformed"},
		{`{"url": "http://:secret@host"}`, "parsing url: malformed"},
		{`{"url": "redis://:secret@host:port"}`, "parsing url: malformed"},
		{`{"url": "redis://:se/cret@host"}`, "parsing url: malformed"},
		{`{"url": "redis://:secret@host/one"}`, "parsing url: malformed"},
		{`{"url": "redis://:secret@host/-1"}`, `db "-1": expected 0 or more`},
		{`{"url": "redis://:secret@host?secret=1"}`, "parsing url: malformed"},
		{`{"url": "redis://:secret@host/3?addr=other:1"}`, "parsing url: malformed"},
		{`{"url": "redis://:secret@host?master_name="}`, "parsing url: malformed"},
		{`{"url": "redis://:secret@host\n"}`, "parsing url: malformed"},

		{`{"address": [""]}`, `address "": missing port in address; expected <host:port>`},
		{`{"address": ["localhost"]}`, `address "localhost": missing port in address; expected <host:port>`},
		{`{"address": ["{env.TEST_ADDRESS}"]}`, `address "localhost": missing port in address; expected <host:port>`},
		{`{"address": ["{env.TEST_EMPTY}"]}`, `address "{env.TEST_EMPTY}": missing port in address; expected <host:port>`},
		{`{"address": [":6379"]}`, `address ":6379": bad host ""; expected <host:port>`},
		{`{"address": ["a:1", "a:b"]}`, `address "a:b": bad port "b"; expected <host:port>`},
		{`{"address": ["a:0"]}`, `address "a:0": bad port "0"`},
		{`{"address": ["a:65536"]}`, `address "a:65536": bad port "65536"`},
		{`{"address": ["redis://a:1"]}`, `address "redis://a:1": too many colons in address; expected <host:port>`},
		{`{"address": ["redis://:secret@a:1"]}`, "address: has an @; expected <host:port>"},
		{`{"db": -1}`, `db "-1": expected 0 or more`},
		{`{"db": 1, "address": ["a:1", "b:1"]}`, `db "1" with several addresses: expected 0`},
		{`{"username": "u"}`, `username "u": has no password; expected both`},
		{`{"username": "{env.TEST_EMPTY}", "password": "secret"}`, `username "{env.TEST_EMPTY}": is empty once placeholders are replaced`},
		{`{"password": "{env.TEST_EMPTY}"}`, `password "{env.TEST_EMPTY}": is empty once placeholders are replaced`},
		{`{"channel": ["a", ""]}`, `channel "": expected a text that is not empty`},
		{`{"pattern": [""]}`, `pattern "": expected a text that is not empty`},
		{`{"keyspace": [""]}`, `keyspace "": expected a text that is not empty`},
		{`{"channel": ["{lp.bogus}"]}`, `channel: unknown placeholder "{lp.bogus}"`},
		{`{"keyspace": ["a", "{lp.request.form}"]}`, `keyspace: unknown placeholder "{lp.request.form}"`},
		{`{"channel": ["{lp.request.json.id}"]}`, ""},
		{`{"pattern": ["{http.request.uri.path}"]}`, `replacing placeholders of pattern "{http.request.uri.path}": unrecognized placeholder`},
	} {
		err := judge(t, c.config)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.config, err)
		case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), "wake redis: "+c.want)):
			t.Errorf("%s: got error %v, want %q", c.config, err, c.want)
		case err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "cret@")):
			t.Errorf("%s: the error repeats the password: %v", c.config, err)
		}
	}
}

func TestServer(t *testing.T) {
	t.Parallel()
	base := server{addrs: []string{"127.0.0.1:6379"}}
	for _, c := range []struct {
		config string
		want   server
	}{
		{`{}`, base},
		{`{"master": "m"}`, server{addrs: []string{"127.0.0.1:26379"}, master: "m"}},
		{`{"url": "redis://127.0.0.1"}`, base},
		{`{"url": "redis://127.0.0.1?dial_timeout=1&pool_size=7"}`, base},
		{`{"url": "rediss://u:p@h:1/2?skip_verify=true"}`, server{addrs: []string{"h:1"}, username: "u", password: "p", db: 2, tls: true, insecureSkipVerify: true}},
		{`{"url": "rediss://u:p@h:1?addr=i:2&addr=j:3"}`, server{addrs: []string{"h:1", "i:2", "j:3"}, username: "u", password: "p", tls: true}},
		{
			`{"url": "redis://su:sp@h:1/2?master_name=m&addr=i:2&username=u&password=p"}`,
			server{addrs: []string{"h:1", "i:2"}, master: "m", sentinelUsername: "su", sentinelPassword: "sp", username: "u", password: "p", db: 2},
		},
		{`{"url": "unix://u:p@/run/redis.sock?db=2"}`, server{addrs: []string{"/run/redis.sock"}, username: "u", password: "p", db: 2}},
	} {
		w := new(Waker)
		if err := caddy.StrictUnmarshalJSON([]byte(c.config), w); err != nil {
			t.Fatal(err)
		}
		got, err := w.server(caddy.NewReplacer())
		if err != nil {
			t.Errorf("%s: %v", c.config, err)
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, want %+v", c.config, got, c.want)
		}
	}

	// Whatever differs, differs in the key.
	keys := map[[32]byte]server{base.key(): base}
	for _, s := range []server{
		{addrs: []string{"127.0.0.1:6379", "127.0.0.1:6380"}},
		{addrs: []string{"127.0.0.1:6379 127.0.0.1:6380"}},
		{addrs: base.addrs, master: "m"},
		{addrs: base.addrs, username: "m"},
		{addrs: base.addrs, password: "m"},
		{addrs: base.addrs, password: "m\xff"},
		{addrs: base.addrs, password: "m\xfe"},
		{addrs: base.addrs, sentinelUsername: "m"},
		{addrs: base.addrs, sentinelPassword: "m"},
		{addrs: base.addrs, db: 1},
		{addrs: base.addrs, tls: true},
		{addrs: base.addrs, tls: true, insecureSkipVerify: true},
	} {
		if other, ok := keys[s.key()]; ok {
			t.Errorf("%+v and %+v have the same key", s, other)
		}
		keys[s.key()] = s
	}
}

func TestMatched(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, channel, want string
		ok                     bool
	}{
		{"orders:*", "orders:42", "42", true},
		{"orders:*", "orders:", "", true},
		{"*", "a/b", "a/b", true},
		{"*:changed", "/a/b:changed", "/a/b", true},
		{"a:*:b", "a:1:b", "1", true},
		{"a:*:b:*", "a:1:b:2", "1:b:2", true},
		{"a:*:b:*:c", "a:1:b:2:c", "1:b:2", true},
		{"**", "ab", "ab", true},
		{"or?er:*", "order:1", "1", true},
		{"[a-z]rder:*", "order:1", "1", true},
		{`[\]o]rder:*`, "order:1", "1", true},
		{`[^*]rder:*`, "order:1", "1", true},
		{`\*:*`, "*:1", "1", true},
		{`*:[12]\?`, "x:1?", "x", true},
		{"orders", "orders", "", false},
		{"order?", "orders", "", false},
		{"long:*", "l", "", false}, // never sent
	} {
		got, ok := matched(c.pattern, c.channel)
		if got != c.want || ok != c.ok {
			t.Errorf("pattern %q, channel %q: got %q, %t, want %q, %t", c.pattern, c.channel, got, ok, c.want, c.ok)
		}
	}
}

func FuzzMatched(f *testing.F) {
	f.Add("orders:*", "orders:42")
	f.Add(`a[\]`, "a")
	f.Add(`*\`, "")
	f.Fuzz(func(t *testing.T, pattern, channel string) {
		if got, _ := matched(pattern, channel); !strings.Contains(channel, got) {
			t.Errorf("pattern %q, channel %q: %q is no part of it", pattern, channel, got)
		}
	})
}

// Whatever a url is, its error does not repeat it.
func FuzzParseURL(f *testing.F) {
	f.Add("redis://:secret@host:port")
	f.Add("redis://host?addr=secret")
	f.Add("redis://host?master_name=m&addr=secret")
	f.Add("unix://secret")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseURL(text)
		if err == nil {
			s.options(0)
		} else if err != errURL {
			t.Errorf("url %q: %v", text, err)
		}
	})
}
