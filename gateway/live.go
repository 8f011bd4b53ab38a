package gateway

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"kith/proto"
)

// Limits of the live feed of a client's events.
const (
	livePerSecond = 20 // events told to a watcher; the others are counted
	liveBuffer    = 64 // events that wait for a slow reader; more are lost, and counted
	livePerClient = 4  // feeds at once
	livePerNode   = 32

	liveBeat     = time.Second      // between two tallies, and looks at the key
	liveWriteMax = 10 * time.Second // for a reader to take one write

	livePropsMax     = 8
	liveTextBytesMax = 80
)

// live gives the events that this node takes in to those who watch. Intake
// never waits for it: without a watcher it costs one load, with one it takes a
// lock only to change who watches.
type live struct {
	watchers atomic.Pointer[map[proto.ClientID][]*watcher] // replaced as a whole

	mu    sync.Mutex // guards writes of watchers, and what follows
	count int
	ended bool
	end   chan struct{} // closed with ended
}

// watcher is one reader of a client's feed.
type watcher struct {
	client  proto.ClientInfo
	samples *rate.Limiter
	events  chan proto.Event

	seen    atomic.Uint64 // events of the client that were taken in
	skipped atomic.Uint64 // of these, left out because there were more than a reader is told
	lost    atomic.Uint64 // of these, dropped because the reader was slow
}

// liveTally is what a reader is told of what it was not told.
type liveTally struct {
	Seen    uint64 `json:"seen"`
	Told    uint64 `json:"told"`
	Skipped uint64 `json:"skipped"`
	Lost    uint64 `json:"lost"`
}

func newLive() *live { return &live{end: make(chan struct{})} }

// join begins to watch a client.
func (l *live) join(client proto.ClientInfo) (*watcher, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.watching()
	switch {
	case l.ended:
		return nil, proto.Errorf(proto.CodeUnavailable, "the node stops: ask another one")
	case len(now[client.ID]) >= livePerClient:
		return nil, proto.Errorf(proto.CodeRateLimited, "%d live feeds of this client are open: close one", livePerClient)
	case l.count >= livePerNode:
		return nil, proto.Errorf(proto.CodeOverloaded, "%d live feeds are open on this node: close one, or ask another node", livePerNode)
	}
	w := &watcher{client: client, samples: rate.NewLimiter(livePerSecond, livePerSecond), events: make(chan proto.Event, liveBuffer)}
	l.replace(client.ID, append(slices.Clone(now[client.ID]), w))
	l.count++
	return w, nil
}

// leave ends what join began.
func (l *live) leave(w *watcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.replace(w.client.ID, slices.DeleteFunc(slices.Clone(l.watching()[w.client.ID]), func(x *watcher) bool { return x == w }))
	l.count--
}

func (l *live) watching() map[proto.ClientID][]*watcher {
	if p := l.watchers.Load(); p != nil {
		return *p
	}
	return nil
}

// replace publishes a client's watchers. The caller holds mu.
func (l *live) replace(id proto.ClientID, list []*watcher) {
	next := map[proto.ClientID][]*watcher{}
	for k, v := range l.watching() {
		next[k] = v
	}
	if next[id] = list; len(list) == 0 {
		delete(next, id)
	}
	l.watchers.Store(&next)
}

// stop ends all feeds, so that a server can shut down.
func (l *live) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.ended = true
		close(l.end)
	}
}

// offer shows a client's commands that are durable now to its watchers, but
// for those in failed. It neither waits nor keeps b.
func (l *live) offer(now func() time.Time, client proto.ClientID, b *proto.Batch, failed []int) {
	list := l.watching()[client]
	if len(list) == 0 || b.Len() == 0 {
		return
	}
	first, _ := b.Item(0)
	if c, _, err := proto.NextCommand(first); err != nil || c.Kind != proto.CommandEvent {
		return // a body's commands are of one kind; traits are no events
	}
	at := now()
	for _, w := range list {
		w.offer(at, b, failed)
	}
}

func (w *watcher) offer(now time.Time, b *proto.Batch, failed []int) {
	n := b.Len() - len(failed)
	if n <= 0 {
		return
	}
	w.seen.Add(uint64(n))
	take := min(n, int(w.samples.TokensAt(now)))
	if take <= 0 || !w.samples.AllowN(now, take) {
		w.skipped.Add(uint64(n))
		return
	}
	w.skipped.Add(uint64(n - take))
	// Evenly spread over the batch, not its beginning.
	next := 0
	for i, k := 0, 0; i < b.Len() && next < take; i++ {
		if slices.Contains(failed, i) {
			continue
		}
		if k*take/n >= next || n-k <= take-next {
			w.show(b, i)
			next++
		}
		k++
	}
}

// show puts one event before the reader, if there is room.
func (w *watcher) show(b *proto.Batch, i int) {
	if len(w.events) == cap(w.events) { // no copy is made for nobody
		w.lost.Add(1)
		return
	}
	item, _ := b.Item(i)
	c, _, err := proto.NextCommand(bytes.Clone(item)) // the batch is reused
	var e proto.Event
	if err != nil || proto.DecodeEvent(c.Body, &e) != nil {
		w.lost.Add(1)
		return
	}
	select {
	case w.events <- e:
	default:
		w.lost.Add(1)
	}
}

