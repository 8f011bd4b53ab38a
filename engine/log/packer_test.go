package log_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kith/engine/log"
	"kith/proto"
)

// commands packs commands with the bodies first to last.
func commands(first, last int) []byte {
	var b []byte
	for i := first; i <= last; i++ {
		b = proto.AppendCommand(b, proto.CommandEvent, 3, binary.BigEndian.AppendUint32(nil, uint32(i)))
	}
	return b
}

// logged is one entry as a reader finds it.
type logged struct {
	At     proto.Offset
	Seq    uint64
	Bodies []int
}

// entries reads all that is in the log now.
func entries(t testing.TB, s log.Source) (out []logged) {
	t.Helper()
	i, err := s.Info(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for at := i.First; at <= i.Last; at++ {
		r, err := s.Get(context.Background(), at)
		if err != nil {
			t.Fatal(err)
		}
		e, err := proto.DecodeEntry(r.Data, 1)
		if err != nil {
			t.Fatal(err)
		}
		x := logged{At: at, Seq: e.Seq}
		for rest := e.Commands; len(rest) > 0; {
			var c proto.Command
			if c, rest, err = proto.NextCommand(rest); err != nil {
				t.Fatal(err)
			}
			x.Bodies = append(x.Bodies, int(binary.BigEndian.Uint32(c.Body)))
		}
		out = append(out, x)
	}
	return out
}

func packerConfig() log.PackerConfig { return log.PackerConfig{Lane: 1, Producer: 7, Grow: 1} }

func closePacker(t testing.TB, p *log.Packer) {
	t.Helper()
	if err := p.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// outcomes collects what done was told, and that it was told once.
type outcomes struct {
	t  testing.TB
	mu sync.Mutex
	at map[int]proto.Offset
	// err has an entry for every submission that was answered.
	err map[int]error
	wg  sync.WaitGroup
}

func newOutcomes(t testing.TB) *outcomes {
	return &outcomes{t: t, at: map[int]proto.Offset{}, err: map[int]error{}}
}

func (o *outcomes) done(id int) func(proto.Offset, error) {
	o.wg.Add(1)
	return func(at proto.Offset, err error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		if _, twice := o.err[id]; twice {
			o.t.Errorf("submission %d was answered twice", id)
		}
		o.at[id], o.err[id] = at, err
		o.wg.Done()
	}
}

func TestPackerStoresEverySubmissionOnce(t *testing.T) {
	each(t, func(t *testing.T, l log.Logs) {
		c := packerConfig()
		c.EventsMax = 7
		p := log.NewPacker(l.Lane(1), c)
		o := newOutcomes(t)
		var wg sync.WaitGroup
		const workers, submissions = 8, 40
		for w := range workers {
			wg.Go(func() {
				for i := range submissions {
					id := (w*submissions + i) * 10
					n := 1 + id%3
					if err := p.Submit(commands(id, id+n-1), n, o.done(id)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		closePacker(t, p)
		o.wg.Wait()
		where := map[int]proto.Offset{}
		for i, e := range entries(t, l.Lane(1)) {
			if e.Seq != uint64(i+1) || len(e.Bodies) > 7 {
				t.Errorf("entry %d has chain number %d and %d commands", i+1, e.Seq, len(e.Bodies))
			}
			for _, body := range e.Bodies {
				if where[body] != 0 {
					t.Errorf("command %d is stored twice", body)
				}
				where[body] = e.At
			}
		}
		for id, at := range o.at {
			for i := range 1 + id%3 {
				if o.err[id] != nil || where[id+i] != at {
					t.Errorf("command %d lies at %d, acknowledged at %d, %v", id+i, where[id+i], at, o.err[id])
				}
			}
		}
		if len(o.at) != workers*submissions {
			t.Errorf("%d answers", len(o.at))
		}
		if s := p.Stats(); s.BufferedBytes != 0 || s.InFlight != 0 || s.Commands != uint64(len(where)) {
			t.Errorf("stats %+v of %d commands", s, len(where))
		}
	})
}

func TestPackerSplitsOnlyWhatIsTooLarge(t *testing.T) {
	l := closed(t, log.NewMemory(2, nil))
	c := packerConfig()
	c.EventsMax = 100
	p := log.NewPacker(l.Lane(1), c)
	o := newOutcomes(t)
	if err := p.Submit(commands(1, 250), 250, o.done(1)); err != nil {
		t.Fatal(err)
	}
	o.wg.Wait()
	if o.at[1] != 3 || o.err[1] != nil {
		t.Errorf("acknowledged at %d, %v", o.at[1], o.err[1])
	}
	closePacker(t, p)
	var sizes []int
	var all []int
	for _, e := range entries(t, l.Lane(1)) {
		sizes = append(sizes, len(e.Bodies))
		all = append(all, e.Bodies...)
	}
	if diff := cmp.Diff([]int{100, 100, 50}, sizes); diff != "" {
		t.Error(diff)
	}
	if len(all) != 250 || !slices.IsSorted(all) {
		t.Errorf("%d commands, sorted: %v", len(all), slices.IsSorted(all))
	}
}

// third refuses the third entry.
type third struct {
	log.Appender
	n int // the sender's
}

func (x *third) AppendAsync(e *proto.Entry, done func(proto.Offset, error)) error {
	if x.n++; x.n == 3 {
		return proto.Errorf(proto.CodeDiskFull, "full")
	}
	return x.Appender.AppendAsync(e, done)
}

// Of what took several entries only what is not durable failed.
func TestPackerTellsWhatOfASubmissionFailed(t *testing.T) {
	l := closed(t, log.NewMemory(2, nil))
	c := packerConfig()
	c.EventsMax = 7
	p := log.NewPacker(&third{Appender: l.Lane(1)}, c)
	o := newOutcomes(t)
	if err := p.Submit(commands(1, 30), 30, o.done(1)); err != nil {
		t.Fatal(err)
	}
	if err := p.Submit(commands(31, 31), 1, o.done(2)); err != nil {
		t.Fatal(err)
	}
	o.wg.Wait()
	closePacker(t, p)
	some, ok := errors.AsType[*log.PartialError](o.err[1])
	if !ok || proto.CodeOf(o.err[1]) != proto.CodeDiskFull || o.at[1] != 0 {
		t.Fatalf("a submission of which a part failed: %v at %d", o.err[1], o.at[1])
	}
	if want := []int{14, 15, 16, 17, 18, 19, 20}; !slices.Equal(some.Failed, want) {
		t.Errorf("failed are %v, want %v", some.Failed, want)
	}
	for _, x := range entries(t, l.Lane(1)) {
		if slices.Contains(x.Bodies, 30) != (x.At == some.At) || slices.Contains(x.Bodies, 15) {
			t.Errorf("it is durable up to %d, the log has %v there: %d", some.At, x.Bodies, x.At)
		}
	}
	if o.err[2] != nil {
		t.Errorf("another submission failed too: %v", o.err[2])
	}
}

func TestPackerRefusesBadSubmissions(t *testing.T) {
	p := log.NewPacker(log.NewMemory(2, nil).Lane(1), packerConfig())
	never := func(proto.Offset, error) { t.Error("done was called") }
	two := commands(1, 2)
	big := proto.AppendCommand(nil, proto.CommandEvent, 3, make([]byte, proto.EntryBytesMax))
	for name, x := range map[string]struct {
		b     []byte
		count int
		code  proto.Code
	}{
		"nothing":   {nil, 0, proto.CodeInternal},
		"miscount":  {two, 3, proto.CodeInternal},
		"cut":       {two[:len(two)-1], 2, proto.CodeInternal},
		"too large": {big, 1, proto.CodeTooLarge},
	} {
		if err := p.Submit(x.b, x.count, never); proto.CodeOf(err) != x.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	closePacker(t, p)
	if err := p.Submit(two, 2, never); proto.CodeOf(err) != proto.CodeUnavailable {
		t.Errorf("after close: %v", err)
	}
}

// gate is a lane whose acknowledgements wait until they are let through.
type gate struct {
	log.Stream
	mu      sync.Mutex
	held    []func()
	started []time.Time
}

func (g *gate) AppendAsync(e *proto.Entry, done func(proto.Offset, error)) error {
	at, err := g.Append(context.Background(), e)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = append(g.held, func() { done(at, err) })
	g.started = append(g.started, time.Now())
	return nil
}

// release lets the oldest acknowledgement through.
func (g *gate) release() {
	g.mu.Lock()
	f := g.held[0]
	g.held = g.held[1:]
	g.mu.Unlock()
	f()
}

func (g *gate) appends() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.started)
}

func TestPackerTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := log.NewMemory(2, nil)
		g := &gate{Stream: m.Lane(1)}
		c := packerConfig()
		c.EventsMax = 4
		p := log.NewPacker(g, c)
		start := time.Now()
		o := newOutcomes(t)
		submit := func(id int) {
			if err := p.Submit(commands(id, id), 1, o.done(id)); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		expect := func(what string, n int, at time.Duration) {
			t.Helper()
			if got := g.appends(); got != n || time.Since(start) != at {
				t.Fatalf("%s: %d appends after %v, want %d after %v", what, got, time.Since(start), n, at)
			}
		}
		submit(1)
		expect("nothing in flight: at once", 1, 0)
		submit(2)
		submit(3)
		expect("one in flight: linger", 1, 0)
		time.Sleep(2 * time.Millisecond) // virtual
		synctest.Wait()
		expect("lingered", 2, 2*time.Millisecond)
		for id := 4; id < 14; id++ {
			submit(id)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		expect("two in flight: wait", 2, 1002*time.Millisecond)
		g.release()
		synctest.Wait()
		expect("an acknowledgement returned: a full entry at once", 3, 1002*time.Millisecond)
		g.release()
		synctest.Wait()
		g.release()
		synctest.Wait()
		expect("and what is there", 5, 1002*time.Millisecond)
		submit(14)
		submit(15)
		submit(16)
		expect("two in flight again", 5, 1002*time.Millisecond)
		g.release()
		synctest.Wait()
		expect("an acknowledgement returned: at once, though not full", 6, 1002*time.Millisecond)
		g.release()
		synctest.Wait()
		for id := 17; id < 21; id++ {
			submit(id)
		}
		expect("one in flight, full: at once", 7, 1002*time.Millisecond)
		g.release()
		g.release()
		closePacker(t, p)
		var sizes []int
		for _, e := range entries(t, m.Lane(1)) {
			sizes = append(sizes, len(e.Bodies))
		}
		if diff := cmp.Diff([]int{1, 2, 4, 4, 2, 3, 4}, sizes); diff != "" {
			t.Error(diff)
		}
	})
}

func TestPackerBoundsItsBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{Stream: log.NewMemory(2, nil).Lane(1)}
		c := packerConfig()
		one := commands(1, 1)
		c.BufferedBytesMax = 10 * len(one)
		p := log.NewPacker(g, c)
		o := newOutcomes(t)
		for i := range 10 {
			if err := p.Submit(one, 1, o.done(i)); err != nil {
				t.Fatal(err)
			}
		}
		err := p.Submit(one, 1, func(proto.Offset, error) { t.Error("done was called") })
		if proto.CodeOf(err) != proto.CodeOverloaded || p.Stats().Refused != 1 {
			t.Errorf("the eleventh: %v, %+v", err, p.Stats())
		}
		synctest.Wait()
		g.release()
		synctest.Wait()
		if err := p.Submit(one, 1, o.done(10)); err != nil {
			t.Errorf("after an acknowledgement: %v", err)
		}
		if err := p.Submit(commands(1, 100), 100, nil); proto.CodeOf(err) != proto.CodeTooLarge {
			t.Errorf("more than the buffer: %v", err)
		}
		go closePacker(t, p)
		for len(o.answered()) < 11 {
			synctest.Wait()
			g.release()
		}
		synctest.Wait()
	})
}

func (o *outcomes) answered() []int {
	o.mu.Lock()
	defer o.mu.Unlock()
	var ids []int
	for id := range o.err {
		ids = append(ids, id)
	}
	return ids
}

func TestPackerCloseGivesUpAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{Stream: log.NewMemory(2, nil).Lane(1)}
		p := log.NewPacker(g, packerConfig())
		o := newOutcomes(t)
		for i := range 5 {
			if err := p.Submit(commands(i, i), 1, o.done(i)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Close(ctx); proto.CodeOf(err) != proto.CodeTimeout {
			t.Errorf("close: %v", err)
		}
		o.wg.Wait()
		for id, err := range o.err {
			if proto.CodeOf(err) != proto.CodeUnavailable {
				t.Errorf("submission %d: %v", id, err)
			}
		}
		g.release() // a late acknowledgement harms nobody
		synctest.Wait()
	})
}

// flaky is a lane that loses acknowledgements, loses entries, and refuses.
type flaky struct {
	log.Stream
	mu     sync.Mutex
	faults []string // of the next appends
}

func (f *flaky) AppendAsync(e *proto.Entry, done func(proto.Offset, error)) error {
	f.mu.Lock()
	fault := "none"
	if len(f.faults) > 0 {
		fault, f.faults = f.faults[0], f.faults[1:]
	}
	f.mu.Unlock()
	switch fault {
	case "acknowledgement lost": // the entry may be stored any time later
		go done(0, log.AmbiguousError("lost"))
		return f.Stream.AppendAsync(e, func(proto.Offset, error) {})
	case "entry lost":
		go done(0, log.AmbiguousError("lost"))
		return nil
	case "refused":
		go done(0, proto.Errorf(proto.CodeDiskFull, "full"))
		return nil
	case "not sent":
		return proto.Errorf(proto.CodeUnavailable, "no connection")
	}
	return f.Stream.AppendAsync(e, done)
}

// Whatever gets lost: what was acknowledged is stored once, what failed at
// most once, and chain numbers only rise.
func TestPackerSurvivesFaults(t *testing.T) {
	js := closed(t, open(t, config(t.TempDir())))
	producer := uint64(100)
	for name, lane := range map[string]func() log.Stream{
		"memory":    func() log.Stream { return log.NewMemory(2, nil).Lane(1) },
		"jetstream": func() log.Stream { return js.Lane(1) },
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				s := lane()
				before, _ := s.Info(context.Background())
				if err := s.Purge(context.Background(), before.Last); err != nil {
					rt.Fatal(err)
				}
				f := &flaky{Stream: s, faults: rapid.SliceOfN(rapid.SampledFrom([]string{
					"none", "acknowledgement lost", "entry lost", "refused", "not sent",
				}), 0, 12).Draw(rt, "faults")}
				producer++
				p := log.NewPacker(f, log.PackerConfig{Lane: 1, Producer: producer, EventsMax: 2})
				o := newOutcomes(t)
				n := rapid.IntRange(1, 20).Draw(rt, "submissions")
				for id := range n {
					if err := p.Submit(commands(id, id), 1, o.done(id)); err != nil {
						rt.Fatal(err)
					}
				}
				if err := p.Close(context.Background()); err != nil {
					rt.Fatal(err)
				}
				o.wg.Wait()
				checkFaults(rt, entries(t, s), o, n)
			})
		})
	}
}

