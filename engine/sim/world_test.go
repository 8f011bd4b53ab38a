package sim

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"strings"
	"time"

	"kith/engine"
	"kith/engine/log"
	"kith/proto"
	"kith/proto/pb"
	"kith/segments"
)

const (
	startTime = proto.Millis(1_767_225_600_000) // 2026-01-01
	skewMax   = 100                             // gateways' clocks differ from true time by at most this
	beatEvery = 2000
)

var secret = [16]byte{1}

// stats are what a run did: a run that does nothing finds nothing.
type stats struct {
	Entries, Events, Links, Unlinks, Cuts, OptIns, Erases, Forgets, Everywhere, Defines, Swaps, Ended, Expires int
	Acks, LeaseWaits, Linked, Refused                                                                          int
	CrashesStepped, CrashesCommitted, Restarts, Restores, Anew, Packs, Gaps, Fills, Lost                       int
	Compared, Stale, Verified, Purges, Jumps, Blocks, Carried, Nameless                                        int
}

func (a *stats) add(b *stats) {
	x, y := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for i := range x.NumField() {
		x.Field(i).SetInt(x.Field(i).Int() + y.Field(i).Int())
	}
}

func (a *stats) String() string { return strings.Trim(fmt.Sprintf("%+v", *a), "{}") }

// missing is something that never happened, "" if everything did.
func (a *stats) missing() string {
	x := reflect.ValueOf(a).Elem()
	for i := range x.NumField() {
		if name := x.Type().Field(i).Name; name != "Nameless" && x.Field(i).Int() == 0 {
			return name
		}
	}
	return ""
}

// world is everything of one run.
type world struct {
	seed, lanes int
	rng         *rand.Rand
	now         proto.Millis // true time
	log         *log.Memory
	hasher      proto.Hasher
	nodes       []*node
	clients     []proto.ClientInfo // the first two share a space
	ids         []proto.Identity
	by          map[proto.IdentityHash]int
	model       *model
	lost        bool           // facts were lost with a log
	base        []proto.Offset // by lane: what the first entry of a log made anew comes after
	every       bool           // some cut took others along: the model does not know whom
	crowd       bool           // caps may be reached
	supersteps  int            // of an entry; 0: as ever
	seq         uint64
	controls    uint64
	defined     [3]map[string]string // by client: id to scope and rule
	ended       int                  // client whose account was erased; 0: none
	keep        proto.Retention      // of all clients; zero: for ever
	lastBeat    []proto.Millis
	beats       []map[proto.Offset]beat // by lane
	late        []lateCommand
	air         []flight
	images      []*image
	links       map[uint64]*linkAsk
	cuts        map[uint64]*cutAsk
	barred      []*pendingAck
	acked       map[int]uint32 // identities whose opt-out was acknowledged and not lifted: its generation
	erased      []*cutAsk      // acknowledged erasures and what clients had forgotten
	commands    uint64
	numbers     int // of events
	repeats     []proto.Event
	chains      []map[proto.Offset]uint64
	states      []map[proto.Offset]string
	purged      bool
	steps       int
	length      int
	quiet       bool // no faults any more
	hash        string
	stats       *stats
	err         error
}

// beat is one that is in the log.
type beat struct {
	node   int
	inc    uint64
	number int
}

// flight is an entry for a lane that is under way to its log.
type flight struct {
	lane proto.LaneID
	kind proto.CommandKind
	body [][]byte
}

func newWorld(seed, lanes int, s *stats) *world {
	w := &world{
		seed: seed, lanes: lanes, stats: s, rng: random(seed, lanes), now: startTime, hasher: proto.NewHasher(secret),
		by: map[proto.IdentityHash]int{}, links: map[uint64]*linkAsk{}, cuts: map[uint64]*cutAsk{}, acked: map[int]uint32{},
	}
	w.log = log.NewMemory(lanes, func() time.Time { return w.now.Time() })
	for range lanes {
		w.lastBeat = append(w.lastBeat, 0)
		w.base = append(w.base, 0)
		w.beats = append(w.beats, map[proto.Offset]beat{})
		w.chains = append(w.chains, map[proto.Offset]uint64{})
		w.states = append(w.states, map[proto.Offset]string{})
	}
	w.crowd = w.rng.IntN(25) == 0
	n := 4 + w.rng.IntN(12)
	w.length = 20 + w.rng.IntN(80)
	if w.crowd {
		n, w.length = 40+w.rng.IntN(30), 200
	}
	kinds := []string{"browser", "browser", "aaid", "account", "partner.x"}
	for i := range n {
		id := proto.Identity(fmt.Sprintf("%s:v%d", kinds[w.rng.IntN(len(kinds))], i))
		w.ids = append(w.ids, id)
		w.by[w.hasher.Hash(id)] = i
	}
	if w.chance(35) {
		w.supersteps = 1 + w.rng.IntN(3)
	}
	w.model = newModel(w)
	return w
}

