package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/proto"
	"kith/proto/pb"
	"kith/segments"
)

// This file is what the node does with imports by itself, one after the other:
// it decides about those that were committed, turns the rows of accepted ones
// into their list's, and clears away what others left behind. Each of these can
// be broken off at any point and begun again: what was done already is not found
// a second time.

// importJob is the next thing to do.
type importJob struct {
	client proto.ClientInfo
	do     proto.ImportState // that the import is in, or ImportSwept
	one    proto.Import
	list   importList
	dirty  uint64
}

// importKey names a job, while it is there to be done: a sweep has no number.
type importKey struct {
	client proto.ClientID
	number uint64
}

func (j *importJob) key() importKey { return importKey{j.client.ID, j.one.Number} }

// workImports does what there is to do, until ctx ends. A job that failed comes
// again when all others had their turn.
func (n *Node) workImports(ctx context.Context) {
	for !n.ready.Load() {
		if !pause(ctx, 50*time.Millisecond) {
			return
		}
	}
	failed := map[importKey]bool{} // since all others had their turn
	for ctx.Err() == nil {
		job, changed, ok := n.registry.nextImport(proto.MillisOf(n.config.Now()), failed)
		if !ok && len(failed) > 0 {
			clear(failed)
			continue
		}
		if !ok {
			select {
			case <-changed:
			case <-time.After(time.Minute): // one may be too old by then
			case <-ctx.Done():
			}
			continue
		}
		if err := n.doImport(ctx, job); err != nil && ctx.Err() == nil {
			n.logger.Warn("an import does not go on, trying again", "import", job.one.Number, "error", err)
			failed[job.key()] = true
			pause(ctx, beatEvery)
		}
	}
}

// nextImport is the job that was there first, of those that did not fail: merging
// before deciding before sweeping.
func (r *registry) nextImport(now proto.Millis, failed map[importKey]bool) (job importJob, changed <-chan struct{}, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rank := func(s proto.ImportState) int {
		switch s {
		case proto.ImportMerging:
			return 3
		case proto.ImportSealed:
			return 2
		case proto.ImportOpen:
			return 1
		}
		return 0
	}
	for _, client := range r.clients {
		b := r.books[client.ID]
		if b == nil {
			continue
		}
		for _, i := range b.imports {
			old := i.State == proto.ImportOpen && proto.MillisOf(i.Opened) < now.Add(-importAge)
			if i.State.Final() || i.State == proto.ImportOpen && !old || failed[importKey{client.ID, i.Number}] {
				continue
			}
			if k := rank(i.State); !ok || k > rank(job.do) || k == rank(job.do) && i.Number < job.one.Number {
				job, ok = importJob{client: client, do: i.State, one: *i}, true
			}
		}
		seq := b.toSweep(now)
		if seq > 0 && !failed[importKey{client: client.ID}] && (!ok || rank(job.do) == 0 && seq < job.dirty) {
			job, ok = importJob{client: client, do: proto.ImportSwept, dirty: seq}, true
		}
	}
	if ok {
		if l := r.books[job.client.ID].lists[job.one.Segment]; l != nil {
			job.list = *l
		}
	}
	return job, r.changed, ok
}

func (n *Node) doImport(ctx context.Context, job importJob) error {
	if err := n.fault(); err != nil { // marks of a lane that stopped would be written with each try
		return err
	}
	switch job.do {
	case proto.ImportSealed:
		return n.decideImport(ctx, job)
	case proto.ImportMerging:
		return n.mergeImport(ctx, job)
	case proto.ImportOpen:
		n.staging.Lock()
		defer n.staging.Unlock()
		return n.endImport(ctx, job.client.ID, job.one.Number, proto.ImportOpen, "it was not committed within a day")
	}
	return n.sweepImports(ctx, job)
}

