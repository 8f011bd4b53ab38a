package engine

import (
	"slices"
	"sync"

	"kith/actors/identity"
	"kith/proto"
)

const viewShards = 256

// views is the bounded cache of what look-ups see, over all lanes. The lanes'
// committers publish into it; a look-up that misses reads the store and fills
// it, unless something was published meanwhile. A node that is not known has
// a nil view.
type views struct {
	shards [viewShards]viewShard
}

type viewShard struct {
	mu      sync.RWMutex
	version uint64 // bumped by every publication
	views   map[proto.Node]cachedView
	spaces  []proto.SpaceID // in which a node was ever cached
	ring    []viewPlace     // for CLOCK eviction
	hand    int
	max     int
	_       [24]byte // keeps neighbours off one cache line
}

// cachedView is a value in the map: what a look-up reads of the memory is little, and
// mostly in no cache.
type cachedView struct {
	view  *identity.View
	place int // in the ring
}

// viewPlace is a place of the ring: of a cached node, or free.
type viewPlace struct {
	node proto.Node
	used bool // published since the hand passed
}

func newViews(maxViews int) *views {
	v := &views{}
	for i := range v.shards {
		s := &v.shards[i]
		s.views = map[proto.Node]cachedView{}
		s.max = max(maxViews/viewShards, 4)
	}
	return v
}

func (v *views) shard(n proto.Node) *viewShard { return &v.shards[n.Hash[1]] }

// get gives the cached view; else the version to fill with.
func (v *views) get(n proto.Node) (view *identity.View, ok bool, version uint64) {
	s := v.shard(n)
	s.mu.RLock()
	c, ok := s.views[n]
	version = s.version
	s.mu.RUnlock()
	return c.view, ok, version
}

// fill stores what a look-up read, if nothing was published since version.
func (v *views) fill(n proto.Node, view *identity.View, version uint64) {
	s := v.shard(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.views[n]; !ok && s.version == version {
		s.put(n, view)
	}
}

// publish makes a committed view the one that look-ups see.
func (v *views) publish(n proto.Node, view *identity.View) {
	s := v.shard(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	if c, ok := s.views[n]; ok {
		s.views[n] = cachedView{view, c.place}
		s.ring[c.place].used = true
		return
	}
	s.put(n, view)
}

// forget drops what is cached of an identity, in whatever space: it was opted
// out or in. What was read before is not stored any more.
func (v *views) forget(h proto.IdentityHash) {
	s := v.shard(proto.Node{Hash: h})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	for _, space := range s.spaces {
		n := proto.Node{Hash: h, Space: space}
		if c, ok := s.views[n]; ok {
			s.ring[c.place] = viewPlace{} // it is free next
			delete(s.views, n)
		}
	}
}

// put adds an entry, in the place of one not used lately when full. The lock
// is held.
func (s *viewShard) put(n proto.Node, view *identity.View) {
	if !slices.Contains(s.spaces, n.Space) {
		s.spaces = append(s.spaces, n.Space)
	}
	if len(s.ring) < s.max {
		s.views[n] = cachedView{view, len(s.ring)}
		s.ring = append(s.ring, viewPlace{node: n})
		return
	}
	for s.ring[s.hand].used {
		s.ring[s.hand].used = false
		s.hand = (s.hand + 1) % len(s.ring)
	}
	if old, ok := s.views[s.ring[s.hand].node]; ok && old.place == s.hand { // it is not free
		delete(s.views, s.ring[s.hand].node)
	}
	s.views[n] = cachedView{view, s.hand}
	s.ring[s.hand] = viewPlace{node: n}
	s.hand = (s.hand + 1) % len(s.ring)
}

// len counts the cached views.
func (v *views) len() int {
	n := 0
	for i := range v.shards {
		s := &v.shards[i]
		s.mu.RLock()
		n += len(s.views)
		s.mu.RUnlock()
	}
	return n
}
