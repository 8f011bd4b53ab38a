package segments_test

import (
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kith/proto"
	"kith/segments"
)

const (
	second = proto.Millis(1000)
	hour   = 3600 * second
	day    = 24 * hour
)

var start = proto.Millis(1_767_225_600_000) // 2026-01-01

// happened is one event of a history, with when it happened.
type happened struct {
	at   proto.Millis
	body proto.EventBody
}

func seq(history []happened) iter.Seq2[proto.Millis, *proto.EventBody] {
	return func(yield func(proto.Millis, *proto.EventBody) bool) {
		for i := range history {
			if !yield(history[i].at, &history[i].body) {
				return
			}
		}
	}
}

func drawPredicate(t *rapid.T, depth int) string {
	kind := rapid.IntRange(0, 13).Draw(t, "pred")
	if depth <= 0 && kind < 4 {
		kind += 4
	}
	text := rapid.SampledFrom([]string{`"a"`, `"b"`, `"3"`, `"true"`, `3`, `3.5`, `-1`, `true`, `false`})
	prop := rapid.SampledFrom([]string{"event.x", "event.y", `event.props["a b"]`, "event.name", "event.url"})
	switch kind {
	case 0:
		return "(" + drawPredicate(t, depth-1) + " && " + drawPredicate(t, depth-1) + ")"
	case 1:
		return "(" + drawPredicate(t, depth-1) + " || " + drawPredicate(t, depth-1) + ")"
	case 2, 3:
		return "!(" + drawPredicate(t, depth-1) + ")"
	case 4:
		return rapid.SampledFrom([]string{"true", "false"}).Draw(t, "const")
	case 5:
		return rapid.SampledFrom([]string{"has(event.x)", "has(event.y)"}).Draw(t, "has")
	case 6:
		call := rapid.SampledFrom([]string{"startsWith", "endsWith", "contains", "matches"}).Draw(t, "call")
		return prop.Draw(t, "prop") + "." + call + `("` + rapid.SampledFrom([]string{"a", "b", "3", "tr", "-"}).Draw(t, "part") + `")`
	case 7:
		return prop.Draw(t, "prop") + " in [" + strings.Join(rapid.SliceOfN(text, 1, 3).Draw(t, "list"), ", ") + "]"
	case 8:
		return prop.Draw(t, "prop") + `.lowerAscii() == "a"`
	case 9:
		op := rapid.SampledFrom([]string{"!=", "<", "<=", ">", ">="}).Draw(t, "op")
		lit := rapid.SampledFrom([]string{`"a"`, `"3"`, `3`, `3.5`, `-1`}).Draw(t, "lit")
		return prop.Draw(t, "prop") + " " + op + " " + lit
	}
	return prop.Draw(t, "prop") + " == " + text.Draw(t, "lit")
}

var windows = rapid.SampledFrom([]string{"1h", "5h", "1d", "36h", "3d"})

// drawArguments are the optional ones of an aggregate: a predicate, a window.
func drawArguments(t *rapid.T) string {
	args := ""
	if rapid.Bool().Draw(t, "where") {
		args += ", " + drawPredicate(t, 1)
	}
	if rapid.Bool().Draw(t, "windowed") {
		args += fmt.Sprintf(", %q", windows.Draw(t, "w"))
	}
	return args
}

func drawSeries(t *rapid.T, op string) string {
	of := rapid.SampledFrom([]string{"event.x", "event.y", `event.props["a b"]`, "event.name"}).Draw(t, "of")
	switch rapid.IntRange(0, 5).Draw(t, "series") {
	case 0:
		return fmt.Sprintf("distinct(%s%s) %s %d", of, drawArguments(t), op, rapid.IntRange(0, 3).Draw(t, "n"))
	case 1, 2:
		within := fmt.Sprintf(", %q", rapid.SampledFrom([]string{"1ms", "1h", "7h", "2d"}).Draw(t, "within"))
		if rapid.Bool().Draw(t, "windowed") {
			within += fmt.Sprintf(", %q", windows.Draw(t, "w"))
		}
		return "sequence(" + drawPredicate(t, 1) + ", " + drawPredicate(t, 1) + within + ")"
	}
	call := rapid.SampledFrom([]string{"sum", "min", "max"}).Draw(t, "call")
	return fmt.Sprintf("%s(%s%s) %s %s", call, of, drawArguments(t), op, rapid.SampledFrom([]string{"0", "3", "3.5", "6", "9.5", "-1"}).Draw(t, "amount"))
}

