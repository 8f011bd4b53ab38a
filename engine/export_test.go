package engine

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"log/slog"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/nats-io/nats.go"
	gproto "google.golang.org/protobuf/proto"

	"kith/actors/identity"
	"kith/engine/log"
	"kith/engine/store"
	"kith/graph"
	"kith/proto"
	"kith/proto/pb"
	"kith/segments"
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

// ExplainWithin bounds how long the histories of an explanation are read.
func (n *Node) ExplainWithin(d time.Duration) { n.explained = d }

// IsBlockKey tells the keys of histories' blocks.
func IsBlockKey(k []byte) bool {
	p, ok := parseNodeKey(k)
	return ok && p.kind == 'h'
}

// CheckTurn is when a client's receipt may be checked.
func (n *Node) CheckTurn(ctx context.Context, client proto.ClientID) (end func(), ok bool) {
	return n.checking.Begin(ctx, client)
}

// LongTurn is longTurn.
func (n *Node) LongTurn(ctx context.Context, client proto.ClientID) (end func(), err error) {
	return n.longTurn(ctx, client)
}

// ReportQueue is that of the reports that go through all histories.
type ReportQueue struct{ c campaigns }

// NewReportQueue is one of its own.
func NewReportQueue() *ReportQueue { return &ReportQueue{newCampaigns()} }

// Bounds of what a report keeps of a person.
const (
	TouchesMax     = touchesMax
	ConversionsMax = conversionsMax
)

// PathOf counts what a report makes of events, of which it kept so many at most.
func PathOf(r *proto.CampaignRequest, events iter.Seq2[proto.Millis, *proto.EventBody]) (impressions, conversions uint64, most int, err error) {
	s, err := specOf(r)
	if err != nil {
		return 0, 0, 0, err
	}
	var p path
	for t, e := range events {
		p.take(&s, nameSet{}, t, e, true)
		most = max(most, len(p.touches)+len(p.conversions))
	}
	c := counts{}
	p.count(&s, c)
	return c[campaignCell{metric: metricImpressions}], c[campaignCell{metric: metricConversions}], most, nil
}

