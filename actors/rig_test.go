package actors_test

import (
	"cmp"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/asynkron/protoactor-go/actor"
	gocmp "github.com/google/go-cmp/cmp"

	"kith/actors"
	"kith/actors/identity"
	"kith/graph"
	"kith/proto"
	"kith/segments"
)

// generation is the key under which a node is stored.
type generation struct {
	proto.Node
	gen uint32
}

type copyKey struct {
	proto.Node
	member graph.Hash
}

type blockKey struct {
	generation
	client proto.ClientID
	number uint32
}

// memory is a store in memory, as of some batch.
type memory struct {
	nodes   map[generation][]byte
	darks   map[proto.Node][]byte
	copies  map[copyKey][]byte
	optOuts map[graph.Hash][]byte
	blocks  map[blockKey][]byte
	names   map[proto.Ordinal]actors.Named
	bits    map[segments.BitDelta]bool // those set, as replayed
	users   map[proto.Ordinal]graph.Hash
	views   map[proto.Node]string
	next    map[proto.PartitionID]uint32
	spaces  []proto.SpaceID
}

func newMemory() *memory {
	return &memory{
		nodes: map[generation][]byte{}, darks: map[proto.Node][]byte{}, copies: map[copyKey][]byte{}, optOuts: map[graph.Hash][]byte{}, blocks: map[blockKey][]byte{},
		names: map[proto.Ordinal]actors.Named{}, bits: map[segments.BitDelta]bool{}, users: map[proto.Ordinal]graph.Hash{}, views: map[proto.Node]string{}, next: map[proto.PartitionID]uint32{},
	}
}

// read gives a value by its key, if there is one.
func read[K comparable](m map[K][]byte, k K, fn func([]byte) error) (bool, error) {
	v, ok := m[k]
	if !ok {
		return false, nil
	}
	return true, lend(v, fn)
}

// lend gives bytes that are gone afterwards, as a store's are.
func lend(v []byte, fn func([]byte) error) error {
	v = slices.Clone(v)
	err := fn(v)
	for i := range v {
		v[i] = 0xee
	}
	return err
}

func (m *memory) Node(n proto.Node, gen uint32, fn func([]byte) error) (bool, error) {
	return read(m.nodes, generation{n, gen}, fn)
}

func (m *memory) Dark(n proto.Node, fn func([]byte) error) (bool, error) {
	return read(m.darks, n, fn)
}

func (m *memory) Copy(n proto.Node, member graph.Hash, fn func([]byte) error) (bool, error) {
	return read(m.copies, copyKey{n, member}, fn)
}

func (m *memory) OptOut(h graph.Hash, fn func([]byte) error) (bool, error) {
	return read(m.optOuts, h, fn)
}

func (m *memory) Blocks(n proto.Node, gen uint32, c proto.ClientID, first, next uint32) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for i := first; i < next; i++ {
			b, ok := m.blocks[blockKey{generation{n, gen}, c, i}]
			if !ok {
				yield(nil, proto.Errorf(proto.CodeCorrupt, "block %d is missing", i))
				return
			}
			more := true
			if _ = lend(b, func(b []byte) error { more = yield(b, nil); return nil }); !more {
				return
			}
		}
	}
}

func put[K comparable](m map[K][]byte, k K, v []byte) {
	if v == nil {
		delete(m, k)
	} else {
		m[k] = v
	}
}

