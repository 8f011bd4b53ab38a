package actors_test

import (
	"fmt"
	"io"
	"iter"
	"log/slog"
	"reflect"
	"slices"
	"strings"

	"sync/atomic"
	"testing"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kith/actors"
	"kith/actors/identity"
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
	return r
}

func (r *rules) define(t testing.TB, c proto.ClientID, key proto.SegmentKey, when string) {
	rule, err := segments.Compile(when)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.programs[c].Define(segments.Definition{Key: key, ID: proto.SegmentID(fmt.Sprint("s", key)), Rule: rule}); err != nil {
		t.Fatal(err)
	}
}

// memory is a store in memory, as of some batch.
type memory struct {
	facts  map[proto.Node][]byte
	blocks map[string][]byte
}

func newMemory() *memory {
	return &memory{facts: map[proto.Node][]byte{}, blocks: map[string][]byte{}}
}

func (m *memory) Facts(n proto.Node, fn func([]byte) error) (bool, error) {
	v, ok := m.facts[n]
	if !ok {
		return false, nil
	}
	return true, lend(v, fn)
}

// lend gives bytes that are gone afterwards, as a store's are.
func lend(v []byte, fn func([]byte) error) error {
	v = slices.Clone(v)
	err := fn(v)
	for i := range v {
		v[i] = 0xee
	}
	return err
}

func blockKey(n proto.Node, c proto.ClientID, number uint32) string { return fmt.Sprint(n, c, number) }

func (m *memory) Blocks(n proto.Node, c proto.ClientID, first, next uint32) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for i := first; i < next; i++ {
			b, ok := m.blocks[blockKey(n, c, i)]
			if !ok {
				yield(nil, proto.Errorf(proto.CodeCorrupt, "block %d is missing", i))
				return
			}
			more := true
			if _ = lend(b, func(b []byte) error { more = yield(b, nil); return nil }); !more {
				return
			}
		}
	}
}

func (m *memory) commit(outs []*actors.Outcome) {
	for _, o := range outs {
		for _, p := range o.Puts {
			m.facts[p.Node] = p.Value
		}
		for _, b := range o.Blocks {
			if k := blockKey(b.Node, b.Client, b.Number); b.Data == nil {
				delete(m.blocks, k)
			} else {
				m.blocks[k] = b.Data
			}
		}
	}
}

// rig is a shell over a memory that lags some batches behind.
type rig struct {
	t       interface{ Fatalf(string, ...any) }
	shell   *actors.Shell
	store   *memory
	batch   uint64
	waiting [][]*actors.Outcome // not yet committed
	lag     int
	now     proto.Millis
	digests []uint64
	outs    []*actors.Outcome // of the last batch
	all     []*actors.Outcome
}

func partitions() (list []proto.PartitionID) {
	for p := range proto.PartitionID(proto.Partitions) {
		list = append(list, p)
	}
	return list
}

// few are the homes of the visitors of random scripts: a host each is dear.
func few() (list []proto.PartitionID) {
	for i := range visitors {
		list = append(list, nodeOf(fmt.Sprint("v", i)).Hash.Partition())
	}
	slices.Sort(list)
	return slices.Compact(list)
}

const visitors = 6

func config(r identity.Rules, activeMax int) actors.Config {
	return actors.Config{Hasher: hasher, Rules: r, Partitions: partitions(), ActiveMax: activeMax}
}

// newShell is a shell of actors with that many workers, closed with the test.
func newShell(t testing.TB, c actors.Config, workers int) *actors.Shell {
	return actorShell(t, c, workers)
}

func actorShell(t interface{ Cleanup(func()) }, c actors.Config, workers int) *actors.Shell {
	system := actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }))
	dispatcher, stop := actors.NewDispatcher(workers)
	s := actors.NewShell(system, dispatcher, c)
	t.Cleanup(func() {
		s.Close()
		stop()
		system.Shutdown()
	})
	return s
}

// command is one thing for a node, or for the lane.
type command struct {
	proto.PartitionID
	kind proto.CommandKind
	body []byte
}