// Begin is turn.
func (q *ReportQueue) Begin(ctx context.Context, client proto.ClientID) (end func(), ok bool) {
	end, err := q.c.turn(ctx, client)
	return end, err == nil
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

// StepTime has the node go by a wall clock that was stepped. The true one is a step
// back to it, and is believed again after the interval for steps.
func (n *Node) StepTime(by time.Duration) { n.clock.believed.Add(int64(by)) }

// Acknowledged is the newest entry of intake in lane 0 that is known to be durable.
func (n *Node) Acknowledged() uint64 { return n.lanes[0].acknowledged.Load() }

// Appending has intake see somebody who appends, until release is called.
func (n *Node) Appending() (release func()) {
	n.intake.RLock()
	return n.intake.RUnlock
}

// EraseLogs is eraseLogs.
func (n *Node) EraseLogs(ctx context.Context) error {
	_, err := n.eraseLogs(ctx)
	return err
}

// IntakeShut reports whether an erasure waits for those who append, or is at the log.
func (n *Node) IntakeShut() bool { return n.shut.Load() != nil }

// LaneTime is how far lane 0 is in time.
func (n *Node) LaneTime() proto.Millis {
	_, _, t, _ := n.lanes[0].progress.get()
	return t
}

// Clock is a node's time over clocks of the test's.
type Clock struct{ c *clock }

// NewClock is one that believes the wall clock as it is.
func NewClock(wall func() time.Time, mono func() time.Duration) Clock {
	return Clock{newClockOf(func() (time.Time, time.Duration) { return wall(), mono() })}
}

// Now is the node's time.
func (x Clock) Now() time.Time { return x.c.now() }

// Settle looks at the wall clock, with how far other nodes' wall clocks are ahead
// of this node's time, and gives what is said of it.
func (x Clock) Settle(hold time.Duration, walls ...time.Duration) string {
	var others []otherClock
	for _, w := range walls {
		others = append(others, otherClock{wall: w})
	}
	news, _ := x.c.settle(others, hold)
	return [...]string{"", "held", "back", "trusted"}[news]
}

// Compare compares the node's time with others', which are ahead of it by so much.
func (x Clock) Compare(alone bool, times ...time.Duration) (fault error) {
	var others []otherClock
	for _, t := range times {
		others = append(others, otherClock{time: t})
	}
	x.c.compare(others, alone)
	return x.c.fault()
}

// HoldVerifying is a verification that goes on until release is called.
func (n *Node) HoldVerifying() (release func()) {
	n.verifying.Lock()
	return n.verifying.Unlock
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
		err = errors.Join(err, scanTotals(snap, l.id, client, 0, math.MaxUint32, func(at clientDay, _ dayCells) error {
			found("totals of %s", at.day)
			return nil
		}))
		err = errors.Join(err, snap.Scan(sizesPrefix(l.id, client), sizesPrefix(l.id, client), func(k, _ []byte) (bool, error) {
			found("sizes of %s", sizesDay(k))
			return true, nil
		}))
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

// BoundControl has the control stream be full at so many bytes.
func (n *Node) BoundControl(bytes uint64) {
	n.registry.mu.Lock()
	defer n.registry.mu.Unlock()
	n.registry.size.most = bytes
}

// ControlBytes is what the control stream takes.
func (n *Node) ControlBytes() uint64 { return n.registry.sized().bytes }

// AwaitControl returns once the node has read the control stream up to seq,
// whatever its lanes obey.
func (n *Node) AwaitControl(ctx context.Context, seq uint64) error { return n.registry.wait(ctx, seq) }

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
	Key        proto.SegmentKey
	Size       uint64
	Partitions int
}

// AppendSizes writes a day's sizes.
func AppendSizes(b []byte, list []SegmentSize) []byte {
	in := make([]segmentSize, len(list))
	for i, s := range list {
		in[i] = segmentSize{s.Key, s.Size, s.Partitions}
	}
	return appendSizes(b, in)
}

// ReadSizes reads them.
func ReadSizes(b []byte) (list []SegmentSize, err error) {
	in, err := readSizes(b)
	for _, s := range in {
		list = append(list, SegmentSize{s.key, s.size, s.partitions})
	}
	return list, err
}

// ProposeSwap writes a Swap, whether or not there is such a version.
func (n *Node) ProposeSwap(ctx context.Context, c proto.ClientID, id proto.SegmentID, version proto.SegmentKey) error {
	seq, err := n.registry.propose(ctx, func() (*pb.Control, error) {
		return &pb.Control{Body: &pb.Control_Swap{Swap: &pb.Swap{Client: uint32(c), Id: string(id), Version: uint32(version)}}}, nil
	})
	if err != nil {
		return err
	}
	return n.obeyed(ctx, seq)
}

// MakeKeyAnew writes an admin's key, whatever there is, as earlier builds did.
func (n *Node) MakeKeyAnew(ctx context.Context, sum [32]byte) error {
	_, err := n.registry.propose(ctx, func() (*pb.Control, error) {
		return &pb.Control{Body: &pb.Control_Key{Key: &pb.Key{Sha256: sum[:], Role: string(proto.RoleAdmin)}}}, nil
	})
	return err
}

// VersionTraces says what is left of versions of the client's segments that
// neither answer nor wait: bits, fills, marks, and memberships of nodes.
func (n *Node) VersionTraces(client proto.ClientID) (list []string) {
	found := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	for _, l := range n.lanes {
		l.progress.mu.Lock()
		fills := maps.Clone(l.progress.fills)
		l.progress.mu.Unlock()
		n.registry.mu.Lock()
		defines := maps.Clone(n.registry.rules.defines)
		n.registry.mu.Unlock()
		for k := range fills {
			if _, ok := defines[k]; !ok {
				found("a fill of %d", k)
			}
		}
		snap := l.acquire()
		defer snap.release()
		for _, kind := range []byte{'g', 'w'} {
			_ = snap.Scan(laneKey(l.id, kind), laneKey(l.id, kind), func(k, _ []byte) (bool, error) {
				if key := proto.SegmentKey(binary.BigEndian.Uint32(k[3:])); defines[key].client == 0 {
					found("a record %c of %d", kind, key)
				}
				return true, nil
			})
		}
		for _, k := range l.bitmaps.Keys() {
			if _, ok := defines[k]; !ok && l.bitmaps.Cardinality(k) > 0 {
				found("bits of %d", k)
			}
		}
		_ = l.scanNames(snap, 0, func(_ proto.Ordinal, node proto.Node, id proto.Identity) (bool, error) {
			s, _, err := readNode(snap, node)
			if err != nil {
				return false, err
			}
			of := []identity.ClientView{}
			if f := s.Client(client); f != nil {
				of = append(of, identity.ClientView{Client: client, Members: f.Memory.Memberships()})
			}
			for _, v := range append(of, s.User...) {
				for _, m := range v.Members {
					if _, ok := defines[m.Key]; !ok && v.Client == client {
						found("a membership of %s in %d", id, m.Key)
					}
				}
			}
			return true, nil
		})
	}
	return list
}

// Filling reports whether some lane is going through its nodes for a segment, or
// is about to: it does not obey all control records yet.
func (n *Node) Filling() bool {
	last := n.registry.last()
	for _, l := range n.lanes {
		l.progress.mu.Lock()
		_, open := l.progress.openFill()
		open = open || l.progress.control < last
		l.progress.mu.Unlock()
		if open {
			return true
		}
	}
	return false
}

// RepackDay reads a day's totals and packs them again.
func RepackDay(b []byte) ([]byte, error) {
	d, err := decodeDay(b)
	if err != nil {
		return nil, err
	}
	return encodeDay(d), nil
}

// RepackAdded is the same of what a commit adds.
func RepackAdded(b []byte) ([]byte, error) {
	all := map[clientDay]dayCells{}
	if err := decodeAdded(b, func(at clientDay, d dayCells) error { all[at] = d; return nil }); err != nil {
		return nil, err
	}
	return encodeAdded(all), nil
}

// SpoilTotals takes an event off a day's totals in the store.
func SpoilTotals(st store.Store, client proto.ClientID, day proto.Day) error {
	snap := st.Snapshot()
	defer snap.Release()
	b := st.NewBatch()
	prefix := laneKey(0, 'a')
	err := snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		all := map[clientDay]dayCells{}
		err := decodeAdded(v, func(at clientDay, d dayCells) error {
			for x, c := range d {
				if at == (clientDay{day, client}) && x.name == "page" && c.count > 0 {
					c.count--
				}
			}
			all[at] = d
			return nil
		})
		if err != nil {
			return false, err
		}
		return true, b.Set(slices.Clone(k), encodeAdded(all))
	})
	return errors.Join(err, b.Commit())
}

// WhenScanned is called when a campaign report has gone through the histories.
func (n *Node) WhenScanned(fn func()) { n.campaigns.scanned = fn }

// WhenLooked is called each time before a campaign report looks who was forgotten.
func (n *Node) WhenLooked(fn func()) { n.campaigns.looked = fn }

// WhenTold is called when a campaign report is written down and not told yet.
func (n *Node) WhenTold(fn func()) { n.campaigns.told = fn }

// Quarantine stops a lane, and returns once it commits nothing more.
func (n *Node) Quarantine(id proto.LaneID, err error) {
	n.lanes[id].fail("testing", err)
	n.Stopped(id)
}

