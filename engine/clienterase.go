package engine

import (
	"context"
	"encoding/binary"
	"math"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/actors"
	"kith/engine/store"
	"kith/proto"
	"kith/proto/pb"
)

// This file is how all that a client holds is erased. A control record ends the
// client: each lane that obeys it drops the client's rules and takes nothing of
// it in any more. Then each lane goes through its numbered nodes of the client's
// space, a bounded step after the other, each an entry of its log, so that a
// restart goes on where it was and every replica does the same.

// clientErasure is how far a lane has gone through its nodes for an ended client.
type clientErasure struct {
	client proto.ClientID
	space  proto.SpaceID
	seq    uint64 // of the control record
	next   uint64 // the first ordinal not yet gone through
	done   bool
}

const clientErasureVersion = 1

// append packs it: version byte, flags (1 done), then as uvarints space,
// sequence and next ordinal.
func (x *clientErasure) append(b []byte) []byte {
	b = append(b, clientErasureVersion, byte(flag(x.done)))
	b = binary.AppendUvarint(b, uint64(x.space))
	b = binary.AppendUvarint(b, x.seq)
	return binary.AppendUvarint(b, x.next)
}

// decodeClientErasure reads what append wrote under the client's key.
func decodeClientErasure(client proto.ClientID, b []byte) (clientErasure, error) {
	r := proto.NewReader(b)
	version, flags := r.Byte(), r.Byte()
	x := clientErasure{client: client, done: flags == 1, space: proto.SpaceID(r.Uint32()), seq: r.Uvarint(), next: r.Uvarint()}
	if r.Bad() || r.Len() != 0 || version != clientErasureVersion || flags > 1 || x.next > math.MaxUint32+1 {
		return x, proto.Errorf(proto.CodeCorrupt, "the erasure of client %d is malformed or of another version than %d: restore a backup, or use the kith that wrote it", client, clientErasureVersion)
	}
	return x, nil
}

func (b *batch) setErasure(id proto.LaneID, x clientErasure) {
	b.puts = append(b.puts, put{clientErasureKey(id, x.client), x.append(nil)})
	b.erasures = append(b.erasures, x)
}

// loadErasures reads which clients were ended and how far the lane is with each.
func (l *lane) loadErasures(snap store.Snapshot) error {
	l.progress.erasures = map[proto.ClientID]clientErasure{}
	prefix := laneKey(l.id, 'k')
	return snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		if len(k) != 7 {
			return false, proto.Errorf(proto.CodeCorrupt, "the key of a client's erasure has %d bytes", len(k))
		}
		x, err := decodeClientErasure(proto.ClientID(binary.BigEndian.Uint32(k[3:])), v)
		l.progress.erasures[x.client] = x
		l.rules.gone[x.client] = true
		return true, err
	})
}

// endClient obeys the record that ended a client.
func (l *lane) endClient(b *batch, seq uint64, e *pb.EraseClient) {
	x := clientErasure{client: proto.ClientID(e.Client), space: proto.SpaceID(e.Space), seq: seq}
	b.setErasure(l.id, x)
	b.ended = append(b.ended, x.client)
	b.deletes = append(b.deletes, retentionKey(l.id, x.client))
}

// eraseClients appends the steps of erasures that are not done, each once the
// one before is published.
func (l *lane) eraseClients(ctx context.Context) {
	for !l.stopped() {
		x, err := l.openErasure(ctx)
		if err != nil {
			return
		}
		began := time.Now()
		if err := l.eraseStep(ctx, x); err != nil {
			if ctx.Err() == nil {
				l.logger.Warn("a client cannot be erased, trying again", "error", err)
			}
			if !pause(ctx, beatEvery) {
				return
			}
			continue
		}
		if !l.node.pace.rest(ctx, time.Since(began)) {
			return
		}
	}
}

// openErasure waits for the oldest erasure that is not done.
func (l *lane) openErasure(ctx context.Context) (x clientErasure, err error) {
	err = l.progress.wait(ctx, func(p *progress) (found bool) {
		x, found = p.openErasure()
		return found
	})
	return x, err
}

func (p *progress) openErasure() (x clientErasure, found bool) {
	for _, e := range p.erasures {
		if !e.done && (!found || e.seq < x.seq) {
			x, found = e, true
		}
	}
	return x, found
}

// eraseStep appends a step and returns when it is published.
func (l *lane) eraseStep(ctx context.Context, x clientErasure) error {
	if x.next == 0 {
		if err := l.node.endedEverywhere(ctx, x.seq); err != nil {
			return err
		}
	}
	step, err := l.nextForget(ctx, x)
	if err != nil {
		return err
	}
	if err := l.appendOwn(ctx, proto.CommandForget, [][]byte{step.Append(nil)}); err != nil {
		return err
	}
	return l.progress.wait(ctx, func(p *progress) bool { return p.erasures[x.client] != x })
}

// endedEverywhere returns when no lane takes anything of the client in any more,
// and what was under way between lanes until then has arrived: it could name a
// node behind the steps.
func (n *Node) endedEverywhere(ctx context.Context, seq uint64) error {
	if err := n.obeyed(ctx, seq); err != nil {
		return err
	}
	_, err := n.handedOver(ctx)
	return err
}