func event(client proto.ClientID, visitor, name, id string, at proto.Millis) command {
	e := proto.Event{Client: client, Space: 1, Time: at, Received: at, ID: id, Identities: []proto.Identity{proto.Identity("browser:" + visitor)}, EventBody: proto.EventBody{Name: name}}
	return command{hasher.Hash(e.Identities[0]).Partition(), proto.CommandEvent, e.Append(nil)}
}

func traits(client proto.ClientID, visitor string, set ...proto.Prop) command {
	x := proto.Traits{Client: client, Space: 1, Identity: proto.Identity("browser:" + visitor), Set: set}
	return command{hasher.Hash(x.Identity).Partition(), proto.CommandTraits, x.Append(nil)}
}

func nodeOf(visitor string) proto.Node {
	return proto.Node{Hash: hasher.Hash(proto.Identity("browser:" + visitor)), Space: 1}
}

// run takes entries in, in one batch, then the timers that are due.
func (g *rig) run(entries [][]command, due []*actors.Due) {
	g.batch++
	for len(g.waiting) > g.lag {
		g.store.commit(g.waiting[0])
		g.waiting = g.waiting[1:]
	}
	g.shell.Begin(g.batch, g.batch-1-uint64(len(g.waiting)), g.store)
	var list actors.Commands
	var bodies [][]byte
	for i, e := range entries {
		for j, c := range e {
			body := slices.Clone(c.body)
			bodies = append(bodies, body)
			list.Add(c.PartitionID, actors.Command{Entry: i, Index: j, Kind: c.kind, Body: body})
		}
	}
	g.check(g.shell.Prepare(&list))
	for i := range entries {
		d, err := g.shell.Run(i, g.now)
		g.check(err)
		g.digests = append(g.digests, d)
	}
	if len(due) > 0 {
		for _, d := range due {
			d.Entry = len(entries)
		}
		g.check(g.shell.Due(due))
		d, err := g.shell.Run(len(entries), g.now)
		g.check(err)
		g.digests = append(g.digests, d)
	}
	outs, err := g.shell.Collect()
	g.check(err)
	g.outs = outs
	g.all = append(g.all, outs...)
	g.waiting = append(g.waiting, outs)
	for i := range outs { // Dead keeps its body; all else must not
		for j := range outs[i].Dead {
			outs[i].Dead[j].Body = slices.Clone(outs[i].Dead[j].Body)
		}
	}
	for _, b := range bodies {
		for i := range b {
			b[i] = 0xdd
		}
	}
}

func (g *rig) check(err error) {
	if err != nil {
		g.t.Fatalf("shell: %v", err)
	}
}

// settle commits all.
func (g *rig) settle() {
	for _, o := range g.waiting {
		g.store.commit(o)
	}
	g.waiting = nil
}

// script is a random sequence of batches, the same for every rig.
type script struct {
	batches []batch
}

type batch struct {
	wait    proto.Millis
	entries [][]command
	timers  bool
}

func drawScript(t *rapid.T) script {
	var s script
	now := start
	for range rapid.IntRange(1, 12).Draw(t, "batches") {
		b := batch{wait: proto.Millis(rapid.IntRange(0, 4000).Draw(t, "wait")), timers: rapid.Bool().Draw(t, "timers")}
		now += b.wait
		for range rapid.IntRange(0, 4).Draw(t, "entries") {
			var e []command
			for range rapid.IntRange(1, 12).Draw(t, "commands") {
				client := proto.ClientID(rapid.IntRange(1, 3).Draw(t, "client"))
				visitor := fmt.Sprint("v", rapid.IntRange(0, visitors-1).Draw(t, "visitor"))
				if rapid.IntRange(0, 5).Draw(t, "kind") == 0 {
					e = append(e, traits(client, visitor, proto.Prop{Key: "vip", Value: proto.FlagOf(rapid.Bool().Draw(t, "vip"))}))
					continue
				}
				name := rapid.SampledFrom([]string{"x", "y", strings.Repeat("z", 400)}).Draw(t, "name")
				e = append(e, event(client, visitor, name, rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "id"), now-proto.Millis(rapid.IntRange(0, 3000).Draw(t, "age"))))
			}
			b.entries = append(b.entries, e)
		}
		s.batches = append(s.batches, b)
	}
	return s
}

