package gateway_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/gateway"
	"kith/internal/exports"
	"kith/proto"
)

// twinExports are audiences in memory: "small" has 3 members, "large" 60, of
// which the first is not known any more.
type twinExports struct {
	open chan struct{} // a token for each audience that is open
	stop chan struct{} // if not nil, names wait for it or for the context
	fail bool          // names break off
}

func newTwinExports() twinExports { return twinExports{open: make(chan struct{}, 100)} }

// OpenAudience implements gateway.Exports.
func (t *twin) OpenAudience(ctx context.Context, client proto.ClientInfo, r *proto.ExportRequest) (*exports.Audience, error) {
	size, ok := map[string]uint64{"small": 3, "large": 60}[r.Expr]
	if !ok {
		return nil, proto.Errorf(proto.CodeExpr, "no such expression")
	}
	set, known := roaring.New(), roaring.New()
	set.AddRange(0, size)
	known.AddRange(1, 1000)
	a := &exports.Audience{
		Lanes: []exports.Lane{{Set: set, Known: known}}, Names: &twinNames{ctx, t},
		Manifest: proto.ExportManifest{
			Client: client.Name, Expr: r.Expr, Unit: "identities", Time: now, Position: "0:5", Exact: true, Partitions: proto.Answered{Answered: 64, Of: 64},
			Segments: []proto.ExportSegment{}, Lanes: []proto.ExportLane{{Log: "log", Offset: 5, Count: size}}, Count: size,
		},
	}
	t.exports.open <- struct{}{}
	return a, nil
}

type twinNames struct {
	ctx context.Context
	t   *twin
}

// Name implements exports.Names.
func (n *twinNames) Name(_ proto.LaneID, ordinals []uint32, fn func(proto.Ordinal, []byte)) error {
	if n.t.exports.stop != nil {
		select {
		case <-n.t.exports.stop:
		case <-n.ctx.Done():
			return n.ctx.Err()
		}
	}
	if n.t.exports.fail {
		return proto.Errorf(proto.CodeCorrupt, "the store is damaged")
	}
	for _, o := range ordinals {
		fn(proto.Ordinal(o), fmt.Append(nil, "browser:twin", o))
	}
	return nil
}

// Close implements exports.Names.
func (n *twinNames) Close() { <-n.t.exports.open }

func TestExportRoute(t *testing.T) {
	r := newRig(t)
	sound := `{"lane":0,"log":"log","offset":4,"set":"OjAAAAEAAAAAAAAAEAAAAAEA"}`
	for _, tt := range []struct {
		name, key, query, body string
		status                 int
		code                   string
	}{
		{"large", "acme-key", "", `{"expr":"large","format":"csv"}`, 200, ""},
		{"by an admin", "admin-key", "?client=acme", `{"expr":"small","format":"ndjson","unit":"identities"}`, 200, ""},
		{"client in the body", "admin-key", "", `{"expr":"small","format":"parquet","client":"acme"}`, 200, ""},
		{"roaring, no dictionary", "acme-key", "", `{"expr":"large","format":"roaring","dictionary":"none"}`, 200, ""},
		{"under the floor", "acme-key", "", `{"expr":"small","format":"csv"}`, 403, "forbidden"},
		{"under the floor, a delta", "acme-key", "", `{"expr":"small","format":"csv","since":{"client":"acme","expr":"small","time":"2026-01-01T00:00:00Z","lanes":[` + sound + `]}}`, 200, ""},
		{"report key", "acme-report", "", `{"expr":"large","format":"csv"}`, 403, "forbidden"},
		{"no key", "", "", `{"expr":"large","format":"csv"}`, 401, "unauthorized"},
		{"another client", "acme-key", "?client=other", `{"expr":"large","format":"csv"}`, 403, "forbidden"},
		{"no client", "admin-key", "", `{"expr":"large","format":"csv"}`, 400, "client"},
		{"no format", "acme-key", "", `{"expr":"large"}`, 400, "invalid"},
		{"another format", "acme-key", "", `{"expr":"large","format":"xml"}`, 400, "invalid"},
		{"dictionary beside rows", "acme-key", "", `{"expr":"large","format":"csv","dictionary":"csv"}`, 400, "invalid"},
		{"dictionary of bitmaps", "acme-key", "", `{"expr":"large","format":"roaring","dictionary":"roaring"}`, 400, "invalid"},
		{"users", "acme-key", "", `{"expr":"large","format":"arrow","unit":"users"}`, 200, ""},
		{"another unit", "acme-key", "", `{"expr":"large","format":"csv","unit":"devices"}`, 400, "invalid"},
		{"members of identities", "acme-key", "", `{"expr":"large","format":"csv","members":true}`, 400, "invalid"},
		{"members in a delta", "acme-key", "", `{"expr":"small","format":"csv","unit":"users","members":true,"since":{"client":"acme","expr":"small","unit":"users","time":"2026-01-01T00:00:00Z","lanes":[` + sound + `]}}`, 400, "invalid"},
		{"no expression", "acme-key", "", `{"format":"csv"}`, 400, "expr"},
		{"unknown expression", "acme-key", "", `{"expr":"x","format":"csv"}`, 400, "expr"},
		{"unknown field", "acme-key", "", `{"expr":"large","format":"csv","x":1}`, 400, "json"},
		{"after what never comes", "acme-key", "?after=0:99", `{"expr":"large","format":"csv"}`, 504, "timeout"},
		{"a delta that is resumed", "acme-key", "", `{"expr":"large","format":"csv","have":[{"lane":0}],"since":{"time":"2026-01-01T00:00:00Z"}}`, 400, "invalid"},
		{"a set that is none", "acme-key", "", `{"expr":"large","format":"csv","since":{"time":"2026-01-01T00:00:00Z","lanes":[{"lane":0,"set":"AAAAAAAAAAA="}]}}`, 400, "invalid"},
		{"a lane twice", "acme-key", "", `{"expr":"large","format":"csv","since":{"time":"2026-01-01T00:00:00Z","lanes":[` + sound + "," + sound + `]}}`, 400, "invalid"},
		{"a lane that is none", "acme-key", "", `{"expr":"large","format":"csv","since":{"time":"2026-01-01T00:00:00Z","lanes":[{"lane":77,"set":""}]}}`, 400, "invalid"},
	} {
		w := r.serve("POST", "/v1/audiences/export"+tt.query, tt.body, auth, key(tt.key))
		if w.Code != tt.status || code(w) != tt.code {
			t.Errorf("%s: %d %s, want %d %s: %.200s", tt.name, w.Code, code(w), tt.status, tt.code, w.Body)
		}
		if kind := w.Header().Get("Content-Type"); w.Code == 200 && kind != "application/x-tar" {
			t.Errorf("%s: %s", tt.name, kind)
		}
		if n := len(r.exports.open); n != 0 {
			t.Errorf("%s: %d audiences are open", tt.name, n)
		}
	}
}

