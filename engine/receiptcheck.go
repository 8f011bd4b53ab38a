package engine

import (
	"bytes"
	"context"
	"encoding/hex"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/actors/identity"
	"kith/engine/log"
	"kith/engine/store"
	"kith/graph"
	"kith/proto"
	"kith/proto/pb"
	"kith/segments"
)

// receiptWaitMax is how long a check waits for others: each reads everything.
const receiptWaitMax = time.Minute

var errChecks = proto.Errorf(proto.CodeOverloaded, "other receipts are being checked, each of which reads everything: ask again when one of yours is answered, or in a minute")

// CheckReceipt looks in everything that the node holds for what the receipt
// says is gone. One check is under way at a time, and of those that wait each client,
// by whose key they are asked for, has one in front of another's; 0 is the operators.
func (n *Node) CheckReceipt(ctx context.Context, by proto.ClientID, r proto.Receipt) (proto.ReceiptCheck, error) {
	ctx, done, err := n.working(ctx)
	if err != nil {
		return proto.ReceiptCheck{}, err
	}
	defer done()
	c, err := newReceiptCheck(n, r)
	if err != nil || !c.valid {
		return proto.ReceiptCheck{}, err // nothing is told to who has no receipt of ours
	}
	within, cancel := context.WithTimeout(ctx, receiptWaitMax)
	defer cancel()
	end, ok := n.checking.Begin(within, by)
	if !ok {
		return proto.ReceiptCheck{}, errChecks
	}
	defer end()
	if r.Client != "" {
		info, ok := n.Client(r.Client)
		if !ok {
			return proto.ReceiptCheck{}, proto.Errorf(proto.CodeClient, "the receipt's client %q is not known here", r.Client)
		}
		c.client = &info
	}
	snap := n.store.Snapshot() // newer than the lanes' own, which miss what others deleted
	defer snap.Release()
	if err := c.search(ctx, slices.Repeat([]store.Snapshot{snap}, len(n.lanes))); err != nil {
		return proto.ReceiptCheck{}, err
	}
	if c.client == nil {
		c.count("read caches", n.views.holding(c.hash, func(space proto.SpaceID, o proto.Ordinal) bool {
			now, err := n.state(proto.Node{Hash: c.hash, Space: space}) // it may have come back since the search began
			return err == nil && now.Named && now.Ordinal == o
		}))
	}
	var logs []laneLog
	for _, l := range n.lanes {
		x, err := readLaneLog(ctx, l.stream, l.base)
		if err != nil {
			return proto.ReceiptCheck{}, err
		}
		logs = append(logs, x)
	}
	return c.conclude(logs)
}

// CheckReceipt is the same over a data directory on which no node runs.
// CodeUnavailable if it finds something because the node ended without being
// stopped, before its store had all that the receipt is of. The log that a cluster
// keeps cannot be looked at: LogUnread says so.
func CheckReceipt(ctx context.Context, c Config, r proto.Receipt) (proto.ReceiptCheck, error) {
	if err := c.Validate(); err != nil {
		return proto.ReceiptCheck{}, err
	}
	n, done, err := openStored(c)
	if err != nil {
		return proto.ReceiptCheck{}, err
	}
	defer done()
	if c.ForCluster {
		n.signInCluster(c)
	} else if n.signer.key, err = storedReceiptKey(c); err != nil {
		return proto.ReceiptCheck{}, err
	}
	x, err := newReceiptCheck(n, r)
	if err != nil || !x.valid {
		return proto.ReceiptCheck{}, err
	}
	if r.Client != "" {
		return proto.ReceiptCheck{}, proto.Errorf(proto.CodeInvalid, "what one client had erased is checked by a running node: pass --service instead of --data")
	}
	snap := n.store.Snapshot()
	defer snap.Release()
	if err := x.search(ctx, slices.Repeat([]store.Snapshot{snap}, n.config.Lanes)); err != nil {
		return proto.ReceiptCheck{}, err
	}
	lanes, err := n.storedLogs(ctx, snap)
	if err != nil {
		return proto.ReceiptCheck{}, err
	}
	var logs []laneLog
	for _, l := range lanes {
		logs = append(logs, l.log)
	}
	check, err := x.conclude(logs)
	if err != nil {
		return proto.ReceiptCheck{}, err
	}
	if lanes[0].unread {
		check.LogFirst, check.LogClear, check.LogUnread = 0, false, true
	}
	if !check.Clean {
		err = hasApplied(lanes, r.Position)
	}
	return check, err
}

