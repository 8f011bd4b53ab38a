package engine_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/engine"
	"kith/engine/store"
	"kith/proto"
)

var threeInCommon = proto.HouseholdRule{DaysMin: 3, IdentitiesMax: 4}

// at is an event of a visitor on a network.
func (s *script) at(c proto.ClientInfo, visitor string, network proto.NetworkKey) *proto.Event {
	e := s.event(c, visitor, "x")
	e.Network = network
	return e
}

// household is who shares networks with a visitor: each with the days.
func (s *script) household(n *engine.Node, c proto.ClientInfo, rule proto.HouseholdRule, visitors ...string) (list []string) {
	s.t.Helper()
	var ids []proto.Identity
	for _, v := range visitors {
		ids = append(ids, proto.Identity("browser:"+v))
	}
	edges, err := n.Household(context.Background(), c, ids, rule)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range edges {
		if e.Kind != "household" || e.Method != "inferred" || !(e.Confidence > 0 && e.Confidence < 1) {
			s.t.Errorf("an edge that is none of a household: %+v", e)
		}
		list = append(list, fmt.Sprint(e.A.Value(), " ", e.B.Value(), " ", e.Days))
	}
	slices.Sort(list)
	return list
}

func wantHousehold(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: the household is %q, want %q", what, got, want)
	}
}

func (s *script) cut(id proto.Identity, kind proto.CutKind) {
	var b proto.Batch
	s.pads++
	b.AddCut(&proto.CutCommand{Hash: s.hasher.Hash(id), Kind: kind, Received: s.now, Command: uint64(1000 + s.pads)})
	s.own(b.Bytes(), 1)
}

// Devices that share a network on enough days are of one household, whichever is
// asked about; it joins no users, is one client's alone, and goes with either end: by an
// opt-out, an erasure or what one client forgets. Nothing of it is left in the store.
func TestHousehold(t *testing.T) {
	s := newScript(t)
	c, other := s.client("acme", ""), s.client("other", "")
	s.define(c, "two", `devices() >= 2`)
	const home, cafe = proto.NetworkKey(7), proto.NetworkKey(1 << 60)
	s.beat(0)
	for d := range 4 {
		s.events(s.at(c, "a", home), s.at(c, "b", home), s.at(other, "z", home))
		if d < 3 {
			s.events(s.at(c, "c", home))
		}
		if d < 2 {
			s.events(s.at(c, "d", home)) // too few days
			s.events(s.at(c, "a", cafe), s.at(c, "e", cafe))
		}
		s.events(s.at(c, "f", cafe), s.event(c, "g", "x")) // elsewhere, and nowhere
		s.beat(day)
	}
	st := store.NewMemory()
	n := s.run(st)
	wantHousehold(t, "of a", s.household(n, c, threeInCommon, "a"), "a b 4", "a c 3")
	wantHousehold(t, "of b", s.household(n, c, threeInCommon, "b"), "b a 4", "b c 3")
	wantHousehold(t, "of d", s.household(n, c, threeInCommon, "d"))
	wantHousehold(t, "of d, by a rule of two days", s.household(n, c, proto.HouseholdRule{DaysMin: 2, IdentitiesMax: 4}, "d"), "d a 2", "d b 2", "d c 2")
	wantHousehold(t, "of g", s.household(n, c, threeInCommon, "g"))
	wantHousehold(t, "of z for the other client", s.household(n, other, threeInCommon, "z"))
	wantHousehold(t, "of z", s.household(n, c, threeInCommon, "z"))
	wantHousehold(t, "of a and b, who are one user", s.household(n, c, threeInCommon, "a", "b"), "a c 3", "b c 3")
	if u := membersOf(t, n, c, "browser:a"); len(u) != 1 {
		t.Errorf("a household joined users: %v", u)
	}
	if got := s.lookup(n, c, "a"); got != "true []" {
		t.Errorf("rules count a household's devices: %s", got)
	}
	if rec, err := n.Record(t.Context(), c, "browser:a"); err != nil || len(rec.Networks) != 2 || len(rec.Networks[0].Days) != 4 {
		t.Errorf("what is held does not show the networks: %+v %v", rec.Networks, err)
	}
	closeNode(t, n)
	before := engine.NetworkRows(st)

	s.cut("browser:b", proto.CutOptOut)
	s.cut("browser:c", proto.CutErase)
	s.beat(time.Second)
	n = s.run(st)
	wantHousehold(t, "of a, after the cuts", s.household(n, c, threeInCommon, "a"))
	wantHousehold(t, "of b, who is opted out", s.household(n, c, threeInCommon, "b"))
	wantHousehold(t, "of c, who was erased", s.household(n, c, threeInCommon, "c"))
	closeNode(t, n)
	if after := engine.NetworkRows(st); after != before-2 {
		t.Errorf("%d rows of networks are left of %d, two should be gone", after, before)
	}
	// Late events of whoever is opted out lead nowhere; who was erased begins anew.
	s.beat(time.Minute)
	s.events(s.at(c, "b", home), s.at(c, "c", home))
	s.beat(time.Second)
	n = s.run(st)
	wantHousehold(t, "of a, after late events", s.household(n, c, proto.HouseholdRule{DaysMin: 2, IdentitiesMax: 4}, "a"), "a d 2", "a e 2", "a f 2")
	if rec, err := n.Record(t.Context(), c, "browser:c"); err != nil || len(rec.Networks) != 1 || len(rec.Networks[0].Days) != 1 {
		t.Errorf("who was erased remembers %+v, %v", rec.Networks, err)
	}
	closeNode(t, n)
	s.verify(st)
	// Whoever applies the log anew, in other pieces, comes to the same bytes.
	again := store.NewMemory()
	if a, b := s.verify(st), s.apply(again); a.Lanes[0].StateHash != b.Lanes[0].StateHash {
		t.Error("the state differs when the log is applied anew")
	}
}

