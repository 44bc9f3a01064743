package integration_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestExamples runs the Caddyfiles of examples/ in the real binary, in front of the
// backend that stands there, as far as no engine of containers is needed.
func TestExamples(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the real binary")
	}
	t.Parallel()
	caddy := buildCaddy(t)
	for name, test := range map[string]func(*testing.T, binary){
		"python":     testExamplePython,
		"compose":    testExampleCompose,
		"kubernetes": testExampleKubernetes,
		"systemd":    testExampleSystemd,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, caddy)
		})
	}
}

// startExample runs a Caddyfile of examples/ until the end of the test, as relocate has
// it.
func (b binary) startExample(t *testing.T, name, code string, others map[string]string) *sidecar {
	t.Helper()
	dir := shortTempDir(t)
	socket, file := filepath.Join(dir, "admin"), filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(relocate(t, name, code, socket, others)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(b.path, "run", "--config", file)
	cmd.Env = environment(dir)
	return &sidecar{process: run(t, cmd), admin: adminClient(t, socket)}
}

// relocate validates a Caddyfile of examples/ as it stands, and gives it with the admin
// endpoint on a socket, and with others in place of some texts that it has: ports that
// are free here, and addresses of what the test has started.
func relocate(t *testing.T, name, code, socket string, others map[string]string) string {
	t.Helper()
	validate(t, adapt(t, name, code))
	for old, other := range others {
		if !strings.Contains(code, old) {
			t.Fatalf("%s does not have %q", name, old)
		}
		code = strings.ReplaceAll(code, old, other)
	}
	rest, found := strings.CutPrefix(code, "{\n")
	if !found {
		rest = "}\n" + code
	}
	return "{\n\tadmin unix/" + socket + "\n\tskip_install_trust\n" + rest
}

// loopback is the address of a port of this machine.
func loopback(port string) string { return net.JoinHostPort("127.0.0.1", port) }

// startOrders runs examples/python/backend.py until the end of the test, and returns its
// address.
func startOrders(t *testing.T, env ...string) string {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("needs python3, which is not installed")
	}
	cmd := exec.Command(python, "examples/python/backend.py", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), env...)
	said := start(t, cmd)
	var address []string
	waitUntil(t, func() string { return "the backend does not listen: " + said.String() }, func() bool {
		address = regexp.MustCompile(`http://(\S+)/api/orders`).FindStringSubmatch(said.String())
		return address != nil
	})
	return address[1]
}

// start runs a command until the end of the test, and gives what it says.
func start(t *testing.T, cmd *exec.Cmd) *output {
	t.Helper()
	said := new(output)
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(cmd.Path), said)
		}
	})
	return said
}

// watchOrder has a reader wait for the order of the backend while a writer changes it,
// twice, and wants it to be woken by that source.
func watchOrder(t *testing.T, caddy *sidecar, reader, writer *client, source string) {
	t.Helper()
	tag := reader.get("/api/orders/42").want(t, 200, "answered").header.Get("ETag")
	for _, status := range []string{"shipped", "delivered"} {
		waiting := reader.poll("/api/orders/42", "Prefer: wait=20", "If-None-Match: "+tag)
		caddy.waitParked(1)
		body := fmt.Sprintf(`{"order": 42, "status": %q}`+"\n", status)
		writer.send("PUT", "/api/orders/42", fmt.Sprintf(`{"status":%q}`, status)).wait().wantBody(t, body)
		tag = waiting.wait().want(t, 200, "changed").wantBody(t, body).header.Get("ETag")
	}
	// A wake-up by a write is counted when those have been woken who wait.
	woken := func() int { return caddy.metric(fmt.Sprintf("caddy_long_poll_wakes_total{source=%q}", source)) }
	waitUntil(t, func() string { return fmt.Sprintf("%s woke %d times; want each of two changes", source, woken()) }, func() bool { return woken() >= 2 })
}

