package graph_test

import (
	"flag"
	"fmt"

	"kith/graph"
)

var followFlag = flag.String("follow", "", "print the messages between two identities of the simulation: 4,5")

// tracing prints what a head takes in that is between the two identities
// asked for.
func (w *world) tracing(i id, n *simNode, g *graph.Group) {
	var a, b int
	if k, _ := fmt.Sscanf(*followFlag, "%d,%d", &a, &b); k != 2 {
		return
	}
	for k := range g.In {
		m := &g.In[k]
		from, about := int(idOf(m.From)), int(idOf(m.About))
		if int(i) == a && (from == b || about == b || m.Kind.Outside() && m.Kind > graph.Withdraw) || int(i) == b && (from == a || about == a || m.Kind.Outside() && m.Kind > graph.Withdraw) {
			fmt.Printf("%d: %d -> %d %v about %d gen %d togen %d time %d echo %d again %v capped %v | gen %d dark %v fence %d link now %+v\n",
				w.heads[w.lane(i)].pos, from, i, m.Kind, about, m.Gen, m.ToGen, m.Time, m.Echo, m.Again, m.Capped, n.state.Gen, n.state.Dark, n.state.Fence, n.state.Link(id(a+b-int(i)).hash()))
		}
	}
}
