package engine_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"kith/engine"
	"kith/engine/log"
	"kith/proto"
)

// withFeed has acme be told who enters and leaves, and makes a client that is not.
func withFeed(c *engine.Config) {
	c.Boot = append(c.Boot, engine.BootKey{Client: "other", Role: proto.RoleClient, SHA256: sha256.Sum256([]byte("other-key"))})
	c.Feeds = &engine.FeedConfig{Clients: map[proto.ClientName]bool{"acme": true}}
}

// listener is what a program makes of a client's feed.
type listener struct {
	t     *testing.T
	after uint64
	ids   map[string]bool
	last  map[string][2]uint64 // by lane: offset and number
	in    map[member]bool
	first map[string]bool // ids of lines that say where lanes began
	marks []string        // defined, undefined, began, lost
	lines int
}

type member struct {
	segment  proto.SegmentID
	identity string
}

func newListener(t *testing.T) *listener {
	return &listener{t: t, ids: map[string]bool{}, first: map[string]bool{}, last: map[string][2]uint64{}, in: map[member]bool{}}
}

// take takes a message in, and fails where a line comes twice, a lane's lines are
// out of order, or somebody enters who is in.
func (x *listener) take(m *proto.FeedMessage) {
	x.t.Helper()
	for _, c := range m.Changes {
		x.lines++
		if x.ids[c.ID] {
			x.t.Fatalf("%s is told twice", c.ID)
		}
		x.ids[c.ID] = true
		var at [2]uint64
		lane, rest, _ := strings.Cut(c.ID, ":")
		if _, err := fmt.Sscanf(rest, "%d:%d", &at[0], &at[1]); err != nil {
			x.t.Fatalf("id %q: %v", c.ID, err)
		}
		if before := x.last[lane]; at[0] < before[0] || at[0] == before[0] && at[1] <= before[1] {
			x.t.Fatalf("%s comes after %v", c.ID, before)
		}
		x.last[lane] = at
		k := member{c.Segment, c.Identity}
		switch c.Change {
		case "entered", "left":
			if x.in[k] == (c.Change == "entered") {
				x.t.Fatalf("%s: %v %s, which it had already", c.ID, k, c.Change)
			}
			if x.in[k] = c.Change == "entered"; !x.in[k] {
				delete(x.in, k)
			}
		default:
			x.first[c.ID] = c.Change == "began"
			x.marks = append(x.marks, c.Change+" "+string(c.Segment))
		}
	}
}

// read reads what is new.
func (x *listener) read(n *engine.Node, c proto.ClientInfo) {
	x.t.Helper()
	for {
		p, err := n.FeedPage(x.t.Context(), c, x.after, 7)
		if err != nil {
			if proto.CodeOf(err) == proto.CodeNotFound {
				return // it is being opened
			}
			x.t.Fatal(err)
		}
		if p.Missed {
			x.t.Fatalf("messages after %d are missing", x.after)
		}
		for i := range p.Messages {
			x.take(&p.Messages[i])
		}
		if x.after == p.Next {
			return
		}
		x.after = p.Next
	}
}

// agree reads until what was told is what look-ups say of visitors.
func (x *listener) agree(n *engine.Node, c proto.ClientInfo, visitors []string) {
	x.t.Helper()
	want := map[member]bool{}
	until(x.t, n, 20*time.Second, "the feed does not come to what look-ups say", func() bool {
		x.read(n, c)
		clear(want)
		for _, v := range visitors {
			id := proto.Identity("browser:" + v)
			_, list, err := n.Lookup(c, id, proto.MillisOf(time.Now()), nil)
			if err != nil {
				x.t.Fatal(err)
			}
			for _, s := range list {
				want[member{s, n.FeedName(c, id)}] = true
			}
		}
		return cmp.Equal(want, x.in)
	})
}