func (w *world) fail(f string, a ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("seed %d lanes %d step %d: %s", w.seed, w.lanes, w.steps, fmt.Sprintf(f, a...))
	}
}

func (w *world) must(err error) {
	if err != nil {
		w.fail("ERROR: %v", err)
	}
}

func (w *world) trace(f string, a ...any) {
	if *tellFlag {
		fmt.Printf("%4d %8d  %s\n", w.steps, w.now-startTime, fmt.Sprintf(f, a...))
	}
}

func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

func (w *world) hashOf(i int) proto.IdentityHash { return w.hasher.Hash(w.ids[i]) }

func (w *world) home(i int) proto.LaneID {
	return proto.LaneID(int(w.hashOf(i).Partition()) % w.lanes)
}

// begin makes clients, first definitions and the nodes.
func (w *world) begin() {
	for i, space := range []string{"both", "both", ""} {
		name := fmt.Sprintf("client-%d", i)
		seq := w.control(&pb.Control{Body: &pb.Control_Client{Client: &pb.Client{Name: name, Space: space}}})
		c := proto.ClientInfo{ID: proto.ClientID(seq), Name: proto.ClientName(name), Space: proto.SpaceID(seq)}
		if i == 1 {
			c.Space = w.clients[0].Space
		}
		w.clients = append(w.clients, c)
		w.defined[i] = map[string]string{}
	}
	if w.seed%3 == 2 {
		w.retain()
	}
	if !w.crowd {
		for i := range w.ids {
			w.define(0, marker(i), "user", fmt.Sprintf(`count(event.mark == "%d") >= 1`, i))
		}
	}
	for range 1 + w.rng.IntN(3) {
		w.redefine()
	}
	for i := range 1 + w.rng.IntN(3) {
		w.nodes = append(w.nodes, newNode(w, i))
	}
	for l := range proto.LaneID(w.lanes) {
		w.beat(w.nodes[0], l, w.now)
		w.relayControl(w.nodes[0], l)
	}
}

// marker is the segment of client 0 that only what identity i did leads into.
func marker(i int) string { return fmt.Sprintf("mark%d", i) }

func (w *world) close() {
	for _, n := range w.nodes {
		n.down()
	}
}

// append writes an entry of commands that the model is to know of.
func (w *world) append(l proto.LaneID, commands []byte, count int) {
	w.model.entry(l, w.write(l, commands, count))
}

func (w *world) write(l proto.LaneID, commands []byte, count int) *proto.Entry {
	w.seq++
	e := &proto.Entry{Lane: l, Producer: 1, Seq: w.seq, Time: w.now, Count: count, Commands: commands}
	_, err := w.log.Lane(l).Append(context.Background(), e)
	w.must(err)
	w.stats.Entries++
	return e
}

// own writes an entry of commands for the lane itself.
func (w *world) own(l proto.LaneID, kind proto.CommandKind, bodies ...[]byte) {
	if len(bodies) == 0 {
		return
	}
	var b []byte
	for _, body := range bodies {
		b = proto.AppendCommand(b, kind, proto.LanePartition, body)
	}
	w.append(l, b, len(bodies))
}

// submit writes a batch of commands, to the lane of its homes.
func (w *world) submit(l proto.LaneID, b *proto.Batch) { w.append(l, b.Bytes(), b.Len()) }

// beat has a node say what time it is.
func (w *world) beat(n *node, l proto.LaneID, at proto.Millis) {
	n.beats++
	n.sent[n.beats] = n.local()
	b := proto.Beat{Node: n.name(), Incarnation: n.inc, Time: at}
	w.own(l, proto.CommandBeat, b.Append(nil))
	info, err := w.log.Lane(l).Info(context.Background())
	w.must(err)
	w.beats[l][info.Last+w.base[l]] = beat{n.id, n.inc, n.beats}
	if at == w.now {
		w.lastBeat[l] = at
	}
}

// pass lets true time go on. The nodes' clocks, but for one that jumped, see to
// it that lanes are not without a beat for long.
func (w *world) pass(d proto.Millis) {
	w.now += d
	for l := range proto.LaneID(w.lanes) {
		if w.now-w.lastBeat[l] >= beatEvery*9/10 {
			w.beat(w.someNode(), l, w.now)
		}
	}
}

// someNode is one that runs; nodes that are down come up for it.
func (w *world) someNode() *node {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	n.up()
	return n
}

// control appends a control record.
func (w *world) control(c *pb.Control) uint64 {
	c.TimeMs = int64(w.now)
	raw, err := proto.EncodeControl(c)
	w.must(err)
	w.controls, err = w.log.Control().Append(context.Background(), raw, w.controls)
	w.must(err)
	return w.controls
}

func (w *world) define(client int, id, scope, when string) {
	rule, err := segments.Compile(when)
	w.must(err)
	compiled, err := rule.AppendBinary(nil)
	w.must(err)
	w.control(&pb.Control{Body: &pb.Control_Define{Define: &pb.Define{
		Client: uint32(w.clients[client].ID), Id: id, When: when, Compiled: compiled, Scope: scope, Backfill: !w.chance(10),
	}}})
	w.defined[client][id] = scope + " " + when
	w.stats.Defines++
	w.trace("define %d %s %s %s", client, id, scope, when)
}

