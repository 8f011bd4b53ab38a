package engine

import (
	"cmp"
	"slices"
	"time"

	"kith/proto"
	"kith/proto/pb"
	"kith/segments"
)

// Bounds of a client's imports. A mark for each list, each import that is not at
// its end and each that failed and is still to be swept must fit into
// segments.ImportTraitsMax.
const (
	importListsMax   = 200 // those that imports are about to make among them
	importsOpenMax   = 8   // imports that are not at their end
	importsUnswept   = 32
	importsPerDayMax = 200
	importsKept      = 100 // those that came to their end, in answers
	// importAge is after which an import that was not committed is given up.
	importAge = 24 * time.Hour
	// importLate is after which no row of an import comes any more that was not known
	// to be durable in time, or was taken by another node that had not read of its end.
	importLate = 2 * time.Minute
)

// importBook is what the control stream says of one client's imports.
type importBook struct {
	imports map[uint64]*proto.Import
	lists   map[proto.SegmentID]*importList
	// dirty is the newest record that left marks behind which stand for nothing
	// any more, 0 if none did since they were swept; unswept is how many did.
	dirty   uint64
	unswept int
	// ended is the newest record by which an import came to its end, 0 if late rows
	// were looked for since.
	ended   uint64
	endedAt proto.Millis
	day     proto.Day
	opened  int // on day, which is the last one's
}

// importList is a list that answers.
type importList struct {
	number  uint64 // of the import that made it: marks of an older one are stale
	figured bool   // figures were decided
	told    figures
}

// figures are what client keys are told of an import; of 0 identities nothing is.
type figures struct{ identities, matched uint64 }

// imports finds or makes a client's book. The registry's lock is held.
func (r *registry) imports(c proto.ClientID) *importBook {
	b := r.books[c]
	if b == nil {
		b = &importBook{imports: map[uint64]*proto.Import{}, lists: map[proto.SegmentID]*importList{}}
		r.books[c] = b
	}
	return b
}

// obeyImport takes a record in. The registry's lock is held.
func (r *registry) obeyImport(seq uint64, at proto.Millis, x *pb.Import) error {
	b, state := r.imports(proto.ClientID(x.Client)), proto.ImportState(x.State)
	switch state {
	case proto.ImportOpen:
		b.open(seq, at, x)
		return nil
	case proto.ImportSwept:
		r.went = seq
		if b.dirty <= x.Number {
			b.dirty, b.unswept = 0, 0
		}
		if b.ended <= x.Number && at >= b.endedAt.Add(importLate) {
			b.ended = 0
		}
		return nil
	}
	i := b.imports[x.Number]
	if i == nil {
		return proto.Errorf(proto.CodeCorrupt, "it is about import %d, which is not known", x.Number)
	}
	i.State = state
	if state != proto.ImportEnded {
		r.went = seq
	}
	switch state {
	case proto.ImportSealed:
		i.Floor = int(x.Floor)
	case proto.ImportMerging, proto.ImportBelow:
		i.Identities, i.Matched, i.ToldIdentities, i.ToldMatched = x.Identities, x.Matched, x.ToldIdentities, x.ToldMatched
		i.Rounded = segments.ReportRoundedTo
	case proto.ImportEnded:
		i.Reason = x.Reason
	case proto.ImportDone:
	default:
		return proto.Errorf(proto.CodeCorrupt, "an import has state %d: a newer kith wrote that; install it", x.State)
	}
	switch state {
	case proto.ImportMerging:
		b.merge(i, x.List)
	case proto.ImportBelow, proto.ImportEnded:
		b.soil(seq)
	}
	if state.Final() {
		i.Ended = seq
		b.ended, b.endedAt = seq, at
	}
	b.forgetOld()
	return nil
}

// open begins an import. One of the same segment that still takes rows is given
// up: whoever loads a list again need not end the one that broke off.
func (b *importBook) open(seq uint64, at proto.Millis, x *pb.Import) {
	for _, i := range b.imports {
		if i.Segment == proto.SegmentID(x.Segment) && i.State == proto.ImportOpen {
			i.State, i.Reason, i.Ended = proto.ImportEnded, "another import of the segment was begun", seq
			b.soil(seq)
			b.ended, b.endedAt = seq, at
		}
	}
	b.imports[seq] = &proto.Import{
		Number: seq, Segment: proto.SegmentID(x.Segment), Mode: proto.ImportMode(x.Mode), Scope: x.Scope,
		State: proto.ImportOpen, Opened: at.Time(),
	}
	if day := proto.DayOf(at.Time()); day != b.day { // an earlier one: a clock was ahead
		b.day, b.opened = day, 0
	}
	b.opened++
}

// merge notes that the import changes its segment's list, which it may make.
func (b *importBook) merge(i *proto.Import, list uint64) {
	l := b.lists[i.Segment]
	if l == nil {
		l = &importList{number: list}
		b.lists[i.Segment] = l
	}
	if i.Mode == proto.ImportCreate || i.Mode == proto.ImportReplace {
		l.figured, l.told = true, figures{i.ToldIdentities, i.ToldMatched}
	}
}

