package gateway_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/micro"
	gproto "google.golang.org/protobuf/proto"

	"kith/proto"
	"kith/proto/pb"
)

// TestLookupAnswersAreBounded: one identity in many segments may be asked for a thousand
// times, and no more is made than can be answered.
func TestLookupAnswersAreBounded(t *testing.T) {
	r := newRig(t)
	var all []proto.SegmentID
	for i := range 20_000 {
		all = append(all, proto.SegmentID(fmt.Sprintf("%s%05d", strings.Repeat("s", 59), i)))
	}
	r.members[member{2, "browser:big1"}] = all
	r.members[member{2, "browser:some1"}] = all[:3000]
	nc := natsRig(t, r)
	names := func(id string, n int) (list []string) {
		for range n {
			list = append(list, id)
		}
		return list
	}
	const protobuf = "application/x-protobuf"
	for _, tt := range []struct {
		id               string
		n                int
		byHTTP, byNATS   bool   // it is answered
		allocatedMiBsMax uint64 // with the race detector some more
	}{
		{"browser:some1", 5, true, true, 24},
		{"browser:some1", 6, true, false, 24}, // a message has 1 MiB
		{"browser:big1", 1, true, false, 48},
		{"browser:big1", 12, true, false, 200},
		{"browser:big1", 13, false, false, 200},
		{"browser:big1", 1000, false, false, 200},
	} {
		list := names(tt.id, tt.n)
		encoded, err := gproto.Marshal(&pb.LookupRequest{Identities: list})
		if err != nil {
			t.Fatal(err)
		}
		for kind, body := range map[string]string{"application/json": `{"identities":["` + strings.Join(list, `","`) + `"]}`, protobuf: string(encoded)} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			w := r.serve("POST", "/v1/lookup", body, auth, key("acme-key"), "Content-Type", kind)
			if ok := w.Code == 200; ok != tt.byHTTP || !ok && code(w) != "too_large" {
				t.Errorf("%d of %s as %s: %d %.100q", tt.n, tt.id, kind, w.Code, w.Body)
			}
			var x pb.LookupResponse
			if tt.byHTTP && kind == protobuf {
				if err := gproto.Unmarshal(w.Body.Bytes(), &x); err != nil || len(x.Results) != tt.n || len(x.Results[tt.n-1].Segments) != len(r.members[member{2, proto.Identity(tt.id)}]) {
					t.Errorf("%d of %s: %v", tt.n, tt.id, err)
				}
			}
			m := ask(t, nc, "kith.query.lookup", body, auth, key("acme-key"), "Content-Type", kind)
			if ok := m.Header.Get(micro.ErrorCodeHeader) == ""; ok != tt.byNATS || !ok && !strings.Contains(string(m.Data), "send fewer identities") {
				t.Errorf("%d of %s as %s over NATS: %v %.100q", tt.n, tt.id, kind, m.Header, m.Data)
			}
			runtime.ReadMemStats(&after)
			if got := (after.TotalAlloc - before.TotalAlloc) >> 20; got > tt.allocatedMiBsMax {
				t.Errorf("%d of %s as %s take %d MiB", tt.n, tt.id, kind, got)
			}
		}
	}
}
