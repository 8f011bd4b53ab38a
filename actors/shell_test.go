package actors_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/actors"
	"kith/graph"
	"kith/proto"
	"kith/segments"
)

const (
	start  = proto.Millis(1_767_225_600_000) // 2026-01-01
	second = proto.Millis(1000)
)

var hasher = proto.NewHasher([16]byte{1})

// rules panic for a client while it is poisoned.
type rules struct {
	programs map[proto.ClientID]*segments.Program
	poisoned atomic.Uint32
}

func (r *rules) Program(c proto.ClientID) *segments.Program {
	if p := r.poisoned.Load(); p != 0 && p == uint32(c) {
		panic("poisoned")
	}
	return r.programs[c]
}

func newRules(t testing.TB) *rules {
	r := &rules{programs: map[proto.ClientID]*segments.Program{}}
	for c := proto.ClientID(1); c <= 3; c++ {
		r.programs[c] = segments.NewProgram()
	}
	r.define(t, 1, 1, `count(event.name == "x", "5s") >= 2`)
	r.define(t, 2, 2, `count(true, "3s") >= 1 && !(trait("vip") == true)`)
	r.defineScope(t, 1, 3, segments.ScopeIdentity, `count(event.name == "x", "4s") >= 1`)
	r.define(t, 2, 4, `devices() >= 2 && count(true) >= 1`)
	return r
}

func (r *rules) define(t testing.TB, c proto.ClientID, key proto.SegmentKey, when string) {
	t.Helper()
	r.defineScope(t, c, key, segments.ScopeUser, when)
}

func (r *rules) defineScope(t testing.TB, c proto.ClientID, key proto.SegmentKey, scope segments.Scope, when string) {
	rule, err := segments.Compile(when)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.programs[c].Define(segments.Definition{Key: key, ID: proto.SegmentID(fmt.Sprint("s", key)), Scope: scope, Rule: rule}); err != nil {
		t.Fatal(err)
	}
}

// plain are outcomes with the views by value.
func plain(outs []*actors.Outcome) (list []string) {
	for _, o := range outs {
		x := *o
		x.Views = nil
		s := fmt.Sprintf("%+v", x)
		for _, v := range o.Views {
			s += fmt.Sprintf(" %v %s", v.Node, tellView(v.View))
		}
		list = append(list, s)
	}
	return list
}

// A panic leaves the identity as it was before the command, with what the
// same batch did to it before and after, and stops nothing else: also where the
// client's history is sealed, and the panic comes when it is asked whether it is
// to be read.
func TestPanic(t *testing.T) {
	for name, open := range map[string]func(actors.Config) *actors.Shell{
		"direct": actors.NewDirect,
		"actors": func(c actors.Config) *actors.Shell { return newShell(t, c, 1) },
		"pool":   func(c actors.Config) *actors.Shell { return newShell(t, c, 4) },
	} {
		t.Run(name, func(t *testing.T) { panicBetween(t, open, false) })
		t.Run(name+", sealed", func(t *testing.T) { panicBetween(t, open, true) })
	}
}

// panicBetween has commands of client 3 panic between others.
func panicBetween(t *testing.T, open func(actors.Config) *actors.Shell, sealed bool) {
	r := newRules(t)
	c := config(r, 1<<20)
	with := &rig{t: t, shell: open(c), store: newMemory(), now: start, lag: 2}
	without := &rig{t: t, shell: actors.NewDirect(c), store: newMemory(), now: start}
	big := strings.Repeat("z", 600) // seals a block each time
	good := [][]command{
		{event(1, "a", big, "", start), event(1, "a", "x", "1", start)},
		{event(2, "a", "y", "", start), event(1, "b", "x", "", start), traits(1, "a", proto.Prop{Key: "vip", Value: proto.FlagOf(true)})},
		{event(1, "a", big, "", start), event(1, "a", "x", "2", start)},
	}
	bad := []command{event(3, "a", "p", "", start), event(3, "new", "p", "", start), traits(3, "b", proto.Prop{Key: "k", Value: proto.NumberOf(1)})}
	if sealed {
		known := [][]command{{event(3, "a", big, "", start), event(3, "b", big, "", start)}}
		with.run(known, nil)
		without.run(known, nil)
	}
	for range 4 {
		r.poisoned.Store(0)
		without.run(good, nil)
		// The same with commands in between whose steps panic.
		r.poisoned.Store(3)
		mixed := [][]command{
			append(slices.Clone(bad[:1]), good[0]...),
			{good[1][0], bad[1], good[1][1], bad[2], good[1][2]},
			append(slices.Clone(good[2]), bad...),
		}
		with.run(mixed, nil)
		dead := 0
		for _, o := range with.outs {
			dead += len(o.Dead)
			for _, d := range o.Dead {
				if !strings.Contains(d.Reason, "poisoned") || d.Kind != proto.CommandEvent && d.Kind != proto.CommandTraits || len(d.Body) == 0 {
					t.Errorf("dead letter %+v", d)
				}
			}
		}
		if dead != 6 {
			t.Errorf("%d commands are dead, want 6", dead)
		}
		if diff := cmp.Diff(effects(without.outs), effects(with.outs)); diff != "" {
			t.Fatalf("what is left of the batch (-without panics +with):\n%s", diff)
		}
		with.now, without.now = with.now+second, without.now+second
	}
	// What follows goes on from there.
	r.poisoned.Store(0)
	with.run([][]command{{event(3, "a", "p", "", start), event(1, "new", "x", "", start)}}, nil)
	without.run([][]command{{event(3, "a", "p", "", start), event(1, "new", "x", "", start)}}, nil)
	if diff := cmp.Diff(effects(without.outs), effects(with.outs)); diff != "" {
		t.Errorf("the batch after (-without panics +with):\n%s", diff)
	}
	with.settle()
	without.settle()
	if diff := cmp.Diff(without.store.nodes, with.store.nodes); diff != "" {
		t.Errorf("facts (-without panics +with):\n%s", diff)
	}
	if diff := cmp.Diff(without.store.blocks, with.store.blocks); diff != "" {
		t.Errorf("blocks (-without panics +with):\n%s", diff)
	}
}

