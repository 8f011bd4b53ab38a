package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kith/engine"
	"kith/proto"
)

// faultLoad is what clients ask of a cluster while it is disturbed. Some write
// and read single identities, whose answers must be explained by one order of
// the writes. Others send events and links, which must be seen wherever their
// position is asked for.
type faultLoad struct {
	x     *faultTrio
	began time.Time
	seed  uint64

	stop    chan struct{}
	clients sync.WaitGroup
	round   int

	mu     sync.Mutex
	pool   []*history // that clients pick from
	all    []*history
	wrong  few
	sent   []*delivery
	counts loadCounts
}

type loadCounts struct {
	looks, refused, finals, later, told, ins, visits, unsure, deliveries, reached, links atomic.Int64
}

const (
	poolSize       = 48
	clientsPerNode = 4 // one of them goes to any node
	lookedAt       = 8 // identities of one look-up
)

func newFaultLoad(x *faultTrio, seed uint64) *faultLoad {
	return &faultLoad{x: x, began: time.Now(), seed: seed}
}

// start begins to ask.
func (l *faultLoad) start() {
	l.stop = make(chan struct{})
	l.round++
	for i := range 3 {
		for k := range clientsPerNode {
			c := &faultClient{faultLoad: l, home: i, name: fmt.Sprintf("%d-%d-%d", l.round, i, k), chance: rand.New(rand.NewPCG(l.seed, uint64(l.round*1000+10*i+k)))}
			if k == 0 {
				c.home = nodesAll
			}
			l.clients.Go(c.run)
		}
		w := &faultClient{faultLoad: l, home: i, name: fmt.Sprintf("%d-%d-w", l.round, i), chance: rand.New(rand.NewPCG(l.seed, uint64(l.round*1000+10*i+8)))}
		r := &faultClient{faultLoad: l, home: i, chance: rand.New(rand.NewPCG(l.seed, uint64(l.round*1000+10*i+9)))}
		l.clients.Go(w.deliver)
		l.clients.Go(r.collect)
	}
}

// end has all clients finish what they have begun.
func (l *faultLoad) end() {
	close(l.stop)
	l.clients.Wait()
}

func (l *faultLoad) since() time.Duration { return time.Since(l.began) }

func (l *faultLoad) fault(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong.add(format, args...)
}

// faultClient is one connection.
type faultClient struct {
	*faultLoad
	home   int // the node that it asks, nodesAll: any
	name   string
	number int
	chance *rand.Rand
}

// pause is between requests; false: the load ends.
func (c *faultClient) pause(least time.Duration) bool {
	select {
	case <-c.stop:
		return false
	case <-time.After(least + time.Duration(c.chance.IntN(20))*time.Millisecond):
		return true
	}
}

func (c *faultClient) node() int {
	if c.home == nodesAll {
		return c.chance.IntN(3)
	}
	return c.home
}

func (c *faultClient) ask(node int, method, path string, query url.Values, in, out any) (began, ended time.Duration, err error) {
	began = c.since()
	err = c.x.ask[node].call(context.Background(), method, path, query, in, out)
	ended = c.since()
	if err != nil && !excused(err) {
		c.fault("node %d, %s %s: %v", node+1, method, path, err)
	}
	return began, ended, err
}

// excused are the errors that a node may give while it or others are away.
func excused(err error) bool {
	switch proto.CodeOf(err) {
	case proto.CodeTimeout, proto.CodeOverloaded, proto.CodeRateLimited, proto.CodeUnavailable, proto.CodeDiskFull, proto.CodeConflict:
		return true
	}
	return false
}

// run writes and reads identities of the pool.
func (c *faultClient) run() {
	for c.pause(10 * time.Millisecond) {
		node := c.node()
		switch k := c.chance.IntN(100); {
		case k < 78:
			c.look(node)
		case k < 85:
			c.optOut(node, c.pick())
		case k < 91:
			c.optIn(node, c.pick())
		case k < 98:
			c.visit(node, c.pick())
		default:
			c.status(node, c.pick())
		}
	}
}

// pick is an identity of the pool; one that has seen enough gives its place to a
// new one.
func (c *faultClient) pick() *history {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.chance.IntN(poolSize)
	if i < len(c.pool) && !c.pool[i].full() {
		return c.pool[i]
	}
	c.number++
	h := &history{id: fmt.Sprintf("browser:h-%s-%d", c.name, c.number)}
	c.all = append(c.all, h)
	if i < len(c.pool) {
		c.pool[i] = h
	} else {
		c.pool = append(c.pool, h)
	}
	return h
}