func testExamplePython(t *testing.T, b binary) {
	port, backend := freePort(t), startOrders(t)
	const file = "examples/python/Caddyfile"
	caddy := b.startExample(t, file, read(t, file), map[string]string{":8080": ":" + port, "127.0.0.1:9000": backend})
	c := newClient(t, port)
	watchOrder(t, caddy, c, c, "writes")
	// The backend is as bad as it should be: it names no version, and refuses nonsense.
	direct := newClient(t, port)
	direct.base = "http://" + backend
	if r := direct.get("/api/orders"); r.status != 200 || r.header.Get("ETag") != "" || r.body != `[{"order": 42, "status": "delivered"}]`+"\n" {
		t.Errorf("got %v with %q", r, r.header)
	}
	for path, status := range map[string]int{"/": 404, "/api/orders/7": 404, "/api/orders/x": 404, "/api/orders/42/": 404} {
		direct.get(path).want(t, status, "")
	}
	for _, body := range []string{"", "{", "{}", "[]", "1", "\xff"} {
		direct.send("PUT", "/api/orders/42", body).wait().want(t, 400, "")
	}
}

// compose is what the test reads of a file for Docker Compose. It is decoded strictly, so
// that a word which is none of these fails.
type compose struct {
	Services map[string]struct {
		Image string
		Build struct{ Context, Dockerfile string }

		Command, Ports, Volumes []string
		DependsOn               []string `yaml:"depends_on"`
		Environment             map[string]string
		Restart                 string
		StopGracePeriod         string         `yaml:"stop_grace_period"`
		CapDrop                 []string       `yaml:"cap_drop"`
		SecurityOpt             []string       `yaml:"security_opt"`
		ReadOnly                bool           `yaml:"read_only"`
		Ulimits                 map[string]int `yaml:"ulimits"`
	}
	Volumes map[string]any
}

func testExampleCompose(t *testing.T, b binary) {
	const dir = "examples/compose/"
	var c compose
	if err := unmarshal(read(t, dir+"compose.yaml"), &c); err != nil {
		t.Fatal(err)
	}
	mounted := make(map[string]string) // what is mounted where
	for name, s := range c.Services {
		if s.Build.Dockerfile != "" {
			if _, err := os.Stat(filepath.Join(dir, s.Build.Context, s.Build.Dockerfile)); err != nil {
				t.Errorf("%s is built from nothing: %v", name, err)
			}
		}
		for _, other := range s.DependsOn {
			if _, ok := c.Services[other]; !ok {
				t.Errorf("%s depends on %s, which there is not", name, other)
			}
		}
		for _, port := range s.Ports {
			if !strings.HasPrefix(port, "127.0.0.1:") {
				t.Errorf("%s listens for everybody, at %s", name, port)
			}
		}
		for _, v := range s.Volumes {
			source, target, _ := strings.Cut(strings.TrimSuffix(v, ":ro"), ":")
			mounted[target] = source
			if _, ok := c.Volumes[source]; ok {
				continue
			}
			if info, err := os.Stat(filepath.Join(dir, source)); err != nil || info.IsDir() {
				t.Errorf("%s mounts %s, which is neither a file nor a volume", name, source)
			}
		}
	}

	// What is named in a file is a service.
	for file, hosts := range map[string][]string{
		"Caddyfile":               {"redis:6379", "backend:9000"},
		"prometheus.yml":          {"caddy:9180"},
		"grafana/datasources.yml": {"prometheus:9090"},
		"compose.yaml":            {"redis:6379"},
	} {
		for _, host := range hosts {
			name, _, _ := strings.Cut(host, ":")
			if _, ok := c.Services[name]; !ok || !strings.Contains(read(t, dir+file), host) {
				t.Errorf("%s does not have %s, or there is no such service", file, host)
			}
		}
	}
	for target, source := range map[string]string{
		"/etc/prometheus/alerts.yml":             "../../dashboards/alerts.yml",
		"/etc/grafana/dashboards/long_poll.json": "../../dashboards/long_poll.json",
	} {
		if mounted[target] != source {
			t.Errorf("%q is mounted at %s instead of %s", mounted[target], target, source)
		}
	}
	var provider struct {
		Providers []struct{ Options struct{ Path string } }
	}
	if err := yaml.Unmarshal([]byte(read(t, dir+"grafana/dashboards.yml")), &provider); err != nil {
		t.Fatal(err)
	}
	if len(provider.Providers) != 1 || provider.Providers[0].Options.Path != "/etc/grafana/dashboards" {
		t.Errorf("Grafana looks elsewhere: %+v", provider)
	}

	// It runs: what the backend publishes to Redis is heard. There is no interval that
	// could hear it in its place, and the writer does not pass through Caddy.
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("needs redis-server, which is not installed")
	}
	redis := startRedis(t)
	backend := startOrders(t, "REDIS="+redis.addr)
	port, metrics := freePort(t), freePort(t)
	caddy := b.startExample(t, dir+"Caddyfile", read(t, dir+"Caddyfile"), map[string]string{
		":8080": "http://" + loopback(port), ":9180": "http://" + loopback(metrics), "backend:9000": backend, "redis:6379": redis.addr, "interval 10s": "interval 1h",
	})
	reader, writer := newClient(t, port), newClient(t, port)
	writer.base = "http://" + backend
	redis.waitWoken(t, caddy, reader)
	watchOrder(t, caddy, reader, writer, "redis")
	t.Run("prometheus", func(t *testing.T) { testExamplePrometheus(t, loopback(metrics)) })
}

