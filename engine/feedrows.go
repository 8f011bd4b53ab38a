package engine

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"kith/engine/store"
	"kith/proto"
	"kith/proto/pb"
)

// This file is what a lane keeps for feeds: of each commit, who entered and left
// segments of clients that asked to be told, in rows that go once the feed has
// them (feed.go). That a client asks is a control record, so that all replicas
// of a lane keep the same; what they keep has the place of its entry, which
// names it whoever tells it.
//
// A row is: version 1 | place of its last move | count | moves, each: offset,
// after that of the move before | number | time | what | hash (16) and segment
// (length, bytes), where the kind of move has them. Numbers are uvarints, times
// varints in ms.

const feedRowVersion = 1

// Bounds of what is kept.
const (
	feedRowMoves = 1024
	// feedBacklogMax is how many bytes a lane keeps for a client, unless
	// FeedConfig says otherwise. What comes beyond is not told; once half of it is
	// told a mark says so. That one is due is kept with the commit that left
	// something out, until the commit that has it.
	feedBacklogMax = 64 << 20
)

// feedPlace is where a move is in a lane: moves of an entry are numbered from 1
// for each client. A mark of what is lost has number 0.
type feedPlace struct {
	offset proto.Offset
	number uint32
}

func (p feedPlace) compare(q feedPlace) int {
	return cmp.Or(cmp.Compare(p.offset, q.offset), cmp.Compare(p.number, q.number))
}

// text is how a lane's place is told: lane:offset:number.
func (p feedPlace) text(l proto.LaneID) string {
	return fmt.Sprintf("%d:%d:%d", l, p.offset, p.number)
}

func parseFeedPlace(s string) (l proto.LaneID, p feedPlace, ok bool) {
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		return 0, p, false
	}
	lane, err1 := strconv.ParseUint(parts[0], 10, 8)
	offset, err2 := strconv.ParseUint(parts[1], 10, 64)
	number, err3 := strconv.ParseUint(parts[2], 10, 32)
	return proto.LaneID(lane), feedPlace{proto.Offset(offset), uint32(number)}, err1 == nil && err2 == nil && err3 == nil
}

// feedMove is one thing to tell.
type feedMove struct {
	client  proto.ClientID
	at      feedPlace
	time    proto.Millis
	what    proto.FeedChange
	hash    proto.IdentityHash // of who moved
	segment proto.SegmentID
}

func (m *feedMove) append(b []byte, before proto.Offset) []byte {
	b = binary.AppendUvarint(b, uint64(m.at.offset-before))
	b = binary.AppendUvarint(b, uint64(m.at.number))
	b = append(proto.AppendVarint(b, int64(m.time)), byte(m.what))
	if m.what.OfIdentity() {
		b = append(b, m.hash[:]...)
	}
	if m.what.OfSegment() {
		b = append(binary.AppendUvarint(b, uint64(len(m.segment))), m.segment...)
	}
	return b
}

// encodeFeedRow packs moves in their order.
func encodeFeedRow(list []feedMove) []byte {
	last := list[len(list)-1].at
	b := binary.AppendUvarint([]byte{feedRowVersion}, uint64(last.offset))
	b = binary.AppendUvarint(b, uint64(last.number))
	b = binary.AppendUvarint(b, uint64(len(list)))
	before := proto.Offset(0)
	for i := range list {
		b = list[i].append(b, before)
		before = list[i].at.offset
	}
	return b
}

// feedRowLast is the place of a row's last move.
func feedRowLast(b []byte) (feedPlace, error) {
	r := proto.NewReader(b)
	version := r.Byte()
	p := feedPlace{proto.Offset(r.Uvarint()), uint32(r.Uvarint())}
	if r.Bad() || version != feedRowVersion {
		return p, proto.Errorf(proto.CodeCorrupt, "what is to be told to a feed is malformed or of another version than %d: restore a backup, or use the kith that wrote it", feedRowVersion)
	}
	return p, nil
}

func decodeFeedRow(client proto.ClientID, b []byte) ([]feedMove, error) {
	if _, err := feedRowLast(b); err != nil {
		return nil, err
	}
	r := proto.NewReader(b)
	r.Byte()
	r.Uvarint()
	r.Uvarint()
	var list []feedMove
	before := proto.Offset(0)
	for range r.Count(4) {
		m := feedMove{client: client}
		before += proto.Offset(r.Uvarint())
		m.at = feedPlace{before, uint32(r.Uvarint())}
		m.time, m.what = proto.Millis(r.Varint()), proto.FeedChange(r.Byte())
		if m.what.OfIdentity() {
			m.hash = r.Hash()
		}
		if m.what.OfSegment() {
			m.segment = proto.SegmentID(strings.Clone(r.String())) // the value is the store's
		}
		list = append(list, m)
	}
	if r.Bad() || r.Len() != 0 {
		return nil, proto.Errorf(proto.CodeCorrupt, "what is to be told to a feed is malformed: restore a backup")
	}
	return list, nil
}

