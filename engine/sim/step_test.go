package sim

import (
	"errors"
	"fmt"
	"strings"

	"kith/actors/identity"
	"kith/engine"
	"kith/proto"
)

// lateCommand is one that a gateway took and that is not in the log yet.
type lateCommand struct {
	step  int
	lane  proto.LaneID
	batch *proto.Batch
}

// linkAsk is a link whose answer somebody waits for.
type linkAsk struct {
	a, b   int
	answer *engine.Answer
}

// cutAsk is an opt-out or erasure that somebody waits for.
type cutAsk struct {
	i          int
	kind       proto.CutKind
	gen        uint32 // as identity.OptOut.Gen, after it
	told       bool
	acked      bool
	everywhere bool
	takes      []int          // whom it must take along, where that is known
	client     proto.ClientID // of one that forgets
	space      proto.SpaceID
	taken      map[factsKey]int // person.taken, with it
	until      proto.Millis     // person.gone of the client, with it
}

// step is one thing that happens, drawn by chance.
func (w *world) step() {
	w.pass(proto.Millis(w.rng.IntN(400)))
	w.putLate()
	for range 1 + w.rng.IntN(3) {
		w.operate()
	}
	if w.seed%3 == 1 && w.ended == 0 && w.steps > w.length/3 && w.chance(5) {
		w.endClient()
	}
	for range w.rng.IntN(4) {
		w.run()
	}
	if w.chance(12) {
		w.fault()
	}
}

// putLate appends commands whose time has come.
func (w *world) putLate() {
	var rest []lateCommand
	for _, c := range w.late {
		if c.step > w.steps && !w.quiet {
			rest = append(rest, c)
		} else {
			w.submit(c.lane, c.batch)
		}
	}
	w.late = rest
}

// operate has a client do something.
func (w *world) operate() {
	k := w.rng.IntN(100)
	if w.crowd && k >= 60 && k < 90 {
		k = 45
	}
	switch {
	case k < 30:
		w.doEvent()
	case k < 36:
		w.doTraits()
	case k < 62:
		w.doLink()
	case k < 67:
		w.doUnlink()
	case k < 78:
		w.doCut()
	case k < 85:
		w.doOptIn()
	case k < 89:
		w.doErase()
	case k < 92:
		w.redefine()
	case k < 96:
		w.pass(proto.Millis(w.rng.IntN(20_000)))
	default:
		w.pass(proto.Millis(w.rng.IntN(150_000)))
	}
}

// received is when a gateway says that it took something.
func (w *world) received() proto.Millis {
	return w.now + proto.Millis(w.rng.IntN(2*skewMax+1)-skewMax)
}

// put appends a batch for the home of i, now or, where it may be, later; or
// twice.
func (w *world) put(i int, b *proto.Batch, delay bool) {
	if delay && w.chance(15) {
		w.late = append(w.late, lateCommand{w.steps + 1 + w.rng.IntN(10), w.home(i), b})
		return
	}
	w.submit(w.home(i), b)
	if delay && w.chance(6) {
		w.late = append(w.late, lateCommand{w.steps + 1 + w.rng.IntN(15), w.home(i), b})
	}
}

// anyone draws an identity; hubs are drawn more often.
func (w *world) anyone() int {
	if w.chance(25) {
		return w.rng.IntN(min(3, len(w.ids)))
	}
	return w.rng.IntN(len(w.ids))
}

func (w *world) other(i int) int {
	for {
		if j := w.anyone(); j != i {
			return j
		}
	}
}