// entries are a tar's files in order, and the manifest that it ends with.
func entries(t *testing.T, b []byte) (names []string, m proto.ExportManifest) {
	t.Helper()
	var last []byte
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		if last, err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	m, err := proto.ReadExportManifest(last)
	if err != nil {
		t.Fatal(err)
	}
	return names, m
}

func TestExportStream(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) { c.Version = "v7" })
	w := r.serve("POST", "/v1/audiences/export", `{"expr":"large","format":"csv"}`, auth, key("acme-key"))
	names, m := entries(t, w.Body.Bytes())
	if got := strings.Join(names, " "); got != "begin.json lane-0.roaring lanes.roaring64 audience-0-00000.csv manifest.json" {
		t.Error(got)
	}
	if m.Kith != "v7" || m.Client != "acme" || !m.Complete || m.Count != 60 || len(m.Files) != 3 {
		t.Errorf("%+v", m)
	}
	if w := r.serve("GET", "/metrics", ""); !strings.Contains(w.Body.String(), "kith_gateway_exports_total 1\n") {
		t.Error("it is not counted")
	}
}

// Under the floor a delta shows nobody, and recalls all the same.
func TestDeltaUnderTheFloor(t *testing.T) {
	r := newRig(t)
	b, err := exports.AppendSet(nil, roaring.BitmapOf(0, 1, 2, 3))
	if err != nil {
		t.Fatal(err)
	}
	since := proto.ExportSince{Client: "acme", Expr: "small", Time: now, Lanes: []proto.SinceLane{{Log: "log", Offset: 4, Set: b}}}
	body, err := json.Marshal(proto.ExportRequest{Expr: "small", Format: "csv", Since: &since})
	if err != nil {
		t.Fatal(err)
	}
	w := r.serve("POST", "/v1/audiences/export", string(body), auth, key("acme-key"))
	_, m := entries(t, w.Body.Bytes())
	if s := m.Since; m.Count != 0 || m.Below != 50 || s.Entered != 0 || s.Left != 4 || s.Recalled != 1 || strings.Contains(w.Body.String(), "browser:") {
		t.Errorf("client: %+v, %+v", m, s)
	}
	w = r.serve("POST", "/v1/audiences/export?client=acme", string(body), auth, key("admin-key"))
	if _, m := entries(t, w.Body.Bytes()); m.Count != 3 || m.Below != 0 || m.Since.Left != 1 {
		t.Errorf("admin: %+v, %+v", m, m.Since)
	}
}

// export asks a listening gateway.
func (r *rig) export(ctx context.Context, service string) (*http.Response, error) {
	q, err := http.NewRequestWithContext(ctx, "POST", "http://"+service+"/v1/audiences/export", strings.NewReader(`{"expr":"large","format":"csv"}`))
	if err != nil {
		return nil, err
	}
	q.Header.Set("Authorization", key("acme-key"))
	return http.DefaultClient.Do(q)
}

