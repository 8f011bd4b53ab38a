package engine_test

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/engine"
	"kith/engine/store"
	"kith/proto"
	"kith/proto/pb"
)

// story writes a log in which everything happens: events of several clients,
// late and repeated ones, traits, definitions that come, change and go, fills,
// memberships that time ends, and entries that were written twice.
func (s *script) story(r *rand.Rand, rounds int) {
	s.mute = true // else it has versions answer that are filled
	clients := []proto.ClientInfo{s.client("acme", ""), s.client("zeta", ""), s.client(fmt.Sprint("brief", s.controls), "")}
	s.beat(0)
	brief := clients[2]
	type defined struct {
		client proto.ClientInfo
		id     string
		key    proto.SegmentKey
		next   proto.Ordinal // of its fill
	}
	var segments []*defined
	visitor := func() string { return fmt.Sprint("v", r.IntN(60)) }
	for round := range rounds {
		if round > rounds/2 {
			s.endSome(brief, r, round == rounds/2+1)
		}
		c := clients[r.IntN(len(clients))]
		switch r.IntN(18) {
		case 16:
			s.cut(proto.Identity("browser:"+visitor()), proto.CutErase)
		case 14:
			s.expire()
		case 15:
			// By the second, so that something is too old.
			s.control(retainRecord([]proto.ClientID{0, c.ID}[r.IntN(2)], time.Duration(r.IntN(20))*time.Second, time.Duration(r.IntN(3)*r.IntN(40))*time.Second))
		case 0:
			when := fmt.Sprintf(`count(event.section == "s%d", "%ds") >= %d`, r.IntN(3), 1+r.IntN(8), 1+r.IntN(3))
			if r.IntN(4) == 0 {
				when = fmt.Sprintf(`trait("plan") == "p%d" || days(event.section == "s1") >= 1`, r.IntN(2))
			}
			id := fmt.Sprint("seg", r.IntN(5))
			segments = append(segments, &defined{client: c, id: id, key: s.define(c, id, when)})
		case 1:
			id := fmt.Sprint("seg", r.IntN(5))
			s.control(undefineRecord(c, id), defineRecord(s.t, c, id, `count(true, "3s") >= 1`), &pb.Control{Body: &pb.Control_Client{Client: &pb.Client{Name: fmt.Sprint("c", s.controls)}}})
		case 2:
			s.traits(c, visitor(), proto.Prop{Key: "plan", Value: proto.TextOf([]string{"p0", "p1", ""}[r.IntN(3)])})
		case 3, 4, 5:
			s.beat(time.Duration(r.IntN(3000)) * time.Millisecond)
		case 6, 17:
			if len(segments) > 0 {
				d := segments[len(segments)-1-r.IntN(min(len(segments), 3))]
				last := d.next + proto.Ordinal(r.IntN(200))
				s.fill(d.client, d.key, d.next, last, r.IntN(4) == 0)
				if r.IntN(20) > 0 { // else the next step is one that was done
					d.next = last + 1
				}
			}
		default:
			var list []*proto.Event
			for range 1 + r.IntN(30) {
				e := s.event(c, visitor(), fmt.Sprint("s", r.IntN(3)))
				e.Time -= proto.Millis(r.IntN(4000))
				if r.IntN(2) == 0 {
					e.ID = fmt.Sprint("id", r.IntN(50))
				}
				if r.IntN(3) == 0 {
					e.Props = append(e.Props, proto.Prop{Key: "pad", Value: proto.TextOf(fmt.Sprintf("%0200d", r.IntN(9)))})
				}
				list = append(list, e)
			}
			s.events(list...)
			if r.IntN(5) == 0 { // a retry that the log took twice
				s.twice(c, visitor(), r)
			}
		}
	}
	s.beat(time.Second)
}

// endSome ends a client, and later writes steps of its erasure, some of them
// twice; others write its events on and on, as if they had not heard.
func (s *script) endSome(c proto.ClientInfo, r *rand.Rand, first bool) {
	if first {
		s.control(eraseRecord(c))
		s.forgotten = 0
	}
	if r.IntN(3) > 0 {
		return
	}
	x := proto.Forget{Client: c.ID, Space: c.Space, First: s.forgotten, Last: s.forgotten + proto.Ordinal(r.IntN(300))}
	s.lane(proto.CommandForget, x.Append(nil))
	if r.IntN(3) == 0 {
		s.lane(proto.CommandForget, x.Append(nil))
	}
	s.forgotten = x.Last + 1
}

// twice writes an entry of another producer two times.
func (s *script) twice(c proto.ClientInfo, visitor string, r *rand.Rand) {
	var b proto.Batch
	b.AddEvent(s.hasher, s.event(c, visitor, "s0"))
	producer, seq := 2+r.Uint64N(3), s.seq
	s.append(producer, seq, b.Bytes(), 1)
	s.again(producer, seq, b.Bytes(), 1)
}

