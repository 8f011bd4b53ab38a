package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/actors/identity"
	"kith/engine"
	"kith/engine/store"
	"kith/proto"
	"kith/proto/pb"
)

const day = 24 * time.Hour

func retainRecord(c proto.ClientID, sessions, idle time.Duration) *pb.Control {
	return &pb.Control{Body: &pb.Control_Retain{Retain: &pb.Retain{Client: uint32(c), SessionsMs: sessions.Milliseconds(), IdleMs: idle.Milliseconds()}}}
}

// expire writes a step for the first few numbers of every partition.
func (s *script) expire() {
	var x proto.Expire
	for o := range proto.Ordinal(16 * proto.Partitions) {
		x.Ordinals = append(x.Ordinals, o)
	}
	s.lane(proto.CommandExpire, x.Append(nil))
}

// padded is an event that fills histories.
func (s *script) padded(c proto.ClientInfo, visitor, section string) *proto.Event {
	e := s.event(c, visitor, section)
	s.pads++ // events that are alike are kept as their differences
	e.Props = append(e.Props, proto.Prop{Key: "pad", Value: proto.TextOf(fmt.Sprintf("%d%s", s.pads, strings.Repeat(section, 40)))})
	return e
}

// sections are the sections of what is kept of a visitor's events.
func sections(t *testing.T, n *engine.Node, c proto.ClientInfo, visitor string) (list []string) {
	t.Helper()
	rec, err := n.Record(t.Context(), c, proto.Identity("browser:"+visitor))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range rec.Events {
		list = append(list, fmt.Sprint(e.Props["section"]))
	}
	return list
}

// What happened long ago and was told late goes by when it happened.
func TestRetentionOfLateEvents(t *testing.T) {
	s := newScript(t)
	c := s.client("acme", "")
	s.control(retainRecord(0, 10*day, 0))
	s.define(c, "old", `count(event.section == "old") >= 1`)
	s.beat(0)
	late := s.event(c, "a", "old")
	late.Time -= proto.Millis((9 * day).Milliseconds())
	s.events(late, s.event(c, "a", "new"))
	s.beat(2 * day)
	s.expire()
	s.beat(time.Second)
	n := s.run(store.NewMemory())
	defer closeNode(t, n)
	if got := s.lookup(n, c, "a"); got != "true []" {
		t.Errorf("eleven days after it the membership is %s", got)
	}
	if got := sections(t, n, c, "a"); !slices.Equal(got, []string{"new"}) {
		t.Errorf("kept are %v", got)
	}
	// Who was in the day before is out by the events that are left, which is said.
	x, err := n.Explain(t.Context(), c, "browser:a", "old", s.now.Time().Add(-day))
	if err != nil || x.In || len(x.Notes) != 1 || !strings.Contains(x.Notes[0], "may have expired") {
		t.Errorf("explained as %+v, %v", x, err)
	}
}

