package segments

import "kith/proto"

// need is what must be kept of a predicate's matches for its rules.
type need struct {
	total       uint32       // count up to this much of the whole history
	times       int          // this many newest times
	timesWindow proto.Millis // no older than this
	beside      int          // a value beside each time takes so many times six bytes
	days        int          // this many newest days, each by its newest time
	daysWindow  proto.Millis // no older than this; forever: the whole history
	last        bool         // the newest time
	first       bool         // the oldest time
}

const forever = proto.Millis(1) << 62

// needOf is what one aggregate needs: one more than its threshold, since more
// than that makes no difference.
func needOf(n *node) need {
	switch {
	case n.op == nodeCount && n.window == 0:
		return need{total: uint32(n.n) + 1}
	case n.op == nodeCount:
		return need{times: n.n + 1, timesWindow: n.window}
	case n.op == nodeDays && n.window == 0:
		return need{days: n.n + 1, daysWindow: forever}
	case n.op == nodeDays:
		return need{days: n.n + 1, daysWindow: n.window}
	}
	return needOfSeries(n)
}

func needOfSeries(n *node) need {
	window := n.window
	if window == 0 {
		window = forever
	}
	switch n.op {
	case nodeSum, nodeMin, nodeMax:
		return need{times: AmountsMax, timesWindow: window, beside: 2} // a double of ten bytes at most
	case nodeDistinct:
		return need{times: n.n + 1, timesWindow: window, beside: 2} // eight bytes of a hash
	case nodeSequence:
		return need{times: PairsMax + 1, timesWindow: window, beside: 1}
	case nodeFirstAt, nodeFirstAgo:
		return need{first: true}
	}
	return need{last: true}
}

// join is what serves both.
func (a need) join(b need) need {
	return need{
		total: max(a.total, b.total),
		times: max(a.times, b.times), timesWindow: max(a.timesWindow, b.timesWindow),
		beside: max(a.beside, b.beside),
		days:   max(a.days, b.days), daysWindow: max(a.daysWindow, b.daysWindow),
		last: a.last || b.last, first: a.first || b.first,
	}
}

// kept is how many times and days are kept of one identity at most, with two
// more for the condition itself: about six bytes each, and as much again for
// each six bytes of a value beside a time.
func (a need) kept() int { return a.times*(1+a.beside) + a.days + 2 }

// series is kept of a need that has a value beside each time, and else nothing.
func (a need) series() int {
	if a.beside == 0 {
		return 0
	}
	return a.kept()
}

// needs calls yield with the need of each aggregate of a rule.
func (n *node) needs(yield func(predID, need)) {
	if n.owner != nil {
		yield(n.owner.id, needOf(n))
	}
	for _, k := range n.kids {
		k.needs(yield)
	}
}