// Bounds of one step. Blocks of history count, each is a key to be deleted.
const (
	forgetNodes = 512
	forgetCost  = 8192
)

// nextForget is the next step: some numbered nodes of the client's space.
func (l *lane) nextForget(ctx context.Context, x clientErasure) (proto.Forget, error) {
	step := proto.Forget{Client: x.client, Space: x.space, First: x.first(), Last: x.first(), Done: true}
	nodes, cost := 0, 0
	snap := l.acquire()
	defer snap.release()
	err := l.scanNames(snap, step.First, func(o proto.Ordinal, node proto.Node, _ proto.Identity) (bool, error) {
		if node.Space != x.space {
			return true, ctx.Err()
		}
		if nodes >= forgetNodes || cost >= forgetCost {
			step.Done = false
			return false, nil
		}
		s, _, err := readNode(snap, node)
		if f := s.Client(x.client); f != nil {
			cost += int(f.History.Next - f.History.First)
		}
		nodes++
		cost++
		step.Last = o
		return true, err
	})
	return step, err
}

// first is the ordinal at which the next step begins.
func (x *clientErasure) first() proto.Ordinal { return proto.Ordinal(min(x.next, math.MaxUint32)) }

// forget has nodes numbered in a range forget an ended client.
func (l *lane) forget(b *batch, body []byte) (digest uint64, later bool, err error) {
	x, err := proto.DecodeForget(body)
	if err != nil {
		return 0, false, err
	}
	if !l.rules.gone[x.Client] {
		return 0, false, proto.Errorf(proto.CodeCorrupt, "a step erases client %d, which was not ended", x.Client)
	}
	if !l.drained(b) {
		return 0, true, nil
	}
	was, ok := l.progress.erasure(x.Client)
	if !ok || was.done || was.first() != x.First {
		return 0, false, nil // a step that was written twice
	}
	list, err := l.forgetting(b, &x)
	if err != nil {
		return 0, false, err
	}
	digest, err = l.runDue(list)
	if err == nil && x.Done {
		err = l.forgetTotals(b, x.Client)
	}
	was.next, was.done = uint64(x.Last)+1, x.Done
	b.setErasure(l.id, was)
	return digest, false, err
}

// forgetting are the nodes of a step, by ordinal.
func (l *lane) forgetting(b *batch, x *proto.Forget) (list []*actors.Due, err error) {
	err = l.scanNames(b.source, x.First, func(o proto.Ordinal, node proto.Node, _ proto.Identity) (bool, error) {
		if o > x.Last {
			return false, nil
		}
		if node.Space == x.Space {
			list = append(list, &actors.Due{Entry: len(b.offsets), Node: node, Forget: x.Client})
		}
		return true, nil
	})
	return list, err
}

func (p *progress) erasure(c proto.ClientID) (clientErasure, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	x, ok := p.erasures[c]
	return x, ok
}

// EraseClient ends a client and begins to erase what it holds, or says how far
// that is if it was begun before. No lane takes anything of the client in any more.
func (n *Node) EraseClient(ctx context.Context, name proto.ClientName) (proto.ClientErasure, error) {
	_, err := n.registry.propose(ctx, func() (*pb.Control, error) {
		c, ok := n.registry.clients[name]
		if !ok {
			return nil, nil
		}
		return &pb.Control{Body: &pb.Control_EraseClient{EraseClient: &pb.EraseClient{Client: uint32(c.ID), Space: uint32(c.Space)}}}, nil
	})
	if err != nil {
		return proto.ClientErasure{}, err
	}
	if id, ok := n.registry.ended(name); ok {
		for _, l := range n.lanes {
			if err := l.progress.wait(ctx, func(p *progress) bool { _, ok := p.erasures[id]; return ok }); err != nil {
				return proto.ClientErasure{}, err
			}
		}
	}
	x, ok := n.ClientErasure(name)
	if !ok {
		return x, errNoClient(name)
	}
	return x, nil
}

// ClientErasure is how far the newest erasure of a client of that name is.
func (n *Node) ClientErasure(name proto.ClientName) (proto.ClientErasure, bool) {
	ended, ok := n.registry.ended(name)
	if !ok {
		return proto.ClientErasure{}, false
	}
	out := proto.ClientErasure{Client: name, Lanes: proto.Answered{Of: len(n.lanes)}}
	for _, l := range n.lanes {
		if x, ok := l.progress.erasure(ended); ok && x.done {
			out.Lanes.Answered++
		}
		out.Left += l.universe(ended)
	}
	// Whoever is of a user is in the universe until the user's root has taken
	// back what the others knew: with nobody left there, nothing is under way.
	out.Erased = out.Left == 0 && out.Lanes.Answered == out.Lanes.Of
	return out, true
}

// universe is how many nodes the client knows, itself or of their users.
func (l *lane) universe(c proto.ClientID) (size uint64) {
	l.bitmaps.View(func(_ func(proto.SegmentKey) *roaring.Bitmap, universe func(proto.ClientID) *roaring.Bitmap) {
		if u := universe(c); u != nil {
			size = u.GetCardinality()
		}
	})
	return size
}
