package engine

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/internal/exports"
	"kith/proto"
)

// This file makes rows of users out of an audience's identities, as a count by
// users counts them: a row has the number of the user's root if that is in the
// audience, else the least of its numbers that are.

// linkedMember is an identity of an audience that is of a user of several.
type linkedMember struct {
	root   uint64 // the beginning of its hash
	number exports.Number64
	leads  bool
}

// usersReadyMax is how long an export waits after a start.
const usersReadyMax = 5 * time.Second

// usersReady waits until the lanes that answer know whose users their nodes are of.
func (n *Node) usersReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, usersReadyMax)
	defer cancel()
	lanes, _, _ := n.answering(nil)
	for _, l := range lanes {
		if err := l.users.ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// linkedOf lists those of set that are of users of several, and leaves the
// others in alone. set is not changed.
func (x *userIndex) linkedOf(lane proto.LaneID, set *roaring.Bitmap) (alone *roaring.Bitmap, list []linkedMember) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	both := roaring.And(set, x.linked)
	list = make([]linkedMember, 0, both.GetCardinality())
	for it := both.Iterator(); it.HasNext(); {
		o := it.Next()
		list = append(list, linkedMember{x.roots[proto.Ordinal(o)], exports.NumberOf(lane, o), x.leads.Contains(o)})
	}
	return roaring.AndNot(set, both), list
}

// byUsers makes a, of which linked are of users of several and whose lanes have
// the others, an audience by users.
func byUsers(a *exports.Audience, linked []linkedMember, members bool) {
	m := &a.Manifest
	m.Unit, m.Members, m.Identities, m.Count = proto.UnitUsers, members, m.Count, 0
	slices.SortFunc(linked, func(a, b linkedMember) int {
		return cmp.Or(cmp.Compare(a.root, b.root), cmp.Compare(leadsFirst(a), leadsFirst(b)), cmp.Compare(a.number, b.number))
	})
	rows := map[proto.LaneID]*roaring.Bitmap{}
	for i := range m.Lanes {
		rows[m.Lanes[i].Lane] = a.Lanes[i].Set
	}
	if members {
		a.Belongs = make([]exports.Belongs, 0, len(linked))
	}
	var row exports.Number64
	for i, x := range linked {
		if i == 0 || x.root != linked[i-1].root {
			row = x.number
			rows[row.Lane()].Add(row.Ordinal())
		}
		if members {
			a.Belongs = append(a.Belongs, exports.Belongs{Row: row, Member: x.number})
		}
	}
	slices.SortFunc(a.Belongs, exports.CompareBelongs)
	for i := range m.Lanes {
		m.Lanes[i].Count = a.Lanes[i].Set.GetCardinality()
		m.Count += m.Lanes[i].Count
	}
}

func leadsFirst(x linkedMember) int {
	if x.leads {
		return 0
	}
	return 1
}
