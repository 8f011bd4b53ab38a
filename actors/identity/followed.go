package identity

import (
	"encoding/binary"
	"math"

	"kith/graph"
	"kith/proto"
	"kith/segments"
)

// This file is how the memberships that a node has of its user are stored: beside the
// user's value, of which they are nearly always a copy that knows since when. The time
// at which one changes is left out where the value has the same: a node of which a
// client made as much as the limits allow fits into one value of the store by that.

// The flags of a membership's head, below its key's distance from the one before.
const (
	followedIn    = 1 << iota
	followedNext  // its next is written
	followedShown // its next is that of the user's value
	followedBits  = iota
)

// nextShown is the next of a membership that was read before the value was.
const nextShown = proto.Millis(math.MinInt64)

// appendFollowed packs a client's memberships by key.
func appendFollowed(b []byte, shown *shownCursor, v *ClientView) []byte {
	b = binary.AppendUvarint(b, uint64(len(v.Members)))
	var key proto.SegmentKey
	for i := range v.Members {
		m := &v.Members[i]
		head := uint64(m.Key-key) << followedBits
		key = m.Key
		if m.In {
			head |= followedIn
		}
		switch {
		case m.Next == 0:
		case m.Next == shown.next(v.Client, m.Key):
			head |= followedShown
		default:
			head |= followedNext
		}
		b = binary.AppendUvarint(b, head)
		if m.In {
			b = proto.AppendVarint(b, int64(m.Since))
		}
		if head&followedNext != 0 {
			b = proto.AppendVarint(b, int64(m.Next))
		}
	}
	return b
}

// readFollowed reads what appendFollowed wrote, but for what the value has.
func readFollowed(r *proto.Reader) (list []segments.Membership) {
	var key uint64
	for range r.Count(1) {
		head := r.Uvarint()
		key += head >> followedBits
		m := segments.Membership{Key: proto.SegmentKey(key), In: head&followedIn != 0}
		if m.In {
			m.Since = proto.Millis(r.Varint())
		}
		switch head & (followedNext | followedShown) {
		case followedNext:
			if m.Next = proto.Millis(r.Varint()); m.Next == 0 || m.Next == nextShown {
				r.Fail()
			}
		case followedShown:
			m.Next = nextShown
		case followedNext | followedShown:
			r.Fail()
		}
		if head>>followedBits == 0 || uint64(m.Key) != key {
			r.Fail()
		}
		if r.Bad() {
			return nil
		}
		list = append(list, m)
	}
	return list
}

// asShown gives the memberships the times that they have of the user's value, false if
// it has none for one.
func (s *State) asShown() bool {
	shown := shownMembers(s.Graph)
	for i := range s.User {
		u := &s.User[i]
		for k := range u.Members {
			m := &u.Members[k]
			if m.Next != nextShown {
				continue
			}
			if m.Next = shown.next(u.Client, m.Key); m.Next == 0 {
				return false
			}
		}
	}
	return true
}

// shownCursor goes once through the memberships of a user's value, by client and key.
type shownCursor struct {
	r             proto.Reader
	clients, left int // behind this one
	client        uint64
	key           uint64
	at            proto.Millis
}

// shownMembers begins with the value that a node shows, nil of none. One that cannot be
// read ends where it cannot.
func shownMembers(x *graph.State) (c shownCursor) {
	if x == nil || x.Shown.Value == "" {
		return c
	}
	c.r = proto.NewTextReader(string(x.Shown.Value))
	if c.r.Byte() == valueVersion {
		c.clients = c.r.Count(2)
	}
	return c
}

// next is when the value says that a membership changes, 0 if it does not say.
func (c *shownCursor) next(client proto.ClientID, key proto.SegmentKey) proto.Millis {
	for c.client < uint64(client) || c.client == uint64(client) && c.key < uint64(key) {
		switch {
		case c.left > 0:
			c.left--
			head := c.r.Uvarint()
			c.key += head >> 2
			if c.at = 0; head&2 != 0 {
				c.at = proto.Millis(c.r.Varint())
			}
		case c.clients > 0:
			c.clients--
			c.client, c.key, c.at = c.r.Uvarint(), 0, 0
			c.left = c.r.Count(1)
		default:
			c.client = math.MaxUint64
		}
		if c.r.Bad() {
			c.clients, c.left, c.client = 0, 0, math.MaxUint64
		}
	}
	if c.client != uint64(client) || c.key != uint64(key) {
		return 0
	}
	return c.at
}
