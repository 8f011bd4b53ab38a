package actors

import (
	"encoding/binary"

	"kith/proto"
)

// directory finds a host's active identities. It is a map by half of the
// node's hash, which is random: comparing whole nodes costs as much again.
type directory struct {
	first map[uint64]*resident // of those alike, who are next to one another
	count int
}

func newDirectory() directory { return directory{first: map[uint64]*resident{}} }

func likeness(n *proto.Node) uint64 {
	return binary.LittleEndian.Uint64(n.Hash[8:]) + uint64(n.Space)
}

// get finds a node's resident, nil without one.
func (d *directory) get(n *proto.Node) *resident {
	r := d.first[likeness(n)]
	for r != nil && r.node != *n {
		r = r.alike
	}
	return r
}

// add puts in a resident whose node is not there.
func (d *directory) add(r *resident) {
	k := likeness(&r.node)
	r.alike = d.first[k]
	d.first[k] = r
	d.count++
}

// remove takes a resident out that is there.
func (d *directory) remove(r *resident) {
	k := likeness(&r.node)
	d.count--
	if d.first[k] == r {
		if d.first[k] = r.alike; r.alike == nil {
			delete(d.first, k)
		}
		return
	}
	before := d.first[k]
	for before.alike != r {
		before = before.alike
	}
	before.alike = r.alike
}
