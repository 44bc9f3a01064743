package httphdr

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// PauseFields are those by which a backend asks to be left alone: Retry-After is from
// RFC 9110, section 10.2.3. They are not to be changed.
var PauseFields = []string{"Retry-After", "X-Poll-Interval"}

// maxPause bounds the pause that a date asks for; that in seconds is bounded by ParseUint
// below. With a tenth more, which is jitter, it is still a Duration, which the years until
// a date need not be.
const maxPause = 1 << 31 * time.Second

// RetryAfter is how long the backend asks to be left alone, from now on: the longest
// that one of the [PauseFields] asks for, 0 if none does or what it says is malformed.
func RetryAfter(header http.Header, now time.Time) (pause time.Duration) {
	for _, name := range PauseFields {
		text := strings.TrimSpace(header.Get(name))
		if text == "" {
			continue // an error of ParseTime costs memory
		}
		if n, err := strconv.ParseUint(text, 10, 31); err == nil {
			pause = max(pause, time.Duration(n)*time.Second)
		} else if at, err := http.ParseTime(text); err == nil && name == "Retry-After" {
			pause = max(pause, min(at.Sub(now), maxPause))
		}
	}
	return pause
}
