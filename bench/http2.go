package main

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"strconv"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// streamsEach is how many clients share a connection: fewer than what servers
// allow, 250 in Go and 128 in nginx.
const streamsEach = 100

// streams is clients of HTTP/2 without TLS, many on each connection.
type streams struct {
	host  string
	heard heard
	conns []*session
}

// session is one connection.
type session struct {
	net.Conn
	framer *http2.Framer

	mu    sync.Mutex // protects what follows, and the framer's writing
	text  bytes.Buffer
	coder *hpack.Encoder
	next  uint32         // number of the next stream
	asked map[uint32]int // clients by stream
}

// newStreams connects n clients to addr.
func newStreams(addr string, n int, h heard) (*streams, error) {
	c := &streams{host: addr, heard: h}
	for range (n + streamsEach - 1) / streamsEach {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			c.close()
			return nil, fmt.Errorf("connecting: %w", err)
		}
		s := &session{Conn: conn, framer: http2.NewFramer(conn, conn), next: 1, asked: make(map[uint32]int)}
		s.coder = hpack.NewEncoder(&s.text)
		s.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		c.conns = append(c.conns, s)
		if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
			c.close()
			return nil, fmt.Errorf("writing preface: %w", err)
		}
		// A window so large that it need not be opened again.
		err = s.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
		if err == nil {
			err = s.framer.WriteWindowUpdate(0, 1<<30)
		}
		if err != nil {
			c.close()
			return nil, fmt.Errorf("writing settings: %w", err)
		}
		go c.read(s)
	}
	return c, nil
}

func (c *streams) ask(i int, p poll) error {
	s := c.conns[i/streamsEach]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Reset()
	prefer := ""
	if p.wait != "" {
		prefer = "wait=" + p.wait
	}
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: p.method}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: c.host}, {Name: ":path", Value: p.path},
		{Name: "user-agent", Value: "bench"}, {Name: "accept", Value: cmp.Or(p.accept, "*/*")}, {Name: "if-none-match", Value: p.tag}, {Name: "if-modified-since", Value: p.since}, {Name: "prefer", Value: prefer},
	} {
		if f.Value != "" {
			_ = s.coder.WriteField(f) // into memory
		}
	}
	s.asked[s.next] = i
	s.next += 2
	return s.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: s.next - 2, BlockFragment: s.text.Bytes(), EndStream: true, EndHeaders: true,
	})
}

func (c *streams) read(s *session) {
	answers := make(map[uint32]answer)
	open := make(map[uint32]bool) // streams of events
	for {
		frame, err := s.framer.ReadFrame()
		if err != nil {
			return // closed
		}
		id := frame.Header().StreamID
		a := answers[id]
		var ended bool
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				s.mu.Lock()
				_ = s.framer.WriteSettingsAck()
				s.mu.Unlock()
			}
			continue
		case *http2.PingFrame:
			if !f.IsAck() {
				s.mu.Lock()
				_ = s.framer.WritePing(true, f.Data)
				s.mu.Unlock()
			}
			continue
		case *http2.MetaHeadersFrame:
			a.status, _ = strconv.Atoi(f.PseudoValue("status"))
			for _, h := range f.RegularFields() {
				switch h.Name {
				case "content-type":
					open[id] = h.Value == eventStream
				case "etag":
					a.tag = h.Value
				case "last-modified":
					a.since = h.Value
				}
			}
			ended = f.StreamEnded()
		case *http2.DataFrame:
			if ended = f.StreamEnded(); open[id] {
				// An event comes in one frame, and is not as large as that.
				if at := bytes.LastIndex(f.Data(), []byte("data: {")); at >= 0 {
					a.version = versionOf(f.Data()[at+len("data: "):])
					c.heard(s.client(id), a)
				}
			} else if a.version == 0 {
				a.version = versionOf(f.Data())
			}
		case *http2.RSTStreamFrame:
			ended = true
		default:
			continue
		}
		if !ended {
			answers[id] = a
			continue
		}
		i := s.client(id)
		delete(answers, id)
		delete(open, id)
		s.mu.Lock()
		delete(s.asked, id)
		s.mu.Unlock()
		c.heard(i, a)
	}
}

// client is who has asked by that stream.
func (s *session) client(id uint32) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[id]
}

func (c *streams) close() {
	for _, s := range c.conns {
		s.Close()
	}
}