// A panic in the host, outside of an identity's step, is the lane's fault: nothing
// passes for taken in that was not, in this batch or a later one.
func TestHostPanic(t *testing.T) {
	for name, open := range map[string]func(actors.Config) *actors.Shell{
		"direct": actors.NewDirect,
		"actors": func(c actors.Config) *actors.Shell { return newShell(t, c, 1) },
		"pool":   func(c actors.Config) *actors.Shell { return newShell(t, c, 4) },
	} {
		t.Run(name, func(t *testing.T) {
			c := config(newRules(t), 1<<20)
			c.Told = func(proto.ClientID, proto.SegmentKey) (proto.SegmentID, bool) { panic("a mistake in the host") }
			s := open(c)
			m := newMemory()
			for batch := range uint64(3) {
				s.Begin(batch+1, batch, m)
				var list actors.Commands
				for i := range 4 {
					x := event(1, "a", "x", "", start)
					list.Add(x.PartitionID, actors.Command{Index: i, Kind: x.kind, Body: x.body})
				}
				err := s.Prepare(&list)
				if batch == 0 && err != nil {
					t.Fatal(err)
				}
				s.Enter(actors.Entry{Now: start})
				if _, err = s.Run(); proto.CodeOf(err) != proto.CodeInternal || !strings.Contains(err.Error(), "a mistake in the host") || !strings.Contains(err.Error(), "keepMoves") {
					t.Fatalf("batch %d: %v", batch+1, err)
				}
				if _, err = s.Collect(); err == nil {
					t.Fatalf("batch %d was collected", batch+1)
				}
			}
		})
	}
}

// A panic while a batch's identities are read is the lane's fault too, on whichever
// goroutine that is.
func TestReadPanic(t *testing.T) {
	s := newShell(t, config(newRules(t), 1<<20), 1)
	var list actors.Commands
	home, n := homeOf("v0"), 0
	for i := 0; n < 2*actors.ColdShared; i++ {
		if x := event(1, fmt.Sprint("v", i), "x", "", start); x.PartitionID == home {
			list.Add(home, actors.Command{Index: n, Kind: x.kind, Body: x.body})
			n++
		}
	}
	s.Begin(1, 0, broken{newMemory()})
	if err := s.Prepare(&list); proto.CodeOf(err) != proto.CodeInternal {
		t.Errorf("prepared: %v", err)
	}
}

// broken panics where an opt-out is read.
type broken struct{ *memory }

func (broken) OptOut(graph.Hash, func([]byte) error) (bool, error) { panic("a mistake in the store") }

// effects are outcomes without their dead letters and what names a place in
// the batch.
func effects(outs []*actors.Outcome) (list []actors.Outcome) {
	for _, o := range outs {
		x := *o
		x.Dead, x.Views, x.Spaces = nil, nil, nil // a space is met by what panics too
		if len(x.Puts) > 0 {
			list = append(list, x)
		}
	}
	return list
}

