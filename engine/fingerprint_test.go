package engine_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"kith/engine"
	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
)

// written is a log with some entries, and the store that applied it.
func written(t *testing.T, visitors ...string) (*script, store.Store) {
	s := newScript(t)
	s.write(visitors...)
	st := store.NewMemory()
	s.apply(st)
	return s, st
}

func (s *script) write(visitors ...string) {
	acme := s.client("acme", "")
	s.define(acme, "one", `count(true) >= 1`)
	for _, v := range visitors {
		s.events(s.event(acme, v, "x"))
	}
	s.beat(0)
}

// A log that is not the one that the store applied is refused, with the way
// out; with RebaseLog the store goes on with it and counts nothing twice.
func TestFingerprint(t *testing.T) {
	for name, c := range map[string]struct {
		want string
		log  func(t *testing.T, old *script) *script
	}{
		"lost its tail": {"lost its tail", func(t *testing.T, old *script) *script {
			return old.reborn(scriptStart, 4)
		}},
		"lost everything": {"lost its tail", func(t *testing.T, old *script) *script {
			return old.reborn(scriptStart, 0)
		}},
		"made anew": {"made at another time", func(t *testing.T, old *script) *script {
			return old.reborn(scriptStart+1, 1<<30)
		}},
		"another entry": {"is not the one", func(t *testing.T, old *script) *script {
			s := newScript(t)
			s.now++
			s.write("a", "b", "c")
			return s
		}},
		"damaged entry": {"cannot be read", func(t *testing.T, old *script) *script {
			info, _ := old.inner.Lane(0).Info(context.Background())
			old.mangle[info.Last] = func(b []byte) []byte { return b[:len(b)-3] }
			return old
		}},
	} {
		t.Run(name, func(t *testing.T) {
			old, st := written(t, "a", "b", "c")
			s := c.log(t, old)
			_, err := s.open(st)
			if proto.CodeOf(err) != proto.CodeQuarantined || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "--rebase-log") {
				t.Fatalf("open: %v, want a refusal with %q and the way out", err, c.want)
			}
			was := s.verify(st)
			if was.Identities != 3 {
				t.Errorf("the refusal changed the store: %+v", was)
			}
			applied := was.Lanes[0].Offset
			clear(s.mangle)
			s.beat(time.Second) // what the rebased log goes on with
			if s.controls < 2 {
				return // without its definitions the store has nothing to go on with
			}
			n, err := s.openRebased(st)
			if err != nil {
				t.Fatal(err)
			}
			acme, _ := n.Client("acme")
			before := s.members(n, acme, "one")
			s.events(s.event(acme, "new", "x"), s.event(acme, "a", "x"))
			s.beat(time.Second)
			pos := n.Lanes()[0].Logged
			if pos <= applied {
				t.Errorf("position %d is not behind %d, which the store had applied", pos, applied)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := n.Wait(ctx, proto.Position{0: pos}); err != nil {
				t.Fatal(err)
			}
			if after := s.members(n, acme, "one"); after != before+1 || before != 3 {
				t.Errorf("%d members, then %d, want 3 and 4", before, after)
			}
			closeNode(t, n)
			s.verify(st)
			s.beat(time.Second)
			s.apply(st) // without RebaseLog from now on
			if name == "damaged entry" {
				return // which was mended: nothing was rebased
			}
			if _, err := s.openRebased(store.NewMemory()); proto.CodeOf(err) != proto.CodeQuarantined || !strings.Contains(err.Error(), "the store is empty") {
				t.Errorf("an empty store behind a rebased log: %v", err)
			}
		})
	}
}

// openRebased opens with RebaseLog; what it waits for is written meanwhile.
func (s *script) openRebased(st store.Store) (*engine.Node, error) {
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; i < 100; i++ {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				s.lateBeat()
			}
		}
	}()
	n, err := s.open(st, func(c *engine.Config) { c.RebaseLog = true })
	close(stop)
	<-done
	return n, err
}

// lateBeat writes a beat of another node, at the script's time.
func (s *script) lateBeat() {
	b := proto.Beat{Node: "late", Incarnation: 2, Time: s.now}
	l := s.inner.Lane(0)
	info, _ := l.Info(context.Background())
	_, _ = l.Append(context.Background(), &proto.Entry{Producer: 99, Seq: uint64(info.Last) + 1, Time: s.now, Count: 1,
		Commands: proto.AppendCommand(nil, proto.CommandBeat, proto.LanePartition, b.Append(nil))})
}

// reborn is a log made at a time with the first n entries of s, whose control
// stream it has in full.
func (s *script) reborn(at proto.Millis, n int) *script {
	made := at.Time()
	twin := *newScript(s.t)
	twin.inner = log.NewMemory(1, func() time.Time { return made })
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for seq := uint64(0); seq < s.controls; seq++ {
		err := s.inner.Control().Read(ctx, seq+1, func(r log.Record) error {
			_, err := twin.inner.Control().Append(ctx, r.Data, seq)
			if err != nil {
				s.t.Fatal(err)
			}
			return context.Canceled
		})
		if err != context.Canceled {
			s.t.Fatal(err)
		}
	}
	info, _ := s.inner.Lane(0).Info(ctx)
	for i := proto.Offset(1); i <= min(info.Last, proto.Offset(n)); i++ {
		r, err := s.inner.Lane(0).Get(ctx, i)
		if err != nil {
			s.t.Fatal(err)
		}
		e, err := proto.DecodeEntry(r.Data, 0)
		if err != nil {
			s.t.Fatal(err)
		}
		if _, err := twin.inner.Lane(0).Append(ctx, e); err != nil {
			s.t.Fatal(err)
		}
	}
	s.inner, s.seq = twin.inner, s.seq+1000
	return s
}

// A log that was purged up to the store's offset is fine; beyond it, it has
// lost entries.
func TestPurgedLog(t *testing.T) {
	s, st := written(t, "a", "b")
	info, _ := s.inner.Lane(0).Info(t.Context())
	applied := info.Last
	if err := s.inner.Lane(0).Purge(t.Context(), applied); err != nil {
		t.Fatal(err)
	}
	s.beat(time.Second)
	if r := s.apply(st); r.Identities != 2 {
		t.Errorf("behind a purged log: %+v", r)
	}
	s.beat(time.Second)
	lost := s.beat(time.Second)
	s.beat(time.Second)
	if err := s.inner.Lane(0).Purge(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	if _, err := s.open(st); proto.CodeOf(err) != proto.CodeQuarantined || !strings.Contains(err.Error(), "entries between are gone") {
		t.Errorf("behind a gap: %v", err)
	}
	if _, err := s.open(store.NewMemory()); proto.CodeOf(err) != proto.CodeQuarantined || !strings.Contains(err.Error(), "the store is empty") {
		t.Errorf("an empty store behind a purged log: %v", err)
	}
}

// A store is tied to its secret and to its number of lanes.
func TestStoreOfAnotherNode(t *testing.T) {
	s, st := written(t, "a")
	s.beat(0)
	if _, err := s.open(st, func(c *engine.Config) { c.Lanes = 2 }); proto.CodeOf(err) != proto.CodeConflict || !strings.Contains(err.Error(), "1 lanes") {
		t.Errorf("another number of lanes: %v", err)
	}
	s.apply(st)
}
