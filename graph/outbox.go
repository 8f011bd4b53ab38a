package graph

import "kith/proto"

// This file is R8: how batches get from lane to lane exactly once.

// Batch is what one entry has for one other lane, or a part of it.
type Batch struct {
	Vector   []proto.Offset // the sender's, with the entry
	Messages []Message
}

// Channel is a lane's way to another: batches numbered from Base+1.
type Channel struct {
	Base    uint64 // batches up to here are gone: the receiver applied them
	Batches []Batch
}

// Last is the number of the newest batch.
func (c *Channel) Last() uint64 { return c.Base + uint64(len(c.Batches)) }

// Pack gives up to n batches from number lo on; fewer, or none, if there are
// not so many. It reports the number of the first, which is above lo if those
// before are gone.
func (c *Channel) Pack(lo uint64, n int) (uint64, []Batch) {
	lo = max(lo, c.Base+1)
	if lo > c.Last() {
		return lo, nil
	}
	rest := c.Batches[lo-c.Base-1:]
	return lo, rest[:min(n, len(rest))]
}

// Trim lets go of what the other lane has applied.
func (c *Channel) Trim(applied uint64) {
	if applied <= c.Base {
		return
	}
	n := min(applied-c.Base, uint64(len(c.Batches)))
	clear(c.Batches[:n])
	c.Batches = c.Batches[n:]
	c.Base += n
}

// Receive takes in a pack of batches from another lane, numbered from lo, and
// gives the messages that are new. A pack that begins beyond the next number
// is dropped whole: the sender's relay comes back to what is missing.
func (l *Lane) Receive(from proto.LaneID, lo uint64, pack []Batch) []Message {
	if lo > l.Applied[from]+1 {
		return nil
	}
	var in []Message
	for i := range pack {
		if n := lo + uint64(i); n <= l.Applied[from] {
			continue
		}
		l.Applied[from]++
		in = append(in, pack[i].Messages...)
		for k, v := range pack[i].Vector {
			l.Vector[k] = max(l.Vector[k], v)
		}
	}
	return in
}
