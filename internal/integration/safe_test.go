package integration_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestSafe has clients of one site that must not be told the same, or not disturb one
// another, on the configurations and against the backends by which they are told
// apart.
func TestSafe(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the real binary")
	}
	t.Parallel()
	caddy := buildCaddy(t)
	for name, test := range map[string]func(*testing.T, binary){
		"allow and deny lists":           testLists,
		"upstreams by client":            testUpstreamsByClient,
		"addresses behind":               testAddressesBehind,
		"vary -client_ip":                testVaryWithoutAddress,
		"addresses in front":             testAddressesInFront,
		"gates behind":                   testGatesBehind,
		"sessions of addresses":          testSessionsOfAddresses,
		"tokens of visitors":             testTokens,
		"front controller":               testFrontController,
		"fields of others":               testFieldsOfOthers,
		"vary on what Caddy adds":        testVaryOnAddress,
		"forwarded fields":               testForwarded,
		"proxy protocol behind":          testProxyProtocolBehind,
		"early data":                     testEarlyData,
		"errors that are not for others": testUnsharedErrors,
		"session that is renewed":        testRenewedSession,
		"hanging paths":                  testHangingPaths,
		"slow reports":                   testSlowReports,
		"stalled bodies":                 testStalledBodies,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, caddy)
		})
	}
}

// newClientAt is a client whose address is the given one of the loopback network.
func newClientAt(t *testing.T, address, port string) *client {
	t.Helper()
	c := newClient(t, port)
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	c.http.Transport.(*http.Transport).DialContext = dialer.DialContext
	return c
}

// looks is what the warnings at provision say that looks at the client's address.
func (s *sidecar) looks() (all []string) {
	for line := range strings.Lines(s.logs.String()) {
		if _, list, ok := strings.Cut(line, `"looks":[`); ok {
			list, _, _ = strings.Cut(list, "]")
			all = append(all, strings.ReplaceAll(list, `"`, ""))
		}
	}
	slices.Sort(all)
	return all
}

// wantLooks fails the test unless the warnings name exactly these.
func (s *sidecar) wantLooks(t *testing.T, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := s.looks(); !slices.Equal(got, want) {
		t.Errorf("the warnings name %q, want %q", got, want)
	}
}

// testLists has 127.0.0.1 parked while others poll the same: those whom a list behind
// long_poll shuts out get what they get without us, whoever is parked, and nobody
// else does.
func testLists(t *testing.T, caddy binary) {
	const poll = "\tlong_poll /api/* {\n\t\tinterval 100ms\n\t}\n"
	forbidden := func(r reply) bool { return r.err == nil && r.status == 403 }
	aborted := func(r reply) bool { return r.err != nil }
	tests := map[string]struct {
		directives string
		looks      string
		denied     func(reply) bool
		others     []string // who are let in, beside 127.0.0.1; 127.0.0.2 never is
	}{
		"respond": {poll + `
	@denied not remote_ip 127.0.0.1
	respond @denied 403
	reverse_proxy BACKEND`, "remote_ip", forbidden, nil},
		"client_ip": {poll + `
	@denied not client_ip 127.0.0.1
	respond @denied 403
	reverse_proxy BACKEND`, "client_ip", forbidden, nil},
		"expression": {poll + `
	@denied expression !remote_ip('127.0.0.1')
	respond @denied 403
	reverse_proxy BACKEND`, "remote_ip", forbidden, nil},
		"error": {poll + `
	@denied not remote_ip 127.0.0.1
	error @denied 403
	reverse_proxy BACKEND`, "remote_ip", forbidden, nil},
		"abort": {poll + `
	@denied not remote_ip 127.0.0.1
	abort @denied
	reverse_proxy BACKEND`, "remote_ip", aborted, nil},
		"handle": {poll + `
	@lan remote_ip 127.0.0.1
	handle @lan {
		reverse_proxy BACKEND
	}
	handle {
		respond 403
	}`, "remote_ip", forbidden, nil},
		"route": {`
	@denied not remote_ip 127.0.0.1
	route /api/* {
		long_poll {
			interval 100ms
		}
		respond @denied 403
		reverse_proxy BACKEND
	}`, "remote_ip", forbidden, nil},
		"around": {`
	@denied not remote_ip 127.0.0.1
	route {
		route /api/* {
			long_poll {
				interval 100ms
			}
		}
		respond @denied 403
		reverse_proxy BACKEND
	}`, "remote_ip", forbidden, nil},
		"deny list": {poll + `
	@bad remote_ip 127.0.0.2
	respond @bad 403
	reverse_proxy BACKEND`, "remote_ip", forbidden, []string{"127.0.0.3"}},
		"deny list by error": {poll + `
	@bad remote_ip 127.0.0.2
	error @bad 403
	reverse_proxy BACKEND`, "remote_ip", forbidden, []string{"127.0.0.3"}},
		"in front": {`
	@denied not remote_ip 127.0.0.1
	@allowed {
		remote_ip 127.0.0.1
		path /api/*
	}
	long_poll @allowed {
		interval 100ms
	}
	respond @denied 403
	reverse_proxy BACKEND`, "remote_ip", forbidden, nil},
	}
	var sites strings.Builder
	var looks []string
	ports, backends := make(map[string]string), make(map[string]*backend)
	for name, test := range tests {
		ports[name], backends[name] = freePort(t), serveBackend(t, nil)
		sites.WriteString(site(ports[name], strings.ReplaceAll(test.directives, "BACKEND", backends[name].addr)))
		looks = append(looks, test.looks)
	}
	s := caddy.start(t, "", sites.String())
	s.wantLooks(t, looks...)

	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			b, port := backends[name], ports[name]
			const has = `If-None-Match: "one"`
			inside := []*pending{newClientAt(t, "127.0.0.1", port).poll("/api/x", has)}
			s.waitParked(1)
			outside := newClientAt(t, "127.0.0.2", port)
			for _, fields := range [][]string{{has, "Prefer: wait=20"}, {"Prefer: wait=20"}, {`If-None-Match: "zero"`}, nil} {
				if r := outside.get("/api/x", fields...); !test.denied(r) {
					t.Errorf("who is shut out got %v with %q", r, fields)
				}
			}
			for _, address := range test.others {
				inside = append(inside, newClientAt(t, address, port).poll("/api/x", has))
				s.waitParked(len(inside))
			}
			asked := b.asked.Load()
			waitFor(t, "checks", func() bool { return b.asked.Load() > asked+2 })
			wantWaiting(t, inside)
			b.set("two")
			wantAll(t, inside, 200, "changed")
			s.waitParked(0)
		})
	}
}

