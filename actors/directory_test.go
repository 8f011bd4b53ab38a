package actors

import (
	"testing"

	"pgregory.net/rapid"

	"kith/proto"
)

// A directory finds what a plain map of nodes would, among nodes that are alike
// in all that it hashes too.
func TestDirectory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, plain := newDirectory(), map[proto.Node]*resident{}
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			n := proto.Node{Space: proto.SpaceID(rapid.IntRange(0, 1).Draw(t, "space"))}
			n.Hash[0], n.Hash[8] = byte(rapid.IntRange(0, 3).Draw(t, "first")), byte(rapid.IntRange(0, 1).Draw(t, "second"))
			r := d.get(&n)
			if r != plain[n] || d.count != len(plain) {
				t.Fatalf("%v is %p among %d, want %p among %d", n, r, d.count, plain[n], len(plain))
			}
			if r == nil {
				r = &resident{node: n}
				plain[n] = r
				d.add(r)
			} else {
				delete(plain, n)
				d.remove(r)
			}
		}
		if len(plain) == 0 && len(d.first) != 0 {
			t.Fatalf("an empty directory keeps %d", len(d.first))
		}
	})
}
