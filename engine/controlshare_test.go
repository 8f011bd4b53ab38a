package engine_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"kith/proto"
)

// A client's keys change so many definitions at once and then few; the operator
// and other clients go on.
func TestClientsDefineWithinBounds(t *testing.T) {
	x := newEdit(t, 1)
	defer closeNode(t, x.n)
	if _, err := x.n.CreateKey(t.Context(), "other", proto.RoleClient, ""); err != nil {
		t.Fatal(err)
	}
	other, _ := x.n.Client("other")
	own := proto.ForItself(t.Context())
	x.define("a", "identity", `count(true) >= 1`)
	spec := proto.AudienceSpec{ID: "s", Expr: "a"}
	taken := 0
	var err error
	for ; taken < 30_000 && err == nil; taken++ {
		spec.Description = fmt.Sprint(taken % 2)
		_, err = x.n.SaveAudience(own, x.c, spec)
	}
	if proto.CodeOf(err) != proto.CodeRateLimited || taken < 25_000 || taken > 25_600 {
		t.Fatalf("after %d changes: %v", taken, err)
	}
	seq := x.n.Controls()
	spec.Description = fmt.Sprint(taken % 2) // the refused one was the other of the two
	if _, err := x.n.SaveAudience(own, x.c, spec); err != nil || x.n.Controls() != seq {
		t.Errorf("what is the same already: %v, %d records", err, x.n.Controls()-seq)
	}
	spec.Description = "by an admin"
	if _, err := x.n.SaveAudience(t.Context(), x.c, spec); err != nil {
		t.Errorf("an admin: %v", err)
	}
	if _, err := x.n.Define(own, other, proto.SegmentSpec{ID: "b", Scope: "identity", When: `count(true) >= 1`}); err != nil {
		t.Errorf("another client: %v", err)
	}
}

// A large record counts as several: a rule of ten thousand bytes is in it as text and
// compiled.
func TestLargeDefinitionsCountAsSeveral(t *testing.T) {
	x := newEdit(t, 1)
	defer closeNode(t, x.n)
	own := proto.ForItself(t.Context())
	took := func(when string) float64 {
		before := x.n.DefinitionsLeft(x.c)
		if _, err := x.n.Define(own, x.c, proto.SegmentSpec{ID: "a", Scope: "identity", When: when}); err != nil {
			t.Fatal(err)
		}
		return math.Round(before - x.n.DefinitionsLeft(x.c))
	}
	took(`count(true) >= 1`) // from when on it is counted
	if n := took(`count(true) >= 2`); n != 1 {
		t.Errorf("a small definition counts as %v", n)
	}
	if n := took(`count(event.name == "` + strings.Repeat("x", 9_000) + `") >= 1`); n < 4 {
		t.Errorf("a large definition counts as %v", n)
	}
}

// Over three quarters of the control stream are not for clients' keys.
func TestControlStreamKeepsRoom(t *testing.T) {
	x := newEdit(t, 1)
	defer closeNode(t, x.n)
	own := proto.ForItself(t.Context())
	spec := proto.SegmentSpec{ID: "a", Scope: "identity", When: `count(true) >= 1`, Backfill: true}
	if _, err := x.n.Define(own, x.c, spec); err != nil {
		t.Fatal(err)
	}
	x.n.BoundControl(x.n.ControlBytes() / 4 * 5)
	seq := x.n.Controls()
	if _, err := x.n.Define(own, x.c, spec); err != nil || x.n.Controls() != seq {
		t.Errorf("a definition that is the same: %v, %d records", err, x.n.Controls()-seq)
	}
	edited := spec
	edited.When = `count(true) >= 2`
	_, defined := x.n.Define(own, x.c, edited)
	_, saved := x.n.SaveAudience(own, x.c, proto.AudienceSpec{ID: "s", Expr: "a"})
	_, begun := x.n.BeginImport(own, x.c, proto.ImportSpec{Segment: "i", Mode: "replace", Scope: "identity"})
	for what, err := range map[string]error{"a definition": defined, "a saved audience": saved, "an import": begun} {
		if proto.CodeOf(err) != proto.CodeOverloaded {
			t.Errorf("%s of a client's key: %v", what, err)
		}
	}
	if _, err := x.n.Define(t.Context(), x.c, edited); err != nil {
		t.Fatalf("an admin's definition: %v", err)
	}
	until(t, x.n, 20*time.Second, "the edited rule answers", func() bool {
		s, _ := x.n.Segment(x.c, "a")
		return s.Next == nil && s.When == edited.When
	})
	if _, err := x.n.EraseClient(t.Context(), "acme"); err != nil {
		t.Errorf("the client's erasure: %v", err)
	}
}
