package bench_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/internal/bench"
	"kith/proto"
	"kith/segments"
)

type sent struct {
	Events []struct {
		Event      string
		Identities []string
		Props      map[string]any
		URL, Ref   string
	}
}

// The bodies are what the routes take, with the visits' digits in their
// places and the same over HTTP.
func TestBodies(t *testing.T) {
	v := []bench.Visit{bench.VisitOf(0, 1), bench.VisitOf(19_999, 5), bench.VisitOf(12_345_678, 3)}
	body, request := bench.Filled(v...)
	var got sent
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Events) != len(v) {
		t.Fatalf("%d events, want %d", len(got.Events), len(v))
	}
	for i, e := range got.Events {
		visitor, section, author := v[i].Fields()
		want := map[string]any{"section": fmt.Sprintf("s%02d", section), "author": fmt.Sprintf("a%02d", author), "country": "DE", "price": 12.5}
		if d := cmp.Diff(want, e.Props); d != "" {
			t.Errorf("event %d (-want +got):\n%s", i, d)
		}
		if id := fmt.Sprintf("browser:v%08d", visitor); e.Identities[0] != id {
			t.Errorf("event %d is of %s, want %s", i, e.Identities[0], id)
		}
	}
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(request)))
	if err != nil {
		t.Fatal(err)
	}
	over, err := io.ReadAll(r.Body)
	if err != nil || r.URL.Path != "/v1/events" || r.Header.Get("Authorization") == "" {
		t.Fatalf("%s, %v", r.URL, err)
	}
	if d := cmp.Diff(string(body), string(over)); d != "" {
		t.Errorf("over HTTP (-want +got):\n%s", d)
	}
}

// The bare pipeline counts the same events.
func TestPackedEventIsTheSame(t *testing.T) {
	v := bench.VisitOf(4321, 2)
	visitor, section, author := v.Fields()
	var e proto.Event
	if err := proto.DecodeEvent(bench.PackedEvent(1, v), &e); err != nil {
		t.Fatal(err)
	}
	body, _ := bench.Filled(v)
	var s sent
	if err := json.Unmarshal(body, &s); err != nil {
		t.Fatal(err)
	}
	if string(e.Identities[0]) != s.Events[0].Identities[0] || e.URL != s.Events[0].URL || e.Ref != s.Events[0].Ref || e.Name != s.Events[0].Event {
		t.Errorf("packed %+v, sent %+v", e, s.Events[0])
	}
	for key, want := range map[string]string{"section": fmt.Sprintf("s%02d", section), "author": fmt.Sprintf("a%02d", author), "price": "12.5"} {
		if got, ok := e.Prop(key); !ok || got.String() != want {
			t.Errorf("%s of visitor %d is %q, want %q", key, visitor, got, want)
		}
	}
}

// members are the rules that hold after an event was seen n times.
func members(t *testing.T, when []string, n int) int {
	t.Helper()
	var e proto.Event
	if err := proto.DecodeEvent(bench.PackedEvent(1, bench.VisitOf(77, 1)), &e); err != nil {
		t.Fatal(err)
	}
	p, m, ev, d := segments.NewProgram(), &segments.Memory{}, segments.NewEvaluator(), &segments.Delta{}
	for i, w := range when {
		r, err := segments.Compile(w)
		if err != nil {
			t.Fatalf("%s: %v", w, err)
		}
		if err := p.Define(segments.Definition{Key: proto.SegmentKey(i + 1), ID: proto.SegmentID(fmt.Sprint("s", i)), Rule: r}); err != nil {
			t.Fatal(err)
		}
	}
	const day = 24 * 3600 * 1000
	now := proto.Millis(100 * day)
	for i := range n { // some on one day, the last on the next
		at := now.Add(0) + proto.Millis(i)
		if i < 2 {
			at -= day
		}
		ev.Observe(p, m, &e.EventBody, at, at, d)
	}
	in := 0
	for _, x := range m.Memberships() {
		if x.In {
			in++
		}
	}
	return in
}

// What an event matches is five segments, however many there are.
func TestFiveMatch(t *testing.T) {
	if n := len(bench.Hundred()); n != 100 {
		t.Errorf("the hundred are %d", n)
	}
	for name, when := range map[string][]string{"hundred": bench.Hundred(), "10": bench.Crowd(10), "1000": bench.Crowd(1000)} {
		if n := members(t, when, 20); n != 5 {
			t.Errorf("%s: an event seen often is in %d segments, want 5", name, n)
		}
	}
}

// Loading sends every identity.
func TestLoadedIsAll(t *testing.T) {
	seen := map[uint32]bool{}
	for _, v := range bench.Loaded(1003, 16) {
		seen[v] = true
		if v >= 1003 {
			t.Errorf("visitor %d of 1003", v)
		}
	}
	if len(seen) != 1003 {
		t.Errorf("%d of 1003 visitors", len(seen))
	}
}

func TestAccepted(t *testing.T) {
	pos, err := bench.Accepted(3, []byte(`{"accepted":3,"refused":[],"position":"0:15,3:77"}`))
	if err != nil || pos != "0:15,3:77" {
		t.Errorf("%q, %v", pos, err)
	}
	for _, bad := range []string{`{"accepted":2,"refused":[{"index":1}],"position":"0:15"}`, `{}`, `{"accepted":3}`, `{"accepted":3,"position":"0:`, `{"accepted":3,"position":"x"}`} {
		if _, err := bench.Accepted(3, []byte(bad)); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

func TestSegmentsIn(t *testing.T) {
	got := bench.SegmentsIn([]byte(`{"identity":"browser:x","known":true,"opted_out":false,"segments":["a","b-c"]}`))
	if d := cmp.Diff([]string{"a", "b-c"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if got := bench.SegmentsIn([]byte(`{"segments":[]}`)); len(got) != 0 || strings.Join(got, "") != "" {
		t.Errorf("none gives %q", got)
	}
}
