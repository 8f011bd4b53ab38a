package identity_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"kith/actors/identity"
	"kith/proto"
	"kith/segments"
)

// storedMax is the largest value of a store, some of which a large user's links and cuts
// may need.
const storedMax = 1<<20 - 64<<10

// A client may have 20,000 rules and send what it likes: what is stored of an identity
// that is linked to another such one fits into one value of the store, or its lane would
// stop.
func TestLargestUserFitsIntoTheStore(t *testing.T) {
	const all, sums, events = 20_000, 31, 1_000
	w := newTown(t, 2)
	define := func(id, when string) {
		t.Helper()
		rule, err := segments.Compile(when)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		w.key++
		if err := w.program(acme).Define(segments.Definition{Key: w.key, ID: proto.SegmentID(id), Scope: segments.ScopeUser, Rule: rule}); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
	for i := range sums {
		define(fmt.Sprint("sum", i), fmt.Sprintf(`sum(event.p%d, "30d") > -1e300`, i))
	}
	chance := rand.New(rand.NewPCG(1, 2))
	event := func(k int, props ...proto.Prop) {
		w.now += 20 * 60_000
		for i := range w.people {
			b := body("x")
			b.Props = append(b.Props, props...)
			at := w.now - proto.Millis(chance.IntN(600_000)+k)
			w.step(i, &identity.Input{Kind: identity.InputEvent, Client: acme, Event: &proto.Event{Client: acme, Space: 1, Time: at, Received: w.now, EventBody: b}})
		}
	}
	for k := range events {
		var amounts []proto.Prop
		for p := range sums {
			amounts = append(amounts, proto.Prop{Key: fmt.Sprint("p", p), Value: proto.NumberOf(-chance.Float64())})
		}
		event(k, amounts...)
	}
	for i := range all - sums {
		window := fmt.Sprintf("%ds", 10*86_400+i)
		if i%2 == 0 {
			window = fmt.Sprintf("%ds", 300*86_400+i)
		}
		define(fmt.Sprint("n", i), fmt.Sprintf(`count(event.n > 0, %q) >= 1`, window))
	}
	event(0, proto.Prop{Key: "n", Value: proto.NumberOf(1)})
	w.settle()
	var set []proto.Prop
	for i := range segments.TraitsMax {
		set = append(set, proto.Prop{Key: fmt.Sprintf("t%02d%s", i, strings.Repeat("k", 50)), Value: proto.TextOf(strings.Repeat("v", proto.PropTextBytesMax))})
	}
	for i := range segments.ImportTraitsMax {
		set = append(set, proto.Prop{Key: proto.ListTrait(proto.SegmentID(fmt.Sprintf("l%03d%s", i, strings.Repeat("k", 50)))), Value: proto.NumberOf(float64(i))})
	}
	for i := range w.people {
		w.step(i, &identity.Input{Kind: identity.InputTraits, Client: acme, Traits: set})
	}
	alone := len(w.people[0].state.Append(nil))
	w.link(acme, 0, 1)
	for i, d := range w.people {
		s := &d.state
		if !s.Follows || len(s.User) != 1 || len(s.User[0].Members) != all {
			t.Fatalf("person %d: follows %v, %d clients", i, s.Follows, len(s.User))
		}
		n := len(s.Append(nil))
		t.Logf("person %d leads %v: %d bytes, person 0 alone %d", i, s.Graph.Leads(), n, alone)
		if n > storedMax {
			t.Errorf("person %d takes %d bytes, more than %d", i, n, storedMax)
		}
	}
}