// Events older than a client's retention go, in blocks and tails alike, and with
// them the memberships that only they gave; what is younger stays, and another
// client's policy is its own.
func TestRetentionOfSessions(t *testing.T) {
	s := newScript(t)
	short, long := s.client("short", ""), s.client("long", "")
	s.control(retainRecord(0, 100*day, 0), retainRecord(short.ID, 10*day, 0))
	for _, c := range []proto.ClientInfo{short, long} {
		s.define(c, "old", `count(event.section == "old") >= 1`)
		s.define(c, "new", `count(event.section == "new") >= 1`)
		s.define(c, "never-old", `!member("old")`)
	}
	together := defineRecord(t, short, "together-old", `count(event.section == "old") >= 13`)
	together.GetDefine().Scope = "user"
	s.control(together)
	s.beat(0)
	for range 12 { // more than a tail has room for
		s.events(s.padded(short, "a", "old"), s.padded(long, "a", "old"))
	}
	join := s.event(short, "b", "old")
	join.Identities = append(join.Identities, "browser:a")
	s.events(join)
	s.traits(short, "b", proto.Prop{Key: "plan", Value: proto.TextOf("p1")})
	s.beat(6 * day)
	for range 7 {
		s.events(s.padded(short, "a", "new"), s.padded(long, "a", "new"))
	}
	s.expire() // nothing is old enough
	s.beat(5 * day)
	early := s.run(store.NewMemory())
	if got := sections(t, early, short, "a"); len(got) != 19 {
		t.Errorf("before the step: %v", got)
	}
	if got := s.lookup(early, short, "b"); got != "true [old together-old]" {
		t.Error("before the step b is in", got)
	}
	closeNode(t, early)
	s.expire()
	s.beat(time.Second)
	s.events(s.event(short, "a", "newest"))
	s.beat(time.Second)
	st := store.NewMemory()
	n := s.run(st)
	if diff := cmp.Diff([]string{"new", "new", "new", "new", "new", "new", "new", "newest"}, sections(t, n, short, "a")); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	if got := sections(t, n, short, "b"); len(got) != 0 {
		t.Errorf("of b's events are kept: %v", got)
	}
	if got := sections(t, n, long, "a"); len(got) != 19 {
		t.Errorf("of the other client are kept: %v", got)
	}
	if got := s.lookup(n, short, "a"); got != "true [new never-old]" {
		t.Error("a is in", got)
	}
	if got := s.lookup(n, short, "b"); got != "true [never-old]" {
		t.Error("b is in", got)
	}
	if got := s.lookup(n, long, "a"); got != "true [old new]" {
		t.Error("of the other client a is in", got)
	}
	if old, late := s.members(n, short, "old"), s.members(n, short, "new"); old != 0 || late != 1 {
		t.Errorf("%d and %d members, want 0 and 1", old, late)
	}
	rec, err := n.Record(t.Context(), short, "browser:a")
	if err != nil || rec.FirstSeen.Before(s.now.Time().Add(-11*day)) {
		t.Errorf("first seen %v, %v", rec.FirstSeen, err)
	}
	if rec, err := n.Record(t.Context(), short, "browser:b"); err != nil || rec.Traits["plan"] != "p1" {
		t.Errorf("b's traits are %v, %v", rec.Traits, err)
	}
	closeNode(t, n)
	s.verify(st)
	if left := engine.BlocksOf(st, short.ID); len(left) == 0 || strings.Contains(strings.Join(left, ""), "oldold") {
		t.Errorf("%d blocks are in the store, some with what is old", len(left))
	}
}

// Who was idle for too long goes with all that is known, out of its user too,
// which is then as if it had never been of it.
func TestRetentionOfIdentities(t *testing.T) {
	s := newScript(t)
	c := s.client("acme", "")
	s.control(retainRecord(0, 0, 30*day))
	s.define(c, "any", `count(true) >= 1`)
	record := defineRecord(t, c, "together", `count(true) >= 3`)
	record.GetDefine().Scope = "user"
	s.control(record)
	s.beat(0)
	join := s.event(c, "idle", "x")
	join.Identities = append(join.Identities, "browser:active")
	s.events(s.padded(c, "alone", "x"), join, s.event(c, "idle", "x"), s.event(c, "active", "x"), s.event(c, "kept", "x"))
	s.beat(29 * day)
	s.events(s.event(c, "active", "x"), s.event(c, "kept", "x"))
	s.expire()
	s.beat(2 * day)
	before := s.run(store.NewMemory())
	if got := s.lookup(before, c, "active") + s.lookup(before, c, "alone"); got != "true [any together]true [any]" {
		t.Error("before:", got)
	}
	closeNode(t, before)
	s.expire()
	s.beat(time.Second)
	st := store.NewMemory()
	n := s.run(st)
	for visitor, want := range map[string]string{
		"alone": "false []", "idle": "false []", "active": "true [any]", "kept": "true [any]",
	} {
		if got := s.lookup(n, c, visitor); got != want {
			t.Errorf("%s is %s, want %s", visitor, got, want)
		}
	}
	if got := s.members(n, c, "any"); got != 2 {
		t.Errorf("%d members, want 2", got)
	}
	if got := membersOf(t, n, c, "browser:active"); len(got) != 1 {
		t.Errorf("the user is %v", got)
	}
	closeNode(t, n)
	if r := s.verify(st); r.Identities != 2 || r.Events != 4 {
		t.Errorf("left are %+v", r)
	}
}

// Who is linked to somebody that is active is not idle, though events belong to
// their first identity.
func TestRetentionOfLinked(t *testing.T) {
	s := newScript(t)
	c := s.client("acme", "")
	s.control(retainRecord(0, 0, 30*day))
	s.define(c, "gold", `trait("plan") == "gold"`)
	s.beat(0)
	s.traits(c, "y", proto.Prop{Key: "plan", Value: proto.TextOf("gold")})
	for range 5 {
		join := s.event(c, "a", "x")
		join.Identities = append(join.Identities, "browser:y")
		s.events(join)
		s.expire()
		s.beat(10 * day)
	}
	n := s.run(store.NewMemory())
	defer closeNode(t, n)
	if got := membersOf(t, n, c, "browser:a"); len(got) != 2 {
		t.Errorf("the user is %v", got)
	}
	if got := s.lookup(n, c, "y"); got != "true [gold]" {
		t.Error("y is", got)
	}
}

