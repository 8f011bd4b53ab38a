package engine

import (
	"cmp"
	"context"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/actors"
	"kith/actors/identity"
	"kith/graph"
	"kith/proto"
)

// This file makes campaign reports: it goes through the histories that a client
// keeps, each lane as of one commit, person by person, in the memory of one
// person and of the report's own numbers.

const (
	campaignPause   = 64                    // identities, after which others get their turn
	campaignEvents  = 1024                  // events, after which they do too
	campaignRest    = 4                     // times as long as it worked it rests while events come
	campaignRestMax = 20 * time.Millisecond // at once
	frequencyBins   = 10                    // one to nine impressions, and more
)

// CampaignReport counts what became of a campaign. With a floor nothing is told of
// fewer users than it, in either unit, and CodeFloor is the answer where it and
// another report of the day would tell of so few by their difference.
func (n *Node) CampaignReport(ctx context.Context, client proto.ClientInfo, r *proto.CampaignRequest, floor int) (proto.CampaignReport, error) {
	spec, err := specOf(r)
	if err != nil {
		return proto.CampaignReport{}, err
	}
	ctx, done, err := n.working(ctx)
	if err != nil {
		return proto.CampaignReport{}, err
	}
	defer done()
	over, err := n.campaigns.turn(ctx, client.ID)
	if err != nil {
		return proto.CampaignReport{}, err
	}
	defer over()
	if floor <= 0 {
		c, err := n.makeCampaign(ctx, client, &spec, &campaignTold{}, 0)
		defer c.close()
		if err != nil {
			return proto.CampaignReport{}, err
		}
		return c.tellNow(0)
	}
	if size := len(spec.conversion.String()); size > campaignConditionMax {
		return proto.CampaignReport{}, proto.Errorf(proto.CodeRule, "written out the condition of conversions has %d bytes: a client's key may send at most %d", size, campaignConditionMax)
	}
	for range campaignTries {
		if out, ok, err := n.decideCampaign(ctx, client, &spec, floor); ok || err != nil {
			return out, err
		}
	}
	return proto.CampaignReport{}, proto.Errorf(proto.CodeOverloaded, "too many reports are under way: try again")
}

// decideCampaign makes a report that may be told beside those that were; without ok
// another one was told meanwhile, by another node.
func (n *Node) decideCampaign(ctx context.Context, client proto.ClientInfo, s *campaignSpec, floor int) (out proto.CampaignReport, ok bool, err error) {
	told, err := n.registry.campaignTold(client.ID, s, proto.DayOf(n.config.Now()))
	if err != nil {
		return out, false, err
	}
	c, err := n.makeCampaign(ctx, client, s, &told, floor)
	defer c.close()
	if err != nil {
		return out, false, err
	}
	if ok, err = n.tellCampaign(ctx, client.ID, s, &told); !ok || err != nil {
		return out, false, err
	}
	if n.campaigns.told != nil {
		n.campaigns.told()
	}
	if err := c.takeBack(ctx); err != nil { // who was forgotten while that was written down
		return out, false, err
	}
	if err := c.checkRivals(uint64(floor)); err != nil {
		return out, false, err
	}
	out, err = c.tellNow(floor)
	return out, err == nil, err
}

// makeCampaign counts, and compares with rivals. The scan is to be closed, with an
// error too.
func (n *Node) makeCampaign(ctx context.Context, client proto.ClientInfo, s *campaignSpec, told *campaignTold, floor int) (*campaignScan, error) {
	c := newCampaignScan(n, client, s)
	c.rivals, c.before, c.self, c.specs = told.rivals, told.before, told.self, []*campaignSpec{s}
	wide := *s
	wide.by = ""
	for _, r := range told.rivals {
		c.specs = append(c.specs, &r.spec)
		wide.first, wide.last = min(wide.first, r.spec.first), max(wide.last, r.spec.last)
	}
	if c.self != nil && (wide.first != s.first || wide.last != s.last) {
		c.wide = len(c.specs)
		c.specs = append(c.specs, &wide)
	}
	c.paths = make([]path, len(c.specs))
	if err := c.run(ctx); err != nil {
		return c, err
	}
	if err := c.checkRivals(uint64(max(floor, 0))); err != nil {
		return c, err
	}
	return c, n.mayAnswerAll() // before it is written down
}

