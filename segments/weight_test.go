package segments_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"kith/proto"
	"kith/segments"
)

// client is a program that is asked before each definition, as by those who save.
type client struct {
	*testing.T
	*segments.Program
	key proto.SegmentKey
}

// save defines what may be defined.
func (c *client) save(id, format string, args ...any) error {
	c.Helper()
	c.key++
	d := segments.Definition{Key: c.key, ID: proto.SegmentID(id), Rule: compile(c, fmt.Sprintf(format, args...))}
	if err := c.Check(d); err != nil {
		return err
	}
	if err := c.Define(d); err != nil {
		c.Fatal(err)
	}
	return nil
}

// always is a rule that is true, and looks ahead over all times at which the sum passes k.
const always = `sum(event.a, "30d") >= %[1]v || sum(event.a, "30d") < %[1]v`

func refused(err error) bool {
	return proto.CodeOf(err) == proto.CodeRule && strings.Contains(err.Error(), "look ahead")
}

// What an event may have all rules of a client look ahead is bounded when they
// are saved, by their uses of sums and not by what is kept.
func TestLookingAheadIsBounded(t *testing.T) {
	c := &client{T: t, Program: segments.NewProgram()}
	taken := 0
	for ; taken < 2000; taken++ {
		if err := c.save(fmt.Sprint("s", taken), always, float64(taken+1)/10_000); err != nil {
			if !refused(err) {
				t.Fatal(err)
			}
			break
		}
	}
	if taken < 500 || taken > 700 {
		t.Errorf("%d such rules were taken", taken)
	}
	if err := c.CheckBeside(segments.Definition{Key: c.key + 1, ID: "s0", Rule: compile(t, fmt.Sprintf(always, 2.5))}); !refused(err) {
		t.Errorf("a version that waits beside another: %v", err)
	}
	if err := c.save("s0", always, 2.5); err != nil {
		t.Errorf("one in the place of another: %v", err)
	}
	if err := c.save("plain", `count(event.b == 1, "30d") >= 3`); err != nil {
		t.Errorf("an ordinary rule beside them: %v", err)
	}
	ev, m, d := segments.NewEvaluator(), &segments.Memory{}, &segments.Delta{}
	for i := range 20 { // of a thousand it would take seconds
		now := start + proto.Millis(i)
		ev.Observe(c.Program, m, &proto.EventBody{Props: []proto.Prop{{Key: "a", Value: proto.NumberOf(float64(1 - 2*(i&1)))}}}, now, now, d)
	}
	if got := len(m.Memberships()); got != taken {
		t.Errorf("in %d segments, want %d", got, taken)
	}
}

// What is told of a rule's cost is what is bounded, before it is saved as after.
func TestAheadIsTold(t *testing.T) {
	c := &client{T: t, Program: segments.NewProgram()}
	tell := func(id, text string, want int) {
		t.Helper()
		d := segments.Definition{Key: c.key + 1, ID: proto.SegmentID(id), Rule: compile(t, text)}
		before, err := c.AheadOf(d)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.save(id, "%s", text); err != nil {
			t.Fatal(err)
		}
		if after := c.Ahead(d.ID); before != want || after != want {
			t.Errorf("%s costs %d before it is saved and %d after, want %d", text, before, after, want)
		}
	}
	tell("ever", `count(event.b == 1) >= 1`, 1)
	tell("ordinary", `count(event.b == 1, "30d") >= 1`, 1+3)
	tell("two", `count(event.b == 1, "30d") >= 1 && days(event.c == 1, "7d") >= 2`, 3*(1+6))
	tell("sum", `sum(event.a, "30d") >= 1`, 1000+1+1000)
	tell("over", `member("ordinary") && count(event.c == 1, "7d") >= 1`, (3+1)*(1+6))
	tell("ordinary", `count(event.b == 1) >= 2`, 1)
	if got := c.Ahead("over"); got != 4*(1+3) { // with what it reaches as it is now
		t.Errorf("a rule over one that was edited costs %d", got)
	}
	if got := c.Ahead("none"); got != 0 {
		t.Errorf("what is not defined costs %d", got)
	}
	if _, err := c.AheadOf(segments.Definition{Key: 99, ID: "x", Rule: compile(t, `member("none")`)}); proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("a rule over nothing: %v", err)
	}
}

