package engine

import (
	"context"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/engine/store"
	"kith/proto"
	"kith/segments"
)

// Bounds of a preview.
const (
	previewMax  = 20_000 // identities that are judged
	previewTime = 10 * time.Second
)

// Preview tells what defining s would change, and changes nothing. The rule is
// read plainly over the history that is kept, whether s is to be filled from
// it or not; beyond previewMax identities over some, drawn evenly by their
// numbers. What time it takes is bounded, too: then those of the lowest numbers
// were judged.
func (n *Node) Preview(ctx context.Context, client proto.ClientInfo, s proto.SegmentSpec) (proto.SegmentPreview, error) {
	ctx, done, err := n.working(ctx)
	if err != nil {
		return proto.SegmentPreview{}, err
	}
	defer done()
	scope, rule, err := parseSpec(s)
	if err != nil {
		return proto.SegmentPreview{}, err
	}
	s.Scope = scope.String()
	cost, err := n.checkSpec(client, segments.Definition{ID: s.ID, Scope: scope, Rule: rule}, s.Backfill)
	if err != nil {
		return proto.SegmentPreview{}, err
	}
	p := preview{node: n, client: client, spec: s, rule: rule, now: n.now()}
	out, err := p.judge(ctx)
	out.Cost = cost
	return out, err
}

// checkSpec says what Define would, and what the rule would cost.
func (n *Node) checkSpec(client proto.ClientInfo, d segments.Definition, backfill bool) (cost int, err error) {
	n.registry.mu.Lock()
	defer n.registry.mu.Unlock()
	if err := n.mayDefine(client, d, backfill, n.registry.checkImported); err != nil {
		return 0, err
	}
	return n.registry.rules.program(client.ID).AheadOf(d)
}

// preview is one under way.
type preview struct {
	node   *Node
	client proto.ClientInfo
	spec   proto.SegmentSpec
	rule   *segments.Rule
	now    proto.Millis

	judged, before, after, entering, leaving uint64
}

func (p *preview) judge(ctx context.Context) (proto.SegmentPreview, error) {
	known := make([]*roaring.Bitmap, len(p.node.lanes))
	var total uint64
	for i, l := range p.node.lanes {
		known[i] = l.known(p.client.ID)
		total += known[i].GetCardinality()
	}
	step := max(1, (total+previewMax-1)/previewMax)
	for i, l := range p.node.lanes {
		if err := p.lane(ctx, l, known[i], step); err != nil {
			return proto.SegmentPreview{}, err
		}
	}
	if err := p.node.mayAnswerAll(); err != nil {
		return proto.SegmentPreview{}, err
	}
	return p.result(total), nil
}

// known is a copy of the client's universe in the lane.
func (l *lane) known(client proto.ClientID) *roaring.Bitmap {
	var set *roaring.Bitmap
	l.bitmaps.View(func(_ getBits, universe getUniverse) { set = copyOf(universe(client)) })
	return set
}

// copyOf is a copy of a bitmap, which may be nil.
func copyOf(bits *roaring.Bitmap) *roaring.Bitmap {
	if bits == nil {
		return roaring.New()
	}
	return bits.Clone()
}

// lane judges every step-th of a lane's identities, as far as the lane's share
// of the time reaches.
func (p *preview) lane(ctx context.Context, l *lane, known *roaring.Bitmap, step uint64) error {
	limit, cancel := context.WithTimeout(ctx, previewTime/time.Duration(len(p.node.lanes)))
	defer cancel()
	snap := l.acquire()
	defer snap.release()
	it := known.Iterator()
	for i := uint64(0); it.HasNext(); i++ {
		o := proto.Ordinal(it.Next())
		if i%step != 0 {
			continue
		}
		err := p.ordinal(limit, snap, l, o)
		switch {
		case ctx.Err() != nil:
			return proto.Errorf(proto.CodeTimeout, "the preview was given up: %w", ctx.Err())
		case limit.Err() != nil:
			return nil
		case err != nil:
			return err
		}
	}
	return nil
}

func (p *preview) ordinal(ctx context.Context, snap store.Snapshot, l *lane, o proto.Ordinal) error {
	node, found, err := l.nodeOf(snap, o)
	if err != nil || !found { // cut since the universe was copied
		return err
	}
	return p.one(ctx, node)
}

// one judges an identity before and after.
func (p *preview) one(ctx context.Context, node proto.Node) error {
	e := explained{ctx: ctx, node: p.node, client: p.client, spec: p.spec}
	old := p.node.registry.specsAt(p.client.ID, p.spec.ID, p.node.obeyedBy(node))
	if err := e.read(node); err != nil || e.state.Dark() {
		return err
	}
	after, err := e.holds(p.rule, p.now, e.ruleNow)
	if err != nil {
		return err
	}
	before := slices.ContainsFunc(old, func(s proto.SegmentSpec) bool { return e.in(&s, p.now) })
	p.judged++
	p.before, p.after = p.before+flag64(before), p.after+flag64(after)
	p.entering, p.leaving = p.entering+flag64(after && !before), p.leaving+flag64(before && !after)
	return nil
}

func flag64(v bool) uint64 { return uint64(flag(v)) }

func (p *preview) result(total uint64) proto.SegmentPreview {
	scaled := func(n uint64) *uint64 {
		if p.judged > 0 && p.judged < total {
			n = uint64(float64(n)*float64(total)/float64(p.judged) + 0.5)
		}
		return &n
	}
	return proto.SegmentPreview{
		ID: p.spec.ID, Identities: &total, Judged: p.judged, Exact: p.judged >= total,
		Before: scaled(p.before), After: scaled(p.after), Entering: scaled(p.entering), Leaving: scaled(p.leaving),
	}
}