// HashOf is the keyed hash of an identity in a data directory.
func HashOf(c Config, id proto.Identity) (h proto.IdentityHash, err error) {
	secret, err := storedSecret(c)
	if err != nil {
		return h, err
	}
	return proto.NewHasher(secret).Hash(id), nil
}

// storedLane is a lane's log and record, of a node that does not run.
type storedLane struct {
	log    laneLog
	unread bool // the log, as it takes most of a cluster's servers
	record *pb.LaneRecord
}

// laneLog is what a lane's log still holds.
type laneLog struct {
	log.Info
	base   uint64
	oldest time.Time // when the first entry was stored, if there is one
}

func readLaneLog(ctx context.Context, s log.Stream, base uint64) (x laneLog, err error) {
	x.base = base
	for tries := 0; ; tries++ {
		if x.Info, err = s.Info(ctx); err != nil || x.First > x.Last {
			return x, err
		}
		r, err := s.Get(ctx, x.First)
		if proto.CodeOf(err) == proto.CodeNotFound && tries < 3 { // it went meanwhile
			continue
		}
		x.oldest = r.Stored
		return x, err
	}
}

// hasApplied is CodeUnavailable if the store has not come to a receipt's position and
// the log has more for it, or may have. Of a store that was restored without the ledger it has not;
// and a lane of the receipt's may not be there any more.
func hasApplied(lanes []storedLane, position string) error {
	p, err := proto.ParsePosition(position)
	if err != nil {
		return err
	}
	for id, at := range p {
		if int(id) >= len(lanes) {
			continue
		}
		l := lanes[id]
		if l.record.Offset < uint64(at) && (l.unread || uint64(l.log.Last)+l.log.base > l.record.Offset) {
			return proto.Errorf(proto.CodeUnavailable, "the node ended without being stopped, and its store has not taken in what the receipt is of: start it, stop it, and check again")
		}
	}
	return nil
}

// storedLogs are all lanes of a node that does not run.
func (n *Node) storedLogs(ctx context.Context, snap store.Snapshot) (list []storedLane, err error) {
	c := n.config
	if c.ForCluster && c.NATSURL == "" {
		for id := range c.Lanes {
			l := &lane{id: proto.LaneID(id)}
			if err := l.loadRecord(snap); err != nil {
				return nil, err
			}
			list = append(list, storedLane{unread: true, record: l.record})
		}
		return list, nil
	}
	lg, err := log.Open(ctx, log.Config{Dir: c.logDir(), URL: c.NATSURL, Lanes: c.Lanes, MaxBytes: c.LogBytesMax, Name: c.Node, Logger: c.Logger})
	if err != nil {
		return nil, err
	}
	defer lg.Close()
	for id := range c.Lanes {
		l := &lane{id: proto.LaneID(id)}
		if err := l.loadRecord(snap); err != nil {
			return nil, err
		}
		x, err := readLaneLog(ctx, lg.Lane(l.id), l.record.Base)
		if err != nil {
			return nil, err
		}
		list = append(list, storedLane{log: x, record: l.record})
	}
	return list, nil
}

// receiptCheck is a search for one identity.
type receiptCheck struct {
	node    *Node
	receipt proto.Receipt
	hash    proto.IdentityHash
	valid   bool
	client  *proto.ClientInfo // whose knowledge alone was erased
	again   map[proto.SpaceID]returned
	places  []proto.ReceiptFind
}

// returned is what stands for a node since its identity was erased or opted in: what
// belongs to it is not what was erased.
type returned struct {
	identity.State
	gen     uint32
	members []graph.Hash // of which it has copies
}

// leads reports whether others may go by what it is.
func (r *returned) leads() bool {
	g := r.Graph
	return g != nil && len(g.Links)+len(g.Members)+len(g.Receivers)+len(g.Owed) > 0
}