// What a client's feed tells adds up to what look-ups say: of those that enter by
// events and links, and leave by time, a removed link and an opt-out. Another
// client has no feed, and hears nothing; what is heard on the subject is what is
// kept. After a restart nothing is told twice and nothing is missing.
func TestFeed(t *testing.T) {
	for _, lanes := range []int{1, 4} {
		t.Run(fmt.Sprintf("lanes=%d", lanes), func(t *testing.T) {
			dir := t.TempDir()
			n := testNode(t, dir, withFeed, func(c *engine.Config) { c.Lanes = lanes })
			c := acme(t, n)
			other, _ := n.Client("other")
			heard := make(chan *nats.Msg, 1000)
			for _, name := range []proto.ClientName{"acme", "other"} {
				sub, err := n.Conn().ChanSubscribe(log.OutletSubject(name), heard)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = sub.Unsubscribe() }()
			}
			x := newListener(t)
			until(t, n, 10*time.Second, "the feed does not begin", func() bool { // before anybody listens, maybe
				x.read(n, c)
				return len(x.marks) == lanes
			})
			if err := n.Conn().Flush(); err != nil {
				t.Fatal(err)
			}
			defineUser(t, n, c, "pair", `count(event.section == "a") >= 1 && count(event.section == "b") >= 1`)
			define(t, n, "soon", `count(event.section == "soon", "2s") >= 1`)
			define(t, n, "auto", `count(event.section == "auto") >= 2`)
			if _, err := n.Define(t.Context(), other, proto.SegmentSpec{ID: "auto", Scope: "identity", When: `count(true) >= 1`}); err != nil {
				t.Fatal(err)
			}
			visitors := []string{"x", "y", "z", "s1", "s2", "gone"}
			now := time.Now()
			submit(t, n, page(c, "x", "a", now), page(c, "y", "b", now), page(c, "s1", "soon", now), page(c, "s2", "soon", now),
				page(c, "z", "auto", now), page(c, "z", "auto", now), page(c, "gone", "auto", now), page(c, "gone", "auto", now), page(other, "z", "auto", now))
			link(t, n, c, "browser:x", "browser:y", yes())
			until(t, n, 10*time.Second, "those who are linked are not both in it", func() bool { return count(t, n, c, "pair") == 2 })
			x.agree(n, c, visitors)
			for _, k := range []member{{"pair", n.FeedName(c, "browser:x")}, {"pair", n.FeedName(c, "browser:y")}, {"auto", n.FeedName(c, "browser:z")}, {"auto", n.FeedName(c, "browser:gone")}} {
				if !x.in[k] {
					t.Errorf("the feed does not tell of %v: %v", k, x.in)
				}
			}
			if _, err := n.Unlink(t.Context(), c, "browser:x", "browser:y"); err != nil {
				t.Fatal(err)
			}
			until(t, n, 10*time.Second, "those who were linked are not apart", func() bool { return len(segmentsOf(t, n, "x")) == 0 })
			until(t, n, 10*time.Second, "nobody leaves by time", func() bool { return count(t, n, c, "soon") == 0 })
			optOut(t, n, "browser:gone", false)
			x.agree(n, c, visitors)
			if diff := cmp.Diff(map[member]bool{{"auto", n.FeedName(c, "browser:z")}: true}, x.in); diff != "" {
				t.Errorf("in the end (-want +got):\n%s", diff)
			}
			if n.FeedName(c, "browser:z") == n.FeedName(other, "browser:z") {
				t.Error("two clients' names of an identity are the same")
			}
			if _, err := n.FeedPage(t.Context(), other, 0, 10); proto.CodeOf(err) != proto.CodeNotFound {
				t.Errorf("a client that did not ask has a feed: %v", err)
			}
			if err := n.FeedExists(other); proto.CodeOf(err) != proto.CodeNotFound || n.FeedExists(c) != nil {
				t.Errorf("of a client that did not ask: %v; of one that did: %v", err, n.FeedExists(c))
			}
			sameHeard(t, heard, x)
			if _, err := n.EraseBytes(t.Context()); err != nil {
				t.Fatal(err)
			}
			p, err := n.FeedPage(t.Context(), c, 0, 1000)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range p.Messages {
				if len(m.Changes) > 0 || !p.Missed {
					t.Errorf("after an erasure the feed holds %+v", m)
				}
			}
			submit(t, n, page(c, "s2", "auto", now), page(c, "s2", "auto", now))
			x.agree(n, c, visitors)

			closeNode(t, n)
			n = testNode(t, dir, withFeed, func(c *engine.Config) { c.Lanes = lanes })
			c = acme(t, n)
			submit(t, n, page(c, "s1", "auto", now), page(c, "s1", "auto", now))
			x.agree(n, c, visitors)
			if !x.in[member{"auto", n.FeedName(c, "browser:s1")}] {
				t.Error("nothing is told after a restart")
			}
			closeNode(t, n)
		})
	}
}

