// Command bench measures what a parked request costs, and what its release does,
// for long_poll and for what people would use instead.
//
//	go run . [-quick] [-peers] [-o file.md] [-n 9900] [-rounds 3] [-run regexp] [subject...]
//	go run . wake
//	go run . cluster [-n 5000] [-caddys 5] [-resources 10]
//	go run . soak [-for 30m] [-cluster]
//	go run . plot [-o ../docs/img/backend.svg]
//
// It prints one table: medians of the rounds, the spread in parentheses, and behind
// it the ratio to the floor, a Caddy handler that only blocks. The goals follow, each
// met or missed. Subjects and backends are processes of their own, on the same
// machine as the clients. It needs Linux: memory is PSS, read from /proc.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are how much is measured.
type options struct {
	n        int            // requests to park
	churners int            // clients that ask again at once
	rounds   int            // to take the median of
	idle     time.Duration  // for which nothing happens
	churn    time.Duration  // for which much does
	profile  string         // directory; empty for none
	config   map[string]any // of long_poll, beyond what the scenario needs
}

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "serve", "backend":
			var s spec
			fatal(json.Unmarshal([]byte(os.Args[2]), &s))
			fatal(map[string]func(spec) error{"serve": serve, "backend": backend}[os.Args[1]](s))
		case "wake":
			fatal(wakeCommand(os.Args[2:]))
			return
		case "cluster":
			fatal(clusterCommand(os.Args[2:]))
			return
		case "soak":
			fatal(soakCommand(os.Args[2:]))
			return
		case "plot":
			fatal(plotCommand(os.Args[2:]))
			return
		}
	}
	var o options
	flag.IntVar(&o.n, "n", 9900, "requests to park; reverse_proxy needs two files for each, of the 20,000 that a process may have as a rule")
	flag.IntVar(&o.churners, "churners", 1000, "clients that ask again at once")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds to take the median of")
	flag.DurationVar(&o.idle, "idle", 3*time.Second, "for how long nothing happens while all are parked")
	flag.DurationVar(&o.churn, "churn", 4*time.Second, "for how long clients ask again at once")
	flag.StringVar(&o.profile, "profile", "", "directory to write profiles of the subjects to")
	flag.Func("config", "configuration of long_poll to measure, as JSON", func(text string) error { return json.Unmarshal([]byte(text), &o.config) })
	quick := flag.Bool("quick", false, "less of all, in under a minute: too little to hold against the goals")
	withPeers := flag.Bool("peers", false, "nginx with nchan and Pushpin too, where Debian's packages are installed")
	out := flag.String("o", "", "Markdown file to write")
	pattern := flag.String("run", "", "regular expression: scenarios to run")
	flag.Parse()
	if *quick {
		o.n, o.churners, o.rounds, o.idle, o.churn = 1000, 200, 1, time.Second/2, time.Second/2
	}
	names := flag.Args()
	if len(names) == 0 {
		names = []string{"long_poll", detached, "floor", "reverse_proxy", "net/http", "polling"}
	}
	if *withPeers {
		for _, name := range peers() {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	wanted, err := regexp.Compile(*pattern)
	if err != nil {
		fatal(fmt.Errorf("parsing -run %q: %w", *pattern, err))
	}
	fatal(raiseFileLimit())

	t := &table{options: o, names: names, cells: make(map[cell][]float64)}
	for _, sc := range scenarios {
		if wanted.MatchString(sc.name) {
			t.scenarios = append(t.scenarios, sc)
		}
	}
	for round := range o.rounds {
		for _, sc := range t.scenarios {
			for _, name := range names { // in turn, so that all see the machine's moods
				if slices.Contains(sc.without, name) {
					continue
				}
				fmt.Fprintf(os.Stderr, "\rround %d of %d: %s, %s%20s", round+1, o.rounds, sc.name, name, "")
				v, err := sc.run(trial{options: o, subject: name, scenario: sc.name})
				fatal(err)
				t.add(sc.name, name, v)
			}
		}
	}
	fmt.Fprintln(os.Stderr)
	t.write(os.Stdout)
	if *out != "" {
		f, err := os.Create(*out)
		fatal(err)
		t.write(f)
		fatal(f.Close())
	}
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// raiseFileLimit allows as many files as may be, for children too.
func raiseFileLimit() error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("reading the limit of open files: %w", err)
	}
	l.Cur = l.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("raising the limit of open files: %w", err)
	}
	return nil
}

