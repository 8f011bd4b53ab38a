package segments_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/proto"
	"kith/segments"
)

var update = flag.Bool("update-golden", false, "write the golden files anew")

func TestAccepted(t *testing.T) {
	for _, c := range []struct{ text, canonical string }{
		{`count(event.section == "auto", "30d") >= 3 && !member("owners")`, ""},
		{`3 <= count(event.section == "auto", "720h")`, `count(event.section == "auto", "30d") >= 3`},
		{`count(true) > 1.0`, `count(true) > 1`},
		{`now - last(true) < "7d"`, `last(true) > now - "7d"`},
		{`now - last(true) >= duration("168h")`, `last(true) <= now - "7d"`},
		{`duration("1h") > now - last(true)`, `last(true) > now - "1h"`},
		{`last(true) > now - duration("1w")`, `last(true) > now - "7d"`},
		{`now - "90m" <= last(true)`, `last(true) >= now - "1h30m"`},
		{`last(true) > timestamp("2026-01-02T01:00:00+01:00")`, `last(true) > timestamp("2026-01-02T00:00:00.000Z")`},
		{`!!member("a")`, `member("a")`},
		{`(member("a") && (member("b") && true)) || false`, `(member("a") && member("b") && true) || false`},
		{`count(event.props["section"] == 'x') == 0`, `count(event.section == "x") == 0`},
		{`count(event.props["name"] == "x") == 0`, ""},
		{`count(event.props.url == "x") == 0`, `count(event.props["url"] == "x") == 0`},
		{`count(event.props["a b"] in ["b", 2, "a", "b", true, 1.5]) == 0`, `count(event.props["a b"] in ["a", "b", 1.5, 2, true]) == 0`},
		{`count("a" == event.x || !has(event.y)) == 0`, `count(event.x == "a" || !has(event.y)) == 0`},
		{`count(event.x.lowerAscii().startsWith("a") && event.url.matches("^/a+")) == 0`, ""},
		{`trait("age") >= 25 && trait("city").lowerAscii() in ["a"]`, ""},
		{`trait("vip") == true || trait("x").contains("\u00e9\"")`, `trait("vip") == true || trait("x").contains("é\"")`},
		{`2 <= devices() && !(devices() == 64.0)`, `devices() >= 2 && !(devices() == 64)`},
		{`sum(event.price, event.name == "order", "30d") >= 99.5 || 3 > sum(event.price)`, `sum(event.price, event.name == "order", "30d") >= 99.5 || sum(event.price) < 3`},
		{`min(event.price, true, "1w") == -1 && max(event.props["a b"]) != 1e300`, `min(event.price, "7d") == -1 && max(event.props["a b"]) != 1e+300`},
		{`distinct(event.section, "168h") >= 3.0`, `distinct(event.section, "7d") >= 3`},
		{`distinct(event.url, event.name == "page") == 1000`, ""},
		{`first(true) <= now - "30d" && now - first(event.x == 1) < "1w"`, `first(true) <= now - "30d" && first(event.x == 1) > now - "7d"`},
		{`first(true) == timestamp("2026-01-02T00:00:00Z")`, `first(true) == timestamp("2026-01-02T00:00:00.000Z")`},
		{`!sequence(event.name == "cart", event.name == "order", "90m", "30d")`, `!(sequence(event.name == "cart", event.name == "order", "1h30m", "30d"))`},
		{`sequence(true, true, "1ms")`, ""},
		{`days(event.price > -1e300, "1w2d") < 366 // comment`, `days(event.price > -1e+300, "9d") < 366`},
	} {
		r, err := segments.Compile(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if c.canonical == "" {
			c.canonical = c.text
		}
		if r.String() != c.canonical {
			t.Errorf("%s\nprints as %s\nnot as    %s", c.text, r, c.canonical)
		}
	}
}

// TestDocumentedRules compiles every rule of the pages that explain them.
func TestDocumentedRules(t *testing.T) {
	for page, least := range map[string]int{"rules.md": 10, "session-data.md": 4} {
		t.Run(page, func(t *testing.T) { documentedRules(t, "../docs/"+page, least) })
	}
}

func documentedRules(t *testing.T, name string, least int) {
	t.Helper()
	page, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	rules := 0
	for i, block := range strings.Split(string(page), "```") {
		if text, is := strings.CutPrefix(block, "rule\n"); is && i%2 == 1 {
			for line := range strings.Lines(text) {
				rules++
				if _, err := segments.Compile(line); err != nil {
					t.Errorf("%s: %v", line, err)
				}
			}
		}
	}
	if rules < least {
		t.Errorf("the page has %d rules", rules)
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		text         string
		line, column int
		message      string
	}{
		{``, 1, 1, "expecting expression"},
		{`count(true) >`, 1, 14, "expecting expression"},
		{`event.name == "x"`, 1, 1, `count(event.name == "x") >= 1`},
		{`member("a") && event.x > 3`, 1, 16, `count(event.x > 3) >= 1`},
		{`count(true, "1d")`, 1, 1, `write count(true, "1d") >= 1`},
		{`true && count(true)`, 1, 9, `write count(true) >= 1`},
		{`sum(event.x, true) >= -1e301`, 1, 23, "beyond 1e300"},
		{`last(true)`, 1, 1, `write last(true) > now - "7d"`},
		{"true &&\n  cuont(true) > 1", 2, 3, "did you mean count?"},
		{`count(evnt.name == "x") > 1`, 1, 7, "did you mean event?"},
		{`frobnicate(true) > 1`, 1, 1, "rules know count, days"},
		{`devices()`, 1, 1, "devices() gives a number: write devices() >= 2"},
		{`true && devices >= 2`, 1, 9, "devices is a function: write devices() >= 2"},
		{`device() >= 2`, 1, 1, "did you mean devices?"},
		{`devices(event.name == "x") >= 2`, 1, 1, "devices has 1 arguments: write devices() >= 2"},
		{`devices() >= 65`, 1, 14, "from 0 to 64"},
		{`devices() >= 1.5`, 1, 14, "whole number"},
		{`devices() == "2"`, 1, 14, "devices() is a number"},
		{`devices() > count(true)`, 1, 13, "devices() is a number"},
		{`now - devices() > "1d"`, 1, 7, "a length of time"},
		{`count(devices() > 1) > 1`, 1, 7, "cannot stand inside"},
		{`count(devices()) > 1`, 1, 7, "cannot stand inside"},
		{`sum(event.price) > "1"`, 1, 20, "is a number: compare it with one"},
		{`sum(event.price)`, 1, 1, "write sum(event.price) >= 1"},
		{`sum() > 1`, 1, 1, "sum has 0 arguments: write sum(event.price"},
		{`min(event.price, true, "30") > 1`, 1, 24, "number and a unit"},
		{`max(event.price, "30d", true) > 1`, 1, 25, "the window is a text"},
		{`sum(price) > 1`, 1, 5, "write sum(event.price)"},
		{`sum(event.time) > 1`, 1, 5, "event.time is not supported"},
		{`sum(event.price > 3) > 1`, 1, 5, "the condition comes after it"},
		{`count(sum(event.price) > 3) > 1`, 1, 7, "cannot stand inside"},
		{`distinct(event.x) > 1001`, 1, 21, "from 0 to 1000"},
		{`distinct(event.x) > 1.5`, 1, 21, "whole number"},
		{`distinct(event.x, true)`, 1, 1, "write distinct(event.x) >= 1"},
		{`first(true)`, 1, 1, `write first(true) > now - "7d"`},
		{`first(true, "1d") > now - "1d"`, 1, 1, "first has 2 arguments"},
		{`true || sequence(true, true)`, 1, 9, "sequence has 2 arguments"},
		{`sequence(true, true, 3)`, 1, 22, "the longest time between the two is a text"},
		{`sequence(true, true, "1h", "1y")`, 1, 28, "the units are"},
		{`sequence(true, member("a"), "1h")`, 1, 16, "cannot stand inside"},
		{`sequence(true, true, "1h") == true`, 1, 1, "a condition already"},
		{`sequense(true, true, "1h")`, 1, 1, "did you mean sequence?"},
		{`count(true) >= 1001`, 1, 16, "from 0 to 1000"},
		{`days(true) >= 367`, 1, 15, "from 0 to 366"},
		{`count(true) >= 2.5`, 1, 16, "whole number"},
		{`count(true) >= -1`, 1, 16, "whole number"},
		{`count(true) >= "3"`, 1, 16, "is a number"},
		{`count(true, "30") > 1`, 1, 13, "number and a unit"},
		{`count(true, "11000d") > 1`, 1, 13, ""},
		{`count(true, "0s") > 1`, 1, 13, "at least 1ms"},
		{`count(event.time > 3) > 1`, 1, 7, "event.time is not supported"},
		{`count(event.x) > 1`, 1, 7, "has(event.x)"},
		{`count(count(true) > 1) > 1`, 1, 7, "cannot stand inside"},
		{`count(member("a")) > 1`, 1, 7, "cannot stand inside"},
		{`count(event.x.matches("(")) > 1`, 1, 23, "RE2"},
		{`count(event.x.matches("` + strings.Repeat("a", 257) + `")) > 1`, 1, 23, "at most 256"},
		{`count(event.x > true) > 1`, 1, 7, "no order"},
		{`count(event.x in []) > 1`, 1, 18, "not empty"},
		{`count(event.x == event.y) > 1`, 1, 18, "nothing else"},
		{`count(event.x == 9007199254740993) > 1`, 1, 18, "2^53"},
		{`count(has(event.name)) > 1`, 1, 7, "always there"},
		{`last(true) > "7d"`, 1, 14, `now - "7d"`},
		{`last(true) > last(false)`, 1, 14, "is a time"},
		{`last(true) > timestamp("yesterday")`, 1, 14, "is not valid"},
		{`last(true) - now > "7d"`, 1, 1, "only now - last"},
		{`now > timestamp("2026-01-02T00:00:00Z")`, 1, 1, "two constants"},
		{`1 < 2`, 1, 1, "two constants"},
		{`member("a") == true`, 1, 1, "a condition already"},
		{`member("a b")`, 1, 8, "not valid"},
		{`member(a)`, 1, 8, "in quotes"},
		{`trait(age) > 3`, 1, 1, "in quotes"},
		{`true ? true : false`, 1, 1, "not supported"},
		{`[1].exists(x, x > 1)`, 1, 1, ""},
		{`"text"`, 1, 1, "not a value"},
		{`count(true) > 1u`, 1, 15, "not supported"},
		{"count(event.x == \"\xff\") > 1", 1, 1, "UTF-8"},
		{strings.Repeat("(", 100_000) + "true" + strings.Repeat(")", 100_000), 1, 1, "at most 10000"},
		{strings.Repeat("(", 4000) + "true" + strings.Repeat(")", 4000), 1, 0, "nested deeper than 100 levels"},
		{strings.Repeat("!(", 200) + "true" + strings.Repeat(")", 200), 1, 0, "nested deeper than 100 levels"},
		{strings.Repeat("true && ", 600) + "true", 1, 0, "more than 500 parts: split it"},
		{"count(event.x in [" + long(499) + "]) >= 1 && true", 1, 1, "shorten the list, or use startsWith"},
		{strings.Repeat("count(true) > 1 && ", 33) + "true", 1, 1, "more than 32 aggregates"},
	} {
		name := c.text[:min(len(c.text), 60)]
		_, err := segments.Compile(c.text)
		var e *proto.Error
		if !errors.As(err, &e) || e.Code != proto.CodeRule {
			t.Errorf("%s: %v, not a rule error", name, err)
			continue
		}
		if e.Line != c.line || c.column != 0 && e.Column != c.column || !strings.Contains(e.Message, c.message) {
			t.Errorf("%s\n%v\nwant line %d, column %d, %q", name, e, c.line, c.column, c.message)
		}
	}
}

// long is a list of so many elements, without its brackets.
func long(elements int) string {
	var b strings.Builder
	for i := range elements {
		fmt.Fprintf(&b, ", %d", i)
	}
	return b.String()[2:]
}

func TestWindows(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"3s": 3 * time.Second, "12h": 12 * time.Hour, "30d": 720 * time.Hour, "1w2d": 216 * time.Hour,
		"90m": 90 * time.Minute, "1.5h": 90 * time.Minute, "1d12h": 36 * time.Hour, "250ms": 250 * time.Millisecond,
		"": 0, "d": 0, "30": 0, "-1d": 0, "1.5d": 0, "1us": 0, "0.1ms": 0, "0d": 0, "3660d1ms": 0, "99999999999999999999d": 0, "1y": 0, "1 d": 0, "9999w9999w": 0, ".s": 0,
		"3660d": segments.WindowMax, "522w": 522 * 7 * 24 * time.Hour, "523w": 0, "3661d": 0,
		// 2^64 ns and some: three days, and nearly ten years.
		"30501w0.551616ms": 0, "20000w10501w0.551616ms": 0, "3660d2562047h2562047h0.551616ms": 0,
	} {
		got, err := segments.ParseWindow(s)
		if (err == nil) != (want > 0) || err == nil && got != want {
			t.Errorf("%q: %v, %v; want %v", s, got, err, want)
		}
		if err != nil && proto.CodeOf(err) != proto.CodeRule {
			t.Errorf("%q: code of %v", s, err)
		}
	}
}

