package graph_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"kith/graph"
	"kith/proto"
)

type pair [2]id

func pairOf(a, b id) pair { return pair{min(a, b), max(a, b)} }

// ledger is what the checks remember of the heads' effects.
type ledger struct {
	refused   map[pair]int
	acked     map[id]uint32                   // newest cut generation with a receipt
	derived   map[id]map[uint64]map[id]uint32 // root -> verdict -> the members it came from
	began     map[id]int                      // operation that began the present generation
	withdrawn map[pair]proto.Millis           // removals that a Withdraw came to
	decided   map[uint64]graph.Decision
	shown     map[id]graph.Value
	gone      map[pair]bool // decided linked, removed by a cap
	held      map[pair]held // decided linked

	given, taken int // messages from outside
}

// held is an edge that was promised, by the generations of its ends.
type held struct {
	since proto.Millis
	gens  [2]uint32
}

func newLedger() ledger {
	return ledger{
		refused: map[pair]int{}, acked: map[id]uint32{}, derived: map[id]map[uint64]map[id]uint32{}, began: map[id]int{},
		withdrawn: map[pair]proto.Millis{}, decided: map[uint64]graph.Decision{}, shown: map[id]graph.Value{}, gone: map[pair]bool{}, held: map[pair]held{},
	}
}

// observe looks at what one step of a head did; links is what there was before.
func (w *world) observe(i id, n *simNode, g *graph.Group, links []graph.Neighbour) {
	w.tracing(i, n, g)
	fx := &g.Effects
	for _, r := range fx.Refused {
		w.refused[pairOf(idOf(r.Node.Hash), idOf(r.Peer))]++
	}
	for _, d := range fx.Decisions {
		w.decided[d.Command] = d
		if d.Linked {
			w.stats.linked++
			w.promised(&w.ops[d.Command-1])
		} else {
			w.stats.unlinked++
		}
	}
	if fx.Reborn {
		for k := range g.In {
			if m := &g.In[k]; m.Kind == graph.OptIn || m.Kind == graph.Erase {
				w.began[i] = int(m.Command) - 1
			}
		}
	}
	for k := range g.In {
		if g.In[k].Kind.Outside() {
			w.taken++
		}
	}
	if !fx.Purged {
		w.stands(i, n, g, links)
	}
	w.prove(i, &n.state)
	for _, r := range fx.Receipts {
		w.receipt(i, r)
	}
	w.flap(i, &n.state)
	for p := range w.held {
		if p[0] == i || p[1] == i {
			w.holds(p)
		}
	}
}

// withdrawals sees that each Withdraw of a step removes the links that its client
// vouches for and no others, by what is there when its turn comes.
func (w *world) withdrawals(i id, r *replica, n *simNode, g *graph.Group) {
	for k := range g.In {
		m := &g.In[k]
		if m.Kind != graph.Withdraw {
			continue
		}
		was, now := r.after(n, g.To, g.In[:k]), r.after(n, g.To, g.In[:k+1])
		for _, l := range was {
			var y graph.Neighbour
			if at := slices.IndexFunc(now, func(y graph.Neighbour) bool { return y.Peer == l.Peer }); at >= 0 {
				y = now[at]
			}
			t, p := max(m.Time, l.Time), pairOf(i, idOf(l.Peer))
			switch {
			case l.Stage == graph.Absent || l.Client != m.Client || l.Time > m.Time+2*simSkew, l.Mark == graph.RemovedMark && l.MarkTime >= t: // the last: a proposal that the other end will decline
				if l.Settled = y.Settled; y != l { // for a link can be answered once another is gone
					w.fail("WITHDRAW: client %d as of %d, and at %d %+v came to %+v", m.Client, m.Time, i, l, y)
				}
			case y.Stage != graph.Absent || y.Mark != graph.RemovedMark || y.MarkTime != t:
				w.fail("WITHDRAW: client %d as of %d, and of %d and %d there is %+v", m.Client, m.Time, i, idOf(l.Peer), y)
			default:
				w.withdrawn[p] = max(w.withdrawn[p], t)
			}
		}
		if len(now) > len(was) {
			w.fail("WITHDRAW: client %d as of %d, and %d has more links: %+v", m.Client, m.Time, i, now)
		}
	}
}