// What one client forgets, as when it ends, takes its own part only.
func TestHouseholdForgotten(t *testing.T) {
	s := newScript(t)
	c := s.client("acme", "shared")
	s.beat(0)
	for range 3 {
		s.events(s.at(c, "a", 7), s.at(c, "b", 7))
		s.beat(day)
	}
	var b proto.Batch
	b.AddCut(&proto.CutCommand{Hash: s.hasher.Hash("browser:b"), Kind: proto.CutForget, Received: s.now, Command: 9, Client: c.ID, Space: c.Space})
	s.own(b.Bytes(), 1)
	s.beat(time.Second)
	st := store.NewMemory()
	n := s.run(st)
	wantHousehold(t, "of a", s.household(n, c, threeInCommon, "a"))
	closeNode(t, n)
	if rows := engine.NetworkRows(st); rows != 1 {
		t.Errorf("%d rows are left, want that of a", rows)
	}
	s.verify(st)
}

// A network on which more devices are seen than a household has is none: no edge leads
// over it, not even between those that are there most.
func TestHouseholdCrowd(t *testing.T) {
	s := newScript(t)
	c := s.client("acme", "")
	s.beat(0)
	for d := range 3 {
		s.events(s.at(c, "a", 7), s.at(c, "b", 7), s.at(c, "c", 7))
		if d == 2 {
			s.events(s.at(c, "guest", 7))
		}
		s.beat(day)
	}
	n := s.run(store.NewMemory())
	wantHousehold(t, "of four", s.household(n, c, threeInCommon, "a"), "a b 3", "a c 3")
	closeNode(t, n)
	s.events(s.at(c, "fifth", 7))
	s.beat(time.Second)
	n = s.run(store.NewMemory())
	wantHousehold(t, "of five", s.household(n, c, threeInCommon, "a"))
	wantHousehold(t, "of five, where so many are allowed", s.household(n, c, proto.HouseholdRule{DaysMin: 3, IdentitiesMax: 5}, "a"), "a b 3", "a c 3")
	closeNode(t, n)
	// An office: far more rows than are read.
	for i := range 1000 {
		s.events(s.at(c, fmt.Sprint("desk", i), 7))
	}
	s.beat(time.Second)
	n = s.run(store.NewMemory())
	wantHousehold(t, "of an office", s.household(n, c, proto.HouseholdRule{DaysMin: 3, IdentitiesMax: proto.HouseholdIdentitiesMax}, "a"))
	// Thirty days later only who came back counts.
	closeNode(t, n)
	for range 32 {
		s.events(s.at(c, "a", 7), s.at(c, "b", 7))
		s.beat(day)
	}
	st := store.NewMemory()
	n = s.run(st)
	wantHousehold(t, "when the office is gone", s.household(n, c, threeInCommon, "a"), "a b 29")
	closeNode(t, n)
	if rows := engine.NetworkRows(st); rows != 2 {
		t.Errorf("%d rows of networks are left, want those of a and b", rows)
	}
	s.verify(st)
}

