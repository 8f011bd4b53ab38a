package actors_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kith/actors"
	"kith/proto"
)

// poison is the client whose commands panic.
const poison = 3

// drawScript is a random log: what visitors do in two spaces, who they turn out
// to be, and who of them leaves. Some of it is of client poison.
func drawScript(t *rapid.T) (list []entry) {
	now := start
	for n := range rapid.IntRange(1, 40).Draw(t, "entries") {
		now += proto.Millis(rapid.SampledFrom([]int{0, 1, 1, 50, 600, 4000}).Draw(t, "wait"))
		e := entry{now: now, beat: rapid.IntRange(0, 4).Draw(t, "beat") == 0}
		for i := 0; !e.beat && i <= rapid.IntRange(0, 5).Draw(t, "commands"); i++ {
			e.commands = append(e.commands, drawCommand(t, now, uint64(100*n+i+1)))
		}
		list = append(list, e)
	}
	// Whatever began ends.
	return append(list, entry{now: now + 10_000, beat: true}, entry{now: now + 20_000, beat: true})
}

func drawCommand(t *rapid.T, now proto.Millis, id uint64) command {
	who := rapid.Custom(func(t *rapid.T) string { return visitor(rapid.IntRange(0, visitors-1).Draw(t, "visitor")) })
	client := proto.ClientID(rapid.IntRange(1, poison).Draw(t, "client"))
	sane := min(client, poison-1)
	space := proto.SpaceID(rapid.SampledFrom([]int{1, 1, 1, 2}).Draw(t, "space"))
	at := now - proto.Millis(rapid.SampledFrom([]int{0, 0, 0, 1, 300, 3000, -100}).Draw(t, "age"))
	a := who.Draw(t, "a")
	switch kind := rapid.IntRange(0, 39).Draw(t, "kind"); kind {
	case 0, 1, 2:
		vip := rapid.SampledFrom([]proto.Value{proto.FlagOf(true), proto.FlagOf(false), proto.TextOf("")}).Draw(t, "vip") // the last takes it away
		return traitsIn(space, client, a, at, proto.Prop{Key: "vip", Value: vip})
	case 3, 4, 5, 6, 7, 8:
		return link(space, sane, a, who.Draw(t, "b"), at, id)
	case 9, 10, 11:
		return unlink(space, sane, a, who.Draw(t, "b"), at)
	case 12:
		return unlink(space, sane, a, "", at)
	case 13, 14:
		return cut(proto.CutOptOut, a, at, id)
	case 15:
		return everywhere(rapid.SampledFrom([]proto.CutKind{proto.CutOptOut, proto.CutErase}).Draw(t, "kind of cut"), a, at, id)
	case 16, 17:
		return cut(proto.CutErase, a, at, id)
	case 18, 19:
		return forget(space, sane, a, at, id)
	case 20, 21, 22, 23:
		return optIn(a, rapid.SampledFrom([]uint32{1, 1, 1, 3, 3, 5, 7, 2}).Draw(t, "gen"), at, id)
	case 24: // a repeated command
		return cut(proto.CutOptOut, a, at, 1)
	case 25, 26: // on an import, onto its list, off it
		return traitsIn(space, client, a, at, proto.Prop{Key: "import#1", Value: proto.FlagOf(true)})
	case 27:
		return needing("import#1", space, client, a, at, proto.Prop{Key: "import.l", Value: proto.NumberOf(1)}, proto.Prop{Key: "import#1", Value: proto.TextOf("")})
	case 28, 29:
		key := rapid.SampledFrom([]string{"import#1", "import.l", "vip"}).Draw(t, "mark")
		return needing(key, space, client, a, at, proto.Prop{Key: key, Value: proto.TextOf("")})
	}
	name := rapid.SampledFrom([]string{"x", "x", "y", strings.Repeat("z", 400)}).Draw(t, "name")
	ids := []string{a}
	for range rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(t, "others") {
		ids = append(ids, who.Draw(t, "other"))
	}
	return eventIn(space, client, name, rapid.SampledFrom([]string{"", "", "1", "2"}).Draw(t, "id"), at, ids...)
}