// testUpstreamsByClient has upstreams chosen by what checks do not carry by themselves:
// each client is told what its own says.
func testUpstreamsByClient(t *testing.T, caddy binary) {
	upstreams := []*backend{serveBackend(t, nil), serveBackend(t, nil)}
	upstreams[0].set("first")
	upstreams[1].set("second")
	both := upstreams[0].addr + " " + upstreams[1].addr
	choices := map[string]string{
		"header": `
	@mobile header User-Agent *Mobile*
	reverse_proxy @mobile ` + upstreams[0].addr + `
	reverse_proxy ` + upstreams[1].addr,
		"ip_hash":        "\treverse_proxy " + both + " {\n\t\tlb_policy ip_hash\n\t}\n",
		"client_ip_hash": "\treverse_proxy " + both + " {\n\t\tlb_policy client_ip_hash\n\t}\n",
		"map": `
	map {header.User-Agent} {upstream} {
		~Mobile ` + upstreams[0].addr + `
		default ` + upstreams[1].addr + `
	}
	reverse_proxy {upstream}`,
		"vars": `
	map {header.User-Agent} {device} {
		~Mobile mobile
		default desktop
	}
	@mobile vars {device} mobile
	reverse_proxy @mobile ` + upstreams[0].addr + `
	reverse_proxy ` + upstreams[1].addr,
		"expression": `
	@mobile expression {header.User-Agent}.contains('Mobile')
	reverse_proxy @mobile ` + upstreams[0].addr + `
	reverse_proxy ` + upstreams[1].addr,
		"header_regexp": `
	@mobile header_regexp User-Agent Mobile$
	handle @mobile {
		reverse_proxy ` + upstreams[0].addr + `
	}
	handle {
		reverse_proxy ` + upstreams[1].addr + `
	}`,
		"header policy": "\treverse_proxy " + both + " {\n\t\tlb_policy header User-Agent\n\t}\n",
	}
	var sites strings.Builder
	ports, twins := make(map[string]string), make(map[string]string)
	for name, choice := range choices {
		ports[name], twins[name] = freePort(t), freePort(t)
		sites.WriteString(site(ports[name], "\tlong_poll /api/* {\n\t\tinterval 100ms\n\t}\n"+choice) + site(twins[name], choice))
	}
	s := caddy.start(t, "", sites.String())
	s.wantLooks(t, "ip_hash", "client_ip_hash")

	for name := range choices {
		t.Run(name, func(t *testing.T) {
			seen := make(map[string]bool)
			var all sync.WaitGroup
			for i := 0; i < 8 || len(seen) < 2 && i < 64; i++ { // eight addresses may all be of one upstream
				address, agent := fmt.Sprintf("127.0.0.%d", i+1), fmt.Sprintf("User-Agent: Agent/%d", i)
				if i%2 == 0 {
					agent += " Mobile"
				}
				c, twin := newClientAt(t, address, ports[name]), newClientAt(t, address, twins[name])
				want := twin.get("/api/x", agent).want(t, 200, "")
				c.get("/api/x", agent, "Prefer: wait=20").want(t, 200, "answered").wantBody(t, want.body)
				version := "If-None-Match: " + want.header.Get("ETag")
				all.Go(func() { c.expires("/api/x", agent, version, "Prefer: wait=3") })
				seen[want.body] = true
			}
			all.Wait()
			if len(seen) != 2 {
				t.Errorf("the clients see %d upstreams", len(seen))
			}
		})
	}
}

