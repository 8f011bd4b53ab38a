package engine

import (
	"context"
	"slices"
	"time"

	"kith/actors/identity"
	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
)

// AwaitChange waits until some lane publishes.
func (n *Node) AwaitChange(ctx context.Context) error {
	l := n.lanes[0]
	l.progress.mu.Lock()
	changed := l.progress.changed
	l.progress.mu.Unlock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// NewOver wires a node over a log and a store; Start opens it.
func NewOver(c Config, lg log.Logs, st store.Store) (*Node, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return newNode(c, lg, st, [16]byte{1}), nil
}

// Start opens a node that NewOver wired.
func (n *Node) Start(ctx context.Context) error { return n.start(ctx) }

// VerifyStore verifies what a node, which has been closed, left in st.
func VerifyStore(ctx context.Context, c Config, st store.Store) (VerifyReport, error) {
	r := VerifyReport{Problems: []string{}}
	if err := c.Validate(); err != nil {
		return r, err
	}
	n := &Node{config: c, logger: c.Logger, hasher: proto.NewHasher([16]byte{1}), store: st}
	n.place()
	snap := st.Snapshot()
	defer snap.Release()
	return r, verifyAll(ctx, n, slices.Repeat([]store.Snapshot{snap}, c.Lanes), &r)
}

// Judge puts what identities are judged by behind fn, before Start.
func (n *Node) Judge(fn func(identity.Rules) identity.Rules) { n.judge = fn }

// DeadCommands are packed commands that replay the dead letters of lane 0.
func DeadCommands(st store.Store) (list [][]byte) {
	snap := st.Snapshot()
	defer snap.Release()
	err := snap.Scan(laneKey(0, 'q'), laneKey(0, 'q'), func(k, v []byte) (bool, error) {
		d, err := decodeDead(k, v)
		if err == nil {
			list = append(list, proto.AppendCommand(nil, proto.CommandReplay, d.partition, d.replay.Append(nil)))
		}
		return true, err
	})
	if err != nil {
		panic(err)
	}
	return list
}

// Views is the cache of views.
type Views = views

// NewViews is an empty cache.
func NewViews(maxViews int) *Views { return newViews(maxViews) }

// Get, Fill, Publish and Len are the cache's own.
func (v *views) Get(n proto.Node) (*identity.View, bool, uint64) { return v.get(n) }

// Fill stores what a look-up read.
func (v *views) Fill(n proto.Node, view *identity.View, version uint64) { v.fill(n, view, version) }

// Publish makes a view the one that is seen.
func (v *views) Publish(n proto.Node, view *identity.View) { v.publish(n, view) }

// Forget drops what is cached of an identity.
func (v *views) Forget(h proto.IdentityHash) { v.forget(h) }

// Len counts the cached views.
func (v *views) Len() int { return v.len() }

// Steady tells what each of a node's lanes is told of the clock.
func Steady(wall func() time.Time, mono func() time.Duration, lanes int) func() (ok []bool) {
	c := newClockOf(wall, mono)
	return func() (ok []bool) {
		for range lanes {
			x, _ := c.steady()
			ok = append(ok, x)
		}
		return ok
	}
}

// SegmentSize is an entry of a day's sizes.
type SegmentSize struct {
	Key  proto.SegmentKey
	Size uint64
}

// AppendSizes writes a day's sizes.
func AppendSizes(b []byte, list []SegmentSize) []byte {
	in := make([]segmentSize, len(list))
	for i, s := range list {
		in[i] = segmentSize{s.Key, s.Size}
	}
	return appendSizes(b, in)
}

// ReadSizes reads them.
func ReadSizes(b []byte) (list []SegmentSize, err error) {
	in, err := readSizes(b)
	for _, s := range in {
		list = append(list, SegmentSize{s.key, s.size})
	}
	return list, err
}
