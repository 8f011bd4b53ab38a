package engine_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kith/engine"
	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
	"kith/proto/pb"
)

// gate is a log that takes no steps through history of some lanes.
type gate struct {
	log.Logs
	shut []atomic.Bool // by lane
}

// Lane implements log.Logs.
func (g *gate) Lane(id proto.LaneID) log.Stream { return &gatedLane{g.Logs.Lane(id), &g.shut[id]} }

// Close implements log.Logs: the log outlives the node.
func (g *gate) Close() error { return nil }

type gatedLane struct {
	log.Stream
	shut *atomic.Bool
}

// Append implements log.Stream.
func (l *gatedLane) Append(ctx context.Context, e *proto.Entry) (proto.Offset, error) {
	if l.shut.Load() {
		c, _, err := proto.NextCommand(e.Commands)
		if err == nil && c.Kind == proto.CommandFill {
			return 0, proto.Errorf(proto.CodeUnavailable, "the test holds this lane back")
		}
	}
	return l.Stream.Append(ctx, e)
}

// edit is a node with segments whose rules are edited. Beside each there is one
// that always had the old rule and one that always had the new: what an edited
// one says must be what the one or the other says.
type edit struct {
	t      *testing.T
	n      *engine.Node
	c      proto.ClientInfo
	log    *gate
	config engine.Config
}

const editVisitors = 400

func (x *edit) id(i int) proto.Identity { return proto.Identity(fmt.Sprint("browser:v", i)) }

func newEdit(t *testing.T, lanes int) *edit {
	x := &edit{t: t, log: &gate{Logs: log.NewMemory(lanes, time.Now), shut: make([]atomic.Bool, lanes)}}
	x.config = engine.Config{Dir: t.TempDir(), DiskReserve: 1, SmallStore: true, Lanes: lanes, HashSecret: append([]byte{1}, make([]byte, 15)...), AcceptLostOptOuts: true}
	st, err := store.Open(store.Config{Dir: filepath.Join(x.config.Dir, "store"), Small: true})
	if err != nil {
		t.Fatal(err)
	}
	x.open(st)
	if _, err := x.n.CreateKey(t.Context(), "acme", proto.RoleClient, ""); err != nil {
		t.Fatal(err)
	}
	x.c = acme(t, x.n)
	return x
}

func (x *edit) open(st store.Store) {
	n, err := engine.NewOver(x.config, x.log, st)
	if err == nil {
		err = n.Start(x.t.Context())
	}
	if err != nil {
		x.t.Fatal(err)
	}
	x.n = n
}

type editRule struct{ id, scope, old, next string }

// editRules are of each scope the old rule and the new one; %s is before names.
var editRules = []editRule{
	{"own", "identity", `count(event.section == "a") >= 1`, `count(event.section == "b") >= 2`},
	{"user", "user", `count(event.section == "a") >= 2`, `count(event.section == "b") >= 3`},
	{"ofown", "identity", `member("%sown") && count(event.section == "c") >= 1`, ""},
	{"ofuser", "user", `!member("%suser")`, ""},
}

func (x *edit) define(id, scope, when string) proto.SegmentSpec {
	x.t.Helper()
	s, err := x.n.Define(x.t.Context(), x.c, proto.SegmentSpec{ID: proto.SegmentID(id), Scope: scope, When: when, Backfill: true})
	if err != nil {
		x.t.Fatalf("define %s: %v", id, err)
	}
	return s
}

// defineAll makes the segments that will be edited, and those beside them.
func (x *edit) defineAll() {
	for _, r := range editRules {
		for _, prefix := range []string{"", "old", "new"} {
			when := r.old
			if prefix == "new" && r.next != "" {
				when = r.next
			} else if r.next == "" {
				when = fmt.Sprintf(r.old, prefix)
			}
			x.define(prefix+r.id, r.scope, when)
		}
	}
}

// populate has visitors do things: of three neighbours two are linked.
func (x *edit) populate() {
	var list []*proto.Event
	for i := range editVisitors {
		for k := range i % 7 {
			e := page(x.c, fmt.Sprint("v", i), []string{"a", "b", "b", "c"}[(i+k)%4], time.Now())
			if i%3 == 1 && k == 0 {
				e.Identities = append(e.Identities, x.id(i-1))
			}
			list = append(list, e)
		}
	}
	submit(x.t, x.n, list...)
	settle(x.t, x.n)
}

