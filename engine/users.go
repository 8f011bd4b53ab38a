package engine

import (
	"context"
	"math"
	"sync"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/actors"
	"kith/actors/identity"
	"kith/engine/store"
	"kith/proto"
)

// userIndex knows of a lane's nodes which are of users of several, and of whose:
// what a count by users needs. It is in memory only, about 40 bytes for each
// such node, and made from the store at start, beside the applying.
type userIndex struct {
	mu     sync.RWMutex
	linked *roaring.Bitmap
	leads  *roaring.Bitmap          // those of linked that are roots
	roots  map[proto.Ordinal]uint64 // by the beginning of the root's hash
	fresh  map[proto.Ordinal]bool   // changed since the reading began; nil: all is read
	read   chan struct{}            // closed when all is read
}

func (x *userIndex) init() {
	x.linked, x.leads, x.roots = roaring.New(), roaring.New(), map[proto.Ordinal]uint64{}
	x.fresh, x.read = map[proto.Ordinal]bool{}, make(chan struct{})
}

// apply takes in committed changes.
func (x *userIndex) apply(list []actors.UserChange) {
	if len(list) == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range list {
		if x.fresh != nil {
			x.fresh[c.Ordinal] = true
		}
		x.set(c.Ordinal, c.Root, c.Leads)
	}
}

func (x *userIndex) set(o proto.Ordinal, root proto.IdentityHash, leads bool) {
	if leads {
		x.leads.Add(uint32(o))
	} else {
		x.leads.Remove(uint32(o))
	}
	if root == (proto.IdentityHash{}) {
		x.linked.Remove(uint32(o))
		delete(x.roots, o)
		return
	}
	x.linked.Add(uint32(o))
	x.roots[o] = root.Prefix()
}

// load takes in a node of the store; what was applied meanwhile counts.
func (x *userIndex) load(hash proto.IdentityHash, value []byte) error {
	if !identity.MayFollow(value) {
		return nil
	}
	var s identity.State
	if _, err := s.Decode(value); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if s.Named && s.Follows && !x.fresh[s.Ordinal] {
		root := s.Graph.RootOf(hash)
		x.set(s.Ordinal, root, root == hash)
	}
	return nil
}

// loaded says that load was called for all.
func (x *userIndex) loaded() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.fresh = nil
	close(x.read)
}

// survey reads all nodes once: for the index of users, and so that the hosts
// know who is new.
func (l *lane) survey(ctx context.Context, snap store.Snapshot) error {
	for _, p := range l.partitions {
		stored := &actors.Filter{}
		prefix := []byte{'N', byte(p)}
		err := snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
			if key, ok := parseNodeKey(k); ok && key.kind == 'f' {
				stored.Add(key.node.Hash)
				if err := l.users.load(key.node.Hash, v); err != nil {
					return false, err
				}
			}
			return true, ctx.Err()
		})
		if err != nil {
			return err
		}
		l.shell.SetStored(p, stored)
	}
	l.users.loaded()
	return nil
}

// surveyBeside is survey beside the applying, and counts the names too.
func (l *lane) surveyBeside(ctx context.Context) {
	l.visible.RLock()
	snap, since := l.acquire(), l.named.Load()
	l.visible.RUnlock()
	defer snap.release()
	if err := l.survey(ctx, snap); err != nil && ctx.Err() == nil {
		l.logger.Error("users cannot be counted: the nodes cannot be read", "error", err)
	}
	if err := l.countNames(ctx, snap, since); err != nil && ctx.Err() == nil {
		l.logger.Error("identities cannot be counted: their names cannot be read", "error", err)
	}
}

// distinctStep is after how many nodes commits, which change whose they are, may go on.
const distinctStep = 4096

// distinct adds the users of which a node is in set: the roots to seen, those
// who are alone to the sum. It may stop once both are most or more.
func (x *userIndex) distinct(set *roaring.Bitmap, seen map[uint64]struct{}, most uint64) (alone uint64) {
	x.mu.RLock()
	both := roaring.And(set, x.linked)
	x.mu.RUnlock()
	alone = set.GetCardinality() - both.GetCardinality()
	it, some := both.ManyIterator(), make([]uint32, distinctStep)
	for n := it.NextMany(some); n > 0 && alone+uint64(len(seen)) < most; n = it.NextMany(some) {
		alone += x.eachRoot(some[:n], func(root uint64) { seen[root] = struct{}{} })
	}
	return alone
}

// eachRoot gives the roots of nodes, and counts those that are alone meanwhile.
func (x *userIndex) eachRoot(nodes []uint32, fn func(root uint64)) (alone uint64) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, o := range nodes {
		if root, linked := x.roots[proto.Ordinal(o)]; linked {
			fn(root)
		} else {
			alone++
		}
	}
	return alone
}

// setOf is some nodes of a lane, in a bitmap that is not kept.
type setOf func(get getBits, universe getUniverse) *roaring.Bitmap

// countUsers counts the users of whom some identity is in the set.
func countUsers(ctx context.Context, lanes []*lane, set setOf) (uint64, error) {
	return usersUpTo(ctx, lanes, set, math.MaxUint64)
}

// usersUpTo is countUsers, but stops once there are most or more.
func usersUpTo(ctx context.Context, lanes []*lane, set setOf, most uint64) (uint64, error) {
	return distinctUsers(ctx, lanes, most, func(i int, count func(*roaring.Bitmap)) {
		var members *roaring.Bitmap // a copy: counting takes longer than commits are to wait
		lanes[i].bitmaps.View(func(get getBits, universe getUniverse) { members = set(get, universe).Clone() })
		count(members)
	})
}

// distinctUsers counts the users of nodes of the lanes, and stops once there are
// most or more: sets calls count with those of lane number i, which is not kept.
func distinctUsers(ctx context.Context, lanes []*lane, most uint64, sets func(i int, count func(*roaring.Bitmap))) (uint64, error) {
	seen := map[uint64]struct{}{}
	var alone uint64
	for i, l := range lanes {
		if err := l.users.ready(ctx); err != nil {
			return 0, err
		}
		sets(i, func(set *roaring.Bitmap) {
			alone += l.users.distinct(set, seen, most-min(alone, most))
		})
		if alone+uint64(len(seen)) >= most {
			break
		}
	}
	return alone + uint64(len(seen)), ctx.Err()
}

// ready waits until all is read.
func (x *userIndex) ready(ctx context.Context) error {
	select {
	case <-x.read:
		return nil
	case <-ctx.Done():
		return proto.Errorf(proto.CodeTimeout, "users are still being read after the start: try again: %w", ctx.Err())
	}
}

// addSizes adds how many identities of the lane are of each user of several. Commits go
// on meanwhile.
func (x *userIndex) addSizes(all map[uint64]int) {
	x.mu.RLock()
	linked := x.linked.Clone()
	x.mu.RUnlock()
	it, some := linked.ManyIterator(), make([]uint32, distinctStep)
	for n := it.NextMany(some); n > 0; n = it.NextMany(some) {
		x.eachRoot(some[:n], func(root uint64) { all[root]++ })
	}
}

func (x *userIndex) linkedCount() uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.linked.GetCardinality()
}
