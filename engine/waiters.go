package engine

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"sync"

	"kith/actors/identity"
	"kith/graph"
	"kith/proto"
)

// answers are those who wait for the decision on a command, by its id.
type answers struct {
	mu      sync.Mutex
	waiting map[uint64]chan answer
}

// answer is what became of a command.
type answer struct {
	decision graph.Decision
	final    bool
	hash     proto.IdentityHash
	cut      identity.Cut
}

func (a *answers) init() { a.waiting = map[uint64]chan answer{} }

// expect makes a command's id and the channel on which its answer comes.
func (a *answers) expect() (uint64, <-chan answer) {
	var raw [8]byte
	rand.Read(raw[:])
	id, ch := binary.LittleEndian.Uint64(raw[:])|1, make(chan answer, 1) // never 0
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting[id] = ch
	return id, ch
}

func (a *answers) forget(id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.waiting, id)
}

func (a *answers) give(id uint64, x answer) {
	if ch := a.waiting[id]; ch != nil {
		ch <- x
		delete(a.waiting, id)
	}
}

// decide hands decisions of a commit out.
func (a *answers) decide(list []graph.Decision) {
	if len(list) == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range list {
		a.give(d.Command, answer{decision: d})
	}
}

// finish hands a final cut out.
func (a *answers) finish(h proto.IdentityHash, c identity.Cut) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.give(c.Command, answer{final: true, hash: h, cut: c})
}

// ask submits a command and waits for its answer.
func (n *Node) ask(ctx context.Context, l *lane, id uint64, ch <-chan answer, b *proto.Batch) (answer, error) {
	defer n.answers.forget(id)
	if r := n.Submit(ctx, b); r.Err != nil {
		return answer{}, r.Err
	}
	return n.awaitAnswer(ctx, l, ch)
}

// awaitAnswer waits for the answer to a command that was submitted.
func (n *Node) awaitAnswer(ctx context.Context, l *lane, ch <-chan answer) (answer, error) {
	select {
	case x := <-ch:
		return x, nil
	case <-l.progress.faulted: // and not at each commit: there may be thousands who wait
		select {
		case x := <-ch: // it was decided before
			return x, nil
		default:
		}
		_, _, _, fault := l.progress.get()
		return answer{}, fault
	case <-ctx.Done():
		return answer{}, proto.Errorf(proto.CodeTimeout, "it is durable but not decided yet: ask again: %w", ctx.Err())
	}
}
