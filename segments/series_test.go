package segments_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/proto"
	"kith/segments"
)

// seriesRule has each aggregate that keeps values, in each form.
const seriesRule = `sum(event.price, event.name == "order", "30d") >= 99.5 && min(event.price) > -3 && max(event.props["a b"], "1d") != 7
	&& distinct(event.section, event.name == "page", "7d") >= 3 && first(true) < now - "30d" && first(event.x == 1) >= timestamp("2026-01-02T00:00:00Z")
	&& !sequence(event.name == "cart", event.name == "order", "1h", "30d") && sequence(has(event.x), true, "1d")`

// tenSeries is a memory with something of each.
func tenSeries(tb testing.TB) *segments.Memory {
	p := segments.NewProgram()
	if err := p.Define(segments.Definition{Key: 1, ID: "all", Rule: compile(tb, seriesRule)}); err != nil {
		tb.Fatal(err)
	}
	m, ev, d := &segments.Memory{}, segments.NewEvaluator(), &segments.Delta{}
	for i := range 12 {
		at := start + proto.Millis(i)*hour/3
		ev.Observe(p, m, priced([]string{"cart", "page", "order", "page"}[i%4], float64(i)*1.25, fmt.Sprint("s", i%3)), at, at, d)
	}
	return m
}

func priced(name string, price float64, section string) *proto.EventBody {
	return &proto.EventBody{Name: name, Props: []proto.Prop{
		{Key: "a b", Value: proto.NumberOf(price)}, {Key: "price", Value: proto.NumberOf(price)},
		{Key: "section", Value: proto.TextOf(section)}, {Key: "x", Value: proto.NumberOf(1)},
	}}
}

// buyer is one identity under some rules.
type buyer struct {
	*testing.T
	p  *segments.Program
	m  *segments.Memory
	ev *segments.Evaluator
	d  segments.Delta
}

func newBuyer(t *testing.T, rules ...string) *buyer {
	return &buyer{T: t, p: given(t, rules...), m: &segments.Memory{}, ev: segments.NewEvaluator()}
}

func (v *buyer) sees(e *proto.EventBody, at, now proto.Millis) {
	v.ev.Observe(v.p, v.m, e, at, now, &v.d)
}

