package engine

import (
	"context"
	"time"

	"kith/actors/identity"
	"kith/engine/store"
	"kith/graph"
	"kith/proto"
)

// optOutWait is how long an opt-out is waited for before the answer is that it
// is not final yet.
const optOutWait = 2 * time.Second

func (n *Node) laneFor(h proto.IdentityHash) *lane { return n.laneOf[h.Partition()] }

// OptOut cuts id out of every space. Its receipt counts what by is to be told: see
// OptOutStateFor.
func (n *Node) OptOut(ctx context.Context, by proto.ClientInfo, id proto.Identity, everywhere bool) (proto.OptOutState, error) {
	return n.cut(ctx, by, id, proto.CutCommand{Kind: proto.CutOptOut, Everywhere: everywhere})
}

// OptOutAll cuts out many identities with one sync, and gives the state of each. One
// that is there several times is cut once.
func (n *Node) OptOutAll(ctx context.Context, by proto.ClientInfo, ids []proto.Identity, everywhere bool) ([]proto.OptOutState, error) {
	var distinct []proto.Identity
	at := make(map[proto.Identity]int, len(ids)) // in distinct
	for _, id := range ids {
		if _, there := at[id]; !there {
			at[id] = len(distinct)
			distinct = append(distinct, id)
		}
	}
	states, err := n.cutAll(ctx, by, distinct, proto.CutCommand{Kind: proto.CutOptOut, Everywhere: everywhere})
	if err != nil {
		return nil, err
	}
	list := make([]proto.OptOutState, len(ids))
	for i, id := range ids {
		list[i] = states[at[id]]
	}
	return list, nil
}

// Erase forgets id, or what one client knows of it.
func (n *Node) Erase(ctx context.Context, client *proto.ClientInfo, id proto.Identity) (proto.OptOutState, error) {
	if client == nil {
		return n.cut(ctx, proto.ClientInfo{}, id, proto.CutCommand{Kind: proto.CutErase})
	}
	return n.cut(ctx, *client, id, proto.CutCommand{Kind: proto.CutForget, Client: client.ID, Space: client.Space})
}

func (n *Node) cut(ctx context.Context, by proto.ClientInfo, id proto.Identity, c proto.CutCommand) (proto.OptOutState, error) {
	list, err := n.cutAll(ctx, by, []proto.Identity{id}, c)
	if err != nil {
		return proto.OptOutState{}, err
	}
	return list[0], nil
}

