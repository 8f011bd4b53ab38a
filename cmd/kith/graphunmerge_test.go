package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/proto"
)

// An un-merge is exact: of two nodes that hear of the same users, one also has
// a stranger linked to each user and taken away again. In all that they derive
// of the others the two must be equal.
func TestUnmergeExact(t *testing.T) {
	n := 1000
	if testing.Short() {
		n = 60
	}
	for _, lanes := range graphLanes() {
		t.Run("lanes="+lanes, func(t *testing.T) {
			if lanes == "4" {
				n = min(n, 250) // a link over lanes takes several log entries
			}
			seed := rand.Uint64()
			t.Logf("seed %d: %d users", seed, n)
			w := planUnmerge(rand.New(rand.NewPCG(seed, 0)), n)
			with, without := startTwins(t, lanes)
			with.define(t, unmergeSegments)
			without.define(t, unmergeSegments)
			w.build(t, with, true)
			w.build(t, without, false)
			merged := w.entered(t, with)
			w.unmerge(t, with)
			w.tellReentered(t, merged, w.entered(t, with))
			w.goOn(t, with)
			w.goOn(t, without)
			with.settled(t)
			without.settled(t)
			w.compare(t, with, without)
			w.compareCounts(t, with, without)
		})
	}
}

// unmergeSegments need all that a user's value is made of.
var unmergeSegments = []graphSegment{
	{id: "own", scope: "identity", when: `count(event.section == "auto", "30d") >= 2`},
	{id: "own-days", scope: "identity", when: `days(true, "30d") >= 2`},
	{id: "own-not", scope: "identity", when: `count(true, "30d") >= 1 && !member("own")`},
	{id: "often", scope: "user", when: `count(event.section == "auto", "30d") >= 4`},
	{id: "both", scope: "user", when: `count(event.section == "auto", "30d") >= 1 && count(event.section == "sport", "30d") >= 1`},
	{id: "days", scope: "user", when: `days(true, "30d") >= 6`},
	{id: "home", scope: "user", when: `devices() >= 3`},
	{id: "older", scope: "user", when: `trait("age") >= 40`},
	{id: "lately", scope: "user", when: `last(event.section == "sport") > now - "10d"`},
	{id: "news-only", scope: "user", when: `count(event.section == "news", "30d") >= 1 && !member("often")`},
}

// startTwins starts two nodes with one key of identity hashes: which identity
// is the root depends on it.
func startTwins(t *testing.T, lanes string) (with, without *graphNode) {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, dir+"/secret", strings.Repeat("5e", 16)+"\n")
	writeFile(t, dir+"/kith.yaml", "secret_file: "+dir+"/secret\n")
	start := func(name string) *graphNode {
		return startGraphNode(t, dir+"/"+name, "--lanes", lanes, "--config", dir+"/kith.yaml")
	}
	return start("with"), start("without")
}

// unmergeWorld is what is sent to the two nodes.
type unmergeWorld struct {
	chance    *rand.Rand
	now       time.Time
	links     [][2]string
	events    []graphEvent
	more      []graphEvent // after the un-merge
	traits    map[string]int
	identity  []string // of whom the two must say the same
	strangers []stranger
}

// stranger is an identity that is linked in one world only.
type stranger struct {
	id     string
	way    awayBy
	links  []string
	events []graphEvent
	age    int // 0: none
}

// awayBy is how a stranger goes.
type awayBy int

const (
	byOptOut   awayBy = iota
	byErasure         // by an admin, for all clients: it may come back, as nobody
	byUnlink          // each edge
	byWithdraw        // all edges at once
	awayWays
)

// stays reports whether the stranger is there afterwards, alone.
func (b awayBy) stays() bool { return b == byUnlink || b == byWithdraw }

func planUnmerge(chance *rand.Rand, n int) *unmergeWorld {
	w := &unmergeWorld{chance: chance, now: time.Now().UTC().Truncate(time.Millisecond), traits: map[string]int{}}
	var last []string
	for u := range n {
		members := make([]string, 2+chance.IntN(7))
		for i := range members {
			members[i] = fmt.Sprintf("%s:u%d-%d", townKinds[chance.IntN(len(townKinds))], u, i)
			w.events = append(w.events, w.did(members[i], 4)...)
			w.more = append(w.more, w.did(members[i], 1)...)
			if chance.IntN(5) == 0 {
				w.traits[members[i]] = 20 + chance.IntN(40)
			}
			if i > 0 {
				w.links = append(w.links, [2]string{members[i], members[chance.IntN(i)]})
			}
		}
		if a, b := chance.IntN(len(members)), chance.IntN(len(members)); a != b {
			w.links = append(w.links, [2]string{members[a], members[b]})
		}
		w.identity = append(w.identity, members...)
		w.addStranger(u, members, last)
		last = members
	}
	shuffle(chance, w.events)
	shuffle(chance, w.more)
	shuffle(chance, w.links)
	return w
}