// sameHeard compares what was heard with what was kept.
func sameHeard(t *testing.T, heard <-chan *nats.Msg, x *listener) {
	t.Helper()
	again := newListener(t)
	began := 0
	for id := range x.ids {
		if x.first[id] {
			began++
		}
	}
	for len(again.ids) < len(x.ids)-began {
		select {
		case m := <-heard:
			if m.Subject != "kith.out.segments.acme" || m.Header.Get("Nats-Sequence") == "" {
				t.Fatalf("heard on %s, sequence %q: %s", m.Subject, m.Header.Get("Nats-Sequence"), m.Data)
			}
			for _, visitor := range []string{"browser:", "gone"} {
				if strings.Contains(string(m.Data), visitor) {
					t.Fatalf("a message holds %q: %s", visitor, m.Data)
				}
			}
			var p proto.FeedMessage
			if err := json.Unmarshal(m.Data, &p); err != nil {
				t.Fatal(err)
			}
			p.Changes = slices.DeleteFunc(p.Changes, func(l proto.FeedLine) bool { return l.Change == "began" })
			again.take(&p)
		case <-time.After(10 * time.Second):
			t.Fatalf("heard %d changes, %d are kept", len(again.ids), len(x.ids))
		}
	}
	if diff := cmp.Diff(x.in, again.in); diff != "" {
		t.Errorf("what was heard is not what was kept (-kept +heard):\n%s", diff)
	}
}

