// Package contract holds no code: its tests are the rules of the contract, one test
// for each, in virtual time. They drive the handler as Caddy does, and touch nothing
// of it that is not exported.
//
// A site is a handler with a backend behind it and clients in front of it. What stands
// in the block of the directive makes one:
//
//	s := newSite(t, "hold 25s 0%\nmax_parked 2")
//	s.backend.say(tagged("1"))             // the backend answers "state 1", ETag "1"
//	c := s.get("/", has("1"))              // a client that has it asks
//	c.mustWait()                           // and has no answer once nothing moves any more
//	s.backend.say(tagged("2"))             // the backend changes its mind
//	c.wants("200 changed state 2").within(0, 2*time.Second)
//
// wants compares the status, the outcome in the Long-Poll field and the body; what is
// left out is not compared. within compares how long the answer took. A test runs in a
// bubble of [testing/synctest], so that these times are exact and pass in no time:
// settle waits until nothing moves any more, and then lets time pass. A test ends only
// when its goroutines have, and the package only when no goroutine of this module is
// left.
//
// What is parked, what is known of resources and what is logged the tests read where
// operators do: newSite finds the [ops.Site] of the handler that it has just
// provisioned among the live ones. Metrics are read from a registry, and the admin API
// through its routes.
//
// [ops.Site]: https://pkg.go.dev/github.com/caddy-longpoll/caddy-longpoll/internal/ops#Site
package contract
