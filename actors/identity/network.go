package identity

import (
	"encoding/binary"
	"math/bits"
	"slices"

	"kith/proto"
)

// This file is on which networks a node was seen. They are facts of one client like
// its events, lie with them, and go with them. Who else was seen there is no fact of
// the node: households are read from the facts of all when somebody asks, and kept
// nowhere.

// NetworksMax bounds the networks that one client remembers of a node.
const NetworksMax = 8

// Network is that a node was seen on a network. Lane time gives the days, in UTC.
type Network struct {
	Key  proto.NetworkKey
	Last proto.Day
	days uint32 // bit i: Last-i
}

// networkDaysMask has a bit for each day that counts.
const networkDaysMask = 1<<proto.HouseholdDays - 1

// Days are those up to today on which the node was seen there, bit i for today-i.
func (n *Network) Days(today proto.Day) uint32 {
	if n.Last > today || today-n.Last >= proto.HouseholdDays {
		return 0
	}
	return n.days << (today - n.Last) & networkDaysMask
}

// List are the days, newest first.
func (n *Network) List() (list []proto.Day) {
	for i := range proto.Day(proto.HouseholdDays) {
		if n.days>>i&1 == 1 {
			list = append(list, n.Last-i)
		}
	}
	return list
}

// end is when the last day no longer counts.
func (n *Network) end() proto.Millis { return proto.MillisOf((n.Last + proto.HouseholdDays).Start()) }

// seenOn notes a network. Of too many the one with the fewest days goes, of these the
// one that was not seen for longest.
func (f *Facts) seenOn(key proto.NetworkKey, now proto.Millis) {
	f.forgetNetworks(now)
	today := now.Day()
	i, known := slices.BinarySearchFunc(f.Networks, key, compareNetwork)
	if known {
		n := &f.Networks[i]
		n.days = n.days<<(today-n.Last)&networkDaysMask | 1
		n.Last = today
		return
	}
	if len(f.Networks) >= NetworksMax {
		least := 0
		for k := range f.Networks {
			if f.Networks[k].lessThan(&f.Networks[least]) {
				least = k
			}
		}
		f.Networks = slices.Delete(f.Networks, least, least+1)
		i, _ = slices.BinarySearchFunc(f.Networks, key, compareNetwork)
	}
	f.Networks = slices.Insert(f.Networks, i, Network{Key: key, Last: today, days: 1})
}

// SeenOn reports whether the facts have a network.
func (f *Facts) SeenOn(key proto.NetworkKey) bool { return f.network(key) != nil }

// On are the days up to today on which the client saw the node on a network, bit i
// for today-i.
func (f *Facts) On(key proto.NetworkKey, today proto.Day) uint32 {
	if n := f.network(key); n != nil {
		return n.Days(today)
	}
	return 0
}

func (f *Facts) network(key proto.NetworkKey) *Network {
	if i, ok := slices.BinarySearchFunc(f.Networks, key, compareNetwork); ok {
		return &f.Networks[i]
	}
	return nil
}

func compareNetwork(n Network, key proto.NetworkKey) int {
	switch {
	case n.Key < key:
		return -1
	case n.Key > key:
		return 1
	}
	return 0
}

func (n *Network) lessThan(o *Network) bool {
	a, b := bits.OnesCount32(n.days), bits.OnesCount32(o.days)
	return a < b || a == b && n.Last < o.Last
}

// forgetNetworks lets go of those that were not seen for so long that they do not count.
func (f *Facts) forgetNetworks(now proto.Millis) {
	f.Networks = slices.DeleteFunc(f.Networks, func(n Network) bool { return n.end() <= now })
}

// networksOlder reports whether some network was seen before a day.
func (f *Facts) networksOlder(day proto.Day) bool {
	return slices.ContainsFunc(f.Networks, func(n Network) bool { return n.days&^n.since(day) != 0 })
}

// trimNetworks forgets on which networks the node was seen before a day.
func (f *Facts) trimNetworks(day proto.Day) {
	for i := range f.Networks {
		f.Networks[i].days &= f.Networks[i].since(day)
	}
	f.Networks = slices.DeleteFunc(f.Networks, func(n Network) bool { return n.days == 0 })
}

// since has the bits of the days from one on.
func (n *Network) since(day proto.Day) uint32 {
	switch {
	case n.Last < day:
		return 0
	case n.Last-day >= proto.HouseholdDays:
		return networkDaysMask
	}
	return 1<<(n.Last-day+1) - 1
}

// networksEnd is when the next network is to be let go of, 0 for never.
func (f *Facts) networksEnd() (end proto.Millis) {
	for i := range f.Networks {
		end = sooner(end, f.Networks[i].end())
	}
	return end
}

// Ends is when time alone has something of the node go: a network, or all of it;
// 0 for never.
func (s *State) Ends() (end proto.Millis) {
	if s.Named {
		end = s.End
	}
	for i := range s.Facts {
		end = sooner(end, s.Facts[i].networksEnd())
	}
	return end
}

// appendNetworks packs those of all clients: for each client a count, then each: key
// (8 bytes), last day, days.
func (s *State) appendNetworks(b []byte) []byte {
	for i := range s.Facts {
		b = binary.AppendUvarint(b, uint64(len(s.Facts[i].Networks)))
		for _, n := range s.Facts[i].Networks {
			b = binary.LittleEndian.AppendUint64(b, uint64(n.Key))
			b = binary.AppendUvarint(b, uint64(n.Last))
			b = binary.AppendUvarint(b, uint64(n.days))
		}
	}
	return b
}

func (s *State) readNetworks(r *proto.Reader) {
	for i := range s.Facts {
		list := s.Facts[i].Networks[:0]
		count := r.Count(10)
		if count > NetworksMax {
			r.Fail()
		}
		for range count {
			if r.Bad() {
				return
			}
			n := Network{Key: proto.NetworkKey(r.Uint64()), Last: proto.Day(r.Uint32()), days: r.Uint32()}
			if k := len(list); k > 0 && list[k-1].Key >= n.Key || n.Key == 0 || n.days&1 == 0 || n.days > networkDaysMask {
				r.Fail()
			}
			list = append(list, n)
		}
		s.Facts[i].Networks = list
	}
}

// hasNetworks reports whether any client knows one.
func (s *State) hasNetworks() bool {
	return slices.ContainsFunc(s.Facts, func(f Facts) bool { return len(f.Networks) > 0 })
}
