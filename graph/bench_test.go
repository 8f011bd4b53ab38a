package graph_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"kith/graph"
	"kith/proto"
)

// wide is an identity whose hash is spread over all partitions.
func wide(rng *rand.Rand) (n proto.Node) {
	for i := range n.Hash {
		n.Hash[i] = byte(rng.Uint32())
	}
	n.Space = 1
	return n
}

// bench drives lanes without storing.
type bench struct {
	*town
	nodes map[proto.Node]*graph.State
	facts facts
	out   graph.Outcome
	env   graph.Env
}

func newBench() *bench {
	b := &bench{town: newTown(1), nodes: map[proto.Node]*graph.State{}}
	b.env = graph.Env{Config: graph.DefaultConfig(), Facts: &b.facts}
	return b
}

func (b *bench) Step(groups []graph.Group) error {
	for k := range groups {
		g := &groups[k]
		x := b.nodes[g.To]
		if x == nil {
			x = &graph.State{}
			b.nodes[g.To] = x
		}
		graph.Step(&b.env, g.To, x, g.In, &g.Effects)
	}
	return nil
}

func (b *bench) entry(in []graph.Message) int {
	l := b.lanes[0]
	b.out.Reset()
	if err := l.Apply(l.Position+1, in, b, &b.out); err != nil {
		panic(err)
	}
	return b.out.Messages - len(in)
}

// path is the links that make one user of n identities, in a random order of
// names, one after the other.
func path(rng *rand.Rand, n int, clock *proto.Millis) ([]graph.Message, []proto.Node) {
	nodes := make([]proto.Node, n)
	for i := range nodes {
		nodes[i] = wide(rng)
	}
	var links []graph.Message
	for i := range n - 1 {
		*clock++
		links = append(links, graph.Message{Kind: graph.Link, To: nodes[i], About: nodes[i+1].Hash, Evidence: at(*clock)})
	}
	return links, nodes
}

// BenchmarkLink makes users of a size, link by link: each its own entry, or
// 256 users at once, as packed entries bring them, or those with the answer
// asked for.
func BenchmarkLink(b *testing.B) {
	for _, size := range []int{2, 5, 20} {
		for _, how := range []struct {
			users int
			asked bool
		}{{1, false}, {256, false}, {256, true}} {
			users := how.users
			b.Run(fmt.Sprintf("size=%d/users=%d/asked=%v", size, users, how.asked), func(b *testing.B) {
				b.ReportAllocs()
				rng := rand.New(rand.NewPCG(1, 2))
				w := newBench()
				var clock proto.Millis = 1
				messages, links := 0, 0
				for b.Loop() {
					b.StopTimer()
					clear(w.nodes)
					var rounds [][]graph.Message
					for range users {
						list, _ := path(rng, size, &clock)
						for i, m := range list {
							if i == len(rounds) {
								rounds = append(rounds, nil)
							}
							if how.asked {
								m.Command = uint64(clock)
							}
							rounds[i] = append(rounds[i], m)
						}
					}
					b.StartTimer()
					for _, in := range rounds {
						messages += w.entry(in)
						links += len(in)
					}
				}
				b.ReportMetric(float64(messages)/float64(links), "messages/link")
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(links), "ns/link")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// BenchmarkCut cuts the middle of users of a size.
func BenchmarkCut(b *testing.B) {
	for _, size := range []int{1, 2, 5, 20} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			b.ReportAllocs()
			rng := rand.New(rand.NewPCG(1, 2))
			w := newBench()
			var clock proto.Millis = 1
			messages, cuts := 0, 0
			for b.Loop() {
				b.StopTimer()
				clear(w.nodes)
				const users = 64
				var in []graph.Message
				for range users {
					list, nodes := path(rng, size, &clock)
					for _, m := range list {
						w.entry([]graph.Message{m})
					}
					in = append(in, graph.Message{Kind: graph.Cut, To: nodes[size/2], Command: uint64(clock), Evidence: at(clock)})
				}
				b.StartTimer()
				messages += w.entry(in)
				cuts += users
				if len(w.out.Receipts) != users {
					b.Fatalf("%d receipts of %d", len(w.out.Receipts), users)
				}
			}
			b.ReportMetric(float64(messages)/float64(cuts), "messages/cut")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(cuts), "ns/cut")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkEvent is an event of a member of a user, and of a singleton.
func BenchmarkEvent(b *testing.B) {
	for _, size := range []int{1, 2, 5, 20, 64} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			b.ReportAllocs()
			w := newBench()
			var clock proto.Millis = 1
			list, nodes := path(rand.New(rand.NewPCG(1, 2)), size, &clock)
			for _, m := range list {
				w.entry([]graph.Message{m})
			}
			in := []graph.Message{{Kind: graph.Event, To: nodes[0], Evidence: at(clock), Body: eventBody(0)}}
			n := 0
			for b.Loop() {
				n++
				in[0].Body = eventBody(n)
				w.facts.events = w.facts.events[:0]
				w.entry(in)
			}
		})
	}
}
