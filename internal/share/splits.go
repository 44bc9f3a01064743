package share

import (
	"net/http"
	"slices"
	"sync"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
)

// Splits finds the request field by which clients that could share do not: an
// operator is to be told of it. Credentials are none of those, for they are meant to.
type Splits struct {
	mu   sync.Mutex // protects last
	last map[lot.Name]*split
}

// split is the latest resource of a name, and by what it has differed from the one
// before so far.
type split struct {
	query  string
	header http.Header
	by     map[string]int
}

const (
	manySplits = 16  // resources that differ in one field only, before it is told
	splitNames = 256 // paths that are watched at once
)

// Add notes another resource, by the query and the header that its checks carry: neither
// is changed any more. It returns a field, and many once, when [manySplits] resources of
// the name have differed in nothing else.
func (s *Splits) Add(name lot.Name, query string, header http.Header) (field string, many bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.last[name]
	if l == nil {
		if s.last == nil || len(s.last) >= splitNames {
			s.last = make(map[lot.Name]*split)
		}
		s.last[name] = &split{query, header, nil}
		return "", false
	}
	old := l.header
	l.header = header
	if l.query != query {
		l.query = query
		return "", false
	}
	field = onlyDifference(old, header)
	if field == "" || httphdr.LikeCredentials(field) {
		return "", false
	}
	if l.by == nil {
		l.by = make(map[string]int)
	}
	l.by[field]++
	return field, l.by[field] == manySplits
}

// onlyDifference is the field in which two headers differ; "" if it is none or several.
func onlyDifference(a, b http.Header) (field string) {
	for _, h := range []http.Header{a, b} {
		for name := range h {
			if slices.Equal(a[name], b[name]) || name == field {
				continue
			}
			if field != "" {
				return ""
			}
			field = name
		}
	}
	return field
}
