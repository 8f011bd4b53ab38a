package actors

import (
	"slices"
	"sync/atomic"
)

// Helpers are goroutines that take over some of the hosts' turns when there is
// enough to do. All lanes of a node share them. nil has none.
type Helpers struct {
	free chan struct{} // one for each that has nothing to do
}

// NewHelpers gives n of them; with fewer than 1 there are none.
func NewHelpers(n int) *Helpers {
	if n < 1 {
		return nil
	}
	h := &Helpers{free: make(chan struct{}, n)}
	for range n {
		h.free <- struct{}{}
	}
	return h
}

// helpFrom is how many pieces of work, each some microseconds, are worth the
// waking of one helper.
const helpFrom = 24

// share does do for each of list, some of it by helpers, if they are free and
// work, the pieces in all, is worth it; false: it did nothing. It returns when
// all of list is begun: what runs is for the caller to wait for. A helper that
// comes late finds nothing left, so that nobody waits for its waking.
func (h *Helpers) share(work int, list []int, do func(i int)) bool {
	if h == nil {
		return false
	}
	var s *share
	for n := min(work/helpFrom, len(list)-1); n > 0 && h.take(); n-- {
		if s == nil {
			s = &share{list: slices.Clone(list), do: do}
		}
		go func() {
			s.run()
			h.free <- struct{}{}
		}()
	}
	if s != nil {
		s.run()
	}
	return s != nil
}

func (h *Helpers) take() bool {
	select {
	case <-h.free:
		return true
	default:
		return false
	}
}

// share is a list of which several goroutines take one after the other.
type share struct {
	list []int
	next atomic.Int64
	do   func(i int)
}

func (s *share) run() {
	for {
		n := int(s.next.Add(1)) - 1
		if n >= len(s.list) {
			return
		}
		s.do(s.list[n])
	}
}
