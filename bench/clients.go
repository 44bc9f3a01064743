package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
)

// poll is a request of a client.
type poll struct {
	method, path string
	tag, since   string // If-None-Match and If-Modified-Since, as the last answer has them
	wait         string // in seconds, as Prefer says; empty for nothing said
	accept       string // a media type; empty for any
}

// answer is what a client got.
type answer struct {
	status  int
	version int64 // in the body; 0 if it has none
	tag     string
	since   string
}

// clients are many, and as cheap as can be, for what they cost is taken from the
// subject: there are only so many cores.
type clients interface {
	// ask has client i send a request.
	ask(i int, p poll) error
	close()
}

// heard is called with each complete answer, or each event of a stream, on a few
// goroutines.
type heard func(i int, a answer)

// crowd is clients of HTTP/1.1, one connection each, without a goroutine or a
// buffer of their own.
type crowd struct {
	host  string
	heard heard
	conns []conn
	loops []*loop
	lost  atomic.Int64 // connections that were cut
}

// conn is one connection.
type conn struct {
	fd   int
	head []byte // an answer that is not complete
	left int    // bytes of its body that are still to come
	open bool   // it is a stream of events
	a    answer // what is known of it
}

// loop reads some of the connections.
type loop struct {
	epoll int
	ended sync.WaitGroup
	stop  [2]int // a pipe
}

// newCrowd connects n clients to addr.
func newCrowd(addr string, n int, h heard) (*crowd, error) {
	at, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return nil, err
	}
	c := &crowd{host: addr, heard: h, conns: make([]conn, n)}
	for i := range c.conns {
		c.conns[i].fd = -1
	}
	for range runtime.NumCPU() {
		l := &loop{}
		if l.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
			return nil, fmt.Errorf("making an epoll: %w", err)
		}
		if err := syscall.Pipe2(l.stop[:], syscall.O_CLOEXEC); err != nil {
			return nil, fmt.Errorf("making a pipe: %w", err)
		}
		if err := l.add(l.stop[0], -1); err != nil {
			return nil, err
		}
		c.loops = append(c.loops, l)
	}
	to := &syscall.SockaddrInet4{Port: at.Port, Addr: [4]byte(at.IP.To4())}
	for i := range c.conns {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			c.close()
			return nil, fmt.Errorf("making socket %d: %w", i, err)
		}
		c.conns[i].fd = fd
		if err := syscall.Connect(fd, to); err != nil {
			c.close()
			return nil, fmt.Errorf("connecting client %d: %w", i, err)
		}
		_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
		if err := errors.Join(syscall.SetNonblock(fd, true), c.loops[i%len(c.loops)].add(fd, i)); err != nil {
			c.close()
			return nil, err
		}
	}
	for _, l := range c.loops {
		l.ended.Go(func() { c.read(l) })
	}
	return c, nil
}

func (l *loop) add(fd, i int) error {
	in := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(i)}
	if err := syscall.EpollCtl(l.epoll, syscall.EPOLL_CTL_ADD, fd, &in); err != nil {
		return fmt.Errorf("watching a socket: %w", err)
	}
	return nil
}

