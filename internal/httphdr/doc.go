// Package httphdr is what header fields mean: entity tags, preferences, pauses,
// Cache-Control, and which fields are for one hop or for one client only. It touches
// the header that it is given, and nothing else: standard library only, no Caddy.
package httphdr
