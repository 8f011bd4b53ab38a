package engine_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/engine"
	"kith/engine/log"
	"kith/engine/store"
	"kith/proto"
	"kith/proto/pb"
)

// township is a store on disk with something of each kind, made by a node that the
// test drives: so it can stop half way through anything.
type township struct {
	t        *testing.T
	lanes    int
	dir      string
	log      *log.Memory
	store    *store.Badger
	sim      *engine.Simulated
	poison   poison
	calm     bool // no command fails
	now      proto.Millis
	seq      uint64
	controls [][]byte
	commands uint64

	acme, beta, gone, bad proto.ClientInfo
	receipts              map[proto.Identity]*proto.Receipt // of those that were final before the backup
}

var townSecret = [16]byte{7, 7, 7}

func newTownship(t *testing.T, lanes int) *township {
	w := &township{t: t, lanes: lanes, dir: t.TempDir(), now: scriptStart, receipts: map[proto.Identity]*proto.Receipt{}}
	w.log = log.NewMemory(lanes, func() time.Time { return w.now.Time() })
	var err error
	if w.store, err = store.Open(store.Config{Dir: filepath.Join(w.dir, "store"), Small: true}); err != nil {
		t.Fatal(err)
	}
	c := w.config(filepath.Join(w.dir, "node"), lanes)
	if w.sim, err = engine.Simulate(c, w.log, w.store, townSecret, w.poison.judge); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *township) config(dir string, lanes int) engine.Config {
	return engine.Config{
		Dir: dir, Lanes: lanes, HashSecret: townSecret[:], LogBytesMax: 64 << 20, DiskReserve: 1 << 20, SmallStore: true, AcceptLostOptOuts: true,
		Now: func() time.Time { return w.now.Time() },
	}
}

func (w *township) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// append writes an entry into a lane's log.
func (w *township) append(lane int, commands []byte, count int) {
	w.t.Helper()
	w.seq++
	e := &proto.Entry{Lane: proto.LaneID(lane), Producer: 77, Seq: w.seq, Time: w.now, Count: count, Commands: commands}
	_, err := w.log.Lane(e.Lane).Append(w.t.Context(), e)
	w.check(err)
}

func (w *township) lane(lane int, kind proto.CommandKind, bodies ...[]byte) {
	w.t.Helper()
	var b []byte
	for _, body := range bodies {
		b = proto.AppendCommand(b, kind, proto.LanePartition, body)
	}
	w.append(lane, b, len(bodies))
}

// take writes commands into the logs of their lanes.
func (w *township) take(b *proto.Batch) {
	w.t.Helper()
	for i := range b.Len() {
		raw, p := b.Item(i)
		w.append(int(p)%w.lanes, raw, 1)
	}
}

func (w *township) apply() {
	w.t.Helper()
	for lane := range w.lanes {
		w.check(w.sim.Apply(proto.LaneID(lane), math.MaxInt, engine.NoCrash))
	}
}

// rest applies and relays until nothing is under way, and tells the ledger.
func (w *township) rest() {
	w.t.Helper()
	w.apply()
	for moved := true; moved; {
		moved = false
		for lane := range w.lanes {
			if list := w.sim.Controls(proto.LaneID(lane)); len(list) > 0 {
				w.lane(lane, proto.CommandControl, list...)
				moved = true
			}
			for from := range w.lanes {
				if p := w.sim.Pack(proto.LaneID(from), proto.LaneID(lane), 0); from != lane && p != nil {
					w.lane(lane, proto.CommandGraph, p.Append(nil))
					moved = true
				}
			}
			if w.sim.Carries(proto.LaneID(lane)) {
				w.beat(lane)
				moved = true
			}
		}
		w.apply()
		w.check(w.sim.Trim())
	}
	if !w.sim.Tell() {
		w.t.Fatal("the ledger is not told")
	}
}

func (w *township) beat(lane int) {
	b := proto.Beat{Node: "test", Incarnation: 1, Time: w.now}
	w.lane(lane, proto.CommandBeat, b.Append(nil))
}

// pass has time pass.
func (w *township) pass(d time.Duration) {
	w.now = w.now.Add(d)
	for lane := range w.lanes {
		w.beat(lane)
	}
	w.rest()
}