func (w *world) doEvent() {
	if len(w.repeats) > 0 && w.chance(12) { // by a client that did not hear the answer
		e := w.repeats[w.rng.IntN(len(w.repeats))]
		if w.chance(50) {
			e.Received = w.received()
		}
		w.putEvent(&e)
		return
	}
	i, c := w.anyone(), w.clients[w.rng.IntN(3)]
	w.numbers++
	e := proto.Event{
		Client: c.ID, Space: c.Space, Received: w.received(), ID: fmt.Sprint("e", w.numbers), Identities: []proto.Identity{w.ids[i]},
		EventBody: proto.EventBody{Name: "page", Props: []proto.Prop{
			{Key: "section", Value: proto.TextOf([]string{"a", "a", "b", "c"}[w.rng.IntN(4)])},
			{Key: "mark", Value: proto.TextOf(fmt.Sprint(i))}, {Key: "n", Value: proto.NumberOf(float64(w.numbers))},
		}},
	}
	if w.chance(30) { // so that histories are sealed
		e.URL = "https://example.com/" + strings.Repeat("x", 300)
	}
	if w.numbers%3 != 0 { // more than one remembers
		e.Network = proto.NetworkKey(1 + (i+w.numbers/7)%(identity.NetworksMax+3))
	}
	e.Time = e.Received
	if w.chance(30) {
		e.Time -= proto.Millis(w.rng.IntN(100_000))
	}
	for w.chance(20) && len(e.Identities) < 4 {
		e.Identities = append(e.Identities, w.ids[w.other(i)])
	}
	w.repeats = append(w.repeats, e)
	w.putEvent(&e)
}

func (w *world) putEvent(e *proto.Event) {
	var b proto.Batch
	b.AddEvent(w.hasher, e)
	w.stats.Events++
	w.trace("event %s of client %d by %v at %d", e.ID, e.Client, e.Identities, e.Received-startTime)
	w.put(w.by[w.hasher.Hash(e.Identities[0])], &b, true)
}

func (w *world) doTraits() {
	i, c := w.anyone(), w.clients[w.rng.IntN(3)]
	var b proto.Batch
	v := []string{"gold", "gold", "lead", ""}[w.rng.IntN(4)]
	b.AddTraits(w.hasher, &proto.Traits{
		Client: c.ID, Space: c.Space, Identity: w.ids[i], Received: w.received(), Set: []proto.Prop{{Key: "plan", Value: proto.TextOf(v)}},
	})
	w.trace("traits %q of client %d of %d", v, c.ID, i)
	w.put(i, &b, false)
}

func (w *world) doLink() {
	i := w.anyone()
	j := w.other(i)
	if w.crowd && w.chance(70) {
		j = w.rng.IntN(len(w.ids)-1) + 1
		i = w.rng.IntN(2)
	}
	if i == j {
		return
	}
	c := w.clients[w.rng.IntN(3)]
	x := proto.LinkCommand{
		Client: c.ID, Space: c.Space, A: w.ids[i], B: w.ids[j], Received: w.received(),
		Confidence: uint16(w.rng.IntN(1001)), Inferred: w.chance(30),
	}
	if w.chance(50) {
		w.commands++
		x.Command = w.commands
		w.links[x.Command] = &linkAsk{a: i, b: j}
		for _, n := range w.nodes {
			if n.sim != nil {
				n.links[x.Command] = n.sim.Expect(x.Command)
			}
		}
	}
	var b proto.Batch
	b.AddLink(w.hasher, &x)
	w.stats.Links++
	w.trace("link %d %d in space %d at %d, command %d", i, j, c.Space, x.Received-startTime, x.Command)
	w.put(i, &b, x.Command == 0) // one that is taken in twice is answered twice
}

// linked takes the answer to a link.
func (w *world) linked(command uint64, a engine.Answer) {
	x := w.links[command]
	switch {
	case x == nil:
		return
	case x.answer != nil && (x.answer.Linked != a.Linked || x.answer.Reason != a.Reason):
		w.fail("ANSWERS: link %d of %d and %d is answered %+v and %+v", command, x.a, x.b, *x.answer, a)
	case x.answer == nil && a.Linked:
		w.stats.Linked++
	case x.answer == nil:
		w.stats.Refused++
	}
	x.answer = &a
}

