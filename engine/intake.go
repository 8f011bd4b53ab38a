package engine

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"kith/engine/log"
	"kith/proto"
)

// Hasher gives identities their home.
func (n *Node) Hasher() proto.Hasher { return n.hasher }

// Submit makes the commands of b durable: each goes to its lane's packer, and
// Submit returns when all entries are synced, or have failed, or ctx ends.
// Commands that ctx left undecided are given as failed: they may still come,
// and a client that sends them again should give its events ids.
func (n *Node) Submit(ctx context.Context, b *proto.Batch) proto.Submitted {
	n.pace.ask()
	refusal := n.refusal()
	if refusal == nil && b.Len() > 0 {
		refusal = n.keepPace(ctx)
	}
	return n.submit(ctx, b, refusal)
}

// Bounds of how far intake runs ahead of what is applied: what waits there is
// before every link and opt-out that comes, and before the beats by which
// memberships end.
const (
	aheadMax  = 128                    // entries of a lane
	aheadAge  = 500 * time.Millisecond // of the oldest of them
	aheadWait = 2 * time.Second
)

// keepPace waits while a lane is too far behind what was acknowledged. A lane
// that stopped is not waited for.
func (n *Node) keepPace(ctx context.Context) error {
	for _, l := range n.lanes {
		if l.keepsUp(proto.Offset(l.progress.reached.Load())) {
			continue
		}
		limit, cancel := context.WithTimeout(ctx, aheadWait)
		err := l.progress.wait(limit, func(p *progress) bool { return l.keepsUp(p.applied) })
		cancel()
		if proto.CodeOf(err) == proto.CodeTimeout {
			return proto.Errorf(proto.CodeOverloaded, "lane %s is %d entries behind: send this again later, and more slowly", l.id, l.ahead())
		}
	}
	return nil
}

// keepsUp reports whether what is acknowledged beyond applied is neither too
// much nor too old.
func (l *lane) keepsUp(applied proto.Offset) bool {
	n := l.acknowledged.Load()
	return n <= uint64(applied) || n <= uint64(applied)+aheadMax && l.node.now()-proto.Millis(l.since.Load()) <= proto.Millis(aheadAge/time.Millisecond)
}

// ahead is how many entries are acknowledged and not applied.
func (l *lane) ahead() uint64 {
	n := l.acknowledged.Load()
	return n - min(n, l.progress.reached.Load())
}

// acknowledge notes an entry that is durable.
func (l *lane) acknowledge(at proto.Offset) {
	for {
		before := l.acknowledged.Load()
		if uint64(at) <= before {
			return
		}
		if l.acknowledged.CompareAndSwap(before, uint64(at)) {
			if before <= l.progress.reached.Load() {
				l.since.Store(int64(l.node.now()))
			}
			return
		}
	}
}

// positionAt is the position of the lane's entry at; its callers share the map.
func (l *lane) positionAt(at proto.Offset) proto.Position {
	if p := l.told.Load(); p != nil && (*p)[l.id] == at {
		return *p
	}
	p := proto.Position{l.id: at}
	l.told.Store(&p)
	return p
}

func (n *Node) submit(ctx context.Context, b *proto.Batch, refusal error) proto.Submitted {
	if b.Len() == 0 {
		return proto.Submitted{Position: proto.Position{}}
	}
	if refusal != nil {
		return proto.Submitted{Failed: allOf(b.Len()), Err: refusal}
	}
	if err := n.enter(ctx); err != nil {
		return proto.Submitted{Failed: allOf(b.Len()), Err: err}
	}
	defer n.intake.RUnlock()
	if l := n.soleLane(b); l != nil {
		return n.submitWhole(ctx, l, b)
	}
	return n.submitSplit(ctx, b)
}

// enter takes intake for reading, once no log is being emptied.
func (n *Node) enter(ctx context.Context) error {
	for shut := n.shut.Load(); shut != nil; shut = n.shut.Load() {
		select {
		case <-*shut:
		case <-ctx.Done():
			return proto.Errorf(proto.CodeUnavailable, "bytes are being erased and nothing was taken: send it again: %w", ctx.Err())
		}
	}
	n.intake.RLock()
	return nil
}

// shutIntake takes intake for writing: who comes meanwhile waits, who appends is
// waited for, until ctx ends. Not with the mutex's own Lock, which would have all
// wait for as long as the log stalls.
func (n *Node) shutIntake(ctx context.Context) (reopen func(), err error) {
	again := make(chan struct{})
	n.shut.Store(&again)
	open := func() {
		n.shut.Store(nil)
		close(again)
	}
	for !n.intake.TryLock() {
		if !pause(ctx, time.Millisecond) {
			open()
			return nil, ctx.Err()
		}
	}
	return func() { n.intake.Unlock(); open() }, nil
}