// tellNow is the report, if the node may answer still.
func (c *campaignScan) tellNow(floor int) (proto.CampaignReport, error) {
	out := c.tell(floor)
	if err := c.node.mayAnswerAll(); err != nil {
		return proto.CampaignReport{}, err
	}
	return out, nil
}

// turn waits until no other report goes through all histories. over ends it.
func (c *campaigns) turn(ctx context.Context, client proto.ClientID) (over func(), err error) {
	over, ok := c.queue.Begin(ctx, client)
	if !ok {
		return nil, proto.Errorf(proto.CodeOverloaded, "other reports are under way: try again: %w", ctx.Err())
	}
	return over, nil
}

// met is how many met a cell, and how often.
type met struct {
	events, people uint64 // people in the unit asked for
	users          uint64
}

// campaignScan is one report under way.
type campaignScan struct {
	ctx    context.Context // ends the reading of histories
	node   *Node
	client proto.ClientInfo
	spec   *campaignSpec
	rivals []*campaignRival
	before int            // how many of them were told before it
	self   *campaignRival // it is its own one too; nil without a floor
	time   time.Time
	lanes  []*campaignLane // by lane; nil: it does not answer

	cells     map[campaignCell]*met
	values    map[string]bool
	truncated bool
	// Identities or users by how many impressions they had, of the last bin or
	// more; and how many users are in any of the bins from one to another.
	frequency      [frequencyBins]uint64
	frequencyUsers [frequencyBins][frequencyBins]uint64
	elsewhere      map[campaignCell]bool   // days' cells that rivals tell which were before it
	parts          map[campaignCell]uint64 // users, of parts of conversions

	gone  []*roaring.Bitmap // by lane: who is taken back
	turns turns

	specs []*campaignSpec // this report's, its rivals', and where it has a floor and they have other days its own over those of all
	wide  int             // the last of these, or 0: its own has all days

	// scratch
	paths  []path // by specs
	names  nameSet
	counts counts
}

// campaignLane is a lane as of one commit.
type campaignLane struct {
	*lane
	client  proto.ClientID
	snap    *laneSnapshot
	offset  proto.Offset
	known   *roaring.Bitmap
	dropped *roaring.Bitmap // of whom the client had erased what it knew since; held.mu guards it
}

// heldHistories are those of a lane that are held.
type heldHistories struct {
	mu   sync.Mutex
	list []*campaignLane
}

func newCampaignScan(n *Node, client proto.ClientInfo, s *campaignSpec) *campaignScan {
	c := &campaignScan{
		node: n, client: client, spec: s, time: n.config.Now().UTC(), lanes: make([]*campaignLane, len(n.lanes)),
		cells: map[campaignCell]*met{}, parts: map[campaignCell]uint64{}, values: map[string]bool{}, names: nameSet{}, counts: counts{}, gone: n.noneByLane(), turns: turns{node: n},
	}
	for i, l := range n.lanes {
		c.lanes[i] = l.holdHistories(client.ID)
	}
	return c
}

// holdHistories takes snapshot, universe and offset of one and the same commit,
// nil of a lane that stopped.
func (l *lane) holdHistories(client proto.ClientID) (h *campaignLane) {
	l.atCommit(func(snap *laneSnapshot, applied proto.Offset) {
		h = &campaignLane{lane: l, client: client, snap: snap, offset: applied, known: l.known(client), dropped: roaring.New()}
		l.held.mu.Lock()
		l.held.list = append(l.held.list, h)
		l.held.mu.Unlock()
	})
	return h
}

func (h *campaignLane) release() {
	h.held.mu.Lock()
	h.held.list = slices.DeleteFunc(h.held.list, func(x *campaignLane) bool { return x == h })
	h.held.mu.Unlock()
	h.snap.release()
}