func shuffle[T any](chance *rand.Rand, list []T) {
	chance.Shuffle(len(list), func(i, k int) { list[i], list[k] = list[k], list[i] })
}

// addStranger joins a user, and in one case of four the one before too, so
// that one user has to become two again; never more than five in a row, who with
// their strangers are within the cap of 64.
func (w *unmergeWorld) addStranger(u int, members, before []string) {
	s := stranger{id: fmt.Sprintf("%s:x%d", townKinds[w.chance.IntN(len(townKinds))], u), way: awayBy(u % int(awayWays))}
	s.events = w.did(s.id, 6)
	if w.chance.IntN(2) == 0 {
		s.age = 20 + w.chance.IntN(40)
	}
	for range 1 + w.chance.IntN(3) {
		s.links = append(s.links, members[w.chance.IntN(len(members))])
	}
	if u%5 != 0 && w.chance.IntN(4) == 0 {
		s.links = append(s.links, before[w.chance.IntN(len(before))])
	}
	w.strangers = append(w.strangers, s)
	if s.way.stays() {
		w.identity = append(w.identity, s.id)
	}
}

// did is up to n events of the last twenty days, so that no window ends
// while the test runs.
func (w *unmergeWorld) did(id string, n int) (events []graphEvent) {
	for range w.chance.IntN(n + 1) {
		at := w.now.Add(-time.Hour - time.Duration(w.chance.Int64N(int64(8*24*time.Hour))))
		if w.chance.IntN(2) == 0 {
			at = at.Add(-11 * 24 * time.Hour)
		}
		events = append(events, graphEvent{Event: "page", Time: &at, Identities: []string{id}, Props: map[string]any{"section": []string{"auto", "sport", "news"}[w.chance.IntN(3)]}})
	}
	return events
}

// build tells a node of the users, in the world "with" among all else of the
// strangers too.
func (w *unmergeWorld) build(t *testing.T, n *graphNode, with bool) {
	t.Helper()
	events, links := append([]graphEvent(nil), w.events...), append([][2]string(nil), w.links...)
	traits := map[string]int{}
	for id, age := range w.traits {
		traits[id] = age
	}
	for _, s := range w.strangers {
		if !with && !s.way.stays() {
			continue
		}
		events = append(events, s.events...)
		if s.age > 0 {
			traits[s.id] = s.age
		}
		for _, to := range s.links {
			if with {
				links = append(links, [2]string{s.id, to})
			}
		}
	}
	shuffle(w.chance, events)
	shuffle(w.chance, links)
	w.post(t, n, events)
	inParallel(t, 64, links, func(ctx context.Context, _ int, l [2]string) error {
		var answer string
		err := n.patiently(ctx, func() (err error) { answer, err = n.link(ctx, l[0], l[1]); return err })
		if err == nil && answer != linked {
			err = fmt.Errorf("the link of %s and %s: %s", l[0], l[1], answer)
		}
		return err
	})
	w.tellTraits(t, n, traits)
	n.settled(t)
}

func (w *unmergeWorld) tellTraits(t *testing.T, n *graphNode, traits map[string]int) {
	t.Helper()
	ids := make([]string, 0, len(traits))
	for id := range traits {
		ids = append(ids, id)
	}
	inParallel(t, 16, ids, func(ctx context.Context, _ int, id string) error {
		var a struct{ Position string }
		err := n.client.call(ctx, http.MethodPatch, "/v1/identities/"+url.PathEscape(id)+"/traits", nil, map[string]int{"age": traits[id]}, &a)
		if err != nil {
			return err
		}
		return n.reach(ctx, a.Position)
	})
}

func (w *unmergeWorld) post(t *testing.T, n *graphNode, events []graphEvent) {
	t.Helper()
	for len(events) > 0 {
		k := min(len(events), postedTogether)
		refused, position, err := n.post(t.Context(), events[:k])
		if err == nil && len(refused) > 0 {
			err = fmt.Errorf("events were refused: %v", refused)
		}
		if err == nil {
			err = n.reach(t.Context(), position)
		}
		if err != nil {
			t.Fatal(err)
		}
		events = events[k:]
	}
}

// unmerge takes the strangers away.
func (w *unmergeWorld) unmerge(t *testing.T, n *graphNode) {
	t.Helper()
	began := time.Now()
	inParallel(t, 16, w.strangers, func(ctx context.Context, _ int, s stranger) error {
		switch s.way {
		case byOptOut:
			if _, err := n.optOut(ctx, s.id, false); err != nil {
				return err
			}
			_, err := n.finalOptOut(ctx, s.id)
			return err
		case byErasure:
			everybodys := *n.admin // an admin that names no client
			everybodys.client = ""
			return everybodys.call(ctx, http.MethodDelete, "/v1/identities/"+url.PathEscape(s.id), nil, nil, nil)
		case byWithdraw:
			return n.client.call(ctx, http.MethodDelete, "/v1/links", nil, map[string]string{"a": s.id}, nil)
		}
		for _, to := range s.links {
			if err := n.client.call(ctx, http.MethodDelete, "/v1/links", url.Values{"a": {to}, "b": {s.id}}, nil, nil); err != nil {
				return err
			}
		}
		return nil
	})
	n.settled(t)
	t.Logf("%d strangers taken away in %.1f s", len(w.strangers), time.Since(began).Seconds())
}