// testAddressesBehind has the client's address asked for by name behind long_poll, or
// by what was mapped in front: what was said for one client nobody else gets.
func testAddressesBehind(t *testing.T, caddy binary) {
	see := &recall{see: func(r *http.Request) string { return r.Header.Get("X-Seen") }}
	b := serveBackend(t, see)
	const poll = "\tlong_poll /api/* {\n\t\tinterval 100ms\n\t}\n"
	tests := []struct{ name, directives, looks string }{
		{"placeholder of the peer", poll + "\treverse_proxy BACKEND {\n\t\theader_up X-Seen {http.request.remote.host}\n\t}\n", "{remote_host}"},
		{"placeholder of the client", poll + "\treverse_proxy BACKEND {\n\t\theader_up X-Seen {client_ip}\n\t}\n", "{client_ip}"},
		{"map", "\tmap {client_ip} {tier} {\n\t\t127.0.0.1 127.0.0.1\n\t\tdefault 127.0.0.2\n\t}\n" + poll +
			"\treverse_proxy BACKEND {\n\t\theader_up X-Seen {tier}\n\t}\n", ""},
		{"vars", "\tvars who {remote_host}\n" + poll + "\treverse_proxy BACKEND {\n\t\theader_up X-Seen {vars.who}\n\t}\n", ""},
		{"request_header", "\trequest_header X-Seen {remote_host}\n" + poll + "\treverse_proxy BACKEND\n", ""},
		{"request_header behind", "\troute {\n" + poll + "\t\trequest_header X-Seen {remote_host}\n\t\treverse_proxy BACKEND\n\t}\n", "{remote_host}"},
	}
	var sites strings.Builder
	var looks []string
	ports := make(map[string]string)
	for _, test := range tests {
		ports[test.name] = freePort(t)
		sites.WriteString(site(ports[test.name], strings.ReplaceAll(test.directives, "BACKEND", b.addr)))
		if test.looks != "" {
			looks = append(looks, test.looks)
		}
	}
	s := caddy.start(t, "", sites.String())
	s.wantLooks(t, looks...)

	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			see.set("before " + test.name)
			var all []*pending
			addresses := []string{"127.0.0.1", "127.0.0.2"}
			for _, address := range addresses {
				c := newClientAt(t, address, ports[test.name])
				own := c.get("/api/x").want(t, 200, "answered").wantBody(t, address+", before "+test.name)
				c.get("/api/x", "Prefer: wait=20").want(t, 200, "answered").wantBody(t, address+", before "+test.name)
				all = append(all, c.poll("/api/x", "If-None-Match: "+own.header.Get("ETag")))
				s.waitParked(len(all))
			}
			for _, address := range addresses {
				see.waitChecks(t, address)
			}
			wantWaiting(t, all)
			see.set("after " + test.name)
			for i, p := range all {
				p.wait().want(t, 200, "changed").wantBody(t, addresses[i]+", after "+test.name)
			}
		})
	}
}