// control writes a control record, which the lanes do not obey yet.
func (w *township) control(c *pb.Control) uint64 {
	w.t.Helper()
	c.TimeMs = int64(w.now)
	raw, err := proto.EncodeControl(c)
	w.check(err)
	seq, err := w.log.Control().Append(w.t.Context(), raw, uint64(len(w.controls)))
	w.check(err)
	w.controls = append(w.controls, raw)
	w.check(w.sim.ReadControl())
	return seq
}

func (w *township) client(name string) proto.ClientInfo {
	w.control(&pb.Control{Body: &pb.Control_Client{Client: &pb.Client{Name: name, Space: "group"}}})
	c, ok := w.sim.Client(proto.ClientName(name))
	if !ok {
		w.t.Fatalf("client %s is missing", name)
	}
	return c
}

func (w *township) define(c proto.ClientInfo, id, scope, when string) {
	w.t.Helper()
	r := defineRecord(w.t, c, id, when)
	r.GetDefine().Scope = scope
	w.control(r)
}

// fill goes through history until all segments are filled.
func (w *township) fill() {
	w.t.Helper()
	w.rest()
	for open := true; open; {
		open = false
		for lane := range w.lanes {
			if f := w.sim.Fill(proto.LaneID(lane)); f != nil {
				w.lane(lane, proto.CommandFill, f.Append(nil))
				open = true
			}
		}
		w.rest()
	}
	for c := w.sim.Swap(); c != nil; c = w.sim.Swap() {
		w.control(c)
		w.fill()
	}
}

func (w *township) page(c proto.ClientInfo, section string, ids ...proto.Identity) {
	w.t.Helper()
	e := page(c, "", section, w.now.Time())
	e.Received, e.Identities, e.Network = w.now, ids, proto.NetworkKey(1+len(section))
	var b proto.Batch
	b.AddEvent(w.sim.Hasher(), e)
	w.take(&b)
}

func (w *township) link(c proto.ClientInfo, a, b proto.Identity) {
	var x proto.Batch
	x.AddLink(w.sim.Hasher(), &proto.LinkCommand{Client: c.ID, Space: c.Space, A: a, B: b, Received: w.now, Confidence: 1000})
	w.take(&x)
}

func (w *township) cut(id proto.Identity, c proto.CutCommand) {
	w.commands++
	c.Hash, c.Received, c.Command = w.sim.Hasher().Hash(id), w.now, w.commands
	var b proto.Batch
	b.AddCut(&c)
	w.take(&b)
}

func (w *township) optIn(id proto.Identity) {
	var b proto.Batch
	b.AddOptIn(&proto.OptInCommand{Hash: w.sim.Hasher().Hash(id), Gen: 1, Received: w.now})
	w.take(&b)
}

const townsfolk = 160

func townsman(i int) proto.Identity { return proto.Identity(fmt.Sprint("browser:t", i)) }