// soil notes that the record leaves marks behind.
func (b *importBook) soil(seq uint64) {
	b.dirty = seq
	b.unswept++
}

// toSweep is up to which record marks that stand for nothing are to be looked for
// now, 0 if they need not be.
func (b *importBook) toSweep(now proto.Millis) uint64 {
	if b.ended > 0 && now >= b.endedAt.Add(importLate) {
		return max(b.dirty, b.ended)
	}
	return b.dirty
}

// dropList lets go of the list of a segment that was deleted.
func (b *importBook) dropList(seq uint64, id proto.SegmentID) {
	if b.lists[id] != nil {
		delete(b.lists, id)
		b.soil(seq)
	}
}

// forgetOld keeps those imports that came to their end last.
func (b *importBook) forgetOld() {
	var ended []*proto.Import
	for _, i := range b.imports {
		if i.State.Final() {
			ended = append(ended, i)
		}
	}
	slices.SortFunc(ended, func(x, y *proto.Import) int { return cmp.Compare(x.Ended, y.Ended) })
	for _, i := range ended[:max(0, len(ended)-importsKept)] {
		delete(b.imports, i.Number)
	}
}

// going is how many imports are not at their end.
func (b *importBook) going() (n int) {
	for _, i := range b.imports {
		if !i.State.Final() {
			n++
		}
	}
	return n
}

// listsWith is how many lists there are once all imports are done, and one of
// another segment.
func (b *importBook) listsWith(id proto.SegmentID) int {
	made := map[proto.SegmentID]bool{id: true}
	for _, i := range b.imports {
		if !i.State.Final() {
			made[i.Segment] = true
		}
	}
	n := len(b.lists)
	for id := range made {
		if b.lists[id] == nil {
			n++
		}
	}
	return n
}

// underWay is the import that was committed for a segment and did not come to
// its end, or one that takes rows if open is asked for too.
func (b *importBook) underWay(id proto.SegmentID, open bool) *proto.Import {
	for _, i := range b.imports {
		if i.Segment == id && !i.State.Final() && (open || i.State != proto.ImportOpen) {
			return i
		}
	}
	return nil
}

// stale reports whether a mark stands for nothing, by the control records up to seq. A
// mark of a later import does not, nor one of a list that an import may be making by a
// later record: lanes may have taken them in before this node has read of them.
func (b *importBook) stale(t *proto.Prop, seq uint64) bool {
	list, number := proto.ParseReserved(t.Key)
	l := b.lists[list]
	switch {
	case list == "":
	case l != nil:
		return uint64(t.Value.Number) < l.number
	default:
		number = uint64(t.Value.Number)
	}
	i := b.imports[number]
	return number <= seq && (i == nil || i.State.Final())
}

// checkOpen says why an import may not begin.
func (b *importBook) checkOpen(x proto.ImportSpec, today proto.Day, spec *proto.SegmentSpec) error {
	list := b.lists[x.Segment]
	switch {
	case list == nil && spec != nil:
		return proto.Errorf(proto.CodeConflict, "segment %q has a rule of its own: choose another id, or delete it first", x.Segment)
	case list == nil && x.Mode == proto.ImportRemove:
		return proto.Errorf(proto.CodeNotFound, "segment %q has no imported list of which anybody could be removed", x.Segment)
	case list != nil && x.Mode == proto.ImportCreate:
		return proto.Errorf(proto.CodeConflict, "segment %q has an imported list: say whether to replace it, add to it or remove from it", x.Segment)
	case spec != nil && x.Scope != "" && x.Scope != spec.Scope:
		return proto.Errorf(proto.CodeConflict, "segment %q is of scope %s: leave scope out, or delete the segment first", x.Segment, spec.Scope)
	case list == nil && b.listsWith(x.Segment) > importListsMax:
		return proto.Errorf(proto.CodeTooLarge, "the client has %d imported lists, with those that imports under way may make, the most there may be: delete some", importListsMax)
	case b.underWay(x.Segment, false) != nil:
		return proto.Errorf(proto.CodeConflict, "import %d of segment %q was committed and is not done: wait for it", b.underWay(x.Segment, false).Number, x.Segment)
	case b.underWay(x.Segment, true) == nil && b.going() >= importsOpenMax:
		return proto.Errorf(proto.CodeRateLimited, "%d imports take rows or were committed and are not done, the most that may: commit or delete one, or wait until one is done", importsOpenMax)
	case b.unswept >= importsUnswept:
		return proto.Errorf(proto.CodeOverloaded, "%d imports failed and are still being cleared away: try again shortly", b.unswept)
	case today == b.day && b.opened >= importsPerDayMax:
		return proto.Errorf(proto.CodeRateLimited, "%d imports were begun on %s, the most that may: go on tomorrow (UTC)", importsPerDayMax, b.day)
	}
	return nil
}
