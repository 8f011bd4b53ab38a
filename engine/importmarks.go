package engine

import (
	"context"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/actors/identity"
	"kith/proto"
)

// This file finds and sets the marks that imports leave at identities.

// importChunk is how many identities are read in one snapshot.
const importChunk = 1024

// marked calls fn with each node of the client's that has some mark of an import.
func (n *Node) marked(ctx context.Context, client proto.ClientInfo, fn func(*markedNode) error) error {
	for i, l := range n.lanes {
		it := l.known(client.ID).Iterator()
		for it.HasNext() {
			if err := l.markedChunk(ctx, i, it, client, fn); err != nil {
				return err
			}
		}
	}
	return nil
}

// markedNode is a node with marks, and what its client knows of it.
type markedNode struct {
	lane    int
	ordinal proto.Ordinal
	node    proto.Node
	state   *identity.State
	facts   *identity.Facts
	marks   []proto.Prop
}

func (l *lane) markedChunk(ctx context.Context, index int, it roaring.IntPeekable, client proto.ClientInfo, fn func(*markedNode) error) error {
	snap := l.acquire()
	defer snap.release()
	for range importChunk {
		if !it.HasNext() {
			break
		}
		o := proto.Ordinal(it.Next())
		node, found, err := l.nodeOf(snap, o)
		if err != nil || !found || node.Space != client.Space {
			if err != nil {
				return err
			}
			continue
		}
		s, _, err := readNode(snap, node)
		if err != nil {
			return err
		}
		f := s.Client(client.ID)
		if f == nil || s.Dark() {
			continue
		}
		m := markedNode{lane: index, ordinal: o, node: node, state: &s, facts: f}
		for _, t := range f.Memory.Traits() {
			if proto.ReservedTrait(t.Key) {
				m.marks = append(m.marks, t)
			}
		}
		if len(m.marks) == 0 {
			continue
		}
		if err := fn(&m); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// noneByLane is a set of nobody for each lane.
func (n *Node) noneByLane() []*roaring.Bitmap {
	sets := make([]*roaring.Bitmap, len(n.lanes))
	for i := range sets {
		sets[i] = roaring.New()
	}
	return sets
}

// mark is the value of one of its marks.
func (m *markedNode) mark(key string) (uint64, bool) {
	for i := range m.marks {
		if m.marks[i].Key == key {
			return uint64(m.marks[i].Value.Number), true
		}
	}
	return 0, false
}

// markWriter sets and removes marks by commands in the lanes' logs.
type markWriter struct {
	node     *Node
	client   proto.ClientInfo
	batch    proto.Batch
	position proto.Position // that the last commands reached
}

// markBatch is how many commands are submitted at once.
const markBatch = 2000

// write submits the traits for some nodes, by lane. Each has needs or is left
// alone: whoever was cut, erased or changed meanwhile.
func (w *markWriter) write(ctx context.Context, sets []*roaring.Bitmap, needs string, set []proto.Prop) error {
	for i, l := range w.node.lanes {
		it := sets[i].Iterator()
		for it.HasNext() {
			if err := w.fill(l, it, needs, set); err != nil {
				return err
			}
			if err := w.submit(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *markWriter) fill(l *lane, it roaring.IntPeekable, needs string, set []proto.Prop) error {
	w.batch.Reset()
	snap := l.acquire()
	defer snap.release()
	x := proto.Traits{Client: w.client.ID, Space: w.client.Space, Received: w.node.now(), Set: set, Needs: needs}
	for it.HasNext() && w.batch.Len() < markBatch {
		id, err := l.nameOf(snap, proto.Ordinal(it.Next()))
		if err != nil {
			return err
		}
		if id != "" {
			x.Identity = id
			w.batch.AddTraits(w.node.hasher, &x)
		}
	}
	return nil
}

// submit makes the batch durable, however long intake is behind.
func (w *markWriter) submit(ctx context.Context) error {
	for {
		r := w.node.Submit(ctx, &w.batch)
		if len(r.Failed) == 0 {
			for lane, off := range r.Position {
				w.position[lane] = max(w.position[lane], off)
			}
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch proto.CodeOf(r.Err) {
		case proto.CodeOverloaded, proto.CodeUnavailable: // the same commands again change nothing that is done
		default:
			return r.Err
		}
		if !pause(ctx, time.Second) {
			return ctx.Err()
		}
	}
}