func (w *world) doUnlink() {
	i := w.anyone()
	c := w.clients[w.rng.IntN(3)]
	x := proto.UnlinkCommand{Client: c.ID, Space: c.Space, A: w.hashOf(i), Received: w.received()}
	if w.chance(80) {
		j := w.other(i)
		x.B = w.hashOf(j)
		w.trace("unlink %d %d in space %d at %d", i, j, c.Space, x.Received-startTime)
	} else {
		w.trace("withdraw %d of client %d", i, c.ID)
	}
	var b proto.Batch
	b.AddUnlink(&x)
	w.stats.Unlinks++
	w.put(i, &b, true)
}

func (w *world) doCut() {
	i := w.anyone()
	w.putCut(i, proto.CutCommand{Kind: proto.CutOptOut, Everywhere: w.seed%4 == 0 && w.chance(25)}, true)
}

func (w *world) doErase() {
	x := proto.CutCommand{Kind: proto.CutErase}
	if w.chance(50) {
		c := w.clients[w.rng.IntN(3)]
		x = proto.CutCommand{Kind: proto.CutForget, Client: c.ID, Space: c.Space}
	}
	w.putCut(w.anyone(), x, true)
}

func (w *world) putCut(i int, x proto.CutCommand, late bool) {
	w.commands++
	x.Hash, x.Received, x.Command = w.hashOf(i), w.received(), w.commands
	w.cuts[x.Command] = &cutAsk{i: i, kind: x.Kind, everywhere: x.Everywhere, client: x.Client, space: x.Space}
	for _, n := range w.nodes {
		if n.sim != nil {
			n.cuts[x.Command] = n.sim.Expect(x.Command)
		}
	}
	switch {
	case x.Kind == proto.CutForget:
		w.stats.Forgets++
	case x.Kind == proto.CutErase:
		w.stats.Erases++
	case x.Everywhere:
		w.stats.Everywhere++
	default:
		w.stats.Cuts++
	}
	var b proto.Batch
	b.AddCut(&x)
	w.trace("cut %d kind %d everywhere %v at %d, command %d", i, x.Kind, x.Everywhere, x.Received-startTime, x.Command)
	w.put(i, &b, late)
}

// doOptIn lifts a tombstone, the present one or one from before.
func (w *world) doOptIn() {
	i := w.anyone()
	for k := range w.ids { // whoever is opted out
		if j := (i + k) % len(w.ids); w.model.people[j].dark {
			i = j
			break
		}
	}
	gen := w.model.people[i].gen
	if w.chance(20) {
		gen -= 2
	}
	var b proto.Batch
	b.AddOptIn(&proto.OptInCommand{Hash: w.hashOf(i), Gen: gen, Received: w.received()})
	w.stats.OptIns++
	w.trace("opt-in %d of generation %d", i, gen)
	w.put(i, &b, false)
}

// run has a node do some of its work.
func (w *world) run() {
	n := w.someNode()
	l := proto.LaneID(w.rng.IntN(w.lanes))
	switch k := w.rng.IntN(100); {
	case k < 50:
		if n.lag && !w.quiet && !w.chance(20) {
			return
		}
		n.apply(l, 1+w.rng.IntN(1<<w.rng.IntN(6)), engine.NoCrash)
	case k < 60:
		w.beat(n, l, w.now)
	case k < 66:
		w.relayControl(n, l)
	case k < 69:
		w.fill(n, l)
	case k < 70:
		w.swap(n)
	case k < 71:
		w.forget(n, l)
	case k < 72:
		w.expire(n, l)
	case k < 76:
		w.err = errors.Join(w.err, n.sim.Trim())
		if n.id == 0 {
			n.sim.Tell()
			n.collect()
			w.confirm()
		}
	case k < 90:
		w.relay(n, l, proto.LaneID(w.rng.IntN(w.lanes)))
	default:
		w.deliver()
	}
}

// fill goes through history as a node's own loop does.
func (w *world) fill(n *node, l proto.LaneID) {
	if x := n.sim.Fill(l); x != nil {
		w.stats.Fills++
		w.own(l, proto.CommandFill, x.Append(nil))
	}
}