func checkFaults(t *rapid.T, got []logged, o *outcomes, n int) {
	where, seq := map[int]proto.Offset{}, uint64(0)
	for _, e := range got {
		if e.Seq <= seq {
			t.Fatalf("chain number %d follows %d", e.Seq, seq)
		}
		seq = e.Seq
		for _, body := range e.Bodies {
			if where[body] != 0 {
				t.Fatalf("command %d is stored twice", body)
			}
			where[body] = e.At
		}
	}
	for id := range n {
		err, ok := o.err[id]
		switch {
		case !ok:
			t.Fatalf("submission %d was never answered", id)
		case err == nil && (where[id] == 0 || where[id] != o.at[id]):
			t.Fatalf("submission %d was acknowledged at %d, lies at %d", id, o.at[id], where[id])
		case err != nil && proto.CodeOf(err) != proto.CodeDiskFull:
			t.Fatalf("submission %d failed though the log was there: %v", id, err)
		case err != nil && !log.Ambiguous(err) && where[id] != 0:
			t.Fatalf("submission %d was refused (%v), lies at %d", id, err, where[id])
		}
	}
}

// bothLost loses two entries that are in flight together.
type bothLost struct {
	log.Stream
	held []func(proto.Offset, error) // only the packer's sender touches it
}

func (b *bothLost) AppendAsync(_ *proto.Entry, done func(proto.Offset, error)) error {
	if b.held = append(b.held, done); len(b.held) == 2 {
		for _, done := range b.held {
			done(0, log.AmbiguousError("lost"))
		}
	}
	return nil
}

