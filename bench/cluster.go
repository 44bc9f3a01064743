package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// clusterCommand measures what several Caddys cost the backend and Redis, with `cluster` and
// without, and how long a change takes to all clients of all of them.
func clusterCommand(args []string) error {
	flags := flag.NewFlagSet("cluster", flag.ExitOnError)
	n := flags.Int("n", 5000, "clients, over all Caddys")
	resources := flags.Int("resources", 10, "resources that they wait for")
	many := flags.Int("caddys", 5, "Caddys")
	changes := flags.Int("changes", 7, "changes to take the median of")
	_ = flags.Parse(args) // it exits
	if err := raiseFileLimit(); err != nil {
		return err
	}
	redis, addr, err := startRedis()
	if err != nil {
		return err
	}
	defer redis.stop()
	shared := map[string]any{"interval": "1s", "wake": []any{}, "cluster": map[string]any{"cluster": "redis", "address": []string{addr}}}
	alone := map[string]any{"interval": "1s", "wake": []any{}}

	var text strings.Builder
	fmt.Fprintf(&text, "`go run .%s` in `bench/`, %s, %s. %d clients wait for %d resources, and ask again at once; `interval 1s`; a change is one of all of them. Medians of %d changes, and the spread.\n\n",
		strings.Join(append([]string{""}, os.Args[1:]...), " "), machine(), time.Now().Format(time.DateOnly), *n, *resources, *changes)
	fmt.Fprintf(&text, "| | backend requests, 1/s, nothing changes | per change, beyond these | to the last byte, p50, ms | p99, ms | Redis commands, 1/s, nothing changes | bytes, 1/s | commands per change |\n|---|---|---|---|---|---|---|---|\n")
	var totals []float64 // requests to the backend each second, changes included
	for _, w := range []struct {
		name   string
		caddys int
		config map[string]any
	}{
		{"1 Caddy", 1, alone},
		{fmt.Sprintf("%d Caddys", *many), *many, alone},
		{fmt.Sprintf("%d Caddys, `cluster redis`", *many), *many, shared},
	} {
		fmt.Fprintf(os.Stderr, "\r%-70s", w.name)
		d, err := measureFlock(w.caddys, *n, *resources, *changes, w.config, addr)
		if err != nil {
			return fmt.Errorf("measuring %s: %w", w.name, err)
		}
		fmt.Fprintf(&text, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", w.name, number(d.idle), spread(d.asked), spread(d.p50), spread(d.p99),
			number(d.commands), number(d.bytes), spread(d.told))
		totals = append(totals, d.total)
	}
	fmt.Fprintf(&text, "\nBackend requests per second, changes included: %s by one Caddy, %s by %d, %s by %d with `cluster`: %+.1f%% of one.\n",
		number(totals[0]), number(totals[1]), *many, number(totals[2]), *many, 100*(totals[2]/totals[0]-1))
	fmt.Fprintln(os.Stderr)
	_, err = io.WriteString(os.Stdout, text.String())
	return err
}

// flockCost is what was measured of several Caddys.
type flockCost struct {
	deliveries
	commands, bytes float64 // of Redis, each second, while nothing changes
	told            []float64
	total           float64 // requests to the backend, each second, changes included
}

// idleFor is how long nothing changes, beyond the time in which clients have come.
const idleFor = 10 * time.Second

