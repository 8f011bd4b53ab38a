package engine_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kith/engine"
	"kith/proto"
	"kith/proto/pb"
	"kith/segments"
)

// writtenOut is what a saved audience stands for, all read and written out.
func writtenOut(saved map[proto.AudienceID]string, name proto.AudienceID) error {
	a, err := segments.ParseAudience("@" + string(name))
	if err == nil {
		_, err = a.Expand(func(id proto.AudienceID) (*segments.Audience, error) {
			if _, ok := saved[id]; !ok {
				return nil, proto.Errorf(proto.CodeNotFound, "no @%s", id)
			}
			return segments.ParseAudience(saved[id])
		})
	}
	return err
}

// maySave is the rule of what may be saved: what it takes is there, and nothing that
// could be counted can no longer be.
func maySave(saved map[proto.AudienceID]string, id proto.AudienceID, expr string) bool {
	after := maps.Clone(saved)
	after[id] = expr
	for name := range after {
		if writtenOut(after, name) != nil && (name == id || writtenOut(saved, name) == nil) {
			return false
		}
	}
	return true
}

// Whether an audience may be saved is decided by sums where they suffice, and as if all
// were written out.
func TestSavingAgreesWithWritingOut(t *testing.T) {
	long := strings.Repeat("s", 64)
	names := []proto.AudienceID{"a", "b", "c", "d", "e", "f"}
	for i := range segments.AudienceNestingMax {
		names = append(names, proto.AudienceID(fmt.Sprint("n", i)))
	}
	rapid.Check(t, func(t *rapid.T) {
		shelf, saved := engine.NewShelf("s", proto.SegmentID(long)), map[proto.AudienceID]string{}
		name := rapid.SampledFrom(names)
		expr := rapid.Custom(func(t *rapid.T) string {
			piece := rapid.SampledFrom([]string{"s", long, "!s", "(s | !s)", "@" + string(name.Draw(t, "first"))}).Draw(t, "piece")
			times := rapid.SampledFrom([]int{1, 1, 1, 2, 10, 90}).Draw(t, "times")
			sign := rapid.SampledFrom([]string{" | ", " & "}).Draw(t, "sign")
			text := strings.Repeat(piece+sign, times-1) + piece
			if rapid.IntRange(0, 3).Draw(t, "named") > 0 {
				text += sign + "@" + string(name.Draw(t, "second"))
			}
			if rapid.IntRange(0, 5).Draw(t, "nested") == 0 {
				n := rapid.SampledFrom([]int{1, 30, 110}).Draw(t, "levels")
				text = strings.Repeat("!(s & ", n) + text + strings.Repeat(")", n)
			}
			return text
		})
		for range rapid.IntRange(1, 40).Draw(t, "edits") {
			id, expr := name.Draw(t, "id"), expr.Draw(t, "expr")
			a, err := segments.ParseAudience(expr)
			if err != nil {
				t.Fatal(err)
			}
			expr = a.String()
			_, err = shelf.Check(id, expr)
			if want := maySave(saved, id, expr); (err == nil) != want {
				t.Fatalf("@%s as %q among %q: %v, want allowed %v", id, expr, saved, err, want)
			}
			if err == nil {
				shelf.Save(id, expr)
				saved[id] = expr
			}
		}
	})
}

