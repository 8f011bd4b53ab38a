package engine

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"kith/internal/cores"
)

// Bounds of background work beside work that somebody waits for.
const (
	pacePart    = 1.0 / 40         // of the processor, while somebody asks
	paceMost    = 1.0 / 2          // of the time of one that does it
	paceSlice   = time.Millisecond // of work without a rest
	paceRestMax = 100 * time.Millisecond
	paceAlone   = 500 * time.Millisecond // after the last question nobody asks any more
)

// pace has background work rest while somebody asks: whatever it does beside
// answers is taken from them, by the processor, the disk and the caches.
type pace struct {
	share float64     // of the time, while somebody asks
	asked atomic.Bool // since it was last looked

	mu   sync.Mutex
	last time.Time // when it was seen that somebody had asked
}

func newPace() *pace { return &pace{share: min(float64(cores.Count())*pacePart, paceMost)} }

// ask notes that somebody waits for an answer. It is called for each question,
// so it writes only what is not so already.
func (p *pace) ask() {
	if !p.asked.Load() {
		p.asked.Store(true)
	}
}

// alone reports whether nobody asked of late.
func (p *pace) alone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked.Swap(false) {
		p.last = time.Now()
	}
	return time.Since(p.last) > paceAlone
}

// of is the share of background work in so much time, while somebody asks.
func (p *pace) of(took time.Duration) time.Duration { return time.Duration(float64(took) * p.share) }

// rest leaves the time to others after so much work; false if ctx ended.
func (p *pace) rest(ctx context.Context, work time.Duration) bool { return p.restOf(ctx, work, work) }

// restOf is rest after work that took longer, since it waited for others.
func (p *pace) restOf(ctx context.Context, work, took time.Duration) bool {
	if p.alone() {
		runtime.Gosched()
		return ctx.Err() == nil
	}
	return pause(ctx, min(time.Duration(float64(work)/p.share)-took, paceRestMax))
}

// spell is one goroutine's background work.
type spell struct {
	pace  *pace
	began time.Time
}

func (p *pace) begin() spell { return spell{p, time.Now()} }

// breathe is to be called after each small piece of work; it gives why ctx ended.
func (s *spell) breathe(ctx context.Context) error {
	if work := time.Since(s.began); work >= paceSlice {
		s.pace.rest(ctx, work)
		s.began = time.Now()
	}
	return ctx.Err()
}