func TestPackerSettlesInOrder(t *testing.T) {
	m := log.NewMemory(2, nil)
	c := packerConfig()
	c.EventsMax = 1
	p := log.NewPacker(&bothLost{Stream: m.Lane(1)}, c)
	o := newOutcomes(t)
	for id := range 2 {
		if err := p.Submit(commands(id, id), 1, o.done(id)); err != nil {
			t.Fatal(err)
		}
	}
	o.wg.Wait()
	closePacker(t, p)
	want := []logged{{At: 1, Seq: 1, Bodies: []int{0}}, {At: 2, Seq: 2, Bodies: []int{1}}}
	if diff := cmp.Diff(want, entries(t, m.Lane(1))); diff != "" || o.err[0] != nil || o.err[1] != nil {
		t.Errorf("%s%v", diff, o.err)
	}
}

// firstLost loses the first of two entries that are in flight together.
type firstLost struct {
	log.Stream
	held []func(proto.Offset, error) // only the packer's sender touches it
}

func (f *firstLost) AppendAsync(e *proto.Entry, done func(proto.Offset, error)) error {
	f.held = append(f.held, done)
	switch len(f.held) {
	case 1:
		return nil
	case 2:
		defer f.held[0](0, log.AmbiguousError("lost"))
	}
	return f.Stream.AppendAsync(e, done)
}

