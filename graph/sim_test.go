package graph_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"kith/graph"
	"kith/proto"
)

var (
	seedsFlag = flag.Int("seeds", 600, "how many seeds TestSimulation runs; with -short a tenth")
	seedFlag  = flag.Int("seed", 1, "the first of them")
	stopFlag  = flag.Int("failures", 3, "stop after so many seeds that fail")
	lanesFlag = flag.Int("lanes", 0, "1 to 3; 0: all three with the same operations, and compare")
)

// op is something that happens to identities.
type op struct {
	kind      graph.Kind
	a, b      id
	t         proto.Millis // by the gateway's clock
	actual    int
	all, ask  bool
	late, dup int // appended this many operations later; appended again
	put       bool
}

// model is the opt-out state of an identity by the order of the log alone.
type model struct {
	gen   uint32
	dark  bool
	seen  map[int]bool
	fence proto.Millis
}

// shape says which identities a run's links are between.
type shape int

const (
	anyShape shape = iota
	ringShape
	chainShape
	hubShape
	shapes
)

// makeOps draws the operations of a run.
func makeOps(rng *rand.Rand, n, count, cuts int, form shape, every bool) []op {
	perm := rng.Perm(n)
	var ops []op
	for len(ops) < count {
		o := op{a: id(rng.IntN(n)), b: id(rng.IntN(n)), ask: rng.IntN(2) == 0}
		switch k := rng.IntN(100); {
		case k < 45:
			o.kind = graph.Link
			switch form {
			case ringShape:
				o.b = (o.a + 1) % id(n)
			case chainShape:
				i := rng.IntN(n - 1)
				o.a, o.b = id(perm[i]), id(perm[i+1])
			case hubShape:
				o.b = id(perm[rng.IntN(2)])
			}
		case k < 70:
			o.kind = graph.Event
		case k < 85:
			if rng.IntN(8) >= cuts {
				continue
			}
			o.kind, o.all = graph.Cut, every && rng.IntN(2) == 0
		case k < 93:
			o.kind = graph.OptIn
		case k < 96:
			if cuts == 0 {
				continue
			}
			o.kind = graph.Erase
		default:
			o.kind = graph.Remove
			if k == 99 {
				o.kind = graph.Withdraw
			}
			aimRemoval(rng, &o, ops)
		}
		if o.a == o.b && (o.kind == graph.Link || o.kind == graph.Remove) {
			continue
		}
		o.actual = 1000 + 10*len(ops)
		o.t = proto.Millis(o.actual + rng.IntN(2*simSkew+1) - simSkew)
		if rng.IntN(5) == 0 && o.kind != graph.OptIn && o.kind != graph.Erase {
			o.late = 1 + rng.IntN(12)
		}
		if rng.IntN(6) == 0 {
			o.dup = 1 + rng.IntN(15)
		}
		ops = append(ops, o)
	}
	return ops
}

// aimRemoval picks a link that was made before.
func aimRemoval(rng *rand.Rand, o *op, ops []op) {
	for range 5 {
		if len(ops) == 0 {
			return
		}
		if k := rng.IntN(len(ops)); ops[k].kind == graph.Link {
			o.a, o.b = ops[k].a, ops[k].b
			if rng.IntN(2) == 0 {
				o.a, o.b = o.b, o.a
			}
			if o.kind == graph.Withdraw {
				o.b = id(k) // whose client's links
			}
		}
	}
}

// result is what one run came to.
type result struct {
	text  string
	exact bool // the text does not depend on interleaving
	err   error
}