// cutAll cuts identities by one submission, each by a command like c.
func (n *Node) cutAll(ctx context.Context, by proto.ClientInfo, ids []proto.Identity, c proto.CutCommand) ([]proto.OptOutState, error) {
	ctx, done, err := n.working(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	began := time.Now()
	var b proto.Batch
	commands, answers := make([]uint64, len(ids)), make([]<-chan answer, len(ids))
	for i, id := range ids {
		commands[i], answers[i] = n.answers.expect()
		defer n.answers.forget(commands[i])
		c.Hash, c.Received, c.Command = n.hasher.Hash(id), n.now(), commands[i]
		b.AddCut(&c)
	}
	r := n.submit(ctx, &b, n.refusalOfCuts())
	if r.Err != nil {
		return nil, r.Err
	}
	wait, cancel := context.WithDeadline(ctx, began.Add(optOutWait))
	defer cancel()
	list := make([]proto.OptOutState, len(ids))
	for i, id := range ids {
		x, err := n.awaitAnswer(wait, n.laneFor(n.hasher.Hash(id)), answers[i])
		n.cutSeconds.Observe(time.Since(began).Seconds())
		if proto.CodeOf(err) == proto.CodeTimeout && ctx.Err() == nil {
			list[i], err = n.lateState(ctx, by, id, commands[i], r.Position)
		} else if err == nil {
			list[i], err = n.cutState(ctx, by, id, c.Kind, x)
		}
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

// lateState is that of a cut which is not final in time. It is applied at
// least: nothing of the identity is shown any more.
func (n *Node) lateState(ctx context.Context, by proto.ClientInfo, id proto.Identity, command uint64, at proto.Position) (proto.OptOutState, error) {
	if err := n.reach(ctx, at); err != nil {
		return proto.OptOutState{}, proto.Errorf(proto.CodeUnavailable, "the command is durable and will be carried out, but is not applied yet: ask again: %w", err)
	}
	s, err := n.OptOutStateFor(ctx, by, id)
	if s.Receipt != nil && s.Receipt.ID != commandID(command) {
		s.Final, s.Receipt = false, nil // of another cut
	}
	return s, err
}

// cutState is what to tell of a cut whose answer is x.
func (n *Node) cutState(ctx context.Context, by proto.ClientInfo, id proto.Identity, kind proto.CutKind, x answer) (proto.OptOutState, error) {
	switch {
	case !x.final && x.decision.Reason == graph.ReasonBusy && kind != proto.CutOptOut:
		return proto.OptOutState{}, proto.Errorf(proto.CodeOverloaded, "too many opt-outs and erasures of this identity are under way: nothing was erased; try again later")
	case !x.final && x.decision.Reason == graph.ReasonBusy:
		return proto.OptOutState{}, proto.Errorf(proto.CodeOverloaded, "too many opt-outs of this identity are under way: try again later; it is opted out")
	case !x.final: // an erasure of what is opted out: nothing is left
		return n.OptOutStateFor(ctx, by, id)
	}
	s := proto.OptOutState{Identity: id}
	s.OptedOut, s.Final = kind == proto.CutOptOut, true
	since := x.cut.Time.Time()
	s.Since, s.Receipt = &since, n.receipt(x.hash, &x.cut, by)
	if kind != proto.CutOptOut {
		n.passFence(ctx, n.laneFor(x.hash), &s, x.cut.Time+2*graphLimits().SkewMillis)
	}
	return s, nil
}

// OptIn lets an opted-out identity be known again.
func (n *Node) OptIn(ctx context.Context, by proto.ClientInfo, id proto.Identity) (proto.OptOutState, error) {
	ctx, done, err := n.working(ctx)
	if err != nil {
		return proto.OptOutState{}, err
	}
	defer done()
	h := n.hasher.Hash(id)
	o, err := n.optOut(h)
	if err != nil {
		return proto.OptOutState{}, err
	}
	if o == nil || !o.Dark() {
		return proto.OptOutState{}, proto.Errorf(proto.CodeConflict, "the identity is not opted out")
	}
	command, ch := n.answers.expect()
	var b proto.Batch
	b.AddOptIn(&proto.OptInCommand{Hash: h, Gen: o.Gen, Received: n.now(), Command: command})
	x, err := n.ask(ctx, n.laneFor(h), command, ch, &b)
	if err != nil {
		return proto.OptOutState{}, err
	}
	if x.decision.Reason == graph.ReasonBusy {
		return proto.OptOutState{}, proto.Errorf(proto.CodeConflict, "opt-outs of this identity are under way: ask again when its state is final")
	}
	if !x.decision.Linked {
		return proto.OptOutState{}, proto.Errorf(proto.CodeConflict, "the identity was opted out again, or in, meanwhile: look at its state and ask again")
	}
	if err := n.ledger.await(ctx, h); err != nil {
		return proto.OptOutState{}, err
	}
	s, err := n.OptOutStateFor(ctx, by, id)
	if err == nil && s.Since != nil && !s.OptedOut {
		n.passFence(ctx, n.laneFor(h), &s, proto.MillisOf(*s.Since)+2*graphLimits().SkewMillis)
	}
	return s, err
}

// fenceEvery is how often it is looked whether a lane's time has passed a fence.
const fenceEvery = 20 * time.Millisecond

// passFence waits until what comes counts for an identity of l that began anew: an event
// that was acknowledged after the answer would not be kept else. Where that takes longer,
// for the clock was set back or the lane's time stands still, s says from when on it does.
func (n *Node) passFence(ctx context.Context, l *lane, s *proto.OptOutState, fence proto.Millis) {
	wait, cancel := context.WithTimeout(ctx, optOutWait)
	defer cancel()
	for {
		s.CountsFrom = n.countsFrom(l, fence)
		if s.CountsFrom == nil {
			return
		}
		select {
		case <-wait.Done():
			return
		case <-time.After(min(s.CountsFrom.Sub(n.now().Time()), fenceEvery)):
		}
	}
}

// countsFrom is when evidence of l is newer than a fence, nil if it is now.
func (n *Node) countsFrom(l *lane, fence proto.Millis) *time.Time {
	_, _, laneTime, _ := l.progress.get()
	now := n.now()
	from := countsFrom(fence, laneTime, now)
	if from <= now {
		return nil
	}
	t := from.Time()
	return &t
}

// countsFrom is when evidence is newer than a fence, at the earliest: of any time up to
// now it is if it comes now. It is of no later time than now, nor than its entry, which is
// held to the time of its lane: while that stands still, as a lane's owner does not reach
// the log, nothing is newer than a bound. Later than now it is by as much as that bound is
// before the fence, if the lane's time goes on at once.
func countsFrom(fence, laneTime, now proto.Millis) proto.Millis {
	from := fence + 1
	if bound := laneTime.Add(clampMs * time.Millisecond); bound < from {
		from = max(from, now+from-bound)
	}
	return from
}

// optOut is what is published of an identity's opt-out, nil if it was never cut.
func (n *Node) optOut(h proto.IdentityHash) (*identity.OptOut, error) {
	snap := n.laneFor(h).acquire()
	defer snap.release()
	return storedOptOut(snap, h)
}

func storedOptOut(snap store.Snapshot, h proto.IdentityHash) (*identity.OptOut, error) {
	var o identity.OptOut
	found, err := source{snap}.OptOut(h, o.Decode)
	if err != nil || !found {
		return nil, err
	}
	return &o, nil
}

// OptOutState is how far the newest opt-out or erasure of id is.
func (n *Node) OptOutState(ctx context.Context, id proto.Identity) (proto.OptOutState, error) {
	return n.OptOutStateFor(ctx, proto.ClientInfo{}, id)
}

// OptOutStateFor is the same as a client is told it, whose own erasures count too. Its
// receipt counts what was done in the client's space: it is not for a client to know what
// others hold of anybody. Without a client, as operators and the people themselves ask, it
// counts all.
func (n *Node) OptOutStateFor(_ context.Context, client proto.ClientInfo, id proto.Identity) (proto.OptOutState, error) {
	s := proto.OptOutState{Identity: id}
	h := n.hasher.Hash(id)
	o, err := n.optOut(h)
	if err != nil {
		return s, err
	}
	known := n.ledger.knows(h) // after it was read: what can be read is expected before
	if o == nil {
		return s, n.mayAnswer(n.laneFor(h))
	}
	s.OptedOut = o.Dark()
	c, last := o.Newest(client.ID), o.Since
	if c != nil {
		last = max(last, c.Time)
	}
	if last > 0 {
		since := last.Time()
		s.Since = &since
	}
	if !o.Dark() {
		s.CountsFrom = n.countsFrom(n.laneFor(h), o.FenceOf(client.ID, client.Space, 2*graphLimits().SkewMillis))
	}
	if c != nil && c.Final && known {
		s.Final, s.Receipt = true, n.receipt(h, c, client)
	}
	return s, n.mayAnswer(n.laneFor(h))
}

// Keeps reports whether anything is kept of id in any space, be it that it was cut
// out before. Where this node may not answer for id that is an error.
func (n *Node) Keeps(id proto.Identity) (kept bool, err error) {
	h := n.hasher.Hash(id)
	l := n.laneFor(h)
	snap := l.acquire()
	defer snap.release()
	o, err := storedOptOut(snap, h)
	if kept = o != nil; err == nil && !kept {
		prefix := nodesPrefix(h)
		err = snap.Scan(prefix, prefix, func(_, _ []byte) (bool, error) {
			kept = true
			return false, nil
		})
	}
	if err != nil {
		return kept, err
	}
	return kept, n.mayAnswer(l) // last: a lease may end meanwhile
}

// knows reports whether nothing of an identity is still to be told.
func (x *ledger) knows(h proto.IdentityHash) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.pending[h] == 0
}