func drawRule(t *rapid.T, depth int, members []proto.SegmentID) string {
	kind := rapid.IntRange(0, 18).Draw(t, "rule")
	if depth <= 0 && kind < 4 {
		kind += 4
	}
	op := rapid.SampledFrom([]string{"==", "!=", "<", "<=", ">", ">="}).Draw(t, "op")
	switch kind {
	case 0:
		return "(" + drawRule(t, depth-1, members) + " && " + drawRule(t, depth-1, members) + ")"
	case 1:
		return "(" + drawRule(t, depth-1, members) + " || " + drawRule(t, depth-1, members) + ")"
	case 2, 3:
		return "!(" + drawRule(t, depth-1, members) + ")"
	case 4, 5:
		if len(members) > 0 {
			return `member("` + string(rapid.SampledFrom(members).Draw(t, "member")) + `")`
		}
	case 6:
		return rapid.SampledFrom([]string{`trait("age") >= 25`, `trait("age") != 3`, `trait("age").startsWith("-")`, `trait("vip") == true`, `trait("city").startsWith("a")`, `trait("city") in ["a", "b"]`, "true"}).Draw(t, "trait")
	case 14, 15, 16, 17, 18:
		return drawSeries(t, op)
	case 7:
		call := rapid.SampledFrom([]string{"last", "first"}).Draw(t, "call")
		return fmt.Sprintf("%s(%s) %s now - %q", call, drawPredicate(t, 1), op, windows.Draw(t, "w"))
	case 8:
		call := rapid.SampledFrom([]string{"last", "first"}).Draw(t, "call")
		return fmt.Sprintf("%s(%s) %s timestamp(\"2026-01-02T00:00:00Z\")", call, drawPredicate(t, 1), op)
	case 9:
		return fmt.Sprintf("days(%s) %s %d", drawPredicate(t, 1), op, rapid.IntRange(0, 3).Draw(t, "n"))
	case 10:
		return fmt.Sprintf("days(%s, %q) %s %d", drawPredicate(t, 1), windows.Draw(t, "w"), op, rapid.IntRange(0, 3).Draw(t, "n"))
	case 12:
		return fmt.Sprintf("devices() %s %d", op, rapid.IntRange(0, 3).Draw(t, "n"))
	case 11:
		return fmt.Sprintf("count(%s) %s %d", drawPredicate(t, 1), op, rapid.IntRange(0, 3).Draw(t, "n"))
	}
	return fmt.Sprintf("count(%s, %q) %s %d", drawPredicate(t, 1), windows.Draw(t, "w"), op, rapid.IntRange(0, 3).Draw(t, "n"))
}

func drawBody(t *rapid.T) proto.EventBody {
	value := rapid.Custom(func(t *rapid.T) proto.Value {
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			return proto.NumberOf(rapid.SampledFrom([]float64{3, 3.5, -1, 0, math.Copysign(0, -1)}).Draw(t, "number"))
		case 1:
			return proto.FlagOf(rapid.Bool().Draw(t, "flag"))
		}
		return proto.TextOf(rapid.SampledFrom([]string{"a", "A", "b", "3", "3.0", "true", "0x3", "ab", ""}).Draw(t, "text"))
	})
	e := proto.EventBody{
		Name: rapid.SampledFrom([]string{"a", "b", "3"}).Draw(t, "name"),
		URL:  rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "url"),
	}
	for _, key := range []string{"x", "y", "a b"} {
		if rapid.Bool().Draw(t, "has") {
			e.Props = append(e.Props, proto.Prop{Key: key, Value: value.Draw(t, "value")})
		}
	}
	return e
}

// world is a program and one identity, kept by the evaluator, with all that
// the plain reading needs beside it.
type world struct {
	program *segments.Program
	ev      *segments.Evaluator
	memory  *segments.Memory
	delta   segments.Delta
	devices int
	history []happened
	traits  []proto.Prop
	now     proto.Millis
	key     proto.SegmentKey
	ids     []proto.SegmentID
	in      map[proto.SegmentKey]bool // by the deltas alone
	shared  bool                      // by the deltas alone
}

