package engine

import (
	"cmp"
	"context"
	"slices"
	"strconv"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/internal/exports"
	"kith/proto"
	"kith/segments"
)

// sparseFrom is how many numbers lie between two that are named, on average,
// from which reading each costs less than reading all.
const sparseFrom = 8

// OpenAudience takes an audience out as it is now, each lane's part as of one
// commit, whose offset its manifest has. Close its names: until then ctx must
// live, and the store keeps what is replaced meanwhile. The caller bounds how
// many are open. Each segment is by one version in all lanes, or it is not exact.
func (n *Node) OpenAudience(ctx context.Context, client proto.ClientInfo, r *proto.ExportRequest) (*exports.Audience, error) {
	for tries := versionTries; ; tries-- {
		out, a, err := n.openAudience(ctx, client, r)
		if err != nil {
			return nil, err
		}
		if tries == 1 || out.Manifest.Exact || !n.registry.replaced(a.specs) {
			return out, nil
		}
		out.Names.Close()
	}
}

// replaced reports whether one of the versions does not answer any more.
func (r *registry) replaced(specs []proto.SegmentSpec) bool {
	now := r.current()
	return slices.ContainsFunc(specs, func(s proto.SegmentSpec) bool { return !now.inForce(s.Version) })
}

func (n *Node) openAudience(ctx context.Context, client proto.ClientInfo, r *proto.ExportRequest) (_ *exports.Audience, a audience, err error) {
	a, err = n.audience(client.ID, r.Expr) // with saved audiences written out
	if err != nil {
		return nil, a, err
	}
	if err := n.checkSince(client, a, r.Unit, r.Since); err != nil {
		return nil, a, err
	}
	if r.Unit == proto.UnitUsers {
		if err := n.usersReady(ctx); err != nil {
			return nil, a, err
		}
	}
	names, err := n.openNames(ctx)
	if err != nil {
		return nil, a, err
	}
	out := &exports.Audience{Names: names, Manifest: proto.ExportManifest{
		Client: client.Name, Expr: a.String(), Unit: proto.UnitIdentities, Time: n.config.Now().UTC(),
		Exact: true, Partitions: proto.Answered{Of: proto.Partitions}, Lanes: []proto.ExportLane{}, Segments: []proto.ExportSegment{},
	}}
	for _, s := range a.specs {
		out.Manifest.Segments = append(out.Manifest.Segments, proto.ExportSegment{ID: s.ID, Version: s.Version, Scope: s.Scope, When: s.When})
	}
	n.freezeAll(out, names, a, r)
	if err := n.mayAnswerAll(); err != nil {
		names.Close()
		return nil, a, err
	}
	return out, a, nil
}

// checkSince refuses an earlier export that cannot be compared with: numbers
// mean the same only in the same log, for the same client, and a recall must be of
// all lanes.
func (n *Node) checkSince(client proto.ClientInfo, a audience, unit string, since *proto.ExportSince) error {
	if since == nil {
		return nil
	}
	if since.Client != client.Name || since.Expr != a.String() {
		return proto.Errorf(proto.CodeConflict, "the earlier export is of another client or another expression: make a whole export")
	}
	if cmp.Or(since.Unit, proto.UnitIdentities) != cmp.Or(unit, proto.UnitIdentities) {
		return proto.Errorf(proto.CodeConflict, "the earlier export has another unit: make a whole export")
	}
	answered := map[proto.LaneID]bool{}
	for _, s := range since.Lanes {
		if int(s.Lane) >= len(n.lanes) || s.Log != n.lanes[s.Lane].logName {
			return proto.Errorf(proto.CodeConflict, "the earlier export is of another node, or of before a restore: make a whole export, and drop the earlier one")
		}
		if applied, _, _, _ := n.lanes[s.Lane].progress.get(); s.Offset > applied {
			return proto.Errorf(proto.CodeConflict, "the earlier export is ahead of this node: try again, or make a whole export")
		}
		answered[s.Lane] = true
	}
	if len(answered) < len(n.lanes) { // who is to be recalled of the others is not known
		return proto.Errorf(proto.CodeConflict, "the earlier export has %d of %d lanes: make a whole export", len(answered), len(n.lanes))
	}
	return nil
}

// freezeAll takes each lane's part out.
func (n *Node) freezeAll(out *exports.Audience, names *audienceNames, a audience, r *proto.ExportRequest) {
	m, users := &out.Manifest, r.Unit == proto.UnitUsers
	var linked []linkedMember
	position := proto.Position{}
	for _, l := range n.lanes {
		f, ok := l.freeze(a, users, r.Since != nil)
		if !ok {
			m.Exact = false
			continue
		}
		names.snaps[l.id] = f.snap
		m.Exact = m.Exact && f.exact
		m.Partitions.Answered += len(l.partitions)
		count := f.part.Set.GetCardinality()
		if users {
			if r.Members {
				f.part.Members = f.part.Set
			}
			f.part.Set = f.alone
			linked = append(linked, f.linked...)
		}
		m.Lanes = append(m.Lanes, proto.ExportLane{Lane: l.id, Log: l.logName, Offset: f.offset, Count: count})
		m.Count += count
		position[l.id] = f.offset
		out.Lanes = append(out.Lanes, f.part)
	}
	m.Position = position.String()
	if users {
		byUsers(out, linked, r.Members)
	}
}

