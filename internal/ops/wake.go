package ops

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/caddy-longpoll/caddy-longpoll/internal/lot"
)

// maxWakeBody bounds the body of a wake-up.
const maxWakeBody = 64 << 10

// serveWake marks the resources of a path, or of all paths with a prefix, for a
// check.
func (a *adminAPI) serveWake(w http.ResponseWriter, r *http.Request) error {
	if err := allow(w, r, http.MethodPost); err != nil {
		return err
	}
	if kind := r.Header.Get("Content-Type"); kind != "" {
		if media, _, err := mime.ParseMediaType(kind); err != nil || media != "application/json" {
			return apiError(http.StatusUnsupportedMediaType, "content type %q not accepted: expected application/json", kind)
		}
	}
	path, prefix, err := readWake(http.MaxBytesReader(w, r.Body, maxWakeBody))
	if err != nil {
		return err
	}
	var woken int
	all := func(lot.Name) bool { return true }
	for _, site := range Live.Sites() {
		if site.ending.drained.Load() {
			continue // nobody is parked there for much longer
		}
		if prefix != nil {
			woken += site.Lot.WakePrefix(*prefix, all)
		} else {
			woken += site.Lot.Wake(*path, all)
		}
		if site.Cluster != nil {
			site.Cluster.Tell("", *cmp.Or(path, prefix), prefix != nil)
		}
	}
	Woken(sourceAdmin)
	return writeJSON(w, map[string]int{"woken": woken})
}

// readWake reads the body of a wake-up; one of the two is not nil.
func readWake(body io.Reader) (path, prefix *string, err error) {
	const expected = `expected {"path": "/..."} or {"prefix": "/..."}`
	var wake struct {
		Path   *string `json:"path"`
		Prefix *string `json:"prefix"`
	}
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	err = dec.Decode(&wake)
	if err == nil {
		if _, more := dec.Token(); more != io.EOF {
			err = cmp.Or(more, errors.New("more than one value"))
		}
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, nil, apiError(http.StatusRequestEntityTooLarge, "reading wake-up: body is larger than %d bytes", maxWakeBody)
	case err != nil:
		return nil, nil, apiError(http.StatusBadRequest, "reading wake-up: %w; %s", err, expected)
	case (wake.Path == nil) == (wake.Prefix == nil):
		return nil, nil, apiError(http.StatusBadRequest, "reading wake-up: %s, and not both", expected)
	}
	if text := *cmp.Or(wake.Path, wake.Prefix); !strings.HasPrefix(text, "/") {
		return nil, nil, apiError(http.StatusBadRequest, "reading wake-up: %q does not begin with a slash; %s", shownPath(text), expected)
	}
	return wake.Path, wake.Prefix, nil
}