func newWorld() *world {
	return &world{program: segments.NewProgram(), ev: segments.NewEvaluator(), memory: &segments.Memory{}, now: start, in: map[proto.SegmentKey]bool{}}
}

// drawDefinition defines a new segment or an old one anew; what the program
// refuses is not defined.
func (w *world) drawDefinition(t *rapid.T) {
	w.drawScope(t, proto.SegmentID(fmt.Sprintf("s%d", rapid.IntRange(0, 6).Draw(t, "id"))), drawRule(t, 2, w.ids))
}

func (w *world) drawScope(t *rapid.T, id proto.SegmentID, text string) {
	r, err := segments.Compile(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	w.key++
	d := segments.Definition{Key: w.key, ID: id, Rule: r, Scope: rapid.SampledFrom([]segments.Scope{segments.ScopeUser, segments.ScopeIdentity}).Draw(t, "scope")}
	check, def := w.program.Check, w.program.Define
	beside := slices.Contains(w.ids, id) && rapid.Bool().Draw(t, "beside")
	if beside {
		check, def = w.program.CheckBeside, w.program.DefineBeside
	}
	checked, asking := check(d), segments.Asking(w.program, d, beside)
	if err := def(d); (err == nil) != (checked == nil) {
		t.Fatalf("Check says %v, Define %v", checked, err)
	} else if err != nil {
		w.key--
		return
	}
	if asked := segments.Asked(w.program); asked != asking {
		t.Fatalf("%s: %s: was to have the rules ask for %v times and steps, they do for %v", id, text, asking, asked)
	}
	if !slices.Contains(w.ids, id) {
		w.ids = append(w.ids, id)
	}
}

// drawSwap has a version that waits answer, or lets go of it.
func (w *world) drawSwap(t *rapid.T) {
	for _, d := range w.program.All() {
		if !w.program.Waits(d.Key) || !rapid.Bool().Draw(t, "swap") {
			continue
		}
		w.key++
		if rapid.IntRange(0, 4).Draw(t, "cancel") == 0 {
			w.program.Cancel(d.ID, w.key)
		} else if w.program.Swap(d.ID, d.Key+1000, w.key) || !w.program.Swap(d.ID, d.Key, w.key) {
			t.Fatalf("%s: swapped another version, or not the one that waits", d.ID)
		}
	}
}

func (w *world) drawUndefinition(t *rapid.T) {
	if len(w.ids) == 0 {
		return
	}
	id := rapid.SampledFrom(w.ids).Draw(t, "id")
	w.key++
	if err := w.program.Undefine(id, w.key); err != nil {
		w.key--
		return
	}
	w.ids = slices.DeleteFunc(w.ids, func(o proto.SegmentID) bool { return o == id })
}

func (w *world) apply() {
	for _, k := range w.delta.Entered {
		w.in[k] = true
	}
	for _, k := range w.delta.Left {
		delete(w.in, k)
	}
	w.shared = w.shared || w.delta.Shared
	w.delta.Reset()
}

// draw makes the one identity a device or not.
func (w *world) draw(t *rapid.T) {
	w.devices = rapid.IntRange(0, 1).Draw(t, "devices")
	w.ev.SetDevices(w.devices)
}

// plain is the truth about a definition at an instant, by Holds alone.
func (w *world) plain(d segments.Definition, now proto.Millis) bool {
	return plainly(w.program, segments.Plain{History: seq(w.history), Traits: w.traits, Devices: w.devices}, d, now)
}

// plainly reads a rule and the answering ones that it refers to over x.
func plainly(p *segments.Program, x segments.Plain, d segments.Definition, now proto.Millis) bool {
	x.Member = func(o proto.SegmentID) bool {
		d, ok := p.Get(o)
		return ok && plainly(p, x, d, now)
	}
	return x.Holds(d.Rule, now)
}

// check compares every membership with the plain reading now, just before its
// next change and at it, and where it says never, at times far ahead.
func (w *world) check(t *rapid.T) {
	next := proto.Millis(0)
	kept := map[proto.SegmentKey]segments.Membership{}
	for _, ms := range w.memory.Memberships() {
		kept[ms.Key] = ms
		if ms.Next != 0 && (next == 0 || ms.Next < next) {
			next = ms.Next
		}
		if !ms.In && ms.Next == 0 {
			t.Fatalf("membership %v says nothing", ms)
		}
	}
	if got := w.memory.NextChange(); got != next {
		t.Fatalf("NextChange %d, least of memberships %d", got, next)
	}
	for _, d := range w.program.All() {
		ms := kept[d.Key]
		if want := w.plain(d, w.now); ms.In != want || w.in[d.Key] != want {
			t.Fatalf("%s: %s\nat %s: kept %v, deltas %v, plainly %v\nhistory %v", d.ID, d.Rule, w.now, ms.In, w.in[d.Key], want, w.history)
		}
		if ms.Next == 0 {
			for _, ahead := range []proto.Millis{1, hour, day, 3*day - 1, 5 * day} {
				if w.plain(d, w.now+ahead) != ms.In {
					t.Fatalf("%s: %s\nat %s: never changes, but does by %s", d.ID, d.Rule, w.now, w.now+ahead)
				}
			}
			continue
		}
		if ms.Next <= w.now || w.plain(d, ms.Next-1) != ms.In || w.plain(d, ms.Next) == ms.In {
			t.Fatalf("%s: %s\nat %s: next change %s is not exact\nhistory %v", d.ID, d.Rule, w.now, ms.Next, w.history)
		}
	}
	if len(w.in) != len(slices.Collect(inKeys(w.memory))) {
		t.Fatalf("deltas give %d memberships, memory %v", len(w.in), w.memory.Memberships())
	}
}

func inKeys(m *segments.Memory) iter.Seq[proto.SegmentKey] {
	return func(yield func(proto.SegmentKey) bool) {
		for _, ms := range m.Memberships() {
			if ms.In && !yield(ms.Key) {
				return
			}
		}
	}
}

// reread passes the memory through its bytes.
func (w *world) reread(t *rapid.T) {
	w.memory = w.copyMemory(t)
}

func (w *world) copyMemory(t *rapid.T) *segments.Memory {
	b := w.memory.Append(nil, w.now)
	m := &segments.Memory{}
	r := proto.NewReader(b)
	segments.ReadMemory(&r, w.now, m)
	if r.Bad() || r.Len() != 0 {
		t.Fatalf("memory does not read back: %x", b)
	}
	if again := m.Append(nil, w.now); !slices.Equal(b, again) {
		t.Fatalf("memory reads back as another: %x, %x", b, again)
	}
	return m
}

func (w *world) step(t *rapid.T, rules bool) {
	w.now += rapid.SampledFrom([]proto.Millis{0, 1, 17 * 60 * second, hour, 7 * hour, day}).Draw(t, "passes")
	switch kind := rapid.IntRange(0, 9).Draw(t, "step"); {
	case kind == 0:
		key := rapid.SampledFrom([]string{"age", "vip", "city"}).Draw(t, "trait")
		v := rapid.SampledFrom([]proto.Value{
			proto.TextOf(""), proto.TextOf("30"), proto.TextOf("3"), proto.TextOf("true"), proto.TextOf("ab"), proto.TextOf("b"),
			proto.NumberOf(0), proto.NumberOf(math.Copysign(0, -1)),
		}).Draw(t, "value")
		w.traits = slices.DeleteFunc(w.traits, func(p proto.Prop) bool { return p.Key == key })
		if v != proto.TextOf("") {
			w.traits = append(w.traits, proto.Prop{Key: key, Value: v})
		}
		w.update()
		w.ev.SetTraits(w.program, w.memory, []proto.Prop{{Key: key, Value: v}}, w.now, &w.delta)
	case kind == 1:
		if w.memory.Version() != w.program.Version() {
			w.update()
		}
		w.ev.Advance(w.program, w.memory, w.now, &w.delta)
	case kind == 2:
		w.update()
		w.reread(t)
	case kind == 3 && rules:
		w.drawDefinition(t)
		if rapid.Bool().Draw(t, "and at once") {
			w.drawSwap(t)
		}
		w.update()
	case kind == 5 && rules:
		w.drawSwap(t)
		w.update()
	case kind == 4 && rules:
		w.drawUndefinition(t)
		w.update()
	default:
		late := rapid.SampledFrom([]proto.Millis{0, 0, 0, 1, hour, day, 4 * day, -1, -hour}).Draw(t, "late") // or ahead of its time
		body := drawBody(t)
		if w.memory.Version() != w.program.Version() && len(w.history) > 0 {
			w.update()
		}
		w.history = append(w.history, happened{min(w.now-late, w.now), body}) // nothing happens later than now
		w.ev.Observe(w.program, w.memory, &body, w.now-late, w.now, &w.delta)
	}
	w.apply()
}

// update brings the memory up to the rules; if it is so already, to the time.
func (w *world) update() {
	w.ev.SetDevices(w.devices)
	w.ev.Update(w.program, w.memory, seq(w.history), w.now, &w.delta)
}

func TestEvaluatorAgreesWithPlainReading(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		w.draw(t)
		for range rapid.IntRange(1, 6).Draw(t, "rules") {
			w.drawDefinition(t)
		}
		changes := rapid.Bool().Draw(t, "changing rules")
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			w.step(t, changes)
			if counted, anew := segments.Weighed(w.program); counted != anew {
				t.Fatalf("the rules weigh %v, counted anew %v", counted, anew)
			}
			if w.memory.Version() == w.program.Version() {
				w.check(t)
			}
		}
	})
}