// Stopped returns once a lane commits nothing more.
func (n *Node) Stopped(id proto.LaneID) { <-n.lanes[id].ended }

// RenewStopped is what a node does every now and then.
func (n *Node) RenewStopped() { n.renewStopped() }

// HashSecret is the hash secret of a data directory, made if there is none.
func HashSecret(dir string) (secret [16]byte, err error) { return hashSecret(Config{Dir: dir}) }

// ReceiptKey is the key of receipts of a data directory, made if there is none.
func ReceiptKey(dir string) (ed25519.PrivateKey, error) { return receiptKey(Config{Dir: dir}) }

// NoteDraining notes in a data directory that its node drains, or does not.
func NoteDraining(dir string, drain bool) error {
	return (&Node{config: Config{Dir: dir}}).setDraining(drain)
}

// LettersMax is how many dead letters a lane keeps.
const LettersMax = lettersMax

// SyncStore writes what was applied.
func (n *Node) SyncStore() error { return n.store.Sync() }

// Copies merges the whole store and counts how often text is in it.
func (n *Node) Copies(text string) (int, error) {
	var file bytes.Buffer
	err := errors.Join(n.store.Sync(), n.store.Scrub(), n.store.Backup(&file, func(store.Snapshot) error { return nil }))
	return bytes.Count(file.Bytes(), []byte(text)), err
}

// LaneFor is the lane of an identity.
func (n *Node) LaneFor(id proto.Identity) proto.LaneID { return n.laneFor(n.hasher.Hash(id)).id }

// DropTotals takes all totals out of a store, as if an older build had written it.
func DropTotals(st store.Store) error {
	snap := st.Snapshot()
	defer snap.Release()
	b := st.NewBatch()
	for _, kind := range []byte{'a', 'y', 'c'} {
		prefix := laneKey(0, kind)
		if err := snap.Scan(prefix, prefix, func(k, _ []byte) (bool, error) { return true, b.Delete(slices.Clone(k)) }); err != nil {
			return err
		}
	}
	return b.Commit()
}

// Unswept reports whether something is left of the client's imports that failed.
func (n *Node) Unswept(c proto.ClientInfo) (dirty bool) {
	n.registry.withImports(c.ID, func(b *importBook) { dirty = b.dirty > 0 })
	return dirty
}

// LateRows reports whether rows that came too late for the client's imports are still
// to be looked for.
func (n *Node) LateRows(c proto.ClientInfo) (late bool) {
	n.registry.withImports(c.ID, func(b *importBook) { late = b.ended > 0 })
	return late
}

// CheckOpenImport says why an import may not begin beside lists and imports.
func CheckOpenImport(lists []proto.SegmentID, imports []proto.Import, x proto.ImportSpec) error {
	b := importBook{imports: map[uint64]*proto.Import{}, lists: map[proto.SegmentID]*importList{}}
	for _, id := range lists {
		b.lists[id] = &importList{}
	}
	for i := range imports {
		b.imports[uint64(i)] = &imports[i]
	}
	return b.checkOpen(x, 1, nil)
}

// CheckOpenToday says why an import may not begin today once others were, at some times.
func CheckOpenToday(today proto.Day, begun ...proto.Millis) error {
	r := &registry{books: map[proto.ClientID]*importBook{}}
	for i, at := range begun {
		if err := r.obeyImport(uint64(i+1), at, &pb.Import{Segment: "crm", State: uint32(proto.ImportOpen)}); err != nil {
			return err
		}
	}
	b := r.imports(0)
	b.unswept = 0
	return b.checkOpen(proto.ImportSpec{Segment: "crm", Mode: proto.ImportCreate}, today, nil)
}

// FailingImports are the numbers of a client's imports in the order in which they are
// tried if each fails, until the first comes again.
func FailingImports(imports []proto.Import) (numbers []uint64) {
	b := &importBook{imports: map[uint64]*proto.Import{}}
	for i := range imports {
		b.imports[imports[i].Number] = &imports[i]
	}
	r := &registry{clients: map[proto.ClientName]proto.ClientInfo{"acme": {ID: 1, Name: "acme"}}, books: map[proto.ClientID]*importBook{1: b}}
	failed := map[importKey]bool{}
	for {
		job, _, ok := r.nextImport(0, failed)
		if !ok {
			return numbers
		}
		failed[job.key()] = true
		numbers = append(numbers, job.one.Number)
	}
}

// DefineImported defines the segment that an import would make, as if the node had
// crashed right after that.
func (n *Node) DefineImported(ctx context.Context, c proto.ClientInfo, i proto.Import) error {
	spec := proto.SegmentSpec{ID: i.Segment, Scope: i.Scope, When: listRule(i.Segment, i.Number)}
	_, err := n.define(ctx, c, spec, func(proto.ClientID, proto.SegmentID, *segments.Rule) error { return nil })
	return err
}

// WithAllSegments calls fn while the client takes itself to have as many segments as
// there may be.
func (n *Node) WithAllSegments(c proto.ClientInfo, fn func()) {
	added := 0
	n.registry.mu.Lock()
	for ; len(n.registry.specs[c.ID])+len(n.registry.next[c.ID]) < segmentsMax; added++ {
		n.registry.specs.set(c.ID, proto.SegmentSpec{ID: proto.SegmentID(fmt.Sprint("made-up-", added))})
	}
	n.registry.mu.Unlock()
	fn()
	n.registry.mu.Lock()
	defer n.registry.mu.Unlock()
	for i := range added {
		delete(n.registry.specs[c.ID], proto.SegmentID(fmt.Sprint("made-up-", i)))
	}
}

