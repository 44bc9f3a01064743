package redis

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

func TestTLS(t *testing.T) {
	t.Parallel()
	needServer(t, "TLS by command line")
	cert, key := selfSigned(t)
	s := newServer(t, "redis-server")
	tlsAddr := freeAddr(t)
	_, port, _ := net.SplitHostPort(tlsAddr)
	s.args = append(s.args, "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no")
	s.start()
	s.admin = adminClient(t, &goredis.Options{Addr: s.addr})

	for _, block := range []string{
		"address " + tlsAddr + "\ntls insecure_skip_verify",
		"url rediss://" + tlsAddr + "?skip_verify=true",
	} {
		w := newWaker(t, hasty(), block)
		a := watchPath(t, w, "/a")
		a.is(1)
		s.publish("long_poll:/a", "")
		a.is(2)
	}
	for _, block := range []string{
		"address " + tlsAddr + "\ntls",
		"url rediss://" + tlsAddr,
	} {
		w := newWaker(t, hasty(), block)
		logs := observe(w, zap.WarnLevel)
		a := watchPath(t, w, "/a")
		eventually(t, "a warning", func() bool { return logs.Len() > 0 })
		if said := fmt.Sprint(logs.All()[0].ContextMap()); !strings.Contains(said, "certificate") {
			t.Errorf("logged %s, want a word about the certificate", said)
		}
		if n := a.count.Load(); n != 0 {
			t.Errorf("%d wake-ups although the certificate is not trusted", n)
		}
		w.Cleanup() // the next one has the same settings
	}
}

func selfSigned(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", cert), write("key.pem", "PRIVATE KEY", private)
}

// sentinels starts a master, a replica and a sentinel.
func sentinels(t *testing.T) (master, replica, sentinel *testServer) {
	t.Helper()
	needServer(t, "sentinels")
	auth := []string{"--requirepass", "secret", "--masterauth", "secret", "--repl-diskless-sync-delay", "0"}
	master = newServer(t, "redis-server", auth...)
	master.start()
	host, port, _ := net.SplitHostPort(master.addr)
	replica = newServer(t, "redis-server", append(auth, "--replicaof", host+" "+port)...)
	replica.start()
	for _, s := range []*testServer{master, replica} {
		s.admin = adminClient(t, &goredis.Options{Addr: s.addr, Password: "secret"})
	}

	sentinel = newServer(t, "redis-server")
	config := filepath.Join(t.TempDir(), "sentinel.conf")
	_, sentinelPort, _ := net.SplitHostPort(sentinel.addr)
	if err := os.WriteFile(config, fmt.Appendf(nil, `port %s
bind 127.0.0.1
sentinel monitor main %s %s 1
sentinel auth-pass main secret
sentinel down-after-milliseconds main 3000
sentinel failover-timeout main 2000
`, sentinelPort, host, port), 0o600); err != nil {
		t.Fatal(err)
	}
	sentinel.args = []string{config, "--sentinel"}
	sentinel.start()
	sentinel.admin = adminClient(t, &goredis.Options{Addr: sentinel.addr})
	eventually(t, "a sentinel that knows the replica", func() bool {
		replicas, err := sentinel.admin.Do(context.Background(), "SENTINEL", "REPLICAS", "main").Slice()
		return err == nil && len(replicas) == 1 && strings.Contains(fmt.Sprint(replicas), "master-link-status ok")
	})
	return master, replica, sentinel
}

func TestSentinelMasterDies(t *testing.T) {
	t.Parallel()
	master, replica, sentinel := sentinels(t)
	w := newWaker(t, hasty(), "address "+sentinel.addr+"\nmaster main\npassword secret")
	byURL := newWaker(t, hasty(), "url redis://"+sentinel.addr+"?master_name=main&password=secret")
	if w.link != byURL.link {
		t.Error("the same settings as a url have a link of their own")
	}
	logs := observe(w, zap.DebugLevel)
	a := watchPath(t, w, "/a")
	a.is(1)
	if n := master.numSub("long_poll:/a"); n != 1 {
		t.Errorf("the master has %d subscriptions, want 1", n)
	}
	master.publish("long_poll:/a", "")
	a.is(2)

	master.kill()
	eventually(t, "a subscription at the new master", func() bool { return replica.numSub("long_poll:/a") == 1 })
	a.is(3)
	if !w.Up() {
		t.Error("woken, but not up")
	}
	replica.publish("long_poll:/a", "")
	a.is(4)
	if said := fmt.Sprint(logs.All()); strings.Contains(said, "secret") {
		t.Errorf("logged the password: %s", said)
	}
}

