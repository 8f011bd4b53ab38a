package segments_test

import (
	"fmt"
	"syscall"
	"testing"

	"kith/proto"
	"kith/segments"
)

// crowd is a program of n segments of which the event of visit matches the
// same five, whatever n.
func crowd(tb testing.TB, n int) *segments.Program {
	p := segments.NewProgram()
	define := func(key int, text string) {
		if err := p.Define(segments.Definition{Key: proto.SegmentKey(key), ID: proto.SegmentID(fmt.Sprintf("s%d", key)), Rule: compile(tb, text)}); err != nil {
			tb.Fatal(err)
		}
	}
	define(1, `count(event.section == "auto", "30d") >= 3`)
	define(2, `days(event.name == "page_view", "14d") >= 2`)
	define(3, `count(event.section == "auto" && event.country == "DE", "7d") >= 5 && !(trait("bot") == true)`)
	define(4, `last(event.author == "smith") > now - "7d"`)
	define(5, `count(event.tag in ["suv", "ev"]) >= 10`)
	for i := 6; i <= n; i++ {
		switch i % 3 {
		case 0:
			define(i, fmt.Sprintf(`count(event.section == "section-%d", "30d") >= 3`, i))
		case 1:
			define(i, fmt.Sprintf(`count(event.name == "page_view" && event.author == "author-%d", "30d") >= 3`, i))
		case 2:
			define(i, fmt.Sprintf(`days(event.tag == "tag-%d" && event.section == "section-%d", "30d") >= 3 || count(event.campaign == "c-%d") > 1`, i, i, i))
		}
	}
	return p
}

func compile(tb testing.TB, text string) *segments.Rule {
	tb.Helper()
	r, err := segments.Compile(text)
	if err != nil {
		tb.Fatalf("%s: %v", text, err)
	}
	return r
}

func visit() *proto.EventBody {
	return &proto.EventBody{Name: "page_view", URL: "https://news.example/auto/1", Ref: "https://search.example/", Props: []proto.Prop{
		{Key: "section", Value: proto.TextOf("auto")}, {Key: "country", Value: proto.TextOf("DE")},
		{Key: "author", Value: proto.TextOf("smith")}, {Key: "tag", Value: proto.TextOf("suv")}, {Key: "price", Value: proto.NumberOf(3.5)},
	}}
}

// cpu reports the processor's time beside the clock's, which other work on the
// machine stretches. Call what it gives at the end.
func cpu(b *testing.B) func() {
	from := spent()
	return func() { b.ReportMetric(float64(spent()-from)/float64(b.N), "cpu-ns/op") }
}

func spent() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func BenchmarkObserve(b *testing.B) {
	for _, n := range []int{10, 100, 5000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p, ev, d, e := crowd(b, n), segments.NewEvaluator(), &segments.Delta{}, visit()
			memories := make([]segments.Memory, 64)
			now := start
			b.ReportAllocs()
			defer cpu(b)()
			for i := 0; b.Loop(); i++ {
				now += 10
				ev.Observe(p, &memories[i%len(memories)], e, now, now, d)
				d.Reset()
			}
		})
	}
}

// tenPredicates is a memory of ten predicates and some memberships.
func tenPredicates(tb testing.TB) *segments.Memory {
	p, m, d := segments.NewProgram(), &segments.Memory{}, &segments.Delta{}
	for i := 1; i <= 10; i++ {
		text := fmt.Sprintf(`count(event.name == "page_view" && event.p%d != "x", "30d") >= 3`, i)
		if err := p.Define(segments.Definition{Key: proto.SegmentKey(i), ID: proto.SegmentID(fmt.Sprint(i)), Rule: compile(tb, text)}); err != nil {
			tb.Fatal(err)
		}
	}
	e := &proto.EventBody{Name: "page_view"}
	for i := 1; i <= 10; i++ {
		e.Props = append(e.Props, proto.Prop{Key: fmt.Sprintf("p%d", i), Value: proto.TextOf("y")})
	}
	for i := range 5 {
		now := start + proto.Millis(i)*hour
		segments.NewEvaluator().Observe(p, m, e, now, now, d)
	}
	return m
}

func BenchmarkMemoryAppend(b *testing.B) {
	m, buf := tenPredicates(b), []byte(nil)
	b.ReportAllocs()
	defer cpu(b)()
	for b.Loop() {
		buf = m.Append(buf[:0], start)
	}
	b.ReportMetric(float64(len(buf)), "bytes")
}

func BenchmarkMemoryRead(b *testing.B) {
	buf, m := tenPredicates(b).Append(nil, start), &segments.Memory{}
	b.ReportAllocs()
	defer cpu(b)()
	for b.Loop() {
		r := proto.NewReader(buf)
		segments.ReadMemory(&r, start, m)
		if r.Bad() {
			b.Fatal("memory does not read back")
		}
	}
}

func BenchmarkDefine(b *testing.B) {
	p := crowd(b, 10000)
	r := compile(b, `count(event.section == "new", "30d") >= 3`)
	key := proto.SegmentKey(10001)
	for b.Loop() {
		if err := p.Define(segments.Definition{Key: key, ID: "new", Rule: r}); err != nil {
			b.Fatal(err)
		}
		key++
	}
}

func BenchmarkUpdateNewIdentity(b *testing.B) {
	p, ev, d, m := crowd(b, 10000), segments.NewEvaluator(), &segments.Delta{}, &segments.Memory{}
	b.ReportAllocs()
	defer cpu(b)()
	for b.Loop() {
		m.Reset()
		ev.Update(p, m, seq(nil), start, d)
		d.Reset()
	}
}

