package engine_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/engine"
	"kith/internal/exports"
	"kith/proto"
)

// exportTo writes an audience to a new folder.
func exportTo(t *testing.T, n *engine.Node, c proto.ClientInfo, r proto.ExportRequest) (dir string, m proto.ExportManifest) {
	t.Helper()
	a, err := n.OpenAudience(t.Context(), c, &r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Names.Close()
	a.Manifest.Format, a.Manifest.Dictionary = proto.FormatNDJSON, proto.FormatNone
	var b bytes.Buffer
	if err := exports.Write(t.Context(), &b, a, nil, r.Since); err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "export")
	f, err := exports.OpenFolder(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if m, err = f.Receive(&b); err != nil {
		t.Fatal(err)
	}
	return dir, m
}

// linesOf are the rows of a folder's tables of some content.
func linesOf(t *testing.T, dir string, content proto.ExportContent) (rows []exports.UserRow) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, string(content)+"-*.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			var r exports.UserRow
			if err := json.Unmarshal(line, &r); err != nil {
				t.Fatal(err)
			}
			rows = append(rows, r)
		}
	}
	return rows
}

// peopleOf has people linked: i of them with i%4 identities beside the first.
func peopleOf(t *testing.T, n *engine.Node, c proto.ClientInfo, people int) {
	t.Helper()
	var all []*proto.Event
	for i := range people {
		e := page(c, fmt.Sprint("p", i), "auto", time.Now())
		for k := range i % 4 {
			e.Identities = append(e.Identities, proto.Identity(fmt.Sprintf("account:p%d-%d", i, k)))
		}
		all = append(all, e)
	}
	submit(t, n, all...)
	settle(t, n)
}

// An export by users has one row for each user that a count by users counts,
// under its root, with all its identities that are in the audience.
func TestExportByUsers(t *testing.T) {
	for _, lanes := range []int{1, 3} {
		t.Run(fmt.Sprint("lanes=", lanes), func(t *testing.T) {
			n := testNode(t, t.TempDir(), func(c *engine.Config) { c.Lanes = lanes })
			defer closeNode(t, n)
			c := acme(t, n)
			for id, scope := range map[proto.SegmentID]string{"auto": "user", "own": "identity"} {
				if _, err := n.Define(t.Context(), c, proto.SegmentSpec{ID: id, Scope: scope, When: `count(event.section == "auto", "30d") >= 1`}); err != nil {
					t.Fatal(err)
				}
			}
			const people = 80
			peopleOf(t, n, c, people)
			for _, x := range []struct {
				expr       string
				identities int
			}{{"auto", people + people/4*(0+1+2+3)}, {"own", people}} {
				dir, m := exportTo(t, n, c, proto.ExportRequest{Expr: x.expr, Unit: proto.UnitUsers, Members: true})
				counted, err := n.Count(t.Context(), c, x.expr, "users")
				if err != nil {
					t.Fatal(err)
				}
				rows := linesOf(t, dir, proto.ContentAudience)
				if m.Count != *counted.Count || m.Count != people || len(rows) != people || m.Identities != uint64(x.identities) {
					t.Errorf("%s: %d rows of %d, %d identities; %d users are counted", x.expr, len(rows), m.Count, m.Identities, *counted.Count)
				}
				in := take(t, n, c, proto.ExportRequest{Expr: x.expr}).members
				var named []string
				for _, r := range rows {
					u, err := n.User(t.Context(), c, proto.Identity(r.Identity))
					if err != nil {
						t.Fatal(err)
					}
					var want []string
					for _, id := range u.Members {
						if slices.Contains(in, string(id)) {
							want = append(want, string(id))
						}
					}
					got := slices.Sorted(slices.Values(r.Members))
					if diff := cmp.Diff(want, got); diff != "" {
						t.Fatalf("%s: members of %s (-want +got):\n%s", x.expr, r.Identity, diff)
					}
					if x.expr == "auto" && string(u.Root) != r.Identity {
						t.Errorf("the row is of %s, the root is %s", r.Identity, u.Root)
					}
					if at := slices.Index(r.Members, r.Identity); at < 0 || r.MemberIDs[at] != int64(r.Lane)<<32|r.Ordinal {
						t.Errorf("%s: %s has not the row's number among its members'", x.expr, r.Identity)
					}
					named = append(named, got...)
				}
				slices.Sort(named)
				if diff := cmp.Diff(in, named); diff != "" {
					t.Errorf("%s: all members are not the identities of the audience (-want +got):\n%s", x.expr, diff)
				}
			}
		})
	}
}