// play runs the script; exits are kept and fired as a lane would.
func (g *rig) play(s script) {
	var exits []actors.Exit
	for _, b := range s.batches {
		g.now += b.wait
		var due []*actors.Due
		if b.timers {
			slices.SortFunc(exits, func(a, b actors.Exit) int {
				if a.At != b.At {
					return int(a.At - b.At)
				}
				return a.Node.Compare(b.Node)
			})
			for len(exits) > 0 && exits[0].At <= g.now {
				due = append(due, &actors.Due{Node: exits[0].Node, At: exits[0].At})
				exits = exits[1:]
			}
		}
		g.run(b.entries, due)
		exits = append(exits, g.shell.TakeExits()...)
		for _, o := range g.outs {
			if len(o.Exits) > 0 && len(exits) == 0 {
				g.t.Fatalf("exits of the outcome were not given")
			}
		}
	}
	g.settle()
}

// Actors, direct calls, a pool of workers, and a shell that passivates all it
// can over a store that lags behind give the same outcomes, byte for byte.
func TestShellIsDirect(t *testing.T) {
	r := newRules(t)
	rapid.Check(t, func(rt *rapid.T) {
		s := drawScript(rt)
		c, tiny := config(r, 1<<20), config(r, 1)
		c.Partitions, tiny.Partitions = few(), few()
		direct := &rig{t: rt, shell: actors.NewDirect(c), store: newMemory(), now: start}
		direct.play(s)
		for name, g := range map[string]*rig{
			"actors":      {shell: actorShell(rt, c, 1)},
			"pool":        {shell: actorShell(rt, c, 4)},
			"passivating": {shell: actorShell(rt, tiny, 2), lag: rapid.IntRange(0, 3).Draw(rt, "lag")},
		} {
			g.t, g.store, g.now = rt, newMemory(), start
			g.play(s)
			if diff := cmp.Diff(direct.digests, g.digests); diff != "" {
				rt.Fatalf("%s: digests (-direct +%s):\n%s", name, name, diff)
			}
			// cmp is slow on many bytes: it only tells the difference.
			if !reflect.DeepEqual(plain(direct.all), plain(g.all)) {
				rt.Fatalf("%s: outcomes (-direct +%s):\n%s", name, name, cmp.Diff(plain(direct.all), plain(g.all)))
			}
			if !reflect.DeepEqual(direct.store, g.store) {
				rt.Fatalf("%s: store (-direct +%s):\n%s", name, name, cmp.Diff(direct.store.facts, g.store.facts))
			}
		}
	})
}

// plain are outcomes with the views by value.
func plain(outs []*actors.Outcome) (list []string) {
	for _, o := range outs {
		x := *o
		x.Views = nil
		s := fmt.Sprintf("%+v", x)
		for _, v := range o.Views {
			s += fmt.Sprintf(" %v %+v", v.Node, *v.View)
		}
		list = append(list, s)
	}
	return list
}

// A panic leaves the identity as it was before the command, with what the
// same batch did to it before and after, and stops nothing else.
func TestPanic(t *testing.T) {
	for name, open := range map[string]func(actors.Config) *actors.Shell{
		"direct": actors.NewDirect,
		"actors": func(c actors.Config) *actors.Shell { return newShell(t, c, 1) },
		"pool":   func(c actors.Config) *actors.Shell { return newShell(t, c, 4) },
	} {
		t.Run(name, func(t *testing.T) {
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
			if diff := cmp.Diff(without.store.facts, with.store.facts); diff != "" {
				t.Errorf("facts (-without panics +with):\n%s", diff)
			}
			if diff := cmp.Diff(without.store.blocks, with.store.blocks); diff != "" {
				t.Errorf("blocks (-without panics +with):\n%s", diff)
			}
		})
	}
}

// effects are outcomes without their dead letters and what names a place in
// the batch.
func effects(outs []*actors.Outcome) (list []actors.Outcome) {
	for _, o := range outs {
		x := *o
		x.Dead, x.Views = nil, nil
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
	if diff := cmp.Diff(run(false).store.facts, run(true).store.facts); diff != "" {
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
	m.facts[nodeOf("a")] = []byte{1, 2, 3}
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
	if len(g.store.facts) != 2000 {
		t.Errorf("%d identities are stored, want 2000", len(g.store.facts))
	}
}