// The operator hands over. The old master lives, and believes for ten seconds
// that it is one.
func TestSentinelHandover(t *testing.T) {
	t.Parallel()
	master, replica, sentinel := sentinels(t)
	w := newWaker(t, hasty(), "address "+sentinel.addr+"\nmaster main\npassword secret")
	a := watchPath(t, w, "/a")
	a.is(1)
	sentinel.do("SENTINEL", "FAILOVER", "main")
	eventually(t, "a subscription at the new master", func() bool { return replica.numSub("long_poll:/a") == 1 })
	if role := fmt.Sprint(master.do("ROLE")); !strings.HasPrefix(role, "[master") {
		t.Logf("the old master was told before: %s", role)
	}
	eventually(t, "a check", func() bool { return a.count.Load() >= 2 })
	before := a.count.Load()
	replica.publish("long_poll:/a", "")
	eventually(t, "a message of the new master", func() bool { return a.count.Load() > before })
	eventually(t, "nothing left at the old master", func() bool { return master.numSub("long_poll:/a") == 0 })
}

// cluster starts one of three masters, without replicas.
func cluster(t *testing.T) []*testServer {
	t.Helper()
	nodes := make([]*testServer, 3)
	bus := make([]string, 3)
	for i := range nodes {
		_, bus[i], _ = net.SplitHostPort(freeAddr(t))
		nodes[i] = startRedis(t, "--cluster-enabled", "yes", "--cluster-port", bus[i], "--cluster-node-timeout", "3000",
			"--cluster-require-full-coverage", "no", "--cluster-allow-pubsubshard-when-down", "no", "--notify-keyspace-events", "KA")
		first, last := i*5461, (i+1)*5461-1
		if i == 2 {
			last = 16383
		}
		nodes[i].do("CLUSTER", "ADDSLOTSRANGE", first, last)
	}
	var met time.Time
	for _, n := range nodes {
		eventually(t, "a cluster", func() bool {
			if time.Since(met) > 5*time.Second { // who does not answer in time is not asked again
				met = time.Now()
				for i, n := range nodes[1:] {
					host, port, _ := net.SplitHostPort(n.addr)
					nodes[0].do("CLUSTER", "MEET", host, port, bus[i+1])
				}
			}
			info := n.do("CLUSTER", "INFO").(string)
			slots, err := n.admin.Do(context.Background(), "CLUSTER", "SLOTS").Slice()
			links := strings.Count(n.do("CLUSTER", "NODES").(string), " connected")
			return err == nil && len(slots) == 3 && strings.Contains(info, "cluster_state:ok") && links == len(nodes)
		})
	}
	return nodes
}

func addresses(nodes []*testServer) string {
	var all []string
	for _, n := range nodes {
		all = append(all, n.addr)
	}
	return "address " + strings.Join(all, " ")
}

// owner returns the index of the node that owns a key.
func owner(t *testing.T, nodes []*testServer, key string) int {
	t.Helper()
	slot := nodes[0].do("CLUSTER", "KEYSLOT", key).(int64)
	return min(int(slot)/5461, 2)
}

// byOwner returns a path for each node that owns its default channel.
func byOwner(t *testing.T, nodes []*testServer, prefix string) [3]string {
	t.Helper()
	var paths [3]string
	for i := 0; paths[0] == "" || paths[1] == "" || paths[2] == ""; i++ {
		p := fmt.Sprintf("/%d", i)
		paths[owner(t, nodes, prefix+p)] = p
	}
	return paths
}

func TestClusterPlain(t *testing.T) {
	t.Parallel()
	needServer(t, "cluster")
	nodes := cluster(t)
	w := newWaker(t, hasty(), addresses(nodes))
	a := watchPath(t, w, "/a")
	a.is(1)
	for i, n := range nodes { // the cluster tells every node
		before, said := a.count.Load(), time.Time{}
		eventually(t, fmt.Sprintf("a wake-up by node %d", i), func() bool {
			if time.Since(said) > time.Second { // what is said while nodes have no link is lost
				said = time.Now()
				n.publish("long_poll:/a", "")
			}
			return a.count.Load() > before
		})
	}

	// The node that is listened to dies; any other one will do.
	before := a.count.Load()
	for _, n := range nodes {
		if n.numSub("long_poll:/a") == 1 {
			n.kill()
		}
	}
	eventually(t, "a check", func() bool { return a.count.Load() > before && w.Up() })
	before = a.count.Load()
	said := time.Time{}
	eventually(t, "a wake-up by one of those that are left", func() bool {
		if time.Since(said) > time.Second {
			said = time.Now()
			for _, n := range nodes {
				if n.admin.Publish(context.Background(), "long_poll:/a", "").Err() == nil {
					break
				}
			}
		}
		return a.count.Load() > before
	})
}