// waitWoken waits until Redis is listened to: who waits at the first poll subscribes.
func (s *redisServer) waitWoken(t *testing.T, caddy *sidecar, c *client) {
	t.Helper()
	tag := c.get("/api/orders/42").header.Get("ETag")
	waiting := c.poll("/api/orders/42", "Prefer: wait=20", "If-None-Match: "+tag)
	caddy.waitParked(1)
	s.waitSubscribed("long_poll:/api/orders/42")
	waiting.leave()
	caddy.waitParked(0)
}

// testExamplePrometheus checks the configuration, and has a real server scrape Caddy and
// load the rules by it.
func testExamplePrometheus(t *testing.T, target string) {
	dir := t.TempDir()
	config := strings.ReplaceAll(read(t, "examples/compose/prometheus.yml"), "caddy:9180", target)
	for name, text := range map[string]string{"prometheus.yml": config, "alerts.yml": read(t, "dashboards/alerts.yml")} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, program := range []string{"promtool", "prometheus"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s, which is not installed", program)
		}
	}
	file := filepath.Join(dir, "prometheus.yml")
	if out, err := exec.Command("promtool", "check", "config", file).CombinedOutput(); err != nil {
		t.Fatalf("promtool: %v\n%s", err, out)
	}
	port := freePort(t)
	start(t, exec.Command("prometheus", "--config.file", file, "--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", loopback(port)))
	c := newClient(t, port)
	var r reply
	waitUntil(t, func() string { return fmt.Sprintf("Prometheus has no metrics of Caddy: %v", r) }, func() bool {
		r = c.get("/api/v1/query?query=" + url.QueryEscape(`caddy_long_poll_wakes_total{source="redis"} >= 2`))
		return r.status == 200 && strings.Contains(r.body, `"instance":"`+target+`"`)
	})
	if r = c.get("/api/v1/rules"); !strings.Contains(r.body, "LongPollBackendFails") {
		t.Errorf("Prometheus has no rules: %v", r)
	}
}

// unmarshal reads YAML, and rejects what the value has no place for.
func unmarshal(text string, value any) error {
	d := yaml.NewDecoder(strings.NewReader(text))
	d.KnownFields(true)
	return d.Decode(value)
}

