package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kith/internal/config"
)

// strangerMax is how long a node is given to end what it does not understand.
const strangerMax = 10 * time.Second

// nonsense are packets that are none of a node's.
func nonsense() map[string][]byte {
	chance := rand.New(rand.NewPCG(1, 2))
	random := make([]byte, 4096)
	for i := range random {
		random[i] = byte(chance.Uint32())
	}
	list := map[string][]byte{
		"nothing":              {},
		"random bytes":         random,
		"zeros":                make([]byte, 4096),
		"a web page's request": []byte("GET / HTTP/1.1\r\nHost: kith\r\n\r\n"),
		// HTTP/2's preface, settings, and a call of an actor system's remote with a
		// type, a target and a serializer that it does not have.
		"an actor's message":    append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"), 0, 0, 20, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 15, 0x12, 0x0d, 0x1a, 0x0b, 0x20, 0xff, 0xff, 0xff, 0x7f, 0x28, 0xff, 0xff, 0xff, 0x7f),
		"a broken introduction": []byte("CONNECT {\"name\":\r\n"),
		"no introduction":       []byte("PING\r\n"),
		"a wrong secret":        []byte("CONNECT {\"verbose\":false,\"pedantic\":false,\"user\":\"kith\",\"pass\":\"guess\",\"tls_required\":true,\"name\":\"n9\",\"cluster\":\"kith\"}\r\nPING\r\n"),
		"a message of 2 GB":     []byte("RMSG $G kith.log.00 2147483647\r\n"),
		"a negative message":    []byte("RMSG $G kith.log.00 -1\r\n\r\n"),
		"a long line":           []byte(strings.Repeat("A", 1<<20)),
		"a stream's deletion":   []byte("PUB $JS.API.STREAM.DELETE.KITH_L00 2\r\n{}\r\n"),
	}
	for kind := range 16 { // gossip has its kind in the first byte
		list[fmt.Sprintf("gossip of kind %d", kind)] = append([]byte{byte(kind)}, random[:1024]...)
	}
	framed := binary.BigEndian.AppendUint32([]byte{10}, 1<<31) // encrypted gossip, of 2 GB
	list["gossip of 2 GB"] = append(framed, random[:64]...)
	return list
}

// throw sends a packet to one of a node's ports and hears what it says for a
// while, or until the node ends the connection.
func throw(c net.Conn, packet []byte) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := c.Write(packet); err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, c)
}

// routesOf is where the log's servers of a place meet.
func routesOf(t *testing.T, p place) string {
	addr, err := config.ClusterPort(p.cluster, 1)
	if err != nil {
		t.Error(err)
	}
	return addr
}

// TestClusterStrangers: whatever comes to the ports between nodes, from whoever
// has no certificate and from whoever has one and no secret: no process ends, no
// node is lost to the others, and nothing changes.
func TestClusterStrangers(t *testing.T) {
	longCluster(t)
	places := loopbackPlaces(t)
	files := issue(t, [3]string{"127.0.0.1", "127.0.0.1", "127.0.0.1"})
	for i := range places {
		places[i].certificate = &files[i]
	}
	x := startFaultTrioAt(t, 1, places)
	ctx := t.Context()
	position, err := x.nodes[0].take(ctx, []graphEvent{{Event: "visit", ID: "v1", Identities: []string{"browser:s1", "account:s1"}}})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(files[0].cert, files[0].key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(files[0].ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	certain := &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, ServerName: "127.0.0.1"}
	dial := func(network, addr string) net.Conn {
		c, err := net.DialTimeout(network, addr, strangerMax)
		if err != nil {
			t.Errorf("a node's port is closed: %v", err)
			return &net.TCPConn{} // every use of it fails
		}
		return c
	}
	var shaken atomic.Int32
	for name, packet := range nonsense() {
		var thrown sync.WaitGroup
		for _, p := range places {
			thrown.Go(func() { throw(dial("tcp", p.cluster), packet) })
			thrown.Go(func() { throw(dial("udp", p.cluster), packet[:min(len(packet), 4096)]) })
			thrown.Go(func() { throw(dial("tcp", routesOf(t, p)), packet) })
			thrown.Go(func() { // with a certificate
				c := dial("tcp", routesOf(t, p))
				_ = c.SetDeadline(time.Now().Add(strangerMax))
				secret := tls.Client(c, certain)
				if secret.HandshakeContext(ctx) == nil {
					shaken.Add(1)
				}
				throw(secret, packet)
			})
		}
		thrown.Wait()
		for i, n := range x.nodes {
			select {
			case <-n.exited:
				t.Fatalf("node %d ended after %s", i+1, name)
			default:
			}
		}
	}
	if shaken.Load() == 0 {
		t.Error("nobody came so far as to show a certificate")
	}
	// With another's certificate there is not even a handshake.
	strange := issue(t, [3]string{"127.0.0.1", "127.0.0.1", "127.0.0.1"})
	other, err := tls.LoadX509KeyPair(strange[0].cert, strange[0].key)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range places {
		c := dial("tcp", routesOf(t, p))
		_ = c.SetDeadline(time.Now().Add(strangerMax))
		odd := tls.Client(c, &tls.Config{Certificates: []tls.Certificate{other}, RootCAs: pool, ServerName: "127.0.0.1"})
		if _, err := odd.Write([]byte("PING\r\n")); err == nil {
			if n, err := odd.Read(make([]byte, 1)); err == nil {
				t.Errorf("node %d answers %d bytes to a stranger's certificate", i+1, n)
			}
		}
		c.Close()
	}
	for i, n := range x.nodes {
		if err := n.reach(ctx, position); err != nil {
			t.Fatal(err)
		}
		list, err := n.lookup(ctx, []string{"browser:s1"})
		if err != nil || len(list[0].Segments) != 1 {
			t.Errorf("node %d shows %+v, %v", i+1, list, err)
		}
	}
	x.agree(t)
}
