package integration_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// TestExampleHooks runs what examples/hooks/ has for each framework, in that framework:
// it publishes after the commit and not before, nothing after a rollback, and Redis being
// away fails no write. A framework that is not installed is left out.
func TestExampleHooks(t *testing.T) {
	if testing.Short() {
		t.Skip("runs real frameworks")
	}
	t.Parallel()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("needs redis-server, which is not installed")
	}
	for name, prepare := range map[string]func(t *testing.T, dir, server string) *exec.Cmd{
		"django": func(t *testing.T, _, server string) *exec.Cmd {
			return exec.Command(pythonWith(t, "django", "redis"), absolute(t, "testdata/hooks/save_django.py"), absolute(t, "examples/hooks/django/long_poll.py"), server)
		},
		"rails": func(t *testing.T, _, server string) *exec.Cmd {
			need(t, "ruby", "-e", `require "active_record"; require "redis"; require "sqlite3"`)
			return exec.Command("ruby", absolute(t, "testdata/hooks/save_rails.rb"), absolute(t, "examples/hooks/rails/long_poll.rb"), server)
		},
		"laravel": func(t *testing.T, _, server string) *exec.Cmd {
			need(t, "php", "-r", `exit(file_exists("/usr/share/php/Illuminate/autoload.php") && extension_loaded("redis") && extension_loaded("pdo_sqlite") ? 0 : 1);`)
			return exec.Command("php", absolute(t, "testdata/hooks/save_laravel.php"), absolute(t, "examples/hooks/laravel/LongPolled.php"), server)
		},
		"spring": prepareSpring,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redis := startRedis(t)
			dir := t.TempDir()
			cmd := prepare(t, dir, "redis://"+redis.addr)
			cmd.Dir = dir
			testHook(t, redis, cmd)
		})
	}
	t.Run("postgresql", func(t *testing.T) {
		t.Parallel()
		testPostgreSQL(t)
	})
}

// testHook has a program save, within transactions; it waits for a line after each step.
func testHook(t *testing.T, redis *redisServer, cmd *exec.Cmd) {
	heard := redis.hear(t)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	complaints := new(output)
	cmd.Stderr = complaints
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	overdue := time.AfterFunc(2*deadline, func() { cmd.Process.Kill() })
	defer overdue.Stop()
	said := bufio.NewScanner(out)
	want := func(text string) {
		t.Helper()
		if !said.Scan() || said.Text() != text {
			t.Errorf("it said %q instead of %q: %s", said.Text(), text, complaints)
		}
	}

	// One transaction was rolled back, and one is not committed.
	want("saved")
	redis.publish("long_poll:/not/yet")
	heard.want("/not/yet")
	io.WriteString(in, "\n")
	want("committed")
	heard.want("/api/orders/7", "/api/orders")
	io.WriteString(in, "\n")
	want("deleted")
	heard.want("/api/orders/7", "/api/orders")
	redis.signal(syscall.SIGKILL)
	io.WriteString(in, "\n")
	want("without redis")
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v: %s", err, complaints)
	}
	if !strings.Contains(complaints.String(), "telling redis") {
		t.Errorf("it did not complain of Redis: %s", complaints)
	}
}

// ear hears what is published for long_poll.
type ear struct {
	t *testing.T
	*goredis.PubSub
}

func (s *redisServer) hear(t *testing.T) *ear {
	t.Helper()
	client := goredis.NewClient(&goredis.Options{Addr: s.addr, Protocol: 2, DisableIdentity: true})
	pubsub := client.PSubscribe(context.Background(), "long_poll:*")
	t.Cleanup(func() {
		pubsub.Close()
		client.Close()
	})
	if _, err := pubsub.Receive(context.Background()); err != nil {
		t.Fatal(err)
	}
	return &ear{t, pubsub}
}

// want wants these paths to be published next, in any order, and no others before them.
func (e *ear) want(paths ...string) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	var got []string
	for range paths {
		m, err := e.ReceiveMessage(ctx)
		if err != nil {
			e.t.Errorf("heard %q, and then nothing: %v; want %q", got, err, paths)
			return
		}
		got = append(got, strings.TrimPrefix(m.Channel, "long_poll:"))
	}
	slices.Sort(got)
	slices.Sort(paths)
	if !slices.Equal(got, paths) {
		e.t.Errorf("heard %q; want %q", got, paths)
	}
}

// need skips the test where the command fails.
func need(t *testing.T, command ...string) {
	t.Helper()
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Skipf("%s has not what is needed: %v %s", command[0], err, firstLine(string(out)))
	}
}

