package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"kith/internal/config"
)

// strictly reads YAML into to, which must have all of its fields.
func strictly(t *testing.T, text string, to any) {
	t.Helper()
	if err := yaml.UnmarshalWithOptions([]byte(text), to, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
}

// withKey is a kith.yaml with the admin key that its operator puts in.
func withKey(t *testing.T, text string) string {
	t.Helper()
	out := strings.Replace(text, "\nkeys: []\n", "\nkeys: [{sha256: "+config.HashKey("k")+", role: admin}]\n", 1)
	if out == text {
		t.Fatal("the configuration has no place for keys")
	}
	return out
}

// loaded is the configuration of a node by its command line, where text is what
// --config names at path.
func loaded(t *testing.T, what string, args []string, path, text string) config.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kith.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if len(args) == 0 || args[0] != "serve" {
		t.Fatalf("%s runs kith %v, not kith serve", what, args)
	}
	var list []string
	for _, a := range args[1:] {
		list = append(list, strings.TrimPrefix(a, "--config="))
		if a == "--config="+path {
			list[len(list)-1] = "--config=" + file
		} else if a == path {
			list[len(list)-1] = file
		}
	}
	var f serveFlags
	cmd := &cobra.Command{}
	f.define(cmd)
	if err := cmd.ParseFlags(list); err != nil || cmd.Flags().NArg() > 0 {
		t.Fatalf("%s: kith %v: %v, %v is left over", what, args, err, cmd.Flags().Args())
	}
	if f.config != file {
		t.Fatalf("%s does not read the configuration that is at %s", what, path)
	}
	c, err := f.load(cmd)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return c
}

// isClusterOf fails unless the configurations are those of the nodes of one new
// cluster.
func isClusterOf(t *testing.T, nodes []config.Config) {
	t.Helper()
	var names, addrs []string
	for _, c := range nodes {
		names, addrs = append(names, c.Node), append(addrs, c.Cluster.Listen)
		if diff := cmp.Diff(nodes[0].Cluster.Join, c.Cluster.Join); diff != "" {
			t.Errorf("%s joins others than %s: %s", c.Node, names[0], diff)
		}
		if c.Cluster.Name != nodes[0].Cluster.Name || c.Lanes != nodes[0].Lanes || c.SecretFile == "" || c.Cluster.Cert == "" {
			t.Errorf("%s has %+v, %d lanes, secret %q", c.Node, c.Cluster, c.Lanes, c.SecretFile)
		}
	}
	slices.Sort(names)
	if got := len(slices.Compact(names)); got != len(nodes) {
		t.Errorf("%d nodes have the names %v", len(nodes), names)
	}
	if diff := cmp.Diff(nodes[0].Cluster.Join, addrs); diff != "" {
		t.Errorf("nodes join these and listen at those: %s", diff)
	}
}

// mustHost is the host of host:port.
func mustHost(t *testing.T, addr string) string {
	t.Helper()
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return host
}

func mustPort(t *testing.T, addr string, after int) int {
	t.Helper()
	a, err := config.ClusterPort(addr, after)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(a[strings.LastIndex(a, ":")+1:])
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// takesSecrets fails unless the files that a node's configuration names are in dir
// what cluster-secrets.sh makes for nodes.
func takesSecrets(t *testing.T, c config.Config, dir string) {
	t.Helper()
	if diff := cmp.Diff([]string{dir + "/secret", dir + "/ca.pem", dir + "/cert.pem", dir + "/key.pem"},
		[]string{c.SecretFile, c.Cluster.CA, c.Cluster.Cert, c.Cluster.Key}); diff != "" {
		t.Errorf("%s looks for secrets elsewhere: %s", c.Node, diff)
	}
}

// What the script makes is what nodes take: the certificate is for every host, as
// a server and as a client, and no node gets the authority's key.
func TestClusterSecrets(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed: deploy/cluster-secrets.sh is not run")
	}
	dir := filepath.Join(t.TempDir(), "secrets")
	script := func() ([]byte, error) {
		return exec.Command(filepath.Join(deployDir, "cluster-secrets.sh"), dir, "kith-1", "10.0.0.1", "::1", "*.kith-peers.default.svc.cluster.local").CombinedOutput()
	}
	if out, err := script(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	in := func(name string) string { return filepath.Join(dir, "nodes", name) }
	pair, err := nodeTLS(&config.Cluster{CA: in("ca.pem"), Cert: in("cert.pem"), Key: in("key.pem")})
	if err != nil {
		t.Fatal(err)
	}
	leaf := pair.Certificates[0].Leaf
	for _, host := range []string{"kith-1", "10.0.0.1", "::1", "kith-0.kith-peers.default.svc.cluster.local"} {
		for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			if _, err := leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: pair.RootCAs, KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
				t.Errorf("%s, use %d: %v", host, use, err)
			}
		}
	}
	if err := leaf.VerifyHostname("kith-2"); err == nil {
		t.Error("the certificate is for hosts that were not named")
	}
	shake(t, pair)
	if s, err := readSecret(in("secret")); err != nil || len(s) != 16 {
		t.Errorf("secret: %v", err)
	}
	var names []string
	entries, err := os.ReadDir(filepath.Join(dir, "nodes"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s may be read by others: %v", e.Name(), err)
		}
		names = append(names, e.Name())
	}
	if diff := cmp.Diff([]string{"ca.pem", "cert.pem", "key.pem", "secret"}, names); diff != "" {
		t.Errorf("nodes get %s", diff)
	}
	before, err := os.ReadFile(in("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := script(); err == nil {
		t.Errorf("it ran again over a cluster's secrets: %s", out)
	}
	if after, err := os.ReadFile(in("secret")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the secret is another: %v", err)
	}
}

