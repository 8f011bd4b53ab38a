package engine

import (
	"cmp"
	"context"
	"math"
	"math/bits"
	"slices"

	"kith/actors/identity"
	"kith/engine/store"
	"kith/proto"
)

// This file reads households: edges that are inferred from facts of both ends when
// somebody asks, and kept nowhere. So there is nothing to take back when one end is
// cut: its facts are gone, and with them, in the same commit, every edge that leads to
// it. Rows of networks say where to look; what counts is in the nodes.

// Bounds of one question.
const (
	householdNetworksMax = 32  // of all members together
	householdEdgesMax    = 256 // told
	// networkRowsMax is how many rows of a network are read in a lane: beyond, more
	// devices were seen there than a household has.
	networkRowsMax = 8 * proto.HouseholdIdentitiesMax
)

// scanNetworks calls fn with every network's rows.
func scanNetworks(snap store.Snapshot, fn func(proto.ClientID, proto.NetworkKey, proto.Node) error) error {
	return scanNetworksIn(snap, []byte{'H'}, fn)
}

// scanNetworksIn calls fn with the rows below a prefix.
func scanNetworksIn(snap store.Snapshot, prefix []byte, fn func(proto.ClientID, proto.NetworkKey, proto.Node) error) error {
	return snap.Scan(prefix, prefix, func(k, _ []byte) (bool, error) {
		c, key, n, err := networkKeyOf(k)
		if err == nil {
			err = fn(c, key, n)
		}
		return true, err
	})
}

// housemate is a node and the days on which it was seen on a network.
type housemate struct {
	node proto.Node
	days uint32
}

// Household gives the edges from members, who are one user, to devices of others
// with which they share a network, by the client's rule.
func (n *Node) Household(ctx context.Context, client proto.ClientInfo, members []proto.Identity, rule proto.HouseholdRule) ([]proto.HouseholdEdge, error) {
	if err := rule.Validate(); err != nil {
		return nil, err
	}
	x := householding{node: n, client: client, rule: rule, today: n.day(), user: map[proto.Node]proto.Identity{}, shared: map[pair]uint32{}, either: map[pair]uint32{}}
	networks, err := x.members(members)
	if err != nil {
		return nil, err
	}
	for _, k := range networks {
		if err := ctx.Err(); err != nil {
			return nil, proto.Errorf(proto.CodeTimeout, "the household was not read in time: try again: %w", err)
		}
		if err := x.network(k); err != nil {
			return nil, err
		}
	}
	list, err := x.edges()
	if err != nil {
		return nil, err
	}
	return list, n.mayAnswerAll()
}

// day is today, by the node's clock or by that of a lane which is ahead: lanes give the
// days on which somebody was seen.
func (n *Node) day() proto.Day {
	today := n.now().Day()
	for _, l := range n.lanes {
		_, _, at, _ := l.progress.get()
		today = max(today, at.Day())
	}
	return today
}

// pair is a member and a device of somebody else.
type pair struct{ member, other proto.Node }

// householding is one question under way.
type householding struct {
	node   *Node
	client proto.ClientInfo
	rule   proto.HouseholdRule
	today  proto.Day
	user   map[proto.Node]proto.Identity
	shared map[pair]uint32 // days on which both were on a network where they often were
	either map[pair]uint32 // days on which one of them was
}

// members reads on which networks the user's devices were, the newest first.
func (x *householding) members(list []proto.Identity) (keys []proto.NetworkKey, err error) {
	last := map[proto.NetworkKey]proto.Day{}
	for _, id := range list {
		node := proto.Node{Hash: x.node.hasher.Hash(id), Space: x.client.Space}
		x.user[node] = id
		s, err := x.node.state(node)
		if err != nil {
			return nil, err
		}
		f := s.Client(x.client.ID)
		if f == nil || s.Dark() {
			continue
		}
		for i := range f.Networks {
			k := &f.Networks[i]
			if bits.OnesCount32(k.Days(x.today)) >= x.rule.DaysMin {
				last[k.Key] = max(last[k.Key], k.Last)
			}
		}
	}
	for k := range last {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b proto.NetworkKey) int { return cmp.Or(cmp.Compare(last[b], last[a]), cmp.Compare(a, b)) })
	return keys[:min(len(keys), householdNetworksMax)], nil
}

