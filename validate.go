package longpoll

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-longpoll/caddy-longpoll/internal/httphdr"
	"github.com/caddy-longpoll/caddy-longpoll/internal/state"
)

// Validate judges the configuration, wherever it was written. Its errors name
// the subdirective as the Caddyfile spells it, what was read and what is
// accepted.
func (h *Handler) Validate() error {
	return cmp.Or(
		h.validateDurations(),
		h.validateBounds(),
		h.validateVersion(),
		h.validateSharing(),
		oneOf("wait: unit", h.WaitUnit, "s", "ms"),
		oneOf("unversioned", h.Unversioned, "answer", "park"),
		oneOf("on_error", h.OnError, "hold", "release"),
		h.validateHoldWhile(),
		h.validateMethods(),
		validateProbe(h.Probe),
		h.validateOnChange(),
		h.validateOnTimeout(),
		h.validateHeader(),
	)
}

func (h *Handler) validateDurations() error {
	if err := cmp.Or(
		aboveZero("hold", h.Hold),
		aboveZero("interval", h.Interval),
		aboveZero("check_timeout", h.CheckTimeout),
		notNegative("freshness", &h.Freshness),
		notNegative("linger", h.Linger),
	); err != nil {
		return err
	}
	if j := h.Jitter; j != nil && (*j < 0 || *j > 100) {
		return fmt.Errorf("hold: jitter %q: expected a percentage from 0 to 100", spell(*j)+"%")
	}
	if h.Interval != nil && h.MaxInterval != nil && *h.MaxInterval < *h.Interval {
		return fmt.Errorf("interval %q: expected a <max> that is not below <min>", spell(*h.Interval)+" "+spell(*h.MaxInterval))
	}
	return nil
}

func (h *Handler) validateBounds() error {
	return cmp.Or(
		aboveZero("max_checks", h.MaxChecks),
		aboveZero("max_resources", h.MaxResources),
		aboveZero("max_body", h.MaxBody),
		notNegative("max_parked", &h.MaxParked),
		notNegative("max_parked_per_client", &h.MaxParkedPerClient),
	)
}

func (h *Handler) validateVersion() error {
	if len(h.Unset) > 0 && h.Since == "" {
		return fmt.Errorf("unset %q: expected a since whose values they are", h.Unset)
	}
	if len(h.Ignore) > 0 && h.Version != "" {
		return fmt.Errorf("ignore %q with version %q: expected one of them, since ignore makes a hash the version", h.Ignore, h.Version)
	}
	for _, path := range h.Ignore {
		if _, err := state.MemberPath(path); err != nil {
			return fmt.Errorf("ignore: %w", err)
		}
	}
	return nil
}

func (h *Handler) validateSharing() error {
	if h.Public && len(h.Key) > 0 {
		return fmt.Errorf("public with key %q: expected one of them, since public shares answers and key separates them", h.Key)
	}
	if slices.Contains(h.Key, "") {
		return errors.New(`key "": expected text, usually a placeholder such as {query.consumer}`)
	}
	if slices.Contains(h.StripQuery, "") {
		return errors.New(`strip_query "": expected the name of a query parameter`)
	}
	for _, field := range h.Vary {
		// An asterisk is a token too, but would separate nothing.
		if field == "*" || !httpguts.ValidHeaderFieldName(field) {
			return fmt.Errorf("vary %q: expected the name of a header field", field)
		}
	}
	return nil
}

func (h *Handler) validateHoldWhile() error {
	for _, c := range h.HoldWhile {
		read := strings.Join(append([]string{c.Value, c.Op}, c.Literals...), " ")
		switch {
		case c.Value == "":
			return fmt.Errorf("hold_while %q: expected a value, usually a placeholder such as {lp.json.status}", read)
		case c.Op == "empty":
			if len(c.Literals) > 0 {
				return fmt.Errorf("hold_while %q: expected no literals after empty", read)
			}
		case c.Op == "is" || c.Op == "not":
			if len(c.Literals) == 0 {
				return fmt.Errorf("hold_while %q: expected literals after %s", read, c.Op)
			}
		default:
			return fmt.Errorf("hold_while %q: unknown comparison %q; expected is, not or empty", read, c.Op)
		}
	}
	return nil
}