// An edit that is small itself may be what others cannot be written out with.
func TestSavingIsBounded(t *testing.T) {
	long := strings.Repeat("s", 64)
	nested := func(levels int, inner string) string {
		return strings.Repeat("!(s & ", levels) + inner + strings.Repeat(")", levels)
	}
	for what, tt := range map[string]struct{ other, expr, want string }{
		"parentheses": {nested(99, "@x"), nested(110, "s"), "nested more than 200 deep"},
		"bytes":       {strings.Repeat("@x | ", 89) + "@x", strings.Repeat(long+" | ", 10) + long, "cannot be written out"},
		"mentions":    {strings.Repeat("@x | ", 89) + "@x", strings.Repeat("s | ", 11) + "s", "more than 1000 times"},
	} {
		shelf := engine.NewShelf("s", proto.SegmentID(long))
		shelf.Save("x", "s")
		shelf.Save("other", tt.other)
		if _, err := shelf.Check("x", tt.expr); proto.CodeOf(err) != proto.CodeExpr || !strings.Contains(err.Error(), "@other, which names @x") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// crowded is a shelf of 999 audiences of 4 KB that name the thousandth.
func crowded() *engine.Shelf {
	long := proto.SegmentID(strings.Repeat("s", 60))
	shelf := engine.NewShelf("s", long)
	shelf.Save("x", "s")
	for i := range 999 {
		shelf.Save(proto.AudienceID(fmt.Sprint("n", i)), "@x"+strings.Repeat(" | "+string(long), 62))
	}
	return shelf
}

// Editing one that many name writes none of them out, unless it is close to what can be
// counted: what that takes is the client's to pay.
func TestSavingWritesOutLittle(t *testing.T) {
	shelf := crowded()
	if n, err := shelf.Check("x", "s | s"); err != nil || n != 0 {
		t.Errorf("%d are written out, %v", n, err)
	}
	if n, err := shelf.Check("x", strings.Repeat("s | ", 950)+"s"); proto.CodeOf(err) != proto.CodeExpr || n != 1 {
		t.Errorf("of too many mentions %d are written out, %v", n, err)
	}
}

// What a client's own key has looked at in vain counts as an edit.
func TestRefusedSavesCount(t *testing.T) {
	x := newEdit(t, 1)
	defer closeNode(t, x.n)
	x.define("a", "identity", `count(true) >= 1`)
	own := proto.ForItself(t.Context())
	save := func(id proto.AudienceID, expr string) error {
		_, err := x.n.SaveAudience(own, x.c, proto.AudienceSpec{ID: id, Expr: expr})
		return err
	}
	if err := errors.Join(save("one", "a"), save("two", "@one")); err != nil {
		t.Fatal(err)
	}
	for what, tt := range map[string]struct {
		do   func() error
		code proto.Code
		cost float64
	}{
		"a refused edit":             {func() error { return save("one", "@two") }, proto.CodeExpr, 1},
		"a refused deletion":         {func() error { return x.n.DropAudience(own, x.c, "one") }, proto.CodeConflict, 1},
		"the same by an admin's key": {func() error { return x.n.DropAudience(t.Context(), x.c, "one") }, proto.CodeConflict, 0},
		"one that is not there":      {func() error { return x.n.DropAudience(own, x.c, "none") }, proto.CodeNotFound, 0},
	} {
		before := x.n.DefinitionsLeft(x.c)
		err := tt.do()
		if got := before - x.n.DefinitionsLeft(x.c); proto.CodeOf(err) != tt.code || got > tt.cost || got < tt.cost-0.5 {
			t.Errorf("%s: %v, and counts %.2f, want %.0f", what, err, got, tt.cost)
		}
	}
}

// laborious is a node with an audience "x" whose edits, all of which labour gives one
// of, have it and those that name it written out.
func laborious(t *testing.T, naming int) (x *edit, labour func() error) {
	x = newEdit(t, 1)
	t.Cleanup(func() { closeNode(t, x.n) })
	x.define("a", "identity", `count(true) >= 1`)
	more := 0
	save := func(ctx context.Context, id proto.AudienceID, expr string) error {
		_, err := x.n.SaveAudience(ctx, x.c, proto.AudienceSpec{ID: id, Expr: expr})
		return err
	}
	labour = func() error {
		more++
		return save(proto.ForItself(t.Context()), "x", strings.Repeat("!(a & ", 110)+"(a"+strings.Repeat(" | a", more)+")"+strings.Repeat(")", 110))
	}
	err := save(t.Context(), "x", "a")
	for i := range naming {
		err = errors.Join(err, save(t.Context(), proto.AudienceID(fmt.Sprint("n", i)), "@x"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return x, labour
}

// An edit that counts as more than is left is done and owed, and what comes while
// something is owed is refused before any work.
func TestWorkIsOwed(t *testing.T) {
	const naming = 150
	x, labour := laborious(t, naming)
	x.n.LeaveDefinitions(x.c, 20_000)
	work := testing.AllocsPerRun(1, func() {
		if err := labour(); err != nil {
			t.Fatal(err)
		}
	})
	x.n.LeaveDefinitions(x.c, 2)
	if err := labour(); err != nil {
		t.Errorf("with less left than it counts as: %v", err)
	}
	owed := -x.n.DefinitionsLeft(x.c)
	if owed > naming || owed < naming-10 {
		t.Errorf("%.2f are owed, want %d", owed, naming)
	}
	var err error
	refused := testing.AllocsPerRun(1, func() { err = labour() })
	if wait := proto.RetryAfterOf(err); proto.CodeOf(err) != proto.CodeRateLimited || wait > (naming+1)*time.Second || wait < (naming-10)*time.Second {
		t.Errorf("while that is owed: %v, and to be tried again in %v", err, wait)
	}
	if refused > work/10 {
		t.Errorf("to refuse an edit takes %.0f allocations, to do it %.0f", refused, work)
	}
	if now := -x.n.DefinitionsLeft(x.c); now > owed {
		t.Errorf("refused edits are owed too: %.2f after %.2f", now, owed)
	}
}

// An edit that has to be decided on again, because another node wrote something, counts
// once.
func TestConflictsCountOnce(t *testing.T) {
	const naming = 10
	x, labour := laborious(t, naming)
	x.n.LeaveDefinitions(x.c, 200)
	x.n.Contend(&pb.Control{Body: &pb.Control_SaveAudience{SaveAudience: &pb.SaveAudience{Client: uint32(x.c.ID), Id: "other", Expr: "a"}}})
	if err := labour(); err != nil {
		t.Fatal(err)
	}
	if _, ok := x.n.SavedAudience(x.c, "other"); !ok {
		t.Fatal("nothing came between")
	}
	const counts = 1 + naming + 1 // what is written out, and the record
	if took := 200 - x.n.DefinitionsLeft(x.c); took > counts || took < counts-5 {
		t.Errorf("it counts as %.2f, want %d", took, counts)
	}
}

// BenchmarkEditSaved decides on an edit of an audience that 999 name.
func BenchmarkEditSaved(b *testing.B) {
	shelf := crowded()
	for b.Loop() {
		if _, err := shelf.Check("x", "s | s"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRefusedDrop looks who names an audience.
func BenchmarkRefusedDrop(b *testing.B) {
	shelf := crowded()
	for b.Loop() {
		if shelf.User("x") != "n0" {
			b.Fatal("none")
		}
	}
}
