package engine_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/engine"
	"kith/proto"
	"kith/proto/pb"
	"kith/segments"
)

// hashed is the n-th account of a list.
func hashed(n int) proto.Identity { return proto.Identity(fmt.Sprintf("account:%032x", n+1)) }

func accounts(from, to int) (list []proto.Identity) {
	for i := from; i < to; i++ {
		list = append(list, hashed(i))
	}
	return list
}

// logIn is an event of a browser with an account.
func logIn(c proto.ClientInfo, visitor string, account proto.Identity) *proto.Event {
	e := page(c, visitor, "home", time.Now())
	e.Identities = append(e.Identities, account)
	return e
}

// logIns has accounts [from, to) log in, each on a browser of its own.
func logIns(t *testing.T, n *engine.Node, c proto.ClientInfo, from, to int) {
	t.Helper()
	var list []*proto.Event
	for i := from; i < to; i++ {
		list = append(list, logIn(c, fmt.Sprint("of", i), hashed(i)))
	}
	submit(t, n, list...)
}

func begin(t *testing.T, n *engine.Node, c proto.ClientInfo, segment string, mode proto.ImportMode) proto.Import {
	t.Helper()
	i, err := n.BeginImport(t.Context(), c, proto.ImportSpec{Segment: proto.SegmentID(segment), Mode: mode})
	if err != nil {
		t.Fatalf("begin: %v", err)
	}
	return i
}

// rowsOf are the commands of an import's rows.
func rowsOf(n *engine.Node, c proto.ClientInfo, number uint64, ids []proto.Identity) *proto.Batch {
	var b proto.Batch
	for _, id := range ids {
		b.AddTraits(n.Hasher(), &proto.Traits{
			Client: c.ID, Space: c.Space, Identity: id, Received: proto.MillisOf(time.Now()),
			Set: []proto.Prop{{Key: proto.StagedTrait(number), Value: proto.FlagOf(true)}},
		})
	}
	return &b
}

func addRows(t *testing.T, n *engine.Node, c proto.ClientInfo, number uint64, ids []proto.Identity) {
	t.Helper()
	for part := range slices.Chunk(ids, 300) {
		r, err := n.AddToImport(t.Context(), c, number, rowsOf(n, c, number, part))
		if err != nil || r.Err != nil {
			t.Fatalf("rows: %v, %v", err, r.Err)
		}
	}
}

// load imports a list as a whole.
func load(t *testing.T, n *engine.Node, c proto.ClientInfo, segment string, mode proto.ImportMode, floor int, ids ...proto.Identity) proto.Import {
	t.Helper()
	i := begin(t, n, c, segment, mode)
	addRows(t, n, c, i.Number, ids)
	return commit(t, n, c, i.Number, floor)
}

func commit(t *testing.T, n *engine.Node, c proto.ClientInfo, number uint64, floor int) proto.Import {
	t.Helper()
	i, err := n.CommitImport(t.Context(), c, number, floor)
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	if !i.State.Final() {
		t.Fatalf("the import is %v ten seconds after its commit", i.State)
	}
	return i
}

// swept waits until nothing is left of imports that failed.
func swept(t *testing.T, n *engine.Node, c proto.ClientInfo) {
	t.Helper()
	until(t, n, 10*time.Second, "failed imports are swept", func() bool { return !n.Unswept(c) })
}

// settles waits until an identity is in the segments: over several lanes that takes
// its time.
func settles(t *testing.T, n *engine.Node, c proto.ClientInfo, id proto.Identity, want ...proto.SegmentID) {
	t.Helper()
	slices.Sort(want)
	until(t, n, 10*time.Second, fmt.Sprint(id, " is in ", want), func() bool {
		_, got := lookup(t, n, c, id)
		return slices.Equal(got, want)
	})
}

func traitsOf(t *testing.T, n *engine.Node, c proto.ClientInfo, id proto.Identity) map[string]any {
	t.Helper()
	rec, err := n.Record(t.Context(), c, id)
	if err != nil {
		t.Fatal(err)
	}
	return rec.Traits
}

// A list becomes a segment that shows at its people's browsers too; replacing,
// adding and removing change who is in it and nothing else; opt-outs and erasures
// take people off it.
func TestImportedSegment(t *testing.T) {
	for _, lanes := range []int{1, 3} {
		t.Run(fmt.Sprint("lanes=", lanes), func(t *testing.T) { testImportedSegment(t, lanes) })
	}
}

