package engine

import (
	"context"
	"errors"
	"testing"
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
