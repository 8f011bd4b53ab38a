package engine

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
)

// What brings the next exit nearer, again and again, puts off no beat.
func TestBeatIsNotPutOff(t *testing.T) {
	var c Config
	c.Now = time.Now
	l := &lane{node: &Node{config: c}, nearer: make(chan struct{}, 1)}
	l.progress.changed = make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		for next := proto.MillisOf(time.Now().Add(time.Hour)); pause(ctx, 5*time.Millisecond); next-- {
			l.nextExit.Store(int64(next))
			l.beatSooner()
		}
	}()
	const wait = 200 * time.Millisecond
	began := time.Now()
	if !l.sleep(ctx, wait) {
		t.Fatal("it was broken off")
	}
	if took := time.Since(began); took > beatEvery/2 {
		t.Errorf("the beat came after %v, due after %v", took, wait)
	}
}

// A lane that stopped is not written to by its node's upkeep: nothing of that is
// applied, so that it would come again and again.
func TestStoppedLaneIsNotWrittenTo(t *testing.T) {
	lg := log.NewMemory(2, nil)
	s, err := Simulate(Config{Dir: t.TempDir(), Lanes: 2}, lg, store.NewMemory(), [16]byte{1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	from, l := s.lanes[0], s.lanes[1]
	from.outbox.add([]outgoing{{to: l.id, number: 1, data: []byte("a batch")}})
	l.nextExit.Store(1) // it is due
	l.progress.set(func(p *progress) { p.erasures[7] = clientErasure{client: 7} })
	l.quarantine("testing", errors.New("a test stops it"))
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	for what, upkeep := range map[string]func(context.Context){
		"beats":              l.keepTime,
		"graph messages":     func(ctx context.Context) { from.relayGraph(ctx, l) },
		"a client's erasure": l.eraseClients,
	} {
		if upkeep(ctx); ctx.Err() != nil {
			t.Errorf("%s: it goes on", what)
			ctx, stop = context.WithTimeout(t.Context(), 5*time.Second)
			defer stop()
		}
	}
	if info, err := l.stream.Info(t.Context()); err != nil || info.Last > 0 {
		t.Errorf("it has %d entries (%v)", info.Last, err)
	}
}

// losingStream acknowledges what it loses.
type losingStream struct {
	log.Stream
	lost int
}

func (s *losingStream) Append(context.Context, *proto.Entry) (proto.Offset, error) {
	s.lost++
	return 1, nil
}

// What is relayed to a lane and never comes there is sent again while the lane goes on
// with everything else; not again and again while it has much to do before.
func TestLostIsSentAgain(t *testing.T) {
	for what, relay := range map[string]func(ctx context.Context, from, to *lane){
		"graph messages":  func(ctx context.Context, from, to *lane) { from.relayGraph(ctx, to) },
		"control records": func(ctx context.Context, _, to *lane) { to.relay(ctx) },
	} {
		synctest.Test(t, func(t *testing.T) {
			s, err := Simulate(Config{Dir: t.TempDir(), Lanes: 2}, log.NewMemory(2, nil), store.NewMemory(), [16]byte{1}, nil)
			if err != nil {
				t.Fatal(err)
			}
			from, to := s.lanes[0], s.lanes[1]
			stream := &losingStream{}
			to.stream = stream
			from.outbox.add([]outgoing{{to: to.id, number: 1, data: []byte("a batch")}})
			s.registry.mu.Lock()
			s.registry.seq, s.registry.records = 1, [][]byte{[]byte("a record")}
			s.registry.mu.Unlock()
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { defer close(ended); relay(ctx, from, to) }()
			sent := func(after time.Duration, want int) {
				t.Helper()
				for range int(after / time.Second) {
					time.Sleep(time.Second)
					to.progress.set(func(p *progress) { p.applied++ }) // something else
					synctest.Wait()
				}
				if got := stream.lost; got != want {
					t.Errorf("%s: sent %d times, want %d", what, got, want)
				}
			}
			synctest.Wait()
			sent(0, 1)
			sent(relayResend, 2)
			sent(relayResend, 2) // twice as long
			sent(relayResend, 3)
			to.progress.set(func(p *progress) { p.control, p.received[from.id] = 1, 1 })
			sent(10*relayResend, 3)
			stop()
			<-ended
		})
	}
}

// stuckStream takes nothing, as where too few of a cluster's servers are left.
type stuckStream struct {
	log.Stream
	asked chan struct{}
}

func (s *stuckStream) Append(ctx context.Context, _ *proto.Entry) (proto.Offset, error) {
	s.asked <- struct{}{}
	<-ctx.Done()
	return 0, ctx.Err()
}

// While the log takes nothing, whoever waits for another's entry to be taken waits for no
// longer than was asked for: a node could not be stopped.
func TestNoTurnForEver(t *testing.T) {
	s, err := Simulate(Config{Dir: t.TempDir()}, log.NewMemory(1, nil), store.NewMemory(), [16]byte{1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, stuck := s.lanes[0], &stuckStream{asked: make(chan struct{}, 9)}
	l.stream = stuck
	first, stop := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- l.appendOwn(first, proto.CommandGraph, [][]byte{{1}}) }()
	<-stuck.asked
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	go func() { ended <- l.sendBeat(short, true) }()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a beat is said to be stored")
		}
	case <-time.After(5 * time.Second):
		t.Error("a beat waits on")
	}
	stop()
	<-ended
}
