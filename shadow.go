package longpoll

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// observe is what `shadow` does with a request.
func (h *Handler) observe(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return next.ServeHTTP(w, r)
}
