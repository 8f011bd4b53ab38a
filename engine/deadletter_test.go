package engine_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kith/actors/identity"
	"kith/engine"
	"kith/engine/store"
	"kith/proto"
	"kith/segments"
)

// poison makes the steps of one client panic while it is on.
type poison struct {
	client proto.ClientID
	on     atomic.Bool
}

type poisoned struct {
	identity.Rules
	p *poison
}

func (p *poison) judge(r identity.Rules) identity.Rules { return poisoned{r, p} }

func (r poisoned) Program(c proto.ClientID) *segments.Program {
	if c == r.p.client && r.p.on.Load() {
		panic("poisoned")
	}
	return r.Rules.Program(c)
}

func deadLetters(t *testing.T, n *engine.Node) []proto.DeadLetter {
	t.Helper()
	list, err := n.DeadLetters(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// A step that panics sets its command aside and nothing else; replayed, the
// command counts, once.
func TestDeadLetter(t *testing.T) {
	var p poison
	n := nodeOver(t, func(s *script) {
		acme, bad := s.client("acme", ""), s.client("bad", "")
		p.client = bad.ID
		s.judge = p.judge
		s.define(acme, "one", `count(true) >= 1`)
		s.define(bad, "one", `count(true) >= 1`)
	})
	defer func() { closeNode(t, n) }()
	acme, _ := n.Client("acme")
	bad, _ := n.Client("bad")
	now := time.Now()
	submit(t, n, page(bad, "a", "before", now))
	// A fill that fails would quarantine the lane: it must be over.
	until(t, n, 20*time.Second, "filling", func() bool { s, _ := n.Segment(bad, "one"); return *s.Filled })
	p.on.Store(true)
	submit(t, n, page(acme, "a", "x", now), page(bad, "a", "lost", now), page(acme, "b", "x", now), page(bad, "new", "lost", now))
	p.on.Store(false)

	letters := deadLetters(t, n)
	if len(letters) != 2 || letters[0].Index != 1 || letters[1].Index != 3 || !strings.Contains(letters[0].Reason, "poisoned") {
		t.Fatalf("dead letters are %+v, want the commands 1 and 3", letters)
	}
	if strings.Contains(letters[0].Reason, "\n") {
		t.Errorf("the list shows a stack: %q", letters[0].Reason)
	}
	if kept := gauges(t, n)["kith_dead_letters"]; kept != 2 {
		t.Errorf("the gauge says that %v letters are kept", kept)
	}
	if err := n.Ready(); err != nil {
		t.Errorf("the node is not ready: %v", err)
	}
	count := func(c proto.ClientInfo) uint64 {
		x, err := n.Count(t.Context(), c, "one", "")
		if err != nil {
			t.Fatal(err)
		}
		return *x.Count
	}
	if a, b := count(acme), count(bad); a != 2 || b != 1 {
		t.Errorf("%d and %d members, want 2 and 1", a, b)
	}
	if rec, err := n.Record(t.Context(), bad, "browser:a"); err != nil || len(rec.Events) != 1 {
		t.Errorf("the identity has %d events, %v; want it as before", len(rec.Events), err)
	}
	verifyClean(t, n)

	for i, d := range letters {
		if err := n.Replay(t.Context(), d.ID); err != nil {
			t.Fatalf("replay: %v", err)
		}
		if left, kept := deadLetters(t, n), gauges(t, n)["kith_dead_letters"]; len(left) != len(letters)-1-i || kept != float64(len(left)) {
			t.Errorf("%d letters are left, %v by the gauge", len(left), kept)
		}
		if err := n.Replay(t.Context(), d.ID); proto.CodeOf(err) != proto.CodeNotFound {
			t.Errorf("a second replay: %v", err)
		}
	}
	if b := count(bad); b != 2 {
		t.Errorf("%d members after the replay, want 2", b)
	}
	if rec, err := n.Record(t.Context(), bad, "browser:a"); err != nil || len(rec.Events) != 2 {
		t.Errorf("the identity has %d events, %v; want 2", len(rec.Events), err)
	}
	for _, id := range []string{"", "1:2:3", "0:1", "x:y:z", "0:99:0", "0:-1:0"} {
		if err := n.Replay(t.Context(), id); err == nil {
			t.Errorf("letter %q was replayed", id)
		}
	}
	verifyClean(t, n)
}

// A command that fails again is set aside again.
func TestDeadLetterFailsAgain(t *testing.T) {
	var p poison
	s := newScript(t)
	p.client = s.client("bad", "").ID
	s.judge = p.judge
	p.on.Store(true)
	bad := proto.ClientInfo{ID: p.client, Space: proto.SpaceID(p.client)}
	s.events(s.event(bad, "a", "x"))
	s.beat(0)
	st := store.NewMemory()
	s.apply(st)
	s.replay(st)
	s.beat(0)
	n := s.run(st)
	if l := deadLetters(t, n); len(l) != 1 {
		t.Errorf("letters after a replay that failed: %+v", l)
	}
	closeNode(t, n)
	p.on.Store(false)
	s.replay(st)
	s.replay(st) // two operators at once
	s.beat(0)
	if r := s.apply(st); r.Events != 1 {
		t.Errorf("%d events after the replay, want 1", r.Events)
	}
}

// A letter and its replay in one batch, as when a log is read anew, are what
// they are one after the other.
func TestReplayInOneBatch(t *testing.T) {
	for name, lump := range map[string]func() int{"one batch": nil, "batches": func() int { return 1 }} {
		t.Run(name, func(t *testing.T) {
			var p poison
			s := newScript(t)
			s.lump = lump
			bad := s.client("bad", "")
			p.client = bad.ID
			s.judge = p.judge
			s.beat(0)
			p.on.Store(true)
			s.events(s.event(bad, "a", "x"))
			s.beat(0)
			st := store.NewMemory()
			s.apply(st)
			s.replay(st)
			s.events(s.event(bad, "b", "x"))
			s.beat(0)
			n := s.run(store.NewMemory())
			defer closeNode(t, n)
			// The letter failed, was replayed and failed again; b's is the second.
			if l := deadLetters(t, n); len(l) != 2 || l[0].Offset <= 4 {
				t.Errorf("letters are %+v, want the replay's and b's", l)
			}
		})
	}
}

// When a letter was set aside is its entry's time, wherever its batch ends.
func TestLettersTime(t *testing.T) {
	var p poison
	s := newScript(t)
	bad := s.client("bad", "")
	p.client = bad.ID
	s.judge = p.judge
	p.on.Store(true)
	s.beat(0)
	want := s.now.Time()
	s.events(s.event(bad, "a", "x"))
	for range 9 {
		s.beat(time.Second)
	}
	for name, lump := range map[string]func() int{"one batch": nil, "batches": func() int { return 1 }} {
		s.lump = lump
		n := s.run(store.NewMemory())
		if l := deadLetters(t, n); len(l) != 1 || !l[0].Time.Equal(want) {
			t.Errorf("in %s the letters are %+v, want one of %v", name, l, want)
		}
		closeNode(t, n)
	}
}

// replay writes a replay of each dead letter in st.
func (s *script) replay(st store.Store) {
	s.t.Helper()
	for _, command := range engine.DeadCommands(st) {
		s.own(command, 1)
	}
}

// A batch that is cut short at its bound in bytes leaves the replays behind
// the cut to the next one.
func TestReplayBehindFullBatch(t *testing.T) {
	var p poison
	s := newScript(t)
	acme, bad := s.client("acme", ""), s.client("bad", "")
	p.client = bad.ID
	s.judge = p.judge
	p.on.Store(true)
	const letters = 30
	for i := range letters {
		s.events(s.event(bad, fmt.Sprint("v", i), "x"))
	}
	s.beat(0)
	st := store.NewMemory()
	s.apply(st)
	p.on.Store(false)
	commands := engine.DeadCommands(st)
	if len(commands) != letters {
		t.Fatalf("%d letters, want %d", len(commands), letters)
	}
	big := strings.Repeat("x", proto.PropTextBytesMax)
	for i, c := range commands {
		var list []*proto.Event
		for j := range 400 {
			list = append(list, s.event(acme, fmt.Sprint("w", i, "-", j), big))
		}
		s.events(list...)
		s.own(c, 1)
	}
	s.beat(0)
	n := s.run(st)
	if left := deadLetters(t, n); len(left) != 0 {
		t.Errorf("%d letters are left", len(left))
	}
	closeNode(t, n)
	if r := s.verify(st); r.Events != letters*401 {
		t.Errorf("%d events, want %d: replays are lost", r.Events, letters*401)
	}
}

// Letters have a bound: what is set aside beyond it is counted. Which are kept follows
// from the log alone, however it comes in batches, and with room there are more again.
func TestLettersAreBounded(t *testing.T) {
	var p poison
	s := newScript(t)
	bad := s.client("bad", "")
	p.client = bad.ID
	s.judge = p.judge
	p.on.Store(true)
	some := func(prefix string, n int) proto.Offset {
		var list []*proto.Event
		for i := range n {
			list = append(list, s.event(bad, fmt.Sprint(prefix, i), "x"))
		}
		return s.events(list...)
	}
	const room = 3
	for left := engine.LettersMax - room; left > 0; left -= 200 {
		some(fmt.Sprint("many", left, "-"), min(left, 200))
	}
	s.beat(0)
	begun := map[string]store.Store{"one batch": store.NewMemory(), "batches": store.NewMemory()}
	for _, st := range begun {
		s.apply(st)
	}
	full := some("full", 20)
	s.cut("browser:full1", proto.CutOptOut)
	after := some("after", 20)
	command := engine.DeadCommands(begun["batches"])[0]
	s.own(command, 1)
	some("replayed", 20)
	s.beat(0)
	want := []string{fmt.Sprint(full, " 0"), fmt.Sprint(full, " 2"), fmt.Sprint(after, " 0"), fmt.Sprint(after+1, " 0")}
	for name, st := range begun {
		if name == "batches" {
			s.lump = func() int { return 1 }
		}
		n := s.run(st)
		list, err := n.DeadLetters(t.Context(), 2*engine.LettersMax)
		if err != nil || len(list) != engine.LettersMax {
			t.Fatalf("%s: %d letters, %v", name, len(list), err)
		}
		var last []string
		for _, d := range list[len(list)-len(want):] {
			last = append(last, fmt.Sprint(d.Offset, " ", d.Index))
		}
		if !slices.Equal(last, want) {
			t.Errorf("%s: the last letters are %v, want %v", name, last, want)
		}
		told := gauges(t, n)
		if told["kith_dead_letters_total"] != 61 || told["kith_dead_letters_unkept_total"] != 61-room-1-1 || told["kith_dead_letters"] != engine.LettersMax {
			t.Errorf("%s: set aside %v, not kept %v, kept %v", name, told["kith_dead_letters_total"], told["kith_dead_letters_unkept_total"], told["kith_dead_letters"])
		}
		closeNode(t, n)
		s.lump = nil
	}
}

// What a client has erased with its own key is in none of its letters, though others
// know the identity; theirs stay.
func TestLettersOfForgotten(t *testing.T) {
	s := newScript(t)
	one, two := s.client("one", "shared"), s.client("two", "shared")
	p := poison{client: one.ID}
	s.judge = p.judge
	p.on.Store(true)
	s.events(s.event(one, "a", "x"), s.event(one, "b", "x"))
	s.beat(0)
	st := store.NewMemory()
	s.apply(st)
	p.client = two.ID
	s.events(s.event(two, "a", "x"), s.event(one, "a", "y"))
	s.beat(0)
	s.apply(st)
	var b proto.Batch
	b.AddCut(&proto.CutCommand{Hash: s.hasher.Hash("browser:a"), Kind: proto.CutForget, Received: s.now, Command: 9, Client: one.ID, Space: one.Space})
	s.own(b.Bytes(), 1)
	s.beat(time.Second)
	n := s.run(st)
	defer closeNode(t, n)
	if list := deadLetters(t, n); len(list) != 2 || list[0].Index != 1 || list[1].Index != 0 {
		t.Errorf("letters are %+v, want that of b and the other client's of a", list)
	}
}

// A letter that is made when somebody whom its event links is out does not name them,
// wherever batches end.
func TestLettersOfWhoIsOut(t *testing.T) {
	for _, back := range []bool{false, true} {
		for _, apart := range []bool{false, true} {
			s := newScript(t)
			c := s.client("acme", "")
			p := poison{client: c.ID}
			s.judge = p.judge
			p.on.Store(true)
			st := store.NewMemory()
			next := func() {
				if s.beat(time.Second); apart {
					s.apply(st)
				}
			}
			var b proto.Batch
			b.AddCut(&proto.CutCommand{Hash: s.hasher.Hash("browser:b"), Kind: proto.CutOptOut, Received: s.now, Command: 9})
			s.own(b.Bytes(), 1)
			next()
			if back {
				b.Reset()
				b.AddOptIn(&proto.OptInCommand{Hash: s.hasher.Hash("browser:b"), Gen: 1, Received: s.now, Command: 10})
				s.own(b.Bytes(), 1)
				next()
			}
			e := s.event(c, "a", "x")
			e.Identities = append(e.Identities, "browser:b", "browser:c")
			s.events(e)
			s.beat(time.Second)
			n := s.run(st)
			if list := deadLetters(t, n); len(list) != 1 {
				t.Fatalf("letters are %+v", list)
			}
			closeNode(t, n)
			stored := ""
			snap := st.Snapshot()
			err := snap.Scan(nil, nil, func(_, v []byte) (bool, error) {
				if bytes.Contains(v, []byte("poisoned")) {
					stored = string(v)
				}
				return true, nil
			})
			snap.Release()
			if err != nil || !strings.Contains(stored, "browser:c") || strings.Contains(stored, "browser:b") == !back {
				t.Errorf("came back %v, batches apart %v: the letter is %q, %v", back, apart, stored, err)
			}
		}
	}
}

// Of several turns of an identity in one entry the last says whether it is out, however
// many others the batch turns.
func TestLettersOfWhoTurnedTwice(t *testing.T) {
	s := newScript(t)
	c := s.client("acme", "")
	p := poison{client: c.ID}
	s.judge = p.judge
	p.on.Store(true)
	e := s.event(c, "a", "x")
	for entry := range 4 {
		var b proto.Batch
		for i := range 20 {
			id := proto.Identity(fmt.Sprintf("browser:out%d-%d", entry, i))
			h := s.hasher.Hash(id)
			b.AddCut(&proto.CutCommand{Hash: h, Kind: proto.CutErase, Received: s.now, Command: uint64(100*entry + 2*i + 1)})
			b.AddCut(&proto.CutCommand{Hash: h, Kind: proto.CutOptOut, Received: s.now, Command: uint64(100*entry + 2*i + 2)})
			if i%4 == 0 { // an event names a few
				e.Identities = append(e.Identities, id)
			}
		}
		s.own(b.Bytes(), 40)
	}
	s.events(e)
	s.beat(time.Second)
	st := store.NewMemory()
	n := s.run(st)
	if list := deadLetters(t, n); len(list) != 1 {
		t.Fatalf("letters are %+v", list)
	}
	closeNode(t, n)
	snap := st.Snapshot()
	defer snap.Release()
	err := snap.Scan(nil, nil, func(_, v []byte) (bool, error) {
		if bytes.Contains(v, []byte("poisoned")) && bytes.Contains(v, []byte("browser:out")) {
			t.Errorf("a letter names who is out: %q", v)
		}
		return true, nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Letters grow old as identities do: one goes when its event is older than idle
// identities are kept, or with an id that rotates, by a step of retention.
func TestLettersGrowOld(t *testing.T) {
	s := newScript(t)
	c := s.client("acme", "")
	p := poison{client: c.ID}
	s.judge = p.judge
	p.on.Store(true)
	s.control(retainRecord(0, 0, 30*day))
	s.beat(0)
	rotating := proto.RotatingID(scriptStart.Day()+20, "abcdefghijklmnop")
	e := s.event(c, "none", "x")
	e.Identities = []proto.Identity{rotating}
	s.events(s.event(c, "a", "x"), e)
	s.beat(20 * day)
	with := s.event(c, "b", "x")
	with.Identities = append(with.Identities, rotating)
	kept := s.events(with)
	left := func() (n int) {
		node := s.run(store.NewMemory())
		defer closeNode(t, node)
		list := deadLetters(t, node)
		if len(list) > 0 && list[len(list)-1].Offset != kept {
			t.Errorf("letters are %+v", list)
		}
		return len(list)
	}
	for _, x := range []struct {
		wait time.Duration
		want int
	}{{0, 3}, {2 * day, 2}, {9 * day, 1}, {18 * day, 1}, {2 * day, 0}} {
		s.beat(x.wait)
		s.lane(proto.CommandExpire, new(proto.Expire).Append(nil))
		s.beat(time.Second)
		if got := left(); got != x.want {
			t.Errorf("%v later: %d letters, want %d", x.wait, got, x.want)
		}
	}
}
