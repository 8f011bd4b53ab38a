package segments_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"kith/proto"
	"kith/segments"
)

func FuzzCompile(f *testing.F) {
	for _, s := range []string{`count(event.section == "auto", "30d") >= 3 && !member("owners")`, `now - last(true) < "7d"`, `trait("x") in ["a", 3, true]`, `days(event.props["a b"].matches("^a")) == 2 || true`, `event.x`, `devices() >= 2`, seriesRule, `((((`, `!!!!-1`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := segments.Compile(text)
		if err != nil {
			if code := proto.CodeOf(err); code != proto.CodeRule {
				t.Fatalf("code %s", code)
			}
			return
		}
		again, err := segments.Compile(r.String())
		if err != nil || again.String() != r.String() || !utf8.ValidString(r.String()) {
			t.Fatalf("%q prints as %q, which reads as %v, %v", text, r, again, err)
		}
		b, _ := r.AppendBinary(nil)
		if decoded, err := segments.DecodeRule(b); err != nil || decoded.String() != r.String() {
			t.Fatalf("%q decodes as %v, %v", r, decoded, err)
		}
	})
}

func FuzzDecodeRule(f *testing.F) {
	for _, s := range []string{`count(event.section == "auto", "30d") >= 3 && !member("owners")`, `now - last(true) < "7d"`, `trait("x") in ["a", 3, true] || days(!has(event.x)) < 3`, `!(devices() == 1)`, seriesRule} {
		b, _ := compile(f, s).AppendBinary(nil)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := segments.DecodeRule(b)
		if err != nil {
			return
		}
		again, err := segments.Compile(r.String())
		if err != nil && strings.Contains(err.Error(), "steps") {
			return // saved before patterns had a bound
		}
		if err != nil {
			t.Fatalf("decoded %q does not compile: %v", r, err)
		}
		one, _ := r.AppendBinary(nil)
		two, _ := again.AppendBinary(nil)
		if !bytes.Equal(one, two) {
			t.Fatalf("%q: decoded and compiled differ", r)
		}
	})
}

func FuzzReadMemory(f *testing.F) {
	f.Add(tenPredicates(f).Append(nil, start))
	f.Add(tenSeries(f).Append(nil, start))
	f.Add((&segments.Memory{}).Append(nil, start))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &segments.Memory{}
		r := proto.NewReader(b)
		segments.ReadMemory(&r, start, m)
		if r.Bad() {
			if m.Version() != 0 || len(m.Memberships()) != 0 || len(m.Traits()) != 0 {
				t.Fatal("a malformed memory is not left zero")
			}
			return
		}
		packed := m.Append(nil, start)
		again, r2 := &segments.Memory{}, proto.NewReader(packed)
		segments.ReadMemory(&r2, start, again)
		if r2.Bad() || r2.Len() != 0 || !bytes.Equal(again.Append(nil, start), packed) {
			t.Fatalf("memory reads back as another: %x", packed)
		}
		// A forged memory must not break the evaluator either.
		d := &segments.Delta{}
		segments.NewEvaluator().Update(crowd(t, 10), again, seq(nil), start, d)
		segments.NewEvaluator().Observe(crowd(t, 10), again, visit(), start, start, d)
	})
}

func FuzzShared(f *testing.F) {
	p, ev := crowd(f, 10), segments.NewEvaluator()
	good := string(p.AppendShared(nil, visited(p, 5)))
	f.Add([]byte(good))
	f.Add([]byte{1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		checked := segments.CheckShared(string(b))
		one, err := ev.Union(p, []string{string(b), good}, 2, start+day, nil)
		if (err == nil) != (checked == nil) {
			t.Fatalf("CheckShared says %v, Union %v", checked, err)
		}
		other, _ := ev.Union(p, []string{good, string(b)}, 2, start+day, nil)
		if !slices.Equal(one, other) {
			t.Fatalf("by order: %v, %v", one, other)
		}
		if err != nil && (proto.CodeOf(err) != proto.CodeCorrupt || len(one) != 0) {
			t.Fatalf("%v with %v", err, one)
		}
		for _, ms := range one {
			if !ms.In && ms.Next == 0 || ms.Next != 0 && ms.Next <= start+day {
				t.Fatalf("membership %v says nothing", ms)
			}
		}
	})
}

func FuzzParseWindow(f *testing.F) {
	for _, s := range []string{"30d", "1w2d", "1.5h", "9999999999999h", "1ms", "-1d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := segments.ParseWindow(s)
		if err == nil && (d <= 0 || d > segments.WindowMax) {
			t.Fatalf("%q is %v", s, d)
		}
	})
}

// A condition is what count() takes of an event, and means the same.
func FuzzParseCondition(f *testing.F) {
	for _, text := range []string{`event.name == "order" && event.price >= 10`, `true`, `!has(event.x)`, `event.a in ["b", "c"]`, `true) >= 1 || count(true`, `count(true) >= 1`} {
		f.Add(text, "10")
	}
	f.Fuzz(func(t *testing.T, text, value string) {
		c, err := segments.ParseCondition(text)
		if err != nil {
			if proto.CodeOf(err) != proto.CodeRule {
				t.Fatalf("code of %v", err)
			}
			return
		}
		again, err := segments.ParseCondition(c.String())
		if err != nil || again.String() != c.String() {
			t.Fatalf("%s prints as %s, which reads as %v, %v", text, c, again, err)
		}
		rule, err := segments.Compile("count(" + c.String() + ") >= 1")
		if err != nil {
			return // longer, or deeper, than a rule may be
		}
		e := &proto.EventBody{Name: "order", Props: []proto.Prop{{Key: "price", Value: proto.TextOf(value)}, {Key: "a", Value: proto.TextOf("b")}}}
		history := func(yield func(proto.Millis, *proto.EventBody) bool) { yield(1, e) }
		if rule := segments.Holds(rule, history, nil, nil, 2); rule != c.Matches(e) {
			t.Fatalf("%s: a rule says %v", c, rule)
		}
	})
}
