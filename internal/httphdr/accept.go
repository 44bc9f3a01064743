package httphdr

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// acceptRange is one element of an Accept field (RFC 9110, section 12.5.1).
type acceptRange struct {
	text    string // as it was written
	kind    string // in lower case, without parameters
	quality float64
}

// acceptRanges are the elements of all Accept fields.
func acceptRanges(header http.Header) (all []acceptRange) {
	for _, list := range header["Accept"] {
		for more := true; more; {
			var element string
			element, list, more = next(list, ',')
			a := acceptRange{text: trim(element), quality: 1}
			kind, parameters, found := next(element, ';')
			if a.kind = strings.ToLower(trim(kind)); a.kind == "" {
				continue
			}
			for found {
				var parameter string
				parameter, parameters, found = next(parameters, ';')
				if name, value, ok := cut(parameter, '='); ok && strings.EqualFold(trim(name), "q") {
					if q, err := strconv.ParseFloat(trim(value), 64); err == nil && q >= 0 && q <= 1 {
						a.quality = q
					}
				}
			}
			all = append(all, a)
		}
	}
	return all
}

// Preferred is the media type, of those that are offered, that a request accepts with the
// highest quality of all that it names, ties included: the first of several. It is empty
// if there is none. A wildcard names no type, but has a quality that others are measured by.
func Preferred(header http.Header, offered []string) (kind string) {
	var best float64
	for _, a := range acceptRanges(header) {
		switch ours := slices.Contains(offered, a.kind); {
		case a.quality > best && ours:
			best, kind = a.quality, a.kind
		case a.quality > best:
			best, kind = a.quality, ""
		case a.quality == best && best > 0 && kind == "" && ours:
			kind = a.kind
		}
	}
	return kind
}

// WithoutTypes is the value of an Accept field less what names one of the types; empty if
// nothing is left.
func WithoutTypes(header http.Header, kinds []string) string {
	var left []string
	for _, a := range acceptRanges(header) {
		if !slices.Contains(kinds, a.kind) {
			left = append(left, a.text)
		}
	}
	return strings.Join(left, ", ")
}

// NamesEventStream reports whether a request accepts server-sent events by name.
func NamesEventStream(header http.Header) bool {
	for _, accept := range header["Accept"] {
		if len(accept) >= len(eventStream) && strings.Contains(strings.ToLower(accept), eventStream) {
			return true
		}
	}
	return false
}

const eventStream = "text/event-stream"