// What somebody was seen on ends with time alone, on the last node that anybody asked
// too, and with it the rows.
func TestHouseholdEnds(t *testing.T) {
	s := newScript(t)
	c := s.client("acme", "")
	s.beat(0)
	for range 3 {
		s.events(s.at(c, "a", 7), s.at(c, "b", 7))
		s.beat(day)
	}
	for range 26 {
		s.beat(day)
	}
	st := store.NewMemory()
	n := s.run(st)
	wantHousehold(t, "a day before the first no longer counts", s.household(n, c, threeInCommon, "a"), "a b 3")
	closeNode(t, n)
	s.beat(day)
	n = s.run(st)
	wantHousehold(t, "when two days are left", s.household(n, c, threeInCommon, "a"))
	closeNode(t, n)
	for range 3 {
		s.beat(day)
	}
	s.apply(st)
	if rows := engine.NetworkRows(st); rows != 0 {
		t.Errorf("%d rows are left when nothing counts any more", rows)
	}
}

// An id that rotates is gone with all that is known of it when its last day is over,
// and nothing that comes later makes it again. It is linked with nobody.
func TestRotatingEnds(t *testing.T) {
	s := newScript(t)
	c := s.client("acme", "")
	s.define(c, "seen", `count(event.section == "x") >= 1`)
	id := proto.RotatingID(scriptStart.Day()+1, "abcdefghijklmnop")
	event := func() *proto.Event {
		e := s.event(c, "none", "x")
		e.Identities = []proto.Identity{id}
		return e
	}
	s.beat(0)
	s.events(event())
	joined := event()
	joined.Identities = append(joined.Identities, "browser:b")
	s.events(joined)
	var b proto.Batch
	b.AddLink(s.hasher, &proto.LinkCommand{Client: c.ID, Space: c.Space, A: "browser:b", B: id, Received: s.now, Confidence: 1000})
	s.own(b.Bytes(), 1)
	s.beat(day)
	st := store.NewMemory()
	n := s.run(st)
	if seen, list, err := n.Lookup(c, id, s.now, nil); err != nil || !seen.Known || len(list) != 1 {
		t.Errorf("on its last day: %+v %v %v", seen, list, err)
	}
	if u := membersOf(t, n, c, id); len(u) != 1 {
		t.Errorf("it was linked: %v", u)
	}
	closeNode(t, n)
	s.beat(day)
	s.events(event()) // too late
	s.beat(time.Second)
	n = s.run(st)
	if seen, _, err := n.Lookup(c, id, s.now, nil); err != nil || seen.Known {
		t.Errorf("the day after: %+v %v", seen, err)
	}
	if rec, err := n.Record(t.Context(), c, id); err != nil || rec.Known || len(rec.Events) > 0 {
		t.Errorf("the day after there is %+v, %v", rec, err)
	}
	if got := s.members(n, c, "seen"); got != 0 {
		t.Errorf("%d in a segment", got)
	}
	closeNode(t, n)
	s.verify(st)
}

