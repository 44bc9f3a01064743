// Command bench measures what a parked request costs, and what its release does,
// for long_poll and for what people would use instead.
//
//	go run . [-n 5000] [-rounds 3] [subject...]
//
// Each subject is a process of its own, so that its memory can be told from that
// of the clients: PSS, read from /proc (Linux).
package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	if len(os.Args) == 5 && os.Args[1] == "serve" {
		fatal(serve(os.Args[2], os.Args[3], os.Args[4]))
	}
	n := flag.Int("n", 5000, "requests to park")
	rounds := flag.Int("rounds", 3, "rounds to take the median of")
	flag.Parse()
	subjects := flag.Args()
	if len(subjects) == 0 {
		subjects = []string{"long_poll", "floor", "reverse_proxy", "net/http"}
	}
	results := make(map[string][]result)
	for range *rounds {
		for _, s := range subjects { // in turn, so that all see the machine's moods
			r, err := measure(s, *n)
			fatal(err)
			results[s] = append(results[s], r)
		}
	}
	fmt.Printf("| subject | KiB each | idle CPU %% | p50 ms | p99 ms | last ms | CPU us each | backend requests |\n|---|---|---|---|---|---|---|---|\n")
	for _, s := range subjects {
		fmt.Printf("| %s |", s)
		for i := range len(result{}) {
			var all []float64
			for _, r := range results[s] {
				all = append(all, r[i])
			}
			slices.Sort(all)
			fmt.Printf(" %.1f (%.1f to %.1f) |", all[len(all)/2], all[0], all[len(all)-1])
		}
		fmt.Println()
	}
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// result is the columns of the table.
type result [7]float64

// measure parks n requests on one resource, and releases them.
func measure(subject string, n int) (res result, err error) {
	var requests atomic.Int64
	back, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return res, err
	}
	current.Store(newVersion(1))
	backend := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if subject == "reverse_proxy" {
			block(w, r)
			return
		}
		v := current.Load()
		switch {
		case r.Method == http.MethodPost:
			current.Store(newVersion(v.number + 1))
		case r.Header.Get("If-None-Match") == tag(v.number):
			w.WriteHeader(http.StatusNotModified)
		default:
			write(w, v.number, v.body)
		}
	})}
	go backend.Serve(back)
	defer backend.Close()

	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return res, err
	}
	addr := front.Addr().String()
	front.Close()
	exe, err := os.Executable()
	if err != nil {
		return res, err
	}
	cmd := exec.Command(exe, "serve", subject, addr, back.Addr().String())
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return res, err
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	pid := cmd.Process.Pid
	if err := reachable(addr); err != nil {
		return res, err
	}
	// Warm up: code is paged in and pools are filled before memory is compared.
	for range 50 {
		if _, err := get(addr, `"none"`); err != nil {
			return res, err
		}
	}
	before, err := pss(pid)
	if err != nil {
		return res, err
	}

	conns := make([]net.Conn, n)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	poll := []byte("GET /r HTTP/1.1\r\nHost: " + addr + "\r\nIf-None-Match: " + tag(1) + "\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
	for i := range conns {
		if conns[i], err = net.Dial("tcp", addr); err != nil {
			return res, err
		}
		if _, err := conns[i].Write(poll); err != nil {
			return res, err
		}
	}
	settled(pid)
	after, err := pss(pid)
	if err != nil {
		return res, err
	}
	res[0] = float64(after-before) / float64(n)
	cpu := cpuTime(pid)
	asked := requests.Load()
	time.Sleep(3 * time.Second)
	res[1] = (cpuTime(pid) - cpu).Seconds() / 3 * 100

	cpu = cpuTime(pid)
	took := make([]time.Duration, n)
	var start time.Time
	var wg, ready sync.WaitGroup
	for i, c := range conns {
		wg.Add(1)
		ready.Add(1)
		go func() {
			defer wg.Done()
			ready.Done()
			c.SetReadDeadline(time.Now().Add(time.Minute))
			if _, rerr := readAnswer(bufio.NewReaderSize(c, 1024)); rerr != nil {
				err = rerr
			}
			took[i] = time.Since(start)
		}()
	}
	ready.Wait()
	start = time.Now()
	target := addr
	if subject == "reverse_proxy" {
		target = back.Addr().String()
	}
	resp, perr := http.Post("http://"+target+"/r", "", nil)
	if perr != nil {
		return res, perr
	}
	resp.Body.Close()
	wg.Wait()
	if err != nil {
		return res, err
	}
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	res[2], res[3], res[4] = ms(took[n/2]), ms(took[n*99/100]), ms(took[n-1])
	res[5] = float64((cpuTime(pid) - cpu).Microseconds()) / float64(n)
	res[6] = float64(requests.Load() - asked)
	return res, nil
}

// reachable waits until addr answers.
func reachable(addr string) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		_, err := get(addr, `"none"`)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func get(addr, tag string) (int, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(c, "GET /r HTTP/1.1\r\nHost: %s\r\nIf-None-Match: %s\r\n\r\n", addr, tag)
	return readAnswer(bufio.NewReader(c))
}

// readAnswer reads one answer to its last byte, cheaply.
func readAnswer(r *bufio.Reader) (status int, err error) {
	length := 0
	for i := 0; ; i++ {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			break
		}
		if i == 0 {
			status, _ = strconv.Atoi(string(line[9:12]))
		} else if name, value, _ := bytes.Cut(line, []byte(":")); bytes.EqualFold(name, []byte("Content-Length")) {
			length, _ = strconv.Atoi(string(bytes.TrimSpace(value)))
		}
	}
	if status != 200 {
		return status, fmt.Errorf("status %d", status)
	}
	_, err = io.CopyN(io.Discard, r, int64(length))
	return status, err
}

// settled waits until a process has stopped working: everything is parked.
func settled(pid int) {
	last := cpuTime(pid)
	for range 100 {
		time.Sleep(300 * time.Millisecond)
		now := cpuTime(pid)
		if now-last < 15*time.Millisecond {
			return
		}
		last = now
	}
}

// pss is the proportional set size of a process in KiB.
func pss(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			return strconv.Atoi(strings.Fields(rest)[0])
		}
	}
	return 0, fmt.Errorf("no Pss in smaps_rollup of %d", pid)
}

// cpuTime is what a process has used so far.
func cpuTime(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	f := strings.Fields(rest)
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
}