// soleLane is the lane that all of b is for, as with one event; nil if it is for
// several.
func (n *Node) soleLane(b *proto.Batch) *lane {
	if len(n.lanes) == 1 {
		return n.lanes[0]
	}
	_, p := b.Item(0)
	l := n.laneOf[p]
	for i := 1; i < b.Len(); i++ {
		if _, p = b.Item(i); n.laneOf[p] != l {
			return nil
		}
	}
	return l
}

// refusal is why no commands are taken now.
func (n *Node) refusal() error {
	switch {
	case !n.ready.Load():
		return proto.Errorf(proto.CodeUnavailable, "the node is starting or stopping: try again shortly")
	case n.replaced.Load():
		return errReplaced
	case n.disk.low():
		return errDiskFull
	}
	if err := n.clock.fault(); err != nil {
		return err
	}
	for _, l := range n.lanes {
		if l.outbox.full() {
			return proto.Errorf(proto.CodeOverloaded, "lane %s waits for others to take its graph messages: try again later, and see /v1/partitions", l.id)
		}
	}
	return nil
}

// refusalOfCuts is why no opt-outs are taken now: a reserve of the disk is kept
// for them.
func (n *Node) refusalOfCuts() error {
	switch {
	case !n.ready.Load():
		return proto.Errorf(proto.CodeUnavailable, "the node is starting or stopping: try again shortly")
	case n.replaced.Load():
		return errReplaced
	case n.disk.stopped():
		return errDiskFull
	}
	return nil
}

func allOf(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

// appended is what became of one lane's share.
type appended struct {
	position proto.Position // the highest of what is durable, shared and read only; nil: nothing is
	err      error
	failed   []int // indexes of what is not durable, if something else is
}

// submitWhole sends it all to one lane.
func (n *Node) submitWhole(ctx context.Context, l *lane, b *proto.Batch) proto.Submitted {
	a := n.append(ctx, int(l.id), b.Bytes(), b.Len())
	if a.position == nil {
		return proto.Submitted{Failed: allOf(b.Len()), Err: a.err}
	}
	return proto.Submitted{Position: a.position, Failed: a.failed, Err: a.err}
}

func (n *Node) append(ctx context.Context, lane int, commands []byte, count int) appended {
	ch, _ := n.tickets.Get().(chan appended)
	if ch == nil {
		ch = make(chan appended, 1)
	}
	l := n.lanes[lane]
	err := n.packers[lane].Submit(commands, count, func(off proto.Offset, err error) {
		a := appended{err: err}
		if some, ok := errors.AsType[*log.PartialError](err); ok {
			off, a = some.At, appended{err: some.Err, failed: some.Failed}
		}
		if off > 0 { // whoever sent it may have left, what is durable waits all the same
			at := off + proto.Offset(l.base)
			l.acknowledge(at)
			a.position = l.positionAt(at)
		}
		ch <- a
	})
	if err != nil {
		n.tickets.Put(ch)
		return appended{err: err}
	}
	select {
	case a := <-ch:
		n.tickets.Put(ch)
		return a
	case <-ctx.Done(): // the channel is left to the late answer
		return appended{err: proto.Errorf(proto.CodeUnavailable, "not known to be durable in time: send it again: %w", ctx.Err())}
	}
}

// submitSplit sends each lane its share, all at once.
func (n *Node) submitSplit(ctx context.Context, b *proto.Batch) proto.Submitted {
	shares := make([][]byte, len(n.lanes))
	members := make([][]int, len(n.lanes))
	for i := range b.Len() {
		raw, p := b.Item(i)
		l := n.laneOf[p].id
		shares[l] = append(shares[l], raw...)
		members[l] = append(members[l], i)
	}
	answers := make([]appended, len(n.lanes))
	var wait sync.WaitGroup
	for l := range shares {
		if len(members[l]) > 0 {
			wait.Go(func() {
				answers[l] = n.append(ctx, l, shares[l], len(members[l]))
			})
		}
	}
	wait.Wait()
	out := proto.Submitted{Position: proto.Position{}}
	for l, a := range answers {
		switch {
		case a.err != nil && a.position == nil:
			out.Failed, out.Err = append(out.Failed, members[l]...), a.err
		case a.err != nil:
			for _, i := range a.failed {
				out.Failed = append(out.Failed, members[l][i])
			}
			out.Err = a.err
		}
		maps.Copy(out.Position, a.position)
	}
	return out
}
