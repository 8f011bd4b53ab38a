package engine

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"kith/engine/log"
	"kith/proto"
)

// This file is the feeds of memberships: what lanes keep for a client (feedrows.go)
// is put on the stream of its outlet, and each message says up to where every lane
// is told with it. A message is stored only behind the one that its writer read
// last, so nothing is told twice and nothing left out, whoever writes: in a cluster
// the owners of the lanes. Lanes never wait for it.
//
// An identity is told by a name that comes from its keyed hash and the client's
// number: who opts out is not named, then or before. Messages are kept as long as
// the log's entries.

// Bounds of a feed.
const (
	feedLinesMax = 1000                  // in a message
	feedPace     = 10 * time.Millisecond // between messages that are not full
	feedTrim     = time.Second           // between deletions of rows that were told
	feedSweep    = 30 * time.Second      // between looks for what is too old
	feedPageMax  = 1000
	feedReadWait = time.Second // for a message that was stored, or another's
	feedNameLen  = 16

	feedEraseWait = 10 * time.Second // for a feed that is being opened, and what is under way in it
)

// bell wakes whoever waits for something to have come.
type bell struct {
	mu   sync.Mutex
	rung chan struct{} // closed and replaced each time
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rung != nil {
		close(b.rung)
	}
	b.rung = make(chan struct{})
}

func (b *bell) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rung == nil {
		b.rung = make(chan struct{})
	}
	return b.rung
}

// feeds are those of all clients that ask.
type feeds struct {
	bell  bell
	lines atomic.Uint64 // told by this node since the start

	mu      sync.Mutex
	writing map[proto.ClientID]*feed
}

func (x *feeds) init() { x.writing = map[proto.ClientID]*feed{} }

func (x *feeds) of(c proto.ClientID) *feed {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.writing[c]
}

func (x *feeds) set(c proto.ClientID, f *feed) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.writing[c] = f
}

// unset takes a feed away, unless another one has its place.
func (x *feeds) unset(c proto.ClientID, f *feed) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.writing[c] == f {
		delete(x.writing, c)
	}
}

// feedsAsked are the clients that ever asked for a feed, and whether they still
// do; changed is closed at the next control record.
func (r *registry) feedsAsked() (asked map[proto.ClientID]bool, names map[proto.ClientID]proto.ClientName, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	names = map[proto.ClientID]proto.ClientName{}
	for name, c := range r.clients {
		names[c.ID] = name
	}
	return maps.Clone(r.rules.feeds), names, r.changed
}

// runFeeds keeps a feed written for each client that asks, until ctx ends.
func (n *Node) runFeeds(ctx context.Context) {
	var wait sync.WaitGroup
	defer wait.Wait()
	stops := map[proto.ClientID]context.CancelFunc{}
	ended := map[proto.ClientID]bool{}
	for ctx.Err() == nil {
		asked, names, changed := n.registry.feedsAsked()
		for id, on := range asked {
			name, known := names[id]
			stop, running := stops[id]
			switch on = on && known; {
			case on && !running:
				own, stop := context.WithCancel(ctx)
				stops[id], ended[id] = stop, false
				f := newFeed(n, id, name)
				wait.Go(func() { f.run(own) })
			case !on && running:
				stop()
				delete(stops, id)
			}
			if !on && !ended[id] {
				ended[id] = n.endFeed(ctx, id)
			}
		}
		select {
		case <-changed:
		case <-time.After(feedSweep): // a lane may have been behind with keeping nothing more
			clear(ended)
		case <-ctx.Done():
		}
	}
}

// endFeed deletes what there is of a feed that is no more.
func (n *Node) endFeed(ctx context.Context, c proto.ClientID) bool {
	for _, l := range n.lanes {
		if err := l.dropMoves(c, feedPlace{offset: ^proto.Offset(0)}); err != nil {
			n.logger.Warn("what a client's feed was not told cannot be deleted, trying again", "error", err)
			return false
		}
	}
	if !n.lanes[0].owns() {
		return true
	}
	if err := n.log.DropOutlet(ctx, c); err != nil && ctx.Err() == nil {
		n.logger.Warn("a client's feed cannot be deleted, trying again", "error", err)
		return false
	}
	return true
}

