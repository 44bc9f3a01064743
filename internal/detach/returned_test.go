package detach

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// pair is the two ends of a connection over TCP.
func pair(t *testing.T) (server, client *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	here, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	there, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close(); there.Close() })
	for _, c := range []net.Conn{here, there} {
		_ = c.SetDeadline(time.Now().Add(time.Minute))
	}
	return there.(*net.TCPConn), here.(*net.TCPConn)
}

// A connection that comes back does what the one below it can: the server closes its side
// alone where it has not read all of a request, and sends files as they are.
func TestReturnedIsWhole(t *testing.T) {
	server, client := pair(t)
	conn := &returned{Conn: server, rest: []byte("once")}
	var _ io.ReaderFrom = conn
	if _, err := io.Copy(conn, strings.NewReader("a file")); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(client); err != nil || string(got) != "a file" {
		t.Errorf("got %q, %v; want a file and its end", got, err)
	}
	io.WriteString(client, " more")
	client.CloseWrite()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "once more" {
		t.Errorf("got %q, %v; want what is kept, and what comes", got, err)
	}
	var _ interface{ CloseWrite() error } = new(returnedTLS)
	if err := (&returned{Conn: struct{ net.Conn }{server}}).CloseWrite(); err == nil {
		t.Error("closes the side of a connection that can not")
	}
}