// decideImport counts what a committed import matches, and accepts it or not.
func (n *Node) decideImport(ctx context.Context, job importJob) error {
	if err := n.obeyed(ctx, n.registry.last()); err != nil { // all rows are before the commit's record
		return err
	}
	n.settle(ctx) // log-ins of before are known to their users' roots
	m, err := n.measureImport(ctx, job)
	if err != nil {
		return err
	}
	if m.people < uint64(job.one.Floor) {
		return n.refuseImport(ctx, job, m)
	}
	number := job.list.number
	if number == 0 {
		number = job.one.Number
		spec := proto.SegmentSpec{ID: job.one.Segment, Scope: job.one.Scope, When: listRule(job.one.Segment, number)}
		_, err := n.define(ctx, job.client, spec, func(proto.ClientID, proto.SegmentID, *segments.Rule) error { return nil })
		switch proto.CodeOf(err) {
		case "":
		case proto.CodeTooLarge, proto.CodeRule, proto.CodeNotFound:
			return n.endImport(ctx, job.client.ID, job.one.Number, proto.ImportSealed, err.Error())
		default:
			return err
		}
	}
	told := m.told(job.one.Mode, job.client.Floor, n.importEdge(job)) // whoever committed it
	return n.decided(ctx, job, proto.ImportMerging, func(x *pb.Import) {
		x.List, x.Identities, x.Matched, x.ToldIdentities, x.ToldMatched = number, m.identities, m.matched, told.identities, told.matched
	})
}

// refuseImport says that too few were matched. A segment that was made for it
// before a crash goes again; where others name it by now it stays, of nobody.
func (n *Node) refuseImport(ctx context.Context, job importJob, m importMeasure) error {
	if job.list.number == 0 {
		err := n.undefine(ctx, job.client, job.one.Segment, true)
		switch proto.CodeOf(err) {
		case "", proto.CodeNotFound:
		case proto.CodeConflict:
			return n.endImport(ctx, job.client.ID, job.one.Number, proto.ImportSealed, "too few people are matched, and the segment, which nobody is in, could not be deleted: "+err.Error()+"; then delete it, and import again")
		default:
			return err
		}
	}
	return n.decided(ctx, job, proto.ImportBelow, func(x *pb.Import) { x.Identities, x.Matched = m.identities, m.matched })
}

// decided writes down what becomes of the job's import, unless it went another way.
func (n *Node) decided(ctx context.Context, job importJob, state proto.ImportState, fill func(*pb.Import)) error {
	n.swapping.Lock() // not between a backup's store and its control records
	defer n.swapping.Unlock()
	_, err := n.registry.propose(ctx, func() (*pb.Control, error) {
		i := n.registry.imports(job.client.ID).imports[job.one.Number]
		if !n.registry.living(job.client) || i == nil || i.State != job.do {
			return nil, nil
		}
		return importRecord(job.client.ID, job.one.Number, state, fill), nil
	})
	return err
}

// importEdge is where the rounding of a list's figures jumps: a secret of the
// node's data, and another one for each client, by its number, as for reports.
func (n *Node) importEdge(job importJob) uint64 {
	h := n.hasher.Hash(proto.Identity(fmt.Sprint("import:", job.client.ID, ":", job.one.Segment)))
	return h.Prefix() % segments.ReportRoundedTo
}

// importHops bounds how often an import waits for what lanes have for one another:
// under load there always is something.
const importHops = 8

// knownOtherwise reports whether the client knows of a node what no import said:
// of it or of another identity of its user.
func (n *Node) knownOtherwise(ctx context.Context, client proto.ClientInfo, m *markedNode) (bool, error) {
	if m.facts.KnownOtherwise() || !m.state.Follows {
		return m.facts.KnownOtherwise(), nil
	}
	e := explained{ctx: ctx, node: n, client: client, spec: proto.SegmentSpec{Scope: "user"}}
	if err := e.read(m.node); err != nil {
		return false, err
	}
	for i := range e.all {
		if f := e.all[i].Client(client.ID); f != nil && f.KnownOtherwise() {
			return true, nil
		}
	}
	return false, nil
}

// measureImport counts an import, and what its list would come to.
func (n *Node) measureImport(ctx context.Context, job importJob) (importMeasure, error) {
	m := newImportMeasure()
	staged, live := proto.StagedTrait(job.one.Number), proto.ListTrait(job.one.Segment)
	lists := n.registry.importLists(job.client.ID)
	after := n.noneByLane() // who would be on the list, and is known otherwise
	err := n.marked(ctx, job.client, func(x *markedNode) error {
		_, in := x.mark(staged)
		value, was := x.mark(live)
		was = was && job.list.number > 0 && value >= job.list.number
		m.compare(x.marks, lists, in)
		will := listed(job.one.Mode, was, in)
		if !in && !will {
			return nil
		}
		known, err := n.knownOtherwise(ctx, job.client, x)
		if err != nil {
			return err
		}
		m.identities += flag64(in)
		m.matched += flag64(in && known)
		if will && known {
			after[x.lane].Add(uint32(x.ordinal))
		}
		return nil
	})
	if err != nil {
		return m, err
	}
	m.people, err = distinctUsers(ctx, n.lanes, uint64(max(job.one.Floor, 1)), func(i int, count func(*roaring.Bitmap)) { count(after[i]) })
	return m, err
}