// populate makes a store of a month with something of each kind, at rest.
func (w *township) populate() {
	w.acme, w.beta, w.gone, w.bad = w.client("acme"), w.client("beta"), w.client("gone"), w.client("bad")
	w.poison.client = w.bad.ID
	w.control(&pb.Control{Body: &pb.Control_Retain{Retain: &pb.Retain{SessionsMs: 700 * 86400_000}}})
	w.control(&pb.Control{Body: &pb.Control_Retain{Retain: &pb.Retain{Client: uint32(w.acme.ID), SessionsMs: 600 * 86400_000}}})
	w.control(&pb.Control{Body: &pb.Control_Feed{Feed: &pb.Feed{Client: uint32(w.acme.ID), On: true}}})
	w.control(&pb.Control{Body: &pb.Control_Place{Place: &pb.Place{Lane: uint32(w.lanes - 1), Node: "kith-1"}}})
	for _, c := range []proto.ClientInfo{w.acme, w.beta, w.gone, w.bad} {
		w.define(c, "seen", "user", `count(true) >= 1`)
		w.define(c, "auto", "identity", `count(event.section == "auto", "60d") >= 1`)
	}
	w.define(w.acme, "hot", "user", `count(true, "3h") >= 1`)
	w.define(w.acme, "gold", "identity", `trait("tier") == "gold"`)
	w.define(w.acme, "edited", "user", `count(event.section == "auto") >= 1`)
	w.define(w.acme, "on", "identity", `member("edited") && member("auto")`)
	w.pass(0)
	w.fill()
	for i := range townsfolk {
		w.page(w.acme, []string{"auto", "home"}[i%2], townsman(i))
		if i%3 == 0 {
			w.page(w.gone, "auto", townsman(i))
		}
	}
	w.pass(time.Second)
	w.pass(24 * time.Hour) // sizes of the first day
	for i := 0; i < townsfolk; i += 8 {
		w.page(w.beta, "auto", townsman(i), proto.Identity(fmt.Sprint("account:", i)))
		w.link(w.acme, townsman(i), townsman(i+1))
		w.link(w.acme, townsman(i+1), townsman(i+2))
		var b proto.Batch
		b.AddTraits(w.sim.Hasher(), &proto.Traits{
			Client: w.acme.ID, Space: w.acme.Space, Identity: townsman(i + 3), Received: w.now,
			Set: []proto.Prop{{Key: "tier", Value: proto.TextOf("gold")}},
		})
		w.take(&b)
	}
	w.rest()
	w.define(w.acme, "edited", "user", `count(event.section == "home") >= 1`)
	w.fill()
	w.pass(24 * time.Hour)
	w.poison.on.Store(!w.calm)
	for i := range 12 {
		w.page(w.bad, "x", townsman(i), proto.Identity(fmt.Sprint("account:bad", i)))
	}
	w.rest()
	w.poison.on.Store(false)
	// An opt-out of one whose user is of several lanes, one of all of a user, some
	// who come back, erasures.
	w.cut(townsman(0), proto.CutCommand{Kind: proto.CutOptOut})
	w.cut(townsman(8), proto.CutCommand{Kind: proto.CutOptOut, Everywhere: true})
	w.cut(townsman(16), proto.CutCommand{Kind: proto.CutErase})
	w.cut(townsman(24), proto.CutCommand{Kind: proto.CutOptOut})
	w.cut(townsman(32), proto.CutCommand{Kind: proto.CutForget, Client: w.beta.ID, Space: w.beta.Space})
	for i := 40; i < 64; i++ {
		w.cut(townsman(i), proto.CutCommand{Kind: proto.CutOptOut})
	}
	w.rest()
	w.pass(time.Minute)
	w.optIn(townsman(24))
	w.rest()
	w.pass(32 * 24 * time.Hour) // names of what few did go: totals are folded
	for i := 64; i < townsfolk; i++ {
		w.page(w.acme, "home", townsman(i))
	}
	w.page(w.acme, "home", townsman(24))
	w.pass(time.Minute)
}

// breakOff leaves work of all kinds half done.
func (w *township) breakOff() {
	last := w.lanes - 1
	w.define(w.acme, "auto", "identity", `count(event.section == "home", "60d") >= 1`)
	w.define(w.acme, "later", "identity", `count(event.section == "auto") >= 1`)
	w.control(&pb.Control{Body: &pb.Control_EraseClient{EraseClient: &pb.EraseClient{Client: uint32(w.gone.ID), Space: uint32(w.gone.Space)}}})
	w.rest()
	half := func(last proto.Ordinal, first proto.Ordinal) proto.Ordinal { return first + (last-first)/2 }
	f := w.sim.Fill(0)
	if w.lanes == 1 {
		f.Last, f.Done = half(f.Last, f.First), false
	} else {
		x := w.sim.Fill(proto.LaneID(last))
		x.Last, x.Done = half(x.Last, x.First), false
		w.lane(last, proto.CommandFill, x.Append(nil))
	}
	w.lane(0, proto.CommandFill, f.Append(nil))
	e := w.sim.Forget(0)
	if w.lanes == 1 {
		e.Last, e.Done = half(e.Last, e.First), false
	}
	w.lane(0, proto.CommandForget, e.Append(nil))
	w.apply()
	w.rest()
	for id := range townsman0s() {
		s, err := w.sim.OptOutState(w.t.Context(), id)
		w.check(err)
		if s.Receipt != nil {
			w.receipts[id] = s.Receipt
		}
	}
	if len(w.receipts) < 25 {
		w.t.Fatalf("%d opt-outs are final", len(w.receipts))
	}
	// From here on nothing is relayed any more.
	rule := defineRecord(w.t, w.acme, "last", `count(event.section == "home") >= 2`)
	rule.GetDefine().Backfill = false // its fill would do what is left of the others'
	w.control(rule)
	w.lane(0, proto.CommandControl, w.sim.Controls(0)...)
	for i := 64; i < 96; i++ {
		w.link(w.acme, townsman(i), townsman(i+32))
	}
	w.cut(townsman(128), proto.CutCommand{Kind: proto.CutOptOut, Everywhere: true})
	w.cut(townsman(151), proto.CutCommand{Kind: proto.CutOptOut})
	w.apply()
}

