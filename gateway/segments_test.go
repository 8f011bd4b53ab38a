package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/proto"
)

// pieces notes the largest write.
type pieces struct {
	*httptest.ResponseRecorder
	largest int
}

func (p *pieces) Write(b []byte) (int, error) {
	p.largest = max(p.largest, len(b))
	return p.ResponseRecorder.Write(b)
}

// TestSegmentsAreListedInPieces: however many rules a client has, they do not lie in memory
// as one answer.
func TestSegmentsAreListedInPieces(t *testing.T) {
	for _, n := range []int{0, 1, 30, 300} {
		r := newRig(t)
		want := map[proto.SegmentID]string{}
		for i := range n {
			id := proto.SegmentID(fmt.Sprintf("s%d", i))
			want[id] = strings.Repeat("<&", 5000)
			r.specs[id] = proto.SegmentSpec{ID: id, When: want[id]}
		}
		q := httptest.NewRequest("GET", "/v1/segments", nil)
		q.Header.Set(auth, key("acme-key"))
		w := &pieces{ResponseRecorder: httptest.NewRecorder()}
		r.g.Service().ServeHTTP(w, q)
		var x struct{ Segments []proto.SegmentSpec }
		if err := json.Unmarshal(w.Body.Bytes(), &x); err != nil || w.Code != 200 || x.Segments == nil || !strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
			t.Fatalf("of %d: %d %v, %v", n, w.Code, err, w.Header())
		}
		got := map[proto.SegmentID]string{}
		for _, s := range x.Segments {
			got[s.ID] = s.When
		}
		if d := cmp.Diff(want, got); d != "" || len(x.Segments) != n {
			t.Errorf("of %d there are %d: %s", n, len(x.Segments), d)
		}
		if w.largest > 300<<10 {
			t.Errorf("of %d: %d bytes are written at once", n, w.largest)
		}
	}
}
