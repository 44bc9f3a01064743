package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// What others have built for the same end, from Debian's packages. The versions
// that they are given are published to them, so nothing checks a backend.

// peers are those that are installed.
func peers() (names []string) {
	if _, err := os.Stat(nchanModule); err == nil {
		names = append(names, "nchan")
	}
	if _, err := exec.LookPath("pushpin"); err == nil {
		names = append(names, "pushpin")
	}
	return names
}

const nchanModule = "/usr/lib/nginx/modules/ngx_nchan_module.so"

// nchan starts nginx with nchan, and publishes the first version.
func (s *subject) nchan() error {
	dir, err := os.MkdirTemp("", "bench-nchan")
	if err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	s.cleanup = append(s.cleanup, func() { os.RemoveAll(dir) })
	publisher, h2 := freeAddr(), ""
	if s.spec.HTTP2 {
		h2 = " http2"
	}
	conf := fmt.Sprintf(`daemon off;
load_module %s;
user root;
worker_processes auto;
worker_rlimit_nofile 20000;
pid %s/pid;
error_log stderr crit;
events { worker_connections 20000; }
http {
	access_log off;
	keepalive_timeout 10m;
	keepalive_requests 1000000;
	client_body_temp_path %[2]s/body;
	client_max_body_size 4m;
	client_body_buffer_size 2m;
	nchan_shared_memory_size 256m;
	server {
		listen %[3]s backlog=4096%[4]s;
		location / { nchan_subscriber longpoll eventsource; nchan_channel_id r; }
	}
	server {
		listen %[5]s;
		location = /pub { nchan_publisher; nchan_channel_id r; nchan_message_buffer_length 10; }
	}
}
`, nchanModule, dir, s.spec.Addr, h2, publisher)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return fmt.Errorf("writing configuration of nginx: %w", err)
	}
	if s.process, err = start(s.spec.Addr, "nginx", "-c", file, "-p", dir); err != nil {
		return err
	}
	s.group = true
	s.publish = func(version int64) error {
		_, err := call("POST", "http://"+publisher+"/pub", string(body(version, max(s.spec.Size, bodySize))))
		return err
	}
	return s.publish(s.version)
}

// pushpin starts Pushpin in front of the backend.
func (s *subject) pushpin() error {
	dir, err := os.MkdirTemp("", "bench-pushpin")
	if err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	s.cleanup = append(s.cleanup, func() { os.RemoveAll(dir) })
	_, port, _ := net.SplitHostPort(s.spec.Addr)
	publisher := freeAddr()
	host, publishPort, _ := net.SplitHostPort(publisher)
	conf := fmt.Sprintf(`[global]
include={libdir}/internal.conf
rundir=%[1]s
ipc_prefix=bench-
[runner]
services=condure,zurl,pushpin-proxy,pushpin-handler
http_port=%[2]s
logdir=%[1]s
log_level=0
client_maxconn=20000
[proxy]
routesfile=%[1]s/routes
zurl_out_specs=ipc://{rundir}/{ipc_prefix}zurl-in
zurl_out_stream_specs=ipc://{rundir}/{ipc_prefix}zurl-in-stream
zurl_in_specs=ipc://{rundir}/{ipc_prefix}zurl-out
[handler]
push_in_spec=tcp://%[3]s
push_in_sub_specs=tcp://%[4]s
push_in_http_addr=%[5]s
push_in_http_port=%[6]s
command_spec=tcp://%[7]s
message_rate=2500
message_hwm=25000
`, dir, port, freeAddr(), freeAddr(), host, publishPort, freeAddr())
	file := filepath.Join(dir, "pushpin.conf")
	err = os.WriteFile(file, []byte(conf), 0o600)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "routes"), []byte("* "+s.behind.addr+"\n"), 0o600)
	}
	if err != nil {
		return fmt.Errorf("writing configuration of Pushpin: %w", err)
	}
	if s.process, err = start(s.spec.Addr, "pushpin", "--config="+file); err != nil {
		return err
	}
	s.group = true
	// It listens before its parts have found each other.
	impatient := &http.Client{Timeout: time.Second}
	for deadline := time.Now().Add(30 * time.Second); ; {
		resp, err := impatient.Get("http://" + s.spec.Addr + "/r")
		if err == nil {
			resp.Body.Close()
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting for Pushpin: %w", err)
		}
	}
	s.publish = func(version int64) error {
		if _, err := call("POST", "http://"+s.behind.addr+"/r", ""); err != nil {
			return err
		}
		item := map[string]any{"channel": "r", "formats": map[string]any{"http-response": map[string]any{
			"code": 200, "headers": map[string]string{"Etag": tag(version)}, "body": string(body(version, bodySize)),
		}}}
		text, err := json.Marshal(map[string]any{"items": []any{item}})
		if err != nil {
			return fmt.Errorf("encoding what is published: %w", err)
		}
		_, err = call("POST", "http://"+publisher+"/publish/", string(text))
		return err
	}
	return nil
}