// MergeImport does what there is to do for an import that was accepted.
func (n *Node) MergeImport(ctx context.Context, c proto.ClientInfo, i proto.Import) error {
	return n.doImport(ctx, importJob{client: c, do: proto.ImportMerging, one: i})
}

// AheadOfLanes calls fn while the node takes itself to know of a control record that no
// lane obeys yet.
func (n *Node) AheadOfLanes(fn func()) {
	ahead := func(by int) {
		n.registry.mu.Lock()
		defer n.registry.mu.Unlock()
		n.registry.seq += uint64(by)
	}
	ahead(1)
	defer ahead(-1)
	fn()
}

// StopLane quarantines a lane.
func (n *Node) StopLane(id proto.LaneID) { n.lanes[id].fail("testing", errors.New("a test stops it")) }

// Edges are where the rounding of a client's figures jumps: of a report about a
// segment, and of an import of it.
func (n *Node) Edges(c proto.ClientInfo, id proto.SegmentID) (edges [2]uint64, err error) {
	a, err := segments.ParseAudience(string(id))
	q := question{audience: audience{Audience: a, client: c.ID}, unit: "users"}
	return [2]uint64{n.edge(&q), n.importEdge(importJob{client: c, one: proto.Import{Segment: id}})}, err
}

// Leases are a lane's, by a clock of the test's.
type Leases struct{ x leases }

// NewLeases are none, of a node.
func NewLeases(node string, now func() time.Duration) *Leases {
	var l Leases
	l.x.init(node, now)
	return &l
}

func (l *Leases) Sending(beat proto.Millis) (releases, ok bool) { return l.x.sending(beat) }
func (l *Leases) Logged(beat proto.Millis)                      { l.x.logged(beat) }
func (l *Leases) Published(producer uint64, list ...proto.Beat) (replaced bool) {
	return l.x.published(list, producer)
}
func (l *Leases) Held() bool                        { return l.x.held() }
func (l *Leases) Holders() map[uint64]time.Duration { return l.x.holders() }
func (l *Leases) End()                              { l.x.end() }

// LoseLeases ends the leases of some lanes of a node, or of all, until back gives them
// back.
func (n *Node) LoseLeases(some ...proto.LaneID) (back func()) {
	var again []func()
	for _, l := range n.lanes {
		if len(some) > 0 && !slices.Contains(some, l.id) {
			continue
		}
		until := l.leases.until.Load()
		l.leases.end()
		again = append(again, func() {
			l.leases.mu.Lock()
			l.leases.ended = false
			l.leases.until.Store(until)
			l.leases.mu.Unlock()
		})
	}
	return func() {
		for _, fn := range again {
			fn()
		}
	}
}

// AsOwner runs do as the upkeep of lane 0 of a node of that name.
func AsOwner(ctx context.Context, node string, peers Peers, do func(context.Context)) {
	l := &lane{node: &Node{config: Config{Node: node, Peers: peers}}}
	l.asOwner(ctx, do)
}

// CopyChunkMax is the most bytes in a chunk of a copy.
const CopyChunkMax = copyChunkMax

// NewCopyChunks gives the chunks of a copy by number.
func NewCopyChunks(in io.Reader) func(number uint64) []byte {
	c := copyChunks{in: in, sum: crc32.New(crcTable)}
	return c.get
}

// TakeCopy puts chunks together.
func TakeCopy(chunk func(number uint64) []byte) (all []byte, err error) {
	r := copyReader{sum: crc32.New(crcTable)}
	for !r.end && err == nil {
		if err = r.take(chunk(r.number + 1)); err == nil {
			all = append(all, r.left...)
			r.left = nil
		}
	}
	return all, err
}

// CopyIdle is after what time the node gives up a copy that nobody wants.
func (n *Node) CopyIdle(d time.Duration) {
	n.copies.mu.Lock()
	defer n.copies.mu.Unlock()
	n.copies.idle = d
}

// StalledCopy takes a node's copy, and between its first chunk and the next nothing for
// a while, in which it says that it wants it each time that every has passed.
func StalledCopy(ctx context.Context, n *Node, stall, every time.Duration) error {
	r := &copyReader{ctx: ctx, nc: n.conn(), node: n.config.Node, name: "stalled", sum: crc32.New(crcTable)}
	if err := r.next(); err != nil {
		return err
	}
	stop := r.keepWanted(every)
	defer stop()
	pause(ctx, stall)
	_, err := io.Copy(io.Discard, r)
	return err
}

// PurgeBeyond has lane 0's log begin so many entries after the last that is read.
func (n *Node) PurgeBeyond(ctx context.Context, entries proto.Offset) error {
	info, err := n.lanes[0].stream.Info(ctx)
	if err != nil {
		return err
	}
	return n.lanes[0].stream.Purge(ctx, info.Last+entries)
}

// LoadStore makes a node's store from what Backup of another one wrote.
func LoadStore(c Config, r io.Reader) error { return loadStore(&c, r) }

// RelaneOnFullDisk changes the number of lanes of a node's store where nothing may be
// written.
func RelaneOnFullDisk(t *testing.T, c Config, lanes int) error {
	st, err := openStore(&c)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	_, err = relane(t.Context(), st, newDisk(1<<62, 0, c.storeDir()), proto.NewHasher([16]byte(c.HashSecret)), c.Lanes, lanes)
	return err
}

// SpoilChain changes what the store in a node's directory says of lane 0's past.
func SpoilChain(t *testing.T, dir string) {
	changeRecord(t, dir, func(r *pb.LaneRecord) { r.Chain++ })
}

