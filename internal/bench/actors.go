package bench

import (
	"context"
	"iter"
	"log/slog"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"kith/actors"
	"kith/proto"
	"kith/segments"
)

// The entries of the measurement of actors against direct calls.
const (
	shellEvents   = 256 * 512 // gone through again and again
	shellCommands = 512       // of an entry
	shellPerBatch = 8         // entries of a batch
)

// kept holds nothing: every identity is active from its first event on.
type kept struct{}

// Node implements actors.Source.
func (kept) Node(proto.Node, uint32, func([]byte) error) (bool, error) { return false, nil }

// Dark implements actors.Source.
func (kept) Dark(proto.Node, func([]byte) error) (bool, error) { return false, nil }

// Copy implements actors.Source.
func (kept) Copy(proto.Node, proto.IdentityHash, func([]byte) error) (bool, error) { return false, nil }

// OptOut implements actors.Source.
func (kept) OptOut(proto.IdentityHash, func([]byte) error) (bool, error) { return false, nil }

// Blocks implements actors.Source.
func (kept) Blocks(proto.Node, uint32, proto.ClientID, uint32, uint32) iter.Seq2[[]byte, error] {
	return func(func([]byte, error) bool) {}
}

type oneProgram struct{ p *segments.Program }

// Program implements identity.Rules.
func (r oneProgram) Program(proto.ClientID) *segments.Program { return r.p }

// Drive puts the same entries through a shell again and again.
type Drive struct {
	shell    *actors.Shell
	close    func()
	entries  []*actors.Commands // by batch
	perBatch int                // entries of a batch
	batch    uint64
	now      proto.Millis
	offset   proto.Offset
	wrote    written
}

// written is what batches would store.
type written struct{ events, states, blocks, bytes int }

func (w *written) add(o *actors.Outcome) {
	w.events += o.Events
	w.states += len(o.Puts)
	w.blocks += len(o.Blocks)
	for i := range o.Puts {
		w.bytes += len(o.Puts[i].Value)
	}
	for i := range o.Blocks {
		w.bytes += len(o.Blocks[i].Data)
	}
}

// NewDrive makes one over actors, or over direct calls, of batches of so many entries
// with so many commands each.
func NewDrive(direct bool, perBatch, commands int) (*Drive, error) {
	program := segments.NewProgram()
	for i, r := range hundred() {
		compiled, err := segments.Compile(r.when)
		if err != nil {
			return nil, err
		}
		if err := program.Define(segments.Definition{Key: proto.SegmentKey(i + 1), ID: proto.SegmentID(r.id), Scope: segments.ScopeIdentity, Rule: compiled}); err != nil {
			return nil, err
		}
	}
	c := actors.Config{Hasher: proto.NewHasher([16]byte{1}), Rules: oneProgram{program}, Next: map[proto.PartitionID]uint32{}, ActiveMax: 10 * visitors}
	for p := range proto.PartitionID(proto.Partitions) {
		c.Partitions = append(c.Partitions, p)
	}
	d := &Drive{now: proto.MillisOf(time.Now()), perBatch: perBatch}
	d.makeEntries(c.Hasher, commands)
	if direct {
		d.shell = actors.NewDirect(c)
		d.close = d.shell.Close
		return d, nil
	}
	system := actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return slog.New(slog.DiscardHandler) }))
	d.shell = actors.NewShell(system, nil, c)
	d.close = func() {
		d.shell.Close()
		system.Shutdown()
	}
	return d, nil
}

// Close stops the shell.
func (d *Drive) Close() { d.close() }

// makeEntries packs the warm set's visits.
func (d *Drive) makeEntries(h proto.Hasher, commands int) {
	from := &warm{tape: newTape()}
	for range shellEvents / (d.perBatch * commands) {
		c := &actors.Commands{}
		for entry := range d.perBatch {
			for i := range commands {
				v := from.next()
				c.Add(h.Hash(identityOf(v.visitor)).Partition(), actors.Command{Entry: entry, Index: i, Kind: proto.CommandEvent, Body: packedEvent(d.now, v)})
			}
		}
		d.entries = append(d.entries, c)
	}
}

// Batch puts one batch through and gives its events.
func (d *Drive) Batch() (int, error) {
	d.batch++
	d.shell.Begin(d.batch, d.batch-1, kept{})
	if err := d.shell.Prepare(d.entries[d.batch%uint64(len(d.entries))]); err != nil {
		return 0, err
	}
	d.now++
	for entry := range d.perBatch {
		d.offset++
		d.shell.Enter(actors.Entry{Index: entry, Now: d.now, Offset: d.offset, Vector: []proto.Offset{d.offset}})
		if _, err := d.shell.Run(); err != nil {
			return 0, err
		}
	}
	outs, err := d.shell.Collect()
	before := d.wrote.events
	for _, o := range outs {
		d.wrote.add(o)
	}
	return d.wrote.events - before, err
}

// run goes through all batches, and on until the time is over.
func (d *Drive) run(ctx context.Context, long time.Duration) (x sample, err error) {
	before, start := ownCPU(), time.Now()
	for time.Since(start) < long && ctx.Err() == nil {
		n, err := d.Batch()
		if err != nil {
			return x, err
		}
		x.units += n
	}
	x.seconds, x.cpu = time.Since(start).Seconds(), ownCPU()-before
	return x, ctx.Err()
}

// actors is the shell of actors against direct calls, same entries, both in
// this process.
func (s *session) actors(ctx context.Context) ([]Result, error) {
	var samplers []sampler
	var drives []*Drive
	for _, direct := range []bool{false, true} {
		d, err := NewDrive(direct, shellPerBatch, shellCommands)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		for range d.entries {
			if _, err := d.Batch(); err != nil {
				return nil, err
			}
		}
		drives = append(drives, d)
		samplers = append(samplers, func(ctx context.Context) (sample, error) { return d.run(ctx, s.Time/2) })
	}
	x, err := s.rounds(ctx, samplers...)
	if err != nil {
		return nil, err
	}
	r := Result{Work: "apply through actors, no log and no store", Unit: "events/s", Ours: x[0].rate()}
	r.against("direct calls", x[1].rate())
	r.atLeast("ratio", r.Ratio, 0.8)
	r.note("%.2f us of the processor an event, direct %.2f; %s against %s events/s", x[0].cost(), x[1].cost(), x[0].spread(), x[1].spread())
	w := drives[0].wrote
	r.set("states_per_event", w.per(w.states))
	r.set("blocks_per_event", w.per(w.blocks))
	r.set("value_bytes_per_event", w.per(w.bytes))
	r.note("to be stored for an event, in batches of %d: %.2f states, %.2f history blocks, %.0f bytes of values", shellPerBatch*shellCommands, w.per(w.states), w.per(w.blocks), w.per(w.bytes))
	return []Result{r}, nil
}

func (w *written) per(n int) float64 { return float64(n) / float64(max(w.events, 1)) }