// dropMoves deletes a client's rows that were told up to a place.
func (l *lane) dropMoves(c proto.ClientID, told feedPlace) error {
	l.untold.trimming.Lock()
	defer l.untold.trimming.Unlock()
	for more := true; more; {
		keys, size, err := l.toldRows(c, told)
		if err != nil || len(keys) == 0 {
			return err
		}
		b := l.store.NewBatch()
		w := &writer{batch: b}
		for _, k := range keys {
			w.delete(k)
		}
		if w.err != nil {
			b.Discard()
			return w.err
		}
		if err := b.Apply(); err != nil {
			return err
		}
		l.untold.add(c, -size)
		more = len(keys) == deletesPerCommit
	}
	return nil
}

// toldRows are the first rows that are to be deleted.
func (l *lane) toldRows(c proto.ClientID, told feedPlace) (keys [][]byte, size int, err error) {
	snap := l.store.Snapshot()
	defer snap.Release()
	prefix := feedRowsPrefix(l.id, c)
	err = snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		last, err := feedRowLast(v)
		if err != nil || last.compare(told) > 0 || len(keys) == deletesPerCommit {
			return false, err
		}
		keys = append(keys, slices.Clone(k))
		size += len(k) + len(v)
		return true, nil
	})
	return keys, size, err
}

// feed is one client's, as this node writes and reads it.
type feed struct {
	node   *Node
	client proto.ClientID
	name   proto.ClientName
	out    log.Outlet

	// The writer's.
	from    [][]byte    // by lane: the key of the row to go on from, nil: the first
	behind  []feedPlace // by lane: up to where it was told then
	first   int         // the lane that is first to be looked at next
	trimmed time.Time

	writer  sync.Mutex // held while messages are written or deleted; before mu
	mu      sync.Mutex
	opened  bool
	read    uint64      // the newest message that was read
	told    []feedPlace // by lane, with that message
	changed bell
}

func newFeed(n *Node, c proto.ClientID, name proto.ClientName) *feed {
	lanes := n.config.Lanes
	return &feed{node: n, client: c, name: name, from: make([][]byte, lanes), behind: make([]feedPlace, lanes), told: make([]feedPlace, lanes)}
}

// run opens the feed, reads what others write and writes, until ctx ends.
func (f *feed) run(ctx context.Context) {
	for {
		err := f.open(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
		f.node.logger.Warn("a client's feed of memberships cannot be opened, trying again", "client", string(f.name), "error", err)
		if !pause(ctx, time.Second) {
			return
		}
	}
	f.node.feeds.set(f.client, f)
	defer f.node.feeds.unset(f.client, f)
	var wait sync.WaitGroup
	defer wait.Wait()
	wait.Go(func() { f.follow(ctx) })
	f.write(ctx)
}

// open finds out how far the feed is.
func (f *feed) open(ctx context.Context) error {
	out, err := f.node.log.Outlet(ctx, f.client, f.name)
	if err != nil {
		return err
	}
	f.out = out
	return f.readLast(ctx)
}

// readLast takes in the newest message. Of a place that its lane's log never had,
// as where a store was restored beside a feed that stayed, it takes no notice.
func (f *feed) readLast(ctx context.Context) error {
	info, err := f.out.Info(ctx)
	if err != nil {
		return err
	}
	told := make([]feedPlace, f.node.config.Lanes)
	if info.First <= info.Last {
		r, err := f.out.Get(ctx, info.Last)
		if err != nil && proto.CodeOf(err) != proto.CodeNotFound {
			return err
		}
		if err == nil {
			if told, err = f.toldBy(r.Data); err != nil {
				return err
			}
		}
	}
	for i, l := range f.node.lanes {
		end, err := l.logEnd(ctx)
		if err != nil {
			return err
		}
		if told[i].offset > end {
			told[i] = feedPlace{}
		}
	}
	f.heard(uint64(info.Last), told)
	return nil
}

// toldBy is up to where lanes are told with a message.
func (f *feed) toldBy(raw []byte) ([]feedPlace, error) {
	var m struct {
		Told []string `json:"told"`
	}
	list := make([]feedPlace, f.node.config.Lanes)
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, proto.Errorf(proto.CodeCorrupt, "a message of the feed of client %s is not what kith writes: %w", f.name, err)
	}
	for _, s := range m.Told {
		l, p, ok := parseFeedPlace(s)
		if !ok {
			return nil, proto.Errorf(proto.CodeCorrupt, "a message of the feed of client %s has the place %q", f.name, s)
		}
		if int(l) < len(list) {
			list[l] = p
		}
	}
	return list, nil
}