// SpendNumbers leaves lane 0 so many numbers in each partition.
func SpendNumbers(t *testing.T, dir string, left uint32) {
	changeRecord(t, dir, func(r *pb.LaneRecord) {
		for p := range r.NextOrdinal {
			r.NextOrdinal[p] = proto.LocalMax - numbersSpare - left
		}
	})
}

func changeRecord(t *testing.T, dir string, change func(*pb.LaneRecord)) {
	t.Helper()
	c := Config{Dir: dir}
	st, err := store.Open(store.Config{Dir: c.storeDir()})
	if err != nil {
		t.Fatal(err)
	}
	l, snap := &lane{}, st.Snapshot()
	err = l.loadRecord(snap)
	snap.Release()
	change(l.record)
	raw, err2 := gproto.Marshal(l.record)
	b := st.NewBatch()
	if err := errors.Join(err, err2, b.Set(recordKey(0), raw), b.Commit(), st.Close()); err != nil {
		t.Fatal(err)
	}
}

// RepackSince reads from when on totals are whole and packs that again.
func RepackSince(b []byte) ([]byte, error) {
	since, moved, err := sinceOf(b)
	return appendSince(nil, since, moved), err
}

// LaneKinds are the kinds of keys that relane knows.
func LaneKinds() string {
	x := &relaning{}
	return string(slices.Sorted(maps.Keys(x.kinds())))
}

// SettleStore brings a restored store to rest.
func SettleStore(ctx context.Context, c Config, made time.Time, control [][]byte, st store.Store) error {
	if err := c.Validate(); err != nil {
		return err
	}
	return settleStored(ctx, c, made, control, st)
}

// LaneKindsOf are the kinds of keys that the lanes of a store have.
func LaneKindsOf(st store.Store) string {
	kinds := map[byte]bool{}
	rowsUnder(st, []byte{'L'}, func(k, _ []byte) { kinds[k[2]] = true })
	return string(slices.Sorted(maps.Keys(kinds)))
}

// RowsOf are all rows of a store.
func RowsOf(st store.Store) (list []string) {
	rowsUnder(st, nil, func(k, v []byte) { list = append(list, fmt.Sprintf("%q %x", k, v)) })
	return list
}

func rowsUnder(st store.Store, prefix []byte, fn func(k, v []byte)) {
	snap := st.Snapshot()
	defer snap.Release()
	err := snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		if len(k) > 0 && k[0] != 0 {
			fn(slices.Clone(k), slices.Clone(v))
		}
		return true, nil
	})
	if err != nil {
		panic(err)
	}
}

// CheckLanes and PlantRestored are what a node of a cluster does with a store that
// was restored for it, before it runs.
func CheckLanes(c Config, st store.Store) error { return checkLanes(&c, st) }

// PlantRestored puts what a restore left in the directory into a log.
func PlantRestored(ctx context.Context, c Config, lg log.Logs, st store.Store) error {
	if err := c.Validate(); err != nil {
		return err
	}
	x, _, err := kept(c.markerDir())
	if err != nil {
		return err
	}
	return x.plant(ctx, c, lg, st)
}

// Work is how far a fill or an erasure has come.
type Work struct {
	Next uint64
	Done bool
}

// WorkOf is how far the lanes of a store have come with each fill and erasure, by
// the partitions that they carry.
func WorkOf(st store.Store, lanes int) map[string]*[proto.Partitions]Work {
	out := map[string]*[proto.Partitions]Work{}
	rowsUnder(st, []byte{'L'}, func(k, v []byte) {
		var x Work
		switch k[2] {
		case 'g':
			f, err := decodeFill(k, v)
			if err != nil {
				panic(err)
			}
			x = Work{f.next, f.done}
		case 'k':
			e, err := decodeClientErasure(0, v)
			if err != nil {
				panic(err)
			}
			x = Work{e.next, e.done}
		default:
			return
		}
		name := fmt.Sprintf("%c %x", k[2], k[3:])
		if out[name] == nil {
			out[name] = &[proto.Partitions]Work{}
		}
		for _, p := range partitionsOf(proto.LaneID(k[1]), lanes) {
			out[name][p] = x
		}
	})
	return out
}