func testImportedSegment(t *testing.T, lanes int) {
	n := testNode(t, t.TempDir(), func(c *engine.Config) { c.Lanes = lanes })
	defer closeNode(t, n)
	c := acme(t, n)
	define(t, n, "home", `count(event.section == "home", "1d") >= 1`)
	logIns(t, n, c, 0, 60)
	i := load(t, n, c, "crm", proto.ImportCreate, 50, accounts(0, 120)...)
	if i.State != proto.ImportDone || i.Identities != 120 || i.Matched != 60 || i.ToldIdentities == 0 {
		t.Fatalf("the import is %v, %+v", i.State, i)
	}
	settles(t, n, c, hashed(3), "crm")
	settles(t, n, c, hashed(100), "crm") // nobody yet
	until(t, n, 10*time.Second, "browsers are in", func() bool { return count(t, n, c, "crm") == 180 })
	if x, err := n.Count(t.Context(), c, "crm", ""); err != nil || !x.Exact {
		t.Errorf("a count of the list is not exact: %v", err)
	}
	settles(t, n, c, "browser:of3", "crm", "home")
	// Who logs in later is found.
	submit(t, n, logIn(c, "late", hashed(100)))
	until(t, n, 10*time.Second, "a later log-in is in", func() bool {
		_, list := lookup(t, n, c, "browser:late")
		return slices.Contains(list, "crm")
	})

	if i := load(t, n, c, "crm", proto.ImportReplace, 50, accounts(10, 70)...); i.State != proto.ImportDone {
		t.Fatalf("the replacement is %v", i.State)
	}
	settles(t, n, c, hashed(3))
	settles(t, n, c, hashed(10), "crm")
	until(t, n, 10*time.Second, "who left is out", func() bool { return count(t, n, c, "crm") == 60+50 })
	settles(t, n, c, "browser:of3", "home")
	if seen, _ := lookup(t, n, c, hashed(119)); seen.Known {
		t.Error("somebody who was known by the list only is known after it left it")
	}
	if got := traitsOf(t, n, c, hashed(10)); len(got) != 1 || got["import.crm"] == nil {
		t.Errorf("an account of the list has traits %v", got)
	}
	if i := load(t, n, c, "crm", proto.ImportAdd, 50, hashed(3), hashed(200)); i.State != proto.ImportDone || i.ToldIdentities != 0 {
		t.Fatalf("the addition is %v, %+v", i.State, i)
	}
	settles(t, n, c, hashed(3), "crm")
	settles(t, n, c, hashed(10), "crm")
	if i := load(t, n, c, "crm", proto.ImportRemove, 50, hashed(10), hashed(200), hashed(999)); i.State != proto.ImportDone {
		t.Fatalf("the removal is %v", i.State)
	}
	settles(t, n, c, hashed(10))
	settles(t, n, c, hashed(11), "crm")
	for _, id := range []proto.Identity{hashed(200), hashed(999)} {
		if seen, _ := lookup(t, n, c, id); seen.Known {
			t.Errorf("%s is known after it was removed", id)
		}
	}

	// Opt-outs and erasures.
	if s, err := n.OptOut(t.Context(), proto.ClientInfo{}, hashed(11), false); err != nil || !s.Final {
		t.Fatalf("opt-out: %+v, %v", s, err)
	}
	if i := load(t, n, c, "crm", proto.ImportAdd, 40, hashed(11)); i.State != proto.ImportDone || i.Identities != 0 {
		t.Errorf("an import of somebody who opted out: %+v", i)
	}
	if seen, list := lookup(t, n, c, hashed(11)); seen.Known || len(list) > 0 {
		t.Errorf("somebody who opted out is imported: %+v, %v", seen, list)
	}
	settles(t, n, c, "browser:of11", "home")
	if _, err := n.Erase(t.Context(), &c, hashed(65)); err != nil {
		t.Fatal(err)
	}
	if seen, _ := lookup(t, n, c, hashed(65)); seen.Known {
		t.Error("who was erased is known")
	}
	swept(t, n, c)
	verifyClean(t, n)
}

// Fewer than the floor are not activated: what was loaded leaves nothing, and the
// list of before answers.
func TestImportBelowTheFloor(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	logIns(t, n, c, 0, 60)
	if i := load(t, n, c, "crm", proto.ImportCreate, 50, accounts(11, 1000)...); i.State != proto.ImportBelow {
		t.Fatalf("49 that match: %v", i.State)
	}
	if _, ok := n.Segment(c, "crm"); ok {
		t.Error("there is a segment")
	}
	swept(t, n, c)
	if seen, _ := lookup(t, n, c, hashed(500)); seen.Known {
		t.Error("a refused import left somebody behind")
	}
	if i := load(t, n, c, "crm", proto.ImportCreate, 50, accounts(10, 60)...); i.State != proto.ImportDone || i.ToldIdentities != 0 {
		t.Fatalf("50 that match: %v, %+v", i.State, i)
	}
	for name, x := range map[string]struct {
		mode proto.ImportMode
		ids  []proto.Identity
	}{"replace": {proto.ImportReplace, accounts(0, 40)}, "remove": {proto.ImportRemove, accounts(10, 11)}} {
		if i := load(t, n, c, "crm", x.mode, 50, x.ids...); i.State != proto.ImportBelow {
			t.Errorf("%s: %v", name, i.State)
		}
	}
	if got := count(t, n, c, "crm"); got != 100 {
		t.Errorf("after refused imports %d are in the segment, want 50 accounts and their browsers", got)
	}
	// Repeated rows and several devices of one person are one.
	many := slices.Repeat(accounts(0, 49), 3)
	for i := range 49 {
		many = append(many, proto.Identity(fmt.Sprint("browser:of", i)))
	}
	if i := load(t, n, c, "again", proto.ImportCreate, 50, many...); i.State != proto.ImportBelow {
		t.Errorf("49 people with 98 identities: %v", i.State)
	}
	// Other imports make nobody known.
	if i := load(t, n, c, "twice", proto.ImportCreate, 0, accounts(300, 400)...); i.State != proto.ImportDone {
		t.Fatalf("without a floor: %v", i.State)
	}
	if i := load(t, n, c, "thrice", proto.ImportCreate, 50, accounts(300, 400)...); i.State != proto.ImportBelow {
		t.Errorf("known by another import only: %v", i.State)
	}
	swept(t, n, c)
	verifyClean(t, n)
}

