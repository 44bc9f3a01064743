package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"testing"

	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/consul/api/watch"
	"github.com/hashicorp/go-hclog"
	nomad "github.com/hashicorp/nomad/api"
)

func TestConsul(t *testing.T) {
	d := dialect{
		file: "consul", answer: consulKey,
		clients: watched(map[string]any{"type": "key", "key": "color"}, func(result any) string {
			return string(result.(*consul.KVPair).Value)
		}),
	}
	d.run(t)
}

// consulKey answers with an index that begins far from where it could be taken for
// a count.
func consulKey(w http.ResponseWriter, r *http.Request, value int) {
	write(w, []consul.KVPair{{Key: "color", Value: []byte(strconv.Itoa(value)), ModifyIndex: uint64(100 + value)}})
}

// TestConsulGoesBack restores the backend from a backup while a client waits.
func TestConsulGoesBack(t *testing.T) {
	t.Parallel()
	b := newBackend(t, "", consulKey)
	b.value.Store(7)
	s := newSite(t, "consul", b)
	c := newCrowd(t, s, 1, watched(map[string]any{"type": "key", "key": "color"}, func(result any) string {
		return string(result.(*consul.KVPair).Value)
	}))
	await(t, "the first round", func() error { return errors.Join(c.expect("7"), s.parkedAre(1)) })
	b.value.Store(3)
	await(t, "the restored value", func() error { return errors.Join(c.expect("7", "3"), s.parkedAre(1)) })
	b.value.Store(4)
	await(t, "a change", func() error { return c.expect("7", "3", "4") })
}

// TestConsulWait: a wait that can not be read is an error, as it is in Consul.
func TestConsulWait(t *testing.T) {
	t.Parallel()
	s := newSite(t, "consul", newBackend(t, "", consulKey))
	c := &conn{site: s.url, transport: new(http.Transport)}
	defer c.transport.CloseIdleConnections()
	for wait, want := range map[string]int{"soon": 400, "-1s": 400, "0": 200, "": 200, "10ms": 200} {
		a, err := c.get(t.Context(), "/v1/kv/color?index=7&wait="+wait)
		if err != nil {
			t.Fatal(err)
		}
		if a.status != want {
			t.Errorf("wait=%s is answered %d %q; want %d", wait, a.status, a.body, want)
		}
	}
}

func TestConsulHash(t *testing.T) {
	d := dialect{
		file: "consul-hash",
		answer: func(w http.ResponseWriter, r *http.Request, value int) {
			write(w, consul.AgentService{ID: "web", Port: value, ContentHash: fmt.Sprintf("%016x", value)})
		},
		clients: watched(map[string]any{"type": "agent_service", "service_id": "web"}, func(result any) string {
			return strconv.Itoa(result.(*consul.AgentService).Port)
		}),
	}
	d.run(t)
}

// watched makes clients of Consul's watch package.
func watched(params map[string]any, value func(result any) string) clients {
	return each(func(ctx context.Context, c *conn, tell func(string)) error {
		client, err := consul.NewClient(&consul.Config{Address: c.site, HttpClient: c.client(), WaitTime: wait})
		if err != nil {
			return err
		}
		plan, err := watch.Parse(maps.Clone(params)) // it takes them out one by one
		if err != nil {
			return err
		}
		plan.HybridHandler = func(_ watch.BlockingParamVal, result any) { tell(value(result)) }
		var logged bytes.Buffer
		logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Error, Output: &errorLog{&logged, plan.Stop}})
		defer context.AfterFunc(ctx, plan.Stop)()
		if err := plan.RunWithClientAndHclog(client, logger); err != nil {
			return err
		}
		if logged.Len() > 0 {
			return fmt.Errorf("watching: %s", &logged)
		}
		return nil
	})
}

// errorLog stops what logs an error.
type errorLog struct {
	*bytes.Buffer
	stop func()
}

func (l *errorLog) Write(p []byte) (int, error) {
	defer l.stop()
	return l.Buffer.Write(p)
}

func TestNomad(t *testing.T) {
	d := dialect{
		file: "nomad",
		answer: func(w http.ResponseWriter, r *http.Request, value int) {
			index, id := uint64(100+value), "web"
			write(w, nomad.Job{ID: &id, ModifyIndex: &index, Meta: map[string]string{"value": strconv.Itoa(value)}})
		},
		clients: each(func(ctx context.Context, c *conn, tell func(string)) error {
			client, err := nomad.NewClient(&nomad.Config{Address: c.site, HttpClient: c.client()})
			if err != nil {
				return err
			}
			var index uint64
			for {
				options := &nomad.QueryOptions{WaitIndex: index, WaitTime: wait}
				job, meta, err := client.Jobs().Info("web", options.WithContext(ctx))
				if err != nil {
					return err
				}
				if !meta.KnownLeader {
					return errors.New("no leader is known")
				}
				if meta.LastIndex != index {
					tell(job.Meta["value"])
				}
				index = meta.LastIndex
			}
		}),
	}
	d.run(t)
}