// stands sees that a link whose evidence counts at both ends stays, unless the step took
// in what may take it: what another client said and does not count is none of that.
func (w *world) stands(i id, n *simNode, g *graph.Group, links []graph.Neighbour) {
	for _, l := range links {
		var now graph.Neighbour
		if known := n.state.Link(l.Peer); known != nil {
			now = *known
		}
		if now.Stage >= l.Stage || slices.ContainsFunc(g.In, func(m graph.Message) bool { return mayTake(&m, l.Peer) }) {
			continue
		}
		if !n.facts.forgotten(l.Evidence) && !w.headNode(idOf(l.Peer)).facts.forgotten(l.Evidence) {
			w.fail("STANDS: at %d %+v came to %+v, by nothing that may take it", i, l, now)
		}
	}
}

// mayTake reports whether m may take the link to peer away from who takes it in.
func mayTake(m *graph.Message, peer graph.Hash) bool {
	switch m.Kind {
	case graph.Withdraw:
		return true
	case graph.Remove, graph.Refuse:
		return m.About == peer
	case graph.HalfNo, graph.Drop, graph.Unlink:
		return m.From == peer
	}
	return false
}

// promised notes that a link was answered.
func (w *world) promised(o *op) {
	p, x := pairOf(o.a, o.b), &w.headNode(o.a).state
	if l := x.Link(o.b.hash()); l != nil && l.Stage == graph.Established {
		h := held{since: max(w.held[p].since, o.t), gens: [2]uint32{x.Gen, l.Gen}}
		if o.a > o.b {
			h.gens[0], h.gens[1] = h.gens[1], h.gens[0]
		}
		w.held[p] = h
	}
}

// holds sees that an edge that was promised is there at both ends, at every
// moment, until a removal that is not older, a cap or a cut takes it away.
func (w *world) holds(p pair) {
	h := w.held[p]
	for k, i := range p {
		x := &w.headNode(i).state
		var l graph.Neighbour
		if known := x.Link(p[1-k].hash()); known != nil {
			l = *known
		}
		switch {
		case x.Gen != h.gens[k] || l.Mark == graph.CappedMark || l.Mark == graph.RemovedMark && l.MarkTime >= h.since:
			delete(w.held, p)
			return
		case l.Stage != graph.Established:
			w.fail("PROMISE: %d and %d were answered linked as of %d, but %d has %+v", p[0], p[1], h.since, i, l)
		}
	}
}

// prove notes which members the verdicts that receivers have come from.
func (w *world) prove(i id, x *graph.State) {
	if x.Dark || len(x.Members) == 0 {
		return
	}
	from := map[id]uint32{i: x.Gen}
	for _, k := range x.Members {
		from[idOf(k.Peer)] = k.Copy.Gen
	}
	p := w.derived[i]
	if p == nil {
		p = map[uint64]map[id]uint32{}
		w.derived[i] = p
	}
	for _, r := range x.Receivers {
		if !r.Out {
			p[r.Sent] = from
		}
	}
}

func (w *world) receipt(i id, r graph.Receipt) {
	w.acked[i] = max(w.acked[i], r.Gen)
	w.stats.acks++
	w.pending = append(w.pending, &pendingAck{i: i, gen: r.Gen})
	for _, a := range r.Also {
		m := idOf(a.Peer)
		if x := &w.headNode(m).state; x.Gen <= a.Gen {
			w.fail("EVERYWHERE: %d acknowledged, listed member %d@%d lives", i, m, a.Gen)
		}
		w.acked[m] = max(w.acked[m], a.Gen)
	}
}