// An entry that a later one of the same packer overtook, as at a change of the
// stream's leader, can be stored no more: its events are, in another.
func TestPackerSendsAgainWhatWasOvertaken(t *testing.T) {
	m := log.NewMemory(2, nil)
	c := packerConfig()
	c.EventsMax, c.Grow = 1, 1
	p := log.NewPacker(&firstLost{Stream: m.Lane(1)}, c)
	o := newOutcomes(t)
	for id := range 4 {
		if err := p.Submit(commands(id, id), 1, o.done(id)); err != nil {
			t.Fatal(err)
		}
	}
	o.wg.Wait()
	closePacker(t, p)
	want := []logged{{At: 1, Seq: 2, Bodies: []int{1}}, {At: 2, Seq: 3, Bodies: []int{0}}, {At: 3, Seq: 4, Bodies: []int{2}}, {At: 4, Seq: 5, Bodies: []int{3}}}
	if diff := cmp.Diff(want, entries(t, m.Lane(1))); diff != "" {
		t.Error(diff)
	}
	for id, err := range o.err {
		if err != nil {
			t.Errorf("submission %d: %v", id, err)
		}
	}
}

func TestPackerGivesUpOnALogThatStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := log.NewPacker(away{log.NewMemory(2, nil).Lane(1)}, packerConfig())
		start := time.Now()
		answer := make(chan error, 1)
		if err := p.Submit(commands(1, 1), 1, func(_ proto.Offset, err error) { answer <- err }); err != nil {
			t.Fatal(err)
		}
		if err := <-answer; proto.CodeOf(err) != proto.CodeUnavailable {
			t.Errorf("answer: %v", err)
		}
		if took := time.Since(start); took < 10*time.Second || took > 12*time.Second {
			t.Errorf("gave up after %v", took)
		}
		closePacker(t, p)
	})
}