func (v *buyer) wants(what string, want ...bool) {
	v.Helper()
	got := make([]bool, len(want))
	for _, ms := range v.m.Memberships() {
		got[ms.Key-1] = ms.In
	}
	if diff := cmp.Diff(want, got); diff != "" {
		v.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// Of more events than are kept the newest count, by when they happened and not
// by when they were reported.
func TestAmountsAreOfTheNewest(t *testing.T) {
	v := newBuyer(t, `sum(event.price) >= 1000`, `max(event.price) >= 50`, `min(event.price) < 0`, `sum(event.price) > 1000`)
	end := start + 10*day
	v.sees(priced("order", 50, ""), start, end)
	v.wants("one of 50", false, true, false, false)
	for i := range segments.AmountsMax {
		v.sees(priced("order", 1, ""), start+proto.Millis(i+1), end)
	}
	v.wants("a thousand of 1 are newer", true, false, false, false)
	v.sees(priced("order", -7, ""), start, end)
	v.wants("late, and older than all that are kept", true, false, false, false)
	v.sees(priced("order", -7, ""), start+2, end)
	v.wants("late, and newer than the oldest", false, false, true, false)
}

// What is kept follows from the events and not from the order in which they
// were reported.
func TestSeriesDoNotDependOnTheOrderOfArrival(t *testing.T) {
	rules := []string{`sum(event.price, "2d") >= 3`, `distinct(event.section) >= 4`, `sequence(event.name == "cart", event.name == "order", "1h")`, `first(event.name == "order") < now - "1h"`}
	type seen struct {
		e  *proto.EventBody
		at proto.Millis
	}
	var events []seen
	for i := range 400 {
		name := []string{"cart", "order", "page", "page", "page"}[i%5]
		events = append(events, seen{priced(name, float64(i%7)/4, fmt.Sprint("s", i%11)), start + proto.Millis(i/3)*17*60*second})
	}
	var want []byte
	for round := range uint64(5) {
		v := newBuyer(t, rules...)
		for _, x := range events {
			v.sees(x.e, x.at, start+4*day)
		}
		got := v.m.Append(nil, start)
		if round == 0 {
			want = got
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("in another order (-first +other):\n%s", diff)
		}
		rand.New(rand.NewPCG(round, 1)).Shuffle(len(events), func(i, k int) { events[i], events[k] = events[k], events[i] })
	}
}

// A window's series forgets what time took out of it, and takes nothing in
// that came too late.
func TestSeriesForgetWhatIsOutOfTheirWindow(t *testing.T) {
	for _, rule := range []string{`sum(event.price, "1h") >= 1e6`, `distinct(event.section, "1h") >= 900`, `sequence(event.name == "order", event.name == "none", "1h", "1h")`} {
		v := newBuyer(t, rule)
		for i := range 200 {
			v.sees(priced("order", 1, fmt.Sprint(i)), start+proto.Millis(i)*1000, start+proto.Millis(i)*1000)
		}
		full := len(v.m.Append(nil, start))
		v.sees(priced("order", 1, "late"), start, start+2*hour)
		v.sees(priced("order", 1, "on time"), start+2*hour, start+2*hour)
		if kept := len(v.m.Append(nil, start)); kept > 40 || full < 400 {
			t.Errorf("%s: %d bytes of 200 events, %d two hours later", rule, full, kept)
		}
	}
}

// However many first events nobody followed, some are kept; and a pair that was
// found is not lost among them.
func TestPairsAreBounded(t *testing.T) {
	v := newBuyer(t, `sequence(event.name == "cart", event.name == "order", "1h")`)
	order, at := func(late proto.Millis) { v.sees(priced("order", 1, ""), start+late, start+9*day) }, start
	for range 3 * segments.PairsMax {
		at += second
		v.sees(priced("cart", 1, ""), at, start+9*day)
	}
	if n := len(v.m.Append(nil, start)); n > 5*segments.PairsMax {
		t.Errorf("%d bytes of %d carts", n, 3*segments.PairsMax)
	}
	v.wants("carts alone", false)
	order(-hour)
	v.wants("an order before all carts", false)
	order(at - start + hour + 1)
	v.wants("an order too long after", false)
	order(at - start + hour)
	v.wants("an order in time", true)
	for range 3 * segments.PairsMax {
		at += second
		v.sees(priced("cart", 1, ""), at+3*hour, start+9*day)
	}
	v.wants("many carts after the pair", true)
}

// The identities of a user make a pair together, and the newest of all of them
// count.
func TestSeriesOfUsers(t *testing.T) {
	p := given(t, `sequence(event.name == "cart", event.name == "order", "1h", "1d")`, `distinct(event.section) == 3`, `sum(event.price) == 1000`, `first(true) == timestamp("2026-01-01T00:00:00Z")`)
	phone, laptop := &buyer{T: t, p: p, m: &segments.Memory{}, ev: segments.NewEvaluator()}, &buyer{T: t, p: p, m: &segments.Memory{}, ev: segments.NewEvaluator()}
	now := start + 3*hour
	phone.sees(priced("cart", 500, "a"), start, now)
	phone.sees(priced("page", 0.5, "b"), start+hour, now)
	laptop.sees(priced("order", 500, "c"), start+hour, now)
	laptop.sees(priced("page", -0.5, "b"), start+2*hour, now)
	shared := []string{string(p.AppendShared(nil, phone.m)), string(p.AppendShared(nil, laptop.m))}
	for range 2 {
		got, err := segments.NewEvaluator().Union(p, shared, 0, now, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := []segments.Membership{{Key: 1, In: true, Next: start + day}, {Key: 2, In: true}, {Key: 3, In: true}, {Key: 4, In: true}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("of both (-want +got):\n%s", diff)
		}
		shared[0], shared[1] = shared[1], shared[0]
	}
	phone.wants("the phone alone", false, false, false, true)
}

// defineUntil defines rules of a pattern, by a number, until one is refused.
func defineUntil(t *testing.T, p *segments.Program, pattern string, most int) (defined int) {
	t.Helper()
	for n := range most {
		err := p.Define(segments.Definition{Key: proto.SegmentKey(n + 1), ID: proto.SegmentID(fmt.Sprint("s", n)), Rule: compile(t, fmt.Sprintf(pattern, n))})
		if proto.CodeOf(err) == proto.CodeRule {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatalf("%d of %s are taken", most, pattern)
	return 0
}

// What rules ask for is bounded: of amounts, of which a person may have many, by
// what one identity may keep.
func TestAmountsCountForWhatTheyTake(t *testing.T) {
	if n := defineUntil(t, segments.NewProgram(), `sum(event.p%d) >= 5`, 200); n != segments.MemoryMax/(3*segments.AmountsMax+2) {
		t.Errorf("%d sums are taken", n)
	}
}

// At the bounds what asks for nothing more is taken: an edit of what is there, and
// rules of the conditions of others.
func TestEditsAtTheBoundsOfWhatIsAskedFor(t *testing.T) {
	for _, x := range []struct {
		full, less, other, more string
	}{
		{full: `count(event.p%d > 0, "30d") >= 1000`, less: `count(event.p0 > 0, "30d") >= 999`, other: `count(event.q > 0, "30d") >= 1000`, more: `count(event.r > 0, "30d") >= 1000`},
		{full: `sum(event.p%d) >= 5`, less: `sum(event.p0, "30d") >= 6 || min(event.p0) < 3`, other: `sum(event.q) >= 5`, more: `distinct(event.q) >= 1000`},
	} {
		p := segments.NewProgram()
		n := defineUntil(t, p, x.full, 2000)
		key := proto.SegmentKey(n)
		defined := func(id, text string) segments.Definition {
			key++
			return segments.Definition{Key: key, ID: proto.SegmentID(id), Rule: compile(t, text)}
		}
		if err := p.CheckBeside(defined("s0", x.other)); proto.CodeOf(err) != proto.CodeRule {
			t.Errorf("%s beside another: %v", x.other, err)
		}
		for _, err := range []error{
			p.DefineBeside(defined("s0", x.less)), p.Define(defined("s0", x.less)),
			p.Define(defined("another", fmt.Sprintf(x.full, 1))), p.Define(defined("s0", x.other)),
		} {
			if err != nil {
				t.Error(err)
			}
		}
		if err := p.Define(defined("more", x.more)); proto.CodeOf(err) != proto.CodeRule {
			t.Errorf("%s, which asks for more: %v", x.more, err)
		}
	}
}

// What is kept of one identity is bounded in bytes. What did not find room is
// told, and does not depend on how the rules came to be.
func TestWhatIsKeptOfOneIdentityIsBounded(t *testing.T) {
	const met = 120
	p := segments.NewProgram()
	n := defineUntil(t, p, `count(event.p%d > 0, "30d") >= 1000`, 2000)
	if n < met+10 {
		t.Fatalf("only %d counts are taken", n)
	}
	other := segments.NewProgram() // the same rules, in another order
	for k := n - 1; k >= 0; k-- {
		d, _ := p.Get(proto.SegmentID(fmt.Sprint("s", k)))
		if err := other.Define(d); err != nil {
			t.Fatal(err)
		}
	}
	m, turned, ev, d := &segments.Memory{}, &segments.Memory{}, segments.NewEvaluator(), &segments.Delta{}
	event := func(i, props int) (*proto.EventBody, proto.Millis) {
		e := &proto.EventBody{Name: "order"}
		for k := range props {
			e.Props = append(e.Props, proto.Prop{Key: fmt.Sprint("p", k), Value: proto.NumberOf(float64(i + 1))})
		}
		return e, start + proto.Millis(i)*601_000
	}
	dropped := -1
	for i := range 1000 {
		e, at := event(i, met)
		d.Reset()
		ev.Observe(other, turned, e, at, at, d)
		d.Reset()
		ev.Observe(p, m, e, at, at, d)
		if d.Dropped && dropped < 0 {
			dropped = i
		}
	}
	if least := segments.MemoryMax/met - 4; dropped < least-2 || dropped > least+2 {
		t.Errorf("the first event without room is the %dth, about the %dth is due", dropped, least)
	}
	packed := m.Append(nil, start)
	if len(packed) > 6*segments.MemoryMax || len(packed) < 200_000 {
		t.Errorf("the memory has %d bytes, the bound is six for each of %d", len(packed), segments.MemoryMax)
	}
	if !bytes.Equal(packed, turned.Append(nil, start)) {
		t.Error("what is kept depends on the order in which the rules were defined")
	}
	// Who was read from the store is as full as who was not.
	again := &segments.Memory{}
	r := proto.NewReader(packed)
	segments.ReadMemory(&r, start, again)
	e, at := event(1000, met+10)
	for _, x := range []*segments.Memory{m, again} {
		d.Reset()
		if ev.Observe(p, x, e, at, at, d); !d.Dropped {
			t.Error("a full memory took in more")
		}
	}
	if packed = m.Append(nil, start); !bytes.Equal(packed, again.Append(nil, start)) {
		t.Error("a full memory goes on in another way after it was stored")
	}
	// Rules that go make room.
	for k := range 30 {
		if err := p.Undefine(proto.SegmentID(fmt.Sprint("s", k)), proto.SegmentKey(5000+k)); err != nil {
			t.Fatal(err)
		}
	}
	ev.Update(p, m, nil, at, d)
	d.Reset()
	if ev.Observe(p, m, e, at, at, d); d.Dropped {
		t.Error("with a quarter of the rules gone there is no room")
	}
}

// The order in which a user's identities come does not matter beyond the bound
// of what waits for a pair either.
func TestUnionOfManyWaitingEvents(t *testing.T) {
	p := given(t, `sequence(event.name == "a", event.name == "b", "1h")`)
	share := func(events ...*buyer) (list []string) {
		for _, x := range events {
			list = append(list, string(p.AppendShared(nil, x.m)))
		}
		return list
	}
	person := func() *buyer { return &buyer{T: t, p: p, m: &segments.Memory{}, ev: segments.NewEvaluator()} }
	a, many, b := person(), person(), person()
	now := start + 9*day
	a.sees(priced("a", 1, ""), start, now)
	for i := range segments.PairsMax {
		many.sees(priced("a", 1, ""), start+2*hour+proto.Millis(i), now)
	}
	b.sees(priced("b", 1, ""), start+60*second, now)
	for _, list := range [][]string{share(a, many, b), share(a, b, many), share(many, b, a)} {
		got, err := segments.NewEvaluator().Union(p, list, 0, now, nil)
		if err != nil || len(got) != 1 || !got[0].In {
			t.Errorf("the pair of two identities beside another's many events: %v, %v", got, err)
		}
	}
}

// Numbers too great to be summed are left out, so that no answer is infinite.
func TestGreatAmounts(t *testing.T) {
	v := newBuyer(t, `sum(event.price) > 0`, `max(event.price) >= 1e300`)
	v.sees(priced("order", 1e308, ""), start, start)
	v.wants("1e308", false, false)
	v.sees(priced("order", 1e300, ""), start, start)
	v.wants("1e300", true, true)
}

// A band of sums that alternate is looked ahead along every event once.
func BenchmarkAlternatingSums(b *testing.B) {
	p := segments.NewProgram()
	if err := p.Define(segments.Definition{Key: 1, ID: "band", Rule: compile(b, `sum(event.price, "30d") > 0 && sum(event.price, "30d") < 150`)}); err != nil {
		b.Fatal(err)
	}
	m, ev, d := &segments.Memory{}, segments.NewEvaluator(), &segments.Delta{}
	at := start
	for i := range segments.AmountsMax {
		at += second
		ev.Observe(p, m, priced("order", float64(400*(i%2)-200), ""), at, at, d)
	}
	for b.Loop() {
		at += second
		ev.Observe(p, m, priced("order", 0, ""), at, at, d)
	}
}