// feedRows is how much a lane keeps for each client.
type feedRows struct {
	trimming sync.Mutex // one deletion at a time
	most     int        // bytes for a client

	mu    sync.Mutex
	bytes map[proto.ClientID]int
	lost  map[proto.ClientID]bool // something was not kept, and that is to be told
}

// admit reports whether more is kept for a client, and whether something before
// it was not.
func (x *feedRows) admit(c proto.ClientID) (keep, lost bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	lost = x.lost[c]
	switch {
	case x.bytes[c] > x.most, lost && x.bytes[c] > x.most/2:
		x.lost[c] = true
		return false, lost
	}
	delete(x.lost, c)
	return true, lost
}

// forget is for a feed that begins anew, or is no more.
func (x *feedRows) forget(c proto.ClientID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.lost, c)
}

// add notes bytes that came or, negative, went.
func (x *feedRows) add(c proto.ClientID, bytes int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.bytes[c] += bytes; x.bytes[c] <= 0 {
		delete(x.bytes, c)
	}
}

// total is over all clients.
func (x *feedRows) total() (sum int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, n := range x.bytes {
		sum += n
	}
	return sum
}

// told implements actors.Config: a version that waits answers nobody.
func (r *laneRules) told(c proto.ClientID, k proto.SegmentKey) (proto.SegmentID, bool) {
	if len(r.feeds) == 0 || !r.feeds[c] {
		return "", false
	}
	d, ok := r.defines[k]
	if !ok || r.programs[c].Waits(k) {
		return "", false
	}
	return d.id, true
}

// markFeed notes what a control record means for a feed: with another definition
// other members answer, however few of them move.
func (l *lane) markFeed(b *batch, seq uint64, c *pb.Control, ch *rulesChange) {
	mark := func(client proto.ClientID, what proto.FeedChange, id proto.SegmentID) {
		if l.rules.feeds[client] {
			b.marks = append(b.marks, feedMove{client: client, at: feedPlace{offset: l.graph.Position}, time: proto.Millis(l.record.NowMs), what: what, segment: id})
		}
	}
	switch x := c.Body.(type) {
	case *pb.Control_Define:
		if ch.defined == proto.SegmentKey(seq) && !ch.waits {
			mark(ch.client, proto.FeedDefined, proto.SegmentID(x.Define.Id))
		}
	case *pb.Control_Swap:
		if ch.swapped != 0 {
			mark(ch.client, proto.FeedDefined, proto.SegmentID(x.Swap.Id))
		}
	case *pb.Control_Undefine:
		if len(ch.dropped) > 0 {
			mark(ch.client, proto.FeedUndefined, proto.SegmentID(x.Undefine.Id))
		}
	case *pb.Control_Feed:
		client := proto.ClientID(x.Feed.Client)
		b.puts = append(b.puts, put{feedKey(l.id, client), []byte{byte(flag(x.Feed.On))}}, put{feedLostKey(l.id, client), []byte{0}})
		l.untold.forget(client)
		mark(client, proto.FeedBegan, "")
	case *pb.Control_EraseClient:
		client := proto.ClientID(x.EraseClient.Client)
		if _, asked := l.rules.feeds[client]; asked {
			b.puts = append(b.puts, put{feedKey(l.id, client), []byte{0}}, put{feedLostKey(l.id, client), []byte{0}})
			l.untold.forget(client)
		}
	}
}

// keepMoves puts what a batch has for feeds into rows.
func (l *lane) keepMoves(b *batch) {
	list := b.marks
	for _, o := range b.outcomes {
		for i := range o.Moves {
			m := &o.Moves[i]
			what := proto.FeedLeft
			if m.In {
				what = proto.FeedEntered
			}
			list = append(list, feedMove{client: m.Client, at: feedPlace{offset: m.Offset}, time: m.Time, what: what, hash: m.Hash, segment: m.Segment})
		}
	}
	if len(list) == 0 {
		return
	}
	// Outcomes are by partition, and each is in the order of its entries.
	slices.SortStableFunc(list, func(x, y feedMove) int {
		return cmp.Or(cmp.Compare(x.client, y.client), cmp.Compare(x.at.offset, y.at.offset))
	})
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n].client == list[0].client {
			n++
		}
		l.keepMovesOf(b, list[0].client, settledMoves(list[:n]))
		list = list[n:]
	}
}

