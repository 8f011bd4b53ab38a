package engine

import (
	"testing"
	"testing/synctest"

	"kith/actors/identity"
	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
)

// A client's erasure is final when what was made of its events has arrived in all lanes,
// in as many ways as that takes; an opt-out's own messages say when it is.
func TestForgottenIsFinalOverLanes(t *testing.T) {
	for kind, waits := range map[proto.CutKind]bool{proto.CutForget: true, proto.CutOptOut: false} {
		synctest.Test(t, func(t *testing.T) {
			s, err := Simulate(Config{Dir: t.TempDir(), Lanes: 2}, log.NewMemory(2, nil), store.NewMemory(), [16]byte{1}, nil)
			if err != nil {
				t.Fatal(err)
			}
			one, two := s.lanes[0], s.lanes[1]
			hash := proto.IdentityHash{1}
			list := []notice{{at: 1, final: true, hash: hash, cut: identity.Cut{Kind: kind, Client: 3, Final: true}}}
			one.progress.set(func(p *progress) { p.applied = 1 })
			two.progress.set(func(p *progress) { p.carry = true }) // messages for the next entry
			s.ledger.expect(list)
			s.ledger.add(one.id, list)
			ended := make(chan bool)
			go func() { ended <- s.ledger.tell(t.Context()) }()
			final := func(when string, want bool) {
				t.Helper()
				if synctest.Wait(); s.ledger.knows(hash) != want {
					t.Errorf("cut of kind %d: %s it is final: %v", kind, when, !want)
				}
			}
			final("while a lane carries messages on", !waits)
			for range 3 { // ways of a message
				two.outbox.add([]outgoing{{to: one.id, data: []byte("a batch")}})
				two.progress.set(func(p *progress) { p.carry = false })
				final("while a lane has a message for another", !waits)
				two.progress.set(func(p *progress) { p.carry = waits })
				one.progress.set(func(p *progress) { p.received[two.id]++ })
				final("while what that led to is carried on", !waits)
			}
			two.progress.set(func(p *progress) { p.carry = false })
			if final("at rest", true); !<-ended {
				t.Error("nothing was told")
			}
		})
	}
}
