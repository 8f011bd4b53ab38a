package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kith/proto"
)

// A town of identities meets, in random order over many connections; then some
// of them opt out while the others go on. What the node shows is compared with
// a union-find and with a plain count of what was acknowledged.
func TestGraphAtScale(t *testing.T) {
	n := 6000
	if testing.Short() {
		n = 2000
	}
	if s := os.Getenv("KITH_GRAPH"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatalf("KITH_GRAPH is %q, not a number of identities", s)
		}
	}
	for _, lanes := range graphLanes() {
		t.Run("lanes="+lanes, func(t *testing.T) {
			seed := rand.Uint64()
			r := &townRun{upTo: proto.Position{}, graphTown: planTown(rand.New(rand.NewPCG(seed, 0)), n), node: startGraphNode(t, t.TempDir()+"/data", "--lanes", lanes)}
			t.Logf("seed %d: %d identities, %d events, %d links", seed, len(r.names), len(r.acts), len(r.links))
			r.node.define(t, townSegments)
			r.grow(t)
			r.see(t)
			r.checkEdges(t)
			r.checkMetrics(t)
			r.checkSegments(t)
			if t.Failed() {
				return
			}
			r.cut(t)
			before := r.view
			r.see(t)
			r.checkCuts(t, before)
			r.checkEdges(t)
			r.checkSegments(t)
		})
	}
}

// townSegments are of both scopes; those of scope user change with every merge.
var townSegments = []graphSegment{
	{"known", "identity", `count(true, "30d") >= 1`, func(d deeds) bool { return d.events() >= 1 }},
	{"twice", "identity", `count(event.section == "auto", "30d") >= 2`, func(d deeds) bool { return d.auto >= 2 }},
	{"fans", "user", `count(event.section == "auto", "30d") >= 3`, func(d deeds) bool { return d.auto >= 3 }},
	{"both", "user", `count(event.section == "auto", "30d") >= 1 && count(event.section == "sport", "30d") >= 1`, func(d deeds) bool { return d.auto >= 1 && d.sport >= 1 }},
	{"home", "user", `devices() >= 3`, func(d deeds) bool { return d.devices >= 3 }},
}

// townRun is a town and the node that hears of it.
type townRun struct {
	*graphTown
	node *graphNode
	view *graphView
	out  map[int32]bool // whose opt-out was asked for; true: everywhere
	dark []bool         // who must be out, by number

	mu   sync.Mutex
	upTo proto.Position // what was acknowledged during the cuts
}

// postedTogether is how many events one request carries.
const postedTogether = 200

// grow sends everything: events over 8 connections, links over many more.
func (r *townRun) grow(t *testing.T) {
	t.Helper()
	began := time.Now()
	var both sync.WaitGroup
	var errs [2]error
	both.Go(func() {
		posts := slices.Collect(slices.Chunk(r.acts, postedTogether))
		errs[0] = parallel(t.Context(), 8, posts, func(ctx context.Context, i int, acts []townAct) error { return r.post(ctx, fmt.Sprint("g", i), acts) })
		t.Logf("%d events: %.0f/s", len(r.acts), float64(len(r.acts))/time.Since(began).Seconds())
	})
	both.Go(func() {
		links := make([]*townLink, len(r.links))
		for i := range links {
			links[i] = &r.links[i]
		}
		errs[1] = parallel(t.Context(), 1000, links, func(ctx context.Context, _ int, l *townLink) error { return r.ask(ctx, l) })
		t.Logf("%d links: %.0f/s", len(links), float64(len(links))/time.Since(began).Seconds())
	})
	both.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	t.Logf("answers %v, %d requests sent again", r.answers(), r.node.again.Load())
}

// post sends acts; what is sent again counts once, because events have ids. It
// waits until they are visible: the node takes events in faster than it links,
// and links that are asked for would wait behind them.
func (r *townRun) post(ctx context.Context, id string, acts []townAct) error {
	events := make([]graphEvent, len(acts))
	for i, a := range acts {
		events[i] = graphEvent{Event: "page", ID: fmt.Sprint(id, "-", i), Identities: []string{r.names[a.who]}, Props: map[string]any{"section": a.section}}
		if a.with != noOne {
			events[i].Identities = append(events[i].Identities, r.names[a.with])
		}
	}
	var refused map[int]string
	var position string
	err := r.node.patiently(ctx, func() (err error) { refused, position, err = r.node.post(ctx, events); return err })
	if err != nil {
		return err
	}
	for i := range acts {
		acts[i].acked = refused[i] == ""
	}
	for i, code := range refused {
		if code != "opted_out" {
			return fmt.Errorf("the event %+v was refused: %s", events[i], code)
		}
	}
	return r.node.reach(ctx, position)
}

