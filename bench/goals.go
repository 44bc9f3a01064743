package main

import (
	"fmt"
	"io"
)

// goal is what is to be reached: docs/contract.md, section 12.
type goal struct {
	text  string
	value func(t *table) (float64, bool)
	most  float64
	least float64 // where most is 0
}

// of is a figure of long_poll alone.
func of(scenario, measure string) func(t *table) (float64, bool) {
	return func(t *table) (float64, bool) { return t.median(scenario, measure, "long_poll") }
}

// against is a figure of long_poll beside that of another subject.
func against(scenario, measure, other string, f func(a, b float64) float64) func(t *table) (float64, bool) {
	return func(t *table) (float64, bool) { return t.compare(scenario, measure, "long_poll", other, f) }
}

// beside is the ratio of two figures of long_poll, in the same rounds.
func beside(scenario, measure, other string) func(t *table) (float64, bool) {
	return func(t *table) (float64, bool) {
		return compare(t.cells[cell{scenario, measure, "long_poll"}], t.cells[cell{scenario, other, "long_poll"}], ratio)
	}
}

// across is the ratio of two figures of long_poll, in two scenarios of the same rounds.
func across(scenario, measure, other, with string) func(t *table) (float64, bool) {
	return func(t *table) (float64, bool) {
		return compare(t.cells[cell{scenario, measure, "long_poll"}], t.cells[cell{other, with, "long_poll"}], ratio)
	}
}

var goals = []goal{
	{"backend requests per second while all wait for one resource with interval 1s", of("one", waitAsks), 1.05, 0},
	{"backend requests at a change, one of the interval among them if it is due", of("one", freeAsks), 2, 0},
	{"memory per parked request above the floor, one resource, KiB", against("one", memory, "floor", difference), 1, 0},
	{"memory per parked request above the floor, as many resources, KiB", against("many", memory, "floor", difference), 12, 0},
	{"the same after a collection, KiB", against("many", live, "floor", difference), 6, 0},
	{"memory per parked request, to that of reverse_proxy", against("one", memory, "reverse_proxy", ratio), 0.5, 0},
	{"CPU while all are parked and nothing changes, above that while nobody is there, % of a core", func(t *table) (float64, bool) {
		parked, ok := t.median("one", parkedAt, "long_poll")
		nobody, _ := t.median("one", idle, "long_poll")
		return parked - nobody, ok
	}, 0.3, 0},
	{"release p99, to that of the floor", against("one", p99, "floor", ratio), 1.1, 0},
	{"CPU per release, to that of the floor", against("one", freeCPU, "floor", ratio), 1.1, 0},
	{"release p99, that of reverse_proxy to it", against("one", p99, "reverse_proxy", inverse), 0, 3},
	{"CPU per release, that of reverse_proxy to it", against("one", freeCPU, "reverse_proxy", inverse), 0, 3},
	{"deliveries per second, to those of the floor", against("churn", rate, "floor", ratio), 0, 0.9},
	{"requests passed through per second, to those of the same Caddy without long_poll", beside("pass", passed, plainPassed), 0, 0.97},
	{"CPU per request passed through, to that of the same Caddy without long_poll", beside("pass", passCPU, plainCPU), 1.03, 0},
	{"the same with wake writes, requests", beside("writes", passed, plainPassed), 0, 0.97},
	{"the same with wake writes, CPU", beside("writes", passCPU, plainCPU), 1.03, 0},
	{"CPU per ordinary GET, each to another URL, with an ETag, to that of the same Caddy without long_poll", beside("get", passCPU, plainCPU), 1.1, 0},
	{"the same without an ETag of the backend's", beside("get-untagged", passCPU, plainCPU), 1.15, 0},
	{"CPU per ordinary GET, all to one URL, with an ETag, to that of the same Caddy without long_poll", beside("get-same", passCPU, plainCPU), 1.1, 0},
	{"the same without an ETag of the backend's", beside("get-same-untagged", passCPU, plainCPU), 1.15, 0},
	// Heap after a collection: a resource, or anything else that is kept of a URL, would be
	// hundreds of bytes.
	{"memory kept per ordinary GET, each to another URL, B", of("get", kept), 32, 0},
	{"the same without an ETag of the backend's, B", of("get-untagged", kept), 32, 0},
	{"backend requests per pause and resource in an outage, one resource", of("outage", outageAsks), 1, 0},
	{"the same, ten resources", of("outage10", outageAsks), 1, 0},
	{"memory per stream, to that of a parked request", across("streams", memory, "one", memory), 1, 0},
	{"the same after events", across("streams", eventful, "one", memory), 1, 0},
	{"memory per stream after events, to that of the floor's", against("streams", eventful, "floor", ratio), 1.1, 0},
	{"CPU per event, to that of a release", across("streams", eventCPU, "one", freeCPU), 1, 0},
	{"CPU per event, to that of the floor", against("streams", eventCPU, "floor", ratio), 1.1, 0},
	{"event p99, to that of the floor", against("streams", eventP99, "floor", ratio), 1.1, 0},
	{"with detach, memory per parked request after a collection, to that of nchan", detachedTo("one", live, "nchan", memory), 1, 0},
	{"with detach, release p99, to that of nchan", detachedTo("one", p99, "nchan", p99), 1, 0},
	{"with detach, CPU per release, to that of nchan", detachedTo("one", freeCPU, "nchan", freeCPU), 1.3, 0},
	{"with detach, CPU per delivery where clients ask again at once, to that without", detachedTo("churn", rateCPU, "long_poll", rateCPU), 1.4, 0},
	{"with detach, memory per stream, to that of a request parked with it", acrossDetached("streams", memory, "one", memory), 1, 0},
	{"the same after a collection", acrossDetached("streams", live, "one", live), 1, 0},
	{"with detach, CPU per event, to that of a release with it", acrossDetached("streams", eventCPU, "one", freeCPU), 1, 0},
	{"with detach, CPU per event, to that of the floor", detachedTo("streams", eventCPU, "floor", eventCPU), 1.1, 0},
	{"with detach, event p99, to that of the floor", detachedTo("streams", eventP99, "floor", eventP99), 1.1, 0},
	{"memory that 1 MiB to each of all takes, MiB", of("big", growth), 100, 0},
}

// detachedTo is the ratio of a figure of who is detached to that of another subject.
func detachedTo(scenario, measure, other, with string) func(t *table) (float64, bool) {
	return func(t *table) (float64, bool) {
		return compare(t.cells[cell{scenario, measure, detached}], t.cells[cell{scenario, with, other}], ratio)
	}
}

// acrossDetached is the ratio of two figures of who is detached, in two scenarios of the
// same rounds.
func acrossDetached(scenario, measure, other, with string) func(t *table) (float64, bool) {
	return func(t *table) (float64, bool) {
		return compare(t.cells[cell{scenario, measure, detached}], t.cells[cell{other, with, detached}], ratio)
	}
}

func inverse(a, b float64) float64 { return b / a }

// write says whether the goal is met. Where nothing was measured there is nothing to
// say.
func (g goal) write(w io.Writer, t *table) {
	v, ok := g.value(t)
	if !ok {
		return
	}
	verdict, bound := "met", fmt.Sprintf("at most %s", number(g.most))
	reached := v <= g.most
	if g.most == 0 {
		bound, reached = fmt.Sprintf("at least %s", number(g.least)), v >= g.least
	}
	if !reached {
		verdict = "**missed**"
	}
	fmt.Fprintf(w, "- %s: %s: %s, to be %s\n", verdict, g.text, number(v), bound)
}
