package detach

import (
	"crypto/tls"
	"net"
	"syscall"
	"time"
)

// watch has [connection.notice] called once: by the descriptor of the connection, or,
// where it has none that is known or can not be watched, by a goroutine that reads a byte.
func (c *connection) watch() {
	if c.raw = descriptor(c.conn); c.raw != nil {
		if theSet.add(c, c.early) == nil {
			return
		}
		c.raw = nil
	}
	if !c.early {
		c.reads = true
		go c.read()
	}
}

// watchOn has what is left of the events noticed, once the next request has begun: that
// the client has left. What is read does not tell that any more.
func (c *connection) watchOn() {
	if c.raw != nil {
		theSet.again(c)
	}
}

// unwatch has nothing noticed any more.
func (c *connection) unwatch() {
	if c.raw != nil {
		theSet.remove(c)
		c.raw = nil
	}
}

// descriptor is that which a connection is watched by.
func descriptor(conn net.Conn) syscall.RawConn {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	of, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := of.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// isBare reports whether what is written to conn is what goes over its descriptor. A
// listener wrapper may have its own way to write, and the methods of the descriptor below.
func isBare(conn net.Conn) bool {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// read waits for a byte of the next request.
func (c *connection) read() {
	var b [1]byte
	n, err := c.readInto(b[:])
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.guard()
	c.reads = false
	if giving := c.giving; giving != nil {
		c.giving = nil
		c.giveRead(giving, b[:n])
		return
	}
	if n > 0 {
		c.rest = append(c.rest, b[:n]...)
	}
	c.notice(n == 0 && err != nil)
}

func (c *connection) readInto(b []byte) (n int, err error) {
	defer c.guardWrapped(&err)
	return c.conn.Read(b)
}

// giveRead gives conn back to the server, and what was read of it meanwhile.
func (c *connection) giveRead(conn net.Conn, read []byte) {
	_ = c.conn.SetReadDeadline(time.Time{})
	switch of := conn.(type) {
	case *returned:
		of.rest = append(of.rest, read...)
	case *returnedTLS:
		of.rest = append(of.rest, read...)
	}
	c.give(conn) // who is given back while a goroutine reads has something to be read again
}