func (r *townRun) ask(ctx context.Context, l *townLink) error {
	return r.node.patiently(ctx, func() (err error) {
		l.answer, err = r.node.link(ctx, r.names[l.a], r.names[l.b])
		return err
	})
}

func (r *townRun) answers() map[string]int {
	sums := map[string]int{}
	for i := range r.links {
		sums[r.links[i].answer]++
	}
	return sums
}

// see waits until all is applied and settled, and looks at all users.
func (r *townRun) see(t *testing.T) {
	t.Helper()
	began := time.Now()
	if err := r.node.reach(t.Context(), r.upTo.String()); err != nil {
		t.Fatal(err)
	}
	report := r.node.settled(t)
	verified := time.Since(began)
	began = time.Now()
	r.view = r.node.view(t, r.names)
	t.Logf("settled and verified %d identities, %d users, %d opted out in %.1f s; read %d users in %.1f s: %s",
		report.Identities, report.Users, report.OptedOut, verified.Seconds(), len(r.names), time.Since(began).Seconds(), r.view.sizes())
}

// sizes tells how many users there are, by size.
func (v *graphView) sizes() string {
	by := [...]int{1, 2, 4, 8, 16, 32, graphMembersMax}
	var n [len(by)]int
	for i := range v.users {
		k, _ := slices.BinarySearch(by[:], len(v.users[i].Members))
		n[min(k, len(by)-1)]++
	}
	var text []string
	for i, size := range by {
		text = append(text, fmt.Sprintf("<=%d: %d", size, n[i]))
	}
	return strings.Join(text, ", ")
}

// wanted are the edges that were asked for in any way. Those with somebody who
// must be out are left out.
func (r *townRun) wanted() (edges map[pair]bool, degree []int, p *parts) {
	edges, degree, p = map[pair]bool{}, make([]int, len(r.names)), newParts(len(r.names))
	add := func(a, b int32) {
		if !edges[pairOf(a, b)] {
			edges[pairOf(a, b)] = true
			degree[a]++
			degree[b]++
			p.join(a, b)
		}
	}
	for i := range r.acts {
		if a := &r.acts[i]; a.acked && a.with != noOne {
			add(a.who, a.with)
		}
	}
	for i := range r.links {
		add(r.links[i].a, r.links[i].b)
	}
	return edges, degree, p
}

// checkEdges compares the edges that there are with those asked for.
func (r *townRun) checkEdges(t *testing.T) {
	t.Helper()
	wanted, degree, p := r.wanted()
	var invented, broken, contradicted, missing few
	for e := range r.view.edges {
		if !wanted[e] {
			invented.add("%s and %s", r.names[e[0]], r.names[e[1]])
		}
	}
	sent := map[pair]bool{} // by events, which may link what a request did not
	for _, a := range r.acts {
		if a.acked && a.with != noOne {
			sent[pairOf(a.who, a.with)] = true
		}
	}
	answers := map[pair][]string{}
	for _, l := range r.links {
		answers[pairOf(l.a, l.b)] = append(answers[pairOf(l.a, l.b)], l.answer)
	}
	for e, list := range answers {
		a, b := r.names[e[0]], r.names[e[1]]
		switch {
		case r.isDark(e[0]) || r.isDark(e[1]):
		case slices.Contains(list, linked) && r.view.of[e[0]] != r.view.of[e[1]]:
			broken.add("%s and %s", a, b)
		case !slices.Contains(list, linked) && !sent[e] && r.view.edges[e]:
			contradicted.add("%s and %s: %v", a, b, list)
		}
	}
	tight := 0
	for e := range wanted {
		if r.isDark(e[0]) || r.isDark(e[1]) || r.view.edges[e] {
			continue
		}
		if degree[e[0]] <= graphEdgesMax && degree[e[1]] <= graphEdgesMax && p.sizeOf(e[0]) <= graphMembersMax {
			missing.add("%s and %s, %v: they have %d and %d edges asked for, all of their users are %d", r.names[e[0]], r.names[e[1]], answers[e], degree[e[0]], degree[e[1]], p.sizeOf(e[0]))
		} else if r.fits(e) {
			tight++
		}
	}
	invented.report(t, "edges that nobody asked for")
	broken.report(t, `answers "linked" whose identities are apart`)
	contradicted.report(t, "edges that were refused are there")
	missing.report(t, "edges are missing although no cap can have been reached")
	t.Logf("%d edges asked for, %d are there; %d that a cap refused would fit now", len(wanted), len(r.view.edges), tight)
}

