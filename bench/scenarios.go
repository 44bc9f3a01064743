package main

import (
	"fmt"
	"slices"
	"time"
)

// scenario is one kind of work that the subjects are given.
type scenario struct {
	name     string
	title    func(o options) string
	without  []string // subjects that it makes no sense for
	measures []measure
	run      func(t trial) (values, error)
}

// measure is a row of the table.
type measure struct {
	name string
	unit string
	more bool // is better
}

// values are what one round has measured, by the names of measures.
type values map[string]float64

// trial is one round of a scenario for one subject.
type trial struct {
	options
	subject  string
	scenario string
	spec     spec
	gets     bool // what passes through are ordinary GETs
	spread   bool // each to another URL
	at       int  // resources that an outage is of
}

const (
	memory   = "memory each"
	live     = "memory each, after a collection"
	idle     = "CPU, nobody there"
	parkedAt = "CPU, all parked"
	waitAsks = "backend requests, all parked"
	arrival  = "polls parked"
	parkCPU  = "CPU per poll parked"
	p50      = "release, p50"
	p99      = "release, p99"
	last     = "release, last"
	freeCPU  = "CPU per release"
	freeAsks = "backend requests at the release"
	rate     = "deliveries"
	rateCPU  = "CPU per delivery"
	errored  = "errors"
	skipped  = "versions superseded before delivery"
	lost     = "clients without the last version"
	passed   = "requests"
	passCPU  = "CPU per request"

	plainPassed = "requests without long_poll"
	plainCPU    = "CPU per request without long_poll"

	nothingPassed = "requests past a handler that does nothing"
	nothingCPU    = "CPU per request past that"

	kept        = "memory kept per request"
	plainKept   = "memory kept without long_poll"
	nothingKept = "memory kept past that"

	goodAsks   = "backend requests per interval and resource, all is well"
	outageAsks = "backend requests per pause and resource, outage"
	refusals   = "errors told, outage"
	outageCPU  = "CPU per request, outage"

	growth = "peak memory growth"

	opening  = "streams opened"
	openCPU  = "CPU per stream opened"
	eventful = "memory each, after events"
	silence  = "CPU, all silent"
	beatless = "CPU, all silent, without heartbeats"
	eventP50 = "event, p50"
	eventP99 = "event, p99"
	eventEnd = "event, last"
	eventCPU = "CPU per event"
	eventAsk = "backend requests at an event"
)

var parking = []measure{
	{memory, "KiB", false}, {idle, "%", false}, {parkedAt, "%", false}, {waitAsks, "1/s", false}, {arrival, "1/s", true}, {parkCPU, "us", false},
	{p50, "ms", false}, {p99, "ms", false}, {last, "ms", false}, {freeCPU, "us", false}, {freeAsks, "", false}, {errored, "", false}, {lost, "", false},
}

var passMeasures = []measure{
	{passed, "1/s", true}, {plainPassed, "1/s", true}, {nothingPassed, "1/s", true},
	{passCPU, "us", false}, {plainCPU, "us", false}, {nothingCPU, "us", false},
}

var getMeasures = append(slices.Clone(passMeasures), measure{kept, "B", false}, measure{plainKept, "B", false}, measure{nothingKept, "B", false})

// passOnly are the subjects that stand only beside long_poll where requests pass.
var passOnly = []string{detached, "floor", "reverse_proxy", "net/http", "polling", "nchan", "pushpin"}

// gets is a scenario of ordinary GETs, which are their clients' own exchanges.
func gets(name, title string, spread, untagged bool) scenario {
	return scenario{
		name: name, title: func(options) string { return title }, without: passOnly, measures: getMeasures,
		run: func(t trial) (values, error) {
			t.gets, t.spread, t.spec.Untagged, t.spec.Size = true, spread, untagged, 1<<10
			return pass(t)
		},
	}
}

// outageOf is a scenario of an outage of so many resources.
func outageOf(name string, resources int) scenario {
	return scenario{
		name: name,
		title: func(o options) string {
			return fmt.Sprintf("an outage: %d clients that ask again every second, resources: %d", o.churners, resources)
		},
		without:  []string{detached, "floor", "reverse_proxy", "net/http", "nchan", "pushpin"},
		measures: []measure{{goodAsks, "", false}, {outageAsks, "", false}, {refusals, "1/s", false}, {outageCPU, "us", false}},
		run: func(t trial) (values, error) {
			t.at = resources
			return outage(t)
		},
	}
}