// flap counts segments that are lost on the way from one user to another.
func (w *world) flap(i id, x *graph.State) {
	old, now := w.shown[i], x.Shown.Value
	if old != "" && !x.Dark && (now == "" || old[0]&^now[0] != 0) {
		w.stats.flaps++
	}
	w.shown[i] = now
}

// traces looks for anything of an acknowledged cut in a replica.
func (w *world) traces(r *replica, acked map[id]uint32, who string) {
	if len(acked) == 0 {
		return
	}
	gone := func(h graph.Hash, gen uint32) bool { a, ok := acked[idOf(h)]; return ok && gen <= a }
	for i, n := range r.active {
		x := &n.state
		if !x.Dark && gone(i.hash(), max(x.Gen, 1)) && x.Gen > 0 {
			w.fail("LEAK %s: %d@%d itself is shown", who, i, x.Gen)
		}
		for _, l := range x.Links {
			if l.Stage == graph.Established && gone(l.Peer, l.Gen) {
				w.fail("LEAK %s: home of %d names %d@%d", who, i, idOf(l.Peer), l.Gen)
			}
			if l.Mark == graph.RemovedMark && l.MarkGen > 0 && gone(l.Peer, l.MarkGen) {
				w.fail("LEAK %s: mark of %d names %d@%d", who, i, idOf(l.Peer), l.MarkGen)
			}
		}
		for _, k := range x.Members {
			if gone(k.Peer, k.Copy.Gen) {
				w.fail("LEAK %s: view %d holds %d@%d", who, i, idOf(k.Peer), k.Copy.Gen)
			}
			for _, e := range k.Copy.Edges {
				if gone(e.Peer, e.Gen) {
					w.fail("LEAK %s: view %d, copy of %d names %d@%d", who, i, idOf(k.Peer), idOf(e.Peer), e.Gen)
				}
			}
		}
		if s := x.Shown; !x.Dark && s.Number > 0 {
			for m, gen := range w.derived[idOf(s.Root)][s.Number] {
				if gone(m.hash(), gen) {
					w.fail("LEAK %s: verdict at %d (from %d no %d) derives from %d@%d", who, i, idOf(s.Root), s.Number, m, gen)
				}
			}
		}
	}
}

// check looks at a head after an entry.
func (w *world) check(r *replica) {
	for i, n := range r.active {
		x := &n.state
		if x.Dark && (len(x.Members)+len(x.Links)+len(n.facts.events)+len(x.Holders) > 0 || x.Shown != graph.Shown{}) {
			w.fail("RESURRECT: tombstoned %d holds something", i)
		}
		if k := len(x.Edges()); k > w.config.EdgesMax {
			w.fail("CAP: %d has %d edges, cap %d", i, k, w.config.EdgesMax)
		}
		if k := len(x.Members) + 1; k > w.config.MembersMax {
			w.fail("CAP: user %d has %d members, cap %d", i, k, w.config.MembersMax)
		}
		w.checkAge(i, n)
		for _, l := range x.Links {
			if l.Stage == graph.Established && n.facts.forgotten(l.Evidence) {
				w.fail("FORGOTTEN: %d is linked to %d by %+v, which its client had forgotten", i, idOf(l.Peer), l.Evidence)
			}
		}
		for _, k := range x.Members {
			if !w.registered(idOf(k.Peer), i.hash()) {
				w.fail("COPY-REGISTRY: view %d holds a copy of %d@%d unknown to its home", i, idOf(k.Peer), k.Copy.Gen)
			}
		}
	}
	if len(w.acked) > 0 {
		for _, h := range w.heads {
			w.traces(h, w.acked, "state")
		}
	}
}

