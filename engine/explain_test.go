package engine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kith/engine"
	"kith/engine/store"
	"kith/proto"
	"kith/proto/pb"
)

// atOnce makes a definition take effect at once.
func atOnce(c *pb.Control) *pb.Control {
	c.GetDefine().Backfill = false
	return c
}

// A past membership is explained by the rule that answered then, of the segment
// and of those that it names, however often they were replaced since.
func TestExplainThen(t *testing.T) {
	s := newScript(t)
	acme := s.client("acme", "")
	s.beat(0)
	s.events(s.event(acme, "old", "a")) // before there was a segment
	s.beat(time.Hour)
	s.define(acme, "x", `count(event.section == "a") >= 1`)
	s.define(acme, "y", `member("x")`)
	first := s.now
	s.beat(time.Hour)
	s.events(s.event(acme, "v", "a"))
	s.beat(time.Hour)
	next := s.define(acme, "x", `count(event.section == "b") >= 1`)
	s.beat(time.Hour) // it waits
	waits := s.now
	s.beat(time.Hour)
	s.swap(acme, "x", next)
	swapped := s.now
	s.beat(time.Hour)
	s.events(s.event(acme, "v", "b"))
	s.beat(time.Hour)
	both := s.now
	s.beat(time.Hour)
	s.control(undefineRecord(acme, "y"))
	s.beat(time.Hour)
	gone := s.now
	s.beat(time.Hour)
	n := s.run(store.NewMemory())
	defer closeNode(t, n)
	const a, b = `count(event.section == "a") >= 1`, `count(event.section == "b") >= 1`
	for _, c := range []struct {
		what, visitor, segment string
		at                     proto.Millis
		in                     bool
		when, note             string
	}{
		{"before the segment", "old", "x", first - 1, false, "", "not defined then, but first on 2026-01-01T01:00:00Z"},
		{"the first rule", "old", "x", first, true, a, ""},
		{"not seen yet", "v", "x", first, false, a, ""},
		{"in by the first rule", "v", "x", first + 7_200_000, true, a, ""},
		{"the new one waits", "v", "x", waits, true, a, ""},
		{"by another that names it", "v", "y", waits, true, `member("x")`, ""},
		{"the new one answers", "v", "x", swapped, false, b, ""},
		{"and for who names it", "v", "y", swapped, false, `member("x")`, ""},
		{"in by the new one", "v", "x", both, true, b, ""},
		{"likewise", "v", "y", both, true, `member("x")`, ""},
		{"of one that is gone", "v", "y", gone, false, "", "not defined then"},
		{"who was never seen", "w", "x", both, false, b, "nothing is known of it now"},
	} {
		x, err := n.Explain(t.Context(), acme, proto.Identity("browser:"+c.visitor), proto.SegmentID(c.segment), c.at.Time())
		notes := strings.Join(x.Notes, "; ")
		if err != nil || x.In != c.in || x.When != c.when || x.Undecided || !strings.Contains(notes, c.note) || c.note == "" && notes != "" {
			t.Errorf("%s: %+v, %v, want %v by %q, %q", c.what, x, err, c.in, c.when, c.note)
		}
	}
	// What is too near to be read from histories is now, and says so.
	for _, off := range []time.Duration{-2 * time.Second, -time.Second, time.Second, time.Minute} {
		x, err := n.Explain(t.Context(), acme, "browser:v", "x", s.now.Time().Add(off))
		if err != nil || !x.In || !x.At.Equal(s.now.Time()) || x.Entered == nil || x.Entered.After(x.At) {
			t.Errorf("%v from now: %+v, %v", off, x, err)
		}
	}
	if _, err := n.Explain(t.Context(), acme, "browser:v", "x", s.now.Time().Add(61*time.Second)); proto.CodeOf(err) != proto.CodeInvalid {
		t.Errorf("a time ahead: %v", err)
	}
	if _, err := n.Explain(t.Context(), acme, "browser:v", "y", time.Time{}); proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("now, of one that is gone: %v", err)
	}
	var out bytes.Buffer
	if err := n.ExportClient(t.Context(), acme, &out); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		var v struct {
			Kind, Segment, When string
			From                time.Time
			To                  *time.Time
			Versions            int
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatal(err)
		}
		if v.Kind == "version" {
			got = append(got, fmt.Sprint(v.Segment, " ", v.When, " ", v.From.Hour(), " ", v.To != nil))
		}
		if v.Kind == "end" && v.Versions != len(got) {
			t.Errorf("the last line counts %d versions of %d", v.Versions, len(got))
		}
	}
	if want := []string{"x " + a + " 1 true", "x " + b + " 5 false", `y member("x") 1 true`}; strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("versions are exported as %q, want %q", got, want)
	}
}

