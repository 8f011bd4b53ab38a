package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/engine"
	"kith/engine/store"
	"kith/proto"
)

// An entry that the log took twice is applied once: in one batch, across
// batches, across a restart.
func TestRetriedEntry(t *testing.T) {
	cuts := map[string]func() int{"one batch": nil, "batches": func() int { return 1 }}
	for first := range 10 { // entries, and then all others
		done := false
		cuts[fmt.Sprint("a batch of ", first+1)] = func() int {
			if done {
				return 100
			}
			done = true
			return first + 1
		}
	}
	for name, lump := range cuts {
		t.Run(name, func(t *testing.T) {
			s := newScript(t)
			s.lump = lump
			acme := s.client("acme", "")
			s.define(acme, "twice", `count(true) >= 2`)
			s.beat(0)
			var b proto.Batch
			b.AddEvent(s.hasher, s.event(acme, "a", "x"))
			s.append(9, 5, b.Bytes(), 1)
			s.again(9, 5, b.Bytes(), 1)
			s.append(9, 4, b.Bytes(), 1) // overtaken by 5, not a repeat
			s.again(9, 4, b.Bytes(), 1)
			s.again(9, 5, b.Bytes(), 1)
			s.beat(time.Second)
			st := store.NewMemory()
			if r := s.apply(st); r.Events != 2 {
				t.Errorf("%d events were applied, want 2", r.Events)
			}
			s.again(9, 5, b.Bytes(), 1)
			s.beat(time.Second)
			if r := s.apply(st); r.Events != 2 {
				t.Errorf("%d events were applied after a restart, want 2", r.Events)
			}
		})
	}
}

// An entry that cannot be read or obeyed stops its lane with a reason; what
// was applied before is still answered, and once the cause is mended nothing
// is missing.
func TestQuarantine(t *testing.T) {
	damage := map[string]struct {
		mangle func([]byte) []byte
		want   string
	}{
		"bit":     {func(b []byte) []byte { b = append([]byte(nil), b...); b[len(b)-9] ^= 1; return b }, "checksum"},
		"cut":     {func(b []byte) []byte { return b[:len(b)/2] }, "envelope"},
		"empty":   {func([]byte) []byte { return nil }, "version 0"},
		"version": {func(b []byte) []byte { return append([]byte{8, 2}, b[2:]...) }, "version 2"},
		"command": {reseal(func(e *proto.Entry) { e.Commands[0] = 77 }), "kind 77 is unknown"},
		"home":    {reseal(func(e *proto.Entry) { e.Commands[1] ^= 1 }), "home"},
		"body":    {reseal(func(e *proto.Entry) { e.Commands[len(e.Commands)-2] = 0x7f }), "malformed"},
	}
	for name, d := range damage {
		t.Run(name, func(t *testing.T) {
			s := newScript(t)
			acme := s.client("acme", "")
			s.define(acme, "one", `count(true) >= 1`)
			s.events(s.event(acme, "a", "x"))
			s.beat(0)
			st := store.NewMemory()
			n := s.run(st)
			before := s.events(s.event(acme, "b", "x"))
			s.mu.Lock()
			s.mangle[before+1] = d.mangle
			s.mu.Unlock()
			s.events(s.event(acme, "c", "x"))
			last := s.beat(time.Second)

			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			err := n.Wait(ctx, proto.Position{0: last})
			if proto.CodeOf(err) != proto.CodeQuarantined || !strings.Contains(err.Error(), d.want) {
				t.Errorf("waiting for what follows the entry: %v, want quarantine for %q", err, d.want)
			}
			if err := n.Ready(); proto.CodeOf(err) != proto.CodeQuarantined {
				t.Errorf("ready: %v", err)
			}
			if q := n.Lanes()[0].Quarantined; !strings.Contains(q, d.want) {
				t.Errorf("the lane's status says %q", q)
			}
			if got := s.lookup(n, acme, "a"); got != "true [one]" {
				t.Errorf("look-up of a in quarantine: %s", got)
			}
			if c, err := n.Count(t.Context(), acme, "one", ""); err != nil || c.Exact || c.Partitions.Answered != 0 {
				t.Errorf("count in quarantine: %+v, %v, want it marked as not whole", c, err)
			}
			if a := take(t, n, acme, proto.ExportRequest{Expr: "one"}); a.Manifest.Exact || a.Manifest.Partitions.Answered != 0 || len(a.Lanes) != 0 {
				t.Errorf("an audience in quarantine: %+v, want it marked as not whole", a.Manifest)
			}
			closeNode(t, n)
			if _, err := s.open(st); proto.CodeOf(err) != proto.CodeQuarantined {
				t.Errorf("opened again with the damage: %v", err)
			}
			clear(s.mangle)
			n = s.run(st)
			if got := s.members(n, acme, "one"); got != 3 {
				t.Errorf("%d members once mended, want 3", got)
			}
			closeNode(t, n)
			if diff := cmp.Diff(s.apply(store.NewMemory()), s.verify(st)); diff != "" {
				t.Errorf("state once mended (-want +got):\n%s", diff)
			}
		})
	}
}

