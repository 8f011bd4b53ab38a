package engine_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"kith/proto"
)

// Identities that are as large as the limits allow: one entry may touch so
// many of them that its commit does not fit into one transaction of the store.
func TestLargeIdentities(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 30 MB several times: not in short runs")
	}
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	const visitors = 400
	var set []proto.Prop
	for i := range 64 {
		set = append(set, proto.Prop{Key: fmt.Sprintf("t%02d%s", i, strings.Repeat("k", 50)), Value: proto.TextOf(strings.Repeat("v", proto.PropTextBytesMax))})
	}
	for v := range visitors {
		var b proto.Batch
		b.AddTraits(n.Hasher(), &proto.Traits{Client: c.ID, Space: c.Space, Identity: proto.Identity(fmt.Sprint("browser:v", v)), Set: set})
		r := n.Submit(t.Context(), &b)
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		if err := n.Wait(t.Context(), r.Position); err != nil {
			t.Fatal(err)
		}
	}
	define(t, n, "one", `count(true) >= 1`)
	var list []*proto.Event
	for v := range visitors {
		list = append(list, page(c, fmt.Sprint("v", v), "x", time.Now()))
	}
	submit(t, n, list...)
	if got := count(t, n, c, "one"); got != visitors {
		t.Errorf("%d members, want %d", got, visitors)
	}
	verifyClean(t, n)
}