// measureFlock has n clients of so many resources wait for so many changes at so many Caddys.
func measureFlock(caddys, n, resources, changes int, config map[string]any, redis string) (d flockCost, err error) {
	behind, err := child("backend", spec{Addr: freeAddr(), Size: 200})
	if err != nil {
		return d, err
	}
	defer behind.stop()
	var (
		base   = time.Now()
		began  atomic.Int64 // of the change, nanoseconds since base
		wanted atomic.Int64 // version
		took   = make([]time.Duration, n)
		all    sync.WaitGroup
		bad    atomic.Pointer[answer]
		crowds []*crowd
		each   = n / caddys
		path   = func(i int) string { return fmt.Sprint("/r/", i%resources) }
	)
	ready := make(chan struct{}) // crowds are complete
	for at := range caddys {
		s := spec{Subject: "long_poll", Addr: freeAddr(), Backend: behind.addr, LongPoll: config, Debug: freeAddr(), Admin: freeAddr()}
		caddy, err := child("serve", s)
		if err != nil {
			return d, err
		}
		defer caddy.stop()
		c, err := newCrowd(s.Addr, each, func(i int, a answer) {
			<-ready
			if a.status != 200 || a.version != wanted.Load() {
				bad.Store(&a)
				return
			}
			took[at*each+i] = time.Since(base) - time.Duration(began.Load())
			_ = crowds[at].ask(i, poll{method: "GET", path: path(i), tag: tag(a.version)}) // whoever could not is missed at the next change
			all.Done()
		})
		if err != nil {
			return d, err
		}
		defer c.close()
		c.host = "bench" // the same for all
		crowds = append(crowds, c)
	}
	close(ready)
	wanted.Store(1)
	for _, c := range crowds {
		for i := range each {
			if err := c.ask(i, poll{method: "GET", path: path(i), tag: tag(1)}); err != nil {
				return d, err
			}
		}
	}
	time.Sleep(5 * time.Second)
	first, firstAt := askedOf(behind), time.Now()
	asked, commands, bytes := first, redisStat(redis, "total_commands_processed"), redisStat(redis, "total_net_input_bytes")
	time.Sleep(idleFor)
	d.idle = (askedOf(behind) - asked) / idleFor.Seconds()
	d.commands = (redisStat(redis, "total_commands_processed") - commands) / idleFor.Seconds()
	d.bytes = (redisStat(redis, "total_net_input_bytes") - bytes) / idleFor.Seconds()

	for version := int64(2); version < int64(2+changes); version++ {
		time.Sleep(2*time.Second + rand.N(time.Second))
		asked, commands, at := askedOf(behind), redisStat(redis, "total_commands_processed"), time.Now()
		all.Add(each * caddys)
		wanted.Store(version)
		began.Store(int64(time.Since(base)))
		if _, err := call("POST", "http://"+behind.addr+"/r", ""); err != nil {
			return d, err
		}
		if err := within(time.Minute, all.Wait); err != nil {
			return d, fmt.Errorf("waiting for version %d: %w; the last bad answer: %+v", version, err, bad.Load())
		}
		time.Sleep(3 * time.Second)
		passed := time.Since(at).Seconds()
		d.asked = append(d.asked, max(askedOf(behind)-asked-passed*d.idle, 0))
		d.told = append(d.told, max(redisStat(redis, "total_commands_processed")-commands-passed*d.commands, 0))
		sorted := slices.Sorted(slices.Values(took[:each*caddys]))
		d.p50, d.p99 = append(d.p50, us(sorted[len(sorted)/2])/1000), append(d.p99, us(sorted[len(sorted)*99/100])/1000)
	}
	d.total = (askedOf(behind) - first) / time.Since(firstAt).Seconds()
	if a := bad.Load(); a != nil {
		return d, fmt.Errorf("a client got %+v", *a)
	}
	return d, nil
}

// askedOf is how many requests a backend got.
func askedOf(behind *process) float64 {
	text, err := call("GET", "http://"+behind.addr+"/asked", "")
	fatal(err)
	n, _ := strconv.ParseFloat(string(text), 64)
	return n
}

// redisStat is one of the numbers of INFO stats.
func redisStat(addr, name string) (n float64) {
	conn, err := net.Dial("tcp", addr)
	fatal(err)
	defer conn.Close()
	_, err = io.WriteString(conn, "INFO stats\r\nQUIT\r\n")
	fatal(err)
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+":"); ok {
			n, _ = strconv.ParseFloat(value, 64)
		}
	}
	return n
}
