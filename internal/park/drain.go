package park

import (
	"math/rand/v2"
	"net/http"
	"time"
)

// SendAway has the client of a drained handler come back on a new connection, to
// what has taken its place. The server does so too, but not on an HTTP/2 connection
// that it accepted while it was being stopped: a client would poll there again and
// again, and never be parked.
func (sp *Spot) SendAway(w http.ResponseWriter, r *http.Request) {
	select {
	case <-sp.Lot.Drained():
		if r.ProtoMajor < 3 { // HTTP/3 has no such field, and means nothing by it
			w.Header().Set("Connection", "close")
		}
	default:
	}
}

// drainRate is how many requests a drain releases in a second: ten thousand take
// the whole second that it may last.
const drainRate = 10000

// DrainSpread is over how long a drain releases so many.
func DrainSpread(parked int) time.Duration {
	return min(time.Second, time.Second*time.Duration(parked)/drainRate)
}

// drainPause is before what a drain releases nobody: the server is about to close its
// listener and the connections that are idle, and a client that came back by one of
// these would be reset.
const drainPause = 50 * time.Millisecond

// DrainDelay is when one request of a drain is released.
func (sp *Spot) DrainDelay() time.Duration {
	return max(drainPause, time.Duration(rand.Float64()*float64(DrainSpread(sp.Lot.Parked()))))
}