// TestUpdateEqualsFromTheStart gives one identity all rules at the end, and
// another the same rules before the first event.
func TestUpdateEqualsFromTheStart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		w.draw(t)
		for range rapid.IntRange(1, 15).Draw(t, "steps") {
			w.step(t, true)
		}
		w.update()
		w.ev.Advance(w.program, w.memory, w.now, &w.delta)
		fresh, ev, d := &segments.Memory{}, segments.NewEvaluator(), &segments.Delta{}
		ev.SetDevices(w.devices)
		ev.Update(w.program, fresh, seq(nil), start, d)
		ev.SetTraits(w.program, fresh, w.traits, start, d)
		for _, h := range w.history {
			ev.Observe(w.program, fresh, &h.body, h.at, w.now, d)
		}
		ev.Advance(w.program, fresh, w.now, d)
		if diff := cmp.Diff(stateOf(fresh), stateOf(w.memory)); diff != "" {
			t.Fatalf("from the start (-) and by updates (+) differ:\n%s", diff)
		}
	})
}

// stateOf is the memberships without when they were entered, which an update
// cannot know.
func stateOf(m *segments.Memory) []segments.Membership {
	var out []segments.Membership
	for _, ms := range m.Memberships() {
		ms.Since = 0
		out = append(out, ms)
	}
	return out
}