func TestClusterSharded(t *testing.T) {
	t.Parallel()
	needServer(t, "cluster")
	nodes := cluster(t)
	w := newWaker(t, hasty(), addresses(nodes)+"\nsharded")
	logs := observe(w, zap.InfoLevel)
	paths := byOwner(t, nodes, "long_poll:")
	var all [3]*wakes
	for i, p := range paths {
		all[i] = watchPath(t, w, p)
	}
	for i, p := range paths {
		all[i].is(1)
		nodes[i].do("SPUBLISH", "long_poll:"+p, "")
		all[i].is(2)
	}

	// One node dies and comes back. The others' resources are left alone.
	nodes[1].kill()
	eventually(t, "an outage", func() bool { return !w.Up() })
	nodes[0].do("SPUBLISH", "long_poll:"+paths[0], "")
	all[0].is(3)
	nodes[1].start()
	eventually(t, "a check after the outage", func() bool { return all[1].count.Load() >= 3 && w.Up() })
	before := all[1].count.Load()
	eventually(t, "a cluster that is whole again", func() bool {
		return nodes[1].admin.Do(context.Background(), "SPUBLISH", "long_poll:"+paths[1], "").Err() == nil
	})
	eventually(t, "a message of the node that is back", func() bool { return all[1].count.Load() > before })
	if n := all[2].count.Load(); n != 2 {
		t.Errorf("%d wake-ups by a node that was never away, want 2", n)
	}

	// A slot moves, which go-redis learns only when it asks again.
	slot := nodes[0].do("CLUSTER", "KEYSLOT", "long_poll:"+paths[0]).(int64)
	id := nodes[2].do("CLUSTER", "MYID").(string)
	before = all[0].count.Load()
	nodes[2].do("CLUSTER", "SETSLOT", slot, "NODE", id)
	nodes[0].do("CLUSTER", "SETSLOT", slot, "NODE", id)
	eventually(t, "a check after the move", func() bool { return all[0].count.Load() > before })
	before = all[0].count.Load()
	nodes[2].do("SPUBLISH", "long_poll:"+paths[0], "")
	eventually(t, "a message of the new owner", func() bool { return all[0].count.Load() > before })

	// The lines of nodes that nobody needs any more are closed.
	all[0].stop()
	all[1].stop()
	all[2].stop()
	eventually(t, "no lines left", func() bool {
		w.link.mu.Lock()
		defer w.link.mu.Unlock()
		return len(w.link.lines) == 0 && len(w.link.subscriptions) == 0
	})
	for _, e := range logs.All() {
		if strings.Contains(e.Message, "refuses") {
			t.Errorf("a move is no refusal: %v", e)
		}
	}
}

func TestClusterKeyspace(t *testing.T) {
	t.Parallel()
	needServer(t, "cluster")
	nodes := cluster(t)
	for _, n := range nodes { // a user that may do nothing but what the documentation says it needs
		n.do("ACL", "SETUSER", "sidecar", "on", ">secret", "&*", "+subscribe", "+unsubscribe", "+ping", "+cluster|slots")
	}
	w := newWaker(t, hasty(), addresses(nodes)+"\nusername sidecar\npassword secret\nkeyspace order:{http.request.uri.path}")
	paths := byOwner(t, nodes, "order:")
	for i, p := range paths {
		a := watchPath(t, w, p)
		a.is(1)
		nodes[i].do("SET", "order:"+p, "x") // only its owner tells of it
		a.is(2)
	}
}

func TestClusterDownAtStart(t *testing.T) {
	t.Parallel()
	w := newWaker(t, hasty(), "address "+freeAddr(t)+" "+freeAddr(t)+"\nsharded\nkeyspace x")
	logs := observe(w, zap.InfoLevel)
	a := watchPath(t, w, "/a")
	eventually(t, "an outage", func() bool { return !w.Up() && logs.Len() > 0 })
	a.stop()
	if logs.Len() != 1 {
		t.Errorf("logged %v, want one warning", logs.All())
	}
}
