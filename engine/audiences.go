package engine

import (
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/internal/cores"
	"kith/proto"
	"kith/segments"
)

// getBits and getUniverse are what segments.Bitmaps.View gives.
type (
	getBits     = func(proto.SegmentKey) *roaring.Bitmap
	getUniverse = func(proto.ClientID) *roaring.Bitmap
)

// audience is an expression with the segments that it names, ready to evaluate.
type audience struct {
	*segments.Audience
	client proto.ClientID
	specs  []proto.SegmentSpec                  // in the order of their first mention
	keys   map[proto.SegmentID]proto.SegmentKey // nil: they are few
}

// specsFew is how many segments are found as fast without a map.
const specsFew = 16

// key is the version of a segment that a names, 0 if it does not.
func (a *audience) key(id proto.SegmentID) proto.SegmentKey {
	if a.keys != nil {
		return a.keys[id]
	}
	for i := range a.specs {
		if a.specs[i].ID == id {
			return a.specs[i].Version
		}
	}
	return 0
}

func (a *audience) bits(get getBits) func(proto.SegmentID) *roaring.Bitmap {
	return func(id proto.SegmentID) *roaring.Bitmap { return get(a.key(id)) }
}

func (a audience) set(get getBits, universe getUniverse) *roaring.Bitmap {
	return a.Eval(a.bits(get), universe(a.client))
}

// audience reads an expression of the client, with its saved audiences.
func (n *Node) audience(client proto.ClientID, expr string) (audience, error) {
	a, err := segments.ParseAudience(expr)
	if err == nil {
		a, err = a.Expand(func(id proto.AudienceID) (*segments.Audience, error) { return n.registry.savedAudience(client, id) })
	}
	if err != nil {
		return audience{}, err
	}
	return n.named(client, a)
}

// named finds the segments of an expanded expression.
func (n *Node) named(client proto.ClientID, a *segments.Audience) (audience, error) {
	specs, err := n.registry.specsOf(client, a.Segments())
	out := audience{Audience: a, client: client, specs: specs}
	if len(specs) > specsFew {
		out.keys = make(map[proto.SegmentID]proto.SegmentKey, len(specs))
		for i := range specs {
			out.keys[specs[i].ID] = specs[i].Version
		}
	}
	return out, err
}

// specsOf are the definitions in force of segments of the client.
func (r *registry) specsOf(c proto.ClientID, ids []proto.SegmentID) ([]proto.SegmentSpec, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	specs := make([]proto.SegmentSpec, len(ids))
	for i, id := range ids {
		s, ok := r.specs[c][id]
		if !ok {
			return nil, notDefined(id)
		}
		specs[i] = s
	}
	return specs, nil
}

func versionsOf(specs []proto.SegmentSpec) []proto.SegmentKey {
	keys := make([]proto.SegmentKey, len(specs))
	for i := range specs {
		keys[i] = specs[i].Version
	}
	return keys
}

func notDefined(id proto.SegmentID) error {
	return proto.Errorf(proto.CodeNotFound, "segment %q is not defined: define it, or see the list of segments", id)
}

func checkUnit(unit string) error {
	if unit != "" && unit != "identities" && unit != "users" {
		return proto.Errorf(proto.CodeInvalid, "unit %q is unknown: use identities or users", unit)
	}
	return nil
}

// answering are the lanes that answer, how much of the hash space they are, and
// whether they have gone through history for the segments.
func (n *Node) answering(keys []proto.SegmentKey) (lanes []*lane, part proto.Answered, exact bool) {
	part.Of, exact = proto.Partitions, true
	since := n.registry.sinceOf(keys...)
	for _, l := range n.lanes {
		if l.stopped() {
			exact = false
			continue
		}
		exact = exact && l.progress.allFilled(keys, since)
		lanes = append(lanes, l)
		part.Answered += len(l.partitions)
	}
	return lanes, part, exact
}

// allFilled reports whether history was gone through for all of the versions,
// each after the record that since has for it.
func (p *progress) allFilled(keys, since []proto.SegmentKey) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, k := range keys {
		if f := p.fills[k]; !f.exact() || f.since < since[i] {
			return false
		}
	}
	return true
}

// Count sizes an audience: the sum over the lanes.
func (n *Node) Count(ctx context.Context, client proto.ClientInfo, expr, unit string) (proto.Count, error) {
	c, err := n.Counts(ctx, client, []string{expr}, unit)
	if err != nil {
		return proto.Count{}, err
	}
	return proto.Count{Count: c.Counts[0].Count, Exact: c.Exact, Partitions: c.Partitions}, nil
}

// went reports whether a lane has let go of one of the versions: what was counted
// of it in some lanes and not in others is no answer.
func went(lanes []*lane, keys []proto.SegmentKey) bool {
	for _, l := range lanes {
		for _, k := range keys {
			if _, there := l.progress.fill(k); !there {
				return true
			}
		}
	}
	return false
}