// edit replaces the rules.
func (x *edit) edit() {
	for _, r := range editRules {
		if r.next != "" {
			x.define(r.id, r.scope, r.next)
		}
	}
}

// same sees that everything that answers says of the edited segments what those
// with a prefix say.
func (x *edit) same(prefix string) {
	x.t.Helper()
	x.sameOf(prefix, editRules)
}

func (x *edit) sameOf(prefix string, rules []editRule) {
	x.t.Helper()
	ctx := x.t.Context()
	for i := range editVisitors {
		_, list := lookup(x.t, x.n, x.c, x.id(i))
		for _, r := range rules {
			id, beside := proto.SegmentID(r.id), proto.SegmentID(prefix+r.id)
			want := slices.Contains(list, beside)
			if slices.Contains(list, id) != want {
				x.t.Fatalf("%s is in %v: %s is not as %s", x.id(i), list, id, beside)
			}
			if i%40 > 0 {
				continue
			}
			e, err := x.n.Explain(ctx, x.c, x.id(i), id, time.Time{})
			other, err2 := x.n.Explain(ctx, x.c, x.id(i), beside, time.Time{})
			if err != nil || err2 != nil || e.In != want || other.In != want || r.next != "" && e.When != other.When {
				x.t.Fatalf("%s is explained as %+v, %v; %s as %+v, %v", id, e, err, beside, other, err2)
			}
		}
	}
	for _, r := range rules {
		for _, unit := range []string{"identities", "users"} {
			expr := fmt.Sprintf("%s & !%s%[1]s | !%[1]s & %[2]s%[1]s", r.id, prefix)
			if c, err := x.n.Count(ctx, x.c, expr, unit); err != nil || *c.Count != 0 || !c.Exact {
				x.t.Fatalf("%d %s differ between %s and %s%[3]s (exact %[5]v): %v", *c.Count, unit, r.id, prefix, c.Exact, err)
			}
		}
		ids := []proto.SegmentID{proto.SegmentID(r.id), proto.SegmentID(prefix + r.id)}
		o, err := x.n.Overlap(ctx, x.c, ids, nil, "")
		if err != nil || !o.Exact || *o.Counts[0][0] != *o.Counts[0][1] || *o.Counts[1][1] != *o.Counts[0][1] {
			x.t.Fatalf("%v overlap by %v: %v", ids, o.Counts, err)
		}
		s, _ := x.n.Segment(x.c, ids[0])
		beside, _ := x.n.Segment(x.c, ids[1])
		if *s.Size != *beside.Size || *s.Size != *o.Counts[0][0] || !*s.Filled {
			x.t.Fatalf("%s has %d members, %s %d", ids[0], *s.Size, ids[1], *beside.Size)
		}
		if got, want := x.export(r.id), x.export(prefix+r.id); got != want || got == 0 {
			x.t.Fatalf("%d of %s are exported, %d of that with %q", got, r.id, want, prefix)
		}
	}
}

func (x *edit) export(expr string) uint64 {
	x.t.Helper()
	a, err := x.n.OpenAudience(x.t.Context(), x.c, &proto.ExportRequest{Expr: expr, Format: "csv"})
	if err != nil {
		x.t.Fatal(err)
	}
	defer a.Names.Close()
	if !a.Manifest.Exact {
		x.t.Fatalf("the export of %s is not exact", expr)
	}
	return a.Manifest.Count
}

// filled waits until everything was gone through.
func (x *edit) filled() {
	x.t.Helper()
	until(x.t, x.n, 30*time.Second, "filling", func() bool {
		return !slices.ContainsFunc(x.n.Segments(x.c), func(s proto.SegmentSpec) bool { return !*s.Filled || s.Next != nil })
	})
}

// traces are what is left of versions that went, once all nodes were gone through.
func (x *edit) traces() []string {
	x.t.Helper()
	until(x.t, x.n, 30*time.Second, "going through all nodes", func() bool { return !x.n.Filling() })
	settle(x.t, x.n)
	list := x.n.VersionTraces(x.c.ID)
	return list[:min(len(list), 5)]
}