// atMidnight is a node whose clock is a moment before midnight.
func atMidnight(t *testing.T, dir string, lanes int, left time.Duration) *engine.Node {
	now := time.Now()
	ahead := now.Truncate(day).Add(day - left).Sub(now)
	return testNode(t, dir, func(c *engine.Config) {
		c.Lanes, c.Now = lanes, func() time.Time { return time.Now().Add(ahead) }
	})
}

// An opt-out takes the edges of a household with it, in a real store with several lanes:
// its receipt finds nothing, and after an erasure of bytes no file has the network that
// only the one who opted out was seen on.
func TestHouseholdCanary(t *testing.T) {
	const home, mine = proto.NetworkKey(0x7f3a9d51c2e4b608), proto.NetworkKey(0x6a1c93e7b5d20f48)
	dir := t.TempDir()
	n := atMidnight(t, dir, 4, 4*time.Second)
	c := acme(t, n)
	rule := proto.HouseholdRule{DaysMin: 2, IdentitiesMax: 4}
	on := func(id proto.Identity, k proto.NetworkKey) *proto.Event {
		e := canaryPage(c, "x")
		e.Identities, e.Network = []proto.Identity{id}, k
		return e
	}
	edges := func(id proto.Identity) []proto.HouseholdEdge {
		list, err := n.Household(t.Context(), c, []proto.Identity{id}, rule)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	for until := time.Now().Add(time.Minute); len(edges(canary)) == 0; {
		if time.Now().After(until) {
			t.Fatal("no household was found over midnight")
		}
		submit(t, n, on(canary, home), on(canary, mine), on("browser:sibling", home))
		time.Sleep(200 * time.Millisecond)
	}
	if got := edges("browser:sibling"); len(got) != 1 || got[0].B != canary || got[0].Confidence != 0.5 || got[0].Days != 2 {
		t.Fatalf("the sibling's household: %+v", got)
	}
	if files := filesWith(t, dir, mine); len(files) == 0 {
		t.Fatal("no file has the network before the opt-out: this looks for the wrong bytes")
	}
	r := optOut(t, n, canary, false)
	if got := edges("browser:sibling"); len(got) > 0 {
		t.Errorf("after the opt-out the sibling has %+v", got)
	}
	if got := edges(canary); len(got) > 0 {
		t.Errorf("who opted out has %+v", got)
	}
	check := wantClean(t, n, r)
	if !slices.ContainsFunc(check.Places, func(p proto.ReceiptFind) bool { return p.Place == "networks" }) {
		t.Errorf("networks were not looked at: %+v", check.Places)
	}
	submit(t, n, on(canary, home), on(canary, mine)) // late
	settle(t, n)
	wantClean(t, n, r)
	if got := edges("browser:sibling"); len(got) > 0 {
		t.Errorf("after late events the sibling has %+v", got)
	}
	if _, err := n.EraseBytes(t.Context()); err != nil {
		t.Fatal(err)
	}
	if files := filesWith(t, dir, mine); len(files) > 0 {
		t.Errorf("after the erasure these files still have the network: %v", files)
	}
	if files := filesWith(t, dir, home); len(files) == 0 {
		t.Error("the sibling's network is gone too")
	}
	closeNode(t, n)
}

// filesWith lists the files below dir that have a network's bytes, as rows or as facts
// have them.
func filesWith(t *testing.T, dir string, k proto.NetworkKey) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		if bytes.Contains(b, binary.BigEndian.AppendUint64(nil, uint64(k))) || bytes.Contains(b, binary.LittleEndian.AppendUint64(nil, uint64(k))) {
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestHouseholdConfidence(t *testing.T) {
	var got []float64
	for _, x := range [][3]int{{5, 5, 5}, {20, 20, 5}, {30, 30, 2}, {5, 30, 5}, {2, 2, 2}} {
		got = append(got, engine.HouseholdConfidence(x[0], x[1], x[2]))
	}
	if d := cmp.Diff([]float64{0.5, 0.8, 0.938, 0.083, 0.5}, got); d != "" {
		t.Error(d)
	}
}
