package graph_test

import (
	"testing"

	"pgregory.net/rapid"

	"kith/graph"
)

// TestUnion compares with the dumbest way: pass labels on until none changes.
func TestUnion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const n = 12
		who := rapid.IntRange(0, n-1)
		label := make([]int, n)
		for i := range label {
			label[i] = i
		}
		u := graph.NewUnion()
		var edges [][2]int
		for range rapid.IntRange(0, 20).Draw(t, "edges") {
			x, y := who.Draw(t, "x"), who.Draw(t, "y")
			edges = append(edges, [2]int{x, y})
			u.Join(id(x).hash(), id(y).hash())
		}
		for changed := true; changed; {
			changed = false
			for _, e := range edges {
				if least := min(label[e[0]], label[e[1]]); label[e[0]] != least || label[e[1]] != least {
					label[e[0]], label[e[1]], changed = least, least, true
				}
			}
		}
		for i, want := range label {
			if got := idOf(u.Root(id(i).hash())); int(got) != want {
				t.Fatalf("root of %d is %d, want %d", i, got, want)
			}
		}
	})
}