func (c *crowd) ask(i int, p poll) error {
	text := make([]byte, 0, 256)
	text = fmt.Appendf(text, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: %s\r\n", p.method, p.path, c.host, cmp.Or(p.accept, "*/*"))
	c.conns[i].open = p.accept == eventStream
	if p.tag != "" {
		text = fmt.Appendf(text, "If-None-Match: %s\r\n", p.tag)
	}
	if p.since != "" {
		text = fmt.Appendf(text, "If-Modified-Since: %s\r\n", p.since)
	}
	if p.wait != "" {
		text = fmt.Appendf(text, "Prefer: wait=%s\r\n", p.wait)
	}
	if p.method == "POST" {
		text = append(text, "Content-Length: 0\r\n"...)
	}
	text = append(text, "\r\n"...)
	if n, err := syscall.Write(c.conns[i].fd, text); err != nil || n < len(text) {
		return fmt.Errorf("sending request of client %d: %d of %d bytes: %w", i, n, len(text), err)
	}
	return nil
}

func (c *crowd) read(l *loop) {
	ready := make([]syscall.EpollEvent, 256)
	buf := make([]byte, 1<<18)
	for {
		n, err := syscall.EpollWait(l.epoll, ready, -1)
		if err != nil && err != syscall.EINTR {
			return
		}
		for _, e := range ready[:max(n, 0)] {
			if e.Fd < 0 {
				return // close
			}
			i := int(e.Fd)
			n, err := syscall.Read(c.conns[i].fd, buf)
			switch {
			case n > 0:
				c.take(i, buf[:n])
			case err != syscall.EAGAIN && err != syscall.EINTR:
				c.lost.Add(1)
				_ = syscall.EpollCtl(l.epoll, syscall.EPOLL_CTL_DEL, c.conns[i].fd, nil)
			}
		}
	}
}

// take takes what client i has received: of one answer, for it has asked once.
func (c *crowd) take(i int, got []byte) {
	k := &c.conns[i]
	if k.open {
		c.listen(i, got)
		return
	}
	if k.left == 0 {
		if len(k.head) > 0 {
			k.head = append(k.head, got...)
			got = k.head
		}
		rest, ok := k.begin(got)
		if !ok {
			if len(k.head) == 0 {
				k.head = append(k.head, got...)
			}
			return
		}
		k.head, got = nil, rest
	}
	k.left -= len(got)
	if k.left <= 0 {
		k.left = 0
		c.heard(i, k.a)
	}
}

// listen takes what client i has received of a stream, and tells its last event that is
// complete. Whatever the framing is, it does not look like an event.
func (c *crowd) listen(i int, got []byte) {
	k := &c.conns[i]
	if len(k.head) > 0 {
		got = append(k.head, got...)
	}
	if head, ok := bytes.CutPrefix(got, []byte("HTTP/1.1 ")); ok && len(head) >= 3 {
		k.a.status, _ = strconv.Atoi(string(head[:3]))
	}
	begin, end := bytes.LastIndex(got, []byte("data: {")), bytes.LastIndex(got, []byte("\n\n"))
	switch {
	case begin >= 0 && end > begin:
		k.head = nil
		k.a.version = versionOf(got[begin+len("data: "):])
		c.heard(i, k.a)
	case begin >= 0 || bytes.Contains(got, []byte("HTTP/1.1 ")) && end < 0:
		k.head = bytes.Clone(got)
	default:
		k.head = nil // a heartbeat
	}
}

// begin reads the head of an answer, and as much of the body as bears the version.
// It reports false where that is not all there.
func (k *conn) begin(text []byte) (rest []byte, ok bool) {
	head, rest, ok := bytes.Cut(text, []byte("\r\n\r\n"))
	if !ok || len(head) < 12 {
		return nil, false
	}
	var a answer
	a.status, _ = strconv.Atoi(string(head[9:12]))
	length := 0
	for len(head) > 0 {
		var line []byte
		line, head, _ = bytes.Cut(head, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			length, _ = strconv.Atoi(string(value))
		case bytes.EqualFold(name, []byte("Etag")):
			a.tag = string(value)
		case bytes.EqualFold(name, []byte("Last-Modified")):
			a.since = string(value)
		}
	}
	if a.status == 304 {
		length = 0
	}
	if len(rest) < min(length, 32) {
		return nil, false
	}
	a.version = versionOf(rest)
	k.a, k.left = a, length
	return rest, true
}

// versionOf reads the version from what body makes.
func versionOf(text []byte) (n int64) {
	text, _ = bytes.CutPrefix(text, []byte(`{"version":`))
	for i := 0; i < len(text) && text[i] >= '0' && text[i] <= '9'; i++ {
		n = n*10 + int64(text[i]-'0')
	}
	return n
}

func (c *crowd) close() {
	for _, l := range c.loops {
		_, _ = syscall.Write(l.stop[1], []byte{0})
		l.ended.Wait()
		for _, fd := range []int{l.epoll, l.stop[0], l.stop[1]} {
			_ = syscall.Close(fd)
		}
	}
	for _, k := range c.conns {
		if k.fd >= 0 {
			_ = syscall.Close(k.fd)
		}
	}
}
