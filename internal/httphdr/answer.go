package httphdr

import (
	"net/http"
	"strings"
)

// OfRepresentation reports whether an answer's field, by its canonical name, describes a
// body, so that it is not on a 304 (contract 5).
func OfRepresentation(name string) bool {
	return strings.HasPrefix(name, "Content-") && name != "Content-Location"
}

// mediaType is the media type of an answer, in lower case and without parameters.
func mediaType(header http.Header) string {
	values := header["Content-Type"]
	if len(values) == 0 {
		return ""
	}
	kind := values[0]
	if end := strings.IndexAny(kind, ";,"); end >= 0 {
		kind = kind[:end]
	}
	return strings.ToLower(trim(kind))
}

// EventStream reports whether an answer is a stream of server-sent events.
func EventStream(header http.Header) bool { return mediaType(header) == eventStream }

// Streams reports whether an answer's header says that its body is to be handed on as it
// comes (contract 3.8): server-sent events, JSON by lines or sequences (RFC 7464), parts,
// gRPC, or a server that asks for it.
func Streams(header http.Header) bool {
	for _, value := range header["X-Accel-Buffering"] {
		if strings.EqualFold(trim(value), "no") {
			return true
		}
	}
	for _, value := range header["Incremental"] {
		if value, _, _ = cut(value, ';'); trim(value) == "?1" {
			return true
		}
	}
	switch kind := mediaType(header); kind {
	case "":
		return false
	case "text/event-stream",
		"application/x-ndjson", "application/ndjson", "application/nd-json", "text/x-ndjson", "text/ndjson",
		"application/jsonl", "application/x-jsonl", "application/jsonlines", "application/x-jsonlines", "text/jsonl",
		"application/stream+json", "application/x-json-stream", "application/json-seq":
		return true
	default:
		return strings.HasPrefix(kind, "multipart/") || strings.HasPrefix(kind, "application/grpc") ||
			strings.HasPrefix(kind, "application/connect+") || strings.HasSuffix(kind, "+json-seq")
	}
}

// Stale reports whether a challenge of an answer says that only its nonce was too old
// (RFC 7616, section 3.3; contract 8).
func Stale(header http.Header) bool {
	for _, list := range header["Www-Authenticate"] {
		for more := true; more; {
			var element string
			element, list, more = next(list, ',')
			name, value, _ := cut(element, '=')
			name = trim(name)
			if space := strings.LastIndexAny(name, " \t"); space >= 0 {
				name = name[space+1:] // the scheme is before the first parameter
			}
			if strings.EqualFold(name, "stale") && strings.EqualFold(strings.Trim(trim(value), `"`), "true") {
				return true
			}
		}
	}
	return false
}
