package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"math"
	"os"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/cespare/xxhash/v2"
	gproto "google.golang.org/protobuf/proto"

	"kith/actors"
	"kith/actors/identity"
	"kith/engine/store"
	"kith/proto"
	"kith/segments"
)

// problemsMax bounds the list of differences in a report.
const problemsMax = 100

// VerifyReport says what was compared and where it differs.
type VerifyReport struct {
	Identities  uint64       `json:"identities"`
	Memberships uint64       `json:"memberships"`
	Events      uint64       `json:"events"`  // in histories
	Skipped     uint64       `json:"skipped"` // memberships whose history is truncated, and users of whom some member's is
	Behind      uint64       `json:"behind"`  // memberships and users that have not been brought up to the newest rules
	Users       uint64       `json:"users"`   // of several identities
	OptedOut    uint64       `json:"opted_out"`
	Unsettled   bool         `json:"unsettled,omitempty"` // graph messages were under way: users were not compared
	Lanes       []LaneReport `json:"lanes"`
	Problems    []string     `json:"problems"` // at most 100
}

// LaneReport is one lane's part. StateHash is over everything that the log
// decides: equal logs give equal hashes.
type LaneReport struct {
	Lane      proto.LaneID `json:"lane"`
	Offset    proto.Offset `json:"offset"`
	Chain     string       `json:"chain"`
	StateHash string       `json:"state_hash"`
}

// Verify recomputes, from facts and histories by the plain evaluator, what is
// derived, and compares: memberships, bitmaps, universes, ordinals, exit
// records and cached views. Events may come meanwhile: it works on a snapshot. One at a
// time: CodeOverloaded while another one goes on.
func (n *Node) Verify(ctx context.Context) (VerifyReport, error) {
	r := VerifyReport{Problems: []string{}}
	ctx, done, err := n.working(ctx)
	if err != nil {
		return r, err
	}
	defer done()
	if !n.verifying.TryLock() {
		return r, proto.Errorf(proto.CodeOverloaded, "another verification goes on, which reads everything: wait for it")
	}
	defer n.verifying.Unlock()
	snaps := make([]store.Snapshot, len(n.lanes))
	for i, l := range n.lanes {
		snap := l.acquire()
		defer snap.release()
		snaps[i] = snap
	}
	return r, verifyAll(ctx, n, snaps, &r)
}

// verifyAll verifies lane by lane, then what goes over lanes.
func verifyAll(ctx context.Context, n *Node, snaps []store.Snapshot, r *VerifyReport) error {
	users := newUserVerifier(n, snaps, r)
	for id, snap := range snaps {
		if err := verifyLane(ctx, n, proto.LaneID(id), snap, users); err != nil {
			return err
		}
	}
	return users.verify(ctx)
}

// Verify is the same over a data directory on which no node runs. It checks
// the checksums of all tables first, and changes nothing.
func Verify(ctx context.Context, c Config) (VerifyReport, error) {
	r := VerifyReport{Problems: []string{}}
	if err := c.Validate(); err != nil {
		return r, err
	}
	n, done, err := openStored(c)
	if err != nil {
		return r, err
	}
	defer done()
	if err := n.store.Check(); err != nil {
		return r, err
	}
	snap := n.store.Snapshot()
	defer snap.Release()
	return r, verifyAll(ctx, n, slices.Repeat([]store.Snapshot{snap}, n.config.Lanes), &r)
}

// openStored opens a data directory on which no node runs, for reading: it makes no
// secret, and takes none that the store was not made with.
func openStored(c Config) (_ *Node, done func(), err error) {
	if err := checkRestored(c); err != nil {
		return nil, nil, err
	}
	if _, err := os.Stat(c.storeDir()); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, errNoData(c)
	}
	secret, err := storedSecret(c)
	if err != nil {
		return nil, nil, err
	}
	c.CheckTables = true
	st, err := openStore(&c)
	if err != nil {
		return nil, nil, err
	}
	n := &Node{config: c, logger: c.Logger, hasher: proto.NewHasher(secret), store: st, signer: signer{secret: secret}}
	n.config.Lanes, err = n.storedLanes()
	if err == nil {
		err = n.checkGlobal()
	}
	if err != nil {
		st.Close()
		return nil, nil, err
	}
	n.place()
	return n, func() { st.Close() }, nil
}