func (m *memory) commit(outs []*actors.Outcome) {
	for _, o := range outs {
		if o.Next > 0 {
			m.next[o.Partition] = o.Next
		}
		for _, s := range o.Spaces {
			if !slices.Contains(m.spaces, s) {
				m.spaces = append(m.spaces, s)
				slices.Sort(m.spaces)
			}
		}
		for _, p := range o.Puts {
			put(m.nodes, generation{p.Node, p.Gen}, p.Value)
		}
		for _, p := range o.Darks {
			put(m.darks, p.Node, p.Value)
		}
		for _, p := range o.Copies {
			put(m.copies, copyKey{p.Node, p.Member}, p.Value)
		}
		for _, p := range o.OptOuts {
			put(m.optOuts, p.Hash, p.Value)
		}
		for _, b := range o.Blocks {
			put(m.blocks, blockKey{generation{b.Node, b.Gen}, b.Client, b.Number}, b.Data)
		}
		for _, n := range o.Named {
			m.names[n.Ordinal] = n
		}
		for _, n := range o.Unnamed {
			delete(m.names, n)
		}
		for _, b := range o.Bits {
			if set := (segments.BitDelta{Key: b.Key, Client: b.Client, Ordinal: b.Ordinal}); b.Set {
				m.bits[set] = true
			} else {
				delete(m.bits, set)
			}
		}
		for _, u := range o.Users {
			if m.users[u.Ordinal] = u.Root; u.Root == (graph.Hash{}) {
				delete(m.users, u.Ordinal)
			}
		}
		for _, x := range o.Turned { // look-ups ask the opt-out again
			maps.DeleteFunc(m.views, func(n proto.Node, _ string) bool { return n.Hash == x.Hash })
		}
		for _, v := range o.Views {
			if m.views[v.Node] = tellView(v.View); v.View == nil || v.View.OptedOut { // the opt-out says so too
				delete(m.views, v.Node)
			}
		}
	}
}

func tellView(v *identity.View) string {
	if v == nil {
		return "nothing"
	}
	return fmt.Sprintf("%+v", *v)
}

// state reads a node as it is stored, nil if it is not; gen is that of its key.
func (m *memory) state(t interface{ Fatalf(string, ...any) }, n proto.Node) (s *identity.State, gen uint32) {
	decode := func(v []byte) {
		s = &identity.State{}
		members, err := s.Decode(v)
		if err != nil {
			t.Fatalf("a stored node: %v", err)
		}
		for _, peer := range members {
			if err := s.Graph.AddCopy(peer, m.copies[copyKey{n, peer}]); err != nil {
				t.Fatalf("a stored copy: %v", err)
			}
		}
	}
	for k, v := range m.nodes {
		if k.Node == n {
			if s != nil {
				t.Fatalf("%v is stored in two generations, %d and %d", n, gen, k.gen)
			}
			gen = k.gen
			decode(v)
		}
	}
	if v, ok := m.darks[n]; ok {
		if s != nil {
			t.Fatalf("%v is stored as opted out and as generation %d", n, gen)
		}
		s = &identity.State{Graph: &graph.State{}}
		if members, err := s.Graph.Decode(v); err != nil || len(members) > 0 {
			t.Fatalf("a stored tombstone: %v, members %v", err, members)
		}
		gen = s.Graph.Gen
	}
	return s, gen
}

func (m *memory) optOut(t interface{ Fatalf(string, ...any) }, h graph.Hash) *identity.OptOut {
	var o identity.OptOut
	if v, ok := m.optOuts[h]; ok {
		if err := o.Decode(v); err != nil {
			t.Fatalf("a stored opt-out: %v", err)
		}
	}
	return &o
}

// where is every node that anything is stored of.
func (m *memory) where() []proto.Node {
	all := map[proto.Node]bool{}
	for k := range m.nodes {
		all[k.Node] = true
	}
	for n := range m.darks {
		all[n] = true
	}
	return slices.SortedFunc(maps.Keys(all), proto.Node.Compare)
}