// Of the rules before the newest 32 it is said that they are not kept, and what
// an answer rests on where that is less than one may think.
func TestExplainForgottenRules(t *testing.T) {
	s := newScript(t)
	acme := s.client("acme", "")
	s.beat(0)
	s.define(acme, "x", `count(event.section == "a") >= 1`)
	s.define(acme, "y", `member("x") || trait("plan") == "gold"`)
	user := defineRecord(t, acme, "z", `count(event.section == "a", "1h") >= 1`)
	user.GetDefine().Scope = "user"
	s.control(user)
	s.events(s.event(acme, "v", "a"))
	early := s.now
	for i := range 32 {
		s.beat(time.Hour)
		s.control(atOnce(defineRecord(t, acme, "x", fmt.Sprintf(`count(event.section == "a") >= %d`, i+2))))
	}
	s.control(&pb.Control{Body: &pb.Control_Retain{Retain: &pb.Retain{Client: uint32(acme.ID), SessionsMs: 86_400_000}}})
	s.beat(time.Hour)
	n := s.run(store.NewMemory())
	defer closeNode(t, n)
	for _, c := range []struct {
		segment   string
		at        proto.Millis
		undecided bool
		when      string
		notes     []string
	}{
		{"x", early, true, "", []string{"is known from 2026-01-01T01:00:00Z on, of the newest 32 versions"}},
		{"x", early + 3_600_000, false, `count(event.section == "a") >= 2`, []string{"events from before 2026-01-01T09:00:00Z may have expired"}},
		{"y", early, true, `member("x") || trait("plan") == "gold"`, []string{"may have expired", "traits have no times", `the rule of then of "x"`}},
		{"z", s.now - 3_600_000, false, `count(event.section == "a", "1h") >= 1`, []string{"of the user now (1)"}},
		{"z", early, false, `count(event.section == "a", "1h") >= 1`, []string{"may have expired", "of the user now (1)"}},
	} {
		x, err := n.Explain(t.Context(), acme, "browser:v", proto.SegmentID(c.segment), c.at.Time())
		fits := err == nil && x.Undecided == c.undecided && x.When == c.when && len(x.Notes) == len(c.notes) && !(x.In && x.Undecided)
		for i := range c.notes {
			fits = fits && strings.Contains(x.Notes[i], c.notes[i])
		}
		if !fits {
			t.Errorf("%s at %v: %+v, %v, want by %q, %q", c.segment, c.at, x, err, c.when, c.notes)
		}
	}
}

