package segments_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"kith/proto"
	"kith/segments"
)

// What imports set and what a client declares do not take each other's room, and
// all of it comes through a memory's and a share's bytes.
func TestImportedTraits(t *testing.T) {
	p, ev, m, d := segments.NewProgram(), segments.NewEvaluator(), &segments.Memory{}, &segments.Delta{}
	lists := segments.ImportTraitsMax
	for i := range lists {
		rule, err := segments.Compile(fmt.Sprintf(`trait("import.l%03d") >= 7`, i))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Define(segments.Definition{Key: proto.SegmentKey(i + 1), ID: proto.SegmentID(fmt.Sprintf("l%03d", i)), Rule: rule}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range segments.TraitsMax + 9 {
		ev.SetTraits(p, m, []proto.Prop{{Key: fmt.Sprintf("k%03d", i), Value: proto.FlagOf(true)}}, start, d)
	}
	for i := range lists + 9 {
		ev.SetTraits(p, m, []proto.Prop{{Key: fmt.Sprintf("import.l%03d", i), Value: proto.NumberOf(float64(7 - i%2))}}, start, d)
	}
	if n := len(m.Traits()); n != segments.TraitsMax+lists {
		t.Fatalf("%d traits are kept, want %d and %d", n, segments.TraitsMax, lists)
	}
	in := 0
	for _, x := range m.Memberships() {
		if x.In {
			in++
		}
	}
	if in != lists/2 {
		t.Errorf("it is in %d segments, want %d: marks of older lists do not count", in, lists/2)
	}
	if err := segments.CheckShared(string(p.AppendShared(nil, m))); err != nil {
		t.Errorf("what it gives to its user: %v", err)
	}
	var again segments.Memory
	r := proto.NewReader(m.Append(nil, start))
	segments.ReadMemory(&r, start, &again)
	if r.Bad() || len(again.Traits()) != len(m.Traits()) {
		t.Errorf("of its bytes %d traits are read, bad: %v", len(again.Traits()), r.Bad())
	}
}

func TestReservedTraitsOfRules(t *testing.T) {
	for when, want := range map[string]string{
		`trait("city") == "Bern"`: "", `count(event.import > 1) >= 1`: "", `trait("imported") == true`: "",
		`trait("import.crm") >= 1`:                                       "import.crm",
		`count(true) >= 1 && !(trait("import#17") == true)`:              "import#17",
		`trait("a") == "b" || trait("import.x").startsWith("something")`: "import.x",
	} {
		r, err := segments.Compile(when)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if got := r.Reserved(); got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
		var problem *proto.Error
		switch err := r.CheckTraits(); {
		case want == "" && err != nil:
			t.Errorf("%s: %v", when, err)
		case want != "" && (!errors.As(err, &problem) || problem.Line != 1 || !strings.HasPrefix(when[problem.Column-1:], fmt.Sprintf("%q", want))):
			t.Errorf("%s: %v", when, err)
		}
	}
}
