package engine

import (
	"context"
	"maps"
	"math"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/proto"
	"kith/proto/pb"
)

// This file has a segment's new version answer once it is ready. A lane that
// obeys an edit with backfill evaluates the new version beside the old one and
// goes through history for it; when all lanes have, and what the users of several
// lanes come to has been told, the node proposes a Swap.

// waiting is a version that waits to answer.
type waiting struct {
	client proto.ClientID
	id     proto.SegmentID
	key    proto.SegmentKey
	since  proto.SegmentKey // as sinceOf
}

// waiting are all versions that wait, and what tells of the next record.
func (r *registry) waiting() (list []waiting, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c, of := range r.next {
		for id, s := range of {
			list = append(list, waiting{c, id, s.Version, r.since[s.Version]})
		}
	}
	maps.DeleteFunc(r.ready, func(k, _ proto.SegmentKey) bool {
		return !slices.ContainsFunc(list, func(w waiting) bool { return w.key == k })
	})
	return list, r.changed
}

// swapVersions proposes a Swap for each version that is ready, until ctx ends.
func (n *Node) swapVersions(ctx context.Context) {
	for {
		list, changed := n.registry.waiting()
		for _, w := range list {
			if !n.filledSince(w.key, w.since) {
				continue
			}
			if err := n.swap(ctx, w); err != nil {
				if ctx.Err() != nil {
					return
				}
				n.logger.Warn("the new version of a segment cannot answer yet, trying again", "segment", string(w.id), "error", err)
				if !pause(ctx, beatEvery) {
					return
				}
				n.fillEnded()
			}
		}
		select {
		case <-changed:
		case <-n.fillsEnded:
		case <-ctx.Done():
			return
		}
	}
}

// filledSince reports whether every lane has gone through history for a version,
// after a record.
func (n *Node) filledSince(k, since proto.SegmentKey) bool {
	keys, after := []proto.SegmentKey{k}, []proto.SegmentKey{since}
	for _, l := range n.lanes {
		if !l.progress.allFilled(keys, after) {
			return false
		}
	}
	return true
}

// filled is filledSince by what the registry knows.
func (n *Node) filled(k proto.SegmentKey) bool {
	return n.filledSince(k, n.registry.sinceOf(k)[0])
}

// fillEnded has versions that wait looked at again.
func (n *Node) fillEnded() {
	select {
	case n.fillsEnded <- struct{}{}:
	default:
	}
}

// userHops is how often what a member was filled with crosses between lanes: to
// its root, whose verdict comes back; and once more for who just left a user.
const userHops = 3

// swap proposes that a version which every lane has filled answers.
func (n *Node) swap(ctx context.Context, w waiting) error {
	for range userHops {
		if _, err := n.handedOver(ctx); err != nil {
			return err
		}
	}
	n.swapping.Lock() // not between a backup's store and its control records
	defer n.swapping.Unlock()
	_, err := n.registry.propose(ctx, func() (*pb.Control, error) {
		c := n.registry.swapOf(w, n.filledSince)
		if c != nil {
			n.registry.ready[w.key] = w.since
		}
		return c, nil
	})
	return err
}

// swapOf is the record that has a version answer, nil if it does not wait any
// more, or not all has been filled: a rule that it refers to may have been
// replaced meanwhile. The registry's lock is held.
func (r *registry) swapOf(w waiting, filled func(key, since proto.SegmentKey) bool) *pb.Control {
	if s, ok := r.next[w.client][w.id]; !ok || s.Version != w.key || r.since[w.key] != w.since || !filled(w.key, w.since) {
		return nil
	}
	return &pb.Control{Body: &pb.Control_Swap{Swap: &pb.Swap{Client: uint32(w.client), Id: string(w.id), Version: uint32(w.key)}}}
}

// handed is a version in whose place another answers.
type handed struct {
	proto.SegmentSpec
	to uint64 // the Swap: the lanes that have not obeyed it may know members of this version only
}

// behind are the versions that some lane may still have to be asked for, and the
// newest Swap among theirs. Others are forgotten. The registry's lock is held.
func (r *registry) behind() (map[proto.SegmentKey]handed, uint64) {
	var least, newest uint64
	if r.obeyed != nil {
		least = r.obeyed()
	}
	byKey := map[proto.SegmentKey]handed{}
	for name, list := range r.handed {
		list = slices.DeleteFunc(list, func(x handed) bool { return x.to <= least })
		if r.handed[name] = list; len(list) == 0 {
			delete(r.handed, name)
		}
		for _, x := range list {
			byKey[x.Version] = x
			newest = max(newest, x.to)
		}
	}
	return byKey, newest
}

// watch has versions forgotten once obeyed, which tells what all lanes have obeyed,
// is past their Swaps.
func (r *registry) watch(obeyed func() uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.obeyed = obeyed
}

// obeyedByAll is the newest control record that every lane has obeyed.
func (n *Node) obeyedByAll() uint64 {
	least := uint64(math.MaxUint64)
	for _, l := range n.lanes {
		least = min(least, l.progress.obeyed.Load())
	}
	return least
}

// name is the segment that membership of a version means in a lane that has
// obeyed the control record at, empty if it means none.
func (v *registryView) name(k proto.SegmentKey, at uint64) (id proto.SegmentID, user bool) {
	if v.inForce(k) {
		return v.names[k], v.users[k]
	}
	if at < v.swapped {
		if x, ok := v.handed[k]; ok && at < x.to {
			return x.ID, x.Scope == "user"
		}
	}
	return "", false
}

// specsAt are the versions by any of which an identity is in a segment, in a lane
// that has obeyed the control record at: the one that answers, and before it those
// whose Swaps the lane has yet to obey, newest first. A user's verdicts are by the
// version that its root's lane answers by, which may be ahead of the member's or
// behind it: so any of them counts.
func (r *registry) specsAt(c proto.ClientID, id proto.SegmentID, at uint64) (list []proto.SegmentSpec) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.specs[c][id]
	if !ok {
		return nil
	}
	list = []proto.SegmentSpec{s}
	for _, x := range slices.Backward(r.handed[defined{c, id}]) {
		if at < x.to {
			list = append(list, x.SegmentSpec)
		}
	}
	return list
}

// fillShare is how much of the client's identities the lanes have gone through
// for a version, from 0 to 1.
func (n *Node) fillShare(c proto.ClientID, k proto.SegmentKey) float64 {
	var behind, of uint64
	for _, l := range n.lanes {
		f, found := l.progress.fill(k)
		l.bitmaps.View(func(_ getBits, universe getUniverse) {
			u := universe(c)
			if u == nil {
				u = roaring.New()
			}
			size := u.GetCardinality()
			of += size
			switch {
			case f.exact():
				behind += size
			case found && f.next > 0:
				behind += u.Rank(uint32(min(f.next-1, 1<<32-1)))
			}
		})
	}
	if of == 0 {
		return 0
	}
	return float64(behind*1000/of) / 1000
}

func (p *progress) fill(k proto.SegmentKey) (fillProgress, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f, ok := p.fills[k]
	return f, ok
}