// dropped notes for those who hold histories of whom something went. The bits do not
// tell if the client knows of them again, or of their user.
func (x *heldHistories) dropped(outcomes []*actors.Outcome) {
	for _, o := range outcomes {
		for _, d := range o.Dropped {
			x.mu.Lock()
			for _, h := range x.list {
				if h.client == d.Client {
					h.dropped.Add(uint32(d.Ordinal))
				}
			}
			x.mu.Unlock()
		}
	}
}

// gone are those of the known who are not any more, or are anew.
func (h *campaignLane) gone() *roaring.Bitmap {
	gone := roaring.AndNot(h.known, h.lane.known(h.client))
	h.held.mu.Lock()
	defer h.held.mu.Unlock()
	gone.Or(roaring.And(h.known, h.dropped))
	return gone
}

func (c *campaignScan) close() {
	for _, l := range c.lanes {
		if l != nil {
			l.release()
		}
	}
}

func (c *campaignScan) run(ctx context.Context) error {
	c.ctx = ctx
	for _, l := range c.lanes {
		if l == nil {
			continue
		}
		it := l.known.Iterator()
		for i := 0; it.HasNext(); i++ {
			if i%campaignPause == 0 {
				if err := c.turns.give(ctx); err != nil {
					return err
				}
			}
			if err := c.ordinal(l, proto.Ordinal(it.Next())); err != nil {
				return err
			}
		}
	}
	if c.node.campaigns.scanned != nil {
		c.node.campaigns.scanned()
	}
	return c.takeBack(ctx)
}

// turns lets others have theirs while a report goes through all histories.
type turns struct {
	node   *Node
	events uint64    // that were taken in when it last gave way
	began  time.Time // to work after that
	walked int       // events, since the start
}

// event is called for each event that is gone through: one identity may have many.
func (t *turns) event(ctx context.Context) error {
	if t.walked++; t.walked%campaignEvents == 0 {
		return t.give(ctx)
	}
	return ctx.Err()
}

// give lets others run: while events come for most of the time.
func (t *turns) give(ctx context.Context) error {
	runtime.Gosched()
	events := uint64(0)
	for _, l := range t.node.lanes {
		events += l.events.Load()
	}
	if worked := time.Since(t.began); events != t.events {
		pause(ctx, min(campaignRest*worked, campaignRestMax))
	}
	t.events, t.began = events, time.Now()
	return givenUp(ctx)
}

func givenUp(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return proto.Errorf(proto.CodeTimeout, "the report was given up: %w", err)
	}
	return nil
}

func (c *campaignScan) ordinal(l *campaignLane, o proto.Ordinal) error {
	node, found, err := l.nodeOf(l.snap, o)
	if err != nil || !found {
		return err
	}
	p, err := c.person(node)
	if err == nil && p != nil && p.nodes[0].node == node {
		err = c.count(p, 1)
	}
	return err
}

// person is who is one, as far as the client knows anything of them.
type person struct{ nodes []known }

// known is a node of which the client has facts.
type known struct {
	node  proto.Node
	state identity.State
}

// person finds the user of a node, the least of whose nodes is the first: by it
// the user is counted once. Nil if the client knows nothing of it.
func (c *campaignScan) person(node proto.Node) (*person, error) {
	self, _, err := c.read(node)
	if err != nil || self.Dark() {
		return nil, err
	}
	p := &person{}
	add := func(n proto.Node, s identity.State) {
		if s.Client(c.client.ID) != nil {
			p.nodes = append(p.nodes, known{n, s})
		}
	}
	add(node, self)
	if self.Follows {
		root := self.Graph.RootOf(node.Hash)
		if err := c.others(root, node, add); err != nil {
			return nil, err
		}
	}
	if len(p.nodes) == 0 {
		return nil, nil
	}
	slices.SortFunc(p.nodes, func(a, b known) int { return slices.Compare(a.node.Hash[:], b.node.Hash[:]) })
	return p, nil
}