func townsman0s() map[proto.Identity]bool {
	all := map[proto.Identity]bool{}
	for i := range townsfolk {
		all[townsman(i)] = true
	}
	return all
}

// backup is what Backup writes.
func (w *township) backup() []byte {
	w.t.Helper()
	var file bytes.Buffer
	w.check(w.sim.Backup(w.t.Context(), &file))
	return file.Bytes()
}

// restore makes a directory of a backup with so many lanes.
func (w *township) restore(file []byte, lanes int) engine.Config {
	w.t.Helper()
	c := w.config(filepath.Join(w.t.TempDir(), "data"), 1)
	c.RestoreLanes = lanes
	w.check(engine.Restore(w.t.Context(), c, bytes.NewReader(file)))
	c.Lanes, c.RestoreLanes = lanes, 0
	r, err := engine.Verify(w.t.Context(), c)
	w.check(err)
	if len(r.Problems) > 0 || len(r.Lanes) != lanes {
		w.t.Fatalf("with %d lanes verify finds %d lanes and %q", lanes, len(r.Lanes), r.Problems)
	}
	return c
}

// stored reads the store of a directory.
func (w *township) stored(c engine.Config, fn func(store.Store)) {
	w.t.Helper()
	st, err := store.Open(store.Config{Dir: filepath.Join(c.Dir, "store"), Small: true})
	w.check(err)
	fn(st)
	w.check(st.Close())
}

// open runs a node over a directory until all that was half done is done.
func (w *township) open(c engine.Config) *engine.Node {
	w.t.Helper()
	n, err := engine.Open(w.t.Context(), c)
	w.check(err)
	until(w.t, n, 60*time.Second, "finishing what was half done", func() bool {
		x, ok := n.ClientErasure("gone")
		return !n.Filling() && (!ok || x.Erased)
	})
	until(w.t, n, 60*time.Second, "replacing a version", func() bool {
		return !slices.ContainsFunc(n.Segments(w.acme), func(s proto.SegmentSpec) bool { return s.Next != nil })
	})
	until(w.t, n, 60*time.Second, "bringing users up to that", func() bool { return !n.Filling() })
	settle(w.t, n)
	return n
}

// answers are what a node says of all that can be asked, by question.
func (w *township) answers(n *engine.Node) map[string]string {
	w.t.Helper()
	out := map[string]string{}
	add := func(question string, x any, err error) {
		w.t.Helper()
		if err != nil {
			x = err.Error()
		}
		text, err := json.Marshal(x)
		w.check(err)
		out[question] = string(text)
	}
	ctx := w.t.Context()
	ids := []proto.Identity{"account:0", "account:8", "account:72"}
	for i := range townsfolk {
		ids = append(ids, townsman(i))
	}
	for _, c := range []proto.ClientInfo{w.acme, w.beta, w.bad, w.gone} {
		specs := n.Segments(c)
		add(fmt.Sprint("segments of ", c.Name), specs, nil)
		for _, id := range ids {
			seen, list, err := n.Lookup(c, id, w.now, nil)
			slices.Sort(list)
			add(fmt.Sprint(c.Name, " looks up ", id), []any{seen, list}, err)
			u, err := n.User(ctx, c, id)
			add(fmt.Sprint(c.Name, " asks for the user of ", id), u, err)
			r, err := n.Record(ctx, c, id)
			add(fmt.Sprint(c.Name, " asks for ", id), r, err)
		}
		for _, s := range specs {
			for _, unit := range []string{"", "users"} {
				x, err := n.Counts(ctx, c, []string{string(s.ID), "!" + string(s.ID)}, unit)
				add(fmt.Sprint(c.Name, " counts ", unit, s.ID), x, err)
			}
			for i := 0; i < townsfolk; i += 7 {
				x, err := n.Explain(ctx, c, townsman(i), s.ID, time.Time{})
				add(fmt.Sprint(c.Name, " has ", s.ID, " explained of ", townsman(i)), x, err)
			}
			x, err := n.Sizes(c, s.ID, 0, w.now.Day())
			add(fmt.Sprint(c.Name, " asks for sizes of ", s.ID), x, err)
			a := take(w.t, n, c, proto.ExportRequest{Expr: string(s.ID)})
			add(fmt.Sprint(c.Name, " exports ", s.ID), []any{a.Manifest.Count, a.Manifest.Exact, a.members}, nil)
		}
		for _, by := range []string{"event", "campaign"} {
			for _, floor := range []int{0, 5, 50} {
				x, err := n.Aggregates(ctx, c, by, scriptStart.Day(), w.now.Day(), floor)
				add(fmt.Sprint(c.Name, " asks for totals by ", by, floor), x, err)
			}
		}
	}
	for _, id := range ids {
		s, err := n.OptOutState(ctx, id)
		if w.receipts[id] == nil {
			s.Receipt = nil // it is of the lanes that there were when it was final
		}
		add(fmt.Sprint("opt-out of ", id), s, err)
	}
	var letters []string
	for _, l := range deadLetters(w.t, n) {
		letters = append(letters, fmt.Sprint(l.Time, l.Reason))
	}
	slices.Sort(letters)
	add("dead letters", letters, nil)
	add("clients", n.Clients(), nil)
	return out
}

