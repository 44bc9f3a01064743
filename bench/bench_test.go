package main

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

var soakFor = flag.Duration("soak", 2*time.Minute, "how long the soak is")

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
			v, err := sc.run(trial{options: o, subject: name, scenario: sc.name})
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
	report, err := soak(*soakFor)
	if err != nil {
		t.Fatalf("%v\n%s", err, report)
	}
	t.Log(report)
}