// The name of who opted out is in no file after an erasure of bytes, though others
// come and go meanwhile; and who follows the feed hears of all that they do.
func TestEraseFeedBytes(t *testing.T) {
	dir := t.TempDir()
	n := testNode(t, dir, withFeed)
	defer func() { closeNode(t, n) }()
	c := acme(t, n)
	define(t, n, "auto", `count(event.section == "auto") >= 1`)
	x := newListener(t)
	submit(t, n, canaryPage(c, "auto"), page(c, "stays", "auto", time.Now()))
	x.agree(n, c, []string{canary.Value(), "stays"})
	name := n.FeedName(c, canary)
	if len(holding(t, dir, name)) == 0 {
		t.Fatal("no file has the name: the test sees nothing")
	}
	optOut(t, n, canary, false)
	x.agree(n, c, []string{canary.Value(), "stays"})
	heard := make(chan *nats.Msg, 1<<16)
	sub, err := n.Conn().ChanSubscribe(log.OutletSubject("acme"), heard)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := n.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	moves := atomic.Int64{}
	go func() {
		var err error
		for err == nil && ctx.Err() == nil {
			var b proto.Batch
			b.AddEvent(n.Hasher(), page(c, fmt.Sprint("v", moves.Load()+1), "auto", time.Now()))
			if err = n.Submit(ctx, &b).Err; err == nil {
				moves.Add(1)
			}
			time.Sleep(time.Millisecond)
		}
		if ctx.Err() != nil {
			err = nil
		}
		done <- err
	}()
	for i := range 3 { // each finds more
		until(t, n, 10*time.Second, "nobody comes", func() bool { return moves.Load() > int64(50*(i+1)) })
		if _, err := n.EraseBytes(t.Context()); err != nil {
			t.Fatal(err)
		}
		if files := holding(t, dir, name); len(files) > 0 {
			t.Fatalf("after the erasure these files still have it: %v", files)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	told := map[string]int{}
	for i := int64(1); i <= moves.Load(); {
		if told[n.FeedName(c, proto.Identity(fmt.Sprint("browser:v", i)))] > 0 {
			i++
			continue
		}
		select {
		case m := <-heard:
			var p proto.FeedMessage
			if err := json.Unmarshal(m.Data, &p); err != nil {
				t.Fatal(err)
			}
			for _, l := range p.Changes {
				if told[l.Identity]++; told[l.Identity] > 1 {
					t.Fatalf("%+v is told twice", l)
				}
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("visitor %d of %d is not told of", i, moves.Load())
		}
	}
}

// A segment's edit that is filled beside it is told as one line of each lane, and
// its deletion likewise; what moves after it is of the new rule. A client that
// asks no more has nothing left of its feed.
func TestFeedOfEdits(t *testing.T) {
	dir := t.TempDir()
	n := testNode(t, dir, withFeed)
	c := acme(t, n)
	define(t, n, "auto", `count(event.section == "auto") >= 2`)
	now := time.Now()
	for i := range 50 {
		v := fmt.Sprint("v", i)
		submit(t, n, page(c, v, "auto", now))
	}
	x := newListener(t)
	x.agree(n, c, nil)
	define(t, n, "auto", `count(event.section == "auto") >= 1`)
	until(t, n, 20*time.Second, "the edit does not answer", func() bool { return count(t, n, c, "auto") == 50 })
	submit(t, n, page(c, "late", "auto", now))
	until(t, n, 10*time.Second, "the late one is not told", func() bool {
		x.read(n, c)
		return x.in[member{"auto", n.FeedName(c, "browser:late")}]
	})
	if len(x.in) != 1 {
		t.Errorf("%d members are told, the swap was to be told as a whole", len(x.in))
	}
	if err := n.Undefine(t.Context(), c, "auto"); err != nil {
		t.Fatal(err)
	}
	until(t, n, 10*time.Second, "the deletion is not told", func() bool {
		x.read(n, c)
		return len(x.marks) > 0 && x.marks[len(x.marks)-1] == "undefined auto"
	})
	want := []string{"began ", "defined auto", "defined auto", "undefined auto"}
	if diff := cmp.Diff(want, x.marks); diff != "" {
		t.Errorf("marks (-want +got):\n%s", diff)
	}
	closeNode(t, n)

	n = testNode(t, dir, withFeed, func(c *engine.Config) { c.Feeds.Clients = nil })
	defer closeNode(t, n)
	define(t, n, "auto", `count(event.section == "auto") >= 1`)
	until(t, n, 10*time.Second, "the feed does not end", func() bool {
		_, err := n.FeedPage(t.Context(), c, 0, 10)
		return proto.CodeOf(err) == proto.CodeNotFound && n.FeedRows() == 0
	})
}

// Whatever comes, a feed adds up to the look-ups, and nothing is told twice.
func TestFeedAddsUp(t *testing.T) {
	n := testNode(t, t.TempDir(), withFeed, lanes(3))
	defer closeNode(t, n)
	c := acme(t, n)
	defineUser(t, n, c, "pair", `count(event.section == "a") >= 1 && count(event.section == "b") >= 1`)
	define(t, n, "much", `count(event.section == "a", "1s") >= 2`)
	define(t, n, "not", `!member("much")`)
	r := rand.New(rand.NewPCG(4, 2))
	var visitors []string
	for i := range 12 {
		visitors = append(visitors, fmt.Sprint("w", i))
	}
	pick := func() string { return visitors[r.IntN(len(visitors))] }
	x := newListener(t)
	for range 300 {
		switch r.IntN(12) {
		case 0:
			a, b := pick(), pick()
			if a != b {
				if _, err := n.Link(t.Context(), c, proto.Link{A: proto.Identity("browser:" + a), B: proto.Identity("browser:" + b), Confidence: 1}); err != nil {
					t.Fatal(err)
				}
			}
		case 1:
			if _, err := n.Unlink(t.Context(), c, proto.Identity("browser:"+pick()), ""); err != nil {
				t.Fatal(err)
			}
		case 2:
			optOut(t, n, proto.Identity("browser:"+pick()), false)
		case 3:
			_, err := n.OptIn(t.Context(), proto.ClientInfo{}, proto.Identity("browser:"+pick()))
			if err != nil && proto.CodeOf(err) != proto.CodeConflict {
				t.Fatal(err)
			}
		default:
			submit(t, n, page(c, pick(), string("ab"[r.IntN(2)]), time.Now()))
		}
		x.read(n, c)
	}
	x.agree(n, c, visitors)
	if x.lines < 50 {
		t.Errorf("only %d lines were told", x.lines)
	}
}

// holed is an outlet of five messages of which some went after it was asked what it has.
type holed struct {
	log.Outlet
	gone []proto.Offset
}

func (holed) Info(context.Context) (log.Info, error) { return log.Info{First: 1, Last: 5}, nil }

func (x holed) Get(_ context.Context, at proto.Offset) (log.Record, error) {
	if slices.Contains(x.gone, at) {
		return log.Record{}, proto.Errorf(proto.CodeNotFound, "it went")
	}
	return log.Record{Offset: at, Data: []byte("{}")}, nil
}

// A page that comes upon messages that went says so before those behind them.
func TestFeedPageOverHoles(t *testing.T) {
	type page struct {
		Sequences []uint64
		Missed    bool
	}
	for _, x := range []struct {
		gone []proto.Offset
		want []page
	}{
		{nil, []page{{[]uint64{1, 2, 3, 4, 5}, false}}},
		{[]proto.Offset{1, 2}, []page{{[]uint64{3, 4, 5}, true}}},
		{[]proto.Offset{2, 4}, []page{{[]uint64{1}, false}, {[]uint64{3}, true}, {[]uint64{5}, true}}},
		{[]proto.Offset{4, 5}, []page{{[]uint64{1, 2, 3}, false}, {nil, true}}},
	} {
		var got []page
		for after := uint64(0); after < 5; {
			p, err := engine.FeedPageOf(t.Context(), holed{gone: x.gone}, after, 100)
			if err != nil || p.Next == after {
				t.Fatalf("without %v, after %d: %+v, %v", x.gone, after, p, err)
			}
			var list []uint64
			for _, m := range p.Messages {
				list = append(list, m.Sequence)
			}
			got, after = append(got, page{list, p.Missed}), p.Next
		}
		if diff := cmp.Diff(x.want, got); diff != "" {
			t.Errorf("without %v (-want +got):\n%s", x.gone, diff)
		}
	}
}