// audit holds what is stored together against itself, at rest.
func (m *memory) audit(t interface{ Fatalf(string, ...any) }) {
	names, bits, users := map[proto.Ordinal]actors.Named{}, map[segments.BitDelta]bool{}, map[proto.Ordinal]graph.Hash{}
	views := map[proto.Node]string{}
	copies := 0
	for _, n := range m.where() {
		s, gen := m.state(t, n)
		if s.Gen() != gen {
			t.Fatalf("%v of generation %d lies under %d", n, s.Gen(), gen)
		}
		note := m.optOut(t, n.Hash).Node(n.Space)
		if (note != nil) != (gen != 1) || note != nil && (note.Gen != gen || note.Dark != s.Dark()) {
			t.Fatalf("%v of generation %d is noted as %+v", n, gen, note)
		}
		v := s.View()
		if s.Dark() {
			continue
		}
		if v != nil {
			views[n] = tellView(v)
		}
		if x := s.Graph; x != nil {
			copies += len(x.Members)
			if linked := len(x.Edges()) > 0; !x.Settled() || linked != s.Follows || linked && !s.Named {
				t.Fatalf("%v is linked %v, follows %v, is named %v; at rest %v", n, linked, s.Follows, s.Named, x.Settled())
			}
		}
		if !s.Named {
			continue
		}
		name := m.names[s.Ordinal]
		names[s.Ordinal] = actors.Named{Ordinal: s.Ordinal, Node: n, Identity: name.Identity}
		if hasher.Hash(name.Identity) != n.Hash || s.Device != (name.Identity.Kind() == "browser") {
			t.Fatalf("%v is called %q, a device %v", n, name.Identity, s.Device)
		}
		if s.Follows {
			users[s.Ordinal] = s.Graph.RootOf(n.Hash)
		}
		addBits(bits, s)
	}
	if copies != len(m.copies) {
		t.Fatalf("%d copies are stored, roots have %d", len(m.copies), copies)
	}
	for what, diff := range map[string]string{
		"names": gocmp.Diff(names, m.names), "bits": gocmp.Diff(bits, m.bits), "users": gocmp.Diff(users, m.users), "views": gocmp.Diff(views, m.views),
	} {
		if diff != "" {
			t.Fatalf("%s (-by the stored nodes +as told):\n%s", what, diff)
		}
	}
	for h := range m.optOuts {
		if o := m.optOut(t, h); o.Open() > 0 || len(o.Held) > 0 {
			t.Fatalf("at rest an opt-out is open: %+v", o)
		}
	}
	for k := range m.blocks {
		f, _ := m.state(t, k.Node)
		if f == nil || f.Gen() != k.gen || f.Client(k.client) == nil || k.number >= f.Client(k.client).History.Next {
			t.Fatalf("a block of %v, generation %d, client %d is left behind", k.Node, k.gen, k.client)
		}
	}
}

// addBits adds the bits of a node that is stored.
func addBits(bits map[segments.BitDelta]bool, s *identity.State) {
	v := s.View()
	add := func(c proto.ClientID, list []segments.Membership, counts func(proto.SegmentKey) bool) {
		bits[segments.BitDelta{Client: c, Ordinal: s.Ordinal}] = true
		for _, x := range list {
			if x.In && counts(x.Key) {
				bits[segments.BitDelta{Key: x.Key, Client: c, Ordinal: s.Ordinal}] = true
			}
		}
	}
	for _, x := range v.Clients {
		add(x.Client, x.Members, func(k proto.SegmentKey) bool { return !v.Follows || k == ownSegment })
	}
	for _, x := range v.User {
		add(x.Client, x.Members, func(proto.SegmentKey) bool { return true })
	}
}

// ownSegment is the one of scope identity; see newRules.
const ownSegment = 3

// rig is a lane's shell and graph over a memory that lags some batches behind.
type rig struct {
	t       interface{ Fatalf(string, ...any) }
	shell   *actors.Shell
	store   *memory
	lane    *graph.Lane
	batch   uint64
	waiting [][]*actors.Outcome // not yet committed
	lag     int
	now     proto.Millis
	offset  proto.Offset
	digests []uint64
	outs    []*actors.Outcome // of the last batch
	all     []*actors.Outcome
	exits   []actors.Exit
	graphed []graph.Decision
	watch   func([]graph.Group)
	carried bool          // the last entry left messages to the next
	stored  actors.Source // what the shell reads, if not the store itself
	fails   func(error)   // takes an error of the shell, which is a failed test without it
}