// again writes the same entry once more: the log's own memory of it, which is
// of two minutes, is got round by another node's name for it.
func (s *script) again(producer, seq uint64, commands []byte, count int) {
	at := s.append(producer, seq+1<<40, commands, count)
	s.mangle[at] = func(raw []byte) []byte {
		e, err := proto.DecodeEntry(raw, 0)
		if err != nil {
			panic(err)
		}
		e.Seq = seq
		b, err := e.Encode()
		if err != nil {
			panic(err)
		}
		return b
	}
}

// lateStore takes its time for each commit, so that batches are stepped before
// those before them are in the store.
type lateStore struct{ store.Store }

func (s lateStore) NewBatch() store.Batch { return lateBatch{s.Store.NewBatch()} }

type lateBatch struct{ store.Batch }

func (b lateBatch) Commit() error {
	time.Sleep(3 * time.Millisecond)
	return b.Batch.Commit()
}

func (b lateBatch) Apply() error {
	time.Sleep(3 * time.Millisecond)
	return b.Batch.Apply()
}

// The same log gives the same state and the same chain, whatever the edges of
// the batches, the number of workers and of active identities, how soon batches
// are in the store, and the points at which the node was stopped.
func TestReplay(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			s := newScript(t)
			r := rand.New(rand.NewPCG(seed, 7))
			s.story(r, 150)
			want := s.apply(store.NewMemory())
			if want.Events == 0 || want.Memberships == 0 {
				t.Fatalf("the story is empty: %+v", want)
			}
			for name, lump := range map[string]func() int{
				"1": func() int { return 1 }, "7": func() int { return 7 }, "random": func() int { return 1 + r.IntN(20) },
			} {
				s.lump = lump
				got := s.apply(store.NewMemory(), func(c *engine.Config) { c.Helpers, c.ActiveMax = 4, 64 })
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("lumps of %s (-all at once +in lumps):\n%s", name, diff)
				}
			}
			s.lump = nil
			if diff := cmp.Diff(want, s.apply(lateStore{store.NewMemory()})); diff != "" {
				t.Errorf("commits that take long (-quick +late):\n%s", diff)
			}
		})
	}
}

// A node that is stopped again and again on its way through the log ends where
// one does that reads it in one go.
func TestReplayWithRestarts(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			s := newScript(t)
			r := rand.New(rand.NewPCG(seed, 8))
			st := store.NewMemory()
			s.client("first", "")
			for range 12 {
				s.story(r, 20)
				s.apply(st)
			}
			if diff := cmp.Diff(s.apply(store.NewMemory()), s.verify(st)); diff != "" {
				t.Errorf("state after restarts (-in one go +with restarts):\n%s", diff)
			}
		})
	}
}

// A step of a fill does not wait until what is before it is in the store, and goes
// through the nodes that are only on their way there: those that came are filled, those
// that went are not.
func TestFillDoesNotWait(t *testing.T) {
	for name, until := range map[string]int64{"in flight": 2, "in the store": 0} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t)
			acme, zeta := s.client("acme", ""), s.client("zeta", "")
			s.beat(0)
			st := store.NewMemory()
			s.apply(st)
			for i := range 40 {
				s.events(s.event([]proto.ClientInfo{acme, zeta}[i/30], fmt.Sprint("v", i), "s"))
			}
			for i := range 10 {
				s.cut(proto.Identity(fmt.Sprint("browser:v", i)), proto.CutErase)
			}
			s.fill(acme, s.define(acme, "all", `count(true) >= 1`), 0, 1<<20, true)
			s.beat(time.Second)
			slow := &gatedStore{Store: st, until: until}
			n := s.run(slow)
			if got := s.members(n, acme, "all"); got != 20 {
				t.Errorf("%d members, want the 20 that are left of 30", got)
			}
			closeNode(t, n)
			if slow.waited.Load() {
				t.Error("the fill waited for a commit")
			}
			s.lump = func() int { return 1 }
			if diff := cmp.Diff(s.apply(store.NewMemory()), s.verify(st)); diff != "" {
				t.Errorf("(-each entry by itself +in flight):\n%s", diff)
			}
		})
	}
}

// gatedStore commits no batch before so many were begun.
type gatedStore struct {
	store.Store
	until  int64
	begun  atomic.Int64
	waited atomic.Bool // in vain
}

func (s *gatedStore) NewBatch() store.Batch {
	s.begun.Add(1)
	return gatedBatch{s.Store.NewBatch(), s}
}

type gatedBatch struct {
	store.Batch
	s *gatedStore
}

func (b gatedBatch) Commit() error { return b.gated(b.Batch.Commit) }

func (b gatedBatch) Apply() error { return b.gated(b.Batch.Apply) }

func (b gatedBatch) gated(do func() error) error {
	for range 500 {
		if b.s.begun.Load() >= b.s.until {
			return do()
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.s.waited.Store(true)
	return do()
}
