package integration_test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain runs the tests in the module's root, and fails if a goroutine of ours
// outlives them.
func TestMain(m *testing.M) {
	if err := os.Chdir("../.."); err != nil {
		fmt.Fprintf(os.Stderr, "finding the module's root: %v\n", err)
		os.Exit(1)
	}
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		// These tests wait for other processes, for intervals and for pauses, and compute
		// little: one for each processor leaves the machine idle.
		flag.Set("test.parallel", "6")
	}
	code := m.Run()
	os.RemoveAll(built)
	if left := leaked(time.Minute); code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines outlive the tests:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leaked waits for the goroutines of this module to end, and returns the stacks of
// those that have not.
func leaked(patience time.Duration) string {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	buf := make([]byte, 16<<20)
	for deadline := time.Now().Add(patience); ; <-ticker.C {
		var left []string
		for _, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")[1:] {
			if strings.Contains(stack, "caddy-longpoll/caddy-longpoll") {
				left = append(left, stack)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return strings.Join(left, "\n\n")
		}
	}
}