// A pattern on a trait is tried once at an event, however far its rule looks ahead.
func TestTraitsAreTriedOnce(t *testing.T) {
	c := &client{T: t, Program: segments.NewProgram()}
	if err := c.save("s", `!trait("x").matches("`+strings.Repeat(".?", 120)+`~") && (`+always+`)`, 0.5); err != nil {
		t.Fatal(err)
	}
	ev, m, d := segments.NewEvaluator(), &segments.Memory{}, &segments.Delta{}
	ev.SetTraits(c.Program, m, []proto.Prop{{Key: "x", Value: proto.TextOf(strings.Repeat("x", 1000))}}, start, d)
	var tens [20]time.Duration
	for i := range 10 * len(tens) { // at each of which the sum turns up to as often
		now := start + proto.Millis(i)
		began := time.Now()
		ev.Observe(c.Program, m, &proto.EventBody{Props: []proto.Prop{{Key: "a", Value: proto.NumberOf(float64(1 - 2*(i&1)))}}}, now, now, d)
		tens[i/10] += time.Since(began)
	}
	if late := slices.Min(tens[15:]); late > 5*tens[0] || len(m.Memberships()) != 1 {
		t.Errorf("ten events take %v, after 150 others %v: %v", tens[0], late, m.Memberships())
	}
	ev.SetTraits(c.Program, m, []proto.Prop{{Key: "x", Value: proto.TextOf("~")}}, start+1000, d)
	if len(m.Memberships()) != 0 {
		t.Errorf("another value is in: %v", m.Memberships())
	}
}

// Rules that refer to a sum look ahead along it, also when it comes to be one
// under them; and what they reach is bounded then as when they were defined.
func TestLookingAheadByMember(t *testing.T) {
	c := &client{T: t, Program: segments.NewProgram()}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.save("base", `count(event.b == 1) >= 1`))
	for i := range 200 { // each with a version that waits beside it
		id, when := fmt.Sprint("s", i), `member("base") && trait("x") == %d`
		must(c.save(id, when, i))
		c.key++
		must(c.DefineBeside(segments.Definition{Key: c.key, ID: proto.SegmentID(id), Rule: compile(t, fmt.Sprintf(when, -i))}))
	}
	if err := c.save("base", always, 1.0); !refused(err) {
		t.Errorf("a sum under 400 versions: %v", err)
	}
	must(c.save("base", `sum(event.a) >= 1`))
	d := segments.Definition{Key: c.key + 1, ID: "base", Rule: compile(t, fmt.Sprintf(always, 1.0))}
	if err := c.CheckBeside(d); !refused(err) {
		t.Errorf("a sum that waits under 400 versions: %v", err)
	}
	wide := strings.TrimSuffix(strings.Repeat(`trait("x") == 1 && `, 200), " && ")
	must(c.save("wide", `%s && member("base")`, wide))
	must(c.save("wider", `%s && member("wide")`, wide[:len(wide)/2-2]))
	if err := c.save("base", "%s", wide); proto.CodeOf(err) != proto.CodeRule || !strings.Contains(err.Error(), "reach too far") {
		t.Errorf("a rule that grows under others: %v", err)
	}
}

// As many ordinary rules as there may be segments are taken.
func TestOrdinaryRulesAreTaken(t *testing.T) {
	c := &client{T: t, Program: segments.NewProgram()}
	for i, text := range []string{`member("s0") && count(event.section == "%d", "30d") >= 3`, `count(event.section == "%[1]d", "30d") >= 3 && !(last(event.author == "%[1]d") > now - "7d")`, `days(event.tag == "%d", "30d") >= 3`} {
		if i == 0 {
			if err := c.save("s0", `count(true, "7d") >= 1 && count(event.name == "order") == 0`); err != nil {
				t.Fatal(err)
			}
		}
		for k := range 6_600 {
			if err := c.save(fmt.Sprint("s", i, "-", k), text, k); err != nil {
				t.Fatal(err)
			}
		}
	}
	for k := range 200 {
		if err := c.save(fmt.Sprint("sum", k), `sum(event.price, event.name == "order", "90d") >= %d`, k); err != nil {
			t.Fatal(err)
		}
	}
}