// An edited segment answers by its old rule, in everything, until the last lane
// has gone through history; then by the new one, as if it had always been so.
func TestEditAnswersOnceFilled(t *testing.T) {
	for _, lanes := range []int{1, 4} {
		t.Run(fmt.Sprintf("lanes=%d", lanes), func(t *testing.T) {
			x := newEdit(t, lanes)
			x.populate()
			x.defineAll()
			x.filled()
			settle(t, x.n)
			x.same("old")
			last := &x.log.shut[lanes-1]
			last.Store(true)
			x.edit()
			until(t, x.n, 20*time.Second, "filling all lanes but one", func() bool {
				s, _ := x.n.Segment(x.c, "user")
				return s.Next != nil && (lanes == 1 || s.Next.Progress > 0.5)
			})
			x.same("old")
			// What happens meanwhile counts, for both.
			var more []*proto.Event
			for i := range editVisitors / 2 {
				more = append(more, page(x.c, fmt.Sprint("v", 2*i), []string{"a", "b", "c"}[i%3], time.Now()))
			}
			submit(t, x.n, more...)
			for i := range 20 {
				if s, err := x.n.OptOut(t.Context(), proto.ClientInfo{}, x.id(i*19), false); err != nil || !s.Final {
					t.Fatalf("opt-out: %+v, %v", s, err)
				}
			}
			settle(t, x.n)
			x.same("old")
			s, _ := x.n.Segment(x.c, "own")
			if s.When != editRules[0].old || s.Next == nil || s.Next.When != editRules[0].next || s.Next.Filled || s.Next.Progress > 0.9 {
				t.Fatalf("while it is filled, the segment is %+v, next %+v", s, s.Next)
			}
			var backup bytes.Buffer
			if err := x.n.Backup(t.Context(), &backup); err != nil {
				t.Fatal(err)
			}
			last.Store(false)
			x.filled()
			x.sameOf("new", editRules[:2])
			settle(t, x.n) // what members were filled with for the others is told to users of several lanes
			x.same("new")
			if traces := x.traces(); len(traces) > 0 {
				t.Errorf("of the old versions are left: %q", traces)
			}
			closeNode(t, x.n)

			// What was backed up half way goes on, in another log.
			c := x.config
			c.Dir = filepath.Join(t.TempDir(), "restored")
			if err := engine.Restore(t.Context(), c, bytes.NewReader(backup.Bytes())); err != nil {
				t.Fatal(err)
			}
			n, err := engine.Open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			defer closeNode(t, n)
			x.n = n
			x.filled()
			settle(t, n)
			x.same("new")
		})
	}
}

