package actors

import (
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"kith/actors/identity"
	"kith/graph"
	"kith/proto"
)

// Config is what a lane's hosts need.
type Config struct {
	Hasher     proto.Hasher
	Rules      identity.Rules // changed by the lane only between its calls
	Partitions []proto.PartitionID
	Next       map[proto.PartitionID]uint32 // next ordinals' local parts
	ActiveMax  int                          // active identities over all 64 partitions
	ActiveIdle time.Duration                // after which an unused one may be passivated; 0: never
	Limits     graph.Config
	Spaces     []proto.SpaceID // in which there may be nodes; sorted
	// Cut gives the filter of a partition's identities that were ever cut, which
	// is the host's from then on; nil: they are looked for in the source.
	Cut func(proto.PartitionID) *Filter
	// Gone reports whether a client was ended; nil: none was. It is asked by
	// several goroutines at once and changes as Rules do.
	Gone func(proto.ClientID) bool
	// Kept is for how long a client's data are; nil: for ever. It is asked and
	// changes likewise.
	Kept func(proto.ClientID) proto.Retention
	// Told names a segment of whose members' coming and going its client asked to
	// be told; nil: none did. It is asked and changes likewise.
	Told func(proto.ClientID, proto.SegmentKey) (proto.SegmentID, bool)
}

// Shell is a lane's hosts. Its methods are for one goroutine, the lane's.
type Shell struct {
	hosts   []*host // by Config.Partitions
	index   [proto.Partitions]int8
	send    func(i int, t *turn) // as a message, or by a direct call
	stop    func()
	helpers *Helpers
	turns   []turn
	given   []int // the hosts with a turn of the call under way
	wait    sync.WaitGroup

	// the batch under way
	batch, committed uint64
	source           Source
	touched          []bool // by host
	entry            Entry
	groups           [][]*graph.Group // by host
	digest           uint64           // of the entry's supersteps
	began            time.Time
	swept            int // the host whose turn to be swept is next
}

// turn is the one message that a host takes: one call's share of work.
type turn struct {
	op       turnOp
	shell    *Shell // of the batch under way
	begin    bool   // this is the host's first turn in it
	commands []Command
	due      []*Due
	groups   []*graph.Group
	digest   uint64
	out      *Outcome
	wait     *sync.WaitGroup
}

type turnOp uint8

const (
	opPrepare turnOp = iota
	opDue
	opRun
	opStep
	opCollect
	opSweep
)

// NewShell spawns the hosts as actors of system. They run on the goroutine of
// the Shell's caller, and on those of helpers, which may be nil.
func NewShell(system *actor.ActorSystem, helpers *Helpers, c Config) *Shell {
	s := newShell(c)
	s.helpers = helpers
	dispatcher := &yielding{Dispatcher: actor.NewSynchronizedDispatcher(16)}
	pids, processes := make([]*actor.PID, len(s.hosts)), make([]actor.Process, len(s.hosts))
	for i, h := range s.hosts {
		props := actor.PropsFromProducer(func() actor.Actor { return &hostActor{host: h} }, actor.WithDispatcher(dispatcher),
			actor.WithMailbox(newSlotMailbox))
		pids[i] = system.Root.SpawnPrefix(props, h.partition.String()+"-")
		processes[i], _ = system.ProcessRegistry.Get(pids[i])
	}
	s.send = func(i int, t *turn) { processes[i].SendUserMessage(pids[i], t) } // they live until stop
	s.stop = func() {
		for _, pid := range pids {
			_ = system.Root.StopFuture(pid).Wait()
		}
	}
	return s
}

// NewDirect is the twin of NewShell without actors, on the caller's goroutine:
// the simulation's, and the yardstick of the shell's cost.
func NewDirect(c Config) *Shell {
	s := newShell(c)
	for _, h := range s.hosts {
		h.courier = direct{}
	}
	s.send = func(i int, t *turn) { s.hosts[i].turn(t) }
	s.stop = func() {}
	return s
}

func newShell(c Config) *Shell {
	s := &Shell{turns: make([]turn, len(c.Partitions)), touched: make([]bool, len(c.Partitions)), groups: make([][]*graph.Group, len(c.Partitions))}
	for i := range s.index {
		s.index[i] = -1
	}
	for i, p := range c.Partitions {
		s.index[p] = int8(i)
		s.hosts = append(s.hosts, newHost(p, c, c.Next[p], nil))
	}
	return s
}

// SetStored tells a host which identities had nodes in the store when the shell was
// made, or some time later; until then it looks there for all. It may be
// called beside the others.
func (s *Shell) SetStored(p proto.PartitionID, f *Filter) {
	s.hosts[s.index[p]].earlier.Store(f)
}

// Close stops the hosts and with them all identities.
func (s *Shell) Close() { s.stop() }

// Begin starts a batch, numbered upwards from 1; source holds the batches up
// to committed. Hosts learn of it when the batch first touches them.
func (s *Shell) Begin(batch, committed uint64, source Source) {
	s.batch, s.committed, s.source, s.began = batch, committed, source, time.Now()
	clear(s.touched)
}