// An import and the same with one person more are told alike, whether the client
// knows that person or not, or the person opted out.
func TestImportsThatDifferByOnePerson(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	logIns(t, n, c, 0, 131)
	submit(t, n, logIn(c, "known", hashed(5000)))
	if _, err := n.OptOut(t.Context(), proto.ClientInfo{}, hashed(5001), false); err != nil {
		t.Fatal(err)
	}
	list := accounts(0, 300)
	told := func(segment string, mode proto.ImportMode, ids ...proto.Identity) string {
		i := load(t, n, c, segment, mode, 50, ids...)
		return fmt.Sprint(i.State, i.ToldIdentities, i.ToldMatched)
	}
	first := told("a", proto.ImportCreate, list...)
	if !strings.HasPrefix(first, "active 3") && !strings.HasPrefix(first, "active 290") {
		t.Fatalf("the first import is told as %s", first)
	}
	for i, victim := range []proto.Identity{hashed(5000), hashed(5001), hashed(5002)} {
		one := append(slices.Clone(list), victim)
		if got := told(fmt.Sprint("b", i), proto.ImportCreate, one...); got != first {
			t.Errorf("another list with %d more: %s, without %s", i, got, first)
		}
		if got := told("a", proto.ImportReplace, one...); got != first {
			t.Errorf("the list with %d more: %s, without %s", i, got, first)
		}
	}
	// Of scope identity, size and count are those of the list, whoever is known.
	var sizes []uint64
	for i, victim := range []proto.Identity{hashed(5000), hashed(5002)} {
		id := proto.SegmentID(fmt.Sprint("c", i))
		x, err := n.BeginImport(t.Context(), c, proto.ImportSpec{Segment: id, Scope: "identity"})
		if err != nil {
			t.Fatal(err)
		}
		addRows(t, n, c, x.Number, append(slices.Clone(list), victim))
		commit(t, n, c, x.Number, 50)
		spec, _ := n.Segment(c, id)
		sizes = append(sizes, *spec.Size, count(t, n, c, string(id)))
	}
	if want := uint64(len(list) + 1); slices.Min(sizes) != want || slices.Max(sizes) != want {
		t.Errorf("sizes and counts of scope identity are %v, want %d", sizes, want)
	}
	if got := told("a", proto.ImportReplace, list[1:]...); got != first {
		t.Errorf("the list with one fewer: %s, with %s", got, first)
	}
	if got := told("a", proto.ImportReplace, accounts(0, 500)...); got == first {
		t.Errorf("a list that differs much is told as before: %s", got)
	}
}