// goOn tells of what the others do afterwards.
func (w *unmergeWorld) goOn(t *testing.T, n *graphNode) {
	t.Helper()
	w.post(t, n, w.more)
}

// compare asks both nodes about everybody and wants the same bytes.
//
// Left out are the times at which the two worlds heard of things, which no two
// runs have in common: an edge's time is that of its newest evidence, "at" that
// of the question, and "entered" that at which the node saw the rule become
// true. Whether somebody has entered is compared.
func (w *unmergeWorld) compare(t *testing.T, with, without *graphNode) {
	t.Helper()
	diffs := make([]string, len(w.identity))
	inParallel(t, 16, w.identity, func(ctx context.Context, i int, id string) error {
		a, err := w.shown(ctx, with, id)
		if err != nil {
			return err
		}
		b, err := w.shown(ctx, without, id)
		if err == nil && a != b {
			diffs[i] = id + ":\n" + cmp.Diff(strings.Split(b, "\n"), strings.Split(a, "\n"))
		}
		return err
	})
	var wrong few
	for _, d := range diffs {
		if d != "" {
			wrong.add("%s", d)
		}
	}
	wrong.report(t, "identities are not as if the stranger had never been (-never linked, +taken away)")
	t.Logf("%d identities compared, each with %d explanations", len(w.identity), len(unmergeSegments))
}

// shown is all that a node says of an identity but for times of its own.
func (w *unmergeWorld) shown(ctx context.Context, n *graphNode, id string) (string, error) {
	path := url.PathEscape(id)
	looked, err := n.lookup(ctx, []string{id})
	if err != nil {
		return "", err
	}
	var u proto.User
	if err := n.client.call(ctx, http.MethodGet, "/v1/users/"+path, nil, nil, &u); err != nil {
		return "", err
	}
	for i := range u.Edges {
		u.Edges[i].Time = time.Time{}
	}
	all := []any{looked, u}
	for _, s := range unmergeSegments {
		x, err := n.explain(ctx, id, s.id)
		if err != nil {
			return "", err
		}
		x.At = time.Time{}
		if x.Entered != nil {
			x.Entered = &time.Time{}
		}
		all = append(all, x)
	}
	var b strings.Builder
	for _, x := range all {
		text, err := json.Marshal(x)
		if err != nil {
			return "", err
		}
		b.Write(text)
		b.WriteByte('\n')
	}
	return b.String(), nil
}

func (n *graphNode) explain(ctx context.Context, id, segment string) (x proto.Explanation, err error) {
	err = n.client.call(ctx, http.MethodGet, "/v1/identities/"+url.PathEscape(id)+"/explain", url.Values{"segment": {segment}}, nil, &x)
	return x, err
}

// compareCounts compares bitmaps, by identities and by users.
func (w *unmergeWorld) compareCounts(t *testing.T, with, without *graphNode) {
	t.Helper()
	exprs := []string{"!own", "often & !home", "(both | days) & !news-only", "!lately"}
	for _, s := range unmergeSegments {
		exprs = append(exprs, s.id)
	}
	for _, expr := range exprs {
		for _, unit := range []string{"identities", "users"} {
			a, err1 := with.count(t.Context(), expr, unit)
			b, err2 := without.count(t.Context(), expr, unit)
			if a != b || err1 != nil || err2 != nil {
				t.Errorf("%s of %s: %d (%v), and %d (%v) where nobody was linked", unit, expr, a, err1, b, err2)
			}
		}
	}
}

// entered is since when some identities are in the segments of scope user.
func (w *unmergeWorld) entered(t *testing.T, n *graphNode) map[string]time.Time {
	t.Helper()
	since := map[string]time.Time{}
	for _, id := range w.identity[:min(len(w.identity), 100)] {
		for _, s := range unmergeSegments {
			x, err := n.explain(t.Context(), id, s.id)
			if err != nil {
				t.Fatal(err)
			}
			if s.scope == "user" && x.Entered != nil {
				since[id+" "+s.id] = *x.Entered
			}
		}
	}
	return since
}

// tellReentered tells how many memberships began anew although the members
// were in before and after: which a cut should not be seen by.
func (w *unmergeWorld) tellReentered(t *testing.T, before, after map[string]time.Time) {
	t.Helper()
	kept, anew := 0, 0
	for k, b := range before {
		if a, ok := after[k]; ok && a.Equal(b) {
			kept++
		} else if ok {
			anew++
		}
	}
	t.Logf("entered: of %d memberships of users before and after, %d kept their time, %d began anew", kept+anew, kept, anew)
}
