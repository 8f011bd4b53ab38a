package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A node is killed at random moments while identities are linked and cut,
// again and again: each acknowledged link and opt-out must hold afterwards, and
// what was not acknowledged must be there whole or not at all.
func TestGraphKills(t *testing.T) {
	t.Parallel()
	kills := 15
	if s := os.Getenv("KITH_KILLS"); s != "" {
		var err error
		if kills, err = strconv.Atoi(s); err != nil {
			t.Fatalf("KITH_KILLS is %q, not a number", s)
		}
	} else if testing.Short() {
		kills = 3
	}
	for _, lanes := range graphLanes() {
		t.Run("lanes="+lanes, func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			t.Logf("seed %d, %d kills", seed, kills)
			x := &graphKills{chance: rand.New(rand.NewPCG(seed, 0)), data: t.TempDir() + "/data", lanes: lanes}
			for round := range kills {
				n := x.start(t)
				x.check(t, n)
				x.run(n, round)
				x.verifyKilled(t)
				if t.Failed() {
					t.Fatalf("after kill %d, seed %d", round, seed)
				}
			}
			x.check(t, x.start(t))
			x.summary(t)
		})
	}
}

// graphKills is what was sent to a node that is killed.
type graphKills struct {
	chance      *rand.Rand
	data, lanes string
	key         string // of receipts: the same after each start

	links, outs atomic.Int64 // acknowledged

	mu       sync.Mutex
	families []*killFamily
}

// killFamily is some identities that are linked among each other only, so that
// no cap is ever reached.
type killFamily struct {
	ids   []string
	owned bool // by one worker, which does one thing at a time

	mu    sync.Mutex
	edges map[pair]claim
	outs  map[int32]claim // opt-outs: sure that it is, or unsure
	// A removal was asked for at some time.
	parted map[pair]bool
	// An opt-out everywhere takes these along, for certain if it was made.
	with map[int32][]int32
	odd  []string // answers that nobody should get
}

// claim is what the test may say of an edge or an opt-out.
type claim uint8

const (
	sureNot claim = iota // never asked for, or acknowledged as gone
	unsure               // asked for, and not answered
	sure                 // acknowledged
)

func (x *graphKills) start(t *testing.T) *graphNode {
	t.Helper()
	return startGraphNode(t, x.data, "--lanes", x.lanes)
}

// run links and cuts from several goroutines until the node is killed.
func (x *graphKills) run(n *graphNode, round int) {
	var workers sync.WaitGroup
	for w := range 8 {
		k := &killWorker{graphKills: x, node: n, chance: rand.New(rand.NewPCG(x.chance.Uint64(), 0)), prefix: fmt.Sprintf("k%d-%d", round, w)}
		workers.Go(k.run)
	}
	// On a slow machine nothing may be acknowledged within that time, and then
	// the kills would show nothing.
	<-time.NewTimer(time.Duration(50+x.chance.IntN(900)) * time.Millisecond).C
	for deadline := time.Now().Add(time.Minute); (x.links.Load() == 0 || x.outs.Load() == 0) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	n.kill()
	workers.Wait()
}

// verifyKilled reads the directory as the kill left it.
func (x *graphKills) verifyKilled(t *testing.T) {
	t.Helper()
	var out bytes.Buffer
	if code := run(t.Context(), []string{"verify", "--data", x.data}, nil, &out, &out, func(string) string { return "" }); code != 0 {
		t.Errorf("verify after the kill: exit code %d\n%s", code, out.String())
	}
}

// killWorker is one connection.
type killWorker struct {
	*graphKills
	node     *graphNode
	chance   *rand.Rand
	prefix   string
	families int
}

// run goes from family to family until the node is gone.
func (w *killWorker) run() {
	ctx := context.Background()
	for {
		f := w.family()
		for range 4 + w.chance.IntN(3*len(f.ids)) {
			if !w.step(ctx, f) {
				return
			}
		}
		if f.owned && w.chance.IntN(4) == 0 && !w.optOut(ctx, f, true) {
			return
		}
	}
}

// family is a new one of this worker's, or one that all share, new or old.
func (w *killWorker) family() *killFamily {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.graphKills.families) > 0 && w.chance.IntN(3) == 0 {
		recent := w.graphKills.families[max(0, len(w.graphKills.families)-40):]
		if f := recent[w.chance.IntN(len(recent))]; !f.owned {
			return f
		}
	}
	f := &killFamily{owned: w.chance.IntN(2) == 0, edges: map[pair]claim{}, outs: map[int32]claim{}, with: map[int32][]int32{}, parted: map[pair]bool{}}
	for i := range 2 + w.chance.IntN(9) {
		f.ids = append(f.ids, fmt.Sprintf("browser:%s-%d-%d", w.prefix, w.families, i))
	}
	w.families++
	w.graphKills.families = append(w.graphKills.families, f)
	return f
}

