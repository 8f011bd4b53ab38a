package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kith/internal/config"
	"kith/internal/porttest"
	"kith/proto"
)

// faultTrio is a trio whose nodes keep their addresses over restarts, and that
// is configured as a cluster of machines is.
type faultTrio struct {
	*trio
	lanes   int
	configs [3]string
	key     string         // of receipts
	ask     [3]*connection // the nodes' service planes, for many clients
}

// place is where a node runs.
type place struct {
	cluster, public, service string
	prefix                   []string // of its command
	data                     string
	certificate              *nodeFiles // nil on loopback
}

// askMax is how long a client waits for an answer: longer than a node takes to
// say that it has none.
const askMax = 12 * time.Second

const (
	faultClientKey = "faults-client-key"
	faultAdminKey  = "faults-admin-key"
)

func loopbackPlaces(t *testing.T) (list [3]place) {
	t.Helper()
	for i := range list {
		list[i].cluster = porttest.Free(t)
		list[i].public, list[i].service = porttest.Pair(t)
		list[i].data = filepath.Join(t.TempDir(), "data")
	}
	return list
}

func startFaultTrio(t *testing.T, s setting) *faultTrio {
	t.Helper()
	x := &faultTrio{trio: &trio{client: faultClientKey, admin: faultAdminKey}, lanes: s.lanes}
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	writeFile(t, secret, strings.Repeat("5a", 16)+"\n")
	var join []string
	for _, p := range s.places {
		join = append(join, p.cluster)
	}
	for i, p := range s.places {
		x.configs[i] = filepath.Join(dir, nodeName(i)+".yaml")
		var text strings.Builder
		fmt.Fprintf(&text, "node: %s\ndata: %s\npublic: %s\nservice: %s\nlanes: %d\nsecret_file: %s\n", nodeName(i), p.data, p.public, p.service, s.lanes, secret)
		fmt.Fprintf(&text, "cluster:\n  listen: %s\n  join: [%s]\n", p.cluster, strings.Join(join, ", "))
		if f := p.certificate; f != nil {
			fmt.Fprintf(&text, "  ca: %s\n  cert: %s\n  key: %s\n", f.ca, f.cert, f.key)
		}
		fmt.Fprintf(&text, "keys:\n  - {sha256: %s, role: admin}\n  - {sha256: %s, role: client, client: %s}\n", config.HashKey(faultAdminKey), config.HashKey(faultClientKey), config.DevClient)
		writeFile(t, x.configs[i], text.String())
		x.data[i] = p.data
		x.commands[i] = append(p.prefix, "kith", "serve", "--config", x.configs[i])
		transport := &http.Transport{MaxIdleConnsPerHost: 64, DialContext: (&net.Dialer{Timeout: askMax}).DialContext}
		t.Cleanup(transport.CloseIdleConnections)
		x.ask[i] = &connection{service: p.service, key: x.client, getenv: func(string) string { return "" }, http: http.Client{Transport: transport, Timeout: askMax}}
	}
	x.start(t)
	x.key = x.nodes[0].receiptKey(t)
	x.define(t)
	return x
}

// seenSegment holds whoever has an event.
const seenSegment = "seen"

// define makes the segment and waits until all nodes obey it.
func (x *faultTrio) define(t *testing.T) {
	t.Helper()
	x.nodes[0].define(t, []graphSegment{{id: seenSegment, scope: "identity", when: `count(true, "30d") >= 1`}})
	for _, n := range x.nodes {
		for {
			err := n.client.call(t.Context(), http.MethodGet, "/v1/segments/"+seenSegment, nil, nil, nil)
			if err == nil {
				break
			}
			if !hold(t.Context(), 50*time.Millisecond) {
				t.Fatal(err)
			}
		}
	}
}

// hold waits for as long, or until ctx ends.
func hold(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// notDone reports whether a write that was answered by err certainly does not
// take effect: it did not reach a node, or was refused for the disk's sake.
func notDone(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" || proto.CodeOf(err) == proto.CodeDiskFull
}

// readyMax is how long a node may take to answer again after a fault ended.
const readyMax = 90 * time.Second

// awaitReady waits until all nodes say that queries are answered.
func (x *faultTrio) awaitReady(t *testing.T) {
	t.Helper()
	began := time.Now()
	for i := range x.ask {
		for {
			err := x.ready(t.Context(), i)
			if err == nil {
				break
			}
			if time.Since(began) > readyMax || !hold(t.Context(), 50*time.Millisecond) {
				t.Fatalf("node %d is not ready %v after the fault ended: %v", i+1, readyMax, err)
			}
		}
	}
	t.Logf("all nodes were ready %v after the fault ended", time.Since(began).Round(100*time.Millisecond))
}

func (x *faultTrio) ready(ctx context.Context, i int) error {
	return x.ask[i].call(ctx, http.MethodGet, "/readyz", nil, nil, nil)
}

func (x *faultTrio) signal(t *testing.T, i int, s syscall.Signal) {
	t.Helper()
	if err := x.nodes[i].cmd.Process.Signal(s); err != nil {
		t.Fatalf("%v to node %d: %v", s, i+1, err)
	}
}

// stop ends a node as an operator does.
func (x *faultTrio) stop(t *testing.T, i int) {
	t.Helper()
	x.signal(t, i, syscall.SIGTERM)
	select {
	case <-x.nodes[i].exited:
	case <-time.After(time.Minute):
		t.Fatalf("node %d does not stop", i+1)
	}
}

// stopAndVerify ends the nodes and reads what they leave.
func (x *faultTrio) stopAndVerify(t *testing.T) {
	t.Helper()
	for i := range x.nodes {
		x.stop(t, i)
	}
	for i := range x.nodes {
		var out bytes.Buffer
		if code := run(t.Context(), []string{"verify", "--config", x.configs[i]}, nil, &out, &out, func(string) string { return "" }); code != 0 {
			t.Errorf("verify of node %d: exit code %d\n%s", i+1, code, out.String())
		}
	}
}
