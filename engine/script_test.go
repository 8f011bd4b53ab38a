package engine_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kith/actors/identity"
	"kith/engine"
	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
	"kith/proto/pb"
	"kith/segments"
)

// script is a lane's log that a test writes entry by entry, on a clock of its
// own. A node over it appends nothing: its beats, relays and fills are refused.
type script struct {
	t         testing.TB
	inner     *log.Memory
	now       proto.Millis
	seq       uint64 // of producer 1
	controls  uint64
	pads      int
	forgotten proto.Ordinal // up to where the steps of an erasure are
	hasher    proto.Hasher

	mu     sync.Mutex
	mangle map[proto.Offset]func([]byte) []byte // what a reader gets instead
	lump   func() int                           // entries to read before all of them must be applied; nil: no bound
	node   atomic.Pointer[engine.Node]
	judge  func(identity.Rules) identity.Rules
	mute   bool // the node's control records are refused too
}

const scriptStart = proto.Millis(1_767_225_600_000) // 2026-01-01

func newScript(t testing.TB) *script {
	now := scriptStart.Time()
	return &script{
		t: t, inner: log.NewMemory(1, func() time.Time { return now }), now: scriptStart,
		hasher: proto.NewHasher([16]byte{1}), mangle: map[proto.Offset]func([]byte) []byte{},
	}
}

// Lane implements log.Logs.
func (s *script) Lane(id proto.LaneID) log.Stream { return &scriptLane{s.inner.Lane(id), s} }

// Control implements log.Logs.
func (s *script) Control() log.ControlStream {
	if s.mute {
		return muteControl{s.inner.Control()}
	}
	return s.inner.Control()
}

type muteControl struct{ log.ControlStream }

func (muteControl) Append(context.Context, []byte, uint64) (uint64, error) { return 0, errMute }

// Follow implements log.Logs.
func (s *script) Follow(ctx context.Context, id proto.LaneID, at proto.Offset, known bool) error {
	return s.inner.Follow(ctx, id, at, known)
}

// Ledger implements log.Logs.
func (s *script) Ledger() log.ControlStream { return s.inner.Ledger() }

// Feed implements log.Logs.
func (s *script) Feed() log.ControlStream { return s.inner.Feed() }

// Outlet implements log.Logs.
func (s *script) Outlet(ctx context.Context, c proto.ClientID, name proto.ClientName) (log.Outlet, error) {
	return s.inner.Outlet(ctx, c, name)
}

// DropOutlet implements log.Logs.
func (s *script) DropOutlet(ctx context.Context, c proto.ClientID) error {
	return s.inner.DropOutlet(ctx, c)
}

// Audit implements log.Logs.
func (s *script) Audit(ctx context.Context) (log.Outlet, error) { return s.inner.Audit(ctx) }

// Healthy implements log.Logs.
func (s *script) Healthy() error { return nil }

// Close implements log.Logs: the log outlives the node.
func (s *script) Close() error { return nil }

type scriptLane struct {
	log.Stream
	s *script
}

var errMute = proto.Errorf(proto.CodeUnavailable, "the test writes this log itself")

func (l *scriptLane) Append(context.Context, *proto.Entry) (proto.Offset, error) { return 0, errMute }

func (l *scriptLane) AppendAsync(*proto.Entry, func(proto.Offset, error)) error { return errMute }

func (l *scriptLane) Read(ctx context.Context, from proto.Offset, fn func(log.Record) error) error {
	left := 0
	l.s.mu.Lock()
	lump := l.s.lump
	l.s.mu.Unlock()
	if lump != nil {
		left = lump()
	}
	return l.Stream.Read(ctx, from, func(r log.Record) error {
		l.s.mu.Lock()
		mangle := l.s.mangle[r.Offset]
		l.s.mu.Unlock()
		if mangle != nil {
			r.Data = mangle(r.Data)
		}
		if err := fn(r); err != nil || lump == nil {
			return err
		}
		if left--; left > 0 {
			return nil
		}
		left = lump()
		if err := l.s.node.Load().Wait(ctx, proto.Position{0: r.Offset}); err != nil && ctx.Err() == nil {
			<-ctx.Done() // quarantined: it will be stopped
		}
		return ctx.Err()
	})
}

