package graph_test

import (
	"encoding/binary"
	"slices"

	"kith/graph"
)

// facts are a node's own facts in tests: the numbers of the events that it saw.
type facts struct {
	events []uint32 // sorted
	dirty  bool
	season string // what the value depends on besides the members
}

// Observe takes in the event whose number is the message's body.
func (f *facts) Observe(m *graph.Message) bool {
	if m.Kind != graph.Event {
		return false
	}
	n := binary.BigEndian.Uint32(m.Body)
	i, ok := slices.BinarySearch(f.events, n)
	if ok {
		return false
	}
	f.events = slices.Insert(f.events, i, n)
	f.dirty = true
	return true
}

func eventBody(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

// Data is the events' numbers.
func (f *facts) Data() graph.Data { return graph.Data(f.bytes()) }

func (f *facts) bytes() (b []byte) {
	for _, e := range f.events {
		b = binary.BigEndian.AppendUint32(b, e)
	}
	return b
}

// Purge forgets all events.
func (f *facts) Purge() { f.events, f.dirty = nil, true }

// Aggregate stands for the user-scope segments: thresholds on the number of
// events and of identities.
func (f *facts) Aggregate(members []graph.Data) graph.Value {
	return aggregate(members) + graph.Value(f.season)
}

func aggregate(members []graph.Data) graph.Value {
	n, v := 0, byte(0)
	for _, d := range members {
		n += len(d) / 4
	}
	for bit, k := range []int{2, 3, 4, 6} {
		if n >= k {
			v |= 1 << bit
		}
	}
	for bit, k := range []int{2, 3, 5} {
		if len(members) >= k {
			v |= 16 << bit
		}
	}
	return graph.Value([]byte{v})
}