// network adds what the devices of one network have in common, unless they are too
// many for a household.
func (x *householding) network(key proto.NetworkKey) error {
	var all []housemate
	for _, l := range x.node.lanes {
		list, many, err := x.lane(l, key)
		if err != nil || many {
			return err
		}
		if all = append(all, list...); len(all) > x.rule.IdentitiesMax {
			return nil
		}
	}
	for _, a := range all {
		if _, own := x.user[a.node]; !own {
			continue
		}
		for _, b := range all {
			if _, own := x.user[b.node]; !own && bits.OnesCount32(a.days&b.days) >= x.rule.DaysMin {
				p := pair{a.node, b.node}
				x.shared[p] |= a.days & b.days
				x.either[p] |= a.days | b.days
			}
		}
	}
	return nil
}

// lane reads a lane's nodes that were seen on a network of late.
func (x *householding) lane(l *lane, key proto.NetworkKey) (list []housemate, many bool, err error) {
	snap := l.acquire()
	defer snap.release()
	rows := 0
	prefix := networkPrefix(x.client.ID, key)
	err = snap.Scan(prefix, prefix, func(k, _ []byte) (bool, error) {
		_, _, node, err := networkKeyOf(k)
		if err != nil || x.node.laneFor(node.Hash) != l {
			return err == nil, err
		}
		if rows++; rows > networkRowsMax {
			many = true
			return false, nil
		}
		s, _, err := readNode(snap, node)
		if err != nil || s.Dark() {
			return err == nil, err
		}
		if f := s.Client(x.client.ID); f != nil {
			if days := f.On(key, x.today); days != 0 {
				list = append(list, housemate{node, days})
			}
		}
		return len(list) <= x.rule.IdentitiesMax, nil // one more says enough
	})
	return list, many, err
}

// edges are the pairs that the rule makes edges, the surest first.
func (x *householding) edges() ([]proto.HouseholdEdge, error) {
	list := []proto.HouseholdEdge{}
	for p, days := range x.shared {
		common := bits.OnesCount32(days)
		name, err := x.nameOf(p)
		if err != nil {
			return nil, err
		}
		if name == "" {
			continue
		}
		list = append(list, proto.HouseholdEdge{
			A: x.user[p.member], B: name, Kind: proto.HouseholdKind, Method: "inferred",
			Confidence: householdConfidence(common, bits.OnesCount32(x.either[p]), x.rule.DaysMin),
			Days:       common, Last: x.today - proto.Day(bits.TrailingZeros32(days)),
		})
	}
	slices.SortFunc(list, func(a, b proto.HouseholdEdge) int {
		return cmp.Or(cmp.Compare(b.Confidence, a.Confidence), cmp.Compare(a.A, b.A), cmp.Compare(a.B, b.B))
	})
	return list[:min(len(list), householdEdgesMax)], nil
}

// nameOf is the other end's identity, "" if one of the ends was cut meanwhile.
func (x *householding) nameOf(p pair) (proto.Identity, error) {
	var name proto.Identity
	for _, node := range []proto.Node{p.member, p.other} {
		l := x.node.laneFor(node.Hash)
		snap := l.acquire()
		s, _, err := readNode(snap, node)
		if err == nil && s.Named && !s.Dark() && s.Client(x.client.ID) != nil {
			name, err = l.nameOf(snap, s.Ordinal)
		} else {
			name = ""
		}
		snap.release()
		if err != nil || name == "" {
			return "", err
		}
	}
	return name, nil
}

// householdConfidence is how sure an edge is: the share of the days with both among
// those with either, times common/(common+least), which is a half at the least number
// of days and never one. In thousandths.
func householdConfidence(common, either, least int) float64 {
	c := float64(common) / float64(max(either, 1)) * float64(common) / float64(common+least)
	return math.Round(c*1000) / 1000
}

// networksSeen is what is held of an identity's networks.
func networksSeen(f *identity.Facts) (list []proto.NetworkSeen) {
	for i := range f.Networks {
		list = append(list, proto.NetworkSeen{Network: f.Networks[i].Key.String(), Days: f.Networks[i].List()})
	}
	return list
}