// StateOf is what the lanes of a store come to together, by kind of key, without
// which lane has it. How far work has come is of the least far of all lanes.
func StateOf(st store.Store, lanes int, secret [16]byte) map[string][]string {
	out := map[string][]string{}
	add := func(kind byte, format string, args ...any) {
		out[string(kind)] = append(out[string(kind)], fmt.Sprintf(format, args...))
	}
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	bits, sizes, totals := map[string]*roaring.Bitmap{}, map[string]segmentSize{}, map[clientDay]dayCells{}
	spaces, next, done := map[uint64]bool{}, map[proto.PartitionID]uint32{}, map[string]bool{}
	whole := func(kind byte, name string, is bool) {
		name = string(kind) + name
		before, known := done[name]
		done[name] = is && (before || !known)
	}
	var control, laneTime []string
	rowsUnder(st, []byte{'L'}, func(k, v []byte) {
		lane, kind, rest := int(k[1]), k[2], k[3:]
		home := func(p proto.PartitionID) {
			if int(laneIn(p, lanes)) != lane {
				add(kind, "%q is in lane %d of %d", k, lane, lanes)
			}
		}
		switch kind {
		case 'o':
			home(ordinalOf(k).Partition())
			add(kind, "%x %q", rest, v)
		case 'd', 'v', 'w', 'p':
			for l := range lanes { // each has it
				found := false
				rowsUnder(st, append(laneKey(proto.LaneID(l), kind), rest...), func(_, other []byte) { found = bytes.Equal(v, other) })
				if !found {
					add(kind, "lane %d has not what lane %d has under %x", l, lane, rest)
				}
			}
			add(kind, "%x %x", rest, v)
		case 'b':
			cut := roaring.New()
			must(cut.UnmarshalBinary(v))
			for _, o := range cut.ToArray() {
				home(proto.Ordinal(o).Partition())
			}
			name := fmt.Sprintf("%x", rest[:8])
			if bits[name] == nil {
				bits[name] = roaring.New()
			}
			bits[name].Or(cut)
		case 'x':
			list, err := decodeExits(v)
			must(err)
			for _, e := range list {
				home(e.Node.Hash.Partition())
				add(kind, "%d %v", e.At, e.Node)
			}
		case 's':
			for r := proto.NewReader(v); r.Len() > 0; {
				spaces[r.Uvarint()] = true
			}
		case 'q':
			d, err := decodeDead(k, v)
			must(err)
			home(d.partition)
			var e proto.Event
			must(proto.DecodeEvent(d.replay.Body, &e))
			for _, id := range e.Identities {
				home(proto.NewHasher(secret).Hash(id).Partition())
			}
			e.Identities = e.Identities[:1] // others are named as lanes allow
			add(kind, "%v %d %s %x", d.at, d.partition, d.reason, e.Append(nil))
		case 'u':
			n, err := decodeNotice(v)
			must(err)
			home(n.hash.Partition())
			if n.final {
				add(kind, "%v %d", n.hash, n.gen)
			}
		case 'z':
			list, err := readSizes(v)
			must(err)
			for _, s := range list {
				name := fmt.Sprintf("%x %d", rest, s.key)
				sum := sizes[name]
				sum.size += s.size
				sum.partitions += cmp.Or(s.partitions, len(partitionsOf(proto.LaneID(lane), lanes)))
				sizes[name] = sum
			}
		case 'y':
			at, err := aggregateOf(k)
			must(err)
			d, err := decodeDay(v)
			must(err)
			if totals[at] == nil {
				totals[at] = dayCells{}
			}
			totals[at].join(d)
		case 'a':
			must(decodeAdded(v, func(at clientDay, d dayCells) error {
				if totals[at] == nil {
					totals[at] = dayCells{}
				}
				totals[at].join(d)
				return nil
			}))
		case 'g':
			f, err := decodeFill(k, v)
			must(err)
			whole(kind, fmt.Sprintf("%x", rest), f.exact())
		case 'k':
			e, err := decodeClientErasure(0, v)
			must(err)
			whole(kind, fmt.Sprintf("%x of %d", rest, e.seq), e.done)
		case 'r':
			r := &pb.LaneRecord{}
			must(gproto.Unmarshal(v, r))
			for _, p := range partitionsOf(proto.LaneID(lane), lanes) {
				next[p] = r.NextOrdinal[p]
			}
			control, laneTime = append(control, fmt.Sprint(r.Control)), append(laneTime, fmt.Sprint(r.LaneTimeMs))
		case 'c':
			_, _, err := sinceOf(v)
			must(err)
			add(kind, "known")
		case 'e', 'm', 'j', 't', 'l':
		default:
			add(kind, "this test knows nothing of it")
		}
	})
	for name, b := range bits {
		add('b', "%s %v", name, b.ToArray())
	}
	for name, s := range sizes {
		add('z', "%s: %d of %d", name, s.size, s.partitions)
	}
	for at, d := range totals {
		add('y', "%v %x", at, encodeDay(d))
	}
	for name, is := range done {
		add(name[0], "%s is whole: %v", name, is)
	}
	for s := range spaces {
		add('s', "%d", s)
	}
	for p := range proto.Partitions {
		add('r', "next of %d: %d", p, next[proto.PartitionID(p)])
	}
	slices.Sort(control)
	slices.Sort(laneTime)
	add('r', "control %v", slices.Compact(control))
	add('r', "lane time at most %s", laneTime[len(laneTime)-1])
	for _, prefix := range []string{"H", "N", "T"} {
		rowsUnder(st, []byte(prefix), func(k, v []byte) { add(prefix[0], "%x %x", k, v) })
	}
	for kind, list := range out {
		slices.Sort(list)
		out[kind] = slices.Compact(list)
	}
	return out
}

// NewAsker is a node that does nothing but pass questions on and answer them.
func NewAsker(name string, nc *nats.Conn, peers Peers) *Node {
	return &Node{config: Config{Node: name, Peers: peers}, conn: func() *nats.Conn { return nc }}
}

// WatchStreams looks at streams of the log once for each list of them, and returns what
// each time the gauge of missing copies is made of.
func WatchStreams(lists ...[]proto.StreamStatus) (lacking []map[string]int) {
	once, cancel := context.WithCancel(context.Background())
	cancel()
	n := &Node{}
	for _, list := range lists {
		n.streams = func(context.Context) []proto.StreamStatus { return list }
		n.watchStreams(once)
		lacking = append(lacking, *n.lacking.Load())
	}
	return lacking
}

// LeakageHostsMax is the most hosts in a report.
const LeakageHostsMax = leakageHostsMax

// FeedRows is how many bytes lanes keep for feeds.
func (n *Node) FeedRows() (sum int) {
	for _, l := range n.lanes {
		sum += l.untold.total()
	}
	return sum
}

// FeedLost reports whether a lane has yet to tell that something was left out of a
// client's feed.
func (n *Node) FeedLost(c proto.ClientID) bool {
	return slices.ContainsFunc(n.lanes, func(l *lane) bool {
		l.untold.mu.Lock()
		defer l.untold.mu.Unlock()
		return l.untold.lost[c]
	})
}

// FeedMoves is what a feed's row holds.
type FeedMoves = []feedMove

// FeedRow and ReadFeedRow write and read one.
func FeedRow(list FeedMoves) []byte { return encodeFeedRow(list) }

func ReadFeedRow(b []byte) (FeedMoves, error) { return decodeFeedRow(7, b) }

