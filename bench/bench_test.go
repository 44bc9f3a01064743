package main

import (
	"flag"
	"os"
	"testing"
	"time"
)

var soakFor = flag.Duration("soak", time.Minute, "how long the soak is")

// TestMain is the subjects and backends too: they are this program with arguments.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	report, err := soak(*soakFor)
	if err != nil {
		t.Fatalf("%v\n%s", err, report)
	}
	t.Log(report)
}