// Counts sizes several audiences, by identities as of one moment of each lane,
// and by one version of each segment in all of them.
func (n *Node) Counts(ctx context.Context, client proto.ClientInfo, exprs []string, unit string) (out proto.Counts, err error) {
	if err := checkUnit(unit); err != nil {
		return out, err
	}
	for again, tries := true, versionTries; again && tries > 0; tries-- {
		if out, again, err = n.counts(ctx, client, exprs, unit); err != nil {
			return proto.Counts{}, err
		}
	}
	return out, n.mayAnswerAll()
}

// counts is one try; again says that a segment's version was replaced under it,
// so that it is not exact.
func (n *Node) counts(ctx context.Context, client proto.ClientInfo, exprs []string, unit string) (out proto.Counts, again bool, err error) {
	list := make([]audience, len(exprs))
	var keys []proto.SegmentKey
	mentions := 0
	for i, expr := range exprs {
		if list[i], err = n.audience(client.ID, expr); err != nil {
			return out, false, err
		}
		keys = append(keys, versionsOf(list[i].specs)...)
		mentions += list[i].Mentions()
	}
	long := mentions > longMentions
	if long {
		if unit == "users" { // before anything is held
			for _, l := range n.lanes {
				if err := l.users.ready(ctx); err != nil {
					return out, false, err
				}
			}
		}
		end, err := n.longTurn(ctx, client.ID)
		if err != nil {
			return out, false, err
		}
		defer end()
	}
	lanes, part, exact := n.answering(keys)
	var sums []uint64
	if long {
		sums, err = heldSums(ctx, list, keys, lanes, unit)
	} else {
		sums, err = n.sums(ctx, list, lanes, unit)
	}
	if err != nil {
		return out, false, err
	}
	again = went(lanes, keys)
	out.Exact, out.Partitions = exact && !again, part
	for i := range exprs {
		out.Counts = append(out.Counts, proto.ExprCount{Expr: exprs[i], Count: &sums[i]})
	}
	return out, again, nil
}

func (n *Node) sums(ctx context.Context, list []audience, lanes []*lane, unit string) ([]uint64, error) {
	sums := make([]uint64, len(list))
	if unit != "users" {
		for _, l := range lanes {
			l.addCounts(list, sums)
		}
		return sums, ctx.Err()
	}
	for i, a := range list {
		var err error
		if sums[i], err = countUsers(ctx, lanes, a.set); err != nil {
			return nil, err
		}
	}
	return sums, nil
}

// heldSums is sums for what takes long, over the segments of keys: the lanes go on meanwhile.
func heldSums(ctx context.Context, list []audience, keys []proto.SegmentKey, lanes []*lane, unit string) ([]uint64, error) {
	held := make([]*segments.Held, len(lanes))
	for i, l := range lanes {
		held[i] = l.bitmaps.Hold(list[0].client, keys)
		defer held[i].Release()
	}
	sums := make([]uint64, len(list))
	for i := range list {
		a := &list[i]
		if unit == "users" {
			var err error
			sums[i], err = distinctUsers(ctx, lanes, math.MaxUint64, func(k int, count func(*roaring.Bitmap)) {
				count(a.set(held[k].Segment, held[k].Universe))
			})
			if err != nil {
				return nil, err
			}
			continue
		}
		for _, h := range held {
			sums[i] += a.Count(a.bits(h.Segment), h.Universe(a.client))
			if err := ctx.Err(); err != nil {
				return nil, err
			}
		}
	}
	return sums, nil
}

// addCounts adds the lane's part of each audience to its sum.
func (l *lane) addCounts(list []audience, sums []uint64) {
	l.bitmaps.View(func(get getBits, universe getUniverse) {
		for i := range list {
			a := &list[i]
			sums[i] += a.Count(a.bits(get), universe(a.client))
		}
	})
}

// overlapUsersMax bounds the cells of an overlap by users, each of which goes
// through the users of its members.
const overlapUsersMax = 400

// Overlap counts who is in each of rows and each of columns, by one version of
// each in all lanes. With nil columns it is of rows among themselves.
func (n *Node) Overlap(ctx context.Context, client proto.ClientInfo, rows, columns []proto.SegmentID, unit string) (out proto.Overlap, err error) {
	for again, tries := true, versionTries; again && tries > 0 && err == nil; tries-- {
		out, again, err = n.overlap(ctx, client, rows, columns, unit)
	}
	if err != nil {
		return out, err
	}
	return out, n.mayAnswerAll()
}