// settledMoves numbers a client's moves and leaves out those that an entry took
// back: to whoever asks an entry is one step.
func settledMoves(list []feedMove) []feedMove {
	type member struct {
		hash    proto.IdentityHash
		segment proto.SegmentID
	}
	out := list[:0]
	for len(list) > 0 {
		n, turns := 0, map[member]int{}
		for n < len(list) && list[n].at.offset == list[0].at.offset {
			turns[member{list[n].hash, list[n].segment}]++
			n++
		}
		number, seen := uint32(0), map[member]int{}
		for _, m := range list[:n] {
			if k := (member{m.hash, m.segment}); m.what.OfIdentity() {
				// They take turns, in and out: of an odd number the last one counts.
				if seen[k]++; seen[k] < turns[k] || turns[k]%2 == 0 {
					continue
				}
			}
			number++
			m.at.number = number
			out = append(out, m)
		}
		list = list[n:]
	}
	return out
}

func (l *lane) keepMovesOf(b *batch, client proto.ClientID, list []feedMove) {
	if len(list) == 0 {
		return
	}
	keep, lost := l.untold.admit(client)
	if keep == lost { // a mark is due from here on, or is told
		b.puts = append(b.puts, put{feedLostKey(l.id, client), []byte{byte(flag(!keep))}})
	}
	if !keep {
		return
	}
	if lost {
		mark := feedMove{client: client, at: feedPlace{offset: list[0].at.offset}, time: list[0].time, what: proto.FeedLost}
		list = append([]feedMove{mark}, list...)
	}
	for row := range slices.Chunk(list, feedRowMoves) {
		key, value := feedRowKey(l.id, client, row[0].at), encodeFeedRow(row)
		b.puts = append(b.puts, put{key, value})
		l.untold.add(client, len(key)+len(value))
	}
	b.moved = true
}

// loadFeeds reads which clients are told, and how much they are still to be told.
func (l *lane) loadFeeds(snap store.Snapshot) error {
	l.untold.bytes, l.untold.lost, l.untold.most = map[proto.ClientID]int{}, map[proto.ClientID]bool{}, feedBacklogMax
	if c := l.node.config.Feeds; c != nil && c.BacklogBytesMax > 0 {
		l.untold.most = c.BacklogBytesMax
	}
	prefix := laneKey(l.id, 'l')
	err := snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		if len(k) != 7 || len(v) != 1 {
			return false, proto.Errorf(proto.CodeCorrupt, "the record of what a client's feed lacks has %d bytes", len(v))
		}
		if v[0] == 1 {
			l.untold.lost[feedRowClient(k)] = true
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	prefix = laneKey(l.id, 'f')
	err = snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		if len(k) != 7 || len(v) != 1 {
			return false, proto.Errorf(proto.CodeCorrupt, "the record of a client's feed has %d bytes", len(v))
		}
		l.rules.feeds[proto.ClientID(binary.BigEndian.Uint32(k[3:]))] = v[0] == 1
		return true, nil
	})
	if err != nil {
		return err
	}
	prefix = laneKey(l.id, 't')
	err = snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		if len(k) != 19 {
			return false, proto.Errorf(proto.CodeCorrupt, "the key of what a feed is to be told has %d bytes", len(k))
		}
		l.untold.add(feedRowClient(k), len(k)+len(v))
		return true, nil
	})
	return err
}

func feedRowClient(k []byte) proto.ClientID { return proto.ClientID(binary.BigEndian.Uint32(k[3:])) }

// agreeFeeds writes to the control stream which clients the configuration wants
// to be told, where that is otherwise.
func (n *Node) agreeFeeds(ctx context.Context) error {
	c := n.config.Feeds
	if c == nil {
		return nil
	}
	for _, info := range n.Clients() {
		on := c.Clients[info.Name]
		_, err := n.registry.propose(ctx, func() (*pb.Control, error) {
			if n.registry.rules.feeds[info.ID] == on {
				return nil, nil
			}
			return &pb.Control{Body: &pb.Control_Feed{Feed: &pb.Feed{Client: uint32(info.ID), On: on}}}, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