// checkAge finds what is older than the generation it is in.
func (w *world) checkAge(i id, n *simNode) {
	began, ok := w.began[i]
	if !ok {
		return
	}
	for _, e := range n.facts.events {
		if w.ops[e].actual <= w.ops[began].actual {
			w.fail("OLD EVIDENCE: %d@%d holds event %d from before its opt-in", i, n.state.Gen, e)
		}
	}
	for _, e := range n.state.Edges() {
		later := func(o op) bool { return o.kind == graph.Link && o.actual > w.ops[began].actual }
		if k := slices.IndexFunc(w.ops, func(o op) bool { return later(o) && o.t == e.Time }); k < 0 {
			w.fail("OLD EVIDENCE: %d@%d linked to %d by %+v from before its opt-in", i, n.state.Gen, idOf(e.Peer), e.Evidence)
		}
	}
}

// registered reports whether i's home knows that root may have its copy.
func (w *world) registered(i id, root graph.Hash) bool {
	x := &w.headNode(i).state
	if slices.ContainsFunc(x.Holders, func(h graph.Holder) bool { return h.Root == root }) {
		return true
	}
	return slices.ContainsFunc(x.Cuts, func(c graph.CutRecord) bool {
		return slices.ContainsFunc(c.Retract, func(r graph.Retraction) bool { return r.Root == root })
	})
}

// serving looks for traces in every replica that may answer a query.
func (w *world) serving() {
	if len(w.client) == 0 {
		return
	}
	for _, m := range w.machines {
		for l, r := range m.served {
			if m.paused || r.leaseTo <= w.local(m) || r.pos >= w.heads[l].pos {
				continue
			}
			w.stats.stale++
			for i := range id(w.n) {
				if w.lane(i) == l {
					r.load(i)
				}
			}
			w.traces(r.replica, w.client, fmt.Sprintf("ANSWER of node %d lane %d at %d of %d", m.id, l, r.pos, w.heads[l].pos))
		}
	}
}

// want is what a batch computation over all operations says.
type want struct {
	linked  map[pair]bool // newest evidence is newer than the newest removal
	hazy    map[pair]bool // it is not newer than what a client had forgotten, which may have stood for it
	events  map[id]int
	everyOf []int // component of each identity over all links ever
	degree  map[id]map[id]bool
}

func (w *world) want() want {
	o := want{linked: map[pair]bool{}, hazy: map[pair]bool{}, events: map[id]int{}, degree: map[id]map[id]bool{}}
	linkT, dropT, voidT := map[pair]proto.Millis{}, maps.Clone(w.withdrawn), map[pair]proto.Millis{}
	var ever []graph.Pair
	for k, x := range w.ops {
		p := pairOf(x.a, x.b)
		switch x.kind {
		case graph.Link:
			ever = append(ever, graph.Pair{A: x.a.hash(), B: x.b.hash()})
			for _, q := range [...]pair{{x.a, x.b}, {x.b, x.a}} {
				if o.degree[q[0]] == nil {
					o.degree[q[0]] = map[id]bool{}
				}
				o.degree[q[0]][q[1]] = true
			}
			a, b := w.headNode(x.a), w.headNode(x.b)
			if e := w.evidence(k); a.facts.forgotten(e) || b.facts.forgotten(e) {
				voidT[p] = max(voidT[p], x.t)
			} else if a.state.Admits(x.t) && b.state.Admits(x.t) {
				linkT[p] = max(linkT[p], x.t)
			}
		case graph.Remove:
			dropT[p] = max(dropT[p], x.t)
		case graph.Event:
			if n := w.headNode(x.a); n.state.Admits(x.t) {
				o.events[x.a]++
				if !slices.Contains(n.facts.events, uint32(k)) {
					w.fail("ORACLE: %d lacks event %d", x.a, k)
				}
			}
		}
	}
	for p, t := range linkT {
		if t > dropT[p] {
			o.linked[p] = true
			o.hazy[p] = t <= voidT[p]
		}
	}
	o.everyOf = w.components(ever)
	return o
}

// components numbers each identity by the least of its component.
func (w *world) components(edges []graph.Pair) []int {
	u := graph.NewUnion()
	for _, e := range edges {
		u.Join(e.A, e.B)
	}
	out := make([]int, w.n)
	for i := range out {
		out[i] = int(idOf(u.Root(id(i).hash())))
	}
	return out
}