// wantReceipts sees that receipts of before the backup are answered as they were.
func (w *township) wantReceipts(n *engine.Node) {
	w.t.Helper()
	for id, r := range w.receipts {
		s, err := n.OptOutState(w.t.Context(), id)
		w.check(err)
		if diff := cmp.Diff(r, s.Receipt); diff != "" {
			w.t.Errorf("the receipt of %s (-before +after):\n%s", id, diff)
			return
		}
	}
	for id, r := range w.receipts {
		if check, err := n.CheckReceipt(w.t.Context(), 0, *r); err != nil || r.Client == "" && (!check.Clean || !check.Signature || !check.LogClear) {
			w.t.Errorf("the receipt of %s: %+v, %v", id, check, err)
		}
	}
}

// goOn has a node take in what is new, over all that it holds.
func (w *township) goOn(n *engine.Node) {
	w.t.Helper()
	before := proto.Offset(0) // what was known of lanes when the backup was made
	for _, r := range w.receipts {
		at, err := proto.ParsePosition(r.Position)
		w.check(err)
		before = max(before, slices.Max(slices.Collect(maps.Values(at))))
	}
	if placed := n.ClusterStatus(w.t.Context()).Placed; len(placed) > 0 {
		w.t.Errorf("owners of lanes are named still: %v", placed)
	}
	list := deadLetters(w.t, n)
	if len(list) == 0 {
		w.t.Fatal("no dead letters")
	}
	for _, l := range list {
		w.check(n.Replay(w.t.Context(), l.ID))
	}
	if left := deadLetters(w.t, n); len(left) > 0 {
		w.t.Errorf("%d dead letters are left", len(left))
	}
	at := w.now.Time()
	for i := range 20 {
		e := page(w.acme, fmt.Sprint("fresh", i), "auto", at)
		e.Received = w.now
		submit(w.t, n, e)
	}
	link(w.t, n, w.acme, "browser:fresh0", townsman(100), yes())
	link(w.t, n, w.acme, "browser:fresh1", townsman(131), yes())
	if got := membersOf(w.t, n, w.acme, "browser:fresh1"); !slices.Contains(got, townsman(131)) {
		w.t.Errorf("fresh1 is of %v", got)
	}
	for _, id := range []proto.Identity{townsman(100), "browser:fresh2", townsman(72)} {
		r := optOut(w.t, n, id, false)
		if at, err := proto.ParsePosition(r.Position); err != nil || len(at) != len(n.Lanes()) || slices.Min(slices.Collect(maps.Values(at))) < before {
			w.t.Errorf("the cut of %s knows lanes up to %s, which were at %d already", id, r.Position, before)
		}
		if check := wantClean(w.t, n, r); !check.Clean {
			w.t.Errorf("the cut of %s left something", id)
		}
		if seen, _ := lookup(w.t, n, w.acme, id); seen.Known {
			w.t.Errorf("%s is known after its opt-out", id)
		}
	}
	settle(w.t, n)
}