// A cluster is formed by the names of hosts, kith.cluster.yaml and what the script
// makes. That it keeps others out is tested in engine/log and cluster.
func TestClusterByCertificates(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed: deploy/cluster-secrets.sh is not run")
	}
	secrets := filepath.Join(t.TempDir(), "secrets")
	if out, err := exec.Command(filepath.Join(deployDir, "cluster-secrets.sh"), secrets, "localhost").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	file := filepath.Join(t.TempDir(), "kith.yaml")
	text := strings.ReplaceAll(withKey(t, deployed(t, "kith.cluster.yaml")), "/etc/kith/secrets/", filepath.Join(secrets, "nodes")+"/")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	x := startTrioAt(t, "localhost", 2, "--config", file)
	position, err := x.nodes[0].take(t.Context(), []graphEvent{{Event: "visit", Identities: []string{"browser:t1"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range x.nodes[1:] {
		if err := n.reach(t.Context(), position); err != nil {
			t.Fatal(err)
		}
	}
}

// shake has two nodes with the same certificate meet.
func shake(t *testing.T, c *tls.Config) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", c)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			err = conn.(*tls.Conn).Handshake()
			conn.Close()
		}
		served <- err
	}()
	client := c.Clone()
	client.ServerName = "kith-1"
	conn, err := tls.Dial("tcp", l.Addr().String(), client)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// The nodes of the compose file are a cluster: by their command lines, and by the
// files, ports and names that they are given.
func TestComposedCluster(t *testing.T) {
	type build struct {
		Context    string `yaml:"context"`
		Dockerfile string `yaml:"dockerfile"`
	}
	type service struct {
		Image           string   `yaml:"image"`
		Build           *build   `yaml:"build"`
		Hostname        string   `yaml:"hostname"`
		Command         []string `yaml:"command"`
		Volumes         []string `yaml:"volumes"`
		Ports           []string `yaml:"ports"`
		StopGracePeriod string   `yaml:"stop_grace_period"`
		Restart         string   `yaml:"restart"`
		ReadOnly        bool     `yaml:"read_only"`
		CapDrop         []string `yaml:"cap_drop"`
		SecurityOpt     []string `yaml:"security_opt"`
	}
	var compose struct {
		Node     service             `yaml:"x-node"`
		Services map[string]service  `yaml:"services"`
		Volumes  map[string]struct{} `yaml:"volumes"`
	}
	strictly(t, deployed(t, "compose.cluster.yaml"), &compose)
	text := withKey(t, deployed(t, "kith.cluster.yaml"))
	var prometheus struct {
		Global  map[string]string `yaml:"global"`
		Rules   []string          `yaml:"rule_files"`
		Scrapes []struct {
			Job    string `yaml:"job_name"`
			Static []struct {
				Targets []string `yaml:"targets"`
			} `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	strictly(t, deployed(t, "prometheus/prometheus.cluster.yml"), &prometheus)

	var nodes []config.Config
	var targets []string
	published, data := map[string]bool{}, map[string]bool{}
	for i := range len(compose.Services) - 1 {
		name := fmt.Sprintf("kith-%d", i+1)
		s, ok := compose.Services[name]
		if !ok {
			t.Fatalf("there is no service %s", name)
		}
		c := loaded(t, name, s.Command, "/etc/kith/kith.yaml", text)
		nodes, targets = append(nodes, c), append(targets, fmt.Sprintf("%s:%d", name, mustPort(t, c.Service, 0)))
		if c.Node != name || s.Hostname != name || mustHost(t, c.Cluster.Listen) != name { // a container's own name leads to its address
			t.Errorf("%s is called %s, %s and %s", name, c.Node, s.Hostname, c.Cluster.Listen)
		}
		for _, v := range s.Volumes {
			from, to, _ := strings.Cut(v, ":")
			switch {
			case to == c.Data:
				if _, ok := compose.Volumes[from]; !ok || data[from] {
					t.Errorf("%s: the volume %s is not there, or another's", name, from)
				}
				data[from] = true
			case from == "./kith.yaml" && to == "/etc/kith/kith.yaml:ro":
			case from == "./secrets/nodes" && strings.HasSuffix(to, ":ro"):
				takesSecrets(t, c, strings.TrimSuffix(to, ":ro"))
			default:
				t.Errorf("%s mounts %s, which nothing reads", name, v)
			}
		}
		if len(s.Volumes) != 3 {
			t.Errorf("%s mounts %v", name, s.Volumes)
		}
		for _, p := range s.Ports {
			at := p[strings.LastIndex(p, ":")+1:]
			if published[p] || at != strconv.Itoa(mustPort(t, c.Public, 0)) && (at != strconv.Itoa(mustPort(t, c.Service, 0)) || !strings.HasPrefix(p, "127.0.0.1:")) {
				t.Errorf("%s publishes %s", name, p)
			}
			published[p] = true
		}
		if len(s.Ports) != 2 || !s.ReadOnly || len(s.CapDrop) == 0 || s.StopGracePeriod != compose.Node.StopGracePeriod {
			t.Errorf("%s has ports %v and lacks what x-node says: %+v", name, s.Ports, s)
		}
		if _, err := os.Stat(filepath.Join(deployDir, s.Build.Context, s.Build.Dockerfile)); err != nil {
			t.Error(err)
		}
	}
	if len(nodes) != 3 || len(compose.Volumes) != 3 {
		t.Errorf("there are %d nodes and %d volumes", len(nodes), len(compose.Volumes))
	}
	isClusterOf(t, nodes)
	if p, err := time.ParseDuration(compose.Node.StopGracePeriod); err != nil || p < stopMax(t, nodes[0]) {
		t.Errorf("a node is killed after %v, %v; it may take %v to stop", p, err, stopMax(t, nodes[0]))
	}
	if diff := cmp.Diff(targets, prometheus.Scrapes[0].Static[0].Targets); diff != "" {
		t.Errorf("Prometheus asks others: %s", diff)
	}
	for _, v := range compose.Services["prometheus"].Volumes {
		from, _, _ := strings.Cut(v, ":")
		if _, err := os.Stat(filepath.Join(deployDir, from)); err != nil {
			t.Error(err)
		}
	}
}

// stopMax is the longest that a node of a cluster takes to stop: stop_wait,
// requests, what waits for the log, its NATS server, its leave. The store's last
// syncs come on top.
func stopMax(t *testing.T, c config.Config) time.Duration {
	t.Helper()
	total := leaveMax + time.Duration(c.StopWait)
	for file, at := range map[string]string{
		"gateway/server.go":    `const shutdownMax = (\d+) \* time\.Second`,
		"engine/node.go":       `func \(n \*Node\) Close\(\) error \{\n.*\n.*context\.Background\(\), (\d+)\*time\.Second\)`,
		"engine/log/server.go": `lameDuck +=? *(\d+) \* time\.Second`,
	} {
		b, err := os.ReadFile(filepath.Join("../..", file))
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(at).FindSubmatch(b)
		if m == nil {
			t.Fatalf("%s does not say how long it takes to stop", file)
		}
		s, _ := strconv.Atoi(string(m[1]))
		total += time.Duration(s) * time.Second
	}
	return total
}

// Whatever ends the script ends its nodes, which are groups of their own: a terminal
// that is closed too, or the next start finds their ports taken.
func TestThreeNodesEndWithTheScript(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("bash is not installed: deploy/three-nodes.sh is not run")
	}
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM} {
		dir := t.TempDir()
		script := filepath.Join(dir, "deploy", "three-nodes.sh")
		for path, text := range map[string]string{script: deployed(t, "three-nodes.sh"), filepath.Join(dir, "bin", "kith"): "#!/bin/sh\necho $$ >\"$6.tmp\" && mv \"$6.tmp\" \"$6.pid\" && exec sleep 60\n"} {
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o700)); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command(script, filepath.Join(dir, "a b"))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var nodes []int
		for i := range 3 {
			var b []byte
			for end := time.Now().Add(30 * time.Second); len(b) == 0; time.Sleep(10 * time.Millisecond) {
				if b, _ = os.ReadFile(filepath.Join(dir, fmt.Sprintf("a b-%d.pid", i+1))); len(b) == 0 && time.Now().After(end) {
					t.Fatalf("node %d was not started", i+1)
				}
			}
			pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil {
				t.Fatal(err)
			}
			nodes = append(nodes, pid)
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("after %v: %v", sig, err)
		}
		for _, pid := range nodes {
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				t.Errorf("after %v a node ran on", sig)
			}
		}
	}
}
