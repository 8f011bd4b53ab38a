package engine_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"kith/engine"
	"kith/proto"
)

// TestFeedLostOverRestarts: that something was left out of a feed is told, once, also
// if the node was stopped after what was kept had been told and before anything else
// came.
func TestFeedLostOverRestarts(t *testing.T) {
	for _, lanes := range []int{1, 3} {
		t.Run(fmt.Sprintf("lanes=%d", lanes), func(t *testing.T) {
			dir := t.TempDir()
			open := func(most int) *engine.Node {
				return testNode(t, dir, withFeed, func(c *engine.Config) {
					c.Lanes = lanes
					c.Feeds.BacklogBytesMax = most
				})
			}
			n := open(1) // the first row is over it
			c := acme(t, n)
			x := newListener(t)
			until(t, n, 10*time.Second, "the feed does not begin", func() bool {
				x.read(n, c)
				return len(x.marks) == lanes
			})
			define(t, n, "auto", `count(event.section == "auto") >= 1`)
			now := time.Now()
			sent := 0
			until(t, n, 20*time.Second, "nothing is left out", func() bool {
				submit(t, n, page(c, fmt.Sprint("v", sent), "auto", now))
				sent++
				return n.FeedLost(c.ID)
			})
			// What was kept is told, or will be. Nobody else enters: the mark is still due.
			x.read(n, c)
			lost := func() (count int) {
				for _, m := range x.marks {
					if m == "lost " {
						count++
					}
				}
				return count
			}
			before := lost()
			if !n.FeedLost(c.ID) {
				t.Fatal("no mark is due")
			}
			for range 2 { // once more without anybody moving
				closeNode(t, n)
				n = open(0)
				if !n.FeedLost(c.ID) {
					t.Fatal("after a restart no mark is due")
				}
			}
			c = acme(t, n)
			// Somebody enters in every lane.
			var visitors []string
			for i := range 20 * lanes {
				visitors = append(visitors, fmt.Sprint("w", i))
				submit(t, n, page(c, visitors[i], "auto", now))
			}
			until(t, n, 20*time.Second, "the rest is not told", func() bool {
				x.read(n, c)
				return !slices.ContainsFunc(visitors, func(v string) bool { return !x.in[member{"auto", n.FeedName(c, proto.Identity("browser:"+v))}] })
			})
			if got := lost(); got <= before {
				t.Errorf("%d marks of what was left out, %d before the restart", got, before)
			}
			if n.FeedLost(c.ID) {
				t.Error("the mark is told, and still due")
			}
			told := lost()
			closeNode(t, n)
			n = open(0)
			submit(t, n, page(acme(t, n), "last", "auto", now))
			until(t, n, 20*time.Second, "nothing is told in the end", func() bool {
				x.read(n, c)
				return x.in[member{"auto", n.FeedName(c, "browser:last")}]
			})
			if got := lost(); got != told {
				t.Errorf("the mark is told again: %d, then %d", told, got)
			}
			closeNode(t, n)
		})
	}
}
