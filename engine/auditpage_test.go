package engine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/engine"
	"kith/engine/log"
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
		if err := n.AppendAudit(t.Context(), &proto.AuditBatch{Records: list}); err != nil {
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
	if err := n.AppendAudit(t.Context(), &proto.AuditBatch{Records: []proto.AuditRecord{{Time: now, Route: "later"}}}); err != nil {
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
		if err := n.AppendAudit(t.Context(), &proto.AuditBatch{Records: []proto.AuditRecord{{Time: time.Now(), Route: fmt.Sprint("GET /", i)}}}); err != nil {
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
	if err := n.AppendAudit(t.Context(), &proto.AuditBatch{Records: []proto.AuditRecord{{Time: time.Now(), Route: "later"}}}); err != nil || left() != 1 {
		t.Errorf("later: %v, %d lines", err, left())
	}
	closeNode(t, n)
}

// unheard is the audit log's stream, whose answers are lost: the message is stored, or
// not, or another node's of the same bytes is in its place. Its server knows no ids
// again, as after two minutes.
type unheard struct {
	log.Outlet
	t      *testing.T
	random *rand.Rand
	others int                // messages of other nodes
	giveUp context.CancelFunc // of the caller
}

// errUnheard is the error of an append without an answer: nobody waits for this one's.
func (u *unheard) errUnheard() error {
	ctx, cancel := context.WithCancel(u.t.Context())
	cancel()
	for {
		if _, err := u.Outlet.Append(ctx, []byte("{}\n"), "", 1<<60); log.Ambiguous(err) {
			return err
		}
	}
}

func (u *unheard) Append(ctx context.Context, record []byte, id string, last uint64) (uint64, error) {
	id += fmt.Sprint("/", u.random.Uint64())
	switch u.random.IntN(5) {
	case 0:
		return u.Outlet.Append(ctx, record, id, last)
	case 1: // another node's is first, which is told
		if _, err := u.Outlet.Append(ctx, record, "another", last); err != nil {
			return 0, err
		}
		u.others++
		return u.Outlet.Append(ctx, record, id, last)
	case 2:
		if _, err := u.Outlet.Append(ctx, record, "another", last); err != nil {
			return 0, err
		}
		u.others++
	case 3:
		if _, err := u.Outlet.Append(ctx, record, id, last); err != nil {
			return 0, err
		}
	}
	if u.random.IntN(2) == 0 {
		u.giveUp()
	}
	return 0, u.errUnheard()
}

func (u *unheard) Get(ctx context.Context, at proto.Offset) (log.Record, error) {
	if u.random.IntN(4) == 0 {
		return log.Record{}, proto.Errorf(proto.CodeUnavailable, "the stream has no leader")
	}
	r, err := u.Outlet.Get(ctx, at)
	r.ID, _, _ = strings.Cut(r.ID, "/")
	return r, err
}

// cutOff is the audit log's stream, of which the first appends get lost: nobody knows
// whether they are stored.
type cutOff struct {
	log.Outlet
	unheard *unheard
	lost    int
}

func (c *cutOff) Append(ctx context.Context, record []byte, id string, last uint64) (uint64, error) {
	if c.lost > 0 {
		c.lost--
		return 0, c.unheard.errUnheard()
	}
	return c.Outlet.Append(ctx, record, id, last)
}

// TestAuditStreamGoesBack: where the stream ends before what the node knew of it, as
// after a server came back without what it had not synced, lines are written behind its
// end; so is one of which nobody knew whether it was stored.
func TestAuditStreamGoesBack(t *testing.T) {
	engine.DoubtAudit(t, 300*time.Millisecond)
	for _, lost := range []int{0, 1} {
		t.Run(fmt.Sprint("lost=", lost), func(t *testing.T) {
			n := testNode(t, t.TempDir())
			defer closeNode(t, n)
			write := func(route string) {
				t.Helper()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := n.AppendAudit(ctx, &proto.AuditBatch{Records: []proto.AuditRecord{{Time: time.Now(), Route: route}}}); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 3 {
				write(fmt.Sprint("GET /", i))
			}
			back, err := log.NewMemory(1, time.Now).Audit(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			err = n.AuditOver(t.Context(), func(o log.Outlet) log.Outlet {
				return &cutOff{back, &unheard{Outlet: o, t: t}, lost}
			})
			if err != nil {
				t.Fatal(err)
			}
			write("GET /after")
			write("GET /later")
			p, err := n.AuditPage(t.Context(), proto.AuditQuery{Limit: 10})
			if err != nil || len(p.Records) != 2 || p.Records[0].Route != "GET /after" || p.Records[1].Route != "GET /later" {
				t.Errorf("%v: %+v", err, p)
			}
		})
	}
}

// TestAuditUnheard: a line whose answer is lost is written once, also where the batch
// is given up meanwhile and given again, and what was stored of it before is not again.
func TestAuditUnheard(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	u := &unheard{t: t, random: rand.New(rand.NewPCG(3, 4))}
	if err := n.AuditOver(t.Context(), func(o log.Outlet) log.Outlet { u.Outlet = o; return u }); err != nil {
		t.Fatal(err)
	}
	lines, unsure, parts := 0, 0, 0
	for range 30 {
		b := &proto.AuditBatch{}
		for range 1 + u.random.IntN(2)*9000 { // of one message, or several
			b.Records = append(b.Records, proto.AuditRecord{Time: time.Now(), Key: "k", Route: fmt.Sprint("GET /", lines)})
			lines++
		}
		for tries := 0; ; tries++ {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			u.giveUp = cancel
			err := n.AppendAudit(ctx, b)
			cancel()
			if err == nil {
				break
			}
			if b.Unsure {
				unsure++
			}
			if b.Stored > 0 {
				parts++
			}
			if tries == 1000 {
				t.Fatal(err)
			}
		}
		if b.Stored != len(b.Records) || b.Unsure {
			t.Fatalf("written, of %d lines %d are, unsure: %t", len(b.Records), b.Stored, b.Unsure)
		}
	}
	if unsure == 0 || parts == 0 || u.others == 0 {
		t.Fatalf("%d times unsure, %d in part, %d messages of other nodes: this tests little", unsure, parts, u.others)
	}
	counts, ours := map[string]int{}, 0
	info, err := u.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for at := info.First; at <= info.Last; at++ {
		r, err := u.Outlet.Get(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		if r.ID == "another" {
			continue
		}
		for line := range bytes.Lines(r.Data) {
			var x proto.AuditRecord
			if err := json.Unmarshal(line, &x); err != nil {
				t.Fatal(err)
			}
			counts[x.Route]++
			ours++
		}
	}
	if ours != lines || len(counts) != lines {
		t.Errorf("%d lines, of which %d differ, of %d that were written", ours, len(counts), lines)
	}
}
