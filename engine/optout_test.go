package engine_test

import (
	"context"
	"crypto/sha256"
	"sync/atomic"
	"testing"
	"time"

	"kith/engine"
	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
)

// heldLedger is a log whose ledger takes nothing until it is released.
type heldLedger struct {
	log.Logs
	released chan struct{}
}

func (h heldLedger) Ledger() log.ControlStream { return heldStream{h.Logs.Ledger(), h.released} }

type heldStream struct {
	log.ControlStream
	released chan struct{}
}

func (h heldStream) Append(ctx context.Context, record []byte, last uint64) (uint64, error) {
	select {
	case <-h.released:
		return h.ControlStream.Append(ctx, record, last)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// newerStore is a store of which one read of an opt-out sees what was kept until
// then, as if its snapshot had been taken only then.
type newerStore struct {
	store.Store
	before atomic.Pointer[func()] // called once, before that read
}

func (s *newerStore) Snapshot() store.Snapshot { return newerSnapshot{s.Store.Snapshot(), s} }

type newerSnapshot struct {
	store.Snapshot
	s *newerStore
}

func (x newerSnapshot) Get(key []byte, fn func([]byte) error) (bool, error) {
	if key[0] != 'T' {
		return x.Snapshot.Get(key, fn)
	}
	before := x.s.before.Swap(nil)
	if before == nil {
		return x.Snapshot.Get(key, fn)
	}
	(*before)()
	now := x.s.Store.Snapshot()
	defer now.Release()
	return now.Get(key, fn)
}

// An opt-out that becomes visible while its state is asked for is not final before
// the ledger has it.
func TestFinalAfterLedger(t *testing.T) {
	st := &newerStore{Store: store.NewMemory()}
	lg := heldLedger{log.NewMemory(1, nil), make(chan struct{})}
	n, err := engine.NewOver(engine.Config{
		Dir: t.TempDir(), DiskReserve: 1,
		Boot: []engine.BootKey{{Client: "acme", Role: proto.RoleClient, SHA256: sha256.Sum256([]byte("key"))}},
	}, lg, st)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer closeNode(t, n)
	const gone = proto.Identity("browser:gone")
	cut := func() {
		n.SubmitOptOut(t, gone)
		until(t, n, 20*time.Second, "the cut", func() bool { return n.SeenFinal(t, gone) })
	}
	st.before.Store(&cut)
	s, err := n.OptOutState(t.Context(), gone)
	if err != nil || !s.OptedOut || s.Final || s.Receipt != nil {
		t.Errorf("before the ledger has it: %+v, %v", s, err)
	}
	close(lg.released)
	if err := n.AwaitTold(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	s, err = n.OptOutState(t.Context(), gone)
	if err != nil || !s.Final || s.Receipt == nil {
		t.Errorf("after the ledger has it: %+v, %v", s, err)
	}
}

// After a clock that was ahead was set back a removal removes, and who asks to be known
// again or erased is told from when on events are kept.
func TestAfterAClockWasSetBack(t *testing.T) {
	var ahead atomic.Int64
	ahead.Store(int64(time.Hour))
	n := testNode(t, t.TempDir(), func(c *engine.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	defer closeNode(t, n)
	c := acme(t, n)
	now := func() proto.Millis { return proto.MillisOf(n.Now()) }
	join := &proto.Event{Client: c.ID, Space: c.Space, Identities: []proto.Identity{"browser:a", "account:b"}, Time: now(), Received: now(), EventBody: proto.EventBody{Name: "login"}}
	submit(t, n, join, page(c, "erased", "auto", n.Now()), page(c, "forgotten", "auto", n.Now()))
	optOut(t, n, "browser:out", false)
	wasAhead := n.Now()
	ahead.Store(0)
	at, err := n.Unlink(t.Context(), c, "browser:a", "account:b")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Wait(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	if got := membersOf(t, n, c, "browser:a"); len(got) != 1 {
		t.Errorf("after the removal the user is %v", got)
	}
	for id, ask := range map[proto.Identity]func(proto.Identity) (proto.OptOutState, error){
		"browser:out": func(id proto.Identity) (proto.OptOutState, error) {
			return n.OptIn(t.Context(), proto.ClientInfo{}, id)
		},
		"browser:erased":    func(id proto.Identity) (proto.OptOutState, error) { return n.Erase(t.Context(), nil, id) },
		"browser:forgotten": func(id proto.Identity) (proto.OptOutState, error) { return n.Erase(t.Context(), &c, id) },
	} {
		s, err := ask(id)
		if err != nil || s.OptedOut || s.CountsFrom == nil || s.CountsFrom.Before(wasAhead.Add(-time.Minute)) {
			t.Errorf("%s: %+v %v", id, s, err)
		}
		later, err := n.OptOutStateFor(t.Context(), c, id)
		if err != nil || later.CountsFrom == nil || s.CountsFrom != nil && !later.CountsFrom.Equal(*s.CountsFrom) {
			t.Errorf("%s: asked later: %+v %v", id, later, err)
		}
		ahead.Add(int64(2 * time.Hour))
		if later, err = n.OptOutStateFor(t.Context(), c, id); err != nil || later.CountsFrom != nil {
			t.Errorf("%s: once the clock is there: %+v %v", id, later, err)
		}
		ahead.Store(0)
	}
}

// While a lane's time stands still an event counts once that goes on, and no sooner: as
// is told of who asked to be known again meanwhile.
func TestCountsFromWhileALaneStandsStill(t *testing.T) {
	s := newScript(t)
	acme := s.client("acme", "")
	s.beat(0)
	var clock atomic.Int64
	clock.Store(int64(s.now))
	n := s.run(store.NewMemory(), func(c *engine.Config) {
		c.Now = func() time.Time { return proto.Millis(clock.Load()).Time() }
	})
	defer closeNode(t, n)
	pass := func(d time.Duration) { // without a beat
		s.now = s.now.Add(d)
		clock.Store(int64(s.now))
	}
	optIn := func(gen uint32) proto.Offset {
		var b proto.Batch
		b.AddOptIn(&proto.OptInCommand{Hash: s.hasher.Hash("browser:v"), Gen: gen, Received: s.now})
		return s.own(b.Bytes(), 1)
	}
	check := func(what string, at proto.Offset, known bool, wait time.Duration) {
		t.Helper()
		if err := n.Wait(t.Context(), proto.Position{0: at}); err != nil {
			t.Fatal(err)
		}
		if seen, err := n.Seen(acme, "browser:v"); err != nil || seen.Known != known {
			t.Errorf("%s: %+v, %v, want known: %v", what, seen, err, known)
		}
		x, err := n.OptOutState(t.Context(), "browser:v")
		got := time.Duration(0)
		if x.CountsFrom != nil {
			got = x.CountsFrom.Sub(s.now.Time())
		}
		if err != nil || got != wait {
			t.Errorf("%s: events count in %v, %v, want %v", what, got, err, wait)
		}
	}
	s.events(s.event(acme, "v", "a"))
	s.cut("browser:v", proto.CutOptOut)
	s.beat(time.Second)
	pass(14 * time.Second)
	check("within what a lane's time may lag", optIn(1), false, 501*time.Millisecond)
	pass(900 * time.Millisecond)
	check("an event after that", s.events(s.event(acme, "v", "a")), true, 0)

	s.cut("browser:v", proto.CutOptOut)
	s.beat(time.Second)
	pass(17 * time.Second)
	check("a lane's time that stands still for longer", optIn(3), false, 501*time.Millisecond)
	pass(2 * time.Second)
	check("an event in vain", s.events(s.event(acme, "v", "a")), false, 501*time.Millisecond)
	check("by another owner it goes on", s.beat(0), false, 0)
	check("and an event counts", s.events(s.event(acme, "v", "a")), true, 0)
}
