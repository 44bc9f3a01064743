package detach

import (
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
	back    []net.Conn               // to be accepted
	all     map[*connection]struct{} // that were taken and are not back
	waiting int                      // polls that were taken and have no answer
	closing bool                     // the server is shut down
	overdue bool                     // it has been for longer than closeWithin
}

// closeWithin bounds how long a server that is shut down waits for the answers of those
// that were taken from it: a drain takes a second, the rest is for slow readers.
const closeWithin = 10 * time.Second

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
		g = &gate{server: server, addr: addr, ready: make(chan struct{}), all: make(map[*connection]struct{})}
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
	gates.mu.Lock()
	delete(gates.of, g.server)
	gates.mu.Unlock()
}

// Accept is the next connection that comes back. Once the server is shut down, it ends
// when all polls that were taken have their answers.
func (g *gate) Accept() (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.readyLocked()
	for len(g.back) == 0 {
		if g.closing && (g.waiting == 0 || g.overdue) {
			return nil, net.ErrClosed
		}
		g.changed.Wait()
	}
	conn := g.back[0]
	g.back[0] = nil
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
	g.changed.Broadcast()
	if len(g.all) > 0 || g.waiting > 0 {
		go g.closeIdle()
		time.AfterFunc(closeWithin, g.expire)
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

// closeIdle closes the connections that have their answers.
func (g *gate) closeIdle() {
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

// expire has the server wait no longer.
func (g *gate) expire() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.overdue = true
	g.changed.Broadcast()
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
	if g.waiting--; g.closing {
		g.changed.Broadcast()
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
func (g *gate) give(conn net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing {
		return false
	}
	g.back = append(g.back, conn)
	g.changed.Signal()
	return true
}

// serveLast has one more request of a connection served as the server would that is shut
// down, and has it wait for that.
func (g *gate) serveLast(conn net.Conn) {
	of := g.server
	last := &http.Server{
		Handler: of.Handler, ErrorLog: of.ErrorLog, BaseContext: of.BaseContext, ConnContext: of.ConnContext,
		ReadTimeout: of.ReadTimeout, ReadHeaderTimeout: of.ReadHeaderTimeout, WriteTimeout: of.WriteTimeout, MaxHeaderBytes: of.MaxHeaderBytes,
		Protocols: new(http.Protocols),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed || s == http.StateHijacked {
				g.answered()
			}
		},
	}
	last.Protocols.SetHTTP1(true)
	last.SetKeepAlivesEnabled(false)
	go last.Serve(&single{conn: conn, addr: g.addr})
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