func (f *feed) heard(seq uint64, told []feedPlace) {
	f.mu.Lock()
	f.opened, f.read, f.told = true, seq, told
	f.mu.Unlock()
	f.changed.ring()
}

// state is how far the feed was read.
func (f *feed) state() (read uint64, told []feedPlace) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.read, f.told
}

// follow reads the feed until ctx ends.
func (f *feed) follow(ctx context.Context) {
	for ctx.Err() == nil {
		read, _ := f.state()
		err := f.out.Read(ctx, read+1, func(r log.Record) error {
			told, err := f.toldBy(r.Data)
			if err == nil {
				f.heard(uint64(r.Offset), told)
			}
			return err
		})
		if ctx.Err() != nil {
			return
		}
		// What was to be read next may be gone: the newest message says all.
		if last := f.readLast(ctx); last != nil && ctx.Err() == nil {
			f.node.logger.Warn("a client's feed cannot be read, trying again", "client", string(f.name), "error", errors.Join(err, last))
		}
		pause(ctx, relayRetry)
	}
}

// write tells what the lanes of this node have, until ctx ends.
func (f *feed) write(ctx context.Context) {
	sweep, swept := time.NewTicker(feedSweep), time.Now()
	defer sweep.Stop()
	for ctx.Err() == nil {
		if time.Since(swept) >= feedSweep/2 { // however much there is to tell
			if err := f.expire(ctx); err != nil && ctx.Err() == nil {
				f.node.logger.Warn("old messages of a client's feed cannot be deleted, trying again", "client", string(f.name), "error", err)
			}
			swept = time.Now()
		}
		more, owners, heard := f.node.feeds.bell.wait(), f.node.ownersChanged(), f.changed.wait()
		told, err := f.tell(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			f.node.logger.Warn("a client's feed cannot be written, trying again", "client", string(f.name), "error", err)
			pause(ctx, relayRetry)
			continue
		case told == feedLinesMax:
			continue
		case told > 0:
			pause(ctx, feedPace)
			continue
		}
		select {
		case <-more:
		case <-owners:
		case <-heard:
		case <-sweep.C:
		case <-ctx.Done():
		}
	}
}

// tell writes one message, if there is anything to tell, and says how much.
func (f *feed) tell(ctx context.Context) (lines int, err error) {
	if f.node.disk.stopped() {
		return 0, nil
	}
	f.writer.Lock()
	defer f.writer.Unlock()
	read, told := f.state()
	if now := time.Now(); now.Sub(f.trimmed) > feedTrim {
		if err := f.trim(told); err != nil {
			return 0, err
		}
		f.trimmed = now
	}
	list, next, err := f.gather(told)
	if err != nil || len(list) == 0 {
		return 0, err
	}
	if err := f.append(ctx, list, told, next, read); err != nil {
		return 0, err
	}
	f.node.feeds.lines.Add(uint64(len(list)))
	return len(list), nil
}

// append stores a message behind the one that was read last, and returns when it,
// or another's, is read. CodeConflict is no error: another node was first.
func (f *feed) append(ctx context.Context, list []proto.FeedLine, told, next []feedPlace, read uint64) error {
	raw, err := json.Marshal(proto.FeedMessage{Told: textOf(next), Changes: list})
	if err != nil {
		return proto.Errorf(proto.CodeInternal, "encode a message of a feed: %w", err)
	}
	sum := sha256.Sum256([]byte(strings.Join(append(append(textOf(told), textOf(next)...), strconv.FormatUint(read, 10)), " ")))
	_, err = f.out.Append(ctx, raw, hex.EncodeToString(sum[:16]), read)
	if err != nil && proto.CodeOf(err) != proto.CodeConflict && !log.Ambiguous(err) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, feedReadWait)
	defer cancel()
	for {
		heard := f.changed.wait()
		if now, _ := f.state(); now > read {
			return nil
		}
		select {
		case <-heard:
		case <-ctx.Done():
			return nil // the same again
		}
	}
}

func textOf(places []feedPlace) (list []string) {
	for l, p := range places {
		if p != (feedPlace{}) {
			list = append(list, p.text(proto.LaneID(l)))
		}
	}
	return list
}