func newReceiptCheck(n *Node, r proto.Receipt) (*receiptCheck, error) {
	raw, err := hex.DecodeString(r.IdentityHash)
	if err != nil || len(raw) != 16 {
		return nil, proto.Errorf(proto.CodeInvalid, "the receipt's identity_hash is not 32 hexadecimal digits: is the file whole?")
	}
	c := &receiptCheck{node: n, receipt: r, hash: proto.IdentityHash(raw), again: map[proto.SpaceID]returned{}}
	c.valid = ValidReceipt(&r) && n.signer.verifies(r.PublicKey) && r.IdentityHMAC == n.signer.mac(c.hash)
	return c, nil
}

// home is the identity's lane.
func (c *receiptCheck) home() proto.LaneID { return c.node.laneIDs[c.hash.Partition()] }

// count notes a place and how much was found there.
func (c *receiptCheck) count(place string, found int) {
	for i := range c.places {
		if c.places[i].Place == place {
			c.places[i].Found += found
			return
		}
	}
	c.places = append(c.places, proto.ReceiptFind{Place: place, Found: found})
}

// search goes through all live keys.
func (c *receiptCheck) search(ctx context.Context, snaps []store.Snapshot) error {
	if c.client != nil {
		return c.searchClient(ctx, snaps)
	}
	for _, place := range []string{"facts", "history", "edges", "views", "messages under way", "names", "networks", "bitmaps", "dead letters"} {
		c.count(place, 0)
	}
	if err := c.readOptOut(snaps[c.home()]); err != nil {
		return err
	}
	if err := c.networks(ctx, snaps[c.home()]); err != nil {
		return err
	}
	for id, snap := range snaps {
		for _, p := range partitionsOf(proto.LaneID(id), len(snaps)) {
			if err := c.nodes(ctx, snap, p); err != nil {
				return err
			}
		}
		if err := c.lane(ctx, snap, proto.LaneID(id)); err != nil {
			return err
		}
	}
	return nil
}

// searchClient looks for what one client knew, and for nothing that is others'.
// What it has learnt since, of later events, is not what was erased.
func (c *receiptCheck) searchClient(ctx context.Context, snaps []store.Snapshot) error {
	snap := snaps[c.home()]
	node := proto.Node{Hash: c.hash, Space: c.client.Space}
	s, _, err := readNode(snap, node)
	if err != nil {
		return err
	}
	f := s.Client(c.client.ID)
	old := f != nil && f.First <= proto.MillisOf(c.receipt.Time)
	c.count("facts", int(flag(old)))
	blocks := 0
	if f == nil || old {
		prefix := blockPrefix(node, s.Gen(), c.client.ID)
		err = snap.Scan(prefix, prefix, func(_, _ []byte) (bool, error) { blocks++; return true, nil })
	}
	c.count("history", blocks)
	if err != nil {
		return err
	}
	rows := 0
	err = scanNetworksIn(snap, clientNetworksPrefix(c.client.ID), func(_ proto.ClientID, k proto.NetworkKey, n proto.Node) error {
		if n == node && (old || f == nil || !f.SeenOn(k)) {
			rows++
		}
		return nil
	})
	c.count("networks", rows)
	c.count("dead letters", 0)
	if err != nil {
		return err
	}
	if err := c.letters(snap, c.home()); err != nil {
		return err
	}
	if err := c.clientName(ctx, snap, node, &s); err != nil {
		return err
	}
	return c.clientEdges(ctx, snaps, node, &s)
}

// clientName looks for what is left where nobody else knew the node, all of which went
// then: generations before the present one, and names that nothing stands behind.
func (c *receiptCheck) clientName(ctx context.Context, snap store.Snapshot, node proto.Node, s *identity.State) error {
	prefix := nodesPrefix(c.hash)
	err := snap.Scan(prefix, prefix, func(k, _ []byte) (bool, error) {
		if key, ok := parseNodeKey(k); ok && key.node == node && key.gen != generationOf(s.Gen()) {
			switch key.kind {
			case 'f':
				c.count("facts", 1)
			case 'h':
				c.count("history", 1)
			}
		}
		return true, ctx.Err()
	})
	if err != nil {
		return err
	}
	alone := s.Bare != 0 && s.Bare < proto.MillisOf(c.receipt.Time) // nobody knew it at the time
	c.count("names", int(flag(alone)))
	prefix = laneKey(c.home(), 'o')
	return snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		space, name, err := decodeOrdinal(v)
		if err != nil {
			return false, err
		}
		if space == node.Space && !(s.Named && s.Ordinal == ordinalOf(k)) && c.node.hasher.Hash(name) == c.hash {
			c.count("names", 1)
		}
		return true, ctx.Err()
	})
}