// FeedRowSample is a row with a line of every kind.
func FeedRowSample() []byte {
	var list FeedMoves
	for what := proto.FeedLeft; what <= proto.FeedLost; what++ {
		list = append(list, feedMove{at: feedPlace{proto.Offset(100 + what), uint32(what)}, time: 1795348800000, what: what, hash: proto.IdentityHash{1, 2, 3}, segment: "auto"})
	}
	return encodeFeedRow(list)
}

// NetworkRows is how many rows of networks a store has.
func NetworkRows(st store.Store) (rows int) {
	snap := st.Snapshot()
	defer snap.Release()
	err := scanNetworks(snap, func(proto.ClientID, proto.NetworkKey, proto.Node) error { rows++; return nil })
	if err != nil {
		panic(err)
	}
	return rows
}

// HouseholdConfidence is how sure an edge is.
func HouseholdConfidence(common, either, least int) float64 {
	return householdConfidence(common, either, least)
}

// EraseBytesNow is EraseBytes that does not wait for readers.
func (n *Node) EraseBytesNow(ctx context.Context) (proto.Erased, error) { return n.eraseBytes(ctx, 0) }

// SubmitOptOut cuts an identity out and does not wait for anything.
func (n *Node) SubmitOptOut(t *testing.T, id proto.Identity) {
	t.Helper()
	var b proto.Batch
	b.AddCut(&proto.CutCommand{Kind: proto.CutOptOut, Hash: n.hasher.Hash(id), Received: n.now(), Command: 1})
	if r := n.submit(t.Context(), &b, nil); r.Err != nil {
		t.Fatal(r.Err)
	}
}

// SeenFinal reports whether readers see that an identity's cut is final, whatever the
// ledger knows.
func (n *Node) SeenFinal(t *testing.T, id proto.Identity) bool {
	t.Helper()
	o, err := n.optOut(n.hasher.Hash(id))
	if err != nil {
		t.Fatal(err)
	}
	if o == nil {
		return false
	}
	c := o.Newest(0)
	return c != nil && c.Final
}

// AwaitTold returns when the ledger has all that there is to tell of an identity.
func (n *Node) AwaitTold(ctx context.Context, id proto.Identity) error {
	return n.ledger.await(ctx, n.hasher.Hash(id))
}

// PurgeHomeLog empties the log of an identity's own lane.
func (n *Node) PurgeHomeLog(ctx context.Context, id proto.Identity) error {
	l := n.laneFor(n.hasher.Hash(id))
	end, err := l.logEnd(ctx)
	if err != nil {
		return err
	}
	return l.purge(ctx, end-proto.Offset(l.base))
}

// Arrived waits as a removal does.
func (n *Node) Arrived(ctx context.Context) error { return n.arrived(ctx) }

// TakeFromAnother appends an entry as of another node, by that one's clock.
func (n *Node) TakeFromAnother(ctx context.Context, id proto.LaneID, at proto.Millis, b *proto.Batch) error {
	_, err := n.log.Lane(id).Append(ctx, &proto.Entry{Lane: id, Producer: 77, Seq: uint64(at), Time: at, Count: b.Len(), Commands: b.Bytes()})
	return err
}

// LaneOf is the lane of an identity.
func (n *Node) LaneOf(id proto.Identity) proto.LaneID { return n.laneFor(n.hasher.Hash(id)).id }

// OldMessages are those that the check of a receipt takes for what is left of an identity
// which came back as a generation.
func OldMessages(h proto.IdentityHash, gen uint32, list []graph.Message) (found int) {
	c := &receiptCheck{hash: h, again: map[proto.SpaceID]returned{1: {gen: gen}}}
	for i := range list {
		c.messages(list[i : i+1])
	}
	for _, p := range c.places {
		found += p.Found
	}
	return found
}

// OldEdge reports whether the check of a receipt of time at takes a link to an identity
// for one that was erased, where it came back as gen; 0: it did not.
func OldEdge(at proto.Millis, gen uint32, l graph.Neighbour) bool {
	c := &receiptCheck{hash: l.Peer, again: map[proto.SpaceID]returned{}, receipt: proto.Receipt{Time: at.Time()}}
	if gen > 0 {
		c.again[1] = returned{gen: gen}
	}
	s := identity.State{Graph: &graph.State{Gen: 1, Links: []graph.Neighbour{l}}}
	return c.edges(parsedKey{node: proto.Node{Hash: proto.IdentityHash{9}, Space: 1}, kind: 'f'}, s.Append(nil)) > 0
}

// TwoLanes are the outboxes of two lanes, of which each takes what the test says.
type TwoLanes struct{ n *Node }

func NewTwoLanes(st store.Store) TwoLanes {
	n := &Node{store: st}
	for id := range 2 {
		l := &lane{id: proto.LaneID(id), node: n}
		l.outbox.init(2)
		l.progress.received, l.progress.changed = make([]uint64, 2), make(chan struct{})
		n.lanes = append(n.lanes, l)
	}
	return TwoLanes{n}
}

// Put puts a batch into the outbox of the other lane than to.
func (x TwoLanes) Put(to proto.LaneID) {
	x.n.lanes[1-to].outbox.add([]outgoing{{to: to, data: []byte{1}}})
}

// Take has a lane have applied so many of the other's batches.
func (x TwoLanes) Take(to proto.LaneID, number uint64) {
	x.n.lanes[to].progress.set(func(p *progress) { p.received[1-to] = number })
}

func (x TwoLanes) Clean(ctx context.Context) error { return x.n.cleanOutboxes(ctx) }

// Untold is an entry of a lane with something to tell: the end of a cut that waited for
// other lanes, as far as After says by lane, or what waits for nothing.
type Untold struct {
	Lane  proto.LaneID
	At    proto.Offset
	After []proto.Offset
}

