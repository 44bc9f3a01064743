// Package cluster has several Caddys ask one backend as often as one would (contract 14). A
// [Set] is what a handler is of it, and a [Member] what one of its resources is: it decides
// whose a check is, and hands on what was read. Where they meet is a [Board], a guest.
// It knows the lot and the states, and neither HTTP nor Redis.
//
//	lot ──► poller ──► Member ──► ours: check ──► Member.Read ──► Board ──► other Members
//	                      └─────► not ours: what was handed on ──► poller.Adopt ──► lot
//
// # What is promised
//
// 1. One lease for each resource. Who holds it checks: when a check is due, when a wake-up
// comes, and when somebody, wherever, asks. The others hear of each check that has ended. Who
// has had no place for a check (max_checks) for two pauses gives the lease up, and so does who
// has made one that has failed: of those who take it over, he comes last.
//
// 2. Recency is a matter of what was heard, and never of clocks. A member marks who waits,
// and tells of the mark; a report says which marks had been heard when its check began. So
// that check certainly began after those had come who came before the mark. A state that
// proves nothing of the kind releases who is parked and can be told it anyway (it is the one
// that he has named), and has all others ask once more.
//
// 3. A member that asks hears within 300 ms that it was heard, or it checks for itself. It
// does too where the answer takes longer than two times check_timeout. A wake-up that who holds
// the lease has heard too is left to it, unless it says nothing for a second: then it is asked.
//
// 4. A token that only grows fences: of two reports the one with the larger token counts,
// of one token the later. What is posted by who has lost the lease is not posted. Where the
// board has forgotten the last token (it was emptied, or a replica that lagged has taken its
// place), the next one is larger than what the claimer knows, and who knows a larger one
// takes the board's word when it next looks: for so long it goes on with what it has. The
// same token may be given out once more then; a holder is known by a number of its own too,
// and counts its reports from any other, so that none of its states is taken for one of before.
// A board on which a token is larger than there can be, by a forged message, counts anew.
//
// 5. Two may hold the lease at once, when the board has forgotten one of them or one was
// stopped in the middle of a check. It costs a check too many. Nobody is led back by it:
// promise 2 does not rest on the lease.
//
// 6. Clocks may drift, and may differ by any amount: all times that are sent are lengths. One
// that runs twice as fast has its member take a lease over too early, which is promise 5.
//
// 7. Messages may be lost, doubled or late. A lost report is made good by the next; a lost
// question by the asker's own check (promise 3); a lost wake-up by the interval. Of writes,
// 4096 may wait until all have been told of them. Who has heard nothing for one and a half
// pauses claims the lease, which has run out by one and three quarters.
//
// 8. Where the board is away, or refuses, each checks for itself at its interval, and nobody is
// released. It is tried again after two to ten seconds, and as soon as it is heard again.
//
// 9. What comes from the board is not trusted to be well-formed, nor to be small, and no pause
// is believed that is longer than twice what is configured here, but that a backend that fails
// has asked for one: clients are told that, and the board is looked at meanwhile. It is not
// authenticated here: a board that can be written to by others has to see to that.
//
// 10. What is no part of a version, the body and the fields, is handed on as well, but for
// fields that change with each answer: those are as old as what was handed on last.
//
// # Concurrency
//
// Turn, Begins, Read and Drop of a [Member] are its poller's. All else may be called on any
// goroutine. Members' locks are taken after those of the lot, and never held across a call
// of the board, of the lot or of the poller.
package cluster