// listed reports whether somebody is on a list after an import of a mode.
func listed(mode proto.ImportMode, was, in bool) bool {
	switch mode {
	case proto.ImportAdd:
		return was || in
	case proto.ImportRemove:
		return was && !in
	}
	return in
}

// importLists are the numbers and figures of a client's lists.
func (r *registry) importLists(c proto.ClientID) map[proto.SegmentID]importList {
	out := map[proto.SegmentID]importList{}
	r.withImports(c, func(b *importBook) {
		for id, l := range b.lists {
			out[id] = *l
		}
	})
	return out
}

// mergeImport gives those on an accepted import the mark of its list, or takes it
// from them; after that, where the list is replaced, from those of before. Who is
// on both lists never leaves the segment.
func (n *Node) mergeImport(ctx context.Context, job importJob) error {
	// What another node may have merged of it comes first: whom that put on the list would
	// look like one of before, and be taken off it.
	if err := n.obeyed(ctx, n.registry.last()); err != nil {
		return err
	}
	one := &job.one
	staged, live := proto.StagedTrait(one.Number), proto.ListTrait(one.Segment)
	rows, before := n.noneByLane(), n.noneByLane()
	err := n.marked(ctx, job.client, func(x *markedNode) error {
		if _, in := x.mark(staged); in {
			rows[x.lane].Add(uint32(x.ordinal))
		} else if value, was := x.mark(live); was && value < one.Number {
			before[x.lane].Add(uint32(x.ordinal))
		}
		return nil
	})
	if err != nil {
		return err
	}
	w := markWriter{node: n, client: job.client, position: proto.Position{}}
	value := proto.NumberOf(float64(one.Number))
	if one.Mode == proto.ImportRemove {
		value = proto.TextOf("")
	}
	// The import's mark goes first: there is room for the list's then.
	err = w.write(ctx, rows, staged, []proto.Prop{{Key: staged, Value: proto.TextOf("")}, {Key: live, Value: value}})
	if err == nil && (one.Mode == proto.ImportReplace || one.Mode == proto.ImportCreate) {
		err = w.write(ctx, before, live, []proto.Prop{{Key: live, Value: proto.TextOf("")}})
	}
	if err == nil {
		err = n.reach(ctx, w.position)
	}
	if err != nil {
		return err
	}
	n.settle(ctx) // and so is the list
	return n.decided(ctx, job, proto.ImportDone, nil)
}

// settle waits for what lanes have for one another, as far as there is an end to it.
func (n *Node) settle(ctx context.Context) {
	for range importHops {
		if moved, err := n.handedOver(ctx); !moved || err != nil {
			return
		}
	}
}

// sweepImports removes the client's marks that stand for nothing: of what failed, and
// some time after each import those of rows that came too late for it.
func (n *Node) sweepImports(ctx context.Context, job importJob) error {
	if err := n.obeyed(ctx, job.dirty); err != nil {
		return err
	}
	stale := map[string][]*roaring.Bitmap{}
	err := n.marked(ctx, job.client, func(x *markedNode) error {
		n.registry.withImports(job.client.ID, func(b *importBook) {
			for i := range x.marks {
				if !b.stale(&x.marks[i], n.registry.seq) {
					continue
				}
				key := x.marks[i].Key
				if stale[key] == nil {
					stale[key] = n.noneByLane()
				}
				stale[key][x.lane].Add(uint32(x.ordinal))
			}
		})
		return nil
	})
	if err != nil {
		return err
	}
	w := markWriter{node: n, client: job.client, position: proto.Position{}}
	for key, sets := range stale {
		if err := w.write(ctx, sets, key, []proto.Prop{{Key: key, Value: proto.TextOf("")}}); err != nil {
			return err
		}
	}
	if err := n.reach(ctx, w.position); err != nil {
		return err
	}
	n.swapping.Lock() // as in decided
	defer n.swapping.Unlock()
	_, err = n.registry.propose(ctx, func() (*pb.Control, error) {
		b := n.registry.imports(job.client.ID)
		if !n.registry.living(job.client) || b.dirty == 0 && b.ended == 0 {
			return nil, nil
		}
		return importRecord(job.client.ID, job.dirty, proto.ImportSwept, nil), nil
	})
	return err
}