// Gathered gives what the first record of a cluster's ledger takes of what waits, where
// all is applied.
func Gathered(peers Peers, told []proto.Offset, list []Untold) (taken []Untold) {
	n := &Node{config: Config{Node: "a", Peers: peers, Lanes: len(told)}}
	for id := range told {
		l := &lane{id: proto.LaneID(id), node: n}
		l.progress.applied = math.MaxInt64
		n.lanes = append(n.lanes, l)
	}
	x := newLedger(n, nil, nil)
	x.marks = told
	for _, u := range list {
		x.add(u.Lane, []notice{{at: u.At, final: u.After != nil, cut: identity.Cut{Vector: u.After}}})
	}
	all, _ := x.gather()
	for _, t := range all {
		taken = append(taken, Untold{t.lane, t.at(), t.list[0].cut.Vector})
	}
	return taken
}

// ImportsAfter are the imports that are known once a client's records were obeyed.
func ImportsAfter(records []*pb.Import) (map[uint64]*proto.Import, error) {
	r := &registry{books: map[proto.ClientID]*importBook{}}
	for i, x := range records {
		if err := r.obeyImport(uint64(i+1), 0, x); err != nil {
			return nil, err
		}
	}
	return r.imports(0).imports, nil
}

// StaleMark reports whether a mark stands for nothing once a client's records were obeyed.
func StaleMark(records []*pb.Import, mark proto.Prop) (bool, error) {
	r := &registry{books: map[proto.ClientID]*importBook{}}
	for i, x := range records {
		if err := r.obeyImport(uint64(i+1), 0, x); err != nil {
			return false, err
		}
	}
	return r.imports(0).stale(&mark, uint64(len(records))), nil
}

// FeedPageOf is a page of an outlet.
func FeedPageOf(ctx context.Context, out log.Outlet, after uint64, limit int) (proto.FeedPage, error) {
	return (&feed{name: "acme"}).page(ctx, out, after, limit)
}

// DefinitionsLeft is how many definitions the client's keys may change now.
func (n *Node) DefinitionsLeft(c proto.ClientInfo) float64 {
	n.registry.mu.Lock()
	defer n.registry.mu.Unlock()
	l := n.registry.limits[c.ID]
	if l == nil {
		return 0
	}
	return l.TokensAt(n.registry.now())
}

// LeaveDefinitions has the client's keys have so many of them left.
func (n *Node) LeaveDefinitions(c proto.ClientInfo, left int) {
	n.registry.mu.Lock()
	defer n.registry.mu.Unlock()
	delete(n.registry.limits, c.ID)
	own := proto.ForItself(context.Background())
	n.registry.share(own, c.ID).take(definitionsBurst - left)
}

// Contend has another write the record behind the last one once, just before this node
// does.
func (n *Node) Contend(record *pb.Control) {
	n.registry.control = &contended{ControlStream: n.registry.control, record: record}
}

type contended struct {
	log.ControlStream
	record *pb.Control // nil once it is written
}

func (s *contended) Append(ctx context.Context, record []byte, last uint64) (uint64, error) {
	if c := s.record; c != nil {
		s.record = nil
		raw, err := proto.EncodeControl(c)
		if err == nil {
			_, err = s.ControlStream.Append(ctx, raw, last)
		}
		if err != nil {
			return 0, err
		}
	}
	return s.ControlStream.Append(ctx, record, last)
}

// DoubtAudit sets for how long the audit log's stream must seem to have lost its end.
func DoubtAudit(t testing.TB, d time.Duration) {
	was := auditDoubt
	auditDoubt = d
	t.Cleanup(func() { auditDoubt = was })
}

// AuditOver has the audit log written through what wrap makes of its stream.
func (n *Node) AuditOver(ctx context.Context, wrap func(log.Outlet) log.Outlet) error {
	s, err := n.auditStream(ctx)
	if err != nil {
		return err
	}
	n.audit.mu.Lock()
	defer n.audit.mu.Unlock()
	n.audit.stream = wrap(s)
	return nil
}

// Shelf is a registry that knows one client's segments and saved audiences alone.
type Shelf struct{ r *registry }

// NewShelf is one with segments and no saved audience.
func NewShelf(ids ...proto.SegmentID) *Shelf {
	r := newRegistry(nil, nil, nil, time.Now, slog.New(slog.DiscardHandler))
	for _, id := range ids {
		r.specs.set(1, proto.SegmentSpec{ID: id})
	}
	return &Shelf{r}
}

// Save has the registry obey that an audience was saved.
func (s *Shelf) Save(id proto.AudienceID, expr string) {
	s.r.obeySave(&pb.SaveAudience{Client: 1, Id: string(id), Expr: expr})
}

// Check is checkSaved.
func (s *Shelf) Check(id proto.AudienceID, expr string) (written int, err error) {
	a, err := segments.ParseAudience(expr)
	if err != nil {
		return 0, err
	}
	return s.r.checkSaved(1, id, a)
}

// User is savedWith of who names a saved audience.
func (s *Shelf) User(id proto.AudienceID) proto.AudienceID {
	return s.r.savedWith(1, func(x *savedAudience) bool { return x.mentions(id) })
}

// Outlasts is of a node whose leases of lanes last so long.
func Outlasts(peers Peers, left []time.Duration, err error) bool {
	n := &Node{config: Config{Peers: peers}}
	for _, d := range left {
		l := &lane{node: n}
		l.leases.init("", func() time.Duration { return time.Hour })
		l.leases.until.Store(int64(time.Hour + d))
		n.lanes = append(n.lanes, l)
	}
	return n.outlasts(err)
}