// makeWorld draws the world of a run. Operations depend on the seed alone, the
// rest on the number of lanes too.
func makeWorld(seed, lanes int, g *rand.Rand, stats *simStats) (w *world, every, capped bool, pace, pack int) {
	w = &world{
		seed: seed, lanes: lanes, supersteps: 64, batchBytes: graph.BatchBytesMax, stats: stats, ledger: newLedger(), client: map[id]uint32{}, crawl: 20,
		rng:    rand.New(rand.NewPCG(uint64(seed), uint64(99+lanes))),
		config: graph.Config{SkewMillis: simSkew, EdgesMax: 32, MembersMax: 64, LinksMax: 256},
	}
	w.models = map[id]*model{}
	w.n = 3 + g.IntN(12)
	for i := range w.laneOf {
		w.laneOf[i] = proto.LaneID((i*5 + 3) % 7 % lanes)
	}
	capped, every = g.IntN(3) == 0, g.IntN(4) == 0
	if capped {
		w.config.MembersMax, w.config.EdgesMax = 2+g.IntN(4), 2+g.IntN(4)
	}
	standstill := g.IntN(4) == 0 // one channel crawls: members far from the root hear late
	if standstill {
		w.crawl, capped, every, w.config.MembersMax, w.config.EdgesMax = 500, false, false, 64, 32
		w.n = 5 + g.IntN(4)
	}
	w.ops = makeOps(g, w.n, 8+g.IntN(60), g.IntN(9), shape(g.IntN(int(shapes))), every)
	pace = []int{0, 3, 30, 200}[g.IntN(4)] * (1 + lanes)
	if seed%3 == 0 {
		w.vouchers = 3
	}
	if seed%4 == 0 {
		moreForgetting(g, w.ops)
	}
	if standstill {
		pace = []int{20, 60, 150}[g.IntN(3)] * lanes
		fewerRemovals(w.ops)
	}
	pack = 1 + g.IntN(3)
	if w.rng.IntN(2) == 0 {
		w.supersteps = 1 + w.rng.IntN(4)
		w.batchBytes = 1 + w.rng.IntN(600) // one to a few messages
	}
	if err := w.config.Validate(); err != nil {
		w.fail("CONFIG: %v", err)
	}
	w.populate()
	return w, every, capped, pace, pack
}

// fewerRemovals makes users that live longer.
func fewerRemovals(ops []op) {
	for i := range ops {
		if o := &ops[i]; o.kind == graph.Remove && i%3 > 0 {
			o.kind = graph.Link
		} else if o.kind == graph.Erase {
			o.kind = graph.Cut
		}
	}
}

// moreForgetting has clients take back, or have forgotten, much of what they linked.
func moreForgetting(rng *rand.Rand, ops []op) {
	for i := 1; i < len(ops); i++ {
		o, k := &ops[i], rng.IntN(i)
		if l := &ops[k]; l.kind == graph.Link && o.kind != graph.Link && i%4 > 0 {
			o.kind, o.a, o.b, o.all = graph.Withdraw, l.a, id(k), false
			if i%2 == 0 {
				o.a = l.b
			}
		}
	}
}

// evidence is that of a link: of a client of its own, or of one of few, which says the
// same each time.
func (w *world) evidence(i int) graph.Evidence {
	if w.vouchers > 0 {
		c := i % w.vouchers
		return graph.Evidence{Time: w.ops[i].t, Client: proto.ClientID(c + 1), Confidence: uint16(c * 100), Method: graph.Method(c % 2)}
	}
	return graph.Evidence{Time: w.ops[i].t, Client: proto.ClientID(i + 1), Confidence: uint16(i * 7 % 1000), Method: graph.Method(i % 2)}
}

// populate starts the machines.
func (w *world) populate() {
	machines := 2 + w.rng.IntN(2)
	w.slow = [2]int{w.rng.IntN(w.lanes), w.rng.IntN(w.lanes)}
	for l := range w.lanes {
		w.logs = append(w.logs, &laneLog{})
		w.heads = append(w.heads, newReplica(w, l, true, rand.New(rand.NewPCG(1, 2))))
	}
	for i := range machines {
		m := &machine{id: i, rate: 1000 + simDrift*(w.rng.IntN(3)-1), offset: w.rng.IntN(10000)}
		for l := range w.lanes {
			rng := rand.New(rand.NewPCG(uint64(w.seed), uint64(1000+i*10+l)))
			m.served = append(m.served, &served{replica: newReplica(w, l, false, rng), sent: map[int]int{}, seen: map[int]int{}, cursor: make([]uint64, w.lanes)})
		}
		w.machines = append(w.machines, m)
	}
}

