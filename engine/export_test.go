package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"kith/actors/identity"
	"kith/engine/log"
	"kith/engine/store"
	"kith/graph"
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

// HoldBack keeps a lane's commits from being seen until release is called, as
// a disk that is slow would.
func (n *Node) HoldBack(id proto.LaneID) (release func()) {
	l := n.lanes[id]
	l.visible.RLock()
	return l.visible.RUnlock
}

// AheadMax is how many entries intake may be ahead of what is applied.
const AheadMax = aheadMax

// Traces says where the store still has something of a client, but for the
// record that it was ended.
func (n *Node) Traces(client proto.ClientID) (list []string, err error) {
	found := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	n.registry.mu.Lock()
	for key, d := range n.registry.rules.defines {
		if d.client == client {
			found("segment %d in force", key)
		}
	}
	n.registry.mu.Unlock()
	for _, l := range n.lanes {
		snap := l.acquire()
		defer snap.release()
		for _, p := range l.partitions {
			err = errors.Join(err, tracesOfNodes(snap, p, client, found))
		}
		prefix := binary.BigEndian.AppendUint32(laneKey(l.id, 'd'), uint32(client))
		err = errors.Join(err, snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
			found("a definition")
			return true, nil
		}))
		// Chunks of bitmaps are rewritten by the next checkpoint; what is there with
		// the journal over it is in memory.
		for _, k := range l.bitmaps.Keys() {
			if _, ok := l.rules.defines[k]; !ok && l.bitmaps.Cardinality(k) > 0 {
				found("a bitmap of segment %d", k)
			}
		}
		for id, of := range l.letters.clients {
			if of == client {
				found("dead letter %v", id)
			}
		}
		if size := l.universe(client); size > 0 {
			found("a universe of %d", size)
		}
	}
	return list, err
}

func tracesOfNodes(snap store.Snapshot, p proto.PartitionID, client proto.ClientID, found func(string, ...any)) error {
	prefix := []byte{'N', byte(p)}
	return snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		key, _ := parseNodeKey(k)
		if key.kind == 'h' && proto.ClientID(binary.BigEndian.Uint32(key.rest)) == client {
			found("a block of history")
		}
		if key.kind != 'f' {
			return true, nil
		}
		var s identity.State
		if _, err := s.Decode(v); err != nil {
			return false, err
		}
		if s.Client(client) != nil || slices.ContainsFunc(s.User, func(u identity.ClientView) bool { return u.Client == client }) {
			found("facts")
		}
		if s.Graph != nil && slices.ContainsFunc(s.Graph.Links, func(x graph.Neighbour) bool { return x.Stage != graph.Absent && x.Client == client }) {
			found("a link")
		}
		return true, nil
	})
}

// PackClientErasure packs the record of an erasure.
func PackClientErasure(space proto.SpaceID, seq, next uint64, done bool) []byte {
	x := clientErasure{space: space, seq: seq, next: next, done: done}
	return x.append(nil)
}

// RepackClientErasure reads the record of an erasure and packs it again.
func RepackClientErasure(b []byte) ([]byte, error) {
	x, err := decodeClientErasure(7, b)
	return x.append(nil), err
}

// PackRetention and UnpackRetention are the stored form of a policy.
func PackRetention(r proto.Retention) []byte { return appendRetention(nil, r) }

// UnpackRetention reads what PackRetention gave.
func UnpackRetention(b []byte) (proto.Retention, error) { return decodeRetention(b) }

// Controls is how many control records there are.
func (n *Node) Controls() uint64 { return n.registry.last() }

// BlocksOf are a client's sealed blocks of history.
func BlocksOf(st store.Store, client proto.ClientID) (list []string) {
	snap := st.Snapshot()
	defer snap.Release()
	err := snap.Scan([]byte{'N'}, []byte{'N'}, func(k, v []byte) (bool, error) {
		if key, _ := parseNodeKey(k); key.kind == 'h' && proto.ClientID(binary.BigEndian.Uint32(key.rest)) == client {
			list = append(list, string(v))
		}
		return true, nil
	})
	if err != nil {
		panic(err)
	}
	return list
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

// Unswept reports whether something is left of the client's imports that failed.
func (n *Node) Unswept(c proto.ClientInfo) (dirty bool) {
	n.registry.withImports(c.ID, func(b *importBook) { dirty = b.dirty > 0 })
	return dirty
}