// A node of which only the removal of a link is known is as old as that: an
// erasure would refuse the evidence that is under way.
func TestRetentionOfRemovals(t *testing.T) {
	s := newScript(t)
	c := s.client("acme", "")
	s.control(retainRecord(0, 0, 30*day))
	s.beat(0)
	join := s.event(c, "a", "x")
	join.Identities = append(join.Identities, "browser:b")
	s.events(join)
	s.beat(time.Second)
	var b proto.Batch
	b.AddUnlink(&proto.UnlinkCommand{
		Client: c.ID, Space: c.Space, A: s.hasher.Hash("browser:a"), B: s.hasher.Hash("browser:b"), Received: s.now,
	})
	s.own(b.Bytes(), 1)
	s.beat(day)
	s.expire()
	s.beat(time.Second)
	if r := s.apply(store.NewMemory()); r.Identities != 2 {
		t.Errorf("a day later there are %d identities, want 2", r.Identities)
	}
	again := s.event(c, "b", "x")
	again.Identities = append(again.Identities, "browser:a")
	s.events(again)
	s.beat(time.Second)
	st := store.NewMemory()
	n := s.run(st)
	if got := membersOf(t, n, c, "browser:b"); len(got) != 2 {
		t.Errorf("a link after the step was not made: %v", got)
	}
	closeNode(t, n)
	s.beat(31 * day)
	s.expire()
	s.beat(time.Second)
	if r := s.apply(store.NewMemory()); r.Identities != 0 {
		t.Errorf("left are %+v", r)
	}
}

// An identity that was known by its links alone is as old as the end of the last: when
// those that named it are gone, nobody says anything of it again, and its name goes too.
func TestRetentionOfNames(t *testing.T) {
	for what, kind := range map[string]proto.CutKind{"an erasure": proto.CutErase, "an opt-out": proto.CutOptOut} {
		s := newScript(t)
		c := s.client("acme", "")
		s.control(retainRecord(0, 0, 30*day))
		s.beat(0)
		join := s.event(c, "a", "x")
		join.Identities = append(join.Identities, "account:0123456789abcdef")
		s.events(join)
		s.beat(time.Second)
		s.cut("browser:a", kind)
		s.beat(time.Second)
		s.beat(29 * day)
		s.expire()
		s.beat(time.Second)
		if r := s.apply(store.NewMemory()); r.Identities != 1 {
			t.Errorf("%s: within the time there are %d identities, want the account", what, r.Identities)
		}
		s.beat(2 * day)
		s.expire()
		s.beat(time.Second)
		if r := s.apply(store.NewMemory()); r.Identities != 0 {
			t.Errorf("%s: %d identities are left", what, r.Identities)
		}
	}
}

// A node looks for what is too old by itself, by lane time, over restarts, and
// by the configuration that it has then.
func TestRetentionByItself(t *testing.T) {
	var ahead atomic.Int64
	start := time.Now()
	policy := &engine.RetentionConfig{Sessions: 100 * day, Idle: 50 * day, Clients: map[proto.ClientName]time.Duration{"acme": 10 * day}}
	configure := func(c *engine.Config) {
		c.Lanes = 2
		c.Retention = policy
		c.Now = func() time.Time { return start.Add(time.Since(start) + time.Duration(ahead.Load())) }
	}
	n := testNode(t, t.TempDir(), configure)
	defer func() { closeNode(t, n) }()
	c := acme(t, n)
	define(t, n, "any", `count(true) >= 1`)
	at := func(visitor, section string) *proto.Event {
		e := page(c, visitor, section, time.Now().Add(time.Duration(ahead.Load())))
		e.Received = e.Time
		return e
	}
	var list []*proto.Event
	for i := range 3000 {
		list = append(list, at(fmt.Sprint("v", i), "old"))
	}
	submit(t, n, list...)
	ahead.Add(int64(49 * day))
	until(t, n, 20*time.Second, "events to go", func() bool { return len(sections(t, n, c, "v5")) == 0 && len(sections(t, n, c, "v1")) == 0 })
	submit(t, n, at("v1", "new"), at("v2", "new"))
	if got := sections(t, n, c, "v1"); len(got) != 1 || got[0] != "new" {
		t.Errorf("of v1 are kept: %v", got)
	}
	if known := count(t, n, c, "any | !any"); known != 3000 {
		t.Errorf("%d identities are known before they were idle for long, want 3000", known)
	}
	ahead.Add(int64(2 * day))
	until(t, n, 30*time.Second, "identities to go", func() bool { return count(t, n, c, "any | !any") == 2 })
	wantSegments(t, n, c, "browser:v1", "any")
	if r := settle(t, n); r.Identities != 2 || r.Events != 2 {
		t.Errorf("left are %+v", r)
	}
}