// look reads some identities at once, one of them perhaps after a position.
func (c *faultClient) look(node int) {
	var list []*history
	var ids []string
	for range lookedAt {
		if h := c.pick(); !slices.Contains(list, h) {
			list, ids = append(list, h), append(ids, h.id)
		}
	}
	var after acknowledged
	query := url.Values{}
	if c.chance.IntN(3) == 0 {
		if after = list[0].newest(); after.position != "" {
			query.Set("after", after.position)
		}
	}
	var out struct{ Results []lookupResult }
	began, ended, err := c.ask(node, http.MethodPost, "/v1/lookup", query, map[string]any{"identities": ids}, &out)
	c.counts.looks.Add(1)
	if err != nil {
		c.counts.refused.Add(1)
		return
	}
	if len(out.Results) != len(list) {
		c.fault("%d results for %d identities", len(out.Results), len(list))
		return
	}
	for i, r := range out.Results {
		shows, err := shownBy(r)
		if err != nil {
			c.fault("node %d: %v", node+1, err)
			continue
		}
		list[i].read(began, ended, node, after.write, shows, false)
		after = acknowledged{} // it is of the first
	}
}

// shownBy is what a look-up shows, and an error if that is more than it may.
func shownBy(r lookupResult) (shown, error) {
	segments := strings.Join(r.Segments, " ")
	switch {
	case r.OptedOut && !r.Known && segments == "":
		return isOut, nil
	case !r.OptedOut && r.Known && segments == seenSegment:
		return isKnown, nil
	case !r.OptedOut && !r.Known && segments == "":
		return isStranger, nil
	}
	return 0, fmt.Errorf("a look-up shows %+v", r)
}

func (c *faultClient) optOut(node int, h *history) {
	var s proto.OptOutState
	began, ended, err := c.ask(node, http.MethodPost, "/v1/optouts", nil, map[string]any{"identity": h.id}, &s)
	switch {
	case notDone(err):
	case err != nil:
		c.counts.unsure.Add(1)
		h.mayHave(began, toOptOut)
	case s.Final:
		c.counts.finals.Add(1)
		if err := checkReceipt(s, c.x.key); err != nil {
			c.fault("node %d: %v", node+1, err)
		}
		h.wrote(began, ended, toOptOut, "", nodesAll)
	default:
		c.counts.later.Add(1)
		h.wrote(began, ended, toOptOut, "", node)
		for range 4 {
			if c.status(c.chance.IntN(3), h) || !c.pause(200*time.Millisecond) {
				return
			}
		}
	}
}

// status asks how far an opt-out is, and reports whether it is final.
func (c *faultClient) status(node int, h *history) bool {
	var s proto.OptOutState
	began, ended, err := c.ask(node, http.MethodGet, "/v1/optouts/"+url.PathEscape(h.id), nil, nil, &s)
	if err != nil {
		return false
	}
	if !s.OptedOut {
		h.read(began, ended, node, 0, isStranger|isKnown, false)
		return false
	}
	h.read(began, ended, node, 0, isOut, s.Final)
	if s.Final && (s.Receipt == nil || !engine.ValidReceipt(s.Receipt)) {
		c.fault("node %d: the opt-out of %s is final without a valid receipt", node+1, h.id)
	}
	if s.Final {
		c.counts.told.Add(1)
	}
	return s.Final
}

func (c *faultClient) optIn(node int, h *history) {
	var s proto.OptOutState
	began, ended, err := c.ask(node, http.MethodPost, "/v1/optins", nil, map[string]any{"identity": h.id}, &s)
	switch {
	case notDone(err), proto.CodeOf(err) == proto.CodeConflict: // it is not out
	case err != nil:
		c.counts.unsure.Add(1)
		h.mayHave(began, toOptIn)
	case s.CountsFrom != nil: // events are dropped until nobody knows when
		c.counts.unsure.Add(1)
		h.mayHave(began, toOptIn)
	default:
		c.counts.ins.Add(1)
		h.wrote(began, ended, toOptIn, "", nodesAll)
	}
}

