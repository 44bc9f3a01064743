package detach

import (
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// gate is how connections come back to the server that they were taken from: a listener
// that only hands those over. A server that is shut down closes it, and waits for it as
// it waits for the connections that it still has.
type gate struct {
	server *http.Server
	addr   net.Addr
	ready  chan struct{} // closed once the server accepts from it, or never will

	mu      sync.Mutex // protects what follows; no other lock is taken under it
	changed *sync.Cond
	back    []comesBack              // to be accepted
	all     map[*connection]struct{} // that were taken and are not back
	waiting int                      // polls that were taken and have no answer
	closing bool                     // the server is shut down
	stays   bool                     // it has the connection by which it waits
	empty   chan struct{}            // closed when all have their answers, once the server is shut down
}

// comesBack is a connection on its way to the server.
type comesBack struct {
	conn   net.Conn
	passes bool // a poll that had to ask for itself
}

// stay is a connection on which no request ever comes. A server that is shut down waits for
// it, for five seconds at most, while it closes those that are idle: so it waits for the
// polls that were taken from it.
type stay struct {
	gate   *gate
	closed chan struct{}
	once   *sync.Once
}

func (s stay) Read([]byte) (int, error) {
	select {
	case <-s.gate.empty:
	case <-s.closed:
	}
	return 0, io.EOF
}

func (s stay) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s stay) Write(b []byte) (int, error)      { return len(b), nil }
func (s stay) LocalAddr() net.Addr              { return s.gate.addr }
func (s stay) RemoteAddr() net.Addr             { return s.gate.addr }
func (s stay) SetDeadline(time.Time) error      { return nil }
func (s stay) SetReadDeadline(time.Time) error  { return nil }
func (s stay) SetWriteDeadline(time.Time) error { return nil }

// gates are those of the servers that connections were taken from.
var gates = struct {
	mu sync.Mutex // protects of
	of map[*http.Server]*gate
}{of: make(map[*http.Server]*gate)}

// gateOf is the gate of a server, of which a poll is about to be taken; nil if it is
// shut down. [gate.answered] is to be called once.
func gateOf(server *http.Server, addr net.Addr) *gate {
	gates.mu.Lock()
	g := gates.of[server]
	if g == nil {
		g = &gate{server: server, addr: addr, ready: make(chan struct{}), empty: make(chan struct{}), all: make(map[*connection]struct{})}
		g.changed = sync.NewCond(&g.mu)
		gates.of[server] = g
		go g.serve()
	}
	gates.mu.Unlock()
	<-g.ready
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing {
		return nil
	}
	g.waiting++
	return g
}

// serve has the server accept what comes back, until it is shut down.
func (g *gate) serve() {
	_ = g.server.Serve(g) // the error says that it is
	_ = g.Close()
	forget(g.server)
}

// Accept is the next connection that comes back, and one more by which the server that is
// shut down waits.
func (g *gate) Accept() (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.readyLocked()
	for len(g.back) == 0 {
		switch {
		case g.closing && g.waiting > 0 && !g.stays:
			g.stays = true
			return stay{g, make(chan struct{}), new(sync.Once)}, nil
		case g.closing:
			return nil, net.ErrClosed
		}
		g.changed.Wait()
	}
	conn := g.back[0].conn
	g.back[0] = comesBack{}
	if g.back = g.back[1:]; len(g.back) == 0 {
		g.back = nil
	}
	return conn, nil
}

// Addr is one that the server listens on.
func (g *gate) Addr() net.Addr { return g.addr }

// Close is called by the server that is shut down, with its lock: the connections that
// are idle are closed, as it closes its own.
func (g *gate) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.readyLocked()
	if g.closing {
		return nil
	}
	g.closing = true
	left := g.back
	g.back = nil
	for _, c := range left {
		if c.passes {
			g.waiting++
		}
	}
	if g.waiting == 0 {
		close(g.empty)
	}
	g.changed.Broadcast()
	if len(g.all)+len(left) > 0 {
		go g.closeIdle(left)
	}
	return nil
}

func (g *gate) readyLocked() {
	select {
	case <-g.ready:
	default:
		close(g.ready)
	}
}

// closeIdle closes the connections that have their answers, and those that were left on
// their way to the server.
func (g *gate) closeIdle(left []comesBack) {
	for _, c := range left {
		if c.passes {
			g.serveLast(c.conn)
		} else {
			_ = c.conn.Close()
		}
	}
	g.mu.Lock()
	all := make([]*connection, 0, len(g.all))
	for c := range g.all {
		all = append(all, c)
	}
	g.mu.Unlock()
	for _, c := range all {
		c.closeIdle()
	}
}

// isClosing reports whether the server is shut down.
func (g *gate) isClosing() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closing
}

// answered counts a poll that has its answer, or was not taken after all.
func (g *gate) answered() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting--; g.closing && g.waiting == 0 {
		close(g.empty)
	}
}

// add has c closed when the server is shut down, if it is idle then.
func (g *gate) add(c *connection) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all[c] = struct{}{}
}

// remove forgets c, which is closed or about to come back.
func (g *gate) remove(c *connection) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.all, c)
}

// give has the server serve a connection again, and reports whether it does: not if it is
// shut down.
func (g *gate) give(conn net.Conn, passes bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing {
		return false
	}
	g.back = append(g.back, comesBack{conn, passes})
	g.changed.Signal()
	return true
}

// serveLast has one more request of a connection served as the server would that is shut
// down, and has it wait for that.
func (g *gate) serveLast(conn net.Conn) {
	of := g.server
	var last *http.Server
	last = &http.Server{
		Handler: of.Handler, ErrorLog: of.ErrorLog, BaseContext: of.BaseContext, ConnContext: of.ConnContext,
		ReadTimeout: of.ReadTimeout, ReadHeaderTimeout: of.ReadHeaderTimeout, WriteTimeout: of.WriteTimeout, MaxHeaderBytes: of.MaxHeaderBytes,
		Protocols: new(http.Protocols),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed || s == http.StateHijacked {
				forget(last)
				g.answered()
			}
		},
	}
	last.Protocols.SetHTTP1(true)
	last.SetKeepAlivesEnabled(false)
	shut := &gate{server: last, ready: make(chan struct{}), closing: true} // its request is not taken once more
	close(shut.ready)
	gates.mu.Lock()
	gates.of[last] = shut
	gates.mu.Unlock()
	go last.Serve(&single{conn: conn, addr: g.addr})
}

// forget forgets the gate of a server.
func forget(server *http.Server) {
	gates.mu.Lock()
	defer gates.mu.Unlock()
	delete(gates.of, server)
}

// single is a listener that has one connection.
type single struct {
	conn net.Conn // nil once it is accepted
	addr net.Addr
}

func (s *single) Accept() (net.Conn, error) {
	conn := s.conn
	if s.conn = nil; conn == nil {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (s *single) Close() error   { return nil }
func (s *single) Addr() net.Addr { return s.addr }

// Interface guard
var _ net.Listener = (*gate)(nil)