// partitions are all of them.
func partitions() (list []proto.PartitionID) {
	for p := range proto.PartitionID(proto.Partitions) {
		list = append(list, p)
	}
	return list
}

// few are the homes of the visitors of random scripts: a host each is dear.
func few() (list []proto.PartitionID) {
	for i := range visitors {
		list = append(list, nodeOf(visitor(i)).Hash.Partition())
	}
	slices.Sort(list)
	return slices.Compact(list)
}

const visitors = 6

// visitor is the i-th visitor of random scripts; some are no devices.
func visitor(i int) string {
	if i%3 == 2 {
		return fmt.Sprint("account:v", i)
	}
	return fmt.Sprint("v", i)
}

func config(r identity.Rules, activeMax int) actors.Config {
	limits := graph.DefaultConfig()
	limits.SkewMillis = 250
	return actors.Config{Hasher: hasher, Rules: r, Partitions: partitions(), ActiveMax: activeMax, Limits: limits}
}

// newShell is a shell of actors with that many workers, closed with the test.
func newShell(t testing.TB, c actors.Config, workers int) *actors.Shell {
	return actorShell(t, c, workers)
}

func actorShell(t interface{ Cleanup(func()) }, c actors.Config, workers int) *actors.Shell {
	system := actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }))
	s := actors.NewShell(system, actors.NewHelpers(workers-1), c)
	t.Cleanup(func() {
		s.Close()
		system.Shutdown()
	})
	return s
}

func oneLane() *graph.Lane {
	return graph.NewLane(0, 1, &[proto.Partitions]proto.LaneID{})
}

func newRig(t interface{ Fatalf(string, ...any) }, shell *actors.Shell) *rig {
	return &rig{t: t, shell: shell, store: newMemory(), now: start}
}

// entry is one entry of the log: commands, or the beat of a clock, or what
// another lane sent.
type entry struct {
	now      proto.Millis
	commands []command
	beat     bool
	due      []*actors.Due // of a beat, instead of what the index has
	received []graph.Message
}

// begin starts a batch.
func (g *rig) begin() {
	if g.lane == nil {
		g.lane = oneLane()
	}
	g.batch++
	for len(g.waiting) > g.lag {
		g.store.commit(g.waiting[0])
		g.waiting = g.waiting[1:]
	}
	source := g.stored
	if source == nil {
		source = g.store
	}
	g.shell.Begin(g.batch, g.batch-1-uint64(len(g.waiting)), source)
}

// run takes entries in, in one batch, then the timers that are due.
func (g *rig) run(entries [][]command, due []*actors.Due) {
	var list []entry
	for _, e := range entries {
		list = append(list, entry{now: g.now, commands: e})
	}
	if len(due) > 0 {
		list = append(list, entry{now: g.now, beat: true, due: due})
	}
	g.take(list)
}

// take takes entries in, in one batch.
func (g *rig) take(entries []entry) {
	g.begin()
	var bodies [][]byte
	for first := 0; first < len(entries); {
		next := first
		var list actors.Commands
		for ; next < len(entries) && !entries[next].beat; next++ {
			for j, c := range entries[next].commands {
				body := slices.Clone(c.body)
				bodies = append(bodies, body)
				list.Add(c.PartitionID, actors.Command{Entry: next, Index: j, Kind: c.kind, Body: body})
			}
		}
		if next > first {
			g.check(g.shell.Prepare(&list))
		}
		for ; first < next; first++ {
			g.enter(first, entries[first].now)
			g.inputs(entries[first].received)
		}
		if first < len(entries) {
			g.beat(first, &entries[first])
			first++
		}
	}
	outs, err := g.shell.Collect()
	g.check(err)
	g.exits = append(g.exits, g.shell.TakeExits()...)
	g.outs = outs
	g.all = append(g.all, outs...)
	g.waiting = append(g.waiting, outs)
	for i := range outs { // Dead keeps its body; all else must not
		for j := range outs[i].Dead {
			outs[i].Dead[j].Body = slices.Clone(outs[i].Dead[j].Body)
		}
	}
	for _, b := range bodies {
		for i := range b {
			b[i] = 0xdd
		}
	}
}

