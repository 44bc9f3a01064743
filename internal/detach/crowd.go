package detach

import (
	"runtime"
	"sync"
)

// crowds are those who await the same, by what that is: one goroutine waits for all of
// them.
type crowds struct {
	drained <-chan struct{} // of the lot

	mu  sync.Mutex // protects all, and what is in it
	all map[<-chan struct{}]*crowd
}

// crowd is the polls that await one channel.
type crowd struct {
	awaited <-chan struct{}
	members []*connection
	empty   chan struct{} // closed when the last member has left
}

// join has c told, by [connection.look], when awaited is closed or the lot is drained.
// Before it joins another it has to leave, unless it was told.
func (cs *crowds) join(c *connection, awaited <-chan struct{}) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cr := cs.all[awaited]
	if cr == nil {
		cr = &crowd{awaited: awaited, empty: make(chan struct{})}
		cs.all[awaited] = cr
		go cs.wait(cr)
	}
	c.poll.crowd, c.poll.place = cr, len(cr.members)
	cr.members = append(cr.members, c)
}

// leave has c not told any more, if it has not been.
func (cs *crowds) leave(c *connection) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cr := c.poll.crowd
	if cr == nil {
		return
	}
	c.poll.crowd = nil
	last := len(cr.members) - 1
	moved := cr.members[last]
	cr.members[c.poll.place], moved.poll.place = moved, c.poll.place
	cr.members[last] = nil
	if cr.members = cr.members[:last]; last == 0 {
		delete(cs.all, cr.awaited)
		close(cr.empty)
	}
}

// wait waits for what the crowd awaits, and tells all of it.
func (cs *crowds) wait(cr *crowd) {
	select {
	case <-cr.awaited:
	case <-cs.drained:
	case <-cr.empty:
		return
	}
	cs.mu.Lock()
	all := cr.members
	cr.members = nil
	for _, c := range all {
		c.poll.crowd = nil
	}
	if cs.all[cr.awaited] == cr {
		delete(cs.all, cr.awaited)
	}
	cs.mu.Unlock()
	tell(all)
}

// fewAtOnce is how many are told by one goroutine, as long as no other has nothing to do.
const fewAtOnce = 64

// tell has all look again, on as many processors as there are.
func tell(all []*connection) {
	share := max(fewAtOnce, (len(all)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	for len(all) > share {
		few := all[:share]
		all = all[share:]
		go look(few)
	}
	look(all)
}

func look(all []*connection) {
	for _, c := range all {
		c.look()
	}
}
