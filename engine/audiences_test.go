package engine_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kith/engine"
	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
	"kith/segments"
)

// crowd is a node over a log with n visitors, numbered from 0; visitor i is in
// segment x if in(x, i). Its own clock can be set.
type crowd struct {
	t      *testing.T
	n      *engine.Node
	client proto.ClientInfo
	now    atomic.Int64 // the node's own clock, in nanoseconds
	store  store.Store
	script *script
	stop   func()
}

func newCrowd(t *testing.T, n int, names string, in func(name byte, i int) bool) *crowd {
	s := newScript(t)
	acme := s.client("acme", "")
	for i := range len(names) {
		s.define(acme, names[i:i+1], fmt.Sprintf(`count(event.section == "%c", "300d") >= 1`, names[i]))
	}
	s.define(acme, "all", `count(true, "300d") >= 1`)
	s.beat(0)
	var list []*proto.Event
	for i := range n {
		for k := range len(names) {
			if in(names[k], i) {
				list = append(list, s.event(acme, fmt.Sprint("v", i), names[k:k+1]))
			}
		}
		list = append(list, s.event(acme, fmt.Sprint("v", i), "none"))
		if len(list) > 1000 {
			s.events(list...)
			list = nil
		}
	}
	if len(list) > 0 {
		s.events(list...)
	}
	for key := range proto.SegmentKey(len(names) + 1) {
		s.fill(acme, key+2, 0, 0, true)
	}
	s.beat(time.Second)
	c := &crowd{t: t, client: acme, script: s, store: store.NewMemory()}
	c.open()
	return c
}

func (c *crowd) open() {
	c.now.CompareAndSwap(0, c.script.now.Time().UnixNano())
	c.n = c.script.run(c.store, func(x *engine.Config) { x.Now = c.clock })
	c.stop = sync.OnceFunc(func() { closeNode(c.t, c.n) })
	c.t.Cleanup(c.stop)
}

func (c *crowd) clock() time.Time { return time.Unix(0, c.now.Load()).UTC() }

// set puts the node's own clock to a time.
func (c *crowd) set(t time.Time) { c.now.Store(t.UnixNano()) }

// restart closes the node and opens it again, once the lane has what it wrote
// to the control stream.
func (c *crowd) restart() {
	c.stop()
	c.script.relay()
	c.script.beat(time.Second)
	c.open()
}

// relay writes control records of a node into the lane's log.
func (s *script) relay() {
	var bodies [][]byte
	ctx, cancel := context.WithCancel(context.Background())
	last, err := s.inner.Control().Last(ctx)
	if err != nil || last == s.controls {
		cancel()
		return
	}
	_ = s.inner.Control().Read(ctx, s.controls+1, func(r log.Record) error {
		x := proto.Relayed{Seq: uint64(r.Offset), Record: r.Data}
		bodies = append(bodies, x.Append(nil))
		if s.controls = uint64(r.Offset); s.controls == last {
			cancel()
		}
		return nil
	})
	s.lane(proto.CommandControl, bodies...)
}

// ask is what a report key is told: a figure, "below", or an error's code.
func (c *crowd) ask(expr string, unit ...string) string {
	c.t.Helper()
	x, err := c.n.Report(c.t.Context(), c.client, expr, strings.Join(unit, ""), 50)
	switch {
	case err != nil:
		return string(proto.CodeOf(err))
	case x.Count == nil && x.Below == 50:
		return "below"
	case x.Count == nil || x.Rounded != 10 || *x.Count%10 != 0:
		c.t.Errorf("%s: %+v", expr, x)
		return "?"
	}
	return fmt.Sprint(*x.Count)
}

func (c *crowd) wants(expr, want string) {
	c.t.Helper()
	if got := c.ask(expr); got != want {
		c.t.Errorf("a report of %s says %s, want %s", expr, got, want)
	}
}

// near asks, and wants a figure next to exact.
func (c *crowd) near(expr string, exact uint64, unit ...string) string {
	c.t.Helper()
	got := c.ask(expr, unit...)
	var n uint64
	if _, err := fmt.Sscan(got, &n); err != nil || n+10 <= exact || n >= exact+10 {
		c.t.Errorf("a report of %s says %s, want about %d", expr, got, exact)
	}
	return got
}

func below(limits map[byte]int) func(byte, int) bool {
	return func(name byte, i int) bool { return i < limits[name] }
}

