package identity_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kith/actors/identity"
	"kith/graph"
	"kith/proto"
	"kith/segments"
)

var update = flag.Bool("update-golden", false, "write the golden files anew")

const (
	second = proto.Millis(1000)
	minute = 60 * second
	start  = proto.Millis(1_767_225_600_000) // 2026-01-01
	acme   = proto.ClientID(7)
	zeta   = proto.ClientID(9)
)

type rules map[proto.ClientID]*segments.Program

func (r rules) Program(c proto.ClientID) *segments.Program { return r[c] }

// world is one node with its stored blocks, and a stepper.
type world struct {
	t       testing.TB
	rules   rules
	key     proto.SegmentKey
	stepper *identity.Stepper
	state   identity.State
	fx      identity.Effects
	now     proto.Millis
	blocks  map[proto.ClientID]map[uint32][]byte
	read    int  // blocks
	keep    bool // the state in memory, from one step to the next
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, rules: rules{}, now: start, blocks: map[proto.ClientID]map[uint32][]byte{}}
	w.stepper = identity.NewStepper(w.rules)
	return w
}

func (w *world) define(c proto.ClientID, id, when string) proto.SegmentKey {
	w.t.Helper()
	rule, err := segments.Compile(when)
	if err != nil {
		w.t.Fatalf("%s: %v", when, err)
	}
	if w.rules[c] == nil {
		w.rules[c] = segments.NewProgram()
	}
	w.key++
	if err := w.rules[c].Define(segments.Definition{Key: w.key, ID: proto.SegmentID(id), Scope: segments.ScopeIdentity, Rule: rule}); err != nil {
		w.t.Fatal(err)
	}
	return w.key
}

// step takes in and stores the blocks that follow, as a lane would. The state
// goes through its stored form each time, unless it is to be kept.
func (w *world) step(in *identity.Input) *identity.Effects {
	w.t.Helper()
	var s identity.State
	if w.state.Known() && !w.keep {
		if _, err := s.Decode(w.state.Append(nil)); err != nil {
			w.t.Fatalf("state does not read back: %v", err)
		}
		w.state = s
	}
	if w.stepper.NeedsHistory(&w.state, in) {
		in.History = w.history
	}
	w.fx.Reset()
	w.stepper.Step(&w.state, in, w.now, &w.fx)
	for _, b := range w.fx.Blocks {
		if w.blocks[b.Client] == nil {
			w.blocks[b.Client] = map[uint32][]byte{}
		}
		if b.Data == nil {
			delete(w.blocks[b.Client], b.Number)
		} else {
			w.blocks[b.Client][b.Number] = b.Data
		}
	}
	return &w.fx
}

// history gives blocks as a store does: what it gave is gone afterwards.
func (w *world) history(c proto.ClientID) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		f := w.state.Client(c)
		for n := f.History.First; n < f.History.Next; n++ {
			w.read++
			b := slices.Clone(w.blocks[c][n])
			more := yield(b)
			for i := range b {
				b[i] = 0xff
			}
			if !more {
				return
			}
		}
	}
}

func body(name string, props ...string) proto.EventBody {
	e := proto.EventBody{Name: name}
	for i := 0; i < len(props); i += 2 {
		e.Props = append(e.Props, proto.Prop{Key: props[i], Value: proto.TextOf(props[i+1])})
	}
	return e
}

func (w *world) event(c proto.ClientID, id string, at proto.Millis, b proto.EventBody) *identity.Effects {
	w.t.Helper()
	e := &proto.Event{Client: c, Space: 1, Time: at, Received: w.now, ID: id, Identities: []proto.Identity{"browser:a"}, EventBody: b}
	return w.step(&identity.Input{Kind: identity.InputEvent, Client: c, Event: e})
}

func (w *world) members(c proto.ClientID) (in []proto.SegmentKey) {
	f := w.state.Client(c)
	if f == nil {
		return nil
	}
	for _, m := range f.Memory.Memberships() {
		if identity.In(m, w.now) {
			in = append(in, m.Key)
		}
	}
	return in
}

