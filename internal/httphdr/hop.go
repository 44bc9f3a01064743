package httphdr

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// hopByHop are the fields of a request or an answer that are for one hop only (RFC
// 9110, section 7.6.1), listed in Connection or not. Proxy-Authorization is not among
// them: it is a credential, which tells those who share an answer apart.
var hopByHop = []string{
	"Connection", "Http2-Settings", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authentication-Info",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// HopByHop are the names, in canonical form, of the fields that are for one hop only
// whether Connection lists them or not.
func HopByHop() []string { return slices.Clone(hopByHop) }

// DropHop takes out what is only for one hop: the fields of HopByHop, and those that
// Connection lists.
func DropHop(header http.Header) {
	for _, name := range Connections(header) {
		delete(header, name)
	}
	for _, name := range hopByHop {
		delete(header, name)
	}
}

// Connections are the canonical names of the fields that Connection lists. A plain
// keep-alive or close, which most clients send, names none.
func Connections(header http.Header) (names []string) {
	for _, field := range header["Connection"] {
		switch field {
		case "keep-alive", "Keep-Alive", "close", "":
			continue
		}
		for option := range strings.SplitSeq(field, ",") {
			option = textproto.TrimString(option)
			if option == "" || strings.EqualFold(option, "close") {
				continue
			}
			names = append(names, http.CanonicalHeaderKey(option))
		}
	}
	return names
}
