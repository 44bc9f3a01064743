package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	soakFor        = flag.Duration("soak", 20*time.Second, "how long each soak is")
	soakClusterFor = flag.Duration("soak-cluster", 20*time.Second, "how long that of a cluster is")
)

// TestMain is the subjects and backends too: they are this program with arguments.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "serve" || os.Args[1] == "backend") {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestScenarios gives long_poll, and what it is held against, a little of each kind
// of work.
func TestScenarios(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	o := options{n: 50, churners: 20, rounds: 1, idle: 10 * time.Millisecond, churn: 200 * time.Millisecond}
	table := &table{options: o, names: []string{"long_poll", "floor"}, cells: make(map[cell][]float64), scenarios: scenarios}
	for _, sc := range scenarios {
		for _, name := range table.names {
			if slices.Contains(sc.without, name) {
				continue
			}
			tr := trial{options: o, subject: name, scenario: sc.name}
			if sc.name == "one" { // checks that are due anyway are not to be counted
				tr.spec.LongPoll = map[string]any{"interval": "60s"}
			}
			v, err := sc.run(tr)
			if err != nil {
				t.Fatalf("%s, %s: %v", sc.name, name, err)
			}
			table.add(sc.name, name, v)
			for _, m := range []string{lost, errored} {
				if v[m] != 0 {
					t.Errorf("%s, %s: %v %s", sc.name, name, v[m], m)
				}
			}
		}
	}
	if got, _ := table.median("many", freeAsks, "long_poll"); got < 50 {
		t.Errorf("50 resources have changed, and the backend was asked %v times", got)
	}
	if got, _ := table.median("one", freeAsks, "long_poll"); got < 1 || got > 2 {
		t.Errorf("one resource has changed, and the backend was asked %v times", got)
	}
	var text strings.Builder
	table.write(&text)
	t.Log("\n" + text.String())
}

func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("takes two minutes")
	}
	longest = 30 * time.Second
	for name, detaches := range map[string]bool{"parked": false, "detached": true} {
		t.Run(name, func(t *testing.T) {
			report, err := soak(*soakFor, detaches)
			if err != nil {
				t.Fatalf("%v\n%s", err, report)
			}
			t.Log(report)
		})
	}
}

// TestSoakCluster is a short life of three Caddys.
func TestSoakCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("needs redis-server, which is not installed")
	}
	longest = 30 * time.Second
	report, err := soakCluster(*soakClusterFor)
	if err != nil {
		t.Fatalf("%v\n%s", err, report)
	}
	t.Log(report)
}

// TestPlot has a few clients tell the story of the plot in a few seconds.
func TestPlot(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	s := story{Clients: 20, InFront: 4, Change: 8, Down: 11, Up: 13}
	if err := s.measure(15); err != nil {
		t.Fatal(err)
	}
	if before, after := mean(s.PerSecond[:s.InFront]), s.quiet(); before < 10 || after > 3 {
		t.Errorf("the backend was asked %v times a second before, and %v after", before, after)
	}
	if len(s.PerSecond) != 15 || s.Took <= 0 || s.Errors > 0 {
		t.Errorf("got %+v", s)
	}
}

// TestPlotIsSVG: what is drawn is XML, whatever was measured.
func TestPlotIsSVG(t *testing.T) {
	for _, s := range []story{
		{Clients: 1000, PerSecond: []int{990, 1010, 1, 1, 1, 0, 1}, InFront: 2, Change: 4, Down: 5, Up: 6, Took: 0.7, By: 1, Machine: "a & b"},
		{Clients: 1, PerSecond: []int{0, 0, 0, 0, 0}, InFront: 1, Change: 2, Down: 3, Up: 4, Errors: 1000},
	} {
		text := s.draw()
		d := xml.NewDecoder(bytes.NewReader(text))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
		}
		if strings.Contains(string(text), "NaN") || strings.Contains(string(text), "%!") || strings.Contains(string(text), "<script") {
			t.Errorf("got %s", text)
		}
	}
}