// Rules that name one another by member() many times over are read once each, for
// the past and before they are saved, and not on for one who has gone.
func TestNestedRulesAreReadOnce(t *testing.T) {
	s := newScript(t)
	c := s.client("acme", "")
	named := func(i, times int) string {
		return strings.TrimSuffix(strings.Repeat(fmt.Sprintf(`member("x%d") || `, i), times), " || ")
	}
	s.define(c, "x0", `count(event.name == "never") >= 1`)
	for i := range 7 {
		s.define(c, fmt.Sprint("x", i+1), named(i, 120))
	}
	s.beat(time.Hour)
	s.events(s.event(c, "v", "a"))
	s.beat(time.Hour)
	n := s.run(store.NewMemory())
	until(t, n, 10*time.Second, "the event", func() bool { return count(t, n, c, "!x7") == 1 })
	within := func(what string, ctx context.Context, code proto.Code, do func(context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- do(ctx) }()
		select {
		case err := <-done:
			if proto.CodeOf(err) != code {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s goes on", what)
		}
	}
	explain := func(ctx context.Context) error {
		x, err := n.Explain(ctx, c, "browser:v", "x7", s.now.Add(-time.Minute).Time())
		if err == nil && (x.In || x.When == "" || x.Undecided) {
			err = fmt.Errorf("%+v", x)
		}
		return err
	}
	preview := func(ctx context.Context) error {
		p, err := n.Preview(ctx, c, proto.SegmentSpec{ID: "x8", When: named(7, 100)})
		if err == nil && (!p.Exact || p.Judged != 1) {
			err = fmt.Errorf("%+v", p)
		}
		return err
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	within("explain", t.Context(), "", explain)
	within("preview", t.Context(), "", preview)
	within("explain for one who has gone", gone, proto.CodeTimeout, explain)
	within("preview for one who has gone", gone, proto.CodeTimeout, preview)
	within("close", t.Context(), "", func(context.Context) error { return n.Close() })
}

// A rule that an earlier build saved with a pattern that would hold a lane up is
// obeyed, said in the log, and cannot be saved again.
func TestStoredPatternIsNotRun(t *testing.T) {
	s := newScript(t)
	acme := s.client("acme", "")
	pattern := "(?:" + strings.Repeat(".?", 122) + "){1000}~"
	const when = `count(event.section.matches("%s")) >= 1`
	blank := strings.Repeat("x", len(pattern))
	c := defineRecord(t, acme, "slow", fmt.Sprintf(when, blank))
	d := c.GetDefine()
	d.When, d.Compiled = fmt.Sprintf(when, pattern), bytes.ReplaceAll(d.Compiled, []byte(blank), []byte(pattern))
	s.control(c)
	s.define(acme, "next", `count(event.section.matches("^a{20,40}$")) >= 1`)
	s.beat(time.Hour)
	for range 50 {
		s.events(s.event(acme, "v", strings.Repeat("b", 1000)+"~"))
	}
	s.events(s.event(acme, "v", strings.Repeat("a", 30)))
	s.beat(time.Hour)
	var said bytes.Buffer
	n := s.run(store.NewMemory(), func(c *engine.Config) { c.Logger = slog.New(slog.NewTextHandler(&said, nil)) })
	until(t, n, 10*time.Second, "an event after them", func() bool { return count(t, n, acme, "next") == 1 })
	if got := count(t, n, acme, "slow"); got != 0 {
		t.Errorf("%d are in by a pattern that is not run", got)
	}
	if _, err := n.Define(t.Context(), acme, proto.SegmentSpec{ID: "slow", When: d.When}); proto.CodeOf(err) != proto.CodeRule {
		t.Errorf("saved again: %v", err)
	}
	closeNode(t, n) // from here on nobody writes what it said
	if got := said.String(); strings.Count(got, "too long to be run") != 1 || !strings.Contains(got, "client=acme segment=slow") {
		t.Errorf("the log says %q", got)
	}
}

// The facts that decide are told also of an identity that was not gone through since
// the client's rules changed, and of the past; and where the membership does not
// follow them yet, that is said.
func TestExplainFactsOfOlderRules(t *testing.T) {
	s := newScript(t)
	acme := s.client("acme", "")
	s.beat(0)
	s.define(acme, "few", `count(event.section == "a", "10h") >= 2`)
	s.define(acme, "not", `!member("few") && trait("age") >= 25`)
	user := defineRecord(t, acme, "ours", `member("few") && devices() >= 2 && count(event.section == "b") >= 1`)
	user.GetDefine().Scope = "user"
	s.control(user)
	s.define(acme, "gone", `true`)
	linked := s.event(acme, "v", "a")
	linked.Identities = append(linked.Identities, "browser:w")
	s.events(linked)
	s.beat(time.Second)
	s.events(s.event(acme, "w", "b"))
	s.traits(acme, "v", proto.Prop{Key: "age", Value: proto.NumberOf(30)})
	s.beat(time.Hour)
	one := s.now
	s.beat(time.Hour)
	s.events(s.event(acme, "v", "a"))
	s.beat(time.Hour)
	s.control(undefineRecord(acme, "gone"), atOnce(defineRecord(t, acme, "late", `count(event.section == "a") >= 2`)))
	s.beat(time.Second)
	n := s.run(store.NewMemory())
	defer closeNode(t, n)
	for _, c := range []struct {
		visitor, segment string
		at               proto.Millis
		in               bool
		facts            string
		note             bool
	}{
		{"v", "few", 0, true, `count(event.section == "a", "10h") >= 2: 2 true 2`, false},
		{"v", "not", 0, false, `member("few"): true true 0, trait("age") >= 25: 30 true 0`, false},
		{"w", "ours", 0, true, `member("few"): true true 0, devices() >= 2: 2 true 0, count(event.section == "b") >= 1: 1 true 0`, false},
		{"v", "late", 0, false, `count(event.section == "a") >= 2: 2 true 0`, true},
		{"w", "late", 0, false, `count(event.section == "a") >= 2: 0 false 0`, false},
		{"v", "few", one, false, `count(event.section == "a", "10h") >= 2: 1 false 1`, false},
		{"v", "not", one, true, `member("few"): false false 0, trait("age") >= 25: 30 true 0`, false},
		{"v", "ours", one, false, `member("few"): false false 0, devices() >= 2: 2 true 0, count(event.section == "b") >= 1: 1 true 0`, false},
		{"v", "few", one - 7_000_000, false, ``, false}, // not known yet
	} {
		at := time.Time{}
		if c.at != 0 {
			at = c.at.Time()
		}
		x, err := n.Explain(t.Context(), acme, proto.Identity("browser:"+c.visitor), proto.SegmentID(c.segment), at)
		var facts []string
		for _, f := range x.Facts {
			facts = append(facts, fmt.Sprintf("%s: %v %v %d", f.Expr, f.Value, f.Holds, len(f.Events)))
		}
		note := strings.Contains(strings.Join(x.Notes, "; "), "the membership follows the facts")
		if got := strings.Join(facts, ", "); err != nil || x.In != c.in || got != c.facts || note != c.note {
			t.Errorf("%s in %s at %v: in %v by %s, notes %q, %v", c.visitor, c.segment, at, x.In, got, x.Notes, err)
		}
	}
	followsVersions(t, s, n, acme)
	takesTurns(t, n, acme, one.Time())
}

// blockStore is a store of which a read of a history's block is told first.
type blockStore struct {
	store.Store
	read atomic.Pointer[func()]
}

func (s *blockStore) Snapshot() store.Snapshot { return blockSnapshot{s.Store.Snapshot(), s} }

type blockSnapshot struct {
	store.Snapshot
	s *blockStore
}

func (x blockSnapshot) Get(key []byte, fn func([]byte) error) (bool, error) {
	if tell := x.s.read.Load(); tell != nil && engine.IsBlockKey(key) {
		(*tell)()
	}
	return x.Snapshot.Get(key, fn)
}

// An explanation tells nothing of who was cut, or of what its client had forgotten, while
// it waited for its turn or read what was held before, nor of one whom it judges together
// with others; and it goes by no rule that was replaced or removed while it waited in vain.
func TestExplainCutMeanwhile(t *testing.T) {
	s := newScript(t)
	acme := s.client("acme", "")
	const twice = `count(event.section == "a") >= 2`
	s.beat(0)
	for _, id := range []string{"x", "replaced", "removed"} {
		s.define(acme, id, twice)
	}
	user := defineRecord(t, acme, "ours", twice)
	user.GetDefine().Scope = "user"
	s.control(user)
	forget := func(v string) {
		var b proto.Batch
		b.AddCut(&proto.CutCommand{Hash: s.hasher.Hash(proto.Identity("browser:" + v)), Kind: proto.CutForget, Received: s.now, Command: 9, Client: acme.ID, Space: acme.Space})
		s.own(b.Bytes(), 1)
	}
	meanwhile := map[string]func(v string){
		"more":      func(v string) { s.events(s.event(acme, v, "a")) },
		"out":       func(v string) { s.cut(proto.Identity("browser:"+v), proto.CutOptOut) },
		"erased":    func(v string) { s.cut(proto.Identity("browser:"+v), proto.CutErase) },
		"forgotten": forget,
		"back":      func(v string) { forget(v); s.beat(time.Second); s.events(s.event(acme, v, "a")) },
		"with":      func(v string) { s.cut(proto.Identity("browser:"+v), proto.CutOptOut) },
	}
	asked := func(what, v string) (proto.Identity, proto.SegmentID) {
		if what == "with" {
			return proto.Identity("browser:asks-" + v), "ours"
		}
		return proto.Identity("browser:" + v), "x"
	}
	for _, when := range []string{"-then", "-now", "-vain"} {
		for what := range meanwhile {
			for range 30 {
				s.events(s.padded(acme, what+when, "a"))
			}
		}
		linked := s.event(acme, "asks-with"+when, "b")
		linked.Identities = append(linked.Identities, proto.Identity("browser:with"+when))
		s.events(linked)
	}
	s.events(s.event(acme, "v", "a"), s.event(acme, "v", "a"))
	s.beat(time.Hour)
	then := s.now.Time()
	s.beat(time.Hour)
	s.control(atOnce(defineRecord(t, acme, "new", twice))) // what is remembered of all is behind
	s.beat(time.Second)
	st := &blockStore{Store: store.NewMemory()}
	n := s.run(st)
	defer closeNode(t, n)
	seen := func() {
		if err := n.Wait(t.Context(), proto.Position{0: s.beat(time.Second)}); err != nil {
			t.Error(err)
		}
	}
	for when, at := range map[string]time.Time{"-then": then, "-now": {}} {
		for what, do := range meanwhile {
			id, segment := asked(what, what+when)
			cut := func() { st.read.Store(nil); do(what + when); seen() }
			st.read.Store(&cut)
			x, err := n.Explain(t.Context(), acme, id, segment, at)
			if st.read.Swap(nil) != nil {
				t.Errorf("%s%s: no history was read", what, when)
			}
			if what == "more" && (err != nil || !x.In || len(x.Facts) != 1) || what != "more" && proto.CodeOf(err) != proto.CodeUnavailable {
				t.Errorf("%s%s: %+v, %v", what, when, x, err)
			}
		}
	}
	end, err := n.LongTurn(t.Context(), acme.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	soon, cancel := context.WithTimeout(t.Context(), 5*time.Second) // of which the wait has four
	defer cancel()
	var all sync.WaitGroup
	explain := func(id proto.Identity, segment proto.SegmentID, tell func(proto.Explanation, error)) {
		ctx := &watched{Context: soon, waits: make(chan struct{})}
		all.Go(func() { tell(n.Explain(ctx, acme, id, segment, time.Time{})) })
		<-ctx.waits
	}
	for what := range meanwhile {
		id, segment := asked(what, what+"-vain")
		explain(id, segment, func(x proto.Explanation, err error) {
			if err != nil || x.In != (what == "more") || len(x.Facts) > 0 || (x.Entered != nil) != x.In {
				t.Errorf("%s while it waited in vain: %+v, %v", what, x, err)
			}
		})
	}
	const thrice = `count(event.section == "a") >= 3`
	explain("browser:v", "replaced", func(x proto.Explanation, err error) {
		if err != nil || x.In || x.When != thrice {
			t.Errorf("a rule that was replaced while it waited in vain: %+v, %v", x, err)
		}
	})
	explain("browser:v", "removed", func(x proto.Explanation, err error) {
		if proto.CodeOf(err) != proto.CodeNotFound {
			t.Errorf("a segment that was removed while it waited in vain: %+v, %v", x, err)
		}
	})
	for what, do := range meanwhile {
		do(what + "-vain")
	}
	s.control(atOnce(defineRecord(t, acme, "replaced", thrice)), undefineRecord(acme, "removed"))
	seen()
	until(t, n, 10*time.Second, "the new rules", func() bool {
		one, _ := n.Segment(acme, "replaced")
		other, _ := n.Segment(acme, "removed")
		return one.When == thrice && other.When == ""
	})
	all.Wait()
}

// Where there is time to judge the histories of then, and none to tell the facts, the
// answer is told without them.
func TestExplainThenWithoutFacts(t *testing.T) {
	s := newScript(t)
	acme := s.client("acme", "")
	s.beat(0)
	s.define(acme, "x", `count(event.section == "a") >= 2`)
	for range 30 {
		s.events(s.padded(acme, "v", "a"))
	}
	s.beat(time.Hour)
	then := s.now.Time()
	s.beat(time.Hour)
	st := &blockStore{Store: store.NewMemory()}
	n := s.run(st)
	defer closeNode(t, n)
	reads := 0
	count := func() { reads++ }
	st.read.Store(&count)
	if x, err := n.Explain(t.Context(), acme, "browser:v", "x", then); err != nil || !x.In || len(x.Facts) != 1 || reads == 0 {
		t.Fatalf("%+v, %v, after %d reads", x, err, reads)
	}
	const within = 500 * time.Millisecond
	n.ExplainWithin(within)
	// The events are read for the answer, then for the facts, then for since when.
	for left, want := range map[int]struct {
		facts int
		note  string
	}{0: {1, "since when it is so, and until when, could not be read"}, reads / 3: {0, "the facts could not be read"}} {
		gone := reads - left
		stop := func() {
			if gone--; gone == 0 {
				time.Sleep(within + 100*time.Millisecond)
			}
		}
		st.read.Store(&stop)
		x, err := n.Explain(t.Context(), acme, "browser:v", "x", then)
		if err != nil || !x.In || len(x.Facts) != want.facts || !strings.Contains(strings.Join(x.Notes, "; "), want.note) {
			t.Errorf("%+v, %v, want %+v", x, err, want)
		}
	}
}

// watched is a context that tells when somebody begins to wait with it.
type watched struct {
	context.Context
	once  sync.Once
	waits chan struct{}
}

func (w *watched) Done() <-chan struct{} {
	w.once.Do(func() { close(w.waits) })
	return w.Context.Done()
}

// followsVersions checks that an explanation of now which waited for its turn goes by what
// is defined then.
func followsVersions(t *testing.T, s *script, n *engine.Node, acme proto.ClientInfo) {
	t.Helper()
	while := func(change *pb.Control) (x proto.Explanation, err error) {
		end, err := n.LongTurn(t.Context(), acme.ID)
		if err != nil {
			t.Fatal(err)
		}
		ctx := &watched{Context: t.Context(), waits: make(chan struct{})}
		var asked sync.WaitGroup
		asked.Go(func() { x, err = n.Explain(ctx, acme, "browser:v", "late", time.Time{}) })
		<-ctx.waits
		s.control(change)
		if err := n.Wait(t.Context(), proto.Position{0: s.beat(time.Second)}); err != nil {
			t.Fatal(err)
		}
		rule := change.GetDefine().GetWhen() // none when it is removed
		// The registry reads the stream itself.
		for end := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
			if now, _ := n.Segment(acme, "late"); now.When == rule {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("the rule does not become %q", rule)
			}
		}
		end()
		asked.Wait()
		return x, err
	}
	if x, err := while(atOnce(defineRecord(t, acme, "late", `count(event.section == "a") >= 9`))); err != nil || x.When != `count(event.section == "a") >= 9` || len(x.Facts) != 1 || x.Facts[0].Holds {
		t.Errorf("a rule that was replaced meanwhile: %+v, %v", x, err)
	}
	if x, err := while(undefineRecord(acme, "late")); proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("a segment that was removed meanwhile: %+v, %v", x, err)
	}
}

// takesTurns checks that explanations for which histories are read, of the past and of
// rules that changed, wait for what else takes long, and end in time.
func takesTurns(t *testing.T, n *engine.Node, acme proto.ClientInfo, past time.Time) {
	t.Helper()
	end, err := n.LongTurn(t.Context(), acme.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []time.Time{{}, past} {
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if x, err := n.Explain(gone, acme, "browser:v", "few", at); proto.CodeOf(err) != proto.CodeTimeout {
			t.Errorf("beside a long count, for nobody, at %v: %+v, %v", at, x, err)
		}
	}
	soon, cancel := context.WithTimeout(t.Context(), time.Second)
	if x, err := n.Explain(soon, acme, "browser:v", "few", time.Time{}); err != nil || !x.In || len(x.Facts) > 0 || !strings.Contains(strings.Join(x.Notes, "; "), "could not be read") || soon.Err() != nil {
		t.Errorf("beside a long count, of now: %+v, %v", x, err)
	}
	cancel()
	soon, cancel = context.WithTimeout(t.Context(), time.Second)
	if x, err := n.Explain(soon, acme, "browser:v", "few", past); proto.CodeOf(err) != proto.CodeOverloaded || soon.Err() != nil {
		t.Errorf("beside a long count, of the past: %+v, %v", x, err)
	}
	cancel()
	end()
	n.ExplainWithin(1)
	if x, err := n.Explain(t.Context(), acme, "browser:v", "few", past); proto.CodeOf(err) != proto.CodeTimeout {
		t.Errorf("of the past, without time: %+v, %v", x, err)
	}
	if x, err := n.Explain(t.Context(), acme, "browser:v", "few", time.Time{}); err != nil || !x.In || len(x.Facts) > 0 || !strings.Contains(strings.Join(x.Notes, "; "), "could not be read") {
		t.Errorf("of now, without time: %+v, %v", x, err)
	}
}