// run is one run: operations under faults, then without, then the checks.
func run(seed, lanes int, stats *simStats) (res result) {
	g := rand.New(rand.NewPCG(uint64(seed), 7)) // the same for every number of lanes
	w, every, capped, pace, pack := makeWorld(seed, lanes, g, stats)
	defer func() {
		if p := recover(); p != nil {
			w.fail("PANIC: %v\n%s", p, stackOf())
		}
		res.err = w.err
	}()
	d := driver{w: w, every: every, pack: pack, open: map[int][]graph.Message{}, named: map[int]uint32{}}
	for i := range w.ops {
		for k := w.rng.IntN(pace + 1); k > 0 && w.err == nil; k-- {
			w.step(true)
		}
		d.do(i)
	}
	d.flush()
	stats.ops += len(w.ops)
	for k := 0; !w.quiet() && w.err == nil; k++ {
		if k > 150000 {
			w.fail("LIVELOCK: not quiet; pending acks %d", len(w.pending))
		}
		if k == 2500*w.lanes {
			for _, m := range w.machines {
				m.cut, m.paused = false, false
			}
		}
		w.step(k < 2500*w.lanes)
	}
	if w.err == nil {
		res.text = w.atRest(every, capped)
		res.exact = !every && !capped && !slices.ContainsFunc(w.ops, func(o op) bool { return o.kind == graph.Withdraw })
	}
	return res
}

// driver appends operations to the logs: now, late, or twice.
type driver struct {
	w     *world
	every bool
	pack  int
	later []due
	open  map[int][]graph.Message
	named map[int]uint32 // tombstone that an opt-in names, fixed when it is asked for
}

type due struct{ at, op int }

func (d *driver) do(i int) {
	o := &d.w.ops[i]
	if o.late > 0 {
		d.later = append(d.later, due{i + o.late, i})
	} else {
		d.put(i)
	}
	if o.dup > 0 {
		d.later = append(d.later, due{i + o.late + o.dup, i})
	}
	var rest []due
	for _, x := range d.later {
		if x.at <= i || i == len(d.w.ops)-1 {
			d.put(x.op)
		} else {
			rest = append(rest, x)
		}
	}
	d.later = rest
	if d.w.rng.IntN(2) == 0 {
		d.flush()
	}
}

func (d *driver) flush() {
	for l := range d.w.lanes {
		if len(d.open[l]) > 0 {
			d.w.append(l, &entry{kind: outsideEntry, messages: d.open[l]})
			d.open[l] = nil
		}
	}
}

// put adds an operation's message to its lane's next entry.
func (d *driver) put(i int) {
	w := d.w
	o := &w.ops[i]
	l := w.lane(o.a)
	m := graph.Message{Kind: o.kind, To: o.a.node(), Evidence: graph.Evidence{Time: o.t}, All: o.all}
	switch o.kind {
	case graph.Event:
		m.Body = eventBody(i)
	case graph.Link:
		m.About = o.b.hash()
		m.Evidence = w.evidence(i)
		if o.ask {
			m.Command = uint64(i + 1)
		}
	case graph.Remove:
		m.About = o.b.hash()
	case graph.Withdraw:
		m.Client, m.Again = w.evidence(int(o.b)%len(w.ops)).Client, o.ask // a client's erasure, or of its links alone
	default:
		m.Command = uint64(i + 1)
	}
	if o.kind == graph.OptIn {
		if m.ToGen = d.tombstone(i); m.ToGen == 0 {
			return
		}
	}
	d.foresee(i, &m)
	o.put = true
	w.given++
	d.open[l] = append(d.open[l], m)
	if len(d.open[l]) >= d.pack || o.kind == graph.OptIn || o.kind == graph.Erase {
		d.flush()
	}
}