// hasLog reports whether a node has begun a log of its own.
func (c *Config) hasLog() bool {
	list, err := os.ReadDir(c.logDir())
	return err == nil && len(list) > 0
}

// storedLanes is the number of lanes that the store was made with.
func (n *Node) storedLanes() (int, error) {
	snap := n.store.Snapshot()
	defer snap.Release()
	lanes := 0
	found, err := snap.Get(globalKey, func(v []byte) error {
		if len(v) == 18 {
			lanes = int(binary.BigEndian.Uint16(v[16:]))
		}
		return nil
	})
	if err == nil && (!found || lanes == 0) {
		err = errNoData(n.config)
	}
	return lanes, err
}

// errNoData is of a directory whose store has nothing.
func errNoData(c Config) error {
	if c.hasLog() {
		return proto.Errorf(proto.CodeUnavailable, "%s holds no data yet, but there is a log: the node ended without being stopped before it had written any. Start it, stop it, and try again", c.storeDir())
	}
	return proto.Errorf(proto.CodeNotFound, "%s holds no data of a node: name the directory that the node was started with", c.storeDir())
}

// verifier holds one lane's recomputation.
type verifier struct {
	*lane // a reading of the lane from the snapshot, never run
	ctx   context.Context
	snap  store.Snapshot
	out   *VerifyReport
	users *userVerifier
	hash  hash.Hash
	exits map[actors.Exit]bool
	count map[proto.SegmentKey]uint64 // members found in facts
	known map[proto.ClientID]uint64
	kept  map[clientDay]uint64                                    // events in histories
	named uint64                                                  // nodes that have a number
	seen  map[networkRow]bool                                     // networks in facts
	names map[proto.ClientID]map[proto.SegmentID]proto.SegmentKey // those that answer
	since map[proto.SegmentKey]proto.SegmentKey                   // the version from which on memories hold a definition
}

func verifyLane(ctx context.Context, n *Node, id proto.LaneID, snap store.Snapshot, users *userVerifier) error {
	out := users.out
	v := &verifier{
		lane: &lane{id: id, node: n, partitions: partitionsOf(id, n.config.Lanes), rules: newLaneRules(), bitmaps: segments.NewBitmaps()},
		ctx:  ctx, snap: snap, out: out, users: users, hash: xxhash.New(), exits: map[actors.Exit]bool{},
		count: map[proto.SegmentKey]uint64{}, known: map[proto.ClientID]uint64{}, kept: map[clientDay]uint64{}, seen: map[networkRow]bool{},
		names: map[proto.ClientID]map[proto.SegmentID]proto.SegmentKey{}, since: map[proto.SegmentKey]proto.SegmentKey{},
	}
	if err := v.load(snap); err != nil {
		return err
	}
	users.open(v)
	for key, d := range v.rules.defines {
		g := v.rules.programs[d.client]
		v.since[key] = g.Since(key)
		if v.names[d.client] == nil {
			v.names[d.client] = map[proto.SegmentID]proto.SegmentKey{}
		}
		if !g.Waits(key) {
			v.names[d.client][d.id] = key
		}
	}
	for _, step := range []func() error{v.readExits, v.nodes, v.networks, v.ordinals, v.sizes, v.aggregates, v.rest} {
		if err := step(); err != nil {
			return err
		}
	}
	out.Lanes = append(out.Lanes, LaneReport{
		Lane: id, Offset: proto.Offset(v.record.Offset), Chain: fmt.Sprintf("%016x", v.record.Chain),
		StateHash: fmt.Sprintf("%x", v.hash.Sum(nil)),
	})
	return nil
}