// sound is the script without what panics.
func sound(list []entry) (without []entry) {
	for _, e := range list {
		e.commands = slices.DeleteFunc(slices.Clone(e.commands), func(c command) bool {
			var x proto.Event
			if c.kind == proto.CommandEvent && proto.DecodeEvent(c.body, &x) == nil {
				return x.Client == poison
			}
			if c.kind == proto.CommandTraits {
				x, _ := proto.DecodeTraits(c.body)
				return x.Client == poison
			}
			return false
		})
		without = append(without, e)
	}
	return without
}

// play takes the script in, n entries to a batch.
func (g *rig) play(script []entry, n func() int) {
	last := script[len(script)-1]
	for len(script) > 0 {
		k := min(max(n(), 1), len(script))
		g.take(script[:k])
		script = script[k:]
	}
	for g.carried {
		g.take([]entry{{now: last.now}})
	}
	g.settle()
}

func each() int { return 1 }
func all() int  { return 1 << 20 }

// told is all that outcomes tell but what is stored under keys and the places
// in the batch, in an order that does not depend on where batches end.
func told(outs []*actors.Outcome) []string {
	var list []string
	add := func(what string, v any) {
		for i := range reflect.ValueOf(v).Len() {
			list = append(list, fmt.Sprintf("%s %+v", what, reflect.ValueOf(v).Index(i)))
		}
	}
	var sums actors.Outcome
	for _, o := range outs {
		add("named", o.Named)
		add("unnamed", o.Unnamed)
		add("block", o.Blocks)
		add("bit", o.Bits)
		add("exit", o.Exits)
		add("user", o.Users)
		add("turned", o.Turned)
		add("final", o.Finals)
		add("decision", o.Decisions)
		sums.Events += o.Events
		sums.Repeated += o.Repeated
		sums.Ignored += o.Ignored
	}
	slices.Sort(list)
	return append(list, fmt.Sprintf("%d events, %d repeated, %d ignored", sums.Events, sums.Repeated, sums.Ignored))
}

// wantStored compares what two rigs stored.
func wantStored(t interface{ Fatalf(string, ...any) }, what string, want, got *memory) {
	wantEqual(t, what+": nodes", readable(want), readable(got)) // before their bytes: it says more
	for part, diff := range [...]string{
		diffMaps(want.nodes, got.nodes), diffMaps(want.darks, got.darks), diffMaps(want.copies, got.copies), diffMaps(want.optOuts, got.optOuts), diffMaps(want.blocks, got.blocks),
	} {
		if diff != "" {
			t.Fatalf("%s: bytes of %s:\n%s", what, [...]string{"nodes", "tombstones", "copies", "opt-outs", "blocks"}[part], diff)
		}
	}
	wantEqual(t, what+": names", want.names, got.names)
	wantEqual(t, what+": users", want.users, got.users)
	wantEqual(t, what+": bits", want.bits, got.bits)
	wantEqual(t, what+": views", want.views, got.views)
	wantEqual(t, what+": numbers", want.next, got.next)
	wantEqual(t, what+": spaces", want.spaces, got.spaces)
}

func wantEqual(t interface{ Fatalf(string, ...any) }, what string, want, got any) {
	if reflect.DeepEqual(want, got) {
		return // cmp is slow on much: it only tells the difference
	}
	t.Fatalf("%s:\n%s", what, cmp.Diff(want, got))
}

func diffMaps[K comparable](want, got map[K][]byte) string {
	if maps.EqualFunc(want, got, slices.Equal[[]byte]) {
		return "" // cmp is slow on many bytes: it only tells the difference
	}
	return cmp.Diff(want, got)
}

// readable tells of nodes what their bytes would hide.
func readable(m *memory) map[string]string {
	text := map[string]string{}
	for k := range m.nodes {
		s, _ := m.state(failer{}, k.Node)
		members := 0
		if s.Graph != nil {
			members = len(s.Graph.Members)
			s.Graph.Members = nil
		}
		text[fmt.Sprint(k)] = fmt.Sprintf("named %v device %v number %v exit %v follows %v user %v members %d graph %+v", s.Named, s.Device, s.Ordinal, s.Exit, s.Follows, s.User, members, s.Graph)
	}
	return text
}

type failer struct{}

func (failer) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }

