package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/engine"
	"kith/proto"
)

// TestUnlinkAllThatCameBefore: links that a client made before it has all of its own
// removed go, though their proposals are still on their way from another lane.
func TestUnlinkAllThatCameBefore(t *testing.T) {
	n := testNode(t, t.TempDir(), lanes(2))
	defer closeNode(t, n)
	c := acme(t, n)
	var ids []proto.Identity
	for i := 0; len(ids) < 40; i++ {
		here, there := proto.Identity(fmt.Sprintf("browser:here%d", i)), proto.Identity(fmt.Sprintf("account:there%d", i))
		if n.LaneOf(here) == n.LaneOf(there) {
			continue
		}
		var b proto.Batch
		b.AddEvent(n.Hasher(), &proto.Event{Client: c.ID, Space: c.Space, Identities: []proto.Identity{there, here}, Time: proto.MillisOf(time.Now()), Received: proto.MillisOf(time.Now()), EventBody: proto.EventBody{Name: "login"}})
		if r := n.Submit(t.Context(), &b); r.Err != nil { // acknowledged, and not applied yet
			t.Fatal(r.Err)
		}
		if _, err := n.Unlink(t.Context(), c, here, ""); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, here, there)
	}
	if err := n.Arrived(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if u, err := n.User(t.Context(), c, id); err != nil || len(u.Members) != 1 {
			t.Errorf("%s is one with %v: %v", id, u.Members, err)
		}
	}
}

