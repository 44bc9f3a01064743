package contract_test

import "strconv"

// wantsRetryAfter compares when the client is told to come back, in seconds.
func (c *client) wantsRetryAfter(from, to int) *client {
	c.t.Helper()
	if n, err := strconv.Atoi(c.field("Retry-After")); err != nil || n < from || n > to {
		c.t.Errorf("%s %s: got %v with Retry-After %q; want %d to %d", c.r.Method, c.r.RequestURI, c, c.field("Retry-After"), from, to)
	}
	return c
}