// events are the names of all events kept of a client, in their order.
func (w *world) events(c proto.ClientID) (names []string, times []proto.Millis) {
	w.t.Helper()
	f := w.state.Client(c)
	var b proto.EventBody
	take := func(at proto.Millis, e *proto.EventBody) bool {
		names, times = append(names, strings.Clone(e.Name)), append(times, at)
		return true
	}
	for n := f.History.First; n < f.History.Next; n++ {
		if err := identity.WalkBlock(w.blocks[c][n], &b, take); err != nil {
			w.t.Fatal(err)
		}
	}
	f.History.WalkTail(&b, take)
	return names, times
}

func want(t testing.TB, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestNewNode(t *testing.T) {
	w := newWorld(t)
	hot := w.define(acme, "hot", `count(event.section == "auto", "2s") >= 1`)
	fx := w.event(acme, "", start, body("page", "section", "auto"))
	if !fx.Created || !fx.Changed || !fx.Published || fx.Duplicate || fx.Exit != start+2*second {
		t.Errorf("effects of a first event are %+v", fx)
	}
	want(t, "bits of a first event", []identity.Bit{{Client: acme, Set: true}, {Client: acme, Key: hot, Set: true}}, fx.Bits)
	want(t, "members", []proto.SegmentKey{hot}, w.members(acme))

	// The same client again: neither created nor entered again; published,
	// because the time of leaving moved.
	w.now += second
	fx = w.event(acme, "", w.now, body("page", "section", "auto"))
	if fx.Created || len(fx.Bits) != 0 || !fx.Changed || !fx.Published || fx.Exit != 0 {
		t.Errorf("effects of a second event are %+v", fx)
	}
	// An event that no rule looks at.
	fx = w.event(acme, "", w.now, body("other"))
	if fx.Published || !fx.Changed {
		t.Errorf("effects of an event that matches nothing are %+v", fx)
	}
	// Another client: its universe, not a node.
	fx = w.event(zeta, "", w.now, body("page", "section", "auto"))
	if fx.Created || !fx.Published {
		t.Errorf("effects of another client's first event are %+v", fx)
	}
	want(t, "bits of another client's event", []identity.Bit{{Client: zeta, Set: true}}, fx.Bits)
	want(t, "the other client's members", []proto.SegmentKey(nil), w.members(zeta))
}

func TestTimer(t *testing.T) {
	w := newWorld(t)
	hot := w.define(acme, "hot", `count(true, "5s") >= 1`)
	w.event(acme, "", start, body("page"))
	first := w.state.Exit
	w.now += 3 * second
	w.event(acme, "", w.now, body("page"))

	// The record of the first event comes due, but the second keeps it in: a
	// new record, no exit.
	w.now = first
	fx := w.step(&identity.Input{Kind: identity.InputTimer, At: first})
	if len(fx.Bits) != 0 || fx.Exit != start+8*second || w.state.Exit != fx.Exit {
		t.Errorf("effects of the first timer are %+v", fx)
	}
	// The same record again is stale.
	before := w.state.Append(nil)
	if fx := w.step(&identity.Input{Kind: identity.InputTimer, At: first}); fx.Changed || fx.Exit != 0 || !bytes.Equal(before, w.state.Append(nil)) {
		t.Errorf("a stale timer had the effects %+v", fx)
	}
	// The second, late: the beat was slow.
	w.now = start + 20*second
	fx = w.step(&identity.Input{Kind: identity.InputTimer, At: start + 8*second})
	want(t, "bits of the second timer", []identity.Bit{{Client: acme, Key: hot}}, fx.Bits)
	if fx.Exit != 0 || w.state.Exit != 0 || !fx.Published {
		t.Errorf("effects of the second timer are %+v", fx)
	}
	want(t, "members in the end", []proto.SegmentKey(nil), w.members(acme))
}

// One record for all clients and segments, at the earliest change.
func TestTimerMovesEarlier(t *testing.T) {
	w := newWorld(t)
	w.define(acme, "long", `count(event.name == "l", "1h") >= 1`)
	short := w.define(zeta, "short", `count(event.name == "s", "2s") >= 1`)
	if fx := w.event(acme, "", start, body("l")); fx.Exit != start+60*minute {
		t.Errorf("record at %v", fx.Exit)
	}
	if fx := w.event(zeta, "", start, body("s")); fx.Exit != start+2*second {
		t.Errorf("record at %v, want it moved to the earlier", fx.Exit)
	}
	w.now += 2 * second
	fx := w.step(&identity.Input{Kind: identity.InputTimer, At: start + 2*second})
	want(t, "bits", []identity.Bit{{Client: zeta, Key: short}}, fx.Bits)
	if fx.Exit != start+60*minute {
		t.Errorf("next record at %v, want that of the other client", fx.Exit)
	}
	if len(w.members(acme)) != 1 {
		t.Error("the other client's membership went with it")
	}
}

func TestDuplicates(t *testing.T) {
	w := newWorld(t)
	w.define(acme, "twice", `count(true) >= 2`)
	w.event(acme, "e1", start, body("page"))
	before := w.state.Append(nil)
	fx := w.event(acme, "e1", start, body("page"))
	if !fx.Duplicate || fx.Changed || fx.Published || !bytes.Equal(before, w.state.Append(nil)) {
		t.Errorf("a repeated event had the effects %+v", fx)
	}
	if fx := w.event(zeta, "e1", start, body("page")); fx.Duplicate {
		t.Error("another client's event of the same id was taken for a repeat")
	}
	if fx := w.event(acme, "", start, body("page")); fx.Duplicate {
		t.Error("an event without an id was taken for a repeat")
	}

	// Ten minutes later the id is still known, a moment after that no more.
	w.now = start + identity.RecentAgeMax
	if fx := w.event(acme, "e1", w.now, body("page")); !fx.Duplicate {
		t.Error("a repeat after ten minutes was taken in")
	}
	w.now++
	if fx := w.event(acme, "e1", w.now, body("page")); fx.Duplicate {
		t.Error("a repeat after more than ten minutes was refused")
	}

	// The last 32 ids are known, the one before them no more.
	for i := range identity.RecentMax {
		w.event(acme, fmt.Sprint("n", i), w.now, body("page"))
	}
	for i := range identity.RecentMax {
		if fx := w.event(acme, fmt.Sprint("n", i), w.now, body("page")); !fx.Duplicate {
			t.Fatalf("id %d of the last %d is forgotten", i, identity.RecentMax)
		}
	}
	if fx := w.event(acme, "e1", w.now, body("page")); fx.Duplicate {
		t.Errorf("the id before the last %d is still known", identity.RecentMax)
	}
}

// A late event counts where it happened, one from the future where it came in.
func TestEventTime(t *testing.T) {
	w := newWorld(t)
	w.define(acme, "hour", `count(true, "1h") >= 1`)
	w.event(acme, "", start-120*minute, body("late"))
	want(t, "members after an event of two hours ago", []proto.SegmentKey(nil), w.members(acme))
	w.event(acme, "", start+10*minute, body("early"))
	if w.state.Exit != start+60*minute {
		t.Errorf("an event of the future leaves at %v, want an hour from now", w.state.Exit)
	}
	names, times := w.events(acme)
	want(t, "events", []string{"late", "early"}, names)
	want(t, "times", []proto.Millis{start - 120*minute, start}, times)
	f := w.state.Client(acme)
	if f.First != start || f.Last != start {
		t.Errorf("seen from %v to %v, want lane time", f.First, f.Last)
	}
}

func TestTraits(t *testing.T) {
	w := newWorld(t)
	vip := w.define(acme, "vip", `trait("vip") == true`)
	fx := w.step(&identity.Input{Kind: identity.InputTraits, Client: acme, Traits: []proto.Prop{{Key: "vip", Value: proto.FlagOf(true)}}})
	if !fx.Created {
		t.Error("traits do not make a node known")
	}
	want(t, "bits", []identity.Bit{{Client: acme, Set: true}, {Client: acme, Key: vip, Set: true}}, fx.Bits)
	fx = w.step(&identity.Input{Kind: identity.InputTraits, Client: acme, Traits: []proto.Prop{{Key: "vip", Value: proto.TextOf("")}}})
	want(t, "bits when the trait goes", []identity.Bit{{Client: acme, Key: vip}}, fx.Bits)
}

// A definition that history knows the answer to: a fill finds it, in the tail
// and in sealed blocks; a node that the client does not know is not made.
func TestFill(t *testing.T) {
	w := newWorld(t)
	for i := range 100 {
		w.now += second
		w.event(acme, "", w.now, body(fmt.Sprint("e", i), "pad", strings.Repeat(fmt.Sprint(i), 40)))
	}
	if len(w.blocks[acme]) < 5 {
		t.Fatalf("%d blocks were sealed, want several", len(w.blocks[acme]))
	}
	all := w.define(acme, "all", `count(true) >= 100`)
	first := w.define(acme, "first", `count(event.name == "e0") == 1 && days(event.name == "e99") == 1`)
	fx := w.step(&identity.Input{Kind: identity.InputFill, Client: acme})
	want(t, "bits of a fill", []identity.Bit{{Client: acme, Key: all, Set: true}, {Client: acme, Key: first, Set: true}}, fx.Bits)
	if w.read != len(w.blocks[acme]) {
		t.Errorf("%d blocks were read of %d", w.read, len(w.blocks[acme]))
	}
	fx = w.step(&identity.Input{Kind: identity.InputFill, Client: acme})
	if fx.Changed {
		t.Errorf("a second fill had the effects %+v", fx)
	}
	// A rule that needs nothing of history does not read it.
	w.read = 0
	vip := w.define(acme, "vip", `trait("vip") == true || !member("all")`)
	fx = w.step(&identity.Input{Kind: identity.InputFill, Client: acme})
	if w.read != 0 || len(fx.Bits) != 0 || !fx.Changed {
		t.Errorf("filling segment %d read %d blocks, effects %+v", vip, w.read, fx)
	}
	fx = w.step(&identity.Input{Kind: identity.InputFill, Client: zeta})
	if fx.Changed || fx.Created || w.state.Client(zeta) != nil {
		t.Errorf("a fill made a node known to a client: %+v", fx)
	}
}

// An event that comes before the fill brings the memory up to date itself,
// with what was before it, and counts once.
func TestEventBeforeFill(t *testing.T) {
	w := newWorld(t)
	for range 50 {
		w.event(acme, "", w.now, body("page", "pad", strings.Repeat("x", 40)))
	}
	many := w.define(acme, "many", `count(event.name == "page") == 51`)
	fx := w.event(acme, "", w.now, body("page"))
	want(t, "bits", []identity.Bit{{Client: acme, Key: many, Set: true}}, fx.Bits)
	if fx := w.step(&identity.Input{Kind: identity.InputFill, Client: acme}); fx.Changed {
		t.Errorf("the fill afterwards had the effects %+v", fx)
	}
}

// History is sealed into blocks and, at the bound, loses the oldest.
func TestHistoryBound(t *testing.T) {
	w := newWorld(t)
	big := strings.Repeat("x", identity.TailBytesMax)
	n := 0
	for ; !w.fx.Changed || !w.state.Client(acme).History.Truncated; n++ {
		if n > identity.HistoryBlocksMax+1 {
			t.Fatal("history is not bounded")
		}
		w.now++
		w.event(acme, "", w.now, body(fmt.Sprint("e", n), "big", big))
	}
	if n != identity.HistoryBlocksMax+1 || len(w.blocks[acme]) != identity.HistoryBlocksMax {
		t.Errorf("after %d events there are %d blocks, want %d", n, len(w.blocks[acme]), identity.HistoryBlocksMax)
	}
	want(t, "the effects of truncation", []identity.Block{{Client: acme, Number: 0}}, w.fx.Blocks[1:])
	w.event(acme, "", w.now, body("tail"))
	names, _ := w.events(acme)
	if len(names) != n || names[0] != "e1" || names[n-1] != "tail" {
		t.Errorf("%d events are left, from %s to %s", len(names), names[0], names[len(names)-1])
	}
}

// Of a history that lost its oldest events a rule goes on to hold that they made
// hold, whatever other rules are defined.
func TestTruncatedHistoryAndNewRules(t *testing.T) {
	w := newWorld(t)
	member := w.define(acme, "member", `count(event.name == "signup") >= 1`)
	w.event(acme, "", w.now, body("signup"))
	for w.now++; !w.state.Client(acme).History.Truncated; w.now++ {
		w.event(acme, "", w.now, body("page", "big", strings.Repeat("x", identity.TailBytesMax)))
	}
	other := w.define(acme, "other", `count(event.name == "signup") >= 2`)
	fx := w.step(&identity.Input{Kind: identity.InputFill, Client: acme})
	if len(fx.Bits) > 0 {
		t.Errorf("the definition alone changed %v", fx.Bits)
	}
	fx = w.event(acme, "", w.now, body("signup"))
	want(t, "bits of the second", []identity.Bit{{Client: acme, Key: other, Set: true}}, fx.Bits)
	if ms := w.state.Client(acme).Memory.Memberships(); len(ms) != 2 || ms[0].Key != member || !ms[0].In {
		t.Errorf("memberships %v", ms)
	}
}

// Of a history that lost its oldest events a late one, older than the retention, takes
// none of those away that are not: they are kept by what memory knows of them, and what
// is as old is forgotten with it.
func TestTruncatedHistoryIsTrimmed(t *testing.T) {
	for _, late := range []bool{true, false} {
		w := newWorld(t)
		recent := []proto.SegmentKey{
			w.define(acme, "lately", `count(event.name == "signup", "60d") >= 2`),
			w.define(acme, "days", `days(event.name == "signup", "60d") >= 2`),
			w.define(acme, "last", `last(event.name == "signup") > now - "60d"`),
			w.define(acme, "sum", `sum(event.price, event.name == "signup", "60d") >= 2`),
			w.define(acme, "distinct", `distinct(event.price, event.name == "signup", "60d") >= 1`),
			w.define(acme, "sequence", `sequence(event.name == "signup", event.name == "signup", "9d")`),
		}
		w.define(acme, "ancient", `count(event.name == "ancient", "90d") >= 1`)
		w.define(acme, "first", `first(event.name == "ancient") < now - "20d"`)
		w.define(acme, "ever", `count(event.name == "ancient") >= 1`)
		day := 24 * 3600 * second
		w.event(acme, "", w.now-40*day, body("ancient"))
		for _, age := range []proto.Millis{40 * day, 5 * day, 0} {
			w.event(acme, "", w.now-age, body("signup", "price", "1"))
		}
		for w.now++; w.state.Client(acme) == nil || !w.state.Client(acme).History.Truncated; w.now++ {
			w.event(acme, "", w.now, body("page", "big", strings.Repeat("x", identity.TailBytesMax)))
		}
		if late { // else the bound has pushed all out that is too old
			w.event(acme, "", w.now-31*day, body("late"))
		}
		w.step(&identity.Input{Kind: identity.InputTrim, Client: acme, At: w.now - 30*day})
		want(t, "members once what is older than 30 days is forgotten", recent, w.members(acme))
		if names, _ := w.events(acme); slices.Contains(names, "late") {
			t.Error("the late event is kept")
		}
		w.now += 27 * day
		w.step(&identity.Input{Kind: identity.InputTrim, Client: acme, At: w.now - day})
		want(t, "members once nothing is kept", []proto.SegmentKey(nil), w.members(acme))
	}
}

func goldenState(t testing.TB) *world {
	w := newWorld(t)
	w.define(acme, "hot", `count(event.section == "auto", "30d") >= 2`)
	w.define(acme, "vip", `trait("vip") == true`)
	w.state.Ordinal = proto.MakeOrdinal(5, 9)
	for i := range 12 {
		w.now += 1234
		w.event(acme, fmt.Sprint("id", i), w.now-proto.Millis(i*100_000), body("page", "section", "auto", "pad", strings.Repeat(fmt.Sprint(i), 50)))
	}
	w.event(zeta, "", w.now, body("other"))
	w.step(&identity.Input{Kind: identity.InputTraits, Client: acme, Traits: []proto.Prop{{Key: "vip", Value: proto.FlagOf(true)}}})
	return w
}

// readGolden is what an earlier build wrote.
func readGolden(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatalf("%v: write it with -update-golden", err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return b
}

func golden(t testing.TB, name string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile("testdata/"+name, []byte(hex.EncodeToString(got)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, readGolden(t, name)) {
		t.Errorf("%s: bytes on disk would change: got %x", name, got)
	}
}

func TestGolden(t *testing.T) {
	w := goldenState(t)
	golden(t, "block.hex", w.blocks[acme][0])
	golden(t, "alone.hex", w.state.Append(nil))
	linked := goldenUser(t)
	golden(t, "linked.hex", linked.Append(nil))
	bare := identity.State{Named: true, Ordinal: 300, Bare: start}
	golden(t, "bare.hex", bare.Append(nil))
	var got identity.State
	if _, err := got.Decode(bare.Append(nil)); err != nil || got.Bare != start {
		t.Errorf("a node of which only the name is known reads as %+v, %v", got, err)
	}
}

// The first version's bytes are of a node that is named and that nobody linked.
func TestReadsTheFirstVersion(t *testing.T) {
	var s identity.State
	if members, err := s.Decode(readGolden(t, "facts.hex")); err != nil || len(members) > 0 {
		t.Fatalf("facts of version 1: %v, members %v", err, members)
	}
	if !s.Named || s.Device || s.Follows || s.Graph != nil || s.User != nil {
		t.Errorf("facts of version 1 read as %+v", s)
	}
	w := goldenState(t)
	w.state.Named = true
	// It did not say when the oldest event was: that one came late is not known.
	want, got, at := w.state.Append(nil), s.Append(nil), 0
	for at < len(got)-1 && want[at] == got[at] {
		at++
	}
	_, n := binary.Varint(want[at:])
	if n < 2 || got[at] != 0 || !bytes.Equal(want[at+n:], got[at+1:]) {
		t.Errorf("facts of version 1 read as\n%x, not but for that as\n%x", got, want)
	}
	if identity.MayFollow(readGolden(t, "facts.hex")) {
		t.Error("facts of version 1 may follow a user")
	}
}

// The second version's bytes say each time of a user's membership.
func TestReadsTheSecondVersion(t *testing.T) {
	var s identity.State
	if _, err := s.Decode(readGolden(t, "linked2.hex")); err != nil {
		t.Fatal(err)
	}
	want := *goldenUser(t)
	if diff := cmp.Diff(want.User, s.User); diff != "" {
		t.Errorf("a user of version 2 (-want +got):\n%s", diff)
	}
	var again identity.State // without the copies of its members, as s
	if _, err := again.Decode(want.Append(nil)); err != nil {
		t.Fatal(err)
	}
	if want, got := again.Append(nil), s.Append(nil); !bytes.Equal(want, got) {
		t.Errorf("a user of version 2 reads as\n%x, not\n%x", got, want)
	}
	if !identity.MayFollow(readGolden(t, "linked2.hex")) {
		t.Error("a user of version 2 follows nobody")
	}
}

// What is refused is refused with a code, and a reused state keeps nothing.
func TestDecodeRefused(t *testing.T) {
	w := goldenState(t)
	linked := goldenUser(t)
	good := w.state.Append(nil)
	var s identity.State
	refused := func(what string, b []byte) {
		t.Helper()
		if _, err := s.Decode(b); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%s: %v", what, err)
		}
	}
	flags := func(b []byte, f byte) []byte { return append([]byte{b[0], f}, b[2:]...) }
	for _, b := range [][]byte{good, linked.Append(nil), readGolden(t, "facts.hex"), readGolden(t, "linked2.hex")} {
		for i := range b {
			refused(fmt.Sprintf("a state cut at %d of %d bytes", i, len(b)), b[:i])
		}
		refused("longer", append(slices.Clone(b), 0))
		refused("newer", append([]byte{4}, b[1:]...))
	}
	refused("an unknown flag", flags(good, good[1]|16))
	refused("following nobody", (&identity.State{Named: true, Follows: true}).Append(nil))
	block := w.blocks[acme][0]
	for i := range block {
		if err := identity.CheckBlock(block[:i]); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Fatalf("a block cut at %d of %d bytes: %v", i, len(block), err)
		}
	}
	if _, err := s.Decode(good); err != nil || !bytes.Equal(s.Append(nil), good) {
		t.Errorf("a state that was used for malformed bytes reads %x, %v", s.Append(nil), err)
	}
}

// Whatever happens, the state reads back byte for byte, a Step on the state
// that was read gives what it gives on the original, and the facts agree with
// a plain count of the events.
func TestStepProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		w.keep = true
		fresh := identity.NewStepper(w.rules) // has never seen anything else
		var reused identity.State
		counted := map[proto.ClientID]int{}
		client := rapid.SampledFrom([]proto.ClientID{acme, zeta, 3})
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			w.now += proto.Millis(rapid.IntRange(0, 4000).Draw(rt, "wait"))
			in := &identity.Input{Client: client.Draw(rt, "client")}
			switch rapid.IntRange(0, 9).Draw(rt, "kind") {
			case 0:
				w.define(in.Client, rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "id"),
					fmt.Sprintf(`count(event.name == %q, "%ds") >= %d`, rapid.SampledFrom([]string{"x", "y"}).Draw(rt, "name"), rapid.IntRange(1, 9).Draw(rt, "window"), rapid.IntRange(1, 3).Draw(rt, "n")))
				continue
			case 1:
				in.Kind, in.At = identity.InputTimer, w.state.Exit+proto.Millis(rapid.IntRange(0, 1).Draw(rt, "stale"))
				if in.At == 0 || in.At > w.now {
					continue
				}
			case 2:
				in.Kind = identity.InputFill
			case 3:
				in.Kind, in.Traits = identity.InputTraits, []proto.Prop{{Key: rapid.SampledFrom([]string{"k", "l"}).Draw(rt, "trait"), Value: proto.NumberOf(float64(rapid.IntRange(0, 2).Draw(rt, "v")))}}
			default:
				in.Kind = identity.InputEvent
				in.Event = &proto.Event{
					Client: in.Client, Time: w.now - proto.Millis(rapid.IntRange(-2000, 9000).Draw(rt, "age")), ID: rapid.SampledFrom([]string{"", "1", "2", "3"}).Draw(rt, "id"),
					EventBody: body(rapid.SampledFrom([]string{"x", "y", strings.Repeat("z", 300)}).Draw(rt, "name")),
				}
			}
			if _, err := reused.Decode(w.state.Append(nil)); err != nil {
				rt.Fatal(err)
			}
			twin := *in
			var fx identity.Effects
			if fresh.NeedsHistory(&reused, &twin) {
				twin.History = w.history
			}
			fresh.Step(&reused, &twin, w.now, &fx)
			w.step(in)
			if !bytes.Equal(w.state.Append(nil), reused.Append(nil)) {
				rt.Fatalf("a state read from its bytes steps to\n%x, the original to\n%x", reused.Append(nil), w.state.Append(nil))
			}
			if in.Kind == identity.InputEvent && !w.fx.Duplicate {
				counted[in.Client]++
			}
		}
		for c, n := range counted {
			if names, _ := w.events(c); len(names) != n {
				rt.Fatalf("client %d has %d events in its history, %d were taken in", c, len(names), n)
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	w := goldenState(f)
	f.Add(w.state.Append(nil))
	f.Add(readGolden(f, "facts.hex"))
	linked := goldenUser(f)
	f.Add(linked.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s identity.State
		if _, err := s.Decode(b); err != nil {
			if proto.CodeOf(err) != proto.CodeCorrupt {
				t.Fatalf("code of %v", err)
			}
			return
		}
		// What is taken can be worked with.
		one := s.Append(nil)
		var again identity.State
		if _, err := again.Decode(one); err != nil {
			t.Fatalf("%x reads, but written again does not: %v", b, err)
		}
		if two := again.Append(nil); !bytes.Equal(one, two) {
			t.Fatalf("%x reads as %x, that as %x", b, one, two)
		}
		var body proto.EventBody
		for i := range s.Facts {
			s.Facts[i].History.WalkTail(&body, func(proto.Millis, *proto.EventBody) bool { return true })
		}
		if s.View(); s.Follows {
			s.Graph.RootOf(graph.Hash{1})
		}
		if s.Follows != identity.MayFollow(one) {
			t.Fatalf("%x follows: %v, and may: %v", b, s.Follows, identity.MayFollow(one))
		}
	})
}

func FuzzBlock(f *testing.F) {
	w := goldenState(f)
	f.Add(w.blocks[acme][0])
	f.Fuzz(func(t *testing.T, b []byte) {
		var body proto.EventBody
		n := 0
		err := identity.WalkBlock(b, &body, func(proto.Millis, *proto.EventBody) bool { n++; return true })
		if (err == nil) != (identity.CheckBlock(b) == nil) {
			t.Fatalf("walk and check do not agree: %v", err)
		}
		if err != nil && (n > 0 || proto.CodeOf(err) != proto.CodeCorrupt) {
			t.Fatalf("%d events of a malformed block were given, %v", n, err)
		}
		if n > len(b) {
			t.Fatalf("%d events of %d bytes", n, len(b))
		}
	})
}