// A name that an earlier build left alone, without noting when, is as old as the first
// look at it.
func TestRetentionOfUndatedNames(t *testing.T) {
	var ahead atomic.Int64
	start, dir := time.Now(), t.TempDir()
	configure := func(c *engine.Config) {
		c.Retention = &engine.RetentionConfig{Sessions: 100 * day, Idle: 50 * day}
		c.Now = func() time.Time { return start.Add(time.Since(start) + time.Duration(ahead.Load())) }
	}
	n := testNode(t, dir, configure)
	join := page(acme(t, n), "a", "x", time.Now())
	join.Identities = append(join.Identities, "account:0123456789abcdef")
	submit(t, n, join)
	settle(t, n)
	if s, err := n.Erase(t.Context(), nil, "browser:a"); err != nil || !s.Final {
		t.Fatalf("%+v %v", s, err)
	}
	settle(t, n)
	closeNode(t, n)

	st := testStore(t, filepath.Join(dir, "store"))
	snap, batch, undated := st.Snapshot(), st.NewBatch(), 0
	err := snap.Scan([]byte{'N'}, []byte{'N'}, func(k, v []byte) (bool, error) {
		var s identity.State
		if k[24] != 'f' {
			return true, nil
		}
		if _, err := s.Decode(v); err != nil || s.Bare == 0 {
			return true, err
		}
		undated++
		s.Bare = 0
		return true, batch.Set(bytes.Clone(k), s.Append(nil))
	})
	snap.Release()
	if err := errors.Join(err, batch.Commit(), st.Close()); err != nil || undated != 1 {
		t.Fatalf("%d names are alone, want the account's: %v", undated, err)
	}

	n = testNode(t, dir, configure)
	defer func() { closeNode(t, n) }()
	looks := 0
	until(t, n, 60*time.Second, "the name to go", func() bool {
		if looks++; looks%10 == 1 { // noted at one look, and idle at a later one
			ahead.Add(int64(51 * day))
		}
		r, err := n.Verify(t.Context())
		return err == nil && r.Identities == 0
	})
}