func TestOverlapIsSetAlgebra(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var in [4][300]bool
	for k := range in {
		for i := range in[k] {
			in[k][i] = r.IntN(k+2) == 0
		}
	}
	c := newCrowd(t, 300, "abcd", func(name byte, i int) bool { return in[name-'a'][i] })
	ids := []proto.SegmentID{"a", "b", "c", "d"}
	both := func(j, k int) (n uint64) {
		for i := range 300 {
			if in[j][i] && in[k][i] {
				n++
			}
		}
		return n
	}
	for _, unit := range []string{"", "identities", "users"} {
		square, err := c.n.Overlap(t.Context(), c.client, ids, nil, unit)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := c.n.Overlap(t.Context(), c.client, ids[1:3], append(ids, "all"), unit)
		if err != nil || !rows.Exact || rows.Partitions.Answered != 64 {
			t.Fatalf("%+v, %v", rows, err)
		}
		for j := range ids {
			for k := range ids {
				if got := *square.Counts[j][k]; got != both(j, k) {
					t.Errorf("%s: %s and %s: %d, want %d", unit, ids[j], ids[k], got, both(j, k))
				}
				if j < 2 && *rows.Counts[j][k] != both(j+1, k) {
					t.Errorf("%s: row %s, column %s: %d", unit, ids[j+1], ids[k], *rows.Counts[j][k])
				}
			}
		}
		if got := *rows.Counts[0][4]; got != both(1, 1) {
			t.Errorf("b and all: %d, want %d", got, both(1, 1))
		}
	}
	long := slices.Repeat(ids, 80) // shared among cores
	row, err := c.n.Overlap(t.Context(), c.client, ids[:1], long, "")
	if err != nil {
		t.Fatal(err)
	}
	for k, got := range row.Counts[0] {
		if *got != both(0, k%4) {
			t.Errorf("a and %s, column %d: %d", long[k], k, *got)
		}
	}
	if _, err := c.n.Overlap(t.Context(), c.client, []proto.SegmentID{"a", "nobody"}, nil, ""); proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("overlap of what is not there: %v", err)
	}
	many := make([]proto.SegmentID, 21)
	for i := range many {
		many[i] = "a"
	}
	if _, err := c.n.Overlap(t.Context(), c.client, many, nil, "users"); proto.CodeOf(err) != proto.CodeTooLarge {
		t.Errorf("overlap of 21 by users: %v", err)
	}
	if x, err := c.n.Overlap(t.Context(), c.client, many, nil, ""); err != nil || *x.Counts[20][0] != both(0, 0) {
		t.Errorf("overlap of 21: %v", err)
	}
}

func TestCountsAnswerAll(t *testing.T) {
	c := newCrowd(t, 200, "ab", below(map[byte]int{'a': 120, 'b': 60}))
	for _, unit := range []string{"identities", "users"} {
		x, err := c.n.Counts(t.Context(), c.client, []string{"a", "a & !b", "!a", "a | !a"}, unit)
		if err != nil || !x.Exact {
			t.Fatalf("%+v, %v", x, err)
		}
		for i, want := range []uint64{120, 60, 80, 200} {
			if *x.Counts[i].Count != want {
				t.Errorf("%s %s: %d, want %d", unit, x.Counts[i].Expr, *x.Counts[i].Count, want)
			}
		}
	}
	for expr, code := range map[string]proto.Code{"a &": proto.CodeExpr, "nobody": proto.CodeNotFound, "@nobody": proto.CodeNotFound} {
		if _, err := c.n.Counts(t.Context(), c.client, []string{"a", expr}, ""); proto.CodeOf(err) != code {
			t.Errorf("%s: %v, want %s", expr, err, code)
		}
	}
}

// asked calls back each time a count asks whether somebody still waits for it.
type asked struct {
	context.Context
	do func()
}

func (a *asked) Err() error { a.do(); return a.Context.Err() }

// A long count is of one moment, and holds up nobody: not the lane, which shows what
// comes in meanwhile, nor other clients, nor short counts of its own.
func TestLongCounts(t *testing.T) {
	c := newCrowd(t, 200, "ab", below(map[byte]int{'a': 120, 'b': 60}))
	for _, unit := range []string{"identities", "users"} {
		before := c.script.members(c.n, c.client, "all")
		came := 0
		ctx := &asked{t.Context(), func() {
			if came++; came == 1 {
				at := c.script.events(c.script.event(c.client, "new-"+unit, "a"))
				if err := c.n.Wait(t.Context(), proto.Position{0: at}); err != nil {
					t.Error(err)
				}
				if got := c.script.members(c.n, c.client, "all"); got != before+1 {
					t.Errorf("%d are shown during the count, want %d", got, before+1)
				}
			}
		}}
		exprs := slices.Repeat([]string{"(a | b) & all", "!a | !b | all"}, 10)
		x, err := c.n.Counts(ctx, c.client, exprs, unit)
		if err != nil || !x.Exact {
			t.Fatalf("%+v, %v", x, err)
		}
		for i, e := range x.Counts {
			if want := []uint64{before - 80, before}[i%2]; *e.Count != want {
				t.Errorf("%s of %s: %d, want %d", unit, e.Expr, *e.Count, want)
			}
		}
		if came < len(exprs) {
			t.Errorf("it asked %d times whether somebody waits still", came)
		}
	}
}