func (c *faultClient) visit(node int, h *history) {
	began, ended, position, err := c.post(node, []graphEvent{{Event: "visit", Identities: []string{h.id}}})
	switch {
	case notDone(err):
	case err != nil:
		c.counts.unsure.Add(1)
		h.mayHave(began, toVisit)
	default:
		c.counts.visits.Add(1)
		h.wrote(began, ended, toVisit, position)
	}
}

var errNotAccepted = proto.Errorf(proto.CodeUnavailable, "not all events were accepted")

// post sends events, all of which must be acknowledged.
func (c *faultClient) post(node int, events []graphEvent) (began, ended time.Duration, position string, err error) {
	var a struct {
		Accepted int
		Position string
	}
	began, ended, err = c.ask(node, http.MethodPost, "/v1/events", nil, map[string]any{"events": events}, &a)
	if err == nil && a.Accepted != len(events) {
		err = errNotAccepted
	}
	return began, ended, a.Position, err
}

// delivery is what a node acknowledged: from the position on all nodes show it.
type delivery struct {
	node     int
	ids      []string  // that have an event
	edge     [2]string // that are linked; empty: none
	position string
}

// deliver sends events and links.
func (c *faultClient) deliver() {
	for c.pause(20 * time.Millisecond) {
		c.number++
		d := &delivery{node: c.home}
		var events []graphEvent
		for k := range 4 {
			id := fmt.Sprintf("browser:d-%s-%d-%d", c.name, c.number, k)
			d.ids = append(d.ids, id)
			events = append(events, graphEvent{Event: "visit", Identities: []string{id}})
		}
		if c.number%3 == 1 { // linked by an event
			account := fmt.Sprintf("account:d-%s-%d", c.name, c.number)
			d.edge = [2]string{d.ids[0], account}
			events[0].Identities = append(events[0].Identities, account)
		}
		var err error
		if _, _, d.position, err = c.post(c.home, events); err != nil {
			continue
		}
		c.delivered(d)
		if c.number%3 == 2 {
			c.link(d.ids[0], d.ids[1])
		}
	}
}

// link links two, and sends an event after that: who has come to its position
// has come to the link, where there is one lane.
func (c *faultClient) link(a, b string) {
	var x proto.Linked
	if _, _, err := c.ask(c.home, http.MethodPost, "/v1/links", nil, map[string]string{"a": a, "b": b}, &x); err != nil {
		return
	}
	if !x.Linked {
		if x.Reason != "busy" {
			c.fault("%s and %s are not linked: %s", a, b, x.Reason)
		}
		return
	}
	d := &delivery{node: c.home, ids: []string{a}, edge: [2]string{a, b}}
	if c.x.lanes == 1 { // else b may be of a lane of which the position says nothing
		d.ids = append(d.ids, b)
	}
	var err error
	if _, _, d.position, err = c.post(c.home, []graphEvent{{Event: "visit", Identities: []string{a}}}); err != nil {
		d.position = "" // the link stays to be seen at the end
	}
	c.delivered(d)
}

func (c *faultClient) delivered(d *delivery) {
	c.counts.deliveries.Add(1)
	if d.edge[0] != "" {
		c.counts.links.Add(1)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent = append(c.sent, d)
}

// recentSent is from how many of the newest deliveries is picked.
const recentSent = 60

func (c *faultClient) anyDelivery() *delivery {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.sent) == 0 {
		return nil
	}
	return c.sent[len(c.sent)-1-c.chance.IntN(min(len(c.sent), recentSent))]
}

// collect asks a node for what some node acknowledged.
func (c *faultClient) collect() {
	for c.pause(10 * time.Millisecond) {
		d := c.anyDelivery()
		if d == nil || d.position == "" {
			continue
		}
		after := url.Values{"after": {d.position}}
		var out struct{ Results []lookupResult }
		if _, _, err := c.ask(c.home, http.MethodPost, "/v1/lookup", after, map[string]any{"identities": d.ids}, &out); err != nil {
			c.counts.refused.Add(1)
			continue
		}
		c.counts.reached.Add(1)
		for _, r := range out.Results {
			if s, err := shownBy(r); err != nil || s != isKnown {
				c.fault("node %d at %s, which node %d acknowledged, shows %+v", c.home+1, d.position, d.node+1, r)
			}
		}
		if d.edge[0] == "" || c.x.lanes > 1 { // between lanes a link is under way for longer than its event
			continue
		}
		var u proto.User
		if _, _, err := c.ask(c.home, http.MethodGet, "/v1/users/"+url.PathEscape(d.edge[0]), url.Values{"after": {d.position}}, nil, &u); err != nil {
			continue
		}
		if !joins(u, d.edge) {
			c.fault("node %d at %s, which node %d acknowledged, shows the user %+v without the edge of %v", c.home+1, d.position, d.node+1, u, d.edge)
		}
	}
}