// trim deletes rows that were told.
func (f *feed) trim(told []feedPlace) error {
	for i, l := range f.node.lanes {
		if err := l.dropMoves(f.client, told[i]); err != nil {
			return err
		}
	}
	return nil
}

// gather is what this node's lanes have behind told, as much as a message holds,
// and up to where lanes are told with it.
func (f *feed) gather(told []feedPlace) (list []proto.FeedLine, next []feedPlace, err error) {
	next = slices.Clone(told)
	lanes := f.node.lanes
	for i := range lanes {
		l := lanes[(f.first+i)%len(lanes)]
		if !l.owns() {
			continue
		}
		if list, next[l.id], err = f.gatherLane(l, told[l.id], list); err != nil {
			return nil, nil, err
		}
	}
	f.first++
	return list, next, nil
}

func (f *feed) gatherLane(l *lane, told feedPlace, list []proto.FeedLine) ([]proto.FeedLine, feedPlace, error) {
	snap := l.acquire()
	defer snap.release()
	prefix, start := feedRowsPrefix(l.id, f.client), f.from[l.id]
	if start == nil || told.compare(f.behind[l.id]) < 0 { // the feed was lost
		start = prefix
	}
	f.behind[l.id] = told
	before := told
	err := snap.Scan(prefix, start, func(k, v []byte) (bool, error) {
		last, err := feedRowLast(v)
		if err != nil || last.compare(before) <= 0 {
			f.from[l.id] = slices.Clone(k) // what comes is behind it
			return err == nil, err
		}
		row, err := decodeFeedRow(f.client, v)
		if err != nil {
			return false, err
		}
		for i := range row {
			if len(list) == feedLinesMax {
				return false, nil
			}
			if m := &row[i]; m.at.compare(told) > 0 {
				list = append(list, f.line(l.id, m))
				told = m.at
			}
		}
		return true, nil
	})
	return list, told, err
}

func (f *feed) line(l proto.LaneID, m *feedMove) proto.FeedLine {
	x := proto.FeedLine{ID: m.at.text(l), Time: m.time.Time().UTC(), Change: m.what.String(), Segment: m.segment}
	if m.what.OfIdentity() {
		x.Identity = f.node.feedName(f.client, m.hash)
	}
	return x
}

// feedName is what an identity is called in a client's feed.
func (n *Node) feedName(c proto.ClientID, h proto.IdentityHash) string {
	m := hmac.New(sha256.New, CommonKey(n.signer.secret[:], "names in feeds"))
	m.Write(binary.BigEndian.AppendUint32(nil, uint32(c)))
	m.Write(h[:])
	return hex.EncodeToString(m.Sum(nil)[:feedNameLen])
}

// expire deletes messages that are older than the log's entries may be. The
// newest says how far lanes are told; if it is too old an empty one comes behind.
func (f *feed) expire(ctx context.Context) error {
	if !f.node.lanes[0].owns() {
		return nil
	}
	f.writer.Lock()
	defer f.writer.Unlock()
	info, err := f.out.Info(ctx)
	if err != nil || info.First > info.Last {
		return err
	}
	before := f.node.config.Now().Add(-f.node.config.LogRetention)
	first, err := firstSince(ctx, f.out, info, before)
	if err != nil || first == info.First {
		return err
	}
	return f.purge(ctx, first-1, info.Last)
}

// purge deletes messages up to one, and writes an empty one first if none else
// is left.
func (f *feed) purge(ctx context.Context, upTo, last proto.Offset) error {
	if upTo == last {
		read, told := f.state()
		if read != uint64(last) {
			return nil // there is a newer one already
		}
		raw, err := f.out.Get(ctx, last)
		if err != nil {
			return err
		}
		if m := new(proto.FeedMessage); json.Unmarshal(raw.Data, m) == nil && len(m.Changes) == 0 {
			upTo-- // nobody is in it
		} else if err := f.append(ctx, []proto.FeedLine{}, told, told, read); err != nil {
			return err
		}
	}
	return f.out.Purge(ctx, upTo)
}

