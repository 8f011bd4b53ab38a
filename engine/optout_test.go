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