// What may come between an edit and its answering.
func TestEditMeanwhile(t *testing.T) {
	x := newEdit(t, 2)
	defer func() { closeNode(t, x.n) }()
	x.populate()
	x.define("x", "identity", `count(event.section == "a") >= 1`)
	x.define("y", "identity", `member("x") && count(event.section == "c") >= 1`)
	x.filled()
	before := count(t, x.n, x.c, "x")
	x.log.shut[1].Store(true)
	state := func() string {
		s, ok := x.n.Segment(x.c, "x")
		if !ok {
			return "none"
		}
		text := s.When
		if s.Next != nil {
			text += " then " + s.Next.When
		}
		return text
	}
	want := func(what, text string) {
		t.Helper()
		if got := state(); got != text {
			t.Fatalf("%s: x is %s, want %s", what, got, text)
		}
	}
	const a, b, c = `count(event.section == "a") >= 1`, `count(event.section == "b") >= 1`, `count(event.section == "c") >= 1`
	first := x.define("x", "identity", b)
	want("an edit", a+" then "+b)
	if again := x.define("x", "identity", b); again.Next == nil || again.Next.Version != first.Next.Version {
		t.Fatalf("the same edit again is another: %+v", again.Next)
	}
	x.define("x", "identity", c)
	want("another edit", a+" then "+c)
	if got := count(t, x.n, x.c, "x"); got != before {
		t.Errorf("x has %d members, %d before the edits", got, before)
	}
	if s, err := x.n.Define(t.Context(), x.c, proto.SegmentSpec{ID: "y", Scope: "identity", When: b}); err != nil || s.Next != nil || s.When != b {
		t.Fatalf("an edit without backfill: %+v, %v", s, err)
	}
	// Neither x as it is nor what waits may come to refer to itself by another.
	x.define("x", "identity", `member("y")`)
	if _, err := x.n.Define(t.Context(), x.c, proto.SegmentSpec{ID: "y", Scope: "identity", When: `member("x")`}); proto.CodeOf(err) != proto.CodeRule {
		t.Errorf("y of x of y: %v", err)
	}
	if err := x.n.Undefine(t.Context(), x.c, "y"); proto.CodeOf(err) != proto.CodeConflict {
		t.Errorf("y goes, which a version that waits refers to: %v", err)
	}
	if s := x.define("x", "identity", a); !*s.Filled {
		t.Errorf("after an edit was given up the segment counts as not filled")
	}
	want("back to the rule that answers", a)
	x.define("x", "identity", b)
	if s, err := x.n.Define(t.Context(), x.c, proto.SegmentSpec{ID: "x", Scope: "identity", When: c}); err != nil || s.Next != nil {
		t.Fatalf("an edit without backfill: %+v, %v", s, err)
	}
	want("an edit without backfill", c)
	stale := x.define("x", "identity", b).Next.Version
	if err := x.n.Undefine(t.Context(), x.c, "x"); err != nil {
		t.Fatal(err)
	}
	want("deleted", "none")
	// Proposed by whoever saw it filled too late, or twice.
	for range 2 {
		if err := x.n.ProposeSwap(t.Context(), x.c.ID, "x", stale); err != nil {
			t.Fatal(err)
		}
	}
	want("swapped when it was gone", "none")
	x.define("x", "identity", a)
	x.define("x", "identity", b)
	x.log.shut[1].Store(false)
	x.filled()
	want("at rest", b)
	s, _ := x.n.Segment(x.c, "x")
	for range 2 {
		if err := x.n.ProposeSwap(t.Context(), x.c.ID, "x", s.Version); err != nil {
			t.Fatal(err)
		}
	}
	x.filled()
	if again, _ := x.n.Segment(x.c, "x"); !cmp.Equal(s, again) {
		t.Errorf("a repeated swap made of %+v %+v", s, again)
	}
	settle(t, x.n)
	if traces := x.traces(); len(traces) > 0 {
		t.Errorf("of old versions are left: %q", traces)
	}
	x.log.shut[1].Store(true)
	x.define("x", "identity", c)
	if _, err := x.n.EraseClient(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	until(t, x.n, 20*time.Second, "the client's erasure", func() bool {
		e, _ := x.n.ClientErasure("acme")
		return e.Erased
	})
	if traces, err := x.n.Traces(x.c.ID); err != nil || len(traces) > 0 {
		t.Errorf("%q, %v", traces, err)
	}
	if traces := x.traces(); len(traces) > 0 {
		t.Errorf("of versions are left: %q", traces)
	}
}

// editPlan is what TestEditUnderTraffic does with one node.
type editPlan struct {
	Traffic uint64
	Edits   []editStep
}

type editStep struct {
	Scope, Section string
	Looks          int
	Restart        bool
}

var editPlans = rapid.Custom(func(t *rapid.T) editPlan {
	return editPlan{rapid.Uint64().Draw(t, "traffic"), rapid.SliceOfN(rapid.Custom(func(t *rapid.T) editStep {
		return editStep{
			Scope: rapid.SampledFrom([]string{"own", "user"}).Draw(t, "scope"), Section: rapid.SampledFrom(editSections).Draw(t, "section"),
			Looks: rapid.IntRange(0, 30).Draw(t, "looks"), Restart: rapid.IntRange(0, 3).Draw(t, "restart") == 0,
		}
	}), 1, 5).Draw(t, "edits")}
})

var editSections = []string{"a", "b", "c"}

// While events, links and opt-outs come in, every look-up and count says what
// one of the two rules says, the old one as long as that answers; over restarts,
// and over any number of edits. In the end all is as if the last rules had been
// there from the start.
func TestEditUnderTraffic(t *testing.T) {
	plans := 3
	if testing.Short() {
		plans = 1
	}
	for _, lanes := range []int{1, 3} {
		for i := range plans {
			plan := editPlans.Example(int(time.Now().UnixNano()>>10) + i)
			t.Run(fmt.Sprintf("lanes=%d/%d", lanes, i), func(t *testing.T) {
				t.Logf("%+v", plan)
				editUnderTraffic(t, plan, lanes)
			})
		}
	}
}

func editUnderTraffic(t *testing.T, plan editPlan, lanes int) {
	x := newEdit(t, lanes)
	defer func() { closeNode(t, x.n) }()
	x.populate()
	rules := map[string]string{} // of every name, the newest
	for _, s := range editSections {
		x.define("own"+s, "identity", fmt.Sprintf(`count(event.section == %q) >= 2`, s))
		x.define("user"+s, "user", fmt.Sprintf(`count(event.section == %q) >= 3`, s))
	}
	edit := func(scope, section string) {
		s, _ := x.n.Segment(x.c, proto.SegmentID(scope+section))
		x.define("edited"+scope, s.Scope, s.When)
		rules["edited"+scope] = scope + section
	}
	edit("own", "a")
	edit("user", "a")
	x.filled()
	settle(t, x.n)
	rng := rand.New(rand.NewPCG(plan.Traffic, 2))
	stop := x.traffic(plan.Traffic)
	for _, step := range plan.Edits {
		edit(step.Scope, step.Section)
		for range step.Looks {
			x.look(x.id(rng.IntN(editVisitors)))
		}
		if step.Restart {
			stop()
			x.restart()
			stop = x.traffic(rng.Uint64())
		}
	}
	stop()
	x.filled()
	settle(t, x.n)
	for id, beside := range rules {
		if c := count(t, x.n, x.c, fmt.Sprintf("%s & !%s | %[2]s & !%[1]s", id, beside)); c != 0 {
			t.Fatalf("%d differ between %s and %s, which always had its rule", c, id, beside)
		}
	}
	if traces := x.traces(); len(traces) > 0 {
		t.Fatalf("of old versions are left: %q", traces)
	}
}

// restart stops the node and goes on with what it left.
func (x *edit) restart() {
	closeNode(x.t, x.n)
	st, err := store.Open(store.Config{Dir: filepath.Join(x.config.Dir, "store"), Small: true})
	if err != nil {
		x.t.Fatal(err)
	}
	x.open(st)
}

// traffic has visitors do things until stop is called.
func (x *edit) traffic(seed uint64) (stop func()) {
	ctx, cancel := context.WithCancel(x.t.Context())
	n, rng := x.n, rand.New(rand.NewPCG(seed, 1))
	done := make(chan error, 1)
	go func() {
		var err error
		for err == nil && ctx.Err() == nil {
			v := rng.IntN(editVisitors)
			if rng.IntN(20) == 0 {
				_, err = n.OptOut(ctx, proto.ClientInfo{}, x.id(v), false)
				continue
			}
			e := page(x.c, fmt.Sprint("v", v), []string{"a", "b", "c"}[rng.IntN(3)], time.Now())
			if rng.IntN(5) == 0 {
				e.Identities = append(e.Identities, x.id((v+1)%editVisitors))
			}
			var b proto.Batch
			b.AddEvent(n.Hasher(), e)
			err = n.Submit(ctx, &b).Err
		}
		if ctx.Err() != nil {
			err = nil
		}
		done <- err
	}()
	return func() {
		cancel()
		if err := <-done; err != nil {
			x.t.Error(err)
		}
	}
}

// look sees that an identity is in an edited segment exactly if its answering
// rule, which another segment always had, says so.
func (x *edit) look(id proto.Identity) {
	x.t.Helper()
	for _, scope := range []string{"own", "user"} {
		before, _ := x.n.Segment(x.c, proto.SegmentID("edited"+scope))
		seen, list := lookup(x.t, x.n, x.c, id)
		diff := func(s string) string {
			return fmt.Sprintf("edited%s & !%[1]s%[2]s | %[1]s%[2]s & !edited%[1]s", scope, s)
		}
		var exprs []string
		for _, s := range editSections {
			exprs = append(exprs, diff(s))
		}
		counts, err := x.n.Counts(x.t.Context(), x.c, exprs, "")
		if err != nil {
			x.t.Fatal(err)
		}
		after, _ := x.n.Segment(x.c, proto.SegmentID("edited"+scope))
		fits, whole := false, false
		var sums []uint64
		for i, s := range editSections {
			may := strings.Contains(before.When, `"`+s+`"`) || strings.Contains(after.When, `"`+s+`"`)
			in := slices.Contains(list, proto.SegmentID("edited"+scope)) == slices.Contains(list, proto.SegmentID(scope+s))
			fits = fits || may && in
			sums = append(sums, *counts.Counts[i].Count)
			whole = whole || may && (*counts.Counts[i].Count == 0 || !counts.Exact)
		}
		if !fits && seen.Known {
			x.t.Fatalf("%s is in %v, the rule is %s, after that %s", id, list, before.When, after.When)
		}
		if !whole {
			x.t.Fatalf("from the rules of a, b, c %v differ (exact %v), the rule is %s, after that %s", sums, counts.Exact, before.When, after.When)
		}
	}
}

// visitors logs the events of 60, each third of which is in section a.
func (s *script) visitors(c proto.ClientInfo) {
	var list []*proto.Event
	for i := range 60 {
		list = append(list, s.event(c, fmt.Sprint("v", i), []string{"a", "b", "b"}[i%3]))
	}
	s.beat(0)
	s.events(list...)
}

// What a Swap does is the log's: over restarts at every entry, with a step of a
// fill that it began anew arriving late, and said twice.
func TestSwapIsTheLogs(t *testing.T) {
	s := newScript(t)
	acme := s.client("acme", "")
	const all, middle = proto.Ordinal(1 << 20), proto.Ordinal(40)
	x := s.define(acme, "x", `count(event.section == "a") >= 1`)
	y := s.define(acme, "y", `member("x")`)
	s.visitors(acme)
	s.fill(acme, x, 0, all, true)
	pieces := store.NewMemory()
	s.apply(pieces)
	var next proto.SegmentKey
	steps := []func(){
		func() { s.fill(acme, y, 0, middle, false) },
		func() { next = s.define(acme, "x", `count(event.section == "b") >= 1`) },
		func() { s.fill(acme, next, 0, middle, false) },
		func() { // a node between the two would propose it, too
			s.fill(acme, next, middle+1, all, true)
			s.swap(acme, "x", next)
		},
		func() { s.fill(acme, y, middle+1, all, true) }, // as before the swap
		func() { s.swap(acme, "x", next) },
		func() { s.fill(acme, next, 0, middle, false) },
		func() { s.fill(acme, next, middle+1, all, true) },
	}
	state := func(st store.Store) (text string) {
		n := s.run(st)
		defer closeNode(t, n)
		for _, id := range []proto.SegmentID{"x", "y"} {
			d, _ := n.Segment(acme, id)
			text += fmt.Sprintf("%s %d filled %v; ", id, *d.Size, *d.Filled)
			if d.Next != nil {
				text += fmt.Sprintf("next filled %v; ", d.Next.Filled)
			}
		}
		if list := n.VersionTraces(acme.ID); len(list) > 0 {
			text += "old versions are left"
		}
		return text
	}
	for i, want := range []string{
		"x 20 filled true; y 20 filled false; ",
		"x 20 filled true; next filled false; y 20 filled false; ",
		"x 20 filled true; next filled false; y 20 filled false; ",
		"x 40 filled true; y 20 filled false; old versions are left",
		"x 40 filled true; y 20 filled false; old versions are left",
		"x 40 filled true; y 20 filled false; old versions are left",
		"",
		"x 40 filled true; y 40 filled true; ",
	} {
		steps[i]()
		s.beat(time.Second)
		if got := state(pieces); got != want && want != "" {
			t.Fatalf("after step %d: %s, want %s", i, got, want)
		}
	}
	if whole, got := s.apply(store.NewMemory()), s.verify(pieces); whole.Lanes[0].StateHash != got.Lanes[0].StateHash {
		t.Error("with restarts the state differs")
	}
}

// A lane that is behind has nobody in a version that answers already: until it
// obeys the Swap its identities are in by the old one.
func TestSwapBeforeTheLaneObeys(t *testing.T) {
	for _, scope := range []string{"identity", "user"} {
		t.Run(scope, func(t *testing.T) {
			s := newScript(t)
			c := s.client("acme", "")
			define := func(when string) *pb.Control {
				d := defineRecord(t, c, "x", when)
				d.GetDefine().Scope = scope
				return d
			}
			const all = proto.Ordinal(1 << 20)
			old := proto.SegmentKey(s.control(define(`count(event.section == "a") >= 1`)))
			s.visitors(c)
			linked := s.event(c, "v0", "a")
			linked.Identities = append(linked.Identities, "browser:w0")
			s.events(linked)
			s.fill(c, old, 0, all, true)
			s.beat(time.Second)
			n := s.run(store.NewMemory())
			defer closeNode(t, n)

			in := func(when string) {
				t.Helper()
				for _, v := range []string{"v0", "v3"} {
					if got := s.lookup(n, c, v); got != "true [x]" {
						t.Fatalf("%s a look-up of %s gives %s", when, v, got)
					}
					x, err := n.Explain(t.Context(), c, proto.Identity("browser:"+v), "x", time.Time{})
					if err != nil || !x.In {
						t.Fatalf("%s the explanation of %s is %+v, %v", when, v, x, err)
					}
				}
				if got := s.lookup(n, c, "v1"); got != "true []" {
					t.Fatalf("%s a look-up of who was never in gives %s", when, got)
				}
				p, err := n.Preview(t.Context(), c, proto.SegmentSpec{ID: "x", Scope: scope, When: `count(event.section == "none") >= 1`, Backfill: true})
				if err != nil || p.Leaving == nil || *p.Leaving < 20 {
					t.Fatalf("%s a preview has %+v leave, %v", when, p.Leaving, err)
				}
				var b bytes.Buffer
				if err := n.ExportClient(t.Context(), c, &b); err != nil || bytes.Count(b.Bytes(), []byte(`"segments":["x"]`)) < 20 {
					t.Fatalf("%s the client's export has %d in, %v", when, bytes.Count(b.Bytes(), []byte(`"segments":["x"]`)), err)
				}
			}
			in("at first")
			first, behind := s.say(define(`count(event.section in ["a", "none"]) >= 1`))
			_, more := s.say(swapRecord(c, "x", proto.SegmentKey(first)))
			if err := n.AwaitControl(t.Context(), s.controls); err != nil {
				t.Fatal(err)
			}
			in("before the lane hears of the new version")
			s.lane(proto.CommandControl, behind...)
			s.fill(c, proto.SegmentKey(first), 0, all/2, false)
			s.fill(c, proto.SegmentKey(first), all/2+1, all, true)
			in("while the lane obeys")
			s.lane(proto.CommandControl, more...)
			s.fill(c, proto.SegmentKey(first), 0, all, true)
			at := s.beat(time.Second)
			if err := n.Wait(t.Context(), proto.Position{0: at}); err != nil {
				t.Fatal(err)
			}
			in("afterwards")
			if x, err := n.Explain(t.Context(), c, "browser:v3", "x", time.Time{}); err != nil || x.Version != proto.SegmentKey(first) {
				t.Errorf("the version that answers is %d, %v, want %d", x.Version, err, first)
			}
		})
	}
}

// An edit without backfill answers at once, and those that refer to it are gone
// through for it: until then their counts are not exact, then they are right.
func TestEditAtOnceIsReferredTo(t *testing.T) {
	s := newScript(t)
	acme := s.client("acme", "")
	s.define(acme, "x", `count(event.section == "a") >= 1`)
	y := s.define(acme, "y", `member("x")`)
	s.visitors(acme)
	pieces := store.NewMemory()
	expect := func(what, want string) {
		t.Helper()
		s.beat(time.Second)
		if got := told(t, s, pieces, acme, "x", "y"); got != want {
			t.Fatalf("%s: %s, want %s", what, got, want)
		}
	}
	s.fill(acme, y, 0, 1<<20, true)
	expect("at first", "x 20 filled true exact true; y 20 filled true exact true; ")
	s.control(atOnce(defineRecord(t, acme, "x", `count(event.section == "b") >= 1`)))
	expect("edited", "x 0 filled false exact false; y 20 filled false exact false; ")
	s.events(s.event(acme, "v1", "a"))
	expect("one was touched", "x 1 filled false exact false; y 21 filled false exact false; ")
	s.fill(acme, y, 0, 30, false)
	s.fill(acme, y, 31, 1<<20, true)
	expect("gone through", "x 40 filled true exact true; y 40 filled true exact true; ")
	if whole, got := s.apply(store.NewMemory()), s.verify(pieces); whole.Lanes[0].StateHash != got.Lanes[0].StateHash {
		t.Error("with restarts the state differs")
	}
}

// told is what a node says of segments, which counts, overlaps and exports must say alike.
func told(t *testing.T, s *script, st store.Store, c proto.ClientInfo, ids ...proto.SegmentID) (text string) {
	t.Helper()
	n := s.run(st)
	defer closeNode(t, n)
	for _, id := range ids {
		d, _ := n.Segment(c, id)
		count, err := n.Count(t.Context(), c, string(id), "")
		overlap, err2 := n.Overlap(t.Context(), c, []proto.SegmentID{id}, nil, "")
		a, err3 := n.OpenAudience(t.Context(), c, &proto.ExportRequest{Expr: string(id), Format: "csv"})
		if err != nil || err2 != nil || err3 != nil {
			t.Fatal(err, err2, err3)
		}
		a.Names.Close()
		if count.Exact != *d.Filled || overlap.Exact != *d.Filled || a.Manifest.Exact != *d.Filled || *count.Count != *d.Size {
			t.Errorf("%s: %+v, count %v, overlap %v, export %v", id, d, count.Exact, overlap.Exact, a.Manifest.Exact)
		}
		text += fmt.Sprintf("%s %d filled %v exact %v; ", id, *d.Size, *d.Filled, count.Exact)
	}
	return text
}

// What is defined without backfill is exact if nothing was stored of its client,
// and else once a pass over history has taken it along.
func TestWithoutBackfill(t *testing.T) {
	s := newScript(t)
	acme, zeta := s.client("acme", ""), s.client("zeta", "")
	pieces := store.NewMemory()
	expect := func(what string, c proto.ClientInfo, want string, ids ...proto.SegmentID) {
		t.Helper()
		s.beat(time.Second)
		if got := told(t, s, pieces, c, ids...); got != want {
			t.Fatalf("%s: %s, want %s", what, got, want)
		}
	}
	s.beat(0)
	s.control(atOnce(defineRecord(t, acme, "first", `count(event.section == "a") >= 1`)))
	var list []*proto.Event
	for i := range 40 {
		list = append(list, s.event(acme, fmt.Sprint("v", i), "a"))
	}
	s.events(list...)
	// In one batch with the events, which are not in the store yet.
	s.control(atOnce(defineRecord(t, acme, "late", `count(event.section == "a") >= 1`)), atOnce(defineRecord(t, zeta, "fresh", `count(true) >= 1`)))
	expect("nothing was stored", acme, "first 40 filled true exact true; ", "first")
	expect("something was", acme, "late 0 filled false exact false; ", "late")
	s.events(s.event(zeta, "v1", "a"))
	expect("nothing was stored of this client", zeta, "fresh 1 filled true exact true; ", "fresh")
	s.control(atOnce(defineRecord(t, acme, "first", `count(event.section == "a") >= 1 && true`)), defineRecord(t, acme, "late", `count(event.section == "a") >= 1`))
	expect("an edit", acme, "first 0 filled false exact false; late 0 filled false exact false; ", "first", "late")
	s.control(atOnce(defineRecord(t, acme, "late", `count(event.section == "a") >= 1`))) // what is under way goes on
	other := s.define(acme, "other", `count(true) >= 1`)
	s.fill(acme, other, 0, 1<<20, true)
	expect("another's backfill", acme, "first 40 filled true exact true; late 40 filled true exact true; other 40 filled true exact true; ", "first", "late", "other")
	s.control(atOnce(defineRecord(t, acme, "other", `count(true) >= 1`)))
	expect("the same again", acme, "other 40 filled true exact true; ", "other")
	for i := range 40 {
		s.cut(proto.Identity(fmt.Sprint("browser:v", i)), proto.CutErase)
	}
	s.control(atOnce(defineRecord(t, acme, "empty", `count(true) >= 1`)))
	expect("all are erased", acme, "empty 0 filled true exact true; ", "empty")
	if whole, got := s.apply(store.NewMemory()), s.verify(pieces); whole.Lanes[0].StateHash != got.Lanes[0].StateHash {
		t.Error("with restarts the state differs")
	}
}

// What was not brought up to the newest rules is passed over by verify, and not
// called cut.
func TestVerifyTellsWhatIsBehind(t *testing.T) {
	s := newScript(t)
	acme := s.client("acme", "")
	s.beat(0)
	pair := s.event(acme, "v1", "a")
	pair.Identities = append(pair.Identities, "browser:v2")
	s.events(pair, s.event(acme, "v3", "a"))
	user := atOnce(defineRecord(t, acme, "late", `count(true) >= 1`))
	user.GetDefine().Scope = "user"
	s.control(user)
	s.beat(time.Second)
	if r := s.apply(store.NewMemory()); r.Skipped != 0 || r.Behind != 3 {
		t.Errorf("cut %d, behind %d, want 2 memberships and a user", r.Skipped, r.Behind)
	}
	s.events(s.event(acme, "v1", "a"), s.event(acme, "v2", "a"), s.event(acme, "v3", "a"))
	s.beat(time.Second)
	if r := s.apply(store.NewMemory()); r.Skipped != 0 || r.Behind != 0 {
		t.Errorf("once touched: cut %d, behind %d", r.Skipped, r.Behind)
	}
}