// TestValues holds each kind of comparison to the table in the documentation.
func TestValues(t *testing.T) {
	text, number, flagged := proto.TextOf, proto.NumberOf, proto.FlagOf
	for _, c := range []struct {
		pred string
		yes  []proto.Value
		no   []proto.Value
	}{
		{`event.x == 3`, []proto.Value{number(3), text("3"), text("3.0"), text("+3"), text("0.3e1")}, []proto.Value{text("0x3"), text("3_0"), text(" 3"), text("three"), flagged(true), number(4)}},
		{`event.x != 3`, []proto.Value{number(4), text("4")}, []proto.Value{number(3), text("a"), text("NaN"), text("Inf"), flagged(true), text("1e999")}},
		{`event.x == "3"`, []proto.Value{number(3), text("3")}, []proto.Value{text("3.0"), number(3.5)}},
		{`event.x == true`, []proto.Value{flagged(true), text("true")}, []proto.Value{flagged(false), text("True"), number(1)}},
		{`event.x != true`, []proto.Value{flagged(false), text("false")}, []proto.Value{flagged(true), text("x"), number(0)}},
		{`event.x == "true"`, []proto.Value{flagged(true), text("true")}, []proto.Value{flagged(false)}},
		{`event.x < "b"`, []proto.Value{text("a"), text(""), text("B"), number(3)}, []proto.Value{text("b"), text("c")}},
		{`event.x in ["a", 3]`, []proto.Value{text("a"), number(3), text("3.0")}, []proto.Value{text("b"), flagged(true)}},
		{`event.x.lowerAscii() == "äb"`, []proto.Value{text("äB")}, []proto.Value{text("ÄB")}},
		{`event.x.startsWith("1.")`, []proto.Value{number(1.5), text("1.x")}, []proto.Value{number(15)}},
		{`event.x.endsWith("se")`, []proto.Value{flagged(false), text("else")}, []proto.Value{flagged(true)}},
		{`event.x.matches("^a+$")`, []proto.Value{text("aa")}, []proto.Value{text("ab"), text("")}},
		{`!(event.x == 3)`, []proto.Value{text("a"), number(4)}, []proto.Value{number(3)}},
	} {
		for i, v := range append(append([]proto.Value(nil), c.yes...), c.no...) {
			p := segments.NewProgram()
			if err := p.Define(segments.Definition{Key: 1, ID: "s", Rule: compile(t, "count("+c.pred+") > 0")}); err != nil {
				t.Fatal(err)
			}
			m, d := &segments.Memory{}, &segments.Delta{}
			segments.NewEvaluator().Observe(p, m, &proto.EventBody{Props: []proto.Prop{{Key: "x", Value: v}}}, start, start, d)
			if got := len(m.Memberships()) == 1; got != (i < len(c.yes)) {
				t.Errorf("%s with %v %q: %v", c.pred, v.Kind, v, got)
			}
		}
	}
}