// TestTicksDoNotMatter advances one twin at every step, the other never.
func TestTicksDoNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		for range rapid.IntRange(1, 5).Draw(t, "rules") {
			w.drawDefinition(t)
		}
		seldom, ev, d := &segments.Memory{}, segments.NewEvaluator(), &segments.Delta{}
		for range rapid.IntRange(1, 15).Draw(t, "steps") {
			w.now += rapid.SampledFrom([]proto.Millis{1, hour, 7 * hour, day}).Draw(t, "passes")
			w.ev.Advance(w.program, w.memory, w.now, &w.delta)
			if rapid.Bool().Draw(t, "event") {
				body := drawBody(t)
				w.ev.Observe(w.program, w.memory, &body, w.now, w.now, &w.delta)
				ev.Observe(w.program, seldom, &body, w.now, w.now, d)
			}
		}
		ev.Advance(w.program, seldom, w.now, d)
		if diff := cmp.Diff(w.memory.Append(nil, 0), seldom.Append(nil, 0)); diff != "" {
			t.Fatalf("bytes differ by how often time was advanced:\n%s", diff)
		}
	})
}

func TestRulePrintsAndPacks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := drawRule(t, 3, []proto.SegmentID{"a", "b"})
		r, err := segments.Compile(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		again, err := segments.Compile(r.String())
		if err != nil {
			t.Fatalf("%s printed as %s: %v", text, r, err)
		}
		b, _ := r.AppendBinary(nil)
		b2, _ := again.AppendBinary(nil)
		if again.String() != r.String() || !slices.Equal(b, b2) || again.Cost() != r.Cost() {
			t.Fatalf("%s printed as %s reads as %s", text, r, again)
		}
		decoded, err := segments.DecodeRule(b)
		if err != nil || decoded.String() != r.String() || decoded.Cost() != r.Cost() || !slices.Equal(decoded.Refers(), r.Refers()) {
			t.Fatalf("%s decodes as %v, %v", r, decoded, err)
		}
	})
}