// Commands is an entry's or several entries' commands by host.
type Commands struct {
	lists [proto.Partitions][]Command
}

// Reset empties c and keeps its memory.
func (c *Commands) Reset() {
	for i := range c.lists {
		c.lists[i] = c.lists[i][:0]
	}
}

// Add puts a command to its home. The command's body must stay as it is until
// the batch was collected.
func (c *Commands) Add(p proto.PartitionID, x Command) {
	c.lists[p&(proto.Partitions-1)] = append(c.lists[p&(proto.Partitions-1)], x)
}

// Prepare decodes commands of one or more entries, in their order, and
// activates the identities that they touch. It ends what was prepared before,
// which must have been run.
func (s *Shell) Prepare(c *Commands) error {
	for p := range c.lists {
		if len(c.lists[p]) > 0 && s.index[p] < 0 {
			return proto.Errorf(proto.CodeCorrupt, "a command names partition %d, which this lane does not carry", p)
		}
	}
	s.each(turn{op: opPrepare}, func(i int, t *turn) int {
		t.commands = c.lists[s.hosts[i].partition]
		return len(t.commands)
	})
	return s.fault()
}

// Due prepares timers and fills of one entry; see Due.Ignore.
func (s *Shell) Due(list []*Due) error {
	byHost := make([][]*Due, len(s.hosts))
	for _, d := range list {
		i := s.index[d.Node.Hash.Partition()]
		if i < 0 {
			return proto.Errorf(proto.CodeCorrupt, "an exit record names partition %d, which this lane does not carry", d.Node.Hash.Partition())
		}
		byHost[i] = append(byHost[i], d)
	}
	s.each(turn{op: opDue}, func(i int, t *turn) int {
		t.due = byHost[i]
		return len(t.due)
	})
	return s.fault()
}

// Enter says which entry the runs and supersteps that follow are of.
func (s *Shell) Enter(e Entry) { s.entry, s.digest = e, 0 }

// Run takes in what was prepared for the entry and gives the digest of its
// effects.
func (s *Shell) Run() (digest uint64, err error) {
	s.each(turn{op: opRun}, func(i int, _ *turn) int {
		if !s.touched[i] {
			return 0
		}
		return s.hosts[i].waiting(s.entry.Index)
	})
	return s.fold(), s.fault()
}

// fold joins the digests of a call's turns.
func (s *Shell) fold() (digest uint64) {
	for i := range s.turns {
		if s.turns[i].digest != 0 {
			digest = mix(digest, uint64(s.hosts[i].partition), s.turns[i].digest)
		}
	}
	return digest
}

// TakeMessages appends what the entry's inputs mean for the graph.
func (s *Shell) TakeMessages(list []graph.Message) []graph.Message {
	for i, h := range s.hosts {
		if s.touched[i] && len(h.messages) > 0 {
			list = append(list, h.messages...)
			clear(h.messages)
			h.messages = h.messages[:0]
		}
	}
	return list
}

// Step implements graph.Homes: it runs one superstep of the entry.
func (s *Shell) Step(groups []graph.Group) error {
	for i := range groups {
		h := s.index[groups[i].To.Hash.Partition()]
		if h < 0 {
			return proto.Errorf(proto.CodeCorrupt, "a message names partition %d, which this lane does not carry", groups[i].To.Hash.Partition())
		}
		s.groups[h] = append(s.groups[h], &groups[i])
	}
	s.each(turn{op: opStep}, func(i int, t *turn) int {
		t.groups = s.groups[i]
		return len(t.groups)
	})
	for i := range s.groups {
		clear(s.groups[i])
		s.groups[i] = s.groups[i][:0]
	}
	s.digest = mix(s.digest, 7, s.fold())
	return s.fault()
}

// Digest is that of the entry's supersteps so far, 0 without any.
func (s *Shell) Digest() uint64 { return s.digest }

// Collect ends the batch and gives the outcome of each host that it touched,
// in partition order.
func (s *Shell) Collect() ([]*Outcome, error) {
	var outs []*Outcome
	s.each(turn{op: opCollect}, func(i int, _ *turn) int {
		if !s.touched[i] {
			return 0
		}
		return 1 + len(s.hosts[i].dirty)
	})
	for i := range s.turns {
		if o := s.turns[i].out; o != nil {
			outs = append(outs, o)
		}
	}
	return outs, s.fault()
}

// sweptHosts is how many hosts one Sweep looks at.
const sweptHosts = 8

// Sweep passivates, in some of the hosts, identities that were not used for
// Config.ActiveIdle. It is for between a Begin and its Collect, and changes
// nothing that anybody can see but memory.
func (s *Shell) Sweep() {
	first := s.swept
	s.swept = (s.swept + sweptHosts) % len(s.hosts)
	s.each(turn{op: opSweep}, func(i int, _ *turn) int {
		if (i-first+len(s.hosts))%len(s.hosts) < sweptHosts {
			return 1
		}
		return 0
	})
}