// An identity that panicked in the batch in which its client's new rules are
// applied to its history is rebuilt with the history of that point.
func TestPanicAfterHistory(t *testing.T) {
	r := newRules(t)
	run := func(poisoned bool) *rig {
		g := &rig{t: t, shell: actors.NewDirect(config(r, 1<<20)), store: newMemory(), now: start, lag: 5}
		big := strings.Repeat("z", 600)
		r.programs[1] = segments.NewProgram()
		for range 3 {
			g.run([][]command{{event(1, "a", big, "", start)}}, nil)
		}
		r.define(t, 1, 9, fmt.Sprintf(`count(event.name == %q) >= 5`, big))
		batch := []command{event(1, "a", big, "", start), event(1, "a", big, "", start)}
		if poisoned {
			r.poisoned.Store(3)
			batch = append(batch, event(3, "a", "p", "", start))
		}
		g.run([][]command{batch}, nil)
		r.poisoned.Store(0)
		g.run([][]command{{event(1, "a", "y", "", start)}}, nil)
		g.settle()
		return g
	}
	if diff := cmp.Diff(run(false).store.nodes, run(true).store.nodes); diff != "" {
		t.Errorf("facts (-without the panic +with):\n%s", diff)
	}
}

// Timers that are stale are marked, and commands that are not for their home
// are refused.
func TestRefusals(t *testing.T) {
	r := newRules(t)
	g := &rig{t: t, shell: newShell(t, config(r, 1<<20), 1), store: newMemory(), now: start}
	g.run([][]command{{event(2, "a", "x", "", start)}}, nil)
	exits := g.outs[0].Exits
	if len(exits) != 1 {
		t.Fatalf("exits are %v", exits)
	}
	g.now += 3 * second
	real, stale := &actors.Due{Node: nodeOf("a"), At: exits[0].At}, &actors.Due{Node: nodeOf("a"), At: exits[0].At + 1}
	unknown := &actors.Due{Node: nodeOf("nobody"), At: 5}
	g.run(nil, []*actors.Due{stale, real, unknown})
	if real.Ignore || !stale.Ignore || !unknown.Ignore {
		t.Errorf("ignored: the real %v, the stale %v, nobody's %v", real.Ignore, stale.Ignore, unknown.Ignore)
	}
	var bits []segments.BitDelta
	for _, o := range g.outs {
		bits = append(bits, o.Bits...)
	}
	if len(bits) != 1 || bits[0].Set {
		t.Errorf("bits of the timer are %+v", bits)
	}
	for name, bad := range map[string]actors.Command{
		"another home": {Kind: proto.CommandEvent, Body: event(1, "a", "x", "", start).body},
		"no event":     {Kind: proto.CommandEvent, Body: []byte{1}},
		"no traits":    {Kind: proto.CommandTraits, Body: []byte{1}},
		"kind":         {Kind: proto.CommandBeat},
	} {
		s := actors.NewDirect(config(r, 1<<20))
		s.Begin(1, 0, newMemory())
		var list actors.Commands
		home := nodeOf("a").Hash.Partition()
		if name == "another home" {
			home ^= 1
		}
		list.Add(home, bad)
		if err := s.Prepare(&list); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := config(r, 1<<20)
	c.Partitions = c.Partitions[:1]
	s := actors.NewDirect(c)
	var list actors.Commands
	list.Add(5, actors.Command{})
	if err := s.Prepare(&list); proto.CodeOf(err) != proto.CodeCorrupt {
		t.Errorf("a partition of another lane: %v", err)
	}
}

// A damaged value in the store is a fault, not a guess.
func TestDamagedFacts(t *testing.T) {
	r := newRules(t)
	m := newMemory()
	m.nodes[generation{nodeOf("a"), 1}] = []byte{1, 2, 3}
	s := newShell(t, config(r, 1<<20), 1)
	s.Begin(1, 0, m)
	var list actors.Commands
	c := event(1, "a", "x", "", start)
	list.Add(c.PartitionID, actors.Command{Kind: c.kind, Body: c.body})
	if err := s.Prepare(&list); proto.CodeOf(err) != proto.CodeCorrupt {
		t.Errorf("damaged facts: %v", err)
	}
}

// The bound of active identities holds once batches are committed.
func TestPassivation(t *testing.T) {
	r := newRules(t)
	g := &rig{t: t, shell: newShell(t, config(r, proto.Partitions), 1), store: newMemory(), now: start}
	for i := range 50 {
		var e []command
		for j := range 40 {
			e = append(e, event(1, fmt.Sprint("v", i*40+j), "x", "", start))
		}
		g.run([][]command{e}, nil)
	}
	g.run(nil, nil)
	g.run(nil, nil)
	if n := g.shell.Active(); n > 2*proto.Partitions {
		t.Errorf("%d identities are active, the bound is %d", n, proto.Partitions)
	}
	g.settle()
	if len(g.store.nodes) != 2000 {
		t.Errorf("%d identities are stored, want 2000", len(g.store.nodes))
	}
}