// What names a segment that is not there is told of one that is called much like it.
func TestUndefinedReferenceIsSuggested(t *testing.T) {
	p := segments.NewProgram()
	for i, id := range []proto.SegmentID{"owners", "autos"} {
		if err := p.Define(segments.Definition{Key: proto.SegmentKey(i + 1), ID: id, Rule: compile(t, "true")}); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"ownrs": "did you mean owners?", "Autos": "did you mean autos?", "newsletter-readers": "define it first", "dogs": "define it first",
	} {
		err := p.Define(segments.Definition{Key: 9, ID: "new", Rule: compile(t, fmt.Sprintf("member(%q)", name))})
		if proto.CodeOf(err) != proto.CodeNotFound || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

func TestProgramRefuses(t *testing.T) {
	p := segments.NewProgram()
	define := func(key proto.SegmentKey, id proto.SegmentID, text string) error {
		return p.Define(segments.Definition{Key: key, ID: id, Rule: compile(t, text)})
	}
	for _, c := range []struct {
		key      proto.SegmentKey
		id, text string
		code     proto.Code
	}{
		{1, "a", `count(true) > 1`, ""},
		{2, "b", `member("a")`, ""},
		{3, "c", `member("b") || member("a")`, ""},
		{4, "a", `member("c")`, proto.CodeRule},
		{4, "d", `member("d")`, proto.CodeRule},
		{4, "d", `member("nobody")`, proto.CodeNotFound},
		{3, "d", `true`, proto.CodeConflict},
		{4, "", `true`, proto.CodeSegment},
		{0, "d", `true`, proto.CodeInvalid},
		{4, "a", `!(count(true) > 1)`, ""},
	} {
		if err := define(c.key, proto.SegmentID(c.id), c.text); proto.CodeOf(err) != c.code {
			t.Errorf("define %d %q %s: %v, want %q", c.key, c.id, c.text, err, c.code)
		}
	}
	if err := p.Undefine("a", 9); proto.CodeOf(err) != proto.CodeConflict {
		t.Errorf("undefine of a segment in use: %v", err)
	}
	if err := p.Undefine("nobody", 9); proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("undefine of nothing: %v", err)
	}
	if err := p.Undefine("c", 9); err != nil || p.Version() != 9 || len(p.All()) != 2 {
		t.Errorf("undefine: %v, version %d, left %v", err, p.Version(), p.All())
	}
	chain := proto.SegmentID("a")
	for i := range segments.NestingMax + 1 {
		next := proto.SegmentID("n" + string(rune('0'+i)))
		err := define(proto.SegmentKey(20+i), next, `member("`+string(chain)+`")`)
		if full := i == segments.NestingMax; full != (proto.CodeOf(err) == proto.CodeRule) {
			t.Errorf("member() %d levels deep: %v", i+1, err)
		}
		chain = next
	}
	wide := strings.Repeat(`trait("x") == 1 && `, 200)
	for i, code := range []proto.Code{"", "", proto.CodeRule} { // 400 parts each
		text := wide + "true"
		if i > 0 {
			text = wide + `member("w` + string(rune('0'+i-1)) + `")`
		}
		if err := define(proto.SegmentKey(50+i), proto.SegmentID("w"+string(rune('0'+i))), text); proto.CodeOf(err) != code {
			t.Errorf("%d wide rules joined by member(): %v", i+1, err)
		}
	}
	if err := define(40, "a", `member("b")`); proto.CodeOf(err) != proto.CodeRule {
		t.Errorf("a circle closed from below: %v", err)
	}
	if err := define(40, "b", `count(true) > 3`); err != nil {
		t.Errorf("a segment that others refer to, defined anew: %v", err)
	}
}

// What is wrong with member() stands where the rule names the segment.
func TestMemberErrorsHaveAPlace(t *testing.T) {
	p := segments.NewProgram()
	define := func(key proto.SegmentKey, id proto.SegmentID, text string) error {
		return p.Define(segments.Definition{Key: key, ID: id, Rule: compile(t, text)})
	}
	wide := strings.Repeat(`trait("x") == 1 && `, 200) + "true"
	for i, text := range []string{"true", `member("s1")`, `member("s2")`, wide, wide + ` && member("s4")`, wide} {
		if err := define(proto.SegmentKey(i+1), proto.SegmentID(fmt.Sprint("s", i+1)), text); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		id, text     string
		code         proto.Code
		line, column int
	}{
		{"new", `member("s1") &&` + "\n" + `  !member("nobody") && member("nobody")`, proto.CodeNotFound, 2, 11},
		{"new", `true || member("new")`, proto.CodeRule, 1, 16},
		{"s1", `count(true) > 1 && member("s4") &&` + "\n" + `member("s3")`, proto.CodeRule, 2, 8},
		{"new", wide + " &&" + "\n" + `member("s1") && member("s5")`, proto.CodeRule, 2, 24},
		{"s4", wide + " &&" + "\n" + `member("s6")`, proto.CodeRule, 2, 8}, // s5, which refers to it, reaches too far
	} {
		err := define(9, proto.SegmentID(c.id), c.text)
		var e *proto.Error
		if !errors.As(err, &e) || e.Code != c.code || e.Line != c.line || e.Column != c.column {
			t.Errorf("%s: %s: %v at %+v, want %s at %d:%d", c.id, c.text[max(0, len(c.text)-40):], err, e, c.code, c.line, c.column)
		}
	}
}

func TestPredicatesOfOneNumberAreRefused(t *testing.T) {
	p := segments.NewProgram()
	a, b := compile(t, `count(event.x == "a") > 0`), compile(t, `count(event.x == "b") > 0`)
	b.SetPredicateID(a.PredicateID())
	if err := p.Define(segments.Definition{Key: 1, ID: "a", Rule: a}); err != nil {
		t.Fatal(err)
	}
	if err := p.Define(segments.Definition{Key: 2, ID: "b", Rule: b}); proto.CodeOf(err) != proto.CodeConflict {
		t.Fatalf("two conditions with one number: %v", err)
	}
}

// TestGolden holds the bytes that outlive the process.
func TestGolden(t *testing.T) {
	everything := compile(t, `count(event.name == "x" && !(event.a != 3.5) || has(event.b), "30d") >= 3 && days(event.props["a b"].lowerAscii() in ["x", "y"]) < 2
		&& (last(event.url.matches("^/a")) > timestamp("2026-01-02T00:00:00Z") || last(true) <= now - "7d") && !member("owners") && trait("age") >= 25 && trait("vip") == true`)
	rule, err := everything.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	devices, err := compile(t, `devices() >= 2`).AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	series, err := compile(t, seriesRule).AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	p, m, d := segments.NewProgram(), &segments.Memory{}, &segments.Delta{}
	for i, text := range []string{`count(true, "30d") >= 2`, `days(event.name == "x") >= 2`, `last(true) > now - "1h" && trait("age") > 3`, `count(event.name == "y") < 3`, `last(true) < now - "2h"`} {
		if err := p.Define(segments.Definition{Key: proto.SegmentKey(3 * (i + 1)), ID: proto.SegmentID(rune('a' + i)), Rule: compile(t, text)}); err != nil {
			t.Fatal(err)
		}
	}
	ev := segments.NewEvaluator()
	ev.SetTraits(p, m, []proto.Prop{{Key: "age", Value: proto.NumberOf(30)}, {Key: "city", Value: proto.TextOf("ab")}}, start, d)
	for i := range proto.Millis(4) {
		ev.Observe(p, m, &proto.EventBody{Name: "x"}, start+i*9*hour, start+i*9*hour, d)
	}
	for name, got := range map[string][]byte{"rule.golden": rule, "devices.golden": devices, "memory.golden": m.Append(nil, start), "shared.golden": p.AppendShared(nil, m), "series.golden": series, "amounts.golden": tenSeries(t).Append(nil, start)} {
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: stored bytes changed: add a version instead\n%s", name, diff)
		}
	}
}