// step does one thing in a family; false means that no answer came.
func (w *killWorker) step(ctx context.Context, f *killFamily) bool {
	a := int32(w.chance.IntN(len(f.ids)))
	b := int32(w.chance.IntN(len(f.ids) - 1))
	if b >= a {
		b++
	}
	switch k := w.chance.IntN(20); {
	case k < 12:
		return w.link(ctx, f, a, b)
	case k < 16:
		return w.event(ctx, f, a, b)
	case k < 18 && f.owned:
		return w.unlink(ctx, f, a, b)
	case k == 18:
		return w.optOut(ctx, f, false)
	}
	return true
}

// link notes a link before it is sent: it may be made without an answer.
func (w *killWorker) link(ctx context.Context, f *killFamily, a, b int32) bool {
	f.doubt(pairOf(a, b))
	answer, err := w.node.link(ctx, f.ids[a], f.ids[b])
	if err != nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case answer == linked:
		f.edges[pairOf(a, b)] = sure
		w.links.Add(1)
	case answer == "opted_out" || answer == "cut" || answer == "busy":
		if f.owned && f.outs[a] == sureNot && f.outs[b] == sureNot {
			f.odd = append(f.odd, fmt.Sprintf("%s and %s: %s, but nobody opted out", f.ids[a], f.ids[b], answer))
		}
	case answer == "removed" && f.parted[pairOf(a, b)]: // within the same millisecond
	default:
		f.odd = append(f.odd, fmt.Sprintf("%s and %s: %s", f.ids[a], f.ids[b], answer))
	}
	return true
}

// doubt notes that an edge may be made or removed, unless it is there for good
// because nothing but an opt-out takes edges of that family away.
func (f *killFamily) doubt(e pair) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.edges[e] == sureNot {
		f.edges[e] = unsure
	}
}

func (w *killWorker) event(ctx context.Context, f *killFamily, a, b int32) bool {
	f.doubt(pairOf(a, b))
	_, err := w.node.take(ctx, []graphEvent{{Event: "page", Identities: []string{f.ids[a], f.ids[b]}, Props: map[string]any{"section": "auto"}}})
	return err == nil
}

func (w *killWorker) unlink(ctx context.Context, f *killFamily, a, b int32) bool {
	f.mu.Lock()
	was := f.edges[pairOf(a, b)]
	f.edges[pairOf(a, b)], f.parted[pairOf(a, b)] = unsure, true
	f.mu.Unlock()
	err := w.node.client.call(ctx, http.MethodDelete, "/v1/links", nil, map[string]string{"a": f.ids[a], "b": f.ids[b]}, nil)
	if err != nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if was == sure { // else an event's link may be newer than the test knows
		f.edges[pairOf(a, b)] = sureNot
	}
	return true
}

// optOut cuts somebody out, perhaps with all whom acknowledged links join.
func (w *killWorker) optOut(ctx context.Context, f *killFamily, everywhere bool) bool {
	i := int32(w.chance.IntN(len(f.ids)))
	f.mu.Lock()
	if f.outs[i] != sureNot {
		f.mu.Unlock()
		return true
	}
	f.outs[i] = unsure
	if everywhere {
		f.with[i] = f.joined(i)
	}
	f.mu.Unlock()
	s, err := w.node.optOut(ctx, f.ids[i], everywhere)
	if err != nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.outs[i] = sure
	w.outs.Add(1)
	if !s.OptedOut || s.Final && checkReceipt(s, w.key) != nil {
		f.odd = append(f.odd, fmt.Sprintf("%s: the opt-out's answer is %+v", f.ids[i], s))
	}
	return true
}

// joined are those whom acknowledged links join with i, who is not out yet.
func (f *killFamily) joined(i int32) (list []int32) {
	p := newParts(len(f.ids))
	for e, c := range f.edges {
		if c == sure && f.stays(e[0], i) && f.stays(e[1], i) {
			p.join(e[0], e[1])
		}
	}
	for k := range int32(len(f.ids)) {
		if k != i && p.find(k) == p.find(i) {
			list = append(list, k)
		}
	}
	return list
}

func (f *killFamily) stays(k, i int32) bool { return k == i || f.outs[k] == sureNot }