// streamsOf is a scenario of streams, over HTTP/1.1 or HTTP/2.
func streamsOf(name, over string, http2 bool) scenario {
	without := []string{"polling", "pushpin"}
	if http2 {
		without = append(without, detached, "nchan") // which sends no events over HTTP/2
	}
	return scenario{
		name: name,
		title: func(o options) string {
			return fmt.Sprintf("%d streams of events on one resource, a heartbeat every %v%s", o.n, o.beat(), over)
		},
		without: without,
		measures: []measure{
			{memory, "KiB", false}, {eventful, "KiB", false}, {live, "KiB", false}, {idle, "%", false}, {silence, "%", false}, {beatless, "%", false},
			{opening, "1/s", true}, {openCPU, "us", false},
			{eventP50, "ms", false}, {eventP99, "ms", false}, {eventEnd, "ms", false}, {eventCPU, "us", false}, {eventAsk, "", false}, {lost, "", false},
		},
		run: func(t trial) (values, error) {
			t.spec.HTTP2 = http2
			return streaming(t)
		},
	}
}

var scenarios = []scenario{
	{
		name:     "one",
		title:    func(o options) string { return fmt.Sprintf("%d requests parked on one resource", o.n) },
		measures: slices.Insert(slices.Clone(parking), 1, measure{live, "KiB", false}),
		run:      park,
	}, {
		name: "many",
		title: func(o options) string {
			return fmt.Sprintf("%d requests parked on as many resources, interval 60s", o.n)
		},
		without:  []string{"polling", "nchan", "pushpin"},
		measures: slices.Insert(slices.Clone(parking), 1, measure{live, "KiB", false}),
		run: func(t trial) (values, error) {
			t.spec.LongPoll = map[string]any{"interval": "60s", "max_resources": t.n + 100}
			return park(t)
		},
	}, {
		name: "http2",
		title: func(o options) string {
			return fmt.Sprintf("%d requests parked on one resource, HTTP/2, %d streams to a connection", o.n, streamsEach)
		},
		without:  []string{detached, "polling", "pushpin"},
		measures: parking,
		run: func(t trial) (values, error) {
			t.spec.HTTP2 = true
			return park(t)
		},
	}, {
		name: "churn",
		title: func(o options) string {
			return fmt.Sprintf("%d clients that ask again at once, a change when all have the last", o.churners)
		},
		without:  []string{"polling"},
		measures: []measure{{rate, "1/s", true}, {rateCPU, "us", false}, {errored, "", false}, {skipped, "", false}, {lost, "", false}},
		run:      func(t trial) (values, error) { return churn(t, 0) },
	}, {
		name: "paced",
		title: func(o options) string {
			return fmt.Sprintf("%d clients that ask again at once, a change every %v", o.churners, pace)
		},
		without:  []string{"polling"},
		measures: []measure{{rate, "1/s", true}, {rateCPU, "us", false}, {errored, "", false}, {skipped, "", false}, {lost, "", false}},
		run:      func(t trial) (values, error) { return churn(t, pace) },
	}, {
		name: "pass",
		title: func(o options) string {
			return fmt.Sprintf("POSTs that pass through to a backend, %d connections", passers)
		},
		without:  passOnly,
		measures: passMeasures,
		run: func(t trial) (values, error) {
			t.spec.LongPoll = map[string]any{"wake": nil}
			return pass(t)
		},
	}, {
		name:     "writes",
		title:    func(o options) string { return "the same with wake writes" },
		without:  passOnly,
		measures: passMeasures,
		run:      pass,
	},
	gets("get", "ordinary GETs of 1 KiB, each to another URL, with an ETag", true, false),
	gets("get-untagged", "the same without an ETag of the backend's", true, true),
	gets("get-same", "ordinary GETs of 1 KiB, all to one URL, with an ETag", false, false),
	gets("get-same-untagged", "the same without an ETag of the backend's", false, true),
	streamsOf("streams", "", false),
	streamsOf("streams-http2", fmt.Sprintf(", HTTP/2, %d to a connection", streamsEach), true),
	outageOf("outage", 1),
	outageOf("outage10", 10),
	{
		name:     "big",
		title:    func(o options) string { return fmt.Sprintf("1 MiB released to %d clients", o.churners) },
		without:  []string{"polling", "pushpin"},
		measures: []measure{{growth, "MiB", false}, {p50, "ms", false}, {last, "ms", false}, {freeCPU, "us", false}},
		run: func(t trial) (values, error) {
			t.spec.Size = 1 << 20
			t.n = t.churners
			return park(t)
		},
	},
}

const (
	pace    = 100 * time.Millisecond // between changes
	backOff = 100 * time.Millisecond // of a client that was answered with an error
	passers = 32                     // as many connections to a backend as reverse_proxy keeps
)