// visited is the memory of an identity after n visits.
func visited(p *segments.Program, n int) *segments.Memory {
	m, ev, d := &segments.Memory{}, segments.NewEvaluator(), &segments.Delta{}
	for i := range n {
		now := start + proto.Millis(i)*7*hour
		ev.Observe(p, m, visit(), now, now, d)
	}
	return m
}

// household is what n identities give, each after ten visits.
func household(p *segments.Program, n int) []string {
	shared := make([]string, n)
	for i := range shared {
		shared[i] = string(p.AppendShared(nil, visited(p, 10+i%3)))
	}
	return shared
}

func BenchmarkUnion(b *testing.B) {
	for _, rules := range []int{100, 10000} {
		for _, identities := range []int{2, 5, 20} {
			b.Run(fmt.Sprintf("rules=%d/identities=%d", rules, identities), func(b *testing.B) {
				p, ev := crowd(b, rules), segments.NewEvaluator()
				shared, dst := household(p, identities), []segments.Membership(nil)
				b.ReportAllocs()
				defer cpu(b)()
				for b.Loop() {
					var err error
					if dst, err = ev.Union(p, shared, identities, start+4*day, dst[:0]); err != nil || len(dst) < 4 {
						b.Fatal(dst, err)
					}
				}
			})
		}
	}
}

func BenchmarkAppendShared(b *testing.B) {
	p := crowd(b, 10000)
	m, buf := visited(p, 10), []byte(nil)
	b.ReportAllocs()
	defer cpu(b)()
	for b.Loop() {
		buf = p.AppendShared(buf[:0], m)
	}
	b.ReportMetric(float64(len(buf)), "bytes")
}

func TestUnionAllocatesNothing(t *testing.T) {
	p, ev, dst := crowd(t, 100), segments.NewEvaluator(), []segments.Membership(nil)
	shared := household(p, 5)
	step := func() { dst, _ = ev.Union(p, shared, 5, start+4*day, dst[:0]) }
	for range 10 {
		step()
	}
	if n := testing.AllocsPerRun(1000, step); n != 0 || len(dst) == 0 {
		t.Fatalf("%v allocations per union, %v", n, dst)
	}
}

// TestUnionCostsWhatItMatches counts rules rather than time. Rules on one
// identity that match too, or hold of anybody, cost nothing either.
func TestUnionCostsWhatItMatches(t *testing.T) {
	for _, rules := range []int{10, 10000} {
		p, ev := crowd(t, rules), segments.NewEvaluator()
		for i := range 100 {
			text := `count(event.section == "auto", "30d") < 9`
			if err := p.Define(segments.Definition{Key: proto.SegmentKey(rules + i + 1), ID: proto.SegmentID(fmt.Sprintf("own%d", i)), Scope: segments.ScopeIdentity, Rule: compile(t, text)}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := ev.Union(p, household(p, 5), 5, start+4*day, nil); err != nil {
			t.Fatal(err)
		}
		if judged, room := segments.Judged(ev); judged != 5 || room > 10 {
			t.Errorf("of %d rules %d are judged, not 5, and up to %d memberships were held", rules, judged, room)
		}
	}
}

// TestObserveAllocatesNothing holds the steady state to its promise.
func TestObserveAllocatesNothing(t *testing.T) {
	p, ev, d, e, m := crowd(t, 100), segments.NewEvaluator(), &segments.Delta{}, visit(), &segments.Memory{}
	now := start
	step := func() {
		now += hour
		ev.Observe(p, m, e, now, now, d)
		d.Reset()
	}
	for range 100 {
		step()
	}
	if n := testing.AllocsPerRun(1000, step); n != 0 {
		t.Fatalf("%v allocations per event", n)
	}
}

// TestEventCostsWhatItMatches counts predicates tried rather than time, which
// a busy machine would blur.
func TestEventCostsWhatItMatches(t *testing.T) {
	few, many := segments.Tried(crowd(t, 10), visit()), segments.Tried(crowd(t, 10000), visit())
	if few != 5 || many > few+1 {
		t.Fatalf("event tries %d predicates of 10 segments, %d of 10,000", few, many)
	}
}

// BenchmarkFanOut has each event judge n rules that refer to one segment: who is in them
// only once more happens, or by that segment alone.
func BenchmarkFanOut(b *testing.B) {
	for _, rule := range []struct{ name, text string }{{"later", `member("s") && count(event.name == "buy") >= 3`}, {"in", `member("s")`}} {
		for _, n := range []int{100, 1000, 6600} {
			b.Run(fmt.Sprint(rule.name, "/", n), func(b *testing.B) {
				p := segments.NewProgram()
				for i := range n + 1 {
					d := segments.Definition{Key: proto.SegmentKey(i + 1), ID: "s", Rule: compile(b, `count(true, "7d") >= 1`)}
					if i > 0 {
						d.ID, d.Rule = proto.SegmentID(fmt.Sprint("s", i)), compile(b, rule.text)
					}
					if err := p.Define(d); err != nil {
						b.Fatal(err)
					}
				}
				ev, m, d, e, now := segments.NewEvaluator(), &segments.Memory{}, &segments.Delta{}, visit(), start
				defer cpu(b)()
				for b.Loop() {
					now += 10
					ev.Observe(p, m, e, now, now, d)
					d.Reset()
				}
			})
		}
	}
}