// A backup is restored with other numbers of lanes, and back with the first one:
// all answers are the same, and it goes on.
func TestRelane(t *testing.T) {
	pairs := [][2]int{{1, 4}, {4, 1}, {4, 3}, {3, 64}}
	if testing.Short() { // for the race detector: what runs at the same time is the same in all
		pairs = [][2]int{{4, 3}}
	}
	for _, pair := range pairs {
		t.Run(fmt.Sprintf("%d to %d", pair[0], pair[1]), func(t *testing.T) {
			w := newTownship(t, pair[0])
			w.populate()
			w.check(w.sim.Seal()) // what comes after is in the journal
			w.breakOff()
			known := strings.NewReplacer("e", "")
			if pair[0] == 1 {
				known = strings.NewReplacer("e", "", "m", "")
			}
			if diff := cmp.Diff(known.Replace(engine.LaneKinds()), strings.ReplaceAll(engine.LaneKindsOf(w.store), "e", "")); diff != "" {
				t.Fatalf("the store does not have something of each kind (-known +there):\n%s", diff)
			}
			file := w.backup()

			plain := w.restore(file, pair[0])
			var want map[string][]string
			var work map[string]*[proto.Partitions]engine.Work
			w.stored(plain, func(st store.Store) {
				w.check(engine.SettleStore(t.Context(), plain, w.now.Time(), w.allControls(), st))
				want, work = engine.StateOf(st, pair[0], townSecret), engine.WorkOf(st, pair[0])
			})
			other := w.restore(file, pair[1])
			w.stored(other, func(st store.Store) {
				if diff := cmp.Diff(want, engine.StateOf(st, pair[1], townSecret)); diff != "" {
					t.Errorf("the state (-%d +%d lanes):\n%s", pair[0], pair[1], diff)
				}
				nobodyIsPassedOver(t, work, engine.WorkOf(st, pair[1]))
			})
			if t.Failed() {
				return
			}

			n := w.open(w.restore(file, pair[0]))
			answers := w.answers(n)
			w.wantReceipts(n)
			closeNode(t, n)
			same := func(what string, n *engine.Node) {
				t.Helper()
				if diff := cmp.Diff(answers, w.answers(n)); diff != "" {
					t.Errorf("%s (-before +after):\n%s", what, diff)
				}
				w.wantReceipts(n)
			}
			m := w.open(other)
			same("the answers with other lanes", m)
			var again bytes.Buffer
			w.check(m.Backup(t.Context(), &again))
			w.goOn(m)
			closeNode(t, m)
			m = w.open(other) // over a restart too
			settle(t, m)
			closeNode(t, m)
			back := w.open(w.restore(again.Bytes(), pair[0]))
			same("the answers with as many lanes as before", back)
			w.goOn(back)
			closeNode(t, back)
		})
	}
}

// nobodyIsPassedOver sees that no work has come further for any partition.
func nobodyIsPassedOver(t *testing.T, before, after map[string]*[proto.Partitions]engine.Work) {
	t.Helper()
	halfway := 0
	for name, list := range before {
		for p, was := range list {
			is := after[name][p]
			if is.Done && !was.Done || !is.Done && !was.Done && is.Next > was.Next {
				t.Errorf("%s of partition %d was %+v, is %+v", name, p, was, is)
			}
			halfway += int(min(was.Next, 1))
		}
	}
	if halfway == 0 {
		t.Error("nothing is half way")
	}
}

// allControls are the control records as a restore has them.
func (w *township) allControls() [][]byte {
	raw, err := proto.EncodeControl(&pb.Control{TimeMs: int64(w.now), Body: &pb.Control_Place{Place: &pb.Place{Lane: uint32(w.lanes - 1)}}})
	w.check(err)
	return append(slices.Clone(w.controls), raw)
}

// Each kind of key that the package comment lists is known to what carries them.
func TestRelaneKnowsAllKinds(t *testing.T) {
	source, err := os.ReadFile("engine.go")
	if err != nil {
		t.Fatal(err)
	}
	var listed []byte
	for _, m := range regexp.MustCompile(`(?m)^//\t'L' L '(.)'`).FindAllSubmatch(source, -1) {
		listed = append(listed, m[1][0])
	}
	slices.Sort(listed)
	if diff := cmp.Diff(string(listed), engine.LaneKinds()); diff != "" {
		t.Errorf("kinds (-listed +known):\n%s", diff)
	}
}
