package engine_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/proto"
)

// numbers are a preview's, for comparisons.
func numbers(p proto.SegmentPreview) [5]uint64 {
	return [5]uint64{*p.Identities, *p.Before, *p.After, *p.Entering, *p.Leaving}
}

// A preview says what the definition then does, and does nothing.
func TestPreview(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	now := time.Now()
	var list []*proto.Event
	for i := range 120 {
		for k := range i % 4 {
			list = append(list, page(c, fmt.Sprint("v", i), "auto", now.Add(-time.Duration(k)*time.Hour)))
		}
	}
	submit(t, n, list...)
	define(t, n, "fan", `count(event.section == "auto") >= 2`)
	until(t, n, 10*time.Second, "filling", func() bool { return count(t, n, c, "fan") == 60 })
	for _, x := range []struct {
		id, scope, when string
		want            [5]uint64
		cost            int
	}{
		{"fan", "identity", `count(event.section == "auto") >= 3`, [5]uint64{90, 60, 30, 0, 30}, 1},
		{"fan", "identity", `count(event.section == "auto", "300d") == 1`, [5]uint64{90, 60, 30, 30, 60}, 4},
		{"new", "user", `!member("fan")`, [5]uint64{90, 0, 30, 30, 0}, 3},
	} {
		spec := proto.SegmentSpec{ID: proto.SegmentID(x.id), Scope: x.scope, When: x.when, Backfill: true}
		p, err := n.Preview(t.Context(), c, spec)
		if err != nil || !p.Exact || p.Judged != 90 || p.Cost != x.cost {
			t.Fatalf("%s: %+v, %v", x.when, p, err)
		}
		if diff := cmp.Diff(x.want, numbers(p)); diff != "" {
			t.Errorf("%s: known, before, after, entering, leaving (-want +got):\n%s", x.when, diff)
		}
	}
	if s, _ := n.Segment(c, "fan"); s.Cost != 1 {
		t.Errorf("the segment's cost is %d", s.Cost)
	}
	if _, defined := n.Segment(c, "new"); defined || count(t, n, c, "fan") != 60 {
		t.Error("a preview changed something")
	}
	if _, err := n.Preview(t.Context(), c, proto.SegmentSpec{ID: "fan", When: `member("fan")`}); proto.CodeOf(err) != proto.CodeRule {
		t.Errorf("a rule that refers to itself: %v", err)
	}
}

// Of users all identities are judged over what all of them did, and who opted
// out is not counted.
func TestPreviewOfUsers(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	now := time.Now()
	submit(t, n, page(c, "phone", "auto", now), page(c, "laptop", "auto", now), page(c, "other", "auto", now), page(c, "gone", "auto", now))
	link(t, n, c, "browser:phone", "browser:laptop", proto.Linked{Linked: true})
	if _, err := n.OptOut(t.Context(), proto.ClientInfo{}, "browser:gone", false); err != nil {
		t.Fatal(err)
	}
	p, err := n.Preview(t.Context(), c, proto.SegmentSpec{ID: "fans", When: `count(event.section == "auto") == 2`})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([5]uint64{3, 0, 2, 2, 0}, numbers(p)); diff != "" {
		t.Errorf("known, before, after, entering, leaving (-want +got):\n%s", diff)
	}
}