// Bytes estimates what the batch under way will write.
func (s *Shell) Bytes() int {
	n := 0
	for i, h := range s.hosts {
		if s.touched[i] {
			n += h.bytes
		}
	}
	return n
}

// TakeExits gives the exit records that the batch under way made since the
// last call. They stay in the outcome too.
func (s *Shell) TakeExits() []Exit {
	var list []Exit
	for i, h := range s.hosts {
		if s.touched[i] {
			list = append(list, h.out.Exits[h.taken:]...)
			h.taken = len(h.out.Exits)
		}
	}
	return list
}

// Active is how many identities are active.
func (s *Shell) Active() int {
	n := 0
	for _, h := range s.hosts {
		n += h.active.count
	}
	return n
}

// each gives every host that wants one a turn like t and waits for all. wants
// says how many pieces of work the turn is; 0: none.
func (s *Shell) each(like turn, wants func(i int, t *turn) int) {
	s.given = s.given[:0]
	work := 0
	for i := range s.turns {
		t := &s.turns[i]
		*t = like
		n := wants(i, t)
		if n == 0 {
			continue
		}
		work += n
		t.shell, t.begin, t.wait = s, !s.touched[i], &s.wait
		s.touched[i] = true
		s.given = append(s.given, i)
	}
	s.wait.Add(len(s.given))
	if !s.helpers.share(work, s.given, s.give) {
		for _, i := range s.given {
			s.give(i)
		}
	}
	s.wait.Wait()
}

func (s *Shell) give(i int) { s.send(i, &s.turns[i]) }

func (s *Shell) fault() error {
	for _, h := range s.hosts {
		if h.fault != nil {
			return h.fault
		}
	}
	return nil
}

// turn does one call's share of work. A host that has a fault does nothing more. A
// panic is one, caught here: left to the actor, it would have the host started anew
// and its identities stopped, and the turn be taken for done.
func (h *host) turn(t *turn) {
	defer t.wait.Done()
	defer caught(&h.fault)
	if h.fault != nil {
		return
	}
	if t.begin {
		h.begin(t.shell.batch, t.shell.committed, t.shell.source, t.shell.began)
	}
	switch t.op {
	case opPrepare:
		h.prepare(t.commands)
	case opDue:
		h.due(t.due)
	case opRun:
		h.entry = t.shell.entry
		t.digest = h.run()
	case opStep:
		h.entry = t.shell.entry
		t.digest = h.superstep(t.groups)
	case opSweep:
		h.sweep()
	case opCollect:
		t.out = h.collect()
	}
}

// caught is to be deferred: it makes a panic an error with the stack.
func caught(err *error) {
	if p := recover(); p != nil {
		*err = proto.Errorf(proto.CodeInternal, "panic in a host: %v\n%s", p, debug.Stack())
	}
}

// hostActor is a partition's permanent actor.
type hostActor struct{ host *host }

// identityProps make the actor of one identity: it runs on its host's
// goroutine, so that a message to it is a call with a mailbox in between.
func identityProps() *actor.Props {
	return actor.PropsFromProducer(func() actor.Actor { return identityActor{} },
		actor.WithDispatcher(actor.NewSynchronizedDispatcher(300)),
		actor.WithMailbox(newSlotMailbox))
}

// Receive implements actor.Actor.
func (a *hostActor) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		a.host.courier = &actorCourier{ctx: ctx, props: identityProps()}
	case *turn:
		a.host.turn(m)
	}
}

// actorCourier delivers inputs as messages. ctx is the host's own.
type actorCourier struct {
	ctx   actor.Context
	props *actor.Props
}

func (c *actorCourier) activate(r *resident) {
	r.address = c.ctx.Spawn(c.props)
	r.process, _ = c.ctx.ActorSystem().ProcessRegistry.Get(r.address)
}

// deliver is a Send to an actor that is known to be alive: only passivate stops
// it, and then nothing is delivered to it any more.
func (c *actorCourier) deliver(r *resident) { r.process.SendUserMessage(r.address, r) }

func (c *actorCourier) passivate(r *resident) {
	c.ctx.Stop(r.address)
}

// identityActor is one identity's actor. Its state comes with the slot.
type identityActor struct{}

// Receive implements actor.Actor.
func (identityActor) Receive(ctx actor.Context) {
	if r, ok := ctx.Message().(*resident); ok {
		r.step()
	}
}

type direct struct{}

func (direct) activate(*resident)  {}
func (direct) deliver(r *resident) { r.step() }
func (direct) passivate(*resident) {}

// yielding lets other goroutines run between hosts' turns: 64 hosts back to
// back would starve look-ups, a yield after every turn costs a tenth.
type yielding struct {
	actor.Dispatcher
	last atomic.Int64 // when one yielded, in nanoseconds
}

const yieldEvery = 200 * time.Microsecond

func (y *yielding) Schedule(fn func()) {
	y.Dispatcher.Schedule(fn)
	if now := time.Now().UnixNano(); now-y.last.Load() > int64(yieldEvery) {
		y.last.Store(now)
		runtime.Gosched()
	}
}
