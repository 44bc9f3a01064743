package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"testing"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/download"
	"github.com/open-policy-agent/opa/v1/keys"
	"github.com/open-policy-agent/opa/v1/plugins/rest"
)

// TestOPA downloads bundles as Open Policy Agent does, by its long polls.
func TestOPA(t *testing.T) {
	d := dialect{file: "opa", answer: policies, clients: each(func(ctx context.Context, c *conn, tell func(string)) error {
		client, err := rest.New(fmt.Appendf(nil, `{"url": %q}`, c.site), map[string]*keys.Config{})
		if err != nil {
			return err
		}
		seconds, none := int64(wait.Seconds()), int64(0)
		config := download.Config{Polling: download.PollingConfig{
			LongPollingTimeoutSeconds: &seconds, MinDelaySeconds: &none, MaxDelaySeconds: &none,
		}}
		if err := config.ValidateAndInjectDefaults(); err != nil {
			return err
		}
		failed := make(chan error, 1)
		downloader := download.New(config, client, "/bundles/authz.tar.gz").WithCallback(func(_ context.Context, u download.Update) error {
			switch {
			case u.Error != nil:
				select {
				case failed <- u.Error:
				default:
				}
			case u.Bundle != nil:
				tell(fmt.Sprint(u.Bundle.Data["value"]))
			}
			return nil
		})
		downloader.Start(ctx)
		defer downloader.Stop(context.Background())
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		}
	})}
	d.run(t)
}

// policies is a file server with one bundle. It knows the tag of that, as all of them do.
func policies(w http.ResponseWriter, r *http.Request, value int) {
	etag := strconv.Quote(strconv.Itoa(value))
	w.Header().Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	var file bytes.Buffer
	if err := bundle.Write(&file, bundle.Bundle{Data: map[string]any{"value": value}}); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/gzip")
	w.Write(file.Bytes())
}
