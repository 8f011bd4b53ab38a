package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"kith/gateway"
	"kith/proto"
)

// readOnly answers look-ups from a map that nobody writes.
type readOnly struct {
	*twin
	known map[proto.Identity][]proto.SegmentID
}

func (r readOnly) Lookup(_ proto.ClientInfo, id proto.Identity, _ proto.Millis, dst []proto.SegmentID) (gateway.View, []proto.SegmentID, error) {
	s, ok := r.known[id]
	return gateway.View{Known: ok}, append(dst, s...), nil
}

// BenchmarkHTTPLookup looks one identity up in each request over loopback:
// the gateway, and beside it the least that net/http can do.
func BenchmarkHTTPLookup(b *testing.B) {
	known := map[proto.Identity][]proto.SegmentID{"browser:3f0c9a": {"auto", "owners"}}
	tw := newTwin()
	g, err := gateway.New(gateway.Config{}, gateway.Dependencies{Intake: tw, Memberships: readOnly{tw, known}, Definitions: tw, Audiences: tw, Saved: tw, Accounts: tw, Holdings: tw, Operations: tw, Graph: tw, OptOuts: tw})
	if err != nil {
		b.Fatal(err)
	}
	bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/v1/identities/"), "/segments")
		segments, ok := known[proto.Identity(id)]
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"identity": id, "known": ok, "opted_out": false, "segments": segments})
	})
	b.Run("bare", func(b *testing.B) { benchHTTP(b, bare) })
	b.Run("kith", func(b *testing.B) { benchHTTP(b, g.Service()) })
}

// benchHTTP asks h over 16 connections of its own, with as little work on the
// asking side as there can be.
func benchHTTP(b *testing.B, h http.Handler) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { _ = s.Serve(l); close(done) }()
	request := []byte("GET /v1/identities/browser:3f0c9a/segments HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer acme-key\r\n\r\n")
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		for pb.Next() {
			if _, err := c.Write(request); err != nil {
				b.Error(err)
				return
			}
			if err := readAnswer(r); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
	_ = s.Shutdown(context.Background())
	<-done
}

// readAnswer reads one answer that has a Content-Length.
func readAnswer(r *bufio.Reader) error {
	n := 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if v, ok := strings.CutPrefix(string(line), "Content-Length: "); ok {
			if n, err = strconv.Atoi(strings.TrimSpace(v)); err != nil {
				return err
			}
		}
		if len(line) == 2 {
			_, err := io.CopyN(io.Discard, r, int64(n))
			return err
		}
	}
}