func (r *townRun) isDark(i int32) bool { return int(i) < len(r.dark) && r.dark[i] }

// fits reports whether an edge that is missing would break no cap as things are.
func (r *townRun) fits(e pair) bool {
	a, b := r.view.of[e[0]], r.view.of[e[1]]
	together := len(r.view.users[a].Members)
	if a != b {
		together += len(r.view.users[b].Members)
	}
	return r.view.degree[e[0]] < graphEdgesMax && r.view.degree[e[1]] < graphEdgesMax && together <= graphMembersMax
}

// checkMetrics sees that each answer was counted, and each refusal.
func (r *townRun) checkMetrics(t *testing.T) {
	t.Helper()
	counted := r.node.metrics(t, "kith_gateway_links_total", "answer")
	want := r.answers()
	for answer, n := range counted {
		if n != want[answer] {
			t.Errorf("the gateway counted %d answers %q, there were %d", n, answer, want[answer])
		}
	}
	wanted, _, _ := r.wanted()
	lost := 0
	for e := range wanted {
		if !r.view.edges[e] {
			lost++
		}
	}
	sum := 0
	refused := r.node.metrics(t, "kith_links_refused_total", "reason")
	for _, n := range refused {
		sum += n
	}
	t.Logf("%d edges asked for are not there; refusals counted: %v", lost, refused)
	if sum < lost {
		t.Errorf("%d edges asked for are not there, but only %d refusals were counted: %v", lost, sum, refused)
	}
}

// checkSegments compares look-ups and counts with what was acknowledged.
func (r *townRun) checkSegments(t *testing.T) {
	t.Helper()
	own, whole := r.deeds()
	var wrong few
	got := r.lookup(t)
	identities, users := map[string]uint64{}, map[string]map[int32]bool{}
	for i, x := range got {
		var want []string
		if !r.isDark(int32(i)) {
			want = r.segmentsOf(int32(i), own, whole)
		}
		for _, id := range want {
			if identities[id]++; users[id] == nil {
				users[id] = map[int32]bool{}
			}
			users[id][r.view.of[i]] = true
		}
		slices.Sort(x.Segments)
		if !slices.Equal(want, x.Segments) || x.OptedOut != r.isDark(int32(i)) || x.OptedOut && x.Known {
			wrong.add("%s (user of %d, %+v): shown %+v, want %v", r.names[i], len(r.view.users[r.view.of[i]].Members), whole[r.view.of[i]], x, want)
		}
	}
	wrong.report(t, "identities are not in the segments that they should be in")
	for _, s := range townSegments {
		for unit, want := range map[string]uint64{"identities": identities[s.id], "users": uint64(len(users[s.id]))} {
			if n, err := r.node.count(t.Context(), s.id, unit); err != nil || n != want {
				t.Errorf("%d %s of %s were counted, want %d (%v)", n, unit, s.id, want, err)
			}
		}
	}
	t.Logf("identities in segments: %v", identities)
}

// deeds are what each identity and each user did. Nothing that was sent about
// somebody who is out is left.
func (r *townRun) deeds() (own, whole []deeds) {
	own, whole = make([]deeds, len(r.names)), make([]deeds, len(r.view.users))
	for _, a := range r.acts {
		if a.acked && !r.isDark(a.who) {
			own[a.who].did(a.section)
		}
	}
	for i := range own {
		if isTownDevice(r.names[i]) && !r.isDark(int32(i)) {
			own[i].devices = 1
		}
		whole[r.view.of[i]].add(own[i])
	}
	return own, whole
}