// Of a client one long count is under way; others wait, and other clients do not wait
// for those.
func TestLongCountsTakeTurns(t *testing.T) {
	c := newCrowd(t, 200, "ab", below(map[byte]int{'a': 120, 'b': 60}))
	other := c.script.client("other", "")
	end, err := c.n.LongTurn(t.Context(), c.client.ID)
	if err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	long := slices.Repeat([]string{"a | b"}, 20)
	if _, err := c.n.Counts(soon, c.client, long, ""); proto.CodeOf(err) != proto.CodeOverloaded {
		t.Errorf("a second long count: %v", err)
	}
	if _, err := c.n.Counts(t.Context(), c.client, long[:10], ""); err != nil {
		t.Errorf("a short count beside: %v", err)
	}
	if end, err := c.n.LongTurn(t.Context(), other.ID); err != nil {
		t.Errorf("another client's: %v", err)
	} else {
		end()
	}
	end()
	if _, err := c.n.Counts(t.Context(), c.client, long, ""); err != nil {
		t.Errorf("the next long count: %v", err)
	}
}

func TestSavedAudiences(t *testing.T) {
	c := newCrowd(t, 200, "ab", below(map[byte]int{'a': 120, 'b': 60}))
	save := func(id proto.AudienceID, expr string) error {
		_, err := c.n.SaveAudience(t.Context(), c.client, proto.AudienceSpec{ID: id, Expr: expr, Description: "why"})
		return err
	}
	wants := func(err error, code proto.Code, text string) {
		t.Helper()
		if proto.CodeOf(err) != code || code != "" && !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %s: %s", err, code, text)
		}
	}
	wants(save("one", "a&!b"), "", "")
	wants(save("two", "!@one"), "", "")
	wants(save("three", "@three | a"), proto.CodeExpr, "itself")
	wants(save("one", "@two"), proto.CodeExpr, "itself")
	wants(save("three", "@four"), proto.CodeNotFound, "@four")
	wants(save("three", "nobody"), proto.CodeNotFound, "nobody")
	wants(save("three", "a &"), proto.CodeExpr, "")
	wants(save("three", strings.Repeat("a|", 4200)+"a"), proto.CodeExpr, "")
	wants(c.n.DropAudience(t.Context(), c.client, "one"), proto.CodeConflict, "@two")
	wants(c.n.DropAudience(t.Context(), c.client, "nobody"), proto.CodeNotFound, "nobody")
	for range 2 { // and after a restart
		if got := c.script.members(c.n, c.client, "@two & b"); got != 60 {
			t.Errorf("counted %d, want 60", got)
		}
		list := c.n.SavedAudiences(c.client)
		if len(list) != 2 || list[0] != (proto.AudienceSpec{ID: "one", Expr: "a & !b", Description: "why"}) {
			t.Errorf("saved: %+v", list)
		}
		c.restart()
	}
	other := c.client
	other.ID++
	if list := c.n.SavedAudiences(other); len(list) != 0 {
		t.Errorf("another client sees %v", list)
	}
	wants(c.n.Undefine(t.Context(), c.client, "b"), proto.CodeConflict, "@one")
	wants(c.n.DropAudience(t.Context(), c.client, "two"), "", "")
	wants(c.n.DropAudience(t.Context(), c.client, "one"), "", "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nobody relays it to the lane of this test
	wants(c.n.Undefine(ctx, c.client, "b"), proto.CodeTimeout, "")
}

// What was saved can be counted, however what it names is edited.
func TestSavedStayCountable(t *testing.T) {
	c := newCrowd(t, 200, "ab", below(map[byte]int{'a': 120, 'b': 60}))
	save := func(id proto.AudienceID, expr string) error {
		_, err := c.n.SaveAudience(t.Context(), c.client, proto.AudienceSpec{ID: id, Expr: expr})
		return err
	}
	wants := func(err error, code proto.Code, text string) {
		t.Helper()
		if proto.CodeOf(err) != code || code != "" && !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %s: %s", err, code, text)
		}
	}
	wants(save("d1", "a"), "", "")
	for i := 2; i <= segments.AudienceNestingMax; i++ {
		wants(save(proto.AudienceID(fmt.Sprint("d", i)), fmt.Sprint("@d", i-1)), "", "")
	}
	deepest := fmt.Sprint("@d", segments.AudienceNestingMax)
	wants(save("deeper", deepest), proto.CodeExpr, "deep")
	wants(save("other", "b"), "", "")
	wants(save("d1", "@other"), proto.CodeExpr, deepest+", which names @d1")
	wants(save("d1", "b"), "", "")
	wants(save("tenfold", strings.Repeat("@other | ", 9)+"@other"), "", "")
	wants(save("more", "@tenfold & a"), "", "")
	wants(save("other", strings.Repeat("a | ", 100)+"b"), proto.CodeExpr, "@tenfold, which names @other, could no longer be counted: ")
	wants(save("other", strings.Repeat("a | ", 99)+"b"), proto.CodeExpr, "@more, which names @other")
	wants(save("more", "a"), "", "")
	wants(save("other", strings.Repeat("a | ", 99)+"b"), "", "")
	for _, expr := range []string{deepest, "@tenfold"} {
		if got, want := c.script.members(c.n, c.client, expr), c.script.members(c.n, c.client, "b"); expr == deepest && got != want || got < want {
			t.Errorf("%s: counted %d, %d are in b", expr, got, want)
		}
	}
}