// A client never sees, changes or matches by another one's lists and facts, in a
// shared space neither.
func TestImportsOfTwoClients(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	for _, name := range []proto.ClientName{"one", "two"} {
		if _, err := n.CreateKey(t.Context(), name, proto.RoleClient, "both"); err != nil {
			t.Fatal(err)
		}
	}
	one, _ := n.Client("one")
	two, _ := n.Client("two")
	logIns(t, n, one, 0, 60)
	if i := load(t, n, two, "crm", proto.ImportCreate, 50, accounts(0, 60)...); i.State != proto.ImportBelow {
		t.Errorf("another client's people are matched: %v", i.State)
	}
	i := begin(t, n, one, "crm", proto.ImportCreate)
	addRows(t, n, one, i.Number, accounts(0, 60))
	for what, err := range map[string]error{
		"rows": func() error {
			_, err := n.AddToImport(t.Context(), two, i.Number, rowsOf(n, two, i.Number, accounts(0, 1)))
			return err
		}(),
		"commit": func() error { _, err := n.CommitImport(t.Context(), two, i.Number, 0); return err }(),
		"end":    n.EndImport(t.Context(), two, i.Number),
	} {
		if proto.CodeOf(err) != proto.CodeNotFound {
			t.Errorf("%s of another client's import: %v", what, err)
		}
	}
	if commit(t, n, one, i.Number, 50).State != proto.ImportDone {
		t.Fatal("it was not accepted")
	}
	for _, x := range n.Imports(two) {
		if x.Number == i.Number {
			t.Error("another client's import is told of")
		}
	}
	swept(t, n, two)
	wantSegments(t, n, one, hashed(1), "crm")
	wantSegments(t, n, two, hashed(1))
	if got := traitsOf(t, n, two, hashed(1)); len(got) != 0 {
		t.Errorf("the other client sees %v", got)
	}
	if _, err := n.EraseClient(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	until(t, n, 20*time.Second, "the client is erased", func() bool {
		x, _ := n.ClientErasure("one")
		return x.Erased
	})
	if list := n.Imports(one); len(list) != 0 {
		t.Errorf("an ended client has imports %v", list)
	}
	verifyClean(t, n)
}

// What is reserved for imports cannot be looked at or taken by other rules, and
// imports cannot take a segment with a rule of its own.
func TestImportsAndOtherRules(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	logIns(t, n, c, 0, 60)
	define(t, n, "own", `count(true) >= 1`)
	i := begin(t, n, c, "crm", proto.ImportCreate)
	addRows(t, n, c, i.Number, accounts(0, 3))
	put := func(id, when string) error {
		_, err := n.Define(t.Context(), c, proto.SegmentSpec{ID: proto.SegmentID(id), When: when})
		return err
	}
	wants := func(what string, err error, code proto.Code) {
		t.Helper()
		if proto.CodeOf(err) != code {
			t.Errorf("%s: %v, want %q", what, err, code)
		}
	}
	wants("a rule over rows", put("x", fmt.Sprintf(`trait(%q) == true`, proto.StagedTrait(i.Number))), proto.CodeRule)
	wants("a rule over a list", put("x", `trait("import.crm") >= 1 || count(true) >= 5`), proto.CodeRule)
	_, err := n.Preview(t.Context(), c, proto.SegmentSpec{ID: "x", When: `trait("import.crm") >= 1`})
	wants("a preview of it", err, proto.CodeRule)
	wants("a rule under the import's name", put("crm", `count(true) >= 1`), proto.CodeConflict)
	_, err = n.BeginImport(t.Context(), c, proto.ImportSpec{Segment: "own", Mode: proto.ImportReplace})
	wants("an import over a rule", err, proto.CodeConflict)
	_, err = n.BeginImport(t.Context(), c, proto.ImportSpec{Segment: "none", Mode: proto.ImportRemove})
	wants("a removal from nothing", err, proto.CodeNotFound)
	_, err = n.BeginImport(t.Context(), c, proto.ImportSpec{Segment: proto.SegmentID(strings.Repeat("x", 58))})
	wants("a long name", err, proto.CodeSegment)
	// One that is begun anew takes the place of the one before.
	again := begin(t, n, c, "crm", proto.ImportCreate)
	_, err = n.AddToImport(t.Context(), c, i.Number, rowsOf(n, c, i.Number, accounts(0, 1)))
	wants("rows of the import before", err, proto.CodeConflict)
	_, err = n.CommitImport(t.Context(), c, i.Number, 0)
	wants("a commit of the import before", err, proto.CodeConflict)
	addRows(t, n, c, again.Number, accounts(0, 60))
	commit(t, n, c, again.Number, 50)
	_, err = n.AddToImport(t.Context(), c, again.Number, rowsOf(n, c, again.Number, accounts(0, 1)))
	wants("rows after the commit", err, proto.CodeConflict)
	_, err = n.BeginImport(t.Context(), c, proto.ImportSpec{Segment: "crm", Mode: proto.ImportCreate})
	wants("a list that is there", err, proto.CodeConflict)
	wants("its rule", put("crm", `count(true) >= 1`), proto.CodeConflict)
	spec, _ := n.Segment(c, "crm")
	wants("the same rule", put("crm", spec.When), "")
	if err := put("both", `member("crm") && count(event.section == "home") >= 1`); err != nil {
		t.Errorf("a rule that names the list's segment: %v", err)
	}
	// A list that is made anew does not have who was on the one that was deleted.
	if err := n.Undefine(t.Context(), c, "both"); err != nil {
		t.Fatal(err)
	}
	if err := n.Undefine(t.Context(), c, "crm"); err != nil {
		t.Fatal(err)
	}
	load(t, n, c, "crm", proto.ImportCreate, 0, accounts(1, 2)...)
	wantSegments(t, n, c, hashed(1), "crm")
	wantSegments(t, n, c, hashed(2))
	swept(t, n, c)
	if got := traitsOf(t, n, c, hashed(2)); len(got) != 0 {
		t.Errorf("a list that was deleted is still at somebody: %v", got)
	}
	// An addition makes a list that is not there, which others change.
	load(t, n, c, "fresh", proto.ImportAdd, 50, accounts(0, 60)...)
	wantSegments(t, n, c, hashed(2), "fresh")
	load(t, n, c, "fresh", proto.ImportRemove, 50, hashed(2))
	wantSegments(t, n, c, hashed(2))
	wantSegments(t, n, c, hashed(3), "fresh")
	for k := range 9 {
		_, err = n.BeginImport(t.Context(), c, proto.ImportSpec{Segment: proto.SegmentID(fmt.Sprint("l", k))})
	}
	wants("many at once", err, proto.CodeRateLimited)
	verifyClean(t, n)
}

// What was loaded is there after a restart, and so is what was decided: an open
// import takes rows, a committed one goes on.
func TestImportsOverARestart(t *testing.T) {
	dir := t.TempDir()
	n := testNode(t, dir)
	c := acme(t, n)
	logIns(t, n, c, 0, 60)
	load(t, n, c, "crm", proto.ImportCreate, 50, accounts(0, 60)...)
	open := begin(t, n, c, "crm", proto.ImportReplace)
	addRows(t, n, c, open.Number, accounts(0, 55))
	closeNode(t, n)

	n = testNode(t, dir)
	wantSegments(t, n, c, hashed(58), "crm")
	addRows(t, n, c, open.Number, accounts(55, 57))
	before := n.Imports(c)
	if i := commit(t, n, c, open.Number, 50); i.State != proto.ImportDone || i.Identities != 57 {
		t.Fatalf("after the restart: %v, %+v", i.State, i)
	}
	wantSegments(t, n, c, hashed(56), "crm")
	wantSegments(t, n, c, hashed(58))
	closeNode(t, n)

	n = testNode(t, dir)
	defer closeNode(t, n)
	list := n.Imports(c)
	if len(list) != 2 || list[0].State != proto.ImportDone {
		t.Errorf("imports are %+v", list)
	}
	if d := cmp.Diff(before[1], list[1]); d != "" {
		t.Errorf("the first import changed over the restart:\n%s", d)
	}
	verifyClean(t, n)
}

// An import that took effect cannot be given up; one that came to nothing has been.
func TestEndOfAnEndedImport(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	logIns(t, n, c, 0, 3)
	given := begin(t, n, c, "given", proto.ImportCreate)
	below := load(t, n, c, "below", proto.ImportCreate, 50, accounts(0, 3)...)
	active := load(t, n, c, "crm", proto.ImportCreate, 0, accounts(0, 3)...)
	for _, x := range []struct {
		what   string
		number uint64
		want   proto.Code
	}{
		{"an open one", given.Number, ""}, {"one that was given up", given.Number, ""}, {"one below the floor", below.Number, ""},
		{"an active one", active.Number, proto.CodeConflict},
	} {
		if err := n.EndImport(t.Context(), c, x.number); proto.CodeOf(err) != x.want {
			t.Errorf("the end of %s: %v, want %q", x.what, err, x.want)
		}
	}
	if got := count(t, n, c, "crm"); got != 6 {
		t.Errorf("%d are in the active list", got)
	}
}

// An import that nobody commits ends after a day, and leaves nothing.
func TestImportGivenUp(t *testing.T) {
	var ahead atomic.Int64
	n := testNode(t, t.TempDir(), func(c *engine.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	defer closeNode(t, n)
	c := acme(t, n)
	old := begin(t, n, c, "old", proto.ImportCreate)
	addRows(t, n, c, old.Number, accounts(0, 3))
	ahead.Store(int64(25 * time.Hour))
	young := begin(t, n, c, "young", proto.ImportCreate)
	until(t, n, 20*time.Second, "the old import ends", func() bool {
		list := n.Imports(c)
		return list[1].Number == old.Number && list[1].State == proto.ImportEnded
	})
	swept(t, n, c)
	list := n.Imports(c)
	if list[0].Number != young.Number || list[0].State != proto.ImportOpen || !strings.Contains(list[1].Reason, "within a day") {
		t.Errorf("the imports are %+v", list)
	}
	if seen, _ := lookup(t, n, c, hashed(1)); seen.Known {
		t.Error("a row of it is still known")
	}
}

// Lists that imports under way will make count as lists, and imports that were
// committed as imports under way, so that all their marks have room at somebody.
func TestImportsAreBounded(t *testing.T) {
	lists := make([]proto.SegmentID, 199)
	for i := range lists {
		lists[i] = proto.SegmentID(fmt.Sprint("l", i))
	}
	under := func(state proto.ImportState, ids ...proto.SegmentID) (list []proto.Import) {
		for _, id := range ids {
			list = append(list, proto.Import{Segment: id, State: state})
		}
		return list
	}
	for _, x := range []struct {
		name    string
		imports []proto.Import
		id      proto.SegmentID
		mode    proto.ImportMode
		want    proto.Code
	}{
		{"the 200th list", nil, "x", proto.ImportCreate, ""},
		{"the 201st, with one that takes rows", under(proto.ImportOpen, "y"), "x", proto.ImportCreate, proto.CodeTooLarge},
		{"the 201st, with one that merges", under(proto.ImportMerging, "y"), "x", proto.ImportAdd, proto.CodeTooLarge},
		{"the 200th again", under(proto.ImportOpen, "x"), "x", proto.ImportCreate, ""},
		{"beside a change of a list", under(proto.ImportSealed, "l1", "l2"), "x", proto.ImportCreate, ""},
		{"beside one that ended", under(proto.ImportEnded, "y"), "x", proto.ImportCreate, ""},
		{"the 8th at once", under(proto.ImportSealed, lists[:7]...), "l9", proto.ImportAdd, ""},
		{"the 9th at once", under(proto.ImportSealed, lists[:8]...), "l9", proto.ImportAdd, proto.CodeRateLimited},
		{"the 9th beside those that are done", under(proto.ImportDone, lists[:8]...), "l9", proto.ImportAdd, ""},
	} {
		err := engine.CheckOpenImport(lists, x.imports, proto.ImportSpec{Segment: x.id, Mode: x.mode})
		if proto.CodeOf(err) != x.want {
			t.Errorf("%s: %v, want %q", x.name, err, x.want)
		}
	}
}

// Two hundred imports a day are the most, of a day on which a clock was wrong too, and
// of that one only.
func TestImportsOfADay(t *testing.T) {
	at := func(day proto.Day) proto.Millis { return proto.MillisOf(day.Start()) }
	today := proto.DayOf(time.Now())
	ahead := today + 1500
	many := slices.Repeat([]proto.Millis{at(today)}, 200)
	for name, x := range map[string]struct {
		begun []proto.Millis
		want  proto.Code
	}{
		"199 today":                             {many[1:], ""},
		"200 today":                             {many, proto.CodeRateLimited},
		"200 yesterday":                         {slices.Repeat([]proto.Millis{at(today - 1)}, 200), ""},
		"200 while a clock was ahead":           {slices.Repeat([]proto.Millis{at(ahead)}, 200), ""},
		"199 after one while a clock was ahead": {slices.Concat([]proto.Millis{at(ahead)}, many[1:]), ""},
		"200 after one while a clock was ahead": {slices.Concat([]proto.Millis{at(ahead)}, many), proto.CodeRateLimited},
	} {
		if err := engine.CheckOpenToday(today, x.begun...); proto.CodeOf(err) != x.want {
			t.Errorf("%s: %v, want %q", name, err, x.want)
		}
	}
}

// Of the imports that came to their end the last to do so stay known, however long ago
// they were begun.
func TestEndedImportsAreKept(t *testing.T) {
	var records []*pb.Import
	add := func(number uint64, segment string, state proto.ImportState) {
		records = append(records, &pb.Import{Number: number, Segment: segment, Mode: string(proto.ImportCreate), State: uint32(state)})
	}
	add(0, "slow", proto.ImportOpen)
	add(0, "again", proto.ImportOpen)
	add(1, "slow", proto.ImportSealed)
	first := uint64(len(records) + 1)
	for range 150 {
		add(0, "other", proto.ImportOpen)
		add(uint64(len(records)), "other", proto.ImportEnded)
	}
	add(0, "again", proto.ImportOpen) // ends the one before
	add(1, "slow", proto.ImportMerging)
	add(1, "slow", proto.ImportDone)
	known, err := engine.ImportsAfter(records)
	if err != nil {
		t.Fatal(err)
	}
	if known[1] == nil || known[1].State != proto.ImportDone {
		t.Errorf("the last to be done is %+v", known[1])
	}
	if known[2] == nil || known[2].State != proto.ImportEnded {
		t.Errorf("the last but one to end is %+v", known[2])
	}
	if known[first] != nil || len(known) != 101 { // and the one that is open
		t.Errorf("%d are known, the first to end: %+v", len(known), known[first])
	}
}

// An import's mark makes room for the list's at somebody who has no more.
func TestImportOfSomebodyFullOfMarks(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	logIns(t, n, c, 0, 1)
	full := proto.Traits{Client: c.ID, Space: c.Space, Identity: hashed(0), Received: proto.MillisOf(time.Now())}
	for i := range segments.ImportTraitsMax - 1 {
		full.Set = append(full.Set, proto.Prop{Key: proto.ListTrait(proto.SegmentID(fmt.Sprintf("l%03d", i))), Value: proto.NumberOf(1)})
	}
	var b proto.Batch
	b.AddTraits(n.Hasher(), &full)
	if r := n.Submit(t.Context(), &b); r.Err != nil {
		t.Fatal(r.Err)
	}
	if i := load(t, n, c, "crm", proto.ImportCreate, 0, hashed(0)); i.State != proto.ImportDone || i.Identities != 1 {
		t.Fatalf("the import is %v, %+v", i.State, i)
	}
	settles(t, n, c, hashed(0), "crm")
}

// An import of too few whose segment was made before a crash, and is named by now, is
// ended with the reason; neither it nor one that fails holds up the others.
func TestImportThatCannotBeRefused(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	i := begin(t, n, c, "crm", proto.ImportCreate)
	addRows(t, n, c, i.Number, accounts(0, 3))
	if err := n.DefineImported(t.Context(), c, i); err != nil {
		t.Fatal(err)
	}
	if _, err := n.SaveAudience(t.Context(), c, proto.AudienceSpec{ID: "mine", Expr: "crm"}); err != nil {
		t.Fatal(err)
	}
	if got := commit(t, n, c, i.Number, 50); got.State != proto.ImportEnded || !strings.Contains(got.Reason, "@mine") {
		t.Errorf("it is %v: %s", got.State, got.Reason)
	}
	if got := count(t, n, c, "crm"); got != 0 {
		t.Errorf("%d are in its segment", got)
	}
	swept(t, n, c)
	if got := load(t, n, c, "other", proto.ImportCreate, 0, hashed(1)); got.State != proto.ImportDone {
		t.Errorf("the next import is %v", got.State)
	}
	got := engine.FailingImports([]proto.Import{
		{Number: 1, State: proto.ImportSealed}, {Number: 2, State: proto.ImportMerging},
		{Number: 3, State: proto.ImportDone}, {Number: 4, State: proto.ImportSealed},
	})
	if d := cmp.Diff([]uint64{2, 1, 4}, got); d != "" {
		t.Errorf("where each fails (-want +got):\n%s", d)
	}
}

// Rows that come after their import's end, because their sender did not wait for
// them, are cleared away some time later, once.
func TestRowsAfterTheEndOfAnImport(t *testing.T) {
	var ahead atomic.Int64
	n := testNode(t, t.TempDir(), func(c *engine.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	defer closeNode(t, n)
	c := acme(t, n)
	i := load(t, n, c, "crm", proto.ImportCreate, 0, accounts(0, 3)...)
	late := rowsOf(n, c, i.Number, []proto.Identity{hashed(1), hashed(900)})
	if r := n.Submit(t.Context(), late); r.Err != nil {
		t.Fatal(r.Err)
	}
	until(t, n, 10*time.Second, "the rows are taken in", func() bool { seen, _ := lookup(t, n, c, hashed(900)); return seen.Known })
	ahead.Store(int64(3 * time.Minute))
	begin(t, n, c, "next", proto.ImportCreate)
	until(t, n, 10*time.Second, "they are cleared away", func() bool { seen, _ := lookup(t, n, c, hashed(900)); return !seen.Known })
	if got := traitsOf(t, n, c, hashed(1)); len(got) != 1 || got["import.crm"] == nil {
		t.Errorf("who is on the list has traits %v", got)
	}
	until(t, n, 10*time.Second, "nothing is left to be looked for", func() bool { return !n.LateRows(c) })
	verifyClean(t, n)
}

// While a lane stands still an import does not go on: what it would write is not taken
// in, and would be written again with each try.
func TestImportWaitsForStoppedLane(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	i := begin(t, n, c, "crm", proto.ImportCreate)
	addRows(t, n, c, i.Number, accounts(0, 50))
	until(t, n, 10*time.Second, "the rows are taken in", func() bool { seen, _ := lookup(t, n, c, hashed(49)); return seen.Known })
	n.StopLane(0)
	before := n.Lanes()[0].Logged
	for again := true; again; { // for what is on its way
		time.Sleep(300 * time.Millisecond)
		now := n.Lanes()[0].Logged
		again, before = now != before, now
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := n.MergeImport(ctx, c, i); proto.CodeOf(err) != proto.CodeQuarantined {
		t.Errorf("it ends with %v, want quarantine", err)
	}
	if now := n.Lanes()[0].Logged; now != before {
		t.Errorf("the log had %d entries and has %d", before, now)
	}
}

// Whoever goes on with a merge waits until its lanes obey what it knows of: what
// another node merged and it has not applied would look like a list of before.
func TestMergeWaitsForLanes(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	load(t, n, c, "crm", proto.ImportCreate, 0, accounts(0, 3)...)
	i := begin(t, n, c, "crm", proto.ImportReplace)
	n.AheadOfLanes(func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := n.MergeImport(ctx, c, i); proto.CodeOf(err) != proto.CodeTimeout {
			t.Errorf("it ends with %v, want that it was not in time", err)
		}
	})
	for _, id := range accounts(0, 3) {
		wantSegments(t, n, c, id, "crm")
	}
}

// Lanes take in marks of which this node has not read yet what they stand for. These are
// not stale; those of what came to its end are.
func TestStaleMarks(t *testing.T) {
	open := &pb.Import{Segment: "crm", State: uint32(proto.ImportOpen)}
	of := func(state proto.ImportState) *pb.Import { return &pb.Import{Number: 1, State: uint32(state), List: 1} }
	sealed := []*pb.Import{open, of(proto.ImportSealed)}
	merging := append(slices.Clone(sealed), of(proto.ImportMerging))
	done := append(slices.Clone(merging), of(proto.ImportDone))
	below := append(slices.Clone(sealed), of(proto.ImportBelow))
	row := func(number uint64) proto.Prop {
		return proto.Prop{Key: proto.StagedTrait(number), Value: proto.FlagOf(true)}
	}
	on := func(list proto.SegmentID, number float64) proto.Prop {
		return proto.Prop{Key: proto.ListTrait(list), Value: proto.NumberOf(number)}
	}
	for _, x := range []struct {
		name    string
		records []*pb.Import
		mark    proto.Prop
		want    bool
	}{
		{"a row that may be merged", merging, row(1), false},
		{"a row of an import that is done", done, row(1), true},
		{"a row of an import that is not known any more", done, row(2), true},
		{"a row of an import that was not read of", done, row(5), false},
		{"on a list", done, on("crm", 1), false},
		{"on a list that a later import has", done, on("crm", 5), false},
		{"on a list of another", done, on("old", 1), true},
		{"on a list that was refused", below, on("crm", 1), true},
		{"on a list that is being made by what was not read of", sealed, on("crm", 1), false},
		{"on a list of an import that was not read of", sealed, on("new", 3), false},
	} {
		got, err := engine.StaleMark(x.records, x.mark)
		if err != nil || got != x.want {
			t.Errorf("%s: %v, %v, want %v", x.name, got, err, x.want)
		}
	}
}

// A client may have fewer segments than others; what it has it may edit.
func TestSegmentsOfAClientAreBounded(t *testing.T) {
	n := testNode(t, t.TempDir(), func(c *engine.Config) { c.SegmentsMax = map[proto.ClientName]int{"acme": 2} })
	defer func() { closeNode(t, n) }()
	c := acme(t, n)
	put := func(id, when string) error {
		_, err := n.Define(t.Context(), c, proto.SegmentSpec{ID: proto.SegmentID(id), Scope: "identity", When: when, Backfill: true})
		return err
	}
	for _, x := range []struct{ id, when string }{{"a", "count(true) >= 1"}, {"b", "count(true) >= 2"}, {"a", "count(true) >= 3"}} {
		if err := put(x.id, x.when); err != nil {
			t.Errorf("%s: %v", x.id, err)
		}
	}
	if err := put("c", "count(true) >= 1"); proto.CodeOf(err) != proto.CodeTooLarge || !strings.Contains(err.Error(), "2 segments") {
		t.Errorf("one too many: %v", err)
	}
	if _, err := n.Preview(t.Context(), c, proto.SegmentSpec{ID: "c", When: "count(true) >= 1"}); proto.CodeOf(err) != proto.CodeTooLarge {
		t.Errorf("a preview of one too many: %v", err)
	}
	spec := proto.ImportSpec{Segment: "list", Mode: proto.ImportReplace, Scope: "identity"}
	if _, err := n.BeginImport(t.Context(), c, spec); proto.CodeOf(err) != proto.CodeTooLarge {
		t.Errorf("a list too many: %v", err)
	}
	if err := n.Undefine(t.Context(), c, "b"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.BeginImport(t.Context(), c, spec); err != nil {
		t.Errorf("a list in the place of another: %v", err)
	}
}

// Where there is no room for one version more, history may be gone through again for a
// segment that is there, and a preview says of all what is then done.
func TestNoRoomForAVersion(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer func() { closeNode(t, n) }()
	c := acme(t, n)
	spec := proto.SegmentSpec{ID: "a", Scope: "identity", When: "count(true) >= 1"}
	if _, err := n.Define(t.Context(), c, spec); err != nil {
		t.Fatal(err)
	}
	n.WithAllSegments(c, func() {
		for _, x := range []struct {
			what, id, when string
			backfill       bool
			want           proto.Code
		}{
			{"a new one", "b", "count(true) >= 1", false, proto.CodeTooLarge},
			{"a version beside the one that answers", "a", "count(true) >= 2", true, proto.CodeTooLarge},
			{"another rule at once", "a", "count(true) >= 3", false, ""},
			{"the same rule over history", "a", "count(true) >= 3", true, ""},
			{"it once more", "a", " count(true) >= 3", true, ""},
		} {
			spec := proto.SegmentSpec{ID: proto.SegmentID(x.id), Scope: "identity", When: x.when, Backfill: x.backfill}
			if _, err := n.Preview(t.Context(), c, spec); proto.CodeOf(err) != x.want {
				t.Errorf("a preview of %s: %v", x.what, err)
			}
			if _, err := n.Define(t.Context(), c, spec); proto.CodeOf(err) != x.want {
				t.Errorf("%s: %v", x.what, err)
			}
		}
	})
}