// An export that fails midway is a stream that is cut, not one that ends.
func TestExportFailsMidway(t *testing.T) {
	r := newRig(t)
	r.exports.fail = true
	_, service := listen(t, r)
	resp, err := r.export(t.Context(), service)
	if err != nil {
		return // cut before the first byte was flushed
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil || bytes.Contains(b, []byte(exports.ManifestName)) {
		t.Errorf("it ends after %d bytes with %v", len(b), err)
	}
}

// A caller that goes away ends the export, and the names are closed.
func TestExportIsCancelled(t *testing.T) {
	r := newRig(t)
	r.exports.stop = make(chan struct{})
	_, service := listen(t, r)
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	go func() {
		resp, err := r.export(ctx, service)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		asked <- err
	}()
	until(t, func() bool { return len(r.exports.open) == 1 })
	cancel()
	if err := <-asked; err == nil {
		t.Error("it was answered to the end")
	}
	until(t, func() bool { return len(r.exports.open) == 0 })
}

// An export whose client is ended breaks off, whoever has the name next.
func TestExportEndsWithItsClient(t *testing.T) {
	for _, again := range []bool{false, true} {
		r := newRig(t)
		r.exports.stop = make(chan struct{})
		_, service := listen(t, r)
		asked := make(chan []byte, 1)
		go func() {
			resp, err := r.export(t.Context(), service)
			if err != nil {
				asked <- nil // cut before the first byte was flushed
				return
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err == nil {
				t.Errorf("it ends after %d bytes", len(b))
			}
			asked <- b
		}()
		until(t, func() bool { return len(r.exports.open) == 1 })
		r.mu.Lock()
		old := r.clients["acme"]
		delete(r.clients, "acme")
		if again {
			r.clients["acme"] = proto.ClientInfo{ID: old.ID + 100, Name: "acme", Space: old.Space}
		}
		r.mu.Unlock()
		close(r.exports.stop)
		if b := <-asked; bytes.Contains(b, []byte("browser:twin")) || bytes.Contains(b, []byte(exports.ManifestName)) {
			t.Errorf("names are told of a client that was ended: %d bytes", len(b))
		}
		until(t, func() bool { return len(r.exports.open) == 0 })
	}
}

// until asks again and again, for at most ten seconds.
func until(t *testing.T, cond func() bool) {
	t.Helper()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	late := time.After(10 * time.Second)
	for !cond() {
		select {
		case <-again.C:
		case <-late:
			t.Fatal("not within ten seconds")
		}
	}
}

// Four exports at once, two of a client's keys, then no more until one is done.
func TestExportsAreBounded(t *testing.T) {
	r := newRig(t)
	r.exports.stop = make(chan struct{})
	export := func(k string) *httptest.ResponseRecorder {
		return r.serve("POST", "/v1/audiences/export?client=acme", `{"expr":"large","format":"csv"}`, auth, key(k))
	}
	refused := func(k, why string) {
		t.Helper()
		if w := export(k); w.Code != 503 || code(w) != "overloaded" || !strings.Contains(w.Body.String(), why) {
			t.Errorf("%s: %d %s", k, w.Code, w.Body)
		}
	}
	done := make(chan int, 4)
	begin := func(k string, n int) {
		before := len(r.exports.open)
		for range n {
			go func() { done <- export(k).Code }()
		}
		until(t, func() bool { return len(r.exports.open) == before+n })
	}
	begin("acme-key", 2)
	refused("acme-key", "of client acme")
	begin("admin-key", 2)
	refused("admin-key", "4 exports")
	refused("acme-key", "4 exports")
	close(r.exports.stop)
	for range 4 {
		if status := <-done; status != 200 {
			t.Error(status)
		}
	}
	for range 2 {
		if w := export("acme-key"); w.Code != 200 {
			t.Errorf("after them: %d", w.Code)
		}
	}
}

// A body that does not come is no export under way.
func TestExportsWithoutBodyHoldNothing(t *testing.T) {
	r := newRig(t)
	var slow sync.WaitGroup
	defer slow.Wait()
	for range 4 {
		body, rest := io.Pipe()
		q := httptest.NewRequest("POST", "/v1/audiences/export", body)
		q.Header.Set("Content-Type", "application/json")
		q.Header.Set(auth, key("acme-key"))
		slow.Go(func() { r.g.Service().ServeHTTP(httptest.NewRecorder(), q) })
		_, _ = rest.Write([]byte("{")) // until it is read
		defer rest.Close()
	}
	for _, k := range []string{"demo-key", "acme-key"} {
		if w := r.serve("POST", "/v1/audiences/export", `{"expr":"large","format":"csv"}`, auth, key(k)); w.Code != 200 {
			t.Errorf("%s, beside bodies that trickle: %d %s", k, w.Code, w.Body)
		}
	}
}