// joins reports whether a user has an edge.
func joins(u proto.User, edge [2]string) bool {
	return slices.ContainsFunc(u.Edges, func(e proto.UserEdge) bool {
		a, b := string(e.A), string(e.B)
		return a == edge[0] && b == edge[1] || a == edge[1] && b == edge[0]
	})
}

// check compares what all clients saw with what is promised, once the nodes
// agree.
func (l *faultLoad) check(t *testing.T) {
	t.Helper()
	for i, n := range l.x.nodes {
		l.checkNode(t, i, n)
		l.lookAgain(t, i, n)
	}
	l.wrong.report(t, "answers are not as promised")
	steps := 0
	for _, h := range l.all {
		steps += len(h.list)
		h.check(t)
	}
	c := &l.counts
	t.Logf("%d identities with %d steps; look-ups: %d, %d of them not answered; opt-outs: %d final, %d later, %d told as final; %d opt-ins; %d visits; %d writes without a sure answer",
		len(l.all), steps, c.looks.Load(), c.refused.Load(), c.finals.Load(), c.later.Load(), c.told.Load(), c.ins.Load(), c.visits.Load(), c.unsure.Load())
	t.Logf("%d deliveries acknowledged, with %d links; %d asked for by position", c.deliveries.Load(), c.links.Load(), c.reached.Load())
	for what, n := range map[string]int64{"look-ups": c.looks.Load() - c.refused.Load(), "final opt-outs": c.finals.Load() + c.told.Load(), "opt-ins": c.ins.Load(), "deliveries": c.deliveries.Load(), "links": c.links.Load(), "positions": c.reached.Load()} {
		if n == 0 {
			t.Errorf("there were no %s: the test shows nothing", what)
		}
	}
}

// checkNode sees that a node has all that any node acknowledged.
func (l *faultLoad) checkNode(t *testing.T, i int, n *graphNode) {
	t.Helper()
	var ids []string
	var edges [][2]string
	for _, d := range l.sent {
		ids = append(ids, d.ids...)
		if d.edge[0] != "" {
			edges = append(edges, d.edge)
		}
	}
	for _, r := range n.look(t, ids) {
		if s, err := shownBy(r); err != nil || s != isKnown {
			l.fault("node %d lacks an acknowledged event: %+v", i+1, r)
		}
	}
	n.settled(t)
	inParallel(t, 8, edges, func(ctx context.Context, _ int, edge [2]string) error {
		var u proto.User
		path := "/v1/users/" + url.PathEscape(edge[0])
		if err := n.patiently(ctx, func() error { return n.client.call(ctx, http.MethodGet, path, nil, nil, &u) }); err != nil {
			return err // patiently: its line in the audit log waits for the log's next leader
		}
		if !joins(u, edge) {
			l.fault("node %d lacks an acknowledged link of %v: %+v", i+1, edge, u)
		}
		return nil
	})
}

// lookAgain has a node show all that was ever written or read singly: what it shows at the
// end must be explained too, of those as well that nobody has asked for since.
func (l *faultLoad) lookAgain(t *testing.T, i int, n *graphNode) {
	t.Helper()
	var ids []string
	for _, h := range l.all {
		ids = append(ids, h.id)
	}
	began := l.since()
	list := n.look(t, ids)
	ended := l.since()
	for k, r := range list {
		shows, err := shownBy(r)
		if err != nil {
			l.fault("node %d at the end: %v", i+1, err)
			continue
		}
		l.all[k].read(began, ended, i, 0, shows, false)
	}
}

// look is lookup of a node that may not answer at first.
func (n *graphNode) look(t *testing.T, ids []string) (list []lookupResult) {
	t.Helper()
	if err := n.patiently(t.Context(), func() (err error) { list, err = n.lookup(t.Context(), ids); return err }); err != nil {
		t.Fatal(err)
	}
	return list
}
