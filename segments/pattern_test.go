package segments_test

import (
	"bytes"
	"errors"
	"fmt"
	"regexp/syntax"
	"strings"
	"testing"

	"kith/proto"
	"kith/segments"
)

// unrolled is a short pattern of 244,000 steps.
var unrolled = "(?:" + strings.Repeat(".?", 122) + "){1000}~"

// What is written out of a pattern is counted without writing it out, and never
// for less than it is.
func TestPatternsAreTakenForTheirSize(t *testing.T) {
	for _, text := range []string{
		``, `a`, `^a{20,40}$`, `(?i)foo|bar|baz`, `\pL{1,64}`, `[\p{Greek}\p{Cyrillic}]+`, `^[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,63}$`, `(?:[0-9]{1,3}\.){3}[0-9]{1,3}`,
		`^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$`, `^.{1,255}$`, `(?:a*)*`, `(?:a?){50}`, `(a|b|cd|)*?`, `x{0}`, `x{0,}`, `x{3,}`, `((a{2,10}){3}b){0,9}`, `(?:(?:.*)+){5}\b$`, strings.Repeat("a", 256),
		strings.Repeat("a|", 128), strings.Repeat("()", 128), strings.Repeat(".?", 128), strings.Repeat("a*", 128), strings.Repeat(`\b`, 128), `[^\x00-\x{10FFFF}]{5}`,
	} {
		tree, err := syntax.Parse(text, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		steps := segments.PatternSteps(tree)
		p, err := syntax.Compile(tree.Simplify())
		if real := len(p.Inst) - 2; err != nil || steps < real || steps > 2*real+8 { // one is to fail, one to match
			t.Errorf("%s: %d steps, really %d, %v", text, steps, real, err)
		}
		if _, err := segments.Compile(fmt.Sprintf(`count(event.x.matches(%q)) >= 1`, text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestLongPatternsAreRefused(t *testing.T) {
	for text, column := range map[string]int{
		`count(event.x.matches("` + unrolled + `")) >= 1`: 23,
		`trait("x").matches("` + unrolled + `")`:          20,
		`count(event.x.matches("^a{601}$")) >= 1`:         23,
	} {
		_, err := segments.Compile(text)
		var e *proto.Error
		if !errors.As(err, &e) || e.Code != proto.CodeRule || e.Line != 1 || e.Column != column || !strings.Contains(e.Message, "steps") {
			t.Errorf("%.40s: %v, want column %d", text, err, column)
		}
	}
	for text, taken := range map[string]bool{
		`event.x.matches("` + unrolled + `")`:                                   false,
		`event.x.matches("^a{500}$")`:                                           true,
		`event.x.matches("^a{500}$") && event.y.matches("^b{500}$")`:            false,
		`event.x.matches("^a{20,40}$") || event.y.matches("(?i)foo|bar|baz|q")`: true,
	} {
		if _, err := segments.ParseCondition(text); (err == nil) != taken || err != nil && proto.CodeOf(err) != proto.CodeRule {
			t.Errorf("condition %.60s: %v", text, err)
		}
	}
}

// stored is a rule as an earlier build saved it.
func stored(t *testing.T, text, pattern string) *segments.Rule {
	t.Helper()
	blank := strings.Repeat("x", len(pattern))
	b, _ := compile(t, fmt.Sprintf(text, blank)).AppendBinary(nil)
	r, err := segments.DecodeRule(bytes.ReplaceAll(b, []byte(blank), []byte(pattern)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A rule that was saved with a long pattern is read; the pattern matches nothing
// and is not run, which would take seconds.
func TestStoredPatternsAreNotRun(t *testing.T) {
	r := stored(t, `count(event.x.matches("%s")) >= 1 || count(event.y == "1" && !event.x.matches("(?:a.){3}")) >= 1`, unrolled)
	if got := r.Idle(); len(got) != 1 || got[0] != unrolled {
		t.Errorf("not run: %q", got)
	}
	if got := compile(t, `count(event.x.matches("^a{500}$")) >= 1`).Idle(); got != nil {
		t.Errorf("not run: %q", got)
	}
	p, ev, m, d := segments.NewProgram(), segments.NewEvaluator(), &segments.Memory{}, &segments.Delta{}
	if err := p.Define(segments.Definition{Key: 1, ID: "a", Rule: r}); err != nil {
		t.Fatal(err)
	}
	for i, in := range []bool{false, true} {
		e := &proto.EventBody{Props: []proto.Prop{{Key: "x", Value: proto.TextOf(strings.Repeat("b", 1000) + "~")}, {Key: "y", Value: proto.NumberOf(float64(i))}}}
		for range 100 {
			ev.Observe(p, m, e, start, start, d)
		}
		if plain := segments.Holds(r, func(yield func(proto.Millis, *proto.EventBody) bool) { yield(start, e) }, nil, nil, start); plain != in || len(m.Memberships()) != i {
			t.Errorf("y is %d: %v, plainly %v", i, m.Memberships(), plain)
		}
	}
	// What is near the bound is still run: another library may count otherwise.
	near := stored(t, `count(event.x.matches("%s")) >= 1`, "^a{700}$")
	e := &proto.EventBody{Props: []proto.Prop{{Key: "x", Value: proto.TextOf(strings.Repeat("a", 700))}}}
	if near.Idle() != nil || !segments.Holds(near, func(yield func(proto.Millis, *proto.EventBody) bool) { yield(start, e) }, nil, nil, start) {
		t.Error("a pattern a little over the bound is not run")
	}
}

// The patterns of a client's rules have a bound together, conditions that they
// share counted once. Lanes do not ask: they obey what was saved before it.
func TestPatternsOfAClientAreBounded(t *testing.T) {
	p := segments.NewProgram()
	key := proto.SegmentKey(0)
	try := func(text string) error {
		key++
		d := segments.Definition{Key: key, ID: proto.SegmentID(fmt.Sprint("s", key)), Rule: compile(t, text)}
		checked := p.Check(d)
		if err := p.Define(d); err != nil {
			t.Fatal(err)
		}
		return checked
	}
	const each = 500
	for i := range segments.PatternsMax/each - 1 {
		text := fmt.Sprintf(`count(event.x%d.matches("a{%d}")) >= 1`, i, each)
		if i%2 == 0 {
			text = fmt.Sprintf(`trait("x%d").matches("a{%d}")`, i, each)
		}
		if err := try(text); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		text  string
		taken bool
	}{
		{`count(event.y.matches("a{500}") && event.z.matches("b")) >= 1`, false},
		{`count(event.x1.matches("a{500}")) >= 2`, true}, // shared
		{`count(event.y == "a") >= 1`, true},
		{`trait("x0").matches("a{500}")`, false},
	} {
		if err := try(c.text); (err == nil) != c.taken || err != nil && (proto.CodeOf(err) != proto.CodeRule || !strings.Contains(err.Error(), "steps in all")) {
			t.Errorf("%s: %v", c.text, err)
		}
	}
	for when, taken := range map[string]bool{`trait("x0").matches("b{500}")`: true, `count(event.z.matches("b{500}")) >= 1`: true, `trait("x0").matches("b{501}")`: false} {
		d := segments.Definition{Key: key + 1, ID: "s1", Rule: compile(t, when)}
		if err := p.Check(d); (err == nil) != taken {
			t.Errorf("%s in the place of another: %v", when, err)
		}
		if err := p.CheckBeside(d); err == nil {
			t.Errorf("%s is taken beside another", when)
		}
	}
	for i := range key {
		if err := p.Undefine(proto.SegmentID(fmt.Sprint("s", i+1)), key+i+1); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := segments.Weighed(p); got != [2]int{} {
		t.Errorf("nothing is left, and %v steps", got)
	}
}