// reseal changes an entry under a right checksum.
func reseal(change func(*proto.Entry)) func([]byte) []byte {
	return func(raw []byte) []byte {
		e, err := proto.DecodeEntry(raw, 0)
		if err != nil {
			panic(err)
		}
		e.Commands = append([]byte(nil), e.Commands...)
		change(e)
		b, err := e.Encode()
		if err != nil {
			panic(err)
		}
		return b
	}
}

// brokenStore fails a commit.
type brokenStore struct {
	store.Store
	fail  atomic.Bool
	panic atomic.Bool
}

type brokenBatch struct {
	store.Batch
	s *brokenStore
}

func (s *brokenStore) NewBatch() store.Batch { return brokenBatch{s.Store.NewBatch(), s} }

func (b brokenBatch) Set(k, v []byte) error {
	if b.s.panic.Load() {
		panic("no such luck")
	}
	return b.Batch.Set(k, v)
}

func (b brokenBatch) Commit() error { return b.broken(b.Batch.Commit) }

func (b brokenBatch) Apply() error { return b.broken(b.Batch.Apply) }

func (b brokenBatch) broken(do func() error) error {
	if b.s.fail.Load() {
		b.Discard()
		return errors.New("the disk is gone")
	}
	return do()
}

// A commit that fails stops the lane at once: nothing waits for ever, nothing
// of it or after it is seen, and a restart goes on where the store is.
func TestCommitFails(t *testing.T) {
	for name, broke := range map[string]func(*brokenStore) *atomic.Bool{
		"commit": func(b *brokenStore) *atomic.Bool { return &b.fail },
		"build":  func(b *brokenStore) *atomic.Bool { return &b.panic },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t)
			acme := s.client("acme", "")
			s.define(acme, "one", `count(true) >= 1`)
			s.events(s.event(acme, "a", "x"))
			s.beat(0)
			st := &brokenStore{Store: store.NewMemory()}
			n := s.run(st)
			broke(st).Store(true)
			s.events(s.event(acme, "b", "x"))
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			var err error
			for i := 0; err == nil && i < 50; i++ { // some more come before it is noticed
				err = n.Wait(ctx, proto.Position{0: s.beat(time.Millisecond)})
			}
			if proto.CodeOf(err) != proto.CodeQuarantined {
				t.Errorf("waiting behind a failed commit: %v, want quarantine", err)
			}
			if err := n.Ready(); proto.CodeOf(err) != proto.CodeQuarantined {
				t.Errorf("ready: %v", err)
			}
			if a, b := s.lookup(n, acme, "a"), s.lookup(n, acme, "b"); a != "true [one]" || b != "false []" {
				t.Errorf("look-ups are %s and %s", a, b)
			}
			closed := make(chan error)
			go func() { closed <- n.Close() }()
			select {
			case err := <-closed:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the node cannot be closed")
			}
			broke(st).Store(false)
			if got, want := s.apply(st), s.apply(store.NewMemory()); !cmp.Equal(got, want) {
				t.Errorf("after a restart: %s", cmp.Diff(want, got))
			}
		})
	}
}

// Definitions that come and go in one entry leave nothing to be filled, and do
// not stand in the way of those that stay.
func TestRedefinedAtOnce(t *testing.T) {
	n := nodeOver(t, func(s *script) {
		acme := s.client("acme", "")
		s.events(s.event(acme, "a", "x"), s.event(acme, "b", "x"))
		s.control(
			defineRecord(t, acme, "x", `count(true) >= 9`),
			defineRecord(t, acme, "gone", `count(true) >= 1`),
			defineRecord(t, acme, "x", `count(true) >= 1`),
			undefineRecord(acme, "gone"),
		)
	})
	defer closeNode(t, n)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		spec, ok := n.Segment(acme(t, n), "x")
		if ok && *spec.Filled && spec.Next == nil {
			if *spec.Size != 2 {
				t.Errorf("x has %d members, want 2", *spec.Size)
			}
			return
		}
		if err := n.AwaitChange(ctx); err != nil {
			t.Fatalf("x was never filled: %v", err)
		}
	}
}