// Get reads what a reader gets.
func (l *scriptLane) Get(ctx context.Context, at proto.Offset) (log.Record, error) {
	r, err := l.Stream.Get(ctx, at)
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if mangle := l.s.mangle[at]; err == nil && mangle != nil {
		r.Data = mangle(r.Data)
	}
	return r, err
}

// append writes an entry of a producer.
func (s *script) append(producer, seq uint64, commands []byte, count int) proto.Offset {
	s.t.Helper()
	at, err := s.inner.Lane(0).Append(context.Background(), &proto.Entry{Producer: producer, Seq: seq, Time: s.now, Count: count, Commands: commands})
	if err != nil {
		s.t.Fatal(err)
	}
	return at
}

func (s *script) own(commands []byte, count int) proto.Offset {
	s.seq++
	return s.append(1, s.seq, commands, count)
}

func (s *script) lane(kind proto.CommandKind, bodies ...[]byte) proto.Offset {
	var b []byte
	for _, body := range bodies {
		b = proto.AppendCommand(b, kind, proto.LanePartition, body)
	}
	return s.own(b, len(bodies))
}

// beat advances the clock and writes a beat.
func (s *script) beat(d time.Duration) proto.Offset {
	s.now = s.now.Add(d)
	b := proto.Beat{Node: "test", Incarnation: 1, Time: s.now}
	return s.lane(proto.CommandBeat, b.Append(nil))
}

// events writes one entry.
func (s *script) events(list ...*proto.Event) proto.Offset {
	var b proto.Batch
	for _, e := range list {
		b.AddEvent(s.hasher, e)
	}
	return s.own(b.Bytes(), b.Len())
}

func (s *script) traits(client proto.ClientInfo, visitor string, set ...proto.Prop) proto.Offset {
	var b proto.Batch
	b.AddTraits(s.hasher, &proto.Traits{Client: client.ID, Space: client.Space, Identity: proto.Identity("browser:" + visitor), Received: s.now, Set: set})
	return s.own(b.Bytes(), 1)
}

// control writes control records, and relays them in one entry.
func (s *script) control(list ...*pb.Control) (first uint64) {
	s.t.Helper()
	first, bodies := s.say(list...)
	s.lane(proto.CommandControl, bodies...)
	return first
}

// say writes control records, of which the lane does not hear, and gives what
// would relay them.
func (s *script) say(list ...*pb.Control) (first uint64, bodies [][]byte) {
	s.t.Helper()
	first = s.controls + 1
	for _, c := range list {
		c.TimeMs = int64(s.now)
		raw, err := proto.EncodeControl(c)
		if err != nil {
			s.t.Fatal(err)
		}
		if s.controls, err = s.inner.Control().Append(context.Background(), raw, s.controls); err != nil {
			s.t.Fatal(err)
		}
		x := proto.Relayed{Seq: s.controls, Record: raw}
		bodies = append(bodies, x.Append(nil))
	}
	return first, bodies
}

func (s *script) client(name, space string) proto.ClientInfo {
	seq := s.control(&pb.Control{Body: &pb.Control_Client{Client: &pb.Client{Name: name, Space: space}}})
	return proto.ClientInfo{ID: proto.ClientID(seq), Name: proto.ClientName(name), Space: proto.SpaceID(seq)}
}

func defineRecord(t testing.TB, c proto.ClientInfo, id, when string) *pb.Control {
	t.Helper()
	rule, err := segments.Compile(when)
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	compiled, err := rule.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &pb.Control{Body: &pb.Control_Define{Define: &pb.Define{Client: uint32(c.ID), Id: id, When: when, Compiled: compiled, Scope: "identity", Backfill: true}}}
}