// others calls add with the other nodes of a root's user, which say so themselves.
func (c *campaignScan) others(root graph.Hash, self proto.Node, add func(proto.Node, identity.State)) error {
	at := proto.Node{Hash: root, Space: self.Space}
	s, members, err := c.read(at)
	if err != nil || s.Dark() || s.Graph == nil || s.Graph.RootOf(root) != root {
		return err
	}
	for _, h := range append(members, root) {
		n := proto.Node{Hash: h, Space: self.Space}
		if n == self {
			continue
		}
		x, _, err := c.read(n)
		if err != nil {
			return err
		}
		if !x.Dark() && x.Follows && x.Graph.RootOf(h) == root {
			add(n, x)
		}
	}
	return nil
}

// read reads a node as its lane was held; of a lane that does not answer nothing
// is known.
func (c *campaignScan) read(n proto.Node) (s identity.State, members []graph.Hash, err error) {
	l := c.lanes[c.node.laneFor(n.Hash).id]
	if l == nil {
		return s, nil, nil
	}
	return readNode(l.snap, n)
}

// count adds a person, or with sign -1 takes one back.
func (c *campaignScan) count(p *person, sign int) error {
	sums := make([]personSum, len(c.specs))
	for i := range sums {
		sums[i] = personSum{events: counts{}, units: counts{}}
	}
	made := counts{}
	ours, err := c.each(p, func(i int, x *path) {
		clear(c.counts)
		x.count(c.specs[i], c.counts)
		if i == 0 {
			c.unit(sign)
			if c.self != nil {
				x.parts(c.spec, made)
			}
		}
		sums[i].add(c.counts)
	})
	if err != nil || !ours {
		return err
	}
	for x := range made {
		c.parts[x] += uint64(sign)
	}
	whole := &sums[0]
	for x := range whole.events {
		c.cell(x).users += uint64(sign)
	}
	for from := range frequencyBins {
		for to := frequencyBins - 1; to >= from && slices.Max(whole.bins[from:to+1]) > 0; to-- {
			c.frequencyUsers[from][to] += uint64(sign)
		}
	}
	wide := &sums[c.wide]
	for i, r := range c.rivals {
		r.compare(whole, wide, &sums[i+1], sign)
	}
	if c.self != nil {
		c.self.compare(whole, wide, whole, sign)
	}
	return nil
}

// personSum is what a person comes to in a report.
type personSum struct {
	events counts                // of each cell
	units  counts                // identities, or the user, that met it
	bins   [frequencyBins]uint64 // of those, by how many impressions they had
}

// add adds what one identity or the user did.
func (s *personSum) add(did counts) {
	for x, n := range did {
		s.events[x] += n
		s.units[x]++
	}
	if n := did[campaignCell{metric: metricImpressions}]; n > 0 {
		s.bins[min(n, frequencyBins)-1]++
	}
}

// each reads what a person did once, and calls fn for each of the specs with the
// path of each identity, or of the user. Without an event of the campaign, which
// all of them are about, there is nothing to count.
func (c *campaignScan) each(p *person, fn func(i int, x *path)) (ours bool, err error) {
	for i := range c.paths {
		c.paths[i].reset()
	}
	for k := range p.nodes {
		mine, err := c.walk(&p.nodes[k])
		if err != nil {
			return false, err
		}
		ours = ours || mine
		for i, s := range c.specs {
			if !s.users || k == len(p.nodes)-1 {
				fn(i, &c.paths[i])
				c.truncated = c.truncated || i == 0 && (c.paths[i].cut > 0 || c.paths[i].cutConversions > 0)
				c.paths[i].reset()
			}
		}
	}
	return ours, nil
}

// unit counts what is in the scratch counts as one identity or user.
func (c *campaignScan) unit(sign int) {
	for x, n := range c.counts {
		if v := c.valueOf(x.value); v != x.value {
			delete(c.counts, x)
			x.value = v
			c.counts[x] += n
		}
	}
	for x, n := range c.counts {
		m := c.cell(x)
		m.events += n * uint64(sign)
		m.people += uint64(sign)
	}
	if n := c.counts[campaignCell{metric: metricImpressions}]; n > 0 {
		c.frequency[min(n, frequencyBins)-1] += uint64(sign)
	}
}