// clientEdges counts links from before the erasure for which the client vouches, at the
// node itself and at its neighbours.
func (c *receiptCheck) clientEdges(ctx context.Context, snaps []store.Snapshot, node proto.Node, s *identity.State) error {
	c.count("edges", 0)
	if s.Graph != nil {
		for i := range s.Graph.Links {
			c.count("edges", int(flag(c.clients(&s.Graph.Links[i]))))
		}
	}
	for id, snap := range snaps {
		for _, p := range partitionsOf(proto.LaneID(id), len(snaps)) {
			prefix := []byte{'N', byte(p)}
			err := snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
				key, ok := parseNodeKey(k)
				if !ok || key.kind != 'f' || key.node.Space != node.Space || key.node.Hash == c.hash || !bytes.Contains(v, c.hash[:]) {
					return true, ctx.Err()
				}
				var other identity.State
				if _, err := other.Decode(v); err != nil || other.Graph == nil {
					c.count("edges", 1)
				} else if l := other.Graph.Link(c.hash); l != nil {
					c.count("edges", int(flag(c.clients(l))))
				}
				return true, ctx.Err()
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// clients reports whether a link is the client's, from before the erasure.
func (c *receiptCheck) clients(l *graph.Neighbour) bool {
	return l.Stage != graph.Absent && l.Client == c.client.ID && l.Time <= proto.MillisOf(c.receipt.Time)
}

// readOptOut finds out which nodes of the identity came back since.
func (c *receiptCheck) readOptOut(snap store.Snapshot) error {
	var o identity.OptOut
	found, err := source{snap}.OptOut(c.hash, o.Decode)
	if err != nil || !found || o.Dark() {
		return err
	}
	for _, n := range o.Nodes {
		now := returned{gen: n.Gen}
		if now.State, now.members, err = readNode(snap, proto.Node{Hash: c.hash, Space: n.Space}); err != nil {
			return err
		}
		c.again[n.Space] = now
	}
	return nil
}

// nodes goes through a partition's nodes.
func (c *receiptCheck) nodes(ctx context.Context, snap store.Snapshot, p proto.PartitionID) error {
	prefix := []byte{'N', byte(p)}
	return snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		key, ok := parseNodeKey(k)
		if !ok {
			return true, ctx.Err()
		}
		if key.node.Hash == c.hash {
			c.own(key)
			return true, ctx.Err()
		}
		switch key.kind {
		case 'f', 'd':
			if bytes.Contains(v, c.hash[:]) {
				c.count("edges", c.edges(key, v))
			}
		case 'c':
			if bytes.Equal(key.rest, c.hash[:]) || bytes.Contains(v, c.hash[:]) {
				c.count("views", c.copies(key, v))
			}
		}
		return true, ctx.Err()
	})
}

// networks counts the rows by which the identity is found from a network, but for
// those on which it was seen since it came back.
func (c *receiptCheck) networks(ctx context.Context, snap store.Snapshot) error {
	return scanNetworks(snap, func(client proto.ClientID, k proto.NetworkKey, n proto.Node) error {
		if n.Hash != c.hash {
			return ctx.Err()
		}
		now := c.again[n.Space]
		if f := now.Client(client); f == nil || !f.SeenOn(k) {
			c.count("networks", 1)
		}
		return ctx.Err()
	})
}

// own counts what is left of the identity itself, unless it is of a generation
// that came after.
func (c *receiptCheck) own(key parsedKey) {
	now, back := c.again[key.node.Space]
	old := !back || key.gen != generationOf(now.gen)
	switch {
	case key.kind == 'f' && old:
		c.count("facts", 1)
	case key.kind == 'h' && old:
		c.count("history", 1)
	case key.kind == 'c' && !slices.ContainsFunc(now.members, func(h graph.Hash) bool { return bytes.Equal(h[:], key.rest) }):
		c.count("views", 1)
	}
}

// stale reports whether a generation of the identity is not that which came back.
func (c *receiptCheck) stale(space proto.SpaceID, gen uint32) bool {
	now, back := c.again[space]
	return !back || gen < now.gen
}

// edges counts what another node's links name of the identity.
func (c *receiptCheck) edges(key parsedKey, v []byte) (found int) {
	var x graph.State
	if key.kind == 'd' {
		if _, err := x.Decode(v); err != nil {
			return 1
		}
	} else {
		var s identity.State
		if _, err := s.Decode(v); err != nil || s.Graph == nil {
			return 1
		}
		x = *s.Graph
	}
	if l := x.Link(c.hash); l != nil {
		gen, at := l.Gen, l.Time
		if l.Stage == graph.Absent { // of what came back a link may have been removed since
			gen, at = l.MarkGen, l.MarkTime
		}
		_, back := c.again[key.node.Space]
		proposed := back && gen == 0 && at > proto.MillisOf(c.receipt.Time) // or removed, and not agreed to yet: with what came back
		if !proposed && c.stale(key.node.Space, gen) {
			found++
		}
	}
	if now := c.again[key.node.Space]; !now.leads() && (x.Root == c.hash || x.Shown.Root == c.hash) {
		found++
	}
	return found
}

// copies counts what a root's copies name of the identity.
func (c *receiptCheck) copies(key parsedKey, v []byte) (found int) {
	x, err := graph.DecodeContribution(v)
	if err != nil {
		return 1
	}
	if bytes.Equal(key.rest, c.hash[:]) && c.stale(key.node.Space, x.Gen) {
		found++
	}
	for i := range x.Edges {
		if x.Edges[i].Peer == c.hash && c.stale(key.node.Space, x.Edges[i].Gen) {
			found++
		}
	}
	return found
}

// lane goes through what a lane keeps beside nodes.
func (c *receiptCheck) lane(ctx context.Context, snap store.Snapshot, id proto.LaneID) error {
	names := roaring.New()
	prefix := laneKey(id, 'o')
	err := snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		space, name, err := decodeOrdinal(v)
		if err != nil {
			return false, err
		}
		names.Add(uint32(ordinalOf(k)))
		if c.node.hasher.Hash(name) == c.hash {
			if now := c.again[space]; !now.Named || now.Ordinal != ordinalOf(k) || id != c.home() {
				c.count("names", 1)
			}
		}
		return true, ctx.Err()
	})
	if err != nil {
		return err
	}
	if err := c.letters(snap, id); err != nil {
		return err
	}
	if err := c.underWay(snap, id); err != nil {
		return err
	}
	return c.bitmaps(snap, id, names)
}