// table is what was measured.
type table struct {
	options
	names     []string // of subjects
	scenarios []scenario
	cells     map[cell][]float64 // of each round
}

type cell struct{ scenario, measure, subject string }

// add notes what one round has measured.
func (t *table) add(scenario, subject string, v values) {
	for m, x := range v {
		c := cell{scenario, m, subject}
		t.cells[c] = append(t.cells[c], x)
	}
}

// median is that of what was measured; false if nothing was.
func (t *table) median(scenario, measure, subject string) (float64, bool) {
	return median(t.cells[cell{scenario, measure, subject}])
}

func median(all []float64) (float64, bool) {
	if len(all) == 0 {
		return 0, false
	}
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2], true
}

// compare is the median of what f makes of two subjects in the same round.
func (t *table) compare(scenario, measure, subject, other string, f func(a, b float64) float64) (float64, bool) {
	return compare(t.cells[cell{scenario, measure, subject}], t.cells[cell{scenario, measure, other}], f)
}

func compare(mine, others []float64, f func(a, b float64) float64) (float64, bool) {
	var all []float64
	for i := range min(len(mine), len(others)) {
		all = append(all, f(mine[i], others[i]))
	}
	return median(all)
}

func ratio(a, b float64) float64      { return a / b }
func difference(a, b float64) float64 { return a - b }

func (t *table) write(w io.Writer) {
	fmt.Fprintf(w, "`go run .%s` in `bench/`, %s, %d rounds, %s.\n\n", strings.Join(append([]string{""}, os.Args[1:]...), " "), machine(), t.rounds, time.Now().Format(time.DateOnly))
	fmt.Fprintf(w, "| | %s |\n|---|%s\n", strings.Join(t.names, " | "), strings.Repeat("---|", len(t.names)))
	for _, sc := range t.scenarios {
		fmt.Fprintf(w, "| **%s** |%s\n", sc.title(t.options), strings.Repeat(" |", len(t.names)))
		for _, m := range sc.measures {
			fmt.Fprintf(w, "| %s |", strings.TrimSuffix(m.name+", "+m.unit, ", "))
			for _, name := range t.names {
				fmt.Fprintf(w, " %s |", t.cell(sc.name, m, name))
			}
			fmt.Fprintln(w)
		}
	}
	fmt.Fprintln(w)
	for _, g := range goals {
		g.write(w, t)
	}
}

// cell is a cell of the table: median, spread, ratio to the floor.
func (t *table) cell(scenario string, m measure, subject string) string {
	all := t.cells[cell{scenario, m.name, subject}]
	mid, ok := median(all)
	if !ok {
		return ""
	}
	text := number(mid)
	if len(all) > 1 {
		text += fmt.Sprintf(" (%s–%s)", number(slices.Min(all)), number(slices.Max(all)))
	}
	r, ok := t.compare(scenario, m.name, subject, "floor", ratio)
	if m.unit == "" || m.unit == "%" || !ok || subject == "floor" || r-r != 0 { // Inf, NaN
		return text
	}
	return text + " ×" + number(r)
}

// number is a number with three digits that count.
func number(x float64) string {
	switch {
	case x == 0:
		return "0"
	case x >= 100 || x <= -100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10 || x <= -10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

// machine describes where this runs.
func machine() string {
	model := runtime.GOARCH
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
		}
	}
	kernel, _ := exec.Command("uname", "-sr").Output()
	return fmt.Sprintf("%d cores of %s, %s, %s", runtime.NumCPU(), model, strings.TrimSpace(string(kernel)), runtime.Version())
}
