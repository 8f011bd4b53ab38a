package engine

import (
	"context"
	"testing"
	"time"

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
