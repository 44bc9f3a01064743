package httphdr

import (
	"net/http"
	"strconv"
	"strings"
)

// Manipulates reports whether a request's A-IM accepts an instance manipulation by its
// name (RFC 3229, section 10.5.3).
func Manipulates(header http.Header, im string) bool {
	for _, list := range header["A-Im"] {
		for more := true; more; {
			var element string
			element, list, more = next(list, ',')
			name, parameters, _ := cut(element, ';')
			if !strings.EqualFold(trim(name), im) {
				continue
			}
			key, value, _ := cut(parameters, '=')
			q, err := strconv.ParseFloat(trim(value), 64)
			return !strings.EqualFold(trim(key), "q") || err != nil || q > 0
		}
	}
	return false
}
