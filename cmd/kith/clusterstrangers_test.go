package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/encoding/protowire"

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
		"nothing":               {},
		"random bytes":          random,
		"zeros":                 make([]byte, 4096),
		"a web page's request":  []byte("GET / HTTP/1.1\r\nHost: kith\r\n\r\n"),
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
	maps.Copy(list, remoteCalls())
	framed := binary.BigEndian.AppendUint32([]byte{10}, 1<<31) // encrypted gossip, of 2 GB
	list["gossip of 2 GB"] = append(framed, random[:64]...)
	return list
}

// remoteCalls are calls of protoactor's remote (remote/remote.proto of v0.4): messages of a
// type, to a target and by a serializer that are not there, and a question for a list of
// all processes. A node has no remote; whatever port they come to must bear them.
func remoteCalls() map[string][]byte {
	const beyond = 1<<31 - 1
	batch := func(typeName string, typeID, target, serializer uint64) []byte {
		envelope := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), typeID)
		envelope = protowire.AppendString(protowire.AppendTag(envelope, 2, protowire.BytesType), "data")
		envelope = protowire.AppendVarint(protowire.AppendTag(envelope, 3, protowire.VarintType), target)
		envelope = protowire.AppendVarint(protowire.AppendTag(envelope, 5, protowire.VarintType), serializer)
		pid := protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), "identity")
		b := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), typeName)
		b = protowire.AppendBytes(protowire.AppendTag(b, 2, protowire.BytesType), envelope)
		b = protowire.AppendBytes(protowire.AppendTag(b, 3, protowire.BytesType), pid)
		return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), b)
	}
	listing := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), ".*")
	return map[string][]byte{
		"a remote message of an unknown type":    remoteCall("Receive", batch("no.such.Type", 0, 0, 0)),
		"a remote message of a type beyond all":  remoteCall("Receive", batch("actor.PID", beyond, 0, 0)),
		"a remote message to a target beyond":    remoteCall("Receive", batch("actor.PID", 0, beyond, 0)),
		"a remote message by another serializer": remoteCall("Receive", batch("actor.PID", 0, 0, beyond)),
		"a remote question for all processes":    remoteCall("ListProcesses", listing),
	}
}

// remoteCall is a gRPC call, over HTTP/2 from its beginning.
func remoteCall(method string, message []byte) []byte {
	var head, out bytes.Buffer
	fields := hpack.NewEncoder(&head)
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", "/remote.Remoting/" + method}, {":authority", "kith"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		_ = fields.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // to memory
	}
	out.WriteString("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	frame := func(kind, flags, stream byte, data []byte) {
		size := binary.BigEndian.AppendUint32(nil, uint32(len(data)))
		out.Write(append(size[1:], kind, flags, 0, 0, 0, stream))
		out.Write(data)
	}
	const settings, headers, data, endStream, endHeaders = 4, 1, 0, 1, 4
	frame(settings, 0, 0, nil)
	frame(headers, endHeaders, 1, head.Bytes())
	frame(data, endStream, 1, append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...))
	return out.Bytes()
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
	x := startFaultTrio(t, setting{places: places, lanes: 1})
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