func (v *verifier) problem(format string, args ...any) {
	if len(v.out.Problems) < problemsMax {
		v.out.Problems = append(v.out.Problems, fmt.Sprintf("lane %s: ", v.id)+fmt.Sprintf(format, args...))
	}
}

func (v *verifier) readExits() error {
	prefix := laneKey(v.id, 'x')
	return v.snap.Scan(prefix, prefix, func(_, value []byte) (bool, error) {
		list, err := decodeExits(value)
		for _, e := range list {
			v.exits[e] = true
		}
		return true, err
	})
}

// nodes walks all facts, partition by partition.
func (v *verifier) nodes() error {
	var state identity.State
	for _, p := range v.partitions {
		prefix := []byte{'N', byte(p)}
		err := v.snap.Scan(prefix, prefix, func(k, value []byte) (bool, error) {
			v.hash.Write(k)
			v.hash.Write(value)
			key, ok := parseNodeKey(k)
			if !ok {
				return false, proto.Errorf(proto.CodeCorrupt, "a node's key has %d bytes", len(k))
			}
			if key.kind == 'd' {
				return true, v.users.dark(key.node, value)
			}
			if key.kind != 'f' {
				return true, nil
			}
			if _, err := state.Decode(value); err != nil {
				return false, err
			}
			if generationOf(state.Gen()) != key.gen {
				v.problem("a node of generation %d lies under %d", state.Gen(), key.gen)
			}
			v.users.add(v, key.node, &state)
			if !state.Named {
				return true, nil
			}
			node := key.node
			v.out.Identities++
			v.named++
			v.node1(node, &state)
			return true, v.ctx.Err()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// node1 checks one node.
func (v *verifier) node1(node proto.Node, s *identity.State) {
	if s.Exit != 0 && !v.exits[actors.Exit{At: s.Exit, Node: node}] {
		v.problem("node %d: its exit record at %v is missing", s.Ordinal, s.Exit)
	}
	v.checkName(node, s.Ordinal)
	present := map[proto.ClientID]bool{}
	for i := range s.Facts {
		f := &s.Facts[i]
		present[f.Client] = true
		if next := f.Memory.NextChange(); next != 0 && (s.Exit == 0 || s.Exit > next) {
			v.problem("node %d: a membership changes at %v but its exit record is at %v", s.Ordinal, next, s.Exit)
		}
		v.memberships(node, s, f)
		for _, k := range f.Networks {
			v.seen[networkRow{f.Client, k.Key, node}] = true
		}
	}
	if end := s.Ends(); end != 0 && (s.Exit == 0 || s.Exit > end) {
		v.problem("node %d: something of it ends at %v but its exit record is at %v", s.Ordinal, end, s.Exit)
	}
	for i := range s.User {
		u := &s.User[i]
		present[u.Client] = true
		for _, m := range u.Members {
			if m.Next != 0 && (s.Exit == 0 || s.Exit > m.Next) {
				v.problem("node %d: a user's membership changes at %v but its exit record is at %v", s.Ordinal, m.Next, s.Exit)
			}
			v.member(m.Key, u.Client, s.Ordinal, m.In)
		}
	}
	for c := range present {
		v.known[c]++
		v.bit(0, c, s.Ordinal, true)
	}
}

// networkRow is that a client saw a node on a network.
type networkRow struct {
	client proto.ClientID
	key    proto.NetworkKey
	node   proto.Node
}

// networks compares the rows of networks with the facts.
func (v *verifier) networks() error {
	found := 0
	err := scanNetworks(v.snap, func(c proto.ClientID, k proto.NetworkKey, n proto.Node) error {
		if v.node.laneIDs[n.Hash.Partition()] != v.id {
			return v.ctx.Err()
		}
		v.hash.Write(networkKey(c, k, n))
		if found++; !v.seen[networkRow{c, k, n}] {
			v.problem("a row says that client %d saw %v on network %v, its facts do not", c, n.Hash, k)
		}
		return v.ctx.Err()
	})
	if found < len(v.seen) {
		v.problem("facts have %d networks, %d rows lead to them", len(v.seen), found)
	}
	return err
}

// member checks the bit of a membership that counts, and counts it.
func (v *verifier) member(key proto.SegmentKey, client proto.ClientID, o proto.Ordinal, in bool) {
	if _, ok := v.rules.defines[key]; !ok {
		return // undefined since: it goes with the next touch
	}
	if in {
		v.count[key]++
	}
	v.bit(key, client, o, in)
}

func (v *verifier) checkName(node proto.Node, o proto.Ordinal) {
	named, found, err := v.lane.nodeOf(v.snap, o)
	switch {
	case err != nil || !found:
		v.problem("node %d: its number names nobody (%v)", o, err)
	case named != node:
		v.problem("node %d: its number names another identity", o)
	}
}

func (v *verifier) bit(key proto.SegmentKey, client proto.ClientID, o proto.Ordinal, want bool) {
	v.bitmaps.View(func(get func(proto.SegmentKey) *roaring.Bitmap, universe func(proto.ClientID) *roaring.Bitmap) {
		b := universe(client)
		if key != 0 {
			b = get(key)
		}
		if got := b != nil && b.Contains(uint32(o)); got != want {
			v.problem("node %d: bitmap of segment %d (client %d) says %v, facts say %v", o, key, client, got, want)
		}
	})
}

// memberships holds a client's memberships of a node against the plain
// reading of its history.
func (v *verifier) memberships(node proto.Node, s *identity.State, f *identity.Facts) {
	h := history{snap: v.snap, node: node, gen: s.Gen(), facts: f}
	events := 0
	h.walk(func(t proto.Millis, _ *proto.EventBody) bool {
		events++
		v.kept[clientDay{t.Day(), f.Client}]++
		return true
	})
	v.out.Events += uint64(events)
	now := judgedAt(&f.Memory, proto.Millis(v.record.NowMs))
	stored := map[proto.SegmentKey]segments.Membership{}
	for _, m := range f.Memory.Memberships() {
		stored[m.Key] = m
	}
	g := v.rules.Program(f.Client)
	if g == nil {
		return
	}
	member := memberOf(&f.Memory, func(id proto.SegmentID) proto.SegmentKey { return v.names[f.Client][id] }, now)
	for _, d := range g.All() {
		m := stored[d.Key]
		if !s.Follows || d.Scope == segments.ScopeIdentity {
			v.member(d.Key, f.Client, s.Ordinal, m.In)
		}
		if v.since[d.Key] > f.Memory.Version() {
			v.out.Behind++
			continue // not yet touched since the definition, or since that of a rule that it refers to
		}
		if f.History.Truncated {
			v.out.Skipped++
			continue
		}
		v.out.Memberships++
		own := segments.Plain{History: h.walk, Traits: f.Memory.Traits(), Member: member, Devices: int(flag(s.Device))}
		if want := own.Holds(d.Rule, now); want != identity.In(m, now) && own.Sure(d.Rule) {
			v.problem("node %d: segment %q of client %d holds %v by its history of %d events but is kept as %v", s.Ordinal, d.ID, f.Client, want, events, identity.In(m, now))
		}
	}
	if h.err != nil {
		v.problem("node %d: history: %v", s.Ordinal, h.err)
	}
}

// judgedAt is as of when what a memory keeps is held against history, now or before: time
// changes each membership once from what is kept, so that where a beat is still to apply
// the first change, what follows that is not known and no fault. Nothing of the node came
// in since then, or it would have been applied.
func judgedAt(m *segments.Memory, now proto.Millis) proto.Millis {
	if next := m.NextChange(); next != 0 {
		return min(now, next)
	}
	return now
}

// ordinals checks that numbers were given out once, and lead to their nodes.
func (v *verifier) ordinals() error {
	prefix := laneKey(v.id, 'o')
	names := uint64(0)
	err := v.snap.Scan(prefix, prefix, func(k, value []byte) (bool, error) {
		v.hash.Write(k)
		v.hash.Write(value)
		names++
		o := proto.Ordinal(binary.BigEndian.Uint32(k[3:]))
		if o.Local() >= v.record.NextOrdinal[o.Partition()] {
			v.problem("number %d of %v was never given out", o.Local(), o.Partition())
		}
		return true, nil
	})
	if names != v.named {
		v.problem("%d numbers lead to identities, %d nodes are numbered", names, v.named)
	}
	return err
}

// sizes compares each bitmap's cardinality with the members found.
func (v *verifier) sizes() error {
	for key, d := range v.rules.defines {
		if got := v.bitmaps.Cardinality(key); got != v.count[key] {
			v.problem("bitmap of segment %q has %d members, facts have %d", d.id, got, v.count[key])
		}
	}
	for _, c := range v.bitmaps.Clients() {
		v.bitmaps.View(func(_ func(proto.SegmentKey) *roaring.Bitmap, universe func(proto.ClientID) *roaring.Bitmap) {
			if u := universe(c); u != nil && u.GetCardinality() != v.known[c] {
				v.problem("client %d's universe has %d nodes, facts have %d", c, u.GetCardinality(), v.known[c])
			}
		})
	}
	return nil
}

// aggregates hashes the totals, and holds them against the histories: what is kept
// was counted, though not all that was counted is kept.
func (v *verifier) aggregates() error {
	now := proto.Millis(v.record.LaneTimeMs).Day()
	oldest := now - min(now, v.aggregatesKept())
	err := scanTotals(v.snap, v.id, 0, 0, math.MaxUint32, func(at clientDay, d dayCells) error {
		v.hash.Write(aggregateKey(v.id, at.day, at.client))
		v.hash.Write(encodeDay(d))
		events := uint64(0)
		for k, c := range d {
			if k.kind == actors.TallyEvent {
				events += c.count
			}
		}
		if kept := v.kept[at]; kept > events && v.totals.opened && at.day >= max(v.totals.since, oldest) {
			v.problem("client %d has %d events of %s in histories, its totals say %d", at.client, kept, at.day, events)
		}
		delete(v.kept, at)
		return v.ctx.Err()
	})
	for at, kept := range v.kept {
		if v.totals.opened && at.day >= max(v.totals.since, oldest) {
			v.problem("client %d has %d events of %s in histories and no totals of that day", at.client, kept, at.day)
		}
	}
	return err
}

// rest hashes what else the log decides.
func (v *verifier) rest() error {
	for _, p := range v.partitions {
		prefix := []byte{'T', byte(p)}
		err := v.snap.Scan(prefix, prefix, func(k, value []byte) (bool, error) {
			v.hash.Write(k)
			v.hash.Write(value)
			return true, v.users.optOut(k, value)
		})
		if err != nil {
			return err
		}
	}
	for _, kind := range []byte{'d', 'v', 'w', 'g', 'k', 'p', 'q', 'z'} {
		prefix := laneKey(v.id, kind)
		err := v.snap.Scan(prefix, prefix, func(k, value []byte) (bool, error) {
			if kind == 'q' { // the reason holds a stack, which is the build's
				value = nil
			}
			v.hash.Write(k)
			v.hash.Write(value)
			return true, nil
		})
		if err != nil {
			return err
		}
	}
	r := v.record
	r.Journal, r.StreamCreatedNs, r.Base = 0, 0, 0
	raw, err := gproto.MarshalOptions{Deterministic: true}.Marshal(r)
	v.hash.Write(raw)
	return err
}