// testVaryWithoutAddress has all share again where an operator says so, and nobody
// warned.
func testVaryWithoutAddress(t *testing.T, caddy binary) {
	see := &recall{see: func(r *http.Request) string { return r.Header.Get("X-Seen") }}
	b := serveBackend(t, see)
	port, said := freePort(t), freePort(t)
	behind := "\treverse_proxy " + b.addr + " {\n\t\theader_up X-Seen {remote_host}\n\t}\n"
	s := caddy.start(t, "", site(port, "\tlong_poll {\n\t\tinterval 100ms\n\t\tvary -client_ip\n\t}\n"+behind)+
		site(said, "\tlong_poll {\n\t\tkey {client_ip}\n\t}\n"+behind))
	s.wantLooks(t)

	const nobody = "192.0.2.1"
	c := newClient(t, port)
	version := c.get("/", "Prefer: wait=20").want(t, 200, "answered").wantBody(t, nobody+", ").header.Get("ETag")
	all := crowd(20, func(i int) *pending {
		return newClientAt(t, fmt.Sprintf("127.0.0.%d", i+1), port).poll("/", "If-None-Match: "+version, "Cookie: session=the same for all")
	})
	s.waitParked(len(all))
	if n := s.metric("caddy_long_poll_resources"); n > 2 {
		t.Errorf("there are %d resources, of one with cookies and one without", n)
	}
	see.set("changed")
	for _, p := range all {
		p.wait().want(t, 200, "changed").wantBody(t, nobody+", changed")
	}
	newClientAt(t, "127.0.0.7", said).get("/", "Prefer: wait=20").want(t, 200, "answered").wantBody(t, "127.0.0.7, changed")
}

// testAddressesInFront has those who stand in front say who the client is: lists
// behind long_poll and the backend know it in a check as in any request.
func testAddressesInFront(t *testing.T, caddy binary) {
	see := &recall{see: func(r *http.Request) string { return r.Header.Get("X-Forwarded-For") }}
	b := serveBackend(t, see)
	trusted, proxied, open := freePort(t), freePort(t), freePort(t)
	options := `
	servers 127.0.0.1:` + trusted + ` {
		trusted_proxies static 127.0.0.1/32
	}
	servers 127.0.0.1:` + proxied + ` {
		listener_wrappers {
			proxy_protocol {
				allow 127.0.0.1/32
			}
		}
	}
	servers 127.0.0.1:` + open + ` {
		trusted_proxies static 127.0.0.1/32
	}`
	list := `
	long_poll {
		interval 100ms
	}
	@bad client_ip 203.0.113.66
	respond @bad 403
	reverse_proxy ` + b.addr
	s := caddy.start(t, options, site(trusted, list)+site(proxied, list)+
		site(open, "\tlong_poll {\n\t\tinterval 100ms\n\t}\n\treverse_proxy "+b.addr))
	s.wantLooks(t, "client_ip", "client_ip")

	behindTrusted := func(address string) (*client, []string) {
		return newClient(t, trusted), []string{"X-Forwarded-For: " + address}
	}
	behindProxied := func(address string) (*client, []string) {
		c := newClient(t, proxied)
		c.http.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, to string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, to)
			if err == nil {
				_, err = fmt.Fprintf(conn, "PROXY TCP4 %s 127.0.0.1 4711 80\r\n", address)
			}
			return conn, err
		}
		return c, nil
	}
	for name, by := range map[string]struct {
		client func(address string) (*client, []string)
		tells  string // to the backend, after the address
	}{
		"trusted_proxies": {behindTrusted, ", 127.0.0.1"},
		"proxy_protocol":  {behindProxied, ""},
	} {
		t.Run(name, func(t *testing.T) {
			see.set("before " + name)
			var all []*pending
			addresses := []string{"203.0.113.7", "203.0.113.8"}
			for _, address := range addresses {
				c, fields := by.client(address)
				first := c.get("/", append(fields, "Prefer: wait=20")...).want(t, 200, "answered").wantBody(t, address+by.tells+", before "+name)
				all = append(all, c.poll("/", append(fields, "If-None-Match: "+first.header.Get("ETag"))...))
				s.waitParked(len(all))
				bad, fields := by.client("203.0.113.66")
				bad.get("/", append(fields, "If-None-Match: "+first.header.Get("ETag"))...).want(t, 403, "answered")
				bad.get("/", fields...).want(t, 403, "answered")
			}
			wantWaiting(t, all)
			see.set("after " + name)
			for i, p := range all {
				p.wait().want(t, 200, "changed").wantBody(t, addresses[i]+by.tells+", after "+name)
			}
		})
	}

	t.Run("anonymous and not", func(t *testing.T) {
		see.set("")
		c := newClient(t, open)
		const from, wait = "X-Forwarded-For: 203.0.113.7", "Prefer: wait=20"
		c.get("/", from).want(t, 200, "answered").wantBody(t, "203.0.113.7, 127.0.0.1, ")
		c.get("/", from, wait).want(t, 200, "answered").wantBody(t, "192.0.2.1, ")
		c.get("/", from, wait, "Cookie: session=1").want(t, 200, "answered").wantBody(t, "203.0.113.7, 127.0.0.1, ")
	})
}
