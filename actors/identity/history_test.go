package identity_test

import (
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kith/actors/identity"
	"kith/proto"
	"kith/segments"
)

// noRules is a client without segments.
type noRules struct{}

func (noRules) Program(proto.ClientID) *segments.Program { return nil }

var bodies = rapid.Custom(func(t *rapid.T) proto.EventBody {
	text := func(name string) string {
		return rapid.SampledFrom([]string{"", "page", "buy", "https://a.example/x", "https://a.example/xyz", "https://b.example/"}).Draw(t, name)
	}
	b := proto.EventBody{Name: text("name"), URL: text("url"), Ref: text("ref")}
	for _, key := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"section", "price", "vip", "n"}), 0, 4, rapid.ID).Draw(t, "keys") {
		v := rapid.SampledFrom([]proto.Value{proto.TextOf(""), proto.TextOf("auto"), proto.NumberOf(1), proto.NumberOf(-2.5), proto.NumberOf(0), proto.NumberOf(math.Copysign(0, -1)), proto.FlagOf(true), proto.FlagOf(false)}).Draw(t, "value")
		b.Props = append(b.Props, proto.Prop{Key: key, Value: v})
	}
	return b
})

// What history gives back is what went in, in tails and blocks, after a
// reload too; and what is cut anywhere is refused.
func TestHistoryKeepsEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		events := rapid.SliceOfN(bodies, 1, 60).Draw(t, "events")
		stepper := identity.NewStepper(noRules{})
		var state identity.State
		var blocks [][]byte
		for i := range events {
			var fx identity.Effects
			now := proto.Millis(1_000_000 + i*1000)
			in := identity.Input{Kind: identity.InputEvent, Client: 1, Event: &proto.Event{Client: 1, Time: now, EventBody: events[i]}}
			stepper.Step(&state, &in, now, &fx)
			for _, b := range fx.Blocks {
				blocks = append(blocks, b.Data)
			}
			again := identity.State{}
			if _, err := again.Decode(state.Append(nil)); err != nil {
				t.Fatal(err)
			}
			state = again
		}
		var got []proto.EventBody
		take := func(_ proto.Millis, e *proto.EventBody) bool {
			c := *e
			c.Props = slices.Clone(e.Props)
			got = append(got, c)
			return true
		}
		for _, b := range blocks {
			for cut := range b {
				if identity.CheckBlock(b[:cut]) == nil {
					t.Fatalf("a block of %d bytes cut at %d passes", len(b), cut)
				}
			}
			var body proto.EventBody
			if err := identity.WalkBlock(b, &body, take); err != nil {
				t.Fatal(err)
			}
		}
		var body proto.EventBody
		state.Facts[0].History.WalkTail(&body, take)
		for i := range events {
			if len(events[i].Props) == 0 {
				events[i].Props = nil
			}
		}
		for i := range got {
			if len(got[i].Props) == 0 {
				got[i].Props = nil
			}
		}
		if diff := cmp.Diff(events, got, cmp.Comparer(proto.Value.Same)); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}