// rules that segments are redefined to.
var rules = []struct{ id, scope, when string }{
	{"own", "identity", `count(event.section == "a", "30s") >= 2`},
	{"own", "identity", `count(event.section == "a", "20s") >= 1`},
	{"own", "identity", `count(event.section == "b") >= 2`},
	{"gold", "identity", `trait("plan") == "gold"`},
	{"idle", "identity", `count(true, "15s") == 0`},
	{"auto", "user", `count(event.section == "a", "2m") >= 3`},
	{"auto", "user", `count(event.section == "a", "40s") >= 2`},
	{"many", "user", `devices() >= 2`},
	{"many", "user", `devices() >= 3`},
	{"quiet", "user", `count(event.section == "b", "1m") == 0`},
	{"quiet", "user", `count(event.section == "c", "10m") == 0`},
	{"rich", "user", `trait("plan") == "gold"`},
	{"next", "user", `member("auto") && !member("quiet")`},
	{"days", "user", `days(event.section == "a", "3d") >= 1`},
	{"not", "user", `!(count(event.section == "a", "25s") >= 1)`},
}

// redefine makes, changes or drops a segment.
func (w *world) redefine() {
	c := w.rng.IntN(3)
	if w.ended != 0 && c == w.ended {
		return
	}
	r := rules[w.rng.IntN(len(rules))]
	if r.id == "next" && (w.defined[c]["auto"] == "" || w.defined[c]["quiet"] == "") {
		return
	}
	if w.defined[c][r.id] != "" && w.chance(30) && (w.defined[c]["next"] == "" || r.id != "auto" && r.id != "quiet") {
		w.control(&pb.Control{Body: &pb.Control_Undefine{Undefine: &pb.Undefine{Client: uint32(w.clients[c].ID), Id: r.id}}})
		delete(w.defined[c], r.id)
		w.trace("undefine %d %s", c, r.id)
		return
	}
	w.define(c, r.id, r.scope, r.when)
}

// retain says for how long data are kept.
func (w *world) retain() {
	w.keep.Sessions = 60_000 + proto.Millis(w.rng.IntN(200_000))
	if w.chance(60) {
		w.keep.Idle = w.keep.Sessions + proto.Millis(w.rng.IntN(200_000))
	}
	w.control(&pb.Control{Body: &pb.Control_Retain{Retain: &pb.Retain{SessionsMs: int64(w.keep.Sessions), IdleMs: int64(w.keep.Idle)}}})
}

// endClient erases a client's account; its gateways have not heard of it.
func (w *world) endClient() {
	w.ended = 1 + w.rng.IntN(2)
	c := w.clients[w.ended]
	w.control(&pb.Control{Body: &pb.Control_EraseClient{EraseClient: &pb.EraseClient{Client: uint32(c.ID), Space: uint32(c.Space)}}})
	w.defined[w.ended] = map[string]string{}
	w.stats.Ended++
	w.trace("client %d is erased", c.ID)
}

// relayControl puts control records into a lane, as a node's relay does.
func (w *world) relayControl(n *node, l proto.LaneID) {
	w.must(n.sim.ReadControl())
	w.own(l, proto.CommandControl, n.sim.Controls(l)...)
}

// swap has a node propose that a version which is filled answers; another node
// may do so too.
func (w *world) swap(n *node) (moved bool) {
	w.must(n.sim.ReadControl())
	c := n.sim.Swap()
	if c == nil {
		return false
	}
	w.trace("node %d swaps %v", n.id, c.GetSwap())
	w.stats.Swaps++
	w.control(c)
	if w.chance(20) {
		w.control(c)
	}
	w.must(n.sim.ReadControl())
	for i, client := range w.clients {
		if uint32(client.ID) != c.GetSwap().Client {
			continue
		}
		if x, err := n.sim.Count(w.context(), client, c.GetSwap().Id, ""); err != nil || !x.Exact {
			w.fail("EARLY: node %d has %q of client %d answer, which it has not filled: %+v, %v", n.id, c.GetSwap().Id, i, x, err)
		}
	}
	return true
}

// sorted gives the keys of a map in order: nothing may depend on a map's.
func sorted[K ~uint64 | ~int, V any](m map[K]V) []K {
	list := make([]K, 0, len(m))
	for k := range maps.Keys(m) {
		list = append(list, k)
	}
	for i := range list {
		for j := i; j > 0 && list[j] < list[j-1]; j-- {
			list[j], list[j-1] = list[j-1], list[j]
		}
	}
	return list
}

// config is a node's.
func (w *world) config(n *node) engine.Config {
	return engine.Config{
		Dir: "sim", Node: n.name(), Lanes: w.lanes, DiskReserve: 1, ActiveMax: n.activeMax, ViewsMax: 2000,
		Now: func() time.Time { return w.now.Time() },
	}
}
