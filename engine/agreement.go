package engine

import (
	"slices"
	"sync"
	"time"

	"kith/proto"
)

// This file is how nodes find out that they came to different states, which a
// fault of memory or disk, or a mistake, may do: each beat says what chain its
// node had at some offset, and all compare that with their own. Who differs from
// more nodes than it agrees with stops the lane; the others go on.

const (
	chainsKept = 4096
	// agreedFor is how long a comparison counts.
	agreedFor = 30 * time.Second
)

// agreement is what a lane knows of its own chain and of the others'.
type agreement struct {
	mu     sync.Mutex
	at     [chainsKept]proto.Offset // by offset modulo their number
	chain  [chainsKept]uint64
	others map[string]comparison // by node
}

type comparison struct {
	same bool
	when time.Duration // by bootTime
}

// note keeps the chain behind an entry.
func (x *agreement) note(at proto.Offset, chain uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.at[at%chainsKept], x.chain[at%chainsKept] = at, chain
}

// compare takes the beats of others that were applied, and gives the nodes that
// came to another state; alone tells that they are more than those that did not.
func (x *agreement) compare(beats []proto.Beat, self uint64, now time.Duration) (differ []string, alone bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	changed := false
	for _, b := range beats {
		if b.Incarnation == self || b.At == 0 || x.at[b.At%chainsKept] != b.At {
			continue
		}
		if x.others == nil {
			x.others = map[string]comparison{}
		}
		x.others[b.Node] = comparison{x.chain[b.At%chainsKept] == b.Chain, now}
		changed = true
	}
	if !changed {
		return nil, false
	}
	agree := 1
	for node, c := range x.others {
		switch {
		case now-c.when > agreedFor:
			delete(x.others, node)
		case c.same:
			agree++
		default:
			differ = append(differ, node)
		}
	}
	slices.Sort(differ)
	return differ, len(differ) > agree
}

// differing counts the nodes that came to another state, as far as they said so of
// late.
func (x *agreement) differing(now time.Duration) (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range x.others {
		if !c.same && now-c.when <= agreedFor {
			n++
		}
	}
	return n
}

// agree compares the lane with what other nodes say in beats that were applied.
func (l *lane) agree(beats []proto.Beat) {
	if l.node.config.Peers == nil || len(beats) == 0 {
		return
	}
	differ, alone := l.agreement.compare(beats, l.producer, bootTime())
	switch {
	case alone:
		l.fail("comparing with other nodes", proto.Errorf(proto.CodeCorrupt, "this node came to another state than %v: stop it, remove its store directory and start it, so that it takes a copy of another's", differ))
	case len(differ) > 0:
		l.logger.Error("nodes came to different states from the same log: see on which of them `kith verify` finds something, and make that one anew", "others", differ)
	}
}