// atRest checks that everything equals the batch computation, and every
// replica the head that never stopped. It gives the final state as text.
func (w *world) atRest(every, capped bool) string {
	for i := range id(w.n) {
		w.checkSettled(i, every)
	}
	if w.given != w.taken {
		w.fail("LOST: %d messages from outside, of which nodes took in %d", w.given, w.taken)
	}
	o := w.want()
	have := w.checkEdges(&o)
	w.checkRefusals(&o)
	for k, x := range w.ops {
		if d, ok := w.decided[uint64(k)+1]; x.kind == graph.Link && x.ask && x.put && !ok {
			w.fail("UNANSWERED: link %d of %d and %d", k, x.a, x.b)
		} else if ok && d.Linked && w.refused[pairOf(x.a, x.b)] > 0 && !slices.Contains(have, graph.Pair{A: min(x.a, x.b).hash(), B: max(x.a, x.b).hash()}) && o.linked[pairOf(x.a, x.b)] {
			w.stats.revoked++
		}
	}
	text := w.checkUsers(w.components(have))
	w.checkReplicas()
	return text
}

func (w *world) checkSettled(i id, every bool) {
	x := &w.headNode(i).state
	if len(x.Cuts) > 0 {
		w.fail("opt-out of %d never acknowledged: %+v", i, x.Cuts[0])
	}
	if !x.Settled() {
		w.fail("UNFINISHED at %d: links %+v waits %v owed %v asks %v questions %v", i, x.Links, x.Waits, x.Owed, x.Asks, x.Questions)
	}
	for _, l := range x.Links {
		if l.Mark == graph.RemovedMark && l.MarkGen == 0 {
			w.fail("UNFINISHED at %d: nobody confirmed the removal of %d", i, idOf(l.Peer))
		}
		if l.Mark == graph.CappedMark {
			w.fail("UNFINISHED at %d: the mark of %d was not forgotten: %+v", i, idOf(l.Peer), l)
		}
	}
	if len(x.Invited) > 0 {
		w.fail("UNFINISHED at %d: invited %v", i, x.Invited)
	}
	if len(x.Holders) > 1 || len(x.Holders) == 1 && x.Root == (graph.Hash{}) {
		w.fail("HOLDERS at rest of %d: %v", i, x.Holders)
	}
	if m := w.models[i]; m != nil && !every && (m.dark != x.Dark || m.gen != max(x.Gen, 1) || !m.dark && m.fence != x.Fence) {
		w.fail("MODEL: %d is dark=%v gen %d fence %d, want %+v", i, x.Dark, x.Gen, x.Fence, *m)
	}
}

// checkEdges compares the edges with the batch computation.
func (w *world) checkEdges(o *want) (have []graph.Pair) {
	found := map[pair]bool{}
	for i := range id(w.n) {
		n := w.headNode(i)
		for _, e := range n.state.Edges() {
			j := idOf(e.Peer)
			y := &w.headNode(j).state
			f := y.Link(i.hash())
			if f == nil || f.Stage != graph.Established || e.Gen != y.Gen || f.Gen != n.state.Gen {
				w.fail("ASYMMETRIC: %d@%d names %d@%d (now %d) but not the reverse", i, n.state.Gen, j, e.Gen, y.Gen)
			}
			if f != nil && (f.Client != e.Client || f.Method != e.Method || f.Confidence != e.Confidence) {
				w.fail("EVIDENCE: %d has %+v of %d, which has %+v", i, e.Evidence, j, f.Evidence)
			}
			p := pairOf(i, j)
			found[p] = true
			if !o.linked[p] {
				w.fail("ORACLE: edge %d-%d should not be", i, j)
			}
			if i < j {
				have = append(have, graph.Pair{A: i.hash(), B: e.Peer})
			}
		}
		if k := len(n.facts.events); !n.state.Dark && k != o.events[i] {
			w.fail("ORACLE: %d has %d events, want %d", i, k, o.events[i])
		}
	}
	for p := range o.linked {
		if !found[p] && w.refused[p] == 0 && !o.hazy[p] {
			w.fail("ORACLE: edge %v is missing and was not reported as refused", p)
		}
	}
	return have
}

