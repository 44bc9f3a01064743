package integration_test

import (
	"testing"
)

// testDetachedLogsAsCame has a handler in front set a field of the request, which is a secret
// of the backend's: the access log has the request as it came, with detach and without.
func testDetachedLogsAsCame(t *testing.T, caddy binary) {
	b := serveBackend(t, nil)
	port := freePort(t)
	s := caddy.start(t, "", site(port, `
	log
	request_header X-Api-Key s3cr3t
	request_header X-Client ours
	long_poll /parked
	long_poll /detached {
		detach
	}
	reverse_proxy `+b.addr))
	wires := []*wire{dialWire(t, port), dialWire(t, port)}
	for i, path := range []string{"/parked", "/detached"} {
		wires[i].say(ask(path, b.get(), "X-Client: its"))
	}
	s.waitParked(2)
	b.set("two")
	for _, w := range wires {
		w.want(200, "changed")
	}
	lines := func() []map[string]any { return s.logs.entries("handled request") }
	waitFor(t, "both to be logged", func() bool { return len(lines()) == 2 })
	for _, line := range lines() {
		request := line["request"].(map[string]any)
		fields := request["headers"].(map[string]any)
		if key, ok := fields["X-Api-Key"]; ok {
			t.Errorf("%v: logged with X-Api-Key %v, which no client has sent", request["uri"], key)
		}
		if its, ok := fields["X-Client"].([]any); ok && its[0] != "its" {
			t.Errorf("%v: logged with X-Client %v; the client has sent another one", request["uri"], its)
		}
	}
}
