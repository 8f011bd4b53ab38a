package actors

import (
	"cmp"

	"kith/proto"
)

// This file is the rows by which the devices of a network are found. They follow from
// a node's facts and are compared with them whenever these are stored, so that
// whatever took the facts away takes the rows away in the same commit.

// networkRow is a NetworkRow of a node that is known.
type networkRow struct {
	client proto.ClientID
	key    proto.NetworkKey
}

func compareNetworkRows(a, b networkRow) int {
	return cmp.Or(cmp.Compare(a.client, b.client), cmp.Compare(a.key, b.key))
}

// seenOn appends what the node's facts have, sorted.
func (r *resident) seenOn(list []networkRow) []networkRow {
	if r.state.Dark() {
		return list
	}
	for i := range r.state.Facts {
		f := &r.state.Facts[i]
		for _, n := range f.Networks {
			list = append(list, networkRow{f.Client, n.Key})
		}
	}
	return list
}

// networkBytes is what a row costs, about.
const networkBytes = 48

// storeNetworks adds the rows that the facts have and the store has not, and the
// other way round.
func (h *host) storeNetworks(r *resident) {
	before, after := r.networks, r.seenOn(nil) // most have none
	r.networks = after
	row := func(x networkRow, gone bool) {
		h.out.Networks = append(h.out.Networks, NetworkRow{Client: x.client, Network: x.key, Node: r.node, Gone: gone})
		h.bytes += networkBytes
	}
	for len(before) > 0 || len(after) > 0 {
		switch {
		case len(after) == 0 || len(before) > 0 && compareNetworkRows(before[0], after[0]) < 0:
			row(before[0], true)
			before = before[1:]
		case len(before) == 0 || compareNetworkRows(before[0], after[0]) > 0:
			row(after[0], false)
			after = after[1:]
		default:
			before, after = before[1:], after[1:]
		}
	}
}