// frozen is a lane's part of an audience with the commit that it is of.
type frozen struct {
	part   exports.Lane
	snap   *laneSnapshot
	offset proto.Offset
	exact  bool

	alone  *roaring.Bitmap // by users: those of the set that are alone
	linked []linkedMember  // and the others
}

// freeze takes a lane's part out as of one commit; false of a lane that stopped.
func (l *lane) freeze(a audience, users, known bool) (f frozen, ok bool) {
	var held *segments.Held // what is evaluated beside the lane's commits
	ok = l.atCommit(func(snap *laneSnapshot, applied proto.Offset) {
		keys := versionsOf(a.specs)
		f.exact, f.offset, f.snap = l.progress.allFilled(keys, l.node.registry.sinceOf(keys...)), applied, snap
		if !users {
			held = l.bitmaps.Hold(a.client, keys)
			return
		}
		l.bitmaps.View(func(get getBits, universe getUniverse) {
			f.part.Set = a.set(get, universe)
			f.alone, f.linked = l.users.linkedOf(l.id, f.part.Set)
			if known {
				f.part.Known = copyOf(universe(a.client))
			}
		})
	})
	if held != nil {
		defer held.Release()
		f.part.Set = a.set(held.Segment, held.Universe)
		if known {
			f.part.Known = copyOf(held.Universe(a.client))
		}
	}
	return f, ok
}

// atCommit calls fn while snapshot, offset and bitmaps are of one and the same
// commit; false, and without that, of a lane that stopped. The committer makes all
// three visible under visible, so none of them moves meanwhile. The snapshot is
// the caller's to release.
func (l *lane) atCommit(fn func(snap *laneSnapshot, applied proto.Offset)) bool {
	l.visible.RLock()
	defer l.visible.RUnlock()
	applied, _, _, fault := l.progress.get()
	if fault != nil {
		return false
	}
	fn(l.acquire(), applied)
	return true
}

// audienceNames are the snapshots of an open audience. It implements
// exports.Names.
type audienceNames struct {
	ctx   context.Context // of the audience: it lives as long
	snaps map[proto.LaneID]*laneSnapshot
	done  func()
}

func (n *Node) openNames(ctx context.Context) (*audienceNames, error) {
	ctx, done, err := n.working(ctx)
	if err != nil {
		return nil, err
	}
	return &audienceNames{ctx: ctx, snaps: map[proto.LaneID]*laneSnapshot{}, done: done}, nil
}

// Close implements exports.Names.
func (x *audienceNames) Close() {
	for _, s := range x.snaps {
		s.release()
	}
	x.snaps = nil
	x.done()
}

// Name implements exports.Names.
func (x *audienceNames) Name(lane proto.LaneID, ordinals []uint32, fn func(proto.Ordinal, []byte)) error {
	if len(ordinals) == 0 {
		return nil
	}
	snap := x.snaps[lane]
	if snap == nil {
		return proto.Errorf(proto.CodeInternal, "lane %s is no part of the audience", lane)
	}
	span := uint64(ordinals[len(ordinals)-1]-ordinals[0]) + 1
	if span/sparseFrom > uint64(len(ordinals)) {
		return x.nameEach(snap, lane, ordinals, fn)
	}
	return x.nameRange(snap, lane, ordinals, fn)
}

func nameless(lane proto.LaneID, o uint32) error {
	return proto.Errorf(proto.CodeCorrupt, "number %d of lane %s is in a bitmap and names nobody: run kith verify", o, lane)
}

// nameEach reads one after another.
func (x *audienceNames) nameEach(snap *laneSnapshot, lane proto.LaneID, ordinals []uint32, fn func(proto.Ordinal, []byte)) error {
	for _, o := range ordinals {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		found, err := snap.Get(ordinalKey(lane, proto.Ordinal(o)), func(v []byte) error {
			_, id, err := splitOrdinal(v)
			if err == nil {
				fn(proto.Ordinal(o), id)
			}
			return err
		})
		if err != nil {
			return err
		}
		if !found {
			return nameless(lane, o)
		}
	}
	return nil
}

// nameRange reads all from the first to the last.
func (x *audienceNames) nameRange(snap *laneSnapshot, lane proto.LaneID, ordinals []uint32, fn func(proto.Ordinal, []byte)) error {
	rest := ordinals
	err := snap.Scan(laneKey(lane, 'o'), ordinalKey(lane, proto.Ordinal(ordinals[0])), func(k, v []byte) (bool, error) {
		switch o := uint32(ordinalOf(k)); {
		case o < rest[0]:
			return true, x.ctx.Err()
		case o > rest[0]:
			return false, nil
		}
		_, id, err := splitOrdinal(v)
		if err != nil {
			return false, err
		}
		fn(proto.Ordinal(rest[0]), id)
		rest = rest[1:]
		return len(rest) > 0, x.ctx.Err()
	})
	if err == nil && len(rest) > 0 {
		err = nameless(lane, rest[0])
	}
	return err
}

// logNameOf names a lane's log: by when its stream was made, which no other
// that the same numbers could be of shares.
func logNameOf(createdNs int64) string { return strconv.FormatInt(createdNs, 36) }