// check looks at all that was sent, once the node has settled.
func (x *graphKills) check(t *testing.T, n *graphNode) {
	t.Helper()
	x.checkKey(t, n)
	var ids []string
	for _, f := range x.families {
		ids = append(ids, f.ids...)
	}
	x.checkDark(t, n, ids)
	n.settled(t)
	looked, err := n.lookup(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	v := n.view(t, ids)
	var wrong few
	first := int32(0)
	var outs []string
	for _, f := range x.families {
		outs = append(outs, f.check(v, looked[first:], first, &wrong)...)
		first += int32(len(f.ids))
	}
	wrong.report(t, "things are not as acknowledged")
	inParallel(t, 16, outs, func(ctx context.Context, _ int, id string) error {
		s, err := n.finalOptOut(ctx, id)
		if err != nil {
			return err
		}
		return checkReceipt(s, x.key)
	})
}

func (x *graphKills) checkKey(t *testing.T, n *graphNode) {
	t.Helper()
	key := n.receiptKey(t)
	if x.key != "" && key != x.key {
		t.Errorf("receipts are signed by %s now, by %s before the kill", key, x.key)
	}
	x.key = key
}

// checkDark sees that acknowledged opt-outs hold from the first answer on.
func (x *graphKills) checkDark(t *testing.T, n *graphNode, ids []string) {
	t.Helper()
	looked, err := n.lookup(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for _, f := range x.families {
		for k := range f.ids {
			if f.outs[int32(k)] == sure && !looked[i].OptedOut {
				t.Errorf("right after the start %+v is not opted out", looked[i])
			}
			i++
		}
	}
}

// check compares one family and gives those whose opt-out was asked for and is
// there. looked begins with the family's, whose numbers begin at first.
func (f *killFamily) check(v *graphView, looked []lookupResult, first int32, wrong *few) (outs []string) {
	for _, o := range f.odd {
		wrong.add("answer: %s", o)
	}
	dark := func(i int32) bool { return looked[i].OptedOut }
	for i := range int32(len(f.ids)) {
		r, asked := looked[i], f.outs[i]
		switch {
		case asked == sure && !dark(i):
			wrong.add("%s was opted out and is shown: %+v", f.ids[i], r)
		case asked == sureNot && dark(i) && len(f.with) == 0:
			wrong.add("%s is opted out, but nobody asked for it", f.ids[i])
		case dark(i) && (r.Known || len(r.Segments) > 0 || !v.alone(first+i)):
			wrong.add("%s is opted out and shown: %+v, user %+v", f.ids[i], r, v.users[v.of[first+i]])
		}
		if dark(i) && asked != sureNot {
			outs = append(outs, f.ids[i])
		}
		for _, k := range f.with[i] {
			if dark(i) && !dark(k) {
				wrong.add("%s is opted out everywhere, but not %s, whom acknowledged links join with it", f.ids[i], f.ids[k])
			}
		}
	}
	for a := range int32(len(f.ids)) {
		for b := a + 1; b < int32(len(f.ids)); b++ {
			there, e := v.edges[pairOf(first+a, first+b)], f.edges[pair{a, b}]
			switch {
			case there && (dark(a) || dark(b)):
				wrong.add("the edge of %s and %s is there, one is opted out", f.ids[a], f.ids[b])
			case there && e == sureNot:
				wrong.add("the edge of %s and %s is there, but was never asked for, or removed", f.ids[a], f.ids[b])
			case e == sure && !there && !dark(a) && !dark(b):
				wrong.add("%s and %s were linked, and are not", f.ids[a], f.ids[b])
			}
		}
	}
	return outs
}

// summary says what was shown, and fails if it is nothing.
func (x *graphKills) summary(t *testing.T) {
	t.Helper()
	var edges, outs [3]int
	everywhere := 0
	for _, f := range x.families {
		for _, c := range f.edges {
			edges[c]++
		}
		for _, c := range f.outs {
			outs[c]++
		}
		everywhere += len(f.with)
	}
	t.Logf("%d families; edges: %d acknowledged, %d unsure, %d removed; opt-outs: %d acknowledged, %d unsure, %d of them everywhere",
		len(x.families), edges[sure], edges[unsure], edges[sureNot], outs[sure], outs[unsure], everywhere)
	if slices.Contains([]int{edges[sure], outs[sure], edges[unsure] + outs[unsure]}, 0) {
		t.Error("nothing was acknowledged, or nothing was cut short: the test shows too little")
	}
}
