package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// netTrio is three network namespaces on a bridge, one for each node.
type netTrio struct {
	names [3]string
	hosts [3]string
}

// netTrios counts those that were made: several are there at once.
var netTrios atomic.Int64

// newNetTrio makes the namespaces, or skips the test where that is not allowed.
func newNetTrio(t *testing.T) *netTrio {
	t.Helper()
	for _, tool := range []string{"ip", "tc"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("network namespaces are made with %s of iproute2, which is not installed", tool)
		}
	}
	id := (16*os.Getpid() + int(netTrios.Add(1))) % 100_000 // names of links are short
	bridge, subnet := fmt.Sprintf("kithbr%d", id), fmt.Sprintf("10.213.%d", id%250)
	x := &netTrio{}
	if out, err := exec.Command("ip", "link", "add", bridge, "type", "bridge").CombinedOutput(); err != nil {
		t.Skipf("a bridge for network namespaces cannot be made here: %v: %s", err, out)
	}
	t.Cleanup(func() { ip(t, "link", "del", bridge) })
	ip(t, "addr", "add", subnet+".254/24", "dev", bridge)
	ip(t, "link", "set", bridge, "up")
	for i := range x.names {
		name, link := fmt.Sprintf("kith%d-%d", id, i+1), fmt.Sprintf("kithv%d-%d", id, i+1)
		if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
			t.Skipf("network namespaces cannot be made here: %v: %s", err, out)
		}
		t.Cleanup(func() { ip(t, "netns", "del", name) })
		x.names[i], x.hosts[i] = name, fmt.Sprintf("%s.%d", subnet, i+1)
		ip(t, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
		ip(t, "link", "set", link, "master", bridge, "up")
		ip(t, "-n", name, "addr", "add", x.hosts[i]+"/24", "dev", "eth0")
		ip(t, "-n", name, "link", "set", "lo", "up")
		ip(t, "-n", name, "link", "set", "eth0", "up")
	}
	return x
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Errorf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// places are the namespaces as places of nodes, with certificates.
func (x *netTrio) places(t *testing.T) (list [3]place) {
	t.Helper()
	files := issue(t, x.hosts)
	for i, host := range x.hosts {
		list[i] = place{
			cluster: host + ":7946", public: host + ":8080", service: host + ":8081",
			prefix: []string{"ip", "netns", "exec", x.names[i]},
			data:   filepath.Join(t.TempDir(), "data"), certificate: &files[i],
		}
	}
	return list
}

// nobody is a hardware address that no link has: what is sent there is lost,
// without an error for who sends it.
const nobody = "02:00:00:00:00:99"

// cut loses what one node sends to another from now on; the other way goes on.
func (x *netTrio) cut(t *testing.T, from, to int) {
	t.Helper()
	ip(t, "-n", x.names[from], "neigh", "replace", x.hosts[to], "lladdr", nobody, "nud", "permanent", "dev", "eth0")
}

func (x *netTrio) mend(t *testing.T, from, to int) {
	t.Helper()
	ip(t, "-n", x.names[from], "neigh", "del", x.hosts[to], "dev", "eth0")
}

// linkFaults are the kinds of what may happen to what goes between node a and the
// others, b and c, each with what is of the kind.
func (x *netTrio) linkFaults(a int) [][]fault {
	b, c := (a+1)%3, (a+2)%3
	n := a + 1
	return [][]fault{{
		x.parting(fmt.Sprintf("node %d was cut off both ways", n), [][2]int{{a, b}, {a, c}, {b, a}, {c, a}}),
		x.parting(fmt.Sprintf("nodes %d and %d did not reach one another", n, b+1), [][2]int{{a, b}, {b, a}}),
	}, {
		x.parting(fmt.Sprintf("node %d was not heard", n), [][2]int{{a, b}, {a, c}}),
		x.parting(fmt.Sprintf("node %d heard nobody", n), [][2]int{{b, a}, {c, a}}),
		x.parting(fmt.Sprintf("node %d was not heard by node %d", n, b+1), [][2]int{{a, b}}),
	}, {{
		what:  fmt.Sprintf("node %d sent slowly", n),
		begin: func(t *testing.T) { x.slow(t, a) },
		lasts: 10 * time.Second,
		end:   func(t *testing.T) { x.fast(t, a) },
	}}}
}

// partedFor is longer than a lease.
const partedFor = 20 * time.Second

// parting cuts some ways, each from one node to another.
func (x *netTrio) parting(what string, ways [][2]int) fault {
	return fault{
		what: what,
		begin: func(t *testing.T) {
			for _, w := range ways {
				x.cut(t, w[0], w[1])
			}
		},
		lasts: partedFor,
		end: func(t *testing.T) {
			for _, w := range ways {
				x.mend(t, w[0], w[1])
			}
		},
	}
}

// TestClusterLinks: nodes that do not reach one another, in both directions or in one, or
// slowly, as many rounds of each, while clients reach all of them.
func TestClusterLinks(t *testing.T) {
	each := faultRounds(t, 1)
	links := newNetTrio(t)
	x := startFaultTrio(t, setting{places: links.places(t), lanes: 1})
	kinds := len(links.linkFaults(0))
	first := rand.IntN(100)
	x.suffer(t, kinds*each, func(round int, chance *rand.Rand) fault {
		list := links.linkFaults(chance.IntN(3))[round%kinds]
		if round < kinds {
			return list[0] // the hardest
		}
		return list[(first+round/kinds)%len(list)]
	})
}

// slow has a node's packets wait, those for clients too, and loses what would
// wait for too long.
func (x *netTrio) slow(t *testing.T, i int) {
	t.Helper()
	x.shape(t, i, "add", "tbf", "rate", "1mbit", "burst", "16kb", "latency", "400ms")
}

func (x *netTrio) fast(t *testing.T, i int) {
	t.Helper()
	x.shape(t, i, "del")
}

func (x *netTrio) shape(t *testing.T, i int, verb string, how ...string) {
	t.Helper()
	ip(t, append([]string{"netns", "exec", x.names[i], "tc", "qdisc", verb, "dev", "eth0", "root"}, how...)...)
}

// nodeFiles are what a node shows to others off loopback.
type nodeFiles struct{ ca, cert, key string }

// issue makes an authority and a certificate for each host.
func issue(t *testing.T, hosts [3]string) (files [3]nodeFiles) {
	t.Helper()
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nodes of a test"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour), // clocks are stepped
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	signer := newKey(t)
	sign(t, ca, authority, authority, signer, signer)
	for i, host := range hosts {
		f := nodeFiles{ca: ca, cert: filepath.Join(dir, host+".pem"), key: filepath.Join(dir, host+".key")}
		key := newKey(t)
		sign(t, f.cert, &x509.Certificate{
			SerialNumber: big.NewInt(int64(2 + i)), Subject: pkix.Name{CommonName: host},
			NotBefore: authority.NotBefore, NotAfter: authority.NotAfter, IPAddresses: []net.IP{net.ParseIP(host)},
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}, authority, key, signer)
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, f.key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
		files[i] = f
	}
	return files
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign writes the certificate of a key.
func sign(t *testing.T, file string, certificate, authority *x509.Certificate, key, signer *ecdsa.PrivateKey) {
	t.Helper()
	der, err := x509.CreateCertificate(crand.Reader, certificate, authority, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}
