package detach

import (
	"crypto/tls"
	"errors"
	"os"
	"sync"
	"syscall"
	"time"
)

// watches says that descriptors can be watched here.
const watches = true

// theSet is the descriptors of all connections that wait or are idle.
var theSet set

// set is an epoll set and a goroutine that waits for its events, as long as something is
// watched. Each connection is known there by a number that no other ever has: an event of
// a descriptor that was closed, and whose number another connection may bear by now, finds
// nobody.
type set struct {
	mu   sync.Mutex // protects what follows; taken after that of a connection
	file *os.File   // the set; nil while nothing is watched
	fd   int        // its descriptor
	last uint64
	all  map[uint64]*connection
}

const (
	oneShot = 1 << 30 // EPOLLONESHOT, which package syscall has as a negative number on some machines
	comes   = syscall.EPOLLIN | syscall.EPOLLRDHUP | oneShot
	ends    = syscall.EPOLLRDHUP | oneShot
	breaks  = oneShot // and what is always told: EPOLLERR and EPOLLHUP
)

// add has the events of c noticed, with early only that it ends. The error is that of
// the system: too many are watched, or there is no memory.
func (s *set) add(c *connection, early bool) error {
	s.mu.Lock()
	if err := s.openLocked(); err != nil {
		s.mu.Unlock()
		return err
	}
	s.last++
	c.token = s.last
	s.all[c.token] = c
	s.mu.Unlock()
	events := uint32(comes)
	if early {
		events = c.ending()
	}
	err := s.control(c, syscall.EPOLL_CTL_ADD, events)
	if err != nil {
		s.forget(c)
	}
	return err
}

// ending is the events by which c is seen to end, when there is something to read.
func (c *connection) ending() uint32 {
	if _, ok := c.conn.(*tls.Conn); ok {
		return ends // what there is to read may be the farewell of TLS
	}
	// A client that has sent its next request may close its side after that: it waits
	// for both answers.
	return breaks
}

// again is add once more, for what is left to notice of c.
func (s *set) again(c *connection) { _ = s.control(c, syscall.EPOLL_CTL_MOD, c.ending()) }

// remove has nothing noticed of c any more.
func (s *set) remove(c *connection) {
	_ = s.control(c, syscall.EPOLL_CTL_DEL, 0)
	s.forget(c)
}

// forget ends the set with the last of its connections. Until then no other may be closed
// whose descriptor would get its number.
func (s *set) forget(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, c.token)
	if len(s.all) == 0 {
		_ = s.file.Close()
		s.file = nil
	}
}

// control changes what is noticed of c. While it does the descriptor can not be closed,
// and so is that of c.
func (s *set) control(c *connection, op int, events uint32) error {
	var failed error
	err := c.raw.Control(func(fd uintptr) {
		event := syscall.EpollEvent{Events: events, Fd: int32(uint32(c.token)), Pad: int32(uint32(c.token >> 32))}
		failed = syscall.EpollCtl(s.fd, op, int(fd), &event)
	})
	return errors.Join(err, failed)
}

// openLocked makes the set, if there is none. The runtime waits for its events as it does
// for those of any descriptor: no thread of ours blocks.
func (s *set) openLocked() error {
	if s.file != nil {
		return nil
	}
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		_ = syscall.Close(fd)
		return err
	}
	file := os.NewFile(uintptr(fd), "epoll")
	raw, err := file.SyscallConn()
	if err == nil {
		err = file.SetReadDeadline(time.Time{}) // fails where the runtime can not wait for it
	}
	if err != nil {
		_ = file.Close()
		return err
	}
	s.file, s.fd, s.all = file, fd, make(map[uint64]*connection)
	go s.wait(raw)
	return nil
}

// wait waits for events until the set is closed.
func (s *set) wait(raw syscall.RawConn) {
	events := make([]syscall.EpollEvent, 256)
	for {
		var n int
		err := raw.Read(func(fd uintptr) (some bool) {
			n, _ = syscall.EpollWait(int(fd), events, 0)
			return n > 0
		})
		if err != nil {
			return
		}
		for _, e := range events[:n] {
			token := uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32
			s.mu.Lock()
			c := s.all[token]
			s.mu.Unlock()
			if c != nil {
				c.event(e.Events)
			}
		}
	}
}

// event is something that has happened to the descriptor.
func (c *connection) event(events uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.guard()
	if c.raw == nil || c.stage == over {
		return
	}
	_, secret := c.conn.(*tls.Conn)
	switch {
	case events&(syscall.EPOLLERR|syscall.EPOLLHUP) != 0:
		c.notice(true)
	case secret && events&syscall.EPOLLRDHUP == 0 && c.stage == waiting:
		// The next request, or the farewell of TLS: only who reads it can tell.
		c.reads = true
		c.watchOn()
		go c.read()
	case secret:
		c.notice(events&syscall.EPOLLRDHUP != 0 && c.stage != idle)
	default:
		if some, ended := c.readable(); some || ended {
			c.notice(ended)
		} else {
			_ = theSet.control(c, syscall.EPOLL_CTL_MOD, comes) // somebody was mistaken
		}
	}
}

// readable reports whether there is something to read, or never will be.
func (c *connection) readable() (some, ended bool) {
	var b [1]byte
	failed := c.raw.Control(func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		some, ended = n > 0, n <= 0 && err != syscall.EAGAIN && err != syscall.EINTR
	})
	return some, ended || failed != nil
}

// write writes as much of b as the descriptor takes at once.
func (c *connection) write(b []byte) (n int, err error) {
	failed := c.raw.Write(func(fd uintptr) bool {
		for {
			if n, err = syscall.Write(int(fd), b); err != syscall.EINTR {
				return true
			}
		}
	})
	if err == syscall.EAGAIN {
		n, err = 0, nil
	}
	return max(n, 0), errors.Join(failed, err)
}
