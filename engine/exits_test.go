package engine_test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/engine"
	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
)

// Of ten thousand memberships that lapse over a minute each leaves the stored
// bitmap not before its time and within a second of it. The node runs in a
// bubble of its own time, which stands still while anything is computed: how
// late a membership leaves is what its beats make it, on any machine.
func TestEachExitWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, err := engine.NewOver(engine.Config{
			Dir: t.TempDir(), DiskReserve: 1 << 20,
			Boot: []engine.BootKey{{Client: "acme", Role: proto.RoleClient, SHA256: sha256.Sum256([]byte("key"))}},
		}, log.NewMemory(1, time.Now), store.NewMemory())
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer closeNode(t, n)
		c := acme(t, n)
		define(t, n, "hot", `count(event.section == "x", "30s") >= 1`)
		visitors := 10_000
		if testing.Short() { // for the race detector
			visitors = 1_000
		}
		const (
			window = 30 * time.Second
			spread = 60 * time.Second
			look   = 20 * time.Millisecond
		)
		time.Sleep(2 * time.Minute) // lane time has come along
		// Events come for a minute and thirty seconds later their memberships go:
		// while the first leave, others enter.
		r := rand.New(rand.NewPCG(1, 1))
		start := time.Now()
		due := map[string]time.Time{}
		late := map[string]time.Duration{}
		var greatest time.Duration
		member := map[uint32]string{}
		for next := 0; len(late) < visitors; {
			elapsed := time.Since(start)
			if elapsed > window+spread+time.Minute {
				t.Fatalf("after %v %d of %d memberships have not left", elapsed, visitors-len(late), visitors)
			}
			var list []*proto.Event
			for ; next < visitors && time.Duration(next)*spread/time.Duration(visitors) <= elapsed; next++ {
				at := time.Now().Add(-time.Duration(r.IntN(5000)) * time.Millisecond)
				v := fmt.Sprint("v", next)
				due[v] = at.Add(window)
				list = append(list, page(c, v, "x", at))
			}
			if len(list) > 0 {
				submit(t, n, list...)
			}
			now := time.Now()
			set := setOf(t, n, c, "hot", member)
			for o, v := range member {
				if !set.Contains(o) {
					delete(member, o)
					if late[v] = now.Sub(due[v]); late[v] < 0 {
						t.Fatalf("%s left %v before its time", v, -late[v])
					}
					greatest = max(greatest, late[v])
				} else if now.Sub(due[v]) > time.Second {
					t.Fatalf("%s is still there %v after its time", v, now.Sub(due[v]))
				}
			}
			time.Sleep(look)
			synctest.Wait()
		}
		t.Logf("looked every %v, the last of %d left %v after its time", look, visitors, greatest)
		verifyClean(t, n)
	})
}

// setOf gives the segment's bitmap, and adds to member whom it does not have.
func setOf(t *testing.T, n *engine.Node, c proto.ClientInfo, segment string, member map[uint32]string) *roaring.Bitmap {
	t.Helper()
	a, err := n.OpenAudience(t.Context(), c, &proto.ExportRequest{Expr: segment})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Names.Close()
	set := a.Lanes[0].Set
	var fresh []uint32
	for it := set.Iterator(); it.HasNext(); {
		if o := it.Next(); member[o] == "" {
			fresh = append(fresh, o)
		}
	}
	err = a.Names.Name(0, fresh, func(o proto.Ordinal, id []byte) { member[uint32(o)] = proto.Identity(id).Value() })
	if err != nil {
		t.Fatal(err)
	}
	return set
}