// overlap is one try, as counts is.
func (n *Node) overlap(ctx context.Context, client proto.ClientInfo, rows, columns []proto.SegmentID, unit string) (_ proto.Overlap, again bool, err error) {
	m := matrix{square: columns == nil}
	if m.square {
		columns = rows
	}
	out := proto.Overlap{Segments: rows, Counts: make([][]*uint64, len(rows))}
	if !m.square {
		out.Against = columns
	}
	err = checkUnit(unit)
	if err == nil {
		m.rows, err = n.keysOf(client.ID, rows)
	}
	if err == nil {
		m.columns, err = n.keysOf(client.ID, columns)
	}
	if err != nil {
		return out, false, err
	}
	m.cells = make([]uint64, len(m.rows)*len(m.columns))
	keys := slices.Concat(m.rows, m.columns)
	if len(m.cells) > longCells || unit == "users" && len(m.cells) > longMentions {
		end, err := n.longTurn(ctx, client.ID)
		if err != nil {
			return out, false, err
		}
		defer end()
	}
	lanes, part, exact := n.answering(keys)
	if unit == "users" {
		err = m.users(ctx, lanes)
	} else {
		err = m.identities(ctx, lanes)
	}
	again = went(lanes, keys)
	out.Exact, out.Partitions = exact && !again, part
	m.give(out.Counts)
	return out, again, err
}

// keysOf finds segments of the client.
func (n *Node) keysOf(client proto.ClientID, ids []proto.SegmentID) ([]proto.SegmentKey, error) {
	specs, err := n.registry.specsOf(client, ids)
	return versionsOf(specs), err
}

// matrix is an overlap under way; of a square one only the cells right of the
// diagonal, and it, are filled.
type matrix struct {
	rows, columns []proto.SegmentKey
	square        bool
	cells         []uint64 // by row
}

// first is the first column of a row that is to be filled.
func (m *matrix) first(row int) int {
	if m.square {
		return row
	}
	return 0
}

// identities fills the cells, each row as of one moment of each lane: a lane
// publishes nothing while it is looked at, so a long row is held.
func (m *matrix) identities(ctx context.Context, lanes []*lane) error {
	for i := range m.rows {
		for _, l := range lanes {
			if len(m.columns) <= longColumns {
				l.bitmaps.View(func(get getBits, _ getUniverse) { m.add(i, get) })
				continue
			}
			h := l.bitmaps.Hold(0, append(slices.Clone(m.columns), m.rows[i]))
			m.add(i, h.Segment)
			h.Release()
		}
		if err := ctx.Err(); err != nil {
			return proto.Errorf(proto.CodeTimeout, "the matrix took too long: name fewer segments: %w", err)
		}
	}
	return nil
}

// add adds a lane's part of a row. Nothing is copied: a cell costs what going
// through both bitmaps does.
func (m *matrix) add(i int, get getBits) {
	first, width := m.first(i), len(m.columns)
	columns := make([]*roaring.Bitmap, 0, width-first)
	for _, k := range m.columns[first:] {
		columns = append(columns, get(k))
	}
	spread(get(m.rows[i]), columns, m.cells[i*width+first:(i+1)*width])
}

// overlapShare is how many columns of a row are taken at a time.
const overlapShare = 16

// spread does one row on all cores. Columns by name are not of like sizes, so each
// takes some more when it is done with some.
func spread(row *roaring.Bitmap, columns []*roaring.Bitmap, out []uint64) {
	of := segments.NewRow(row, len(columns))
	defer of.Release()
	shares := (len(columns) + overlapShare - 1) / overlapShare
	var next atomic.Int64
	work := func() {
		for n := int(next.Add(1)) - 1; n < shares; n = int(next.Add(1)) - 1 {
			from, to := n*overlapShare, min((n+1)*overlapShare, len(columns))
			of.Overlap(columns[from:to], out[from:to])
		}
	}
	var busy sync.WaitGroup
	defer busy.Wait()
	for range min(cores.Count(), shares) - 1 {
		busy.Go(work)
	}
	work()
}

func (m *matrix) users(ctx context.Context, lanes []*lane) (err error) {
	if len(m.cells) > overlapUsersMax {
		return proto.Errorf(proto.CodeTooLarge, "the matrix has %d cells, by users at most %d are counted: name fewer segments, or count identities", len(m.cells), overlapUsersMax)
	}
	for i, a := range m.rows {
		for j := m.first(i); j < len(m.columns); j++ {
			m.cells[i*len(m.columns)+j], err = countUsers(ctx, lanes, func(get getBits, _ getUniverse) *roaring.Bitmap {
				return both(get(a), get(m.columns[j]))
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// both is who is in a and in b, which may be nil.
func both(a, b *roaring.Bitmap) *roaring.Bitmap {
	if a == nil || b == nil {
		return roaring.New()
	}
	return roaring.And(a, b)
}

// give writes the cells as answers have them.
func (m *matrix) give(out [][]*uint64) {
	width := len(m.columns)
	for i := range m.rows {
		out[i] = make([]*uint64, width)
		for j := range out[i] {
			out[i][j] = &m.cells[i*width+j]
			if m.square && j < i {
				out[i][j] = &m.cells[j*width+i]
			}
		}
	}
}