func (h *Handler) validateMethods() error {
	for _, method := range h.Methods {
		if !httphdr.ValidMethod(method) {
			return fmt.Errorf("methods %q: expected HTTP methods such as GET", method)
		}
	}
	return nil
}

func validateProbe(p *Probe) error {
	switch {
	case p == nil:
		return nil
	case p.Method != "" && !httphdr.ValidMethod(p.Method):
		return fmt.Errorf("probe %q: expected an HTTP method such as GET before the URI", p.Method)
	case !strings.HasPrefix(p.URI, "/") && !strings.HasPrefix(p.URI, "{"):
		return fmt.Errorf("probe %q: expected a URI that begins with a slash or a placeholder", p.URI)
	}
	return nil
}

func (h *Handler) validateOnChange() error {
	if h.OnChange == nil {
		return nil
	}
	if h.OnChange.Replay {
		return errors.New(`on_change "replay": expected a status, since replay is for on_timeout only`)
	}
	return validateReply("on_change", h.OnChange)
}

func (h *Handler) validateOnTimeout() error {
	if h.OnTimeout == nil {
		return nil
	}
	if h.OnTimeout.Replay {
		if h.OnTimeout.Status != 0 || h.OnTimeout.Body != "" {
			return fmt.Errorf("on_timeout %q with replay: expected replay alone, or a status with or without a body", replyLine(h.OnTimeout))
		}
		return nil
	}
	return validateReply("on_timeout", h.OnTimeout)
}

// validate judges a reply that has a status.
func validateReply(subdirective string, r *Reply) error {
	if r.Status < 200 || r.Status > 599 {
		return fmt.Errorf("%s %q: expected a status from 200 to 599", subdirective, replyLine(r))
	}
	switch r.Status {
	case http.StatusNoContent, http.StatusResetContent, http.StatusNotModified:
		if r.Body != "" {
			return fmt.Errorf("%s %q: expected no body, since an answer with the status %d has none", subdirective, replyLine(r), r.Status)
		}
	}
	return nil
}

// replyLine is the reply as the Caddyfile has it.
func replyLine(r *Reply) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", r.Status, r.Body))
}

func (h *Handler) validateHeader() error {
	for _, field := range slices.Sorted(maps.Keys(h.Header)) {
		if !httpguts.ValidHeaderFieldName(field) {
			return fmt.Errorf("header %q: expected the name of a header field", field)
		}
		for _, value := range h.Header[field] {
			if !httpguts.ValidHeaderFieldValue(value) {
				return fmt.Errorf("header %q: value %q: expected text without control characters", field, value)
			}
		}
	}
	return nil
}

func aboveZero[T int | int64 | caddy.Duration](subdirective string, v *T) error {
	if v != nil && *v <= 0 {
		return fmt.Errorf("%s %q: expected more than 0", subdirective, spell(*v))
	}
	return nil
}

func notNegative[T int | int64 | caddy.Duration](subdirective string, v *T) error {
	if v != nil && *v < 0 {
		return fmt.Errorf("%s %q: expected 0 or more", subdirective, spell(*v))
	}
	return nil
}

// spell writes a value as the Caddyfile has it.
func spell(v any) string {
	if d, ok := v.(caddy.Duration); ok {
		return time.Duration(d).String()
	}
	return fmt.Sprint(v)
}

// oneOf accepts the empty text too, which is the default.
func oneOf(subdirective, read string, accepted ...string) error {
	if read == "" || slices.Contains(accepted, read) {
		return nil
	}
	return fmt.Errorf("%s %q: expected %s", subdirective, read, strings.Join(accepted, " or "))
}