func undefineRecord(c proto.ClientInfo, id string) *pb.Control {
	return &pb.Control{Body: &pb.Control_Undefine{Undefine: &pb.Undefine{Client: uint32(c.ID), Id: id}}}
}

func (s *script) define(c proto.ClientInfo, id, when string) proto.SegmentKey {
	s.t.Helper()
	return proto.SegmentKey(s.control(defineRecord(s.t, c, id, when)))
}

// swap has a version that waits answer.
func (s *script) swap(c proto.ClientInfo, id string, key proto.SegmentKey) proto.SegmentKey {
	return proto.SegmentKey(s.control(swapRecord(c, id, key)))
}

func swapRecord(c proto.ClientInfo, id string, key proto.SegmentKey) *pb.Control {
	return &pb.Control{Body: &pb.Control_Swap{Swap: &pb.Swap{Client: uint32(c.ID), Id: id, Version: uint32(key)}}}
}

func (s *script) fill(c proto.ClientInfo, key proto.SegmentKey, first, last proto.Ordinal, done bool) {
	x := proto.Fill{Client: c.ID, Segment: key, First: first, Last: last, Done: done}
	s.lane(proto.CommandFill, x.Append(nil))
}

// event happens now.
func (s *script) event(c proto.ClientInfo, visitor, section string) *proto.Event {
	e := page(c, visitor, section, s.now.Time())
	e.Received = s.now
	return e
}

func (s *script) config(change ...func(*engine.Config)) engine.Config {
	now := s.now // the node's own clock stands still: only the log tells the time
	c := engine.Config{Dir: s.t.TempDir(), DiskReserve: 1, Now: func() time.Time { return now.Time() }}
	for _, f := range change {
		f(&c)
	}
	return c
}

// open starts a node over the log as it is and st, and applies it all. The log
// must end with a beat.
func (s *script) open(st store.Store, change ...func(*engine.Config)) (*engine.Node, error) {
	s.t.Helper()
	n, err := engine.NewOver(s.config(change...), s, st)
	if err != nil {
		s.t.Fatal(err)
	}
	s.node.Store(n)
	n.Judge(s.judge)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := n.Start(ctx); err != nil {
		if closing := n.Close(); closing != nil {
			s.t.Errorf("close after %v: %v", err, closing)
		}
		return nil, err
	}
	return n, nil
}

// run opens a node, which must work.
func (s *script) run(st store.Store, change ...func(*engine.Config)) *engine.Node {
	s.t.Helper()
	n, err := s.open(st, change...)
	if err != nil {
		s.t.Fatalf("open: %v", err)
	}
	return n
}

// apply brings st to the end of the log and gives the verified result.
func (s *script) apply(st store.Store, change ...func(*engine.Config)) engine.VerifyReport {
	s.t.Helper()
	n := s.run(st, change...)
	if err := n.Close(); err != nil {
		s.t.Fatalf("close: %v", err)
	}
	return s.verify(st)
}

func (s *script) verify(st store.Store) engine.VerifyReport {
	s.t.Helper()
	r, err := engine.VerifyStore(context.Background(), s.config(), st)
	if err != nil {
		s.t.Fatalf("verify: %v", err)
	}
	if len(r.Problems) > 0 {
		s.t.Fatalf("verify found %d differences: %v", len(r.Problems), r.Problems)
	}
	return r
}

func (s *script) members(n *engine.Node, c proto.ClientInfo, expr string) uint64 {
	s.t.Helper()
	x, err := n.Count(context.Background(), c, expr, "")
	if err != nil || x.Count == nil {
		s.t.Fatalf("count %s: %v", expr, err)
	}
	return *x.Count
}

func (s *script) lookup(n *engine.Node, c proto.ClientInfo, visitor string) string {
	s.t.Helper()
	seen, list, err := n.Lookup(c, proto.Identity("browser:"+visitor), s.now, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprint(seen.Known, list)
}