// liveEvent is one event as a reader sees it.
type liveEvent struct {
	Time       time.Time      `json:"time"`
	Event      string         `json:"event"`
	Identities []string       `json:"identities"`
	URL        string         `json:"url,omitempty"` // without query and fragment
	Props      map[string]any `json:"props,omitempty"`
	More       int            `json:"more_props,omitempty"` // that are left out
}

// getLive streams samples of what comes in for a client, as server-sent events
// "event" and, each second, "tally". Whoever may not read the client's identity
// records gets nothing, so it is no way round them.
func (g *Gateway) getLive(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, err := g.clientOf(who, r)
	if err != nil {
		return err
	}
	watch, err := g.live.join(client)
	if err != nil {
		return err
	}
	defer g.live.leave(watch)
	h := w.Header()
	h["Content-Type"], h["Cache-Control"] = eventStreamType, noStore
	h.Set("X-Accel-Buffering", "no") // a proxy's
	if r.Method == http.MethodHead {
		return nil
	}
	// Persons' data are read here: that it was done is on record.
	g.log.Info("a live feed was opened", "client", client.Name, "role", who.Role)
	f := &liveFeed{g: g, w: w, watch: watch, admin: who.Role == proto.RoleAdmin, control: http.NewResponseController(w)}
	f.run(r)
	g.log.Info("a live feed was closed", "client", client.Name, "role", who.Role, "told", f.told)
	return nil
}

var eventStreamType = []string{"text/event-stream"}

// liveFeed is the answer to one reader; its fields are the request's goroutine's.
type liveFeed struct {
	g       *Gateway
	w       http.ResponseWriter
	control *http.ResponseController
	watch   *watcher
	admin   bool
	told    uint64
	frame   []byte
}

// run writes until the reader goes, is too slow for one write, or loses its key.
func (f *liveFeed) run(r *http.Request) {
	_ = f.control.SetReadDeadline(time.Time{}) // not every writer has deadlines
	beat := time.NewTicker(liveBeat)
	defer beat.Stop()
	err := f.tally()
	for err == nil {
		select {
		case <-r.Context().Done():
			return
		case <-f.g.live.end:
			return
		case e := <-f.watch.events:
			err = f.event(&e)
		case <-beat.C:
			if !f.stillMay(r) {
				return
			}
			err = f.tally()
		}
	}
}

// stillMay reports whether the key opens the client's feed still.
func (f *liveFeed) stillMay(r *http.Request) bool {
	who, err := f.g.authenticate(keyOf(r.Header["Authorization"]), proto.RoleClient, proto.RoleAdmin)
	if err != nil {
		return false
	}
	client, err := f.g.clientOf(who, r)
	return err == nil && client.ID == f.watch.client.ID
}

func (f *liveFeed) tally() error {
	w := f.watch
	return f.write("tally", liveTally{w.seen.Load(), f.told, w.skipped.Load(), w.lost.Load()})
}

// event tells of e, unless it is of somebody who is opted out by now.
func (f *liveFeed) event(e *proto.Event) error {
	x := liveEvent{Time: e.Time.Time().UTC(), Event: e.Name, Identities: f.identities(e)}
	if len(x.Identities) == 0 {
		return nil
	}
	x.URL, _, _ = strings.Cut(e.URL, "#")
	x.URL, _, _ = strings.Cut(x.URL, "?")
	x.URL = shorten(x.URL, 2*liveTextBytesMax)
	for i := range e.Props {
		if i == livePropsMax {
			x.More = len(e.Props) - i
			break
		}
		if x.Props == nil {
			x.Props = map[string]any{}
		}
		x.Props[e.Props[i].Key] = shownValue(e.Props[i].Value)
	}
	f.told++
	return f.write("event", x)
}

// identities are those of e that may be told, none if its first may not.
func (f *liveFeed) identities(e *proto.Event) []string {
	var list []string
	for i, id := range e.Identities {
		v, _, err := f.g.deps.Memberships.Lookup(f.watch.client, id, f.g.millis(), nil)
		switch out := err != nil || v.OptedOut; {
		case out && i == 0:
			return nil
		case out:
		case f.admin:
			list = append(list, string(id))
		default:
			list = append(list, f.g.shortened(f.watch.client, id))
		}
	}
	return list
}

// shortened is an identity's kind and the beginning of its pseudonym: enough to
// tell a few people apart, and nothing to ask another route with.
func (g *Gateway) shortened(client proto.ClientInfo, id proto.Identity) string {
	kind, _, _ := strings.Cut(string(id), ":")
	var room [64]byte
	p := g.appendPseudonym(room[:0], client, id)
	return kind + "~" + string(p[len(pseudonymPrefix):len(pseudonymPrefix)+8])
}

func shownValue(v proto.Value) any {
	switch v.Kind {
	case proto.NumberValue:
		return v.Number
	case proto.TrueValue, proto.FalseValue:
		return v.Kind == proto.TrueValue
	}
	return shorten(v.Text, liveTextBytesMax)
}

// shorten cuts s to most bytes at a rune's edge.
func shorten(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

func (f *liveFeed) write(kind string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return proto.Errorf(proto.CodeInternal, "encode a live event: %w", err)
	}
	f.frame = append(append(f.frame[:0], "event: "+kind+"\ndata: "...), body...)
	f.frame = append(f.frame, "\n\n"...)
	_ = f.control.SetWriteDeadline(time.Now().Add(liveWriteMax))
	if _, err := f.w.Write(f.frame); err != nil {
		return err
	}
	return f.control.Flush()
}