func TestExplain(t *testing.T) {
	p, m, d := segments.NewProgram(), &segments.Memory{}, &segments.Delta{}
	if err := p.Define(segments.Definition{Key: 1, ID: "s", Rule: compile(t, `(count(true, "1h") >= 2 || trait("age") > 3) && !(last(event.name == "z") > now - "1d")`)}); err != nil {
		t.Fatal(err)
	}
	for i := range proto.Millis(3) {
		segments.NewEvaluator().Observe(p, m, &proto.EventBody{Name: "x"}, start+i*hour/2, start+i*hour/2, d)
	}
	facts, err := p.Explain("s", m, start+hour)
	if err != nil {
		t.Fatal(err)
	}
	want := []proto.ExplanationFact{
		{Expr: `count(true, "1h") >= 2`, Value: 2, Holds: true, Events: []time.Time{(start + hour).Time(), (start + hour/2).Time()}},
		{Expr: `trait("age") > 3`},
		{Expr: `last(event.name == "z") > now - "1d"`},
	}
	if diff := cmp.Diff(want, facts); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
	if err := p.Define(segments.Definition{Key: 2, ID: "d", Rule: compile(t, `devices() < 2`)}); err != nil {
		t.Fatal(err)
	}
	ev := segments.NewEvaluator()
	ev.SetDevices(1)
	facts, err = ev.Explain(p, "d", m, start)
	if diff := cmp.Diff([]proto.ExplanationFact{{Expr: "devices() < 2", Value: 1, Holds: true}}, facts); diff != "" || err != nil {
		t.Errorf("%v, facts (-want +got):\n%s", err, diff)
	}
	if _, err := p.Explain("nobody", m, start); proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("explain of nothing: %v", err)
	}
}

// TestLargestRulesReadBack: what is just within the bounds prints as a text
// that is within them too, whether it came as text or as bytes.
func TestLargestRulesReadBack(t *testing.T) {
	deep := "member(\"a\")"
	for i := range segments.RuleDepthMax/2 - 1 {
		deep = fmt.Sprintf("!(%s %s member(\"b\"))", deep, []string{"&&", "||"}[i%2])
	}
	wide := strings.Repeat(`trait("x") == 1 || `, 249) + "true"
	for _, text := range []string{deep, wide} {
		b, _ := compile(t, text).AppendBinary(nil)
		r, err := segments.DecodeRule(b)
		if err != nil {
			t.Fatal(err)
		}
		if again := compile(t, r.String()); again.String() != text || again.Cost() != r.Cost() {
			t.Errorf("%s\nreads back as %s", text, again)
		}
	}
	if _, err := segments.Compile("!(" + deep + " && true)"); proto.CodeOf(err) != proto.CodeRule {
		t.Errorf("a level more: %v", err)
	}
}
