package engine_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/engine"
	"kith/proto"
)

// TestAuditPages: a page has at most as many lines as are asked for, however they
// were written, and pages put together are all lines, once.
func TestAuditPages(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	now := time.Now().UTC().Truncate(time.Millisecond)
	var all, acmes []string
	for _, size := range []int{1, 2500, 3, 1, 9000} { // the last is several messages
		list := make([]proto.AuditRecord, size)
		for i := range list {
			list[i] = proto.AuditRecord{Time: now, Key: "k", Role: proto.RoleClient, Client: "other", Route: fmt.Sprint("GET /", len(all))}
			if len(all)%7 == 0 {
				list[i].Client = "acme"
				acmes = append(acmes, list[i].Route)
			}
			all = append(all, list[i].Route)
		}
		if err := n.AppendAudit(t.Context(), list); err != nil {
			t.Fatal(err)
		}
	}
	read := func(client proto.ClientName, limit func() int) (got []string) {
		q := proto.AuditQuery{Client: client}
		for more := true; more; {
			q.Limit = limit()
			p, err := n.AuditPage(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			if len(p.Records) > q.Limit {
				t.Fatalf("%d lines of %d that were asked for", len(p.Records), q.Limit)
			}
			if more = p.More; more && p.Next <= q.After {
				t.Fatalf("after %d comes %d", q.After, p.Next)
			}
			for _, r := range p.Records {
				got = append(got, r.Route)
			}
			q.After = p.Next
		}
		return got
	}
	random := rand.New(rand.NewPCG(1, 2))
	for name, limit := range map[string]func() int{
		"7": func() int { return 7 }, "1000": func() int { return 1000 }, "of chance": func() int { return 1 + random.IntN(900) }, "all": func() int { return 1 << 20 },
	} {
		if name == "7" && testing.Short() {
			continue // each page reads its messages again: a minute under the race detector
		}
		if d := cmp.Diff(all, read("", limit)); d != "" {
			t.Errorf("pages of %s: %s", name, d)
		}
		if d := cmp.Diff(acmes, read("acme", limit)); d != "" {
			t.Errorf("of one client, pages of %s: %s", name, d)
		}
	}
	// Whoever is at the end goes on with what comes later.
	p, err := n.AuditPage(t.Context(), proto.AuditQuery{Limit: 1 << 20})
	if err != nil || p.More {
		t.Fatal(err, p.More)
	}
	if err := n.AppendAudit(t.Context(), []proto.AuditRecord{{Time: now, Route: "later"}}); err != nil {
		t.Fatal(err)
	}
	if p, err = n.AuditPage(t.Context(), proto.AuditQuery{After: p.Next, Limit: 5}); err != nil || len(p.Records) != 1 || p.Records[0].Route != "later" {
		t.Errorf("%v: %+v", err, p)
	}
}

// Lines go when they are older than the retention, also where nothing is written:
// the last of all, too.
func TestAuditRetention(t *testing.T) {
	dir := t.TempDir()
	n := testNode(t, dir)
	for i := range 3 {
		if err := n.AppendAudit(t.Context(), []proto.AuditRecord{{Time: time.Now(), Route: fmt.Sprint("GET /", i)}}); err != nil {
			t.Fatal(err)
		}
	}
	left := func() int {
		p, err := n.AuditPage(t.Context(), proto.AuditQuery{Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		return len(p.Records)
	}
	for _, x := range []struct {
		after time.Duration
		want  int
	}{{9 * 24 * time.Hour, 3}, {11 * 24 * time.Hour, 0}} {
		closeNode(t, n)
		n = testNode(t, dir, func(c *engine.Config) {
			c.AuditRetention = 10 * 24 * time.Hour
			c.Now = func() time.Time { return time.Now().Add(x.after) }
		})
		until(t, n, 10*time.Second, fmt.Sprintf("after %v %d lines", x.after, x.want), func() bool { return left() == x.want })
	}
	if err := n.AppendAudit(t.Context(), []proto.AuditRecord{{Time: time.Now(), Route: "later"}}); err != nil || left() != 1 {
		t.Errorf("later: %v, %d lines", err, left())
	}
	closeNode(t, n)
}
