package graph_test

import (
	"encoding/binary"
	"slices"

	"kith/graph"
	"kith/proto"
)

// facts are a node's own facts in tests: the numbers of the events that it saw.
type facts struct {
	events []uint32      // sorted
	fences []graph.Fence // of clients that had the node forgotten, which stay when all else goes
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

// forget notes a client that has the node forgotten.
func (f *facts) forget(m *graph.Message) {
	f.fences = append(f.fences, graph.Fence{Client: m.Client, Time: m.Time + 2*simSkew})
	f.dirty = true
}

// forgotten reports whether evidence is of a client that had the node forgotten since.
func (f *facts) forgotten(e graph.Evidence) bool {
	return slices.ContainsFunc(f.fences, func(x graph.Fence) bool { return x.Client == e.Client && e.Time <= x.Time })
}

func (f *facts) fenceBytes() (b []byte) {
	for _, x := range f.fences {
		b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(b, uint32(x.Client)), uint64(x.Time))
	}
	return b
}

func (f *facts) readFences(b []byte) {
	for ; len(b) > 0; b = b[12:] {
		f.fences = append(f.fences, graph.Fence{Client: proto.ClientID(binary.BigEndian.Uint32(b)), Time: proto.Millis(binary.BigEndian.Uint64(b[4:]))})
	}
}

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