// A delta by users: one whose root was cut out goes with its number, which is
// recalled, and comes with another; of two that came together one goes.
func TestDeltaByUsers(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	if _, err := n.Define(t.Context(), c, proto.SegmentSpec{ID: "auto", Scope: "user", When: `count(event.section == "auto", "30d") >= 1`}); err != nil {
		t.Fatal(err)
	}
	peopleOf(t, n, c, 8)
	submit(t, n, page(c, "alone", "auto", time.Now()))
	rootOf := func(id proto.Identity) proto.Identity {
		u, err := n.User(t.Context(), c, id)
		if err != nil {
			t.Fatal(err)
		}
		return u.Root
	}
	first, m := exportTo(t, n, c, proto.ExportRequest{Expr: "auto", Unit: proto.UnitUsers})
	number := map[string]int64{}
	for _, r := range linesOf(t, first, proto.ContentAudience) {
		number[r.Identity] = r.Ordinal
	}
	if m.Count != 9 {
		t.Fatalf("%d users", m.Count)
	}
	cut := rootOf("browser:p3") // of four identities
	if _, err := n.OptOut(t.Context(), proto.ClientInfo{}, cut, false); err != nil {
		t.Fatal(err)
	}
	link(t, n, c, "browser:alone", "browser:p4", yes()) // neither was linked
	settle(t, n)
	since, err := exports.ReadSince(first, proto.UnitUsers)
	if err != nil {
		t.Fatal(err)
	}
	second, m := exportTo(t, n, c, proto.ExportRequest{Expr: "auto", Unit: proto.UnitUsers, Since: since})
	counted, err := n.Count(t.Context(), c, "auto", "users")
	if err != nil || m.Count != *counted.Count {
		t.Errorf("%d rows, %d users are counted, %v", m.Count, *counted.Count, err)
	}
	now := map[int64]bool{}
	for _, o := range number {
		now[o] = true
	}
	var recalled []int64
	for _, r := range linesOf(t, second, proto.ContentLeft) {
		delete(now, r.Ordinal)
	}
	for _, r := range linesOf(t, second, proto.ContentRecall) {
		recalled = append(recalled, r.Ordinal)
	}
	for _, r := range linesOf(t, second, proto.ContentEntered) {
		now[r.Ordinal] = true
	}
	if diff := cmp.Diff([]int64{number[string(cut)]}, recalled); diff != "" {
		t.Errorf("recalled (-want +got):\n%s", diff)
	}
	whole, _ := exportTo(t, n, c, proto.ExportRequest{Expr: "auto", Unit: proto.UnitUsers})
	want := map[int64]bool{}
	for _, r := range linesOf(t, whole, proto.ContentAudience) {
		want[r.Ordinal] = true
	}
	if diff := cmp.Diff(want, now); diff != "" {
		t.Errorf("the earlier rows with the delta (-want +got):\n%s", diff)
	}
	// By identities, what was taken by users is not compared with.
	if _, err := n.OpenAudience(t.Context(), c, &proto.ExportRequest{Expr: "auto", Since: since}); proto.CodeOf(err) != proto.CodeConflict {
		t.Errorf("another unit: %v", err)
	}
	if _, err := exports.ReadSince(first, proto.UnitIdentities); proto.CodeOf(err) != proto.CodeInvalid {
		t.Errorf("another unit: %v", err)
	}
}

// Who is named as a member of a user is recalled by a delta by identities.
func TestMembersAreRecalled(t *testing.T) {
	n := testNode(t, t.TempDir(), lanes(3))
	defer closeNode(t, n)
	c := acme(t, n)
	if _, err := n.Define(t.Context(), c, proto.SegmentSpec{ID: "auto", Scope: "user", When: `count(event.section == "auto", "30d") >= 1`}); err != nil {
		t.Fatal(err)
	}
	peopleOf(t, n, c, 12)
	first, _ := exportTo(t, n, c, proto.ExportRequest{Expr: "auto", Unit: proto.UnitUsers, Members: true})
	var cut proto.Identity
	var id int64
	for _, r := range linesOf(t, first, proto.ContentAudience) {
		for i, x := range r.Members {
			if x != r.Identity {
				cut, id = proto.Identity(x), r.MemberIDs[i]
			}
		}
	}
	if _, err := n.OptOut(t.Context(), proto.ClientInfo{}, cut, false); err != nil {
		t.Fatal(err)
	}
	if _, err := exports.ReadSince(first, proto.UnitUsers); proto.CodeOf(err) != proto.CodeInvalid {
		t.Errorf("a delta by users to one with members: %v", err)
	}
	since, err := exports.ReadSince(first, proto.UnitIdentities)
	if err != nil {
		t.Fatal(err)
	}
	settle(t, n)
	second, m := exportTo(t, n, c, proto.ExportRequest{Expr: "auto", Since: since})
	found := false
	for _, r := range linesOf(t, second, proto.ContentRecall) {
		found = found || int64(r.Lane)<<32|r.Ordinal == id
	}
	// Whoever was known through the user only is recalled with it.
	if !found {
		t.Errorf("%s with the number %d is cut out, recalled are %+v", cut, id, m.Since)
	}
}