// pythonWith is a Python that has these packages: there can be one beside the system's.
func pythonWith(t *testing.T, packages ...string) string {
	t.Helper()
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		// -I: not what lies in the working directory, where redis is a folder
		if exec.Command(python, "-I", "-c", "import "+strings.Join(packages, ", ")).Run() == nil {
			return python
		}
	}
	t.Skipf("no python3 has %s", strings.Join(packages, " and "))
	return ""
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// prepareSpring compiles the hook for what Debian's packages of Spring 4 read.
func prepareSpring(t *testing.T, dir, server string) *exec.Cmd {
	t.Helper()
	var jars []string
	for _, name := range []string{"spring3-core", "spring3-beans", "spring3-context", "spring3-expression", "spring3-transaction", "spring3-aop", "commons-logging", "slf4j-api", "slf4j-simple"} {
		jar := "/usr/share/java/" + name + ".jar"
		if _, err := os.Stat(jar); err != nil {
			t.Skipf("needs %s, which is not installed", jar)
		}
		jars = append(jars, jar)
	}
	for _, program := range []string{"javac", "java"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s, which is not installed", program)
		}
	}
	jars = append(jars, dir)
	path := strings.Join(jars, ":")
	compile := exec.Command("javac", "--release", "8", "-cp", path, "-d", dir, "examples/hooks/spring/LongPoll.java", "testdata/hooks/SaveSpring.java")
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("javac: %v\n%s", err, out)
	}
	return exec.Command("java", "-cp", path, "SaveSpring", server)
}

// testPostgreSQL has real triggers tell the real script, which publishes.
func testPostgreSQL(t *testing.T) {
	installed, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(installed) == 0 {
		t.Skip("needs PostgreSQL's server, which is not installed")
	}
	python, bin := pythonWith(t, "psycopg2", "redis"), installed[len(installed)-1]
	redis := startRedis(t)
	heard := redis.hear(t)

	// The server refuses to be root, so it is nobody.
	dir := shortTempDir(t)
	var credential *syscall.Credential
	if os.Geteuid() == 0 {
		credential = &syscall.Credential{Uid: 65534, Gid: 65534}
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	command := func(program string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, program), args...)
		cmd.Dir, cmd.SysProcAttr = dir, &syscall.SysProcAttr{Credential: credential}
		return cmd
	}
	if out, err := command("initdb", "--pgdata", dir+"/data", "--username", "test", "--auth", "trust", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	server := command("postgres", "-D", dir+"/data", "-c", "listen_addresses=", "-c", "unix_socket_directories="+dir, "-c", "fsync=off")
	said := new(output)
	server.Stdout, server.Stderr = said, said
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Signal(syscall.SIGINT) // with its children
		server.Wait()
		if t.Failed() {
			t.Logf("the server said:\n%s", said)
		}
	})
	waitFor(t, "the server to be ready", func() bool { return strings.Contains(said.String(), "ready to accept connections") })
	query := func(sql ...string) {
		t.Helper()
		args := []string{"-h", dir, "-U", "test", "-d", "postgres", "-v", "ON_ERROR_STOP=1"}
		for _, s := range sql {
			args = append(args, "-c", s)
		}
		if out, err := exec.Command(filepath.Join(bin, "psql"), args...).CombinedOutput(); err != nil {
			t.Fatalf("psql %q: %v\n%s", sql, err, out)
		}
	}
	query("CREATE TABLE orders (id integer PRIMARY KEY, status text)", read(t, "examples/hooks/postgresql/trigger.sql"))
	var triggers []string
	for line := range strings.Lines(read(t, "examples/hooks/postgresql/trigger.sql")) {
		if text, ok := strings.CutPrefix(line, "--     "); ok {
			triggers = append(triggers, text)
		}
	}
	query(strings.Join(triggers, "")) // as the file says

	hook := exec.Command(python, absolute(t, "examples/hooks/postgresql/publish.py"), fmt.Sprintf("host=%s user=test dbname=postgres", dir), "redis://"+redis.addr)
	hook.Dir = dir
	listens := start(t, hook)
	waitFor(t, "the script to listen", func() bool { return strings.Contains(listens.String(), "listening") })
	query("BEGIN", "INSERT INTO orders VALUES (1, 'lost')", "ROLLBACK")
	query("INSERT INTO orders VALUES (7, 'packing'), (8, 'packing')") // the collection is told once
	heard.want("/api/orders/7", "/api/orders/8", "/api/orders")
	query("UPDATE orders SET status = 'shipped' WHERE id = 7")
	heard.want("/api/orders/7", "/api/orders")
	query("DELETE FROM orders WHERE id = 8")
	heard.want("/api/orders/8", "/api/orders")
	query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'LISTEN long_poll'")
	waitFor(t, "the script to listen again", func() bool { return strings.Count(listens.String(), "listening\n") == 2 })
	query("UPDATE orders SET status = 'delivered' WHERE id = 7")
	heard.want("/api/orders/7", "/api/orders")
}