// checkRefusals finds refusals without need.
func (w *world) checkRefusals(o *want) {
	for p := range w.refused {
		n := 0
		for i := range w.n {
			if o.everyOf[i] == o.everyOf[p[0]] {
				n++
			}
		}
		if n <= w.config.MembersMax && len(o.degree[p[0]]) <= w.config.EdgesMax && len(o.degree[p[1]]) <= w.config.EdgesMax {
			w.fail("CAP: %v refused without need", p)
		}
		w.stats.refused++
	}
}

// checkUsers compares roots, views and shown values with the components.
func (w *world) checkUsers(root []int) string {
	var text strings.Builder
	for i := range id(w.n) {
		x := &w.headNode(i).state
		fmt.Fprintf(&text, "%d dark=%v gen=%d;", i, x.Dark, max(x.Gen, 1))
		if x.Dark {
			continue
		}
		if got := idOf(x.RootOf(i.hash())); int(got) != root[i] {
			w.fail("ORACLE: root(%d)=%d, want %d", i, got, root[i])
			continue
		}
		var data []graph.Data
		for m := range id(w.n) {
			if root[m] == root[i] {
				data = append(data, w.headNode(m).facts.Data())
			}
		}
		value := x.Shown.Value
		if x.Shown == (graph.Shown{}) {
			value = aggregate([]graph.Data{w.headNode(i).facts.Data()})
		}
		if value != aggregate(data) {
			w.fail("VERDICT at rest: %d shows %x, want %x", i, value, aggregate(data))
		}
		w.checkView(i, id(root[i]), len(data))
		fmt.Fprintf(&text, "root=%d events=%v edges=", root[i], w.headNode(i).facts.events)
		for _, e := range x.Edges() {
			fmt.Fprintf(&text, "%d,", idOf(e.Peer))
		}
		fmt.Fprintf(&text, " shows=%x;", value)
	}
	return text.String()
}

// checkView compares the copy of i at its root with i's facts.
func (w *world) checkView(i, root id, members int) {
	r := &w.headNode(root).state
	if len(r.Members)+1 != members {
		w.fail("ORACLE: view of %d has %d members, want %d", root, len(r.Members)+1, members)
		return
	}
	if i == root {
		return
	}
	n := w.headNode(i)
	c := r.Copy(i.hash())
	if c == nil || c.Data != n.facts.Data() || !slices.EqualFunc(c.Edges, n.state.Edges(), func(a, b graph.Edge) bool {
		return a.Peer == b.Peer && a.Gen == b.Gen && a.Client == b.Client && a.Method == b.Method && a.Confidence == b.Confidence
	}) {
		w.fail("ORACLE: copy of %d at %d is old", i, root)
	}
}

// checkReplicas compares all replicas, and one made from a snapshot and the
// rest of the log, with the head.
func (w *world) checkReplicas() {
	for l, h := range w.heads {
		if d := h.unwritten(); d != "" {
			w.fail("UNWRITTEN: lane %d: %s", l, d)
		}
		for _, m := range w.machines {
			if d := h.differs(m.served[l].replica); d != "" {
				w.fail("REPLICA-DIVERGED: node %d lane %d: %s", m.id, l, d)
			}
		}
		r := newReplica(w, l, false, w.rng)
		if s := w.logs[l].snapshots; len(s) > 0 {
			r.restore(s[0])
		}
		for r.pos < len(w.logs[l].entries) {
			r.apply(w.logs[l].entries[r.pos])
		}
		if d := h.differs(r); d != "" {
			w.fail("RESTORE-DIVERGED: lane %d: %s", l, d)
		}
	}
}