func (r *townRun) segmentsOf(i int32, own, whole []deeds) (ids []string) {
	for _, s := range townSegments {
		// Of a user of whom the client has no event it says nothing.
		user := whole[r.view.of[i]]
		if s.scope == "identity" && s.holds(own[i]) || s.scope == "user" && user.events() > 0 && s.holds(user) {
			ids = append(ids, s.id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (r *townRun) lookup(t *testing.T) []lookupResult {
	t.Helper()
	got := make([]lookupResult, len(r.names))
	numbers := make([]int, len(r.names))
	for i := range numbers {
		numbers[i] = i
	}
	inParallel(t, 4, slices.Collect(slices.Chunk(numbers, lookupMax)), func(ctx context.Context, _ int, part []int) error {
		results, err := r.node.lookup(ctx, r.names[part[0]:part[len(part)-1]+1])
		if err == nil {
			copy(got[part[0]:], results)
		}
		return err
	})
	return got
}

// cut opts a fiftieth of the town out while events and links go on.
func (r *townRun) cut(t *testing.T) {
	t.Helper()
	plan := r.planCuts()
	key := r.node.receiptKey(t)
	var done atomic.Bool
	var load sync.WaitGroup
	loads := make([]*townLoad, 6)
	for i := range loads {
		loads[i] = &townLoad{townRun: r, chance: rand.New(rand.NewPCG(r.chance.Uint64(), 1)), id: i, out: plan.ids}
		load.Go(func() { loads[i].run(t, &done) })
	}
	began := time.Now()
	var later, early atomic.Int64
	took := make([]time.Duration, len(plan.ids))
	inParallel(t, 16, plan.ids, func(ctx context.Context, i int, id int32) error {
		start := time.Now()
		s, err := r.node.optOut(ctx, r.names[id], r.out[id])
		if err == nil && !s.OptedOut {
			early.Add(1) // TestOptOutBehindABacklog is about that
		}
		if err == nil && !s.Final {
			later.Add(1)
			s, err = r.node.finalOptOut(ctx, r.names[id])
		}
		took[i] = time.Since(start)
		if err != nil {
			return fmt.Errorf("opt-out of %s: %w", r.names[id], err)
		}
		return checkReceipt(s, key)
	})
	seconds := time.Since(began).Seconds()
	done.Store(true)
	load.Wait()
	events, links := 0, 0
	for _, l := range loads {
		events, links = events+len(l.acts), links+len(l.links)
		r.take(l)
	}
	slices.Sort(took)
	t.Logf("%d opt-outs, %d of them everywhere: %.0f/s, p50 %v, p99 %v, %d not final within 2 s, %d of them not even dark; meanwhile %d events, %d links: %v",
		len(plan.ids), plan.everywhere, float64(len(plan.ids))/seconds, took[len(took)/2], took[len(took)*99/100], later.Load(), early.Load(), events, links, r.answers())
}

// cutPlan is who opts out, in which order.
type cutPlan struct {
	ids        []int32
	everywhere int
}

// planCuts chooses who opts out. Those who do so everywhere are of users that
// nobody else touches, so that all of these must be out.
func (r *townRun) planCuts() cutPlan {
	r.out, r.dark = map[int32]bool{}, make([]bool, len(r.names))
	var p cutPlan
	add := func(i int32, everywhere bool) {
		if r.dark[i] || everywhere && slices.ContainsFunc(r.view.users[r.view.of[i]].Members, r.leaves) {
			return
		}
		r.out[i], r.dark[i] = everywhere, true
		p.ids = append(p.ids, i)
		if !everywhere {
			return
		}
		p.everywhere++
		for _, m := range r.view.users[r.view.of[i]].Members {
			r.dark[r.view.number[string(m)]] = true
		}
	}
	for k, c := range r.centres {
		if k%2 == 0 {
			add(c, k%4 == 0)
		}
	}
	for range len(r.names) / 1000 {
		add(int32(r.chance.IntN(len(r.names))), true)
	}
	for len(p.ids) < len(r.names)/50 {
		add(int32(r.chance.IntN(len(r.names))), false)
	}
	r.chance.Shuffle(len(p.ids), func(i, k int) { p.ids[i], p.ids[k] = p.ids[k], p.ids[i] })
	return p
}

// leaves reports whether an identity is to opt out.
func (r *townRun) leaves(id proto.Identity) bool { return r.dark[r.view.number[string(id)]] }

// free reports whether i may meet others during the cuts: nobody of a
// user that goes everywhere may.
func (r *townRun) free(i int32) bool {
	if !r.dark[i] {
		return true
	}
	_, asked := r.out[i]
	return asked && !r.out[i]
}

// townLoad is one connection that goes on during the cuts. Its identities
// beyond the town's are its own.
type townLoad struct {
	*townRun
	chance *rand.Rand
	id     int
	out    []int32 // who opts out
	fresh  []string
	acts   []townAct
	links  []townLink
}

// loadPause is between one connection's requests: the load is to be there
// during the cuts, not to compete with them.
const loadPause = 50 * time.Millisecond

func (l *townLoad) run(t *testing.T, done *atomic.Bool) {
	ctx := t.Context()
	pace := time.NewTicker(loadPause)
	defer pace.Stop()
	for n := 0; !done.Load(); n++ {
		<-pace.C
		var err error
		if l.id < 2 {
			err = l.act(ctx, n)
		} else {
			err = l.link(ctx, n)
		}
		if err != nil {
			t.Errorf("during the cuts: %v", err)
			return
		}
	}
}

// someone is anybody of the town who may meet others, or often one who opts out.
func (l *townLoad) someone() int32 {
	for {
		i := int32(l.chance.IntN(len(l.dark)))
		if l.chance.IntN(4) == 0 {
			i = l.out[l.chance.IntN(len(l.out))]
		}
		if l.free(i) {
			return i
		}
	}
}

// newcomer is somebody whom nobody saw before: numbers from -2 downwards until
// the load is taken into the town.
func (l *townLoad) newcomer() int32 {
	l.fresh = append(l.fresh, fmt.Sprintf("browser:late-%d-%d", l.id, len(l.fresh)))
	return int32(-1 - len(l.fresh))
}

func (l *townLoad) name(i int32) string {
	if i < noOne {
		return l.fresh[-2-i]
	}
	return l.names[i]
}

func (l *townLoad) act(ctx context.Context, n int) error {
	events := make([]graphEvent, 20)
	acts := make([]townAct, len(events))
	for i := range events {
		a := townAct{who: l.someone(), with: noOne, section: "sport"}
		events[i] = graphEvent{Event: "page", ID: fmt.Sprintf("l%d-%d-%d", l.id, n, i), Identities: []string{l.name(a.who)}, Props: map[string]any{"section": a.section}}
		if l.chance.IntN(4) == 0 {
			a.with = l.newcomer()
			events[i].Identities = append(events[i].Identities, l.name(a.with))
		}
		acts[i] = a
	}
	var refused map[int]string
	var position string
	err := l.node.patiently(ctx, func() (err error) { refused, position, err = l.node.post(ctx, events); return err })
	if err != nil {
		return err
	}
	for i := range acts {
		acts[i].acked = refused[i] == ""
	}
	l.acts = append(l.acts, acts...)
	return l.acknowledged(position)
}

func (r *townRun) acknowledged(position string) error {
	p, err := proto.ParsePosition(position)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for lane, at := range p {
		r.upTo[lane] = max(r.upTo[lane], at)
	}
	return nil
}

func (l *townLoad) link(ctx context.Context, n int) error {
	x := townLink{a: l.someone(), b: l.someone()}
	if x.a == x.b || n%2 == 0 {
		x.b = l.newcomer()
	}
	err := l.node.patiently(ctx, func() (err error) {
		x.answer, err = l.node.link(ctx, l.name(x.a), l.name(x.b))
		return err
	})
	l.links = append(l.links, x)
	return err
}

// take makes what a load sent a part of the town.
func (r *townRun) take(l *townLoad) {
	first := int32(len(r.names))
	number := func(i int32) int32 {
		if i < noOne {
			return first + -2 - i
		}
		return i
	}
	r.names = append(r.names, l.fresh...)
	for _, a := range l.acts {
		a.with = number(a.with)
		r.acts = append(r.acts, a)
	}
	for _, x := range l.links {
		x.b = number(x.b)
		r.links = append(r.links, x)
	}
}

// checkCuts compares the users before and after: what did not touch those who
// are out must be as it was.
func (r *townRun) checkCuts(t *testing.T, before *graphView) {
	t.Helper()
	var shown, parted few
	for i := range r.names {
		if r.isDark(int32(i)) && !r.view.alone(int32(i)) {
			shown.add("%s is of %+v", r.names[i], r.view.users[r.view.of[i]])
		}
	}
	_, _, p := r.wanted()
	pushed := 0
	for e := range before.edges {
		switch {
		case r.isDark(e[0]) || r.isDark(e[1]) || r.view.edges[e]:
		case p.sizeOf(e[0]) > graphMembersMax:
			pushed++ // by a newer edge that was promised
		default:
			parted.add("%s and %s", r.names[e[0]], r.names[e[1]])
		}
	}
	shown.report(t, "who opted out are shown with others")
	parted.report(t, "edges went that nobody cut")
	if pushed > 0 {
		t.Logf("%d edges of large users went, though nobody cut them", pushed)
	}
}