// pod is what the test reads of a Deployment's template.
type pod struct {
	Metadata struct{ Labels map[string]string }
	Spec     struct {
		TerminationGracePeriodSeconds int `yaml:"terminationGracePeriodSeconds"`
		SecurityContext               struct {
			RunAsNonRoot   bool                  `yaml:"runAsNonRoot"`
			RunAsUser      int                   `yaml:"runAsUser"`
			SeccompProfile struct{ Type string } `yaml:"seccompProfile"`
		} `yaml:"securityContext"`
		Containers []container
		Volumes    []volume
	}
}

type volume struct {
	Name      string
	ConfigMap struct{ Name string } `yaml:"configMap"`
}

type container struct {
	Name  string
	Ports []struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
	}
	ReadinessProbe  probe `yaml:"readinessProbe"`
	LivenessProbe   probe `yaml:"livenessProbe"`
	SecurityContext struct {
		AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
		Capabilities             struct{ Add, Drop []string }
	} `yaml:"securityContext"`
	VolumeMounts []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
	} `yaml:"volumeMounts"`
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

func testExampleKubernetes(t *testing.T, b binary) {
	type object struct {
		Kind     string
		Metadata struct{ Name string }
		Data     map[string]string
		Spec     struct {
			Selector any
			Template pod
			Ports    []struct {
				TargetPort string `yaml:"targetPort"`
			}
		}
	}
	objects := make(map[string]object)
	const file = "examples/kubernetes/long_poll.yaml"
	for d := yaml.NewDecoder(strings.NewReader(read(t, file))); ; {
		var o object
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		objects[o.Kind] = o
	}
	p := objects["Deployment"].Spec.Template
	service := objects["Service"].Spec
	labels := fmt.Sprint(p.Metadata.Labels)
	if got := fmt.Sprint(objects["Deployment"].Spec.Selector); got != "map[matchLabels:"+labels+"]" {
		t.Errorf("the Deployment selects %s; want %s", got, labels)
	}
	if got := fmt.Sprint(service.Selector); got != labels {
		t.Errorf("the Service selects %s; want %s", got, labels)
	}

	// The restricted profile of the Pod Security Standards, without NET_BIND_SERVICE.
	if s := p.Spec.SecurityContext; !s.RunAsNonRoot || s.RunAsUser == 0 || s.SeccompProfile.Type != "RuntimeDefault" {
		t.Errorf("the pod is not restricted: %+v", s)
	}
	var caddy container
	for _, c := range p.Spec.Containers {
		s := c.SecurityContext
		if s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) || s.Capabilities.Add != nil {
			t.Errorf("container %s is not restricted: %+v", c.Name, s)
		}
		if c.Name == "caddy" {
			caddy = c
		}
		if c.ReadinessProbe.HTTPGet.Path == "" {
			t.Errorf("container %s has no readiness probe", c.Name)
		}
		for _, m := range c.VolumeMounts {
			if !slices.ContainsFunc(p.Spec.Volumes, func(v volume) bool {
				return v.Name == m.Name && (v.ConfigMap.Name == "" || v.ConfigMap.Name == objects["ConfigMap"].Metadata.Name)
			}) {
				t.Errorf("container %s mounts %s, which there is not", c.Name, m.Name)
			}
		}
	}
	if p.Spec.TerminationGracePeriodSeconds < 20 {
		t.Errorf("the pod gets %d s to stop; preStop and grace_period take 15", p.Spec.TerminationGracePeriodSeconds)
	}

	// Caddy listens where the Service and the probes ask, by the ConfigMap's Caddyfile.
	ports := make(map[string]string)
	for _, port := range caddy.Ports {
		ports[port.Name] = fmt.Sprint(port.ContainerPort)
	}
	if len(service.Ports) != 1 || ports[service.Ports[0].TargetPort] != "8080" {
		t.Fatalf("the Service leads to %+v of %v", service.Ports, ports)
	}
	others := map[string]string{"127.0.0.1:9000": startOrders(t)}
	here := make(map[string]string)
	for _, port := range ports {
		here[port] = freePort(t)
		others[":"+port+" {"] = "http://" + loopback(here[port]) + " {"
	}
	site := b.startExample(t, file, objects["ConfigMap"].Data["Caddyfile"], others)
	for _, probe := range []probe{caddy.ReadinessProbe, caddy.LivenessProbe} {
		newClient(t, here[ports[probe.HTTPGet.Port]]).get(probe.HTTPGet.Path).want(t, http.StatusOK, "")
	}
	c := newClient(t, here["8080"])
	watchOrder(t, site, c, c, "writes")
}