// nodeOver opens a node that writes its own log behind what the test wrote.
func nodeOver(t *testing.T, write func(*script), change ...func(*engine.Config)) *engine.Node {
	t.Helper()
	s := newScript(t)
	s.now = proto.MillisOf(time.Now()) - 60_000
	write(s)
	c := s.config(func(c *engine.Config) { c.Now = nil; c.DiskReserve = 1 })
	for _, f := range change {
		f(&c)
	}
	n, err := engine.NewOver(c, s.inner, store.NewMemory())
	if err != nil {
		t.Fatal(err)
	}
	n.Judge(s.judge)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := n.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return n
}

// More memberships than one beat ends, long overdue: those left for the next
// beat survive a restart in between.
func TestBacklogOfExits(t *testing.T) {
	s := newScript(t)
	acme := s.client("acme", "")
	s.define(acme, "hot", `count(true, "2s") >= 1`)
	s.beat(0)
	const visitors = 6000
	for v := 0; v < visitors; v += 500 {
		var list []*proto.Event
		for i := range 500 {
			list = append(list, s.event(acme, fmt.Sprint("v", v+i), "x"))
		}
		s.events(list...)
	}
	s.beat(5 * time.Hour)
	st := store.NewMemory()
	n := s.run(st)
	if got := s.members(n, acme, "hot"); got == 0 || got == visitors {
		t.Fatalf("%d members after the first beat: the test must catch a backlog", got)
	}
	closeNode(t, n)
	s.lump = func() int { return 1 }
	s.events(s.event(acme, "another", "x"))
	s.beat(time.Millisecond)
	s.apply(st)
	for range 3 {
		s.beat(3 * time.Second)
	}
	n = s.run(st)
	if got := s.members(n, acme, "hot"); got != 0 {
		t.Errorf("%d members never left", got)
	}
	closeNode(t, n)
	if diff := cmp.Diff(s.apply(store.NewMemory()), s.verify(st)); diff != "" {
		t.Errorf("state after the restart (-in one go +restarted):\n%s", diff)
	}
}

// Records that have fired, which a restart reads again from the store, do not
// change what a beat does.
func TestStaleExits(t *testing.T) {
	s := newScript(t)
	acme := s.client("acme", "")
	s.define(acme, "hot", `count(true, "2s") >= 1`)
	s.beat(0)
	wave := func(first, n int) {
		for v := 0; v < n; v += 500 {
			var list []*proto.Event
			for i := range min(500, n-v) {
				list = append(list, s.event(acme, fmt.Sprint("v", first+v+i), "x"))
			}
			s.events(list...)
		}
	}
	wave(0, 4090)
	s.beat(3 * time.Second)
	st := store.NewMemory()
	s.apply(st)
	wave(5000, 100)
	s.beat(3 * time.Second)
	s.apply(st)
	if diff := cmp.Diff(s.apply(store.NewMemory()), s.verify(st)); diff != "" {
		t.Errorf("state after a restart with records that have fired (-in one go +restarted):\n%s", diff)
	}
}

// A membership of a far hour is in the store only, until its hour comes near.
func TestFarExits(t *testing.T) {
	s := newScript(t)
	acme := s.client("acme", "")
	s.define(acme, "day", `count(true, "1d") >= 1`)
	s.define(acme, "hour", `count(true, "3h") >= 1`)
	s.beat(0)
	s.events(s.event(acme, "a", "x"))
	st := store.NewMemory()
	hours := func(n int) {
		for range n * 2 {
			s.beat(30 * time.Minute)
		}
	}
	check := func(day, hour uint64) {
		t.Helper()
		n := s.run(st)
		defer closeNode(t, n)
		if d, h := s.members(n, acme, "day"), s.members(n, acme, "hour"); d != day || h != hour {
			t.Errorf("at %v: %d in day and %d in hour, want %d and %d", s.now, d, h, day, hour)
		}
	}
	hours(2)
	check(1, 1)
	hours(1)
	s.beat(-time.Second)
	s.beat(time.Second)
	check(1, 0)
	hours(20)
	check(1, 0)
	hours(1)
	check(0, 0)
	if diff := cmp.Diff(s.apply(store.NewMemory()), s.verify(st)); diff != "" {
		t.Errorf("state after restarts (-in one go +restarted):\n%s", diff)
	}
}