// forget goes through the nodes for a client that was erased, likewise; now and
// then a step twice.
func (w *world) forget(n *node, l proto.LaneID) {
	if x := n.sim.Forget(l); x != nil {
		w.own(l, proto.CommandForget, x.Append(nil))
		if !w.quiet && w.chance(20) {
			w.own(l, proto.CommandForget, x.Append(nil))
		}
	}
}

// expire lets go of what is too old, likewise.
func (w *world) expire(n *node, l proto.LaneID) {
	if x := n.sim.Expire(l); x != nil {
		w.stats.Expires++
		w.own(l, proto.CommandExpire, x.Append(nil))
	}
}

// relay takes a pack of the graph's messages on its way.
func (w *world) relay(n *node, from, to proto.LaneID) {
	if from == to {
		return
	}
	lo := uint64(0)
	if w.chance(20) && !w.quiet {
		lo = uint64(w.rng.IntN(40))
	}
	x := n.sim.Pack(from, to, lo)
	if x == nil {
		return
	}
	if cut := w.rng.IntN(len(x.Batches) + 1); cut > 0 && w.chance(50) {
		x.Batches = x.Batches[:cut]
	}
	w.stats.Packs++
	if lo > 0 {
		w.stats.Gaps++
	}
	w.air = append(w.air, flight{to, proto.CommandGraph, [][]byte{x.Append(nil)}})
}

// deliver lets something that is under way arrive, twice or not at all.
func (w *world) deliver() {
	if len(w.air) == 0 {
		return
	}
	i := w.rng.IntN(len(w.air))
	f := w.air[i]
	if !w.chance(15) {
		w.own(f.lane, f.kind, f.body...)
	}
	if !w.chance(15) {
		w.air = append(w.air[:i], w.air[i+1:]...)
	}
}

// fault is something that should not happen, and does.
func (w *world) fault() {
	n := w.someNode()
	l := proto.LaneID(w.rng.IntN(w.lanes))
	switch k := w.rng.IntN(100); {
	case k < 20:
		w.trace("node %d crashes before a commit", n.id)
		w.stats.CrashesStepped++
		n.apply(l, 1+w.rng.IntN(20), engine.CrashStepped)
		n.down()
	case k < 45:
		w.trace("node %d crashes after a commit", n.id)
		w.stats.CrashesCommitted++
		n.apply(l, 1+w.rng.IntN(20), engine.CrashCommitted)
		n.down()
	case k < 55:
		w.trace("node %d restarts", n.id)
		w.stats.Restarts++
		w.must(n.sim.Seal())
		w.must(n.store.Sync())
		n.down()
	case k < 70:
		w.images = append(w.images, n.image())
	case k < 80:
		w.restoreSome(n)
	case k < 88:
		w.verify(n)
	case k < 94:
		w.jump(n, l)
	default:
		w.purge()
	}
}

// restoreSome makes a node be what a node was.
func (w *world) restoreSome(n *node) {
	if len(w.images) > 0 {
		x := w.images[w.rng.IntN(len(w.images))]
		w.trace("node %d becomes a snapshot at %v", n.id, x.applied)
		w.stats.Restores++
		n.restore(x)
	}
}

// jump has a node send a beat by a clock that was set.
func (w *world) jump(n *node, l proto.LaneID) {
	w.stats.Jumps++
	by := proto.Millis(w.rng.IntN(60_000) - 20_000)
	w.trace("a beat of node %d in lane %d is off by %d", n.id, l, by)
	w.beat(n, l, w.now+by)
}

// purge empties the log up to where nobody needs it any more.
func (w *world) purge() {
	if w.lost || *tellFlag { // what went wrong is looked for in the whole log
		return
	}
	for l := range proto.LaneID(w.lanes) {
		upTo := proto.Offset(1 << 40)
		for _, n := range w.nodes {
			n.up()
			w.must(n.store.Sync()) // as nodes do before they purge
			upTo = min(upTo, n.sim.Applied(l))
		}
		for _, x := range w.images {
			upTo = min(upTo, x.applied[l])
		}
		if upTo > 0 {
			w.stats.Purges++
			w.purged = true
			w.must(w.log.Lane(l).Purge(w.context(), upTo))
		}
	}
}