// testExampleSystemd does with the unit what systemd does, as far as that can be
// done without it.
func testExampleSystemd(t *testing.T, b binary) {
	const dir, installed = "examples/systemd/", "/usr/local/bin/caddy"
	unit := read(t, dir+"caddy.service")
	setting := func(name string) string {
		t.Helper()
		found := regexp.MustCompile(`(?m)^` + name + `=(.*)$`).FindStringSubmatch(unit)
		if found == nil {
			t.Fatalf("the unit has no %s", name)
		}
		return found[1]
	}
	if _, err := exec.LookPath("systemd-analyze"); err == nil {
		file := filepath.Join(t.TempDir(), "caddy.service")
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(unit, installed, b.path)), 0o600); err != nil {
			t.Fatal(err)
		}
		// It does not fail for a word that it does not know, and only says so.
		if out, err := exec.Command("systemd-analyze", "verify", file).CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
			t.Errorf("systemd-analyze: %v\n%s", err, out)
		}
	}
	if n := setting("LimitNOFILE"); n != "1048576" {
		t.Errorf("LimitNOFILE is %s", n)
	}
	if setting("Type") != "notify" {
		t.Fatal("systemd is not told when Caddy serves")
	}

	home := shortTempDir(t)
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(home, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { notify.Close() })
	told := new(output)
	go io.Copy(told, notify)

	port := freePort(t)
	file := filepath.Join(home, "Caddyfile")
	socket := filepath.Join(home, "admin")
	code := relocate(t, dir+"Caddyfile", read(t, dir+"Caddyfile"), socket, map[string]string{
		":8080": "http://" + loopback(port), "127.0.0.1:9000": startOrders(t),
	})
	load := func(more string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(code+more), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	load("")
	command := func(name string) *exec.Cmd {
		words := strings.Fields(strings.NewReplacer(installed, b.path, "/etc/caddy/Caddyfile", file).Replace(setting(name)))
		cmd := exec.Command(words[0], words[1:]...)
		cmd.Env = append(environment(home), "NOTIFY_SOCKET="+notify.LocalAddr().String())
		return cmd
	}
	caddy := &sidecar{process: run(t, command("ExecStart")), admin: adminClient(t, socket)}
	waitFor(t, "READY=1", func() bool { return strings.Contains(told.String(), "READY=1") })
	c := newClient(t, port)
	watchOrder(t, caddy, c, c, "writes")

	// A reload answers the parked, and the log says so.
	tag := c.get("/api/orders/42").header.Get("ETag")
	waiting := c.poll("/api/orders/42", "Prefer: wait=20", "If-None-Match: "+tag)
	caddy.waitParked(1)
	load("http://" + loopback(freePort(t)) + " {\n}\n")
	if out, err := command("ExecReload").CombinedOutput(); err != nil {
		t.Fatalf("ExecReload: %v\n%s", err, out)
	}
	waiting.wait().want(t, http.StatusNotModified, "drained")
	waitFor(t, "RELOADING=1", func() bool { return strings.Contains(told.String(), "RELOADING=1") })
	c.get("/api/orders/42").want(t, 200, "answered")
	waitFor(t, "the outcome in the access log", func() bool {
		return slices.ContainsFunc(caddy.logs.entries("handled request"), func(entry map[string]any) bool {
			text, _ := json.Marshal(entry["outcome"])
			return string(text) == `"drained"`
		})
	})
}