// A node looks for dead letters that are too old, though it knows nobody who is.
func TestRetentionOfLetters(t *testing.T) {
	var ahead atomic.Int64
	var p poison
	n := nodeOver(t, func(s *script) {
		p.client = s.client("bad", "").ID
		s.judge = p.judge
	}, func(c *engine.Config) {
		c.Retention = &engine.RetentionConfig{Idle: 2 * day}
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	defer func() { closeNode(t, n) }()
	bad, _ := n.Client("bad")
	p.on.Store(true)
	submit(t, n, page(bad, "a", "lost", time.Now()))
	if got := deadLetters(t, n); len(got) != 1 {
		t.Fatalf("%d dead letters", len(got))
	}
	ahead.Add(int64(3 * day))
	until(t, n, 20*time.Second, "the letter to go", func() bool { return len(deadLetters(t, n)) == 0 })
}

// After a start at which lane time jumped nothing is deleted for an hour of it.
func TestRetentionWaitsAfterAJump(t *testing.T) {
	var ahead atomic.Int64
	start := time.Now()
	configure := func(c *engine.Config) {
		c.Retention = &engine.RetentionConfig{Sessions: day, Idle: 2 * day}
		c.Now = func() time.Time { return start.Add(time.Since(start) + time.Duration(ahead.Load())) }
	}
	dir := t.TempDir()
	n := testNode(t, dir, configure)
	submit(t, n, page(acme(t, n), "a", "x", time.Now()))
	closeNode(t, n)
	ahead.Add(int64(30 * day))
	n = testNode(t, dir, configure)
	defer func() { closeNode(t, n) }()
	c := acme(t, n)
	ahead.Add(int64(50 * time.Minute))
	beats := 0
	until(t, n, 20*time.Second, "beats", func() bool { beats++; return beats > 3 })
	if got := sections(t, n, c, "a"); len(got) != 1 {
		t.Errorf("50 minutes after the start are left: %v", got)
	}
	ahead.Add(int64(15 * time.Minute))
	until(t, n, 20*time.Second, "the identity to go", func() bool {
		seen, _, err := n.Lookup(c, "browser:a", proto.MillisOf(time.Now()), nil)
		return err == nil && !seen.Known
	})
}

// Nothing is deleted for an hour after the wall clock jumped while the node ran, nor
// while lane time is ahead of a clock that was set back, after a new start either.
func TestRetentionWaitsAfterAStep(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for many beats: not in short runs")
	}
	var ahead atomic.Int64
	start := time.Now()
	configure := func(c *engine.Config) {
		c.Retention = &engine.RetentionConfig{Sessions: day, Idle: 2 * day}
		c.Now = func() time.Time { return start.Add(time.Since(start) + time.Duration(ahead.Load())) }
	}
	dir := t.TempDir()
	n := testNode(t, dir, configure)
	defer func() { closeNode(t, n) }()
	c := acme(t, n)
	submit(t, n, page(c, "a", "x", time.Now()))
	kept := func(when string, each func()) {
		t.Helper()
		beats := 0
		until(t, n, 20*time.Second, "beats", func() bool { each(); beats++; return beats > 3 })
		if got := sections(t, n, c, "a"); len(got) != 1 {
			t.Errorf("%s are left: %v", when, got)
		}
	}
	kept("at first", func() {})
	before := n.LaneTime()
	step := func() {
		if n.Now().Before(time.Now().Add(20 * day)) {
			n.StepTime(30 * day)
		}
	}
	until(t, n, 20*time.Second, "lane time", func() bool { step(); return n.LaneTime()-before > proto.Millis((29 * day).Milliseconds()) })
	kept("after the step", step)
	until(t, n, 20*time.Second, "the clock", func() bool { return n.Now().Before(time.Now().Add(day)) })
	ahead.Add(int64(2 * time.Hour))
	kept("two hours after it was taken back", func() {})
	closeNode(t, n)
	n = testNode(t, dir, configure)
	kept("and after a new start", func() {})
	ahead.Add(int64(30 * day))
	until(t, n, 20*time.Second, "the identity to go", func() bool {
		seen, _, err := n.Lookup(c, "browser:a", n.LaneTime(), nil)
		return err == nil && !seen.Known
	})
}

// A configuration that changes is written again, one that does not is not.
func TestRetentionIsAgreedOn(t *testing.T) {
	dir := t.TempDir()
	open := func(c engine.RetentionConfig) (records uint64) {
		n := testNode(t, dir, func(x *engine.Config) { x.Retention = &c })
		defer closeNode(t, n)
		return n.Controls()
	}
	own := map[proto.ClientName]time.Duration{"acme": 3 * day}
	first := open(engine.RetentionConfig{Sessions: 5 * day, Clients: own})
	for i, x := range []struct {
		c    engine.RetentionConfig
		more uint64
	}{
		{engine.RetentionConfig{Sessions: 5 * day, Clients: own}, 0},
		{engine.RetentionConfig{Sessions: 5 * day}, 1},
		{engine.RetentionConfig{Sessions: 6 * day, Idle: day}, 1},
		{engine.RetentionConfig{Sessions: 6 * day, Idle: day}, 0},
	} {
		if got := open(x.c); got != first+x.more {
			t.Errorf("%d: %d records, want %d more than %d", i, got, x.more, first)
		} else {
			first = got
		}
	}
}

func TestRetentionRecord(t *testing.T) {
	const want = "0180808080808001808080808001"
	x := proto.Retention{Sessions: 1 << 42, Idle: 1 << 35}
	got := engine.PackRetention(x)
	if text := fmt.Sprintf("%x", got); text != want {
		t.Errorf("bytes on disk would change: %s, want %s", text, want)
	}
	if again, err := engine.UnpackRetention(got); err != nil || again != x {
		t.Errorf("read again: %+v, %v", again, err)
	}
}

func FuzzRetentionRecord(f *testing.F) {
	f.Add(engine.PackRetention(proto.Retention{Sessions: 1 << 42, Idle: 3}))
	f.Add([]byte{2, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := engine.UnpackRetention(b)
		if err != nil {
			if proto.CodeOf(err) != proto.CodeCorrupt {
				t.Fatalf("code of %v", err)
			}
			return
		}
		if y, err := engine.UnpackRetention(engine.PackRetention(x)); err != nil || x != y {
			t.Fatalf("%+v reads as %+v (%v)", x, y, err)
		}
	})
}