// TestUnlinkBesideStoppedLane: links that a stopped lane has yet to hand over are made
// once it goes on, so a removal of all says that it removed none; one of a link holds.
func TestUnlinkBesideStoppedLane(t *testing.T) {
	dir := t.TempDir()
	n := testNode(t, dir, lanes(2))
	c := acme(t, n)
	here, gone, stays := proto.Identity("browser:here"), proto.Identity("account:gone"), proto.Identity("account:stays")
	for i := 0; n.LaneOf(gone) == n.LaneOf(here); i++ {
		gone = proto.Identity(fmt.Sprint("account:gone", i))
	}
	for i := 0; n.LaneOf(stays) == n.LaneOf(here); i++ {
		stays = proto.Identity(fmt.Sprint("account:stays", i))
	}
	n.Quarantine(n.LaneOf(gone), errors.New("a damaged entry"))
	for _, there := range []proto.Identity{gone, stays} {
		var b proto.Batch
		b.AddEvent(n.Hasher(), &proto.Event{Client: c.ID, Space: c.Space, Identities: []proto.Identity{there, here}, Time: proto.MillisOf(time.Now()), Received: proto.MillisOf(time.Now()), EventBody: proto.EventBody{Name: "login"}})
		if r := n.Submit(t.Context(), &b); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	if _, err := n.Unlink(t.Context(), c, here, ""); proto.CodeOf(err) != proto.CodeQuarantined || !strings.Contains(err.Error(), fmt.Sprintf("lane %s is", n.LaneOf(gone))) {
		t.Errorf("of all: %v", err)
	}
	if _, err := n.Unlink(t.Context(), c, here, gone); err != nil {
		t.Errorf("of one: %v", err)
	}
	_ = n.Close()
	n = testNode(t, dir, lanes(2))
	defer closeNode(t, n)
	if err := n.Arrived(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := membersOf(t, n, c, here); len(got) != 2 || !slices.Contains(got, stays) {
		t.Errorf("it is one with %v", got)
	}
}

// A link that is asked for once a client's were removed counts, though the clock of a
// node which took one of those that went is ahead of this node's.
func TestLinkAfterUnlinkingAll(t *testing.T) {
	url, o := startNATS(t), &owners{owner: "a", changed: make(chan struct{})}
	n := testNode(t, t.TempDir(), lanes(2), func(c *engine.Config) {
		c.Node, c.NATSURL, c.Peers, c.HashSecret = "a", url, o, bytes.Repeat([]byte{7}, 16)
	})
	defer closeNode(t, n)
	c := acme(t, n)
	here, there := proto.Identity("browser:here"), proto.Identity("account:there")
	for i := 0; n.LaneOf(here) == n.LaneOf(there); i++ {
		there = proto.Identity(fmt.Sprint("account:there", i))
	}
	ahead := proto.MillisOf(time.Now().Add(450 * time.Millisecond))
	var b proto.Batch
	b.AddEvent(n.Hasher(), &proto.Event{Client: c.ID, Space: c.Space, Identities: []proto.Identity{there, here}, Time: ahead, Received: ahead, EventBody: proto.EventBody{Name: "login"}})
	if err := n.TakeFromAnother(t.Context(), n.LaneOf(there), ahead, &b); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Unlink(t.Context(), c, here, ""); err != nil {
		t.Fatal(err)
	}
	if got := membersOf(t, n, c, here); len(got) != 1 {
		t.Fatalf("it is one with %v still", got)
	}
	link(t, n, c, here, there, yes())
}

// A removal takes a standing link away, though the lane of the other end took it in again
// by a clock that is ahead, which this end is not told of where it says the same.
func TestUnlinkWhatAClockAheadRenewed(t *testing.T) {
	url, o := startNATS(t), &owners{owner: "a", changed: make(chan struct{})}
	n := testNode(t, t.TempDir(), lanes(2), func(c *engine.Config) {
		c.Node, c.NATSURL, c.Peers, c.HashSecret = "a", url, o, bytes.Repeat([]byte{7}, 16)
	})
	defer closeNode(t, n)
	c := acme(t, n)
	for i, all := range []bool{true, false} {
		here := proto.Identity(fmt.Sprint("browser:here", i))
		var there proto.Identity
		for k := 0; there == "" || n.LaneOf(here) == n.LaneOf(there); k++ {
			there = proto.Identity(fmt.Sprintf("account:there%d-%d", i, k))
		}
		login := func(at time.Time) *proto.Batch {
			var b proto.Batch
			b.AddEvent(n.Hasher(), &proto.Event{Client: c.ID, Space: c.Space, Identities: []proto.Identity{there, here}, Time: proto.MillisOf(at), Received: proto.MillisOf(at), EventBody: proto.EventBody{Name: "login"}})
			return &b
		}
		if r := n.Submit(t.Context(), login(time.Now())); r.Err != nil {
			t.Fatal(r.Err)
		}
		if err := n.Arrived(t.Context()); err != nil {
			t.Fatal(err)
		}
		settle(t, n)
		if got := membersOf(t, n, c, here); len(got) != 2 {
			t.Fatalf("it is one with %v", got)
		}
		ahead := time.Now().Add(450 * time.Millisecond)
		if err := n.TakeFromAnother(t.Context(), n.LaneOf(there), proto.MillisOf(ahead), login(ahead)); err != nil {
			t.Fatal(err)
		}
		b := there
		if all {
			b = ""
		}
		if _, err := n.Unlink(t.Context(), c, here, b); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := n.Arrived(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for _, id := range []proto.Identity{here, there} {
			if got := membersOf(t, n, c, id); len(got) != 1 {
				t.Errorf("removed with b %q, %s is one with %v", b, id, got)
			}
		}
		if all {
			link(t, n, c, there, here, yes())
		}
	}
}

func lanes(n int) func(*engine.Config) { return func(c *engine.Config) { c.Lanes = n } }

// link links two identities and wants the answer.
func link(t *testing.T, n *engine.Node, c proto.ClientInfo, a, b proto.Identity, want proto.Linked) {
	t.Helper()
	got, err := n.Link(t.Context(), c, proto.Link{A: a, B: b, Confidence: 1})
	if err != nil {
		t.Fatalf("link %s %s: %v", a, b, err)
	}
	if got != want {
		t.Fatalf("link %s %s: %+v, want %+v", a, b, got, want)
	}
}

func yes() proto.Linked { return proto.Linked{Linked: true} }

// membersOf are the identities of id's user.
func membersOf(t *testing.T, n *engine.Node, c proto.ClientInfo, id proto.Identity) []proto.Identity {
	t.Helper()
	u, err := n.User(t.Context(), c, id)
	if err != nil {
		t.Fatal(err)
	}
	return u.Members
}

// settle waits until verify finds nothing under way.
func settle(t *testing.T, n *engine.Node) engine.VerifyReport {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		r, err := n.Verify(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Problems) > 0 {
			t.Fatalf("verify: %q", r.Problems)
		}
		if !r.Unsettled {
			return r
		}
		if err := n.AwaitChange(ctx); err != nil {
			t.Fatal("graph messages do not come to rest")
		}
	}
}

func defineUser(t *testing.T, n *engine.Node, c proto.ClientInfo, id, when string) {
	t.Helper()
	if _, err := n.Define(t.Context(), c, proto.SegmentSpec{ID: proto.SegmentID(id), Scope: "user", When: when, Backfill: true}); err != nil {
		t.Fatal(err)
	}
}

func lookup(t *testing.T, n *engine.Node, c proto.ClientInfo, id proto.Identity) (proto.Seen, []proto.SegmentID) {
	t.Helper()
	before, _, err1 := n.Lookup(c, id, proto.MillisOf(time.Now()), nil)
	short, err2 := n.Seen(c, id)
	seen, list, err3 := n.Lookup(c, id, proto.MillisOf(time.Now()), nil)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	if short != seen && short != before {
		t.Errorf("%s of %s: %+v with its segments, %+v without", id, c.Name, seen, short)
	}
	slices.Sort(list)
	return seen, list
}

func wantSegments(t *testing.T, n *engine.Node, c proto.ClientInfo, id proto.Identity, want ...proto.SegmentID) {
	t.Helper()
	_, got := lookup(t, n, c, id)
	slices.Sort(want)
	if diff := cmp.Diff(want, got, cmp.Transformer("none", func(l []proto.SegmentID) []proto.SegmentID {
		if l == nil {
			return []proto.SegmentID{}
		}
		return l
	})); diff != "" {
		t.Errorf("segments of %s (-want +got):\n%s", id, diff)
	}
}

func optOut(t *testing.T, n *engine.Node, id proto.Identity, everywhere bool) proto.Receipt {
	t.Helper()
	s, err := n.OptOut(t.Context(), proto.ClientInfo{}, id, everywhere)
	if err != nil {
		t.Fatal(err)
	}
	if !s.OptedOut || !s.Final || s.Receipt == nil || !engine.ValidReceipt(s.Receipt) {
		t.Fatalf("opt-out of %s: %+v", id, s)
	}
	return *s.Receipt
}

// The life of a user: two devices join over an account, what they did together
// counts, one opts out, and the other is as if it had never been linked.
func TestUser(t *testing.T) {
	for _, k := range []int{1, 4} {
		t.Run(fmt.Sprint(k, "lanes"), func(t *testing.T) {
			n := testNode(t, t.TempDir(), lanes(k))
			defer func() { closeNode(t, n) }()
			c := acme(t, n)
			defineUser(t, n, c, "auto", `count(event.section == "auto", "30d") >= 3`)
			defineUser(t, n, c, "many", `devices() >= 2`)
			defineUser(t, n, c, "quiet", `count(event.section == "sport", "30d") == 0`)
			define(t, n, "own", `count(event.section == "auto", "30d") >= 2`)
			now := time.Now()
			submit(t, n, page(c, "a", "auto", now), page(c, "a", "auto", now), page(c, "b", "auto", now), page(c, "z", "sport", now))
			wantSegments(t, n, c, "browser:a", "own", "quiet")
			link(t, n, c, "browser:a", "account:x", yes())
			link(t, n, c, "account:x", "browser:b", yes())
			if diff := cmp.Diff([]proto.Identity{"account:x", "browser:a", "browser:b"}, membersOf(t, n, c, "browser:b")); diff != "" {
				t.Fatal(diff)
			}
			settle(t, n)
			wantSegments(t, n, c, "browser:a", "auto", "own", "many", "quiet")
			wantSegments(t, n, c, "browser:b", "auto", "many", "quiet")
			wantSegments(t, n, c, "account:x", "auto", "many", "quiet")
			users, err := n.Count(t.Context(), c, "quiet | !quiet", "users")
			if err != nil || *users.Count != 2 {
				t.Fatalf("users: %v %v", users.Count, err)
			}
			if got := count(t, n, c, "auto"); got != 3 {
				t.Errorf("auto has %d identities", got)
			}
			r := optOut(t, n, "account:x", false)
			if r.CopiesRetracted+r.MembersRefreshed == 0 {
				t.Errorf("a cut of the middle retracted nothing: %+v", r)
			}
			wantSegments(t, n, c, "browser:a", "own", "quiet")
			wantSegments(t, n, c, "browser:b", "quiet")
			if seen, list := lookup(t, n, c, "account:x"); !seen.OptedOut || seen.Known || len(list) > 0 {
				t.Errorf("an opted-out identity shows %+v %v", seen, list)
			}
			if got := membersOf(t, n, c, "browser:a"); len(got) != 1 {
				t.Errorf("browser:a is still with %v", got)
			}
			link(t, n, c, "browser:a", "account:x", proto.Linked{Reason: "opted_out"})
			link(t, n, c, "account:x", "browser:b", proto.Linked{Reason: "opted_out"})
			settle(t, n)
			if s, err := n.OptIn(t.Context(), proto.ClientInfo{}, "account:x"); err != nil || s.OptedOut {
				t.Fatalf("opt-in: %+v %v", s, err)
			}
			if seen, _ := lookup(t, n, c, "account:x"); seen.OptedOut || seen.Known {
				t.Errorf("after the opt-in it shows %+v", seen)
			}
			until(t, n, 10*time.Second, "the link after the opt-in", func() bool {
				x, err := n.Link(t.Context(), c, proto.Link{A: "browser:a", B: "account:x", Confidence: 1})
				return err == nil && x.Linked
			})
			settle(t, n)
		})
	}
}

// What is acknowledged after the answer to an opt-in or an erasure is kept.
func TestBeginsAnewAtOnce(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer func() { closeNode(t, n) }()
	c := acme(t, n)
	for _, x := range []struct {
		what string
		do   func(proto.Identity) error
	}{
		{"in", func(id proto.Identity) error {
			optOut(t, n, id, false)
			_, err := n.OptIn(t.Context(), proto.ClientInfo{}, id)
			return err
		}},
		{"erased", func(id proto.Identity) error { _, err := n.Erase(t.Context(), nil, id); return err }},
		{"forgotten", func(id proto.Identity) error { _, err := n.Erase(t.Context(), &c, id); return err }},
	} {
		id := proto.Identity("browser:" + x.what)
		submit(t, n, page(c, x.what, "auto", time.Now()))
		if err := x.do(id); err != nil {
			t.Fatal(err)
		}
		if seen, _ := lookup(t, n, c, id); seen.Known {
			t.Errorf("%s shows %+v", id, seen)
		}
		link(t, n, c, id, "account:x", yes())
		submit(t, n, page(c, x.what, "auto", time.Now()))
		if r, err := n.Record(t.Context(), c, id); err != nil || len(r.Events) != 1 {
			t.Errorf("%s: the event that followed is not kept: %+v %v", id, r, err)
		}
		settle(t, n)
	}
}

// A list of opt-outs is one sync, and each of it has a receipt of its own.
func TestOptOutAll(t *testing.T) {
	for _, k := range []int{1, 4} {
		n := testNode(t, t.TempDir(), lanes(k))
		c := acme(t, n)
		ids := []proto.Identity{"account:shared"}
		for i := range 50 {
			id := proto.Identity(fmt.Sprint("browser:v", i))
			submit(t, n, page(c, fmt.Sprint("v", i), "auto", time.Now()))
			link(t, n, c, id, "account:shared", proto.Linked{Linked: i < 32, Reason: map[bool]string{false: "cap"}[i < 32]})
			ids = append(ids, id)
		}
		list, err := n.OptOutAll(t.Context(), proto.ClientInfo{}, ids, false)
		if err != nil || len(list) != len(ids) {
			t.Fatalf("%d states: %v", len(list), err)
		}
		for i, s := range list {
			if s.Identity != ids[i] || !s.Final || s.Receipt == nil || !engine.ValidReceipt(s.Receipt) {
				t.Errorf("%s: %+v", ids[i], s)
			}
			if seen, segments := lookup(t, n, c, ids[i]); !seen.OptedOut || len(segments) > 0 {
				t.Errorf("%s shows %+v %v", ids[i], seen, segments)
			}
		}
		settle(t, n)
		closeNode(t, n)
	}
}

// Who is on a list of opt-outs many times is cut once, and told of at each place.
func TestOptOutAllOfOneManyTimes(t *testing.T) {
	n := testNode(t, t.TempDir(), lanes(4))
	defer closeNode(t, n)
	c := acme(t, n)
	for i := range 10 {
		id := fmt.Sprint("of", i)
		submit(t, n, page(c, id, "auto", time.Now()))
		link(t, n, c, proto.Identity("browser:"+id), "browser:a", yes())
	}
	var ids []proto.Identity
	for range 200 { // over the cuts of one identity that may be under way
		ids = append(ids, "browser:a", "browser:b")
	}
	list, err := n.OptOutAll(t.Context(), proto.ClientInfo{}, ids, false)
	if err != nil || len(list) != len(ids) {
		t.Fatalf("%d states: %v", len(list), err)
	}
	for i, s := range list {
		if s.Identity != ids[i] || !s.OptedOut || !s.Final || s.Receipt.ID != list[i%2].Receipt.ID {
			t.Errorf("at %d, of %s: %+v", i, ids[i], s)
		}
	}
	if list[0].Receipt.ID == list[1].Receipt.ID {
		t.Error("two identities have one receipt")
	}
}

// Who is cut along with another has a receipt with an id of its own, which stays.
func TestReceiptsOfTakenAlong(t *testing.T) {
	dir := t.TempDir()
	n := testNode(t, dir, lanes(2))
	defer func() { closeNode(t, n) }()
	c := acme(t, n)
	all := []proto.Identity{"account:shared"}
	for i := range 3 {
		id := proto.Identity(fmt.Sprint("browser:v", i))
		submit(t, n, page(c, fmt.Sprint("v", i), "auto", time.Now()))
		link(t, n, c, id, "account:shared", yes())
		all = append(all, id)
	}
	settle(t, n)
	optOut(t, n, "account:shared", true)
	settle(t, n)
	ids := func() (list []string) {
		for _, id := range all {
			if err := n.AwaitTold(t.Context(), id); err != nil { // again after a restart
				t.Fatal(err)
			}
			s, err := n.OptOutState(t.Context(), id)
			if err != nil || s.Receipt == nil || !engine.ValidReceipt(s.Receipt) || s.Receipt.ID == "0" || slices.Contains(list, s.Receipt.ID) {
				t.Fatalf("%s: %+v, %v; others' ids are %v", id, s, err, list)
			}
			list = append(list, s.Receipt.ID)
		}
		return list
	}
	before := ids()
	closeNode(t, n)
	n = testNode(t, dir, lanes(2))
	if diff := cmp.Diff(before, ids()); diff != "" {
		t.Errorf("the ids after a restart (-before +after):\n%s", diff)
	}
}

// Who is told of a client's erasure: that client, by the receipt that its answer
// had or would have had, until something newer is everybody's; and nobody else.
func TestStateOfAnErasure(t *testing.T) {
	n := testNode(t, t.TempDir())
	mine, _ := grouped(t, n, "alpha")
	other, _ := grouped(t, n, "beta")
	submit(t, n, page(mine, "a", "auto", time.Now()), page(other, "a", "auto", time.Now()), page(mine, "b", "auto", time.Now()))
	state := func(c proto.ClientInfo, id proto.Identity) proto.OptOutState {
		t.Helper()
		s, err := n.OptOutStateFor(t.Context(), c, id)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, id := range []proto.Identity{"browser:a", "browser:b", "browser:never"} { // others know it, nobody else does, nobody does
		answer, err := n.Erase(t.Context(), &mine, id)
		if err != nil || answer.Receipt == nil || answer.Receipt.Client != "alpha" {
			t.Fatalf("%s: %+v %v", id, answer, err)
		}
		if diff := cmp.Diff(answer, state(mine, id)); diff != "" {
			t.Errorf("%s: the state (-answer +state):\n%s", id, diff)
		}
		for _, c := range []proto.ClientInfo{other, {}} {
			if diff := cmp.Diff(proto.OptOutState{Identity: id}, state(c, id)); diff != "" {
				t.Errorf("%s: client %q is told:\n%s", id, c.Name, diff)
			}
		}
	}
	r := optOut(t, n, "browser:a", false)
	for _, c := range []proto.ClientInfo{mine, other} {
		if s := state(c, "browser:a"); !s.OptedOut || !s.Final || s.Receipt.ID != r.ID {
			t.Errorf("client %q after the opt-out: %+v", c.Name, s)
		}
	}
	closeNode(t, n)
}

// A receipt counts what was done in the space of who is told it, and to operators all: by
// whatever way it is had.
func TestReceiptsCountBySpace(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	apart := func(name proto.ClientName) proto.ClientInfo {
		if _, err := n.CreateKey(t.Context(), name, proto.RoleClient, ""); err != nil {
			t.Fatal(err)
		}
		c, _ := n.Client(name)
		return c
	}
	few, many, none := apart("few"), apart("many"), apart("none")
	ways := []func(c proto.ClientInfo, id proto.Identity) (proto.OptOutState, error){
		func(c proto.ClientInfo, id proto.Identity) (proto.OptOutState, error) {
			return n.OptOut(t.Context(), c, id, true)
		},
		func(c proto.ClientInfo, id proto.Identity) (proto.OptOutState, error) {
			list, err := n.OptOutAll(t.Context(), c, []proto.Identity{id}, true)
			return slices.Concat(list, make([]proto.OptOutState, 1))[0], err
		},
		func(c proto.ClientInfo, id proto.Identity) (proto.OptOutState, error) {
			if _, err := n.OptOut(t.Context(), proto.ClientInfo{}, id, true); err != nil {
				return proto.OptOutState{}, err
			}
			return n.OptOutStateFor(t.Context(), c, id)
		},
	}
	asking := []struct {
		c    proto.ClientInfo
		also int
	}{{few, 1}, {many, 3}, {none, 0}, {proto.ClientInfo{}, 4}}
	for way := range ways {
		for i := range asking {
			x := proto.Identity(fmt.Sprintf("browser:x%d.%d", way, i))
			link(t, n, few, x, x+".few", yes())
			for k := range 3 {
				link(t, n, many, x, x+proto.Identity(fmt.Sprint(".many", k)), yes())
			}
		}
	}
	settle(t, n)
	for way, ask := range ways {
		for i, by := range asking {
			s, err := ask(by.c, proto.Identity(fmt.Sprintf("browser:x%d.%d", way, i)))
			if err != nil || s.Receipt == nil {
				t.Fatalf("by way %d for %q: %+v %v", way, by.c.Name, s, err)
			}
			r := s.Receipt
			if told := r.CopiesRetracted + r.MembersRefreshed; r.Also != by.also || told < by.also || by.also == 0 && told > 0 || !engine.ValidReceipt(r) {
				t.Errorf("by way %d for %q: %d also, %d copies, %d members; want %d also", way, by.c.Name, r.Also, r.CopiesRetracted, r.MembersRefreshed, by.also)
			}
		}
	}
}

// Whether anything is kept of an identity: of one that nobody named nothing is,
// of any other something, if only that it was cut out.
func TestKeeps(t *testing.T) {
	for _, k := range []int{1, 4} {
		n := testNode(t, t.TempDir(), lanes(k))
		c := acme(t, n)
		keeps := func(id proto.Identity, want bool) {
			t.Helper()
			if got, err := n.Keeps(id); err != nil || got != want {
				t.Errorf("%d lanes: %s: %t %v", k, id, got, err)
			}
		}
		keeps("browser:a", false)
		submit(t, n, page(c, "a", "auto", time.Now()))
		link(t, n, c, "account:x", "partner.adx:y", yes())
		settle(t, n)
		for _, id := range []proto.Identity{"browser:a", "account:x", "partner.adx:y"} {
			keeps(id, true)
		}
		keeps("browser:b", false)
		optOut(t, n, "browser:a", false)
		optOut(t, n, "browser:never", false)
		for _, id := range []proto.Identity{"browser:a", "browser:never"} {
			keeps(id, true)
		}
		if _, err := n.OptIn(t.Context(), proto.ClientInfo{}, "browser:never"); err != nil {
			t.Error(err)
		}
		keeps("browser:never", true)
		keeps("browser:neve", false)
		closeNode(t, n)
	}
}

// TestPositionsIncludeOtherLanes: what a position names is seen with what it led to in
// lanes that it does not name: a user's segments, whoever's home the root's is.
func TestPositionsIncludeOtherLanes(t *testing.T) {
	n := testNode(t, t.TempDir(), lanes(4))
	c := acme(t, n)
	send := func(name string, ids ...proto.Identity) {
		t.Helper()
		submit(t, n, &proto.Event{Client: c.ID, Space: c.Space, Identities: ids, Time: proto.MillisOf(time.Now()), Received: proto.MillisOf(time.Now()), EventBody: proto.EventBody{Name: name}})
	}
	defineUser(t, n, c, "reader", `count(event.name == "page") >= 1`)
	in := func(id proto.Identity, what string) {
		t.Helper()
		if seen, list := lookup(t, n, c, id); !seen.Known || len(list) != 1 {
			t.Errorf("%s: %s: %+v %v", what, id, seen, list)
		}
	}
	for i := range 20 {
		browser, account, other := proto.Identity(fmt.Sprintf("browser:b%d", i)), proto.Identity(fmt.Sprintf("account:a%d", i)), proto.Identity(fmt.Sprintf("browser:c%d", i))
		send("page", browser, account)
		in(browser, "an event's own identity")
		in(account, "one that it links")
		send("login", other, account)
		in(other, "one that is linked later")
		if got := membersOf(t, n, c, other); len(got) != 3 {
			t.Errorf("the user is %v", got)
		}
	}
}