// away is a lane that never answers.
type away struct{ log.Stream }

func (a away) AppendAsync(_ *proto.Entry, done func(proto.Offset, error)) error {
	go done(0, log.AmbiguousError("away"))
	return nil
}

func (a away) Settle(context.Context, *proto.Entry, proto.Offset) (proto.Offset, error) {
	return 0, log.AmbiguousError("away")
}

func benchmarkPacker(b *testing.B, run func(b *testing.B, p *log.Packer)) {
	c := config(b.TempDir())
	c.MaxBytes = 20 << 30
	l := closed(b, open(b, c))
	p := log.NewPacker(l.Lane(1), packerConfig())
	b.ReportAllocs()
	b.ResetTimer()
	run(b, p)
	if err := p.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
	s := p.Stats()
	b.StopTimer()
	b.ReportMetric(float64(s.Commands)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(s.Commands)/float64(s.Entries), "events/entry")
}

// Submissions of 1 to 512 events of 200 bytes, as fast as they are taken.
func BenchmarkPacker(b *testing.B) {
	body := make([]byte, 200)
	for _, n := range []int{1, 20, 200, 512} {
		var batch []byte
		for range n {
			batch = proto.AppendCommand(batch, proto.CommandEvent, 3, body)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			benchmarkPacker(b, func(b *testing.B, p *log.Packer) {
				slots := make(chan struct{}, max(4096/n, 8))
				for range b.N {
					slots <- struct{}{}
					if err := p.Submit(batch, n, func(_ proto.Offset, err error) {
						<-slots
						if err != nil {
							b.Error(err)
						}
					}); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// 64 callers, each with one event at a time that waits for its answer.
func BenchmarkPackerCallers(b *testing.B) {
	batch := proto.AppendCommand(nil, proto.CommandEvent, 3, make([]byte, 200))
	benchmarkPacker(b, func(b *testing.B, p *log.Packer) {
		var wg sync.WaitGroup
		for w := range 64 {
			wg.Go(func() {
				answer := make(chan error, 1)
				for range b.N/64 + min(1, max(0, b.N%64-w)) {
					if err := p.Submit(batch, 1, func(_ proto.Offset, err error) { answer <- err }); err != nil {
						b.Error(err)
					}
					if err := <-answer; err != nil {
						b.Error(err)
					}
				}
			})
		}
		wg.Wait()
	})
}

// Callers that were answered together come back together: the packer waits a
// moment for them instead of syncing an entry for the first alone.
func TestPackerGathersTheCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{Stream: log.NewMemory(2, nil).Lane(1)}
		p := log.NewPacker(g, packerConfig())
		o := newOutcomes(t)
		submit := func(ids ...int) {
			for _, id := range ids {
				if err := p.Submit(commands(id, id), 1, o.done(id)); err != nil {
					t.Error(err)
				}
			}
			synctest.Wait()
		}
		expect := func(what string, want int) {
			t.Helper()
			if got := g.appends(); got != want {
				t.Fatalf("%s: %d appends, want %d", what, got, want)
			}
		}
		submit(1)
		submit(2, 3, 4)
		g.release()
		synctest.Wait()
		time.Sleep(time.Millisecond) // virtual
		synctest.Wait()
		expect("three wait, one was answered and stays away", 2)
		g.release()
		synctest.Wait()
		submit(5)
		submit(6)
		expect("two of three are back", 2)
		submit(7, 8)
		expect("all that there were are back", 3)
		g.release()
		synctest.Wait()
		submit(9)
		expect("the first is back", 3)
		time.Sleep(250 * time.Microsecond)
		synctest.Wait()
		expect("the others stay away", 4)
		g.release()
		closePacker(t, p)
	})
}

// While the log is busy, what cannot be sent yet becomes one larger entry
// instead of several that would each cost a sync.
func TestPackerGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := log.NewMemory(2, nil)
		g := &gate{Stream: m.Lane(1)}
		c := packerConfig()
		c.EventsMax, c.Grow = 4, 3
		p := log.NewPacker(g, c)
		o := newOutcomes(t)
		for id := 1; id <= 25; id++ {
			if err := p.Submit(commands(id, id), 1, o.done(id)); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		for range 4 {
			g.release()
			synctest.Wait()
		}
		closePacker(t, p)
		var sizes []int
		for _, e := range entries(t, m.Lane(1)) {
			sizes = append(sizes, len(e.Bodies))
		}
		if diff := cmp.Diff([]int{1, 4, 12, 8}, sizes); diff != "" {
			t.Error(diff)
		}
	})
}
