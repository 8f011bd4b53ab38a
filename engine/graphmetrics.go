package engine

import "sync/atomic"

// graphMetrics are a lane's counters of the graph since the start.
type graphMetrics struct {
	messages, links, cuts, optIns, purged, ignored, joined, left atomic.Uint64
	reasons                                                      [reasonsMax]atomic.Uint64
}

func (m *graphMetrics) add(c *graphCounts) {
	m.messages.Add(c.messages)
	m.links.Add(c.links)
	m.cuts.Add(c.cuts)
	m.optIns.Add(c.optIns)
	m.purged.Add(c.purged)
	m.ignored.Add(c.ignored)
	m.joined.Add(c.joined)
	m.left.Add(c.left)
	for i, n := range c.reasons {
		if n > 0 {
			m.reasons[i].Add(n)
		}
	}
}