// eraseFeeds deletes all messages of a node that is alone, and their bytes.
func (n *Node) eraseFeeds(ctx context.Context) error {
	asked, names, _ := n.registry.feedsAsked()
	for id, on := range asked {
		name, known := names[id]
		if !on || !known {
			if !n.endFeed(ctx, id) {
				return proto.Errorf(proto.CodeUnavailable, "what is left of a feed that ended cannot be deleted: the node's log tells why")
			}
			continue
		}
		if err := n.eraseFeed(ctx, id, name); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) eraseFeed(ctx context.Context, c proto.ClientID, name proto.ClientName) error {
	ctx, cancel := context.WithTimeout(ctx, feedEraseWait)
	defer cancel()
	f := n.feeds.of(c)
	for ; f == nil; f = n.feeds.of(c) {
		if !pause(ctx, readsAgain) {
			return proto.Errorf(proto.CodeUnavailable, "the feed of client %q cannot be opened, so that its messages stay: the node's log tells why", name)
		}
	}
	return f.erase(ctx)
}

// erase deletes all messages. JetStream keeps the bytes of a block of which something
// is left, so nothing may be: an empty message that says up to where lanes are told
// comes behind. Should the node end between the two, the rows say so: those that were
// told are deleted before.
func (f *feed) erase(ctx context.Context) error {
	f.writer.Lock()
	defer f.writer.Unlock()
	info, err := f.out.Info(ctx)
	if err != nil || info.First > info.Last {
		return err
	}
	var told []feedPlace
	for {
		heard := f.changed.wait()
		read, places := f.state()
		if read >= uint64(info.Last) {
			told = places
			break
		}
		select {
		case <-heard:
		case <-ctx.Done():
			return proto.Errorf(proto.CodeUnavailable, "the feed of client %q is not read to its end, so that its messages stay: %w", f.name, ctx.Err())
		}
	}
	if err := errors.Join(f.trim(told), f.node.store.Sync()); err != nil {
		return err
	}
	if err := f.out.Purge(ctx, info.Last); err != nil {
		return err
	}
	return f.append(ctx, []proto.FeedLine{}, told, told, uint64(info.Last))
}

// FeedName implements gateway.Feeds.
func (n *Node) FeedName(c proto.ClientInfo, id proto.Identity) string {
	return n.feedName(c.ID, n.hasher.Hash(id))
}

// FeedExists implements gateway.Feeds.
func (n *Node) FeedExists(c proto.ClientInfo) error {
	_, err := n.feedOf(c)
	return err
}

func (n *Node) feedOf(c proto.ClientInfo) (*feed, error) {
	f := n.feeds.of(c.ID)
	if f == nil {
		return nil, proto.Errorf(proto.CodeNotFound, "client %q has no feed of memberships: the operator sets feed: true for it in kith.yaml", c.Name)
	}
	return f, nil
}

// FeedPage implements gateway.Feeds.
func (n *Node) FeedPage(ctx context.Context, c proto.ClientInfo, after uint64, limit int) (proto.FeedPage, error) {
	f, err := n.feedOf(c)
	if err != nil {
		return proto.FeedPage{}, err
	}
	return f.page(ctx, f.out, after, limit)
}

// page reads a page of out. It ends where messages went meanwhile: the next one begins
// there, and says so.
func (f *feed) page(ctx context.Context, out log.Outlet, after uint64, limit int) (proto.FeedPage, error) {
	info, err := out.Info(ctx)
	if err != nil {
		return proto.FeedPage{}, err
	}
	page := proto.FeedPage{Messages: []proto.FeedMessage{}, Next: after}
	if after > uint64(info.Last) { // of another life of the feed
		page.Missed, page.Next = true, uint64(info.First)-1
	}
	if next := page.Next + 1; next < uint64(info.First) {
		page.Missed, page.Next = true, uint64(info.First)-1
	}
	for lines := 0; page.Next < uint64(info.Last) && len(page.Messages) < min(limit, feedPageMax) && lines < feedPageMax; {
		r, err := out.Get(ctx, proto.Offset(page.Next+1))
		if proto.CodeOf(err) == proto.CodeNotFound { // it went meanwhile
			if len(page.Messages) > 0 {
				break
			}
			page.Missed = true
			page.Next++
			continue
		}
		if err != nil {
			return page, err
		}
		var m proto.FeedMessage
		if err := json.Unmarshal(r.Data, &m); err != nil {
			return page, proto.Errorf(proto.CodeCorrupt, "message %d of the feed of client %s is not what kith writes: %w", r.Offset, f.name, err)
		}
		m.Sequence = uint64(r.Offset)
		page.Messages, page.Next = append(page.Messages, m), m.Sequence
		lines += len(m.Changes)
	}
	return page, nil
}