// underWay counts graph messages that are not applied yet; rows of those that
// are go with the lane's next commit.
func (c *receiptCheck) underWay(snap store.Snapshot, id proto.LaneID) error {
	lanes := c.node.config.Lanes
	for to := range lanes {
		l := &lane{id: proto.LaneID(to), node: c.node, record: &pb.LaneRecord{}}
		if err := l.loadGraph(snap); err != nil {
			return err
		}
		if l.id == id {
			c.messages(l.graph.Carry)
		}
		start := outboxKey(id, l.id, l.graph.Applied[id]+1)
		err := snap.Scan(start[:4], start, func(_, v []byte) (bool, error) {
			if !bytes.Contains(v, c.hash[:]) {
				return true, nil
			}
			x, err := graph.DecodeBatch(v, lanes)
			c.messages(x.Messages)
			return true, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// messages counts those that name the identity as it was.
func (c *receiptCheck) messages(list []graph.Message) {
	for i := range list {
		m := &list[i]
		if len(c.again) > 0 && c.old(m) || len(c.again) == 0 && bytes.Contains(m.Append(nil), c.hash[:]) {
			c.count("messages under way", 1)
		}
	}
}

// old reports whether a message names a generation of the identity that is not that
// which came back.
func (c *receiptCheck) old(m *graph.Message) bool {
	from, to, about := m.Gen, m.ToGen, uint32(0) // of whom the message is, whom it is for, and of a third
	switch m.Kind {
	case graph.Release, graph.UnlinkAck:
		from, to = 0, m.Gen
	case graph.CutDone:
		from, to = m.AboutGen, m.Gen
	case graph.Refuse:
		about = m.AboutGen
	case graph.Contrib:
		if m.Copy != nil {
			from = m.Copy.Gen
		}
	}
	stale := func(h graph.Hash, gen uint32) bool { return h == c.hash && gen > 0 && c.stale(m.To.Space, gen) }
	return stale(m.From, from) || stale(m.To.Hash, to) || stale(m.About, about) ||
		slices.ContainsFunc(m.List, func(r graph.Ref) bool { return stale(r.Peer, r.Gen) }) ||
		m.Copy != nil && slices.ContainsFunc(m.Copy.Edges, func(e graph.Edge) bool { return stale(e.Peer, e.Gen) })
}

func (c *receiptCheck) letters(snap store.Snapshot, id proto.LaneID) error {
	prefix := laneKey(id, 'q')
	return snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		d, err := decodeDead(k, v)
		if err != nil {
			return false, err
		}
		list := newLetters()
		list.add(c.node.hasher, letterID{}, d.replay.Kind, d.replay.Body)
		ours := c.client == nil || list.clients[letterID{}] == c.client.ID
		if c.client != nil || len(c.again) > 0 { // later ones are of what came back
			ours = ours && d.at < proto.MillisOf(c.receipt.Time) && (id != c.home() || d.replay.Offset <= c.receipt.Offset) // at is the beat's before it
		}
		if ours && len(list.of[c.hash]) > 0 {
			c.count("dead letters", 1)
		}
		return true, nil
	})
}

// bitmaps counts bits that no identity stands behind: a cut one's number leads
// to nobody, so it cannot be told whose they were.
func (c *receiptCheck) bitmaps(snap store.Snapshot, id proto.LaneID, names *roaring.Bitmap) error {
	l := &lane{id: id, node: c.node, rules: newLaneRules(), bitmaps: segments.NewBitmaps()}
	for _, load := range []func(store.Snapshot) error{l.loadRecord, l.loadRules, l.loadBitmaps} {
		if err := load(snap); err != nil {
			return err
		}
	}
	l.bitmaps.View(func(get func(proto.SegmentKey) *roaring.Bitmap, universe func(proto.ClientID) *roaring.Bitmap) {
		for k := range l.rules.defines {
			if b := get(k); b != nil {
				c.count("bitmaps", int(roaring.AndNot(b, names).GetCardinality()))
			}
		}
	})
	for _, client := range l.bitmaps.Clients() {
		l.bitmaps.View(func(_ func(proto.SegmentKey) *roaring.Bitmap, universe func(proto.ClientID) *roaring.Bitmap) {
			c.count("bitmaps", int(roaring.AndNot(universe(client), names).GetCardinality()))
		})
	}
	return nil
}

// conclude sums up, with what may still be in the lanes' logs. An event lies in the
// lane of its first identity, so any lane's log may name the receipt's. Of lanes other
// than its own the receipt's position tells only what it derives from, not all that
// was there: when their oldest entry was stored counts too. The log of a restored store
// has other offsets than the one that the receipt is of; if it was made after the
// receipt, nothing in it is from before.
func (c *receiptCheck) conclude(logs []laneLog) (x proto.ReceiptCheck, err error) {
	at, err := proto.ParsePosition(c.receipt.Position)
	if err != nil {
		return x, err
	}
	home := c.home()
	x = proto.ReceiptCheck{Signature: c.valid, Clean: true, Places: c.places, LogClear: true}
	for _, p := range c.places {
		x.Clean = x.Clean && p.Found == 0
	}
	for i, l := range logs {
		id, first := proto.LaneID(i), l.First+proto.Offset(l.base)
		passed := first > at[id] && l.oldest.After(c.receipt.Time)
		if id == home {
			x.LogFirst, passed = first, first > c.receipt.Offset
		}
		empty, later := l.First > l.Last, l.base > 0 && l.Created.After(c.receipt.Time)
		x.LogClear = x.LogClear && (empty || later || passed)
	}
	return x, nil
}

// holding counts cached views of an identity that show anything else than what is.
func (v *views) holding(h proto.IdentityHash, is func(proto.SpaceID, proto.Ordinal) bool) (found int) {
	s := v.shard(proto.Node{Hash: h})
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, space := range s.spaces {
		if c := s.views[proto.Node{Hash: h, Space: space}]; c.view != nil && !c.view.OptedOut && !is(space, c.view.Ordinal) {
			found++
		}
	}
	return found
}