func (g *rig) enter(index int, now proto.Millis) {
	g.offset++
	g.lane.Position, g.lane.Vector[g.lane.ID] = g.offset, g.offset
	g.shell.Enter(actors.Entry{Index: index, Now: now, Offset: g.offset, Vector: g.lane.Vector})
}

// inputs takes in what was prepared for the entry, and what it means for the
// graph.
func (g *rig) inputs(received []graph.Message) {
	d, err := g.shell.Run()
	g.check(err)
	g.digests = append(g.digests, d)
	list := append(g.shell.TakeMessages(nil), received...)
	g.carried = false
	if len(list) == 0 && len(g.lane.Carry) == 0 {
		return
	}
	var out graph.Outcome
	g.check(g.lane.Apply(g.offset, list, g, &out))
	g.graphed = append(g.graphed, out.Decisions...)
	g.digests = append(g.digests, g.shell.Digest())
	g.carried = len(g.lane.Carry) > 0
}

// Step implements graph.Homes.
func (g *rig) Step(groups []graph.Group) error {
	err := g.shell.Step(groups)
	if g.watch != nil {
		g.watch(groups)
	}
	return err
}

// beat fires the timers that are due.
func (g *rig) beat(index int, e *entry) {
	g.enter(index, e.now)
	g.exits = append(g.exits, g.shell.TakeExits()...)
	due := e.due
	if due == nil {
		slices.SortFunc(g.exits, func(a, b actors.Exit) int { return cmp.Or(cmp.Compare(a.At, b.At), a.Node.Compare(b.Node)) })
		for len(g.exits) > 0 && g.exits[0].At <= e.now {
			due = append(due, &actors.Due{Node: g.exits[0].Node, At: g.exits[0].At})
			g.exits = g.exits[1:]
		}
	}
	for _, d := range due {
		d.Entry = index
	}
	g.check(g.shell.Due(due))
	g.inputs(nil)
}

func (g *rig) check(err error) {
	switch {
	case err != nil && g.fails != nil:
		g.fails(err)
	case err != nil:
		g.t.Fatalf("shell: %v", err)
	}
}

// settle commits all.
func (g *rig) settle() {
	for _, o := range g.waiting {
		g.store.commit(o)
	}
	g.waiting = nil
}

// restart goes on with another shell, which knows what was committed.
func (g *rig) restart(c actors.Config) {
	g.settle()
	c.Next, c.Spaces = maps.Clone(g.store.next), slices.Clone(g.store.spaces)
	g.shell = actors.NewDirect(c)
	g.batch = 0
}

// do takes one entry with the commands in, a millisecond later, and commits.
func (g *rig) do(commands ...command) {
	g.now++
	g.take([]entry{{now: g.now, commands: commands}})
	g.settle()
}

// wait lets time pass and fires what comes due.
func (g *rig) wait(d proto.Millis) {
	g.now += d
	g.take([]entry{{now: g.now, beat: true}})
	g.settle()
}

// rest takes entries until nothing is carried on.
func (g *rig) rest() {
	for g.carried {
		g.wait(1)
	}
}

// command is one thing for a node, or for the lane.
type command struct {
	proto.PartitionID
	kind proto.CommandKind
	body []byte
}

// called is a visitor's identity: a browser, unless it says what it is.
func called(visitor string) proto.Identity {
	if strings.Contains(visitor, ":") {
		return proto.Identity(visitor)
	}
	return proto.Identity("browser:" + visitor)
}