func (d *driver) model(i id) *model {
	m := d.w.models[i]
	if m == nil {
		m = &model{gen: 1, seen: map[int]bool{}}
		d.w.models[i] = m
	}
	return m
}

// tombstone is the generation that opt-in i names; 0: there was nothing to lift.
func (d *driver) tombstone(i int) uint32 {
	gen, ok := d.named[i]
	if ok {
		return gen
	}
	a := d.w.ops[i].a
	if m := d.model(a); !d.every && m.dark {
		gen = m.gen
	} else if x := &d.w.headNode(a).state; d.every && x.Dark {
		gen = x.Gen
	}
	d.named[i] = gen
	return gen
}

// foresee says what the message will do to the opt-out state.
func (d *driver) foresee(i int, m *graph.Message) {
	o, x := &d.w.ops[i], d.model(d.w.ops[i].a)
	seen := x.seen[i]
	x.seen[i] = true
	switch {
	case o.kind == graph.Cut && !seen:
		x.gen++
		if x.dark {
			x.gen++
		}
		x.dark = true
		d.w.stats.cuts++
		if o.all {
			d.w.stats.everywhere++
		}
	case o.kind == graph.Erase && !seen && !x.dark:
		x.gen += 2
		x.fence = o.t + 2*simSkew
		d.w.stats.erases++
	case o.kind == graph.OptIn && x.dark && x.gen == m.ToGen:
		x.gen++
		x.dark = false
		x.fence = o.t + 2*simSkew
		d.w.stats.optIns++
	}
}

func stackOf() []byte {
	b := make([]byte, 8192)
	return b[:runtime.Stack(b, false)]
}

// runSeed runs a seed with the number of lanes, or with all and compares.
func runSeed(seed, lanes int, stats *simStats) error {
	if lanes > 0 {
		return run(seed, lanes, stats).err
	}
	var text string
	for l := 1; l <= 3; l++ {
		r := run(seed, l, stats)
		if r.err != nil {
			return r.err
		}
		if r.exact && text != "" && text != r.text {
			return fmt.Errorf("seed %d: LANES: the final state with %d lanes differs:\n%s\nwith fewer:\n%s", seed, l, r.text, text)
		}
		text = r.text
	}
	return nil
}

// TestSimulation runs whole histories over several lanes, each from a seed.
func TestSimulation(t *testing.T) {
	if *lanesFlag < 0 || *lanesFlag > 3 {
		t.Fatalf("-lanes is %d: use 0 to 3", *lanesFlag)
	}
	if testing.Short() { // for the race detector: each run is of one goroutine
		*seedsFlag = max(1, *seedsFlag/10)
	}
	var mu sync.Mutex
	var total simStats
	next, failed := *seedFlag, 0
	take := func() (int, bool) {
		mu.Lock()
		defer mu.Unlock()
		next++
		return next - 1, next-1 < *seedFlag+*seedsFlag && failed < *stopFlag
	}
	var done sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		done.Go(func() {
			for seed, ok := take(); ok; seed, ok = take() {
				var stats simStats
				err := runSeed(seed, *lanesFlag, &stats)
				mu.Lock()
				total.add(&stats)
				if err != nil {
					failed++
					t.Errorf("%v\nreplay: go test ./graph -run TestSimulation -seed %d -seeds 1 -lanes %d", err, seed, *lanesFlag)
				}
				mu.Unlock()
			}
		})
	}
	done.Wait()
	t.Logf("%+v", total)
	if *seedsFlag >= 250 && (total.cuts == 0 || total.optIns == 0 || total.restores == 0 || total.refused == 0 || total.stale == 0 || total.linked == 0) {
		t.Errorf("the runs did not do what they are for: %+v", total)
	}
}