// Only beats advance a lane's time, whatever the clocks of entries say.
func TestClocksOfEntries(t *testing.T) {
	s := newScript(t)
	acme := s.client("acme", "")
	s.define(acme, "hot", `count(true, "10s") >= 1`)
	s.beat(0)
	// A producer whose clock is an hour ahead: its entry counts two seconds
	// ahead of the beats at most.
	ahead := s.event(acme, "a", "x")
	ahead.Time = s.now + 3_600_000
	s.now += 3_600_000
	s.events(ahead)
	s.now -= 3_600_000
	// One whose clock is behind does not turn time back.
	s.now -= 5000
	s.events(s.event(acme, "b", "x"))
	s.now += 5000
	st := store.NewMemory()
	s.beat(24 * time.Second)
	n := s.run(st)
	if got := s.members(n, acme, "hot"); got != 1 {
		t.Errorf("%d members 24 s after, want the one that came ahead", got)
	}
	closeNode(t, n)
	s.beat(2 * time.Second)
	n = s.run(st)
	if got := s.members(n, acme, "hot"); got != 0 {
		t.Errorf("%d members 26 s after, want none", got)
	}
	closeNode(t, n)
}

// A lane that stopped keeps nothing on the disk of what others replace.
func TestStoppedLanePinsNothing(t *testing.T) {
	n := testNode(t, t.TempDir(), lanes(2))
	defer func() { _ = n.Close() }()
	c := acme(t, n)
	visitor := proto.Identity("browser:v")
	for i := 0; n.LaneFor(visitor) != 0; i++ {
		visitor = proto.Identity(fmt.Sprint("browser:v", i))
	}
	n.Quarantine(1, errors.New("a damaged entry"))
	for i := range 10 {
		var b proto.Batch
		b.AddTraits(n.Hasher(), &proto.Traits{
			Client: c.ID, Space: c.Space, Identity: visitor, Received: proto.MillisOf(time.Now()),
			Set: []proto.Prop{{Key: "k", Value: proto.TextOf(fmt.Sprintf("MARKED%d%s", i, strings.Repeat("x", 50)))}},
		})
		r := n.Submit(t.Context(), &b)
		if r.Err == nil {
			r.Err = n.Wait(t.Context(), r.Position)
		}
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		if err := n.SyncStore(); err != nil { // so that each is written by itself
			t.Fatal(err)
		}
	}
	until(t, n, 20*time.Second, "letting go of what was replaced", func() bool {
		copies, err := n.Copies("MARKED")
		if err != nil {
			t.Fatal(err)
		}
		return copies == 1
	})
}

// What a commit gave to the store and did not publish is not seen later either.
func TestHalfCommitIsNotSeen(t *testing.T) {
	s := newScript(t)
	acme := s.client("acme", "")
	s.define(acme, "x", "count(true) >= 1")
	s.beat(0)
	st := halfStore{store.NewMemory()}
	c := s.config(func(c *engine.Config) { c.Now = nil; c.DiskReserve = 1 })
	n, err := engine.NewOver(c, s.inner, st)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.Close() }()
	var b proto.Batch
	b.AddEvent(n.Hasher(), page(acme, "v", "x", time.Now()))
	if r := n.Submit(t.Context(), &b); r.Err != nil {
		t.Fatal(r.Err)
	}
	n.Stopped(0)
	n.RenewStopped()
	seen, _, err := n.Lookup(acme, "browser:v", proto.MillisOf(time.Now()), nil)
	rec, recErr := n.Record(t.Context(), acme, "browser:v")
	if err != nil || recErr != nil || seen.Known || rec.Known || len(rec.Events) > 0 {
		t.Errorf("of a commit that was not published: %+v %+v, %v, %v", seen, rec, err, recErr)
	}
}

// halfStore has batches with nodes seen, and says that they failed.
type halfStore struct{ *store.Memory }

func (s halfStore) NewBatch() store.Batch { return &halfBatch{Batch: s.Memory.NewBatch()} }

type halfBatch struct {
	store.Batch
	fails bool
}

func (b *halfBatch) Set(key, value []byte) error {
	b.fails = b.fails || key[0] == 'N'
	return b.Batch.Set(key, value)
}

func (b *halfBatch) Apply() error {
	err := b.Batch.Apply()
	if err == nil && b.fails {
		err = errors.New("the disk is gone")
	}
	return err
}