func nodeOf(visitor string) proto.Node { return nodeIn(1, visitor) }

func nodeIn(s proto.SpaceID, visitor string) proto.Node {
	return proto.Node{Hash: hasher.Hash(called(visitor)), Space: s}
}

func homeOf(visitor string) proto.PartitionID { return hasher.Hash(called(visitor)).Partition() }

func event(client proto.ClientID, visitor, name, id string, at proto.Millis) command {
	return eventIn(1, client, name, id, at, visitor)
}

func eventIn(s proto.SpaceID, client proto.ClientID, name, id string, at proto.Millis, who ...string) command {
	e := proto.Event{Client: client, Space: s, Time: at, Received: at, ID: id, EventBody: proto.EventBody{Name: name}}
	for _, v := range who {
		e.Identities = append(e.Identities, called(v))
	}
	return command{homeOf(who[0]), proto.CommandEvent, e.Append(nil)}
}

func traits(client proto.ClientID, visitor string, set ...proto.Prop) command {
	return traitsIn(1, client, visitor, start, set...)
}

func traitsIn(s proto.SpaceID, client proto.ClientID, visitor string, at proto.Millis, set ...proto.Prop) command {
	x := proto.Traits{Client: client, Space: s, Identity: called(visitor), Received: at, Set: set}
	return command{homeOf(visitor), proto.CommandTraits, x.Append(nil)}
}

// needing is traitsIn of who has a trait.
func needing(needs string, s proto.SpaceID, client proto.ClientID, visitor string, at proto.Millis, set ...proto.Prop) command {
	x := proto.Traits{Client: client, Space: s, Identity: called(visitor), Received: at, Set: set, Needs: needs}
	return command{homeOf(visitor), proto.CommandTraits, x.Append(nil)}
}

func link(s proto.SpaceID, client proto.ClientID, a, b string, at proto.Millis, id uint64) command {
	x := proto.LinkCommand{Client: client, Space: s, A: called(a), B: called(b), Received: at, Confidence: 1000, Command: id}
	return command{homeOf(a), proto.CommandLink, x.Append(nil)}
}

// unlink without b withdraws all links of a that the client vouches for.
func unlink(s proto.SpaceID, client proto.ClientID, a, b string, at proto.Millis) command {
	return unlinkAsOf(s, client, a, b, at, 0)
}

func unlinkAsOf(s proto.SpaceID, client proto.ClientID, a, b string, at, asOf proto.Millis) command {
	x := proto.UnlinkCommand{Client: client, Space: s, A: nodeOf(a).Hash, Received: at, AsOf: asOf}
	if b != "" {
		x.B = nodeOf(b).Hash
	}
	return command{homeOf(a), proto.CommandUnlink, x.Append(nil)}
}

func cut(kind proto.CutKind, a string, at proto.Millis, id uint64) command {
	return cutBody(proto.CutCommand{Hash: nodeOf(a).Hash, Kind: kind, Received: at, Command: id})
}

func everywhere(kind proto.CutKind, a string, at proto.Millis, id uint64) command {
	return cutBody(proto.CutCommand{Hash: nodeOf(a).Hash, Kind: kind, Everywhere: true, Received: at, Command: id})
}

func forget(s proto.SpaceID, client proto.ClientID, a string, at proto.Millis, id uint64) command {
	return cutBody(proto.CutCommand{Hash: nodeOf(a).Hash, Kind: proto.CutForget, Received: at, Command: id, Client: client, Space: s})
}

func cutBody(x proto.CutCommand) command {
	return command{x.Hash.Partition(), proto.CommandCut, x.Append(nil)}
}

func optIn(a string, gen uint32, at proto.Millis, id uint64) command {
	x := proto.OptInCommand{Hash: nodeOf(a).Hash, Gen: gen, Received: at, Command: id}
	return command{x.Hash.Partition(), proto.CommandOptIn, x.Append(nil)}
}