// Actors, direct calls, a pool of workers, and a shell that passivates all it
// can over a store that lags behind give the same outcomes, byte for byte.
func TestShellIsDirect(t *testing.T) {
	r := newRules(t)
	rapid.Check(t, func(rt *rapid.T) {
		script := drawScript(rt)
		edges := rapid.SliceOfN(rapid.IntRange(1, 4), len(script), len(script)).Draw(rt, "edges")
		some := func() func() int {
			i := -1
			return func() int { i++; return edges[i%len(edges)] }
		}
		c, tiny := config(r, 1<<20), config(r, 1)
		c.Partitions, tiny.Partitions = few(), few()
		direct := newRig(rt, actors.NewDirect(c))
		direct.play(script, some())
		direct.store.audit(rt)
		for i, shell := range []*actors.Shell{actorShell(rt, c, 1), actorShell(rt, c, 4), actorShell(rt, tiny, 2)} {
			name, g := []string{"actors", "pool", "passivating"}[i], newRig(rt, shell)
			if name == "passivating" {
				g.lag = rapid.IntRange(0, 3).Draw(rt, "lag")
			}
			g.play(script, some())
			if diff := cmp.Diff(direct.digests, g.digests); diff != "" {
				rt.Fatalf("%s: digests (-direct +%s):\n%s", name, name, diff)
			}
			if diff := cmp.Diff(direct.graphed, g.graphed); diff != "" {
				rt.Fatalf("%s: the graph's decisions (-direct +%s):\n%s", name, name, diff)
			}
			// cmp is slow on many bytes: it only tells the difference.
			if !reflect.DeepEqual(plain(direct.all), plain(g.all)) {
				rt.Fatalf("%s: outcomes (-direct +%s):\n%s", name, name, cmp.Diff(plain(direct.all), plain(g.all)))
			}
			wantStored(rt, name, direct.store, g.store)
		}
	})
}

// Where batches end, and whether the lane began anew in between, is to be seen
// nowhere: what is stored and told in the end is the same, byte for byte.
func TestBatchesEndAnywhere(t *testing.T) {
	r := newRules(t)
	rapid.Check(t, func(rt *rapid.T) {
		script := drawScript(rt)
		c, tiny := config(r, 1<<20), config(r, 1)
		c.Partitions, tiny.Partitions = few(), few()
		one := newRig(rt, actors.NewDirect(c))
		one.play(script, all)
		one.store.audit(rt)
		for i, c := range []actors.Config{c, tiny, c} {
			name, g := []string{"an entry each", "passivating", "restarting"}[i], newRig(rt, actors.NewDirect(c))
			g.play(script, func() int {
				if name == "restarting" {
					g.restart(c)
				}
				return 1
			})
			if diff := cmp.Diff(told(one.all), told(g.all)); diff != "" {
				rt.Fatalf("%s: told (-one batch +%s):\n%s", name, name, diff)
			}
			if diff := cmp.Diff(one.digests, g.digests); diff != "" {
				rt.Fatalf("%s: digests (-one batch +%s):\n%s", name, name, diff)
			}
			wantStored(rt, name+" (-one batch)", one.store, g.store)
		}
	})
}

// A command that panics leaves its identity as if it had not been, whatever
// the same batch did to it before: events, links, verdicts, cuts.
func TestDeadLettersLeaveNothing(t *testing.T) {
	r := newRules(t)
	rapid.Check(t, func(rt *rapid.T) {
		script := drawScript(rt)
		c := config(r, 1<<20)
		c.Partitions = few()
		r.poisoned.Store(poison)
		without := newRig(rt, actors.NewDirect(c))
		without.play(sound(script), each)
		edges := rapid.IntRange(1, 50).Draw(rt, "entries of a batch")
		with := newRig(rt, actors.NewDirect(c))
		with.play(script, func() int { return edges })
		if diff := cmp.Diff(withoutIgnored(told(without.all)), withoutIgnored(told(with.all))); diff != "" {
			rt.Fatalf("told (-without +with dead letters):\n%s", diff)
		}
		with.store.spaces = without.store.spaces // a space is met by what panics too
		wantStored(rt, "(-without +with dead letters)", without.store, with.store)
	})
	r.poisoned.Store(0)
}

// withoutIgnored leaves the last line out, where what panics counts as ignored
// if its identity is out.
func withoutIgnored(list []string) []string { return list[:len(list)-1] }