// valueOf is the value if there is room for it, else none.
func (c *campaignScan) valueOf(v string) string {
	if v != "" && !c.values[v] {
		if len(c.values) >= campaignValuesMax {
			return ""
		}
		c.values[v] = true
	}
	return v
}

func (c *campaignScan) cell(x campaignCell) *met {
	m := c.cells[x]
	if m == nil {
		m = &met{}
		c.cells[x] = m
	}
	return m
}

// walk takes what a node did to the paths; ours: some of it was of the campaign.
func (c *campaignScan) walk(k *known) (ours bool, err error) {
	f := k.state.Client(c.client.ID)
	h := history{snap: c.lanes[c.node.laneFor(k.node.Hash).id].snap, node: k.node, gen: k.state.Gen(), facts: f}
	h.walk(func(t proto.Millis, e *proto.EventBody) bool {
		v, ok := e.Prop("campaign")
		mine := ok && v.String() == c.spec.campaign
		as := c.paths[0].take(c.specs[0], c.names, t, e, mine)
		if c.self != nil {
			wide := as
			if c.wide > 0 {
				wide = c.paths[c.wide].take(c.specs[c.wide], c.names, t, e, mine)
			}
			c.self.meet(as, wide, as)
			for i, r := range c.rivals {
				r.meet(as, wide, c.paths[i+1].take(&r.spec, c.names, t, e, mine))
			}
		}
		ours = ours || mine
		return c.turns.event(c.ctx) == nil
	})
	c.truncated = c.truncated || f.History.Truncated
	return ours, cmp.Or(h.err, givenUp(c.ctx))
}

// takeBackRounds bounds how often it is looked whether more were forgotten.
const takeBackRounds = 4

var errErasedMeanwhile = proto.Errorf(proto.CodeOverloaded, "identities were erased all the while this was counted: try again")

// takeBack takes those back who were forgotten while the report was made, such as
// by an opt-out: what was acknowledged is not told. CodeOverloaded if there are
// more of them each time.
func (c *campaignScan) takeBack(ctx context.Context) error {
	for range takeBackRounds {
		if c.node.campaigns.looked != nil {
			c.node.campaigns.looked()
		}
		gone := make([]*roaring.Bitmap, len(c.lanes))
		var more []proto.Node
		for i, l := range c.lanes {
			if l == nil {
				continue
			}
			gone[i] = l.gone()
			it := roaring.AndNot(gone[i], c.gone[i]).Iterator()
			gone[i].Or(c.gone[i])
			for it.HasNext() {
				node, found, err := l.nodeOf(l.snap, proto.Ordinal(it.Next()))
				if err != nil {
					return err
				}
				if found {
					more = append(more, node)
				}
			}
		}
		if len(more) == 0 {
			return nil
		}
		if err := c.without(ctx, more, gone); err != nil {
			return err
		}
		c.gone = gone
	}
	return errErasedMeanwhile
}

// without counts the persons of nodes that are gone anew, without those.
func (c *campaignScan) without(ctx context.Context, nodes []proto.Node, gone []*roaring.Bitmap) error {
	done := map[proto.Node]bool{}
	for _, node := range nodes {
		if err := ctx.Err(); err != nil {
			return proto.Errorf(proto.CodeTimeout, "the report was given up: %w", err)
		}
		p, err := c.person(node)
		if err != nil {
			return err
		}
		if p == nil || done[p.nodes[0].node] {
			continue
		}
		done[p.nodes[0].node] = true
		if err := c.count(c.left(p, c.gone), -1); err != nil {
			return err
		}
		if err := c.count(c.left(p, gone), 1); err != nil {
			return err
		}
	}
	return nil
}

// left is a person without the nodes that are gone.
func (c *campaignScan) left(p *person, gone []*roaring.Bitmap) *person {
	out := &person{}
	for _, k := range p.nodes {
		if !gone[c.node.laneFor(k.node.Hash).id].Contains(uint32(k.state.Ordinal)) {
			out.nodes = append(out.nodes, k)
		}
	}
	return out
}
