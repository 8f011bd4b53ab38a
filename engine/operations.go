package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"kith/proto"
)

// run starts the lane's goroutines; each ends when the one before it has. The
// first that fails quarantines the lane and ends the reading.
func (l *lane) run(ctx context.Context, wait *sync.WaitGroup) {
	stop, cancel := context.WithCancel(ctx)
	l.reading = stop
	l.fail = func(what string, err error) {
		if err != nil && !errors.Is(err, context.Canceled) {
			l.quarantine(what, err)
			cancel()
		}
	}
	wait.Go(func() { l.fail("reading the log", recovered(func() error { return l.read(stop) })) })
	wait.Go(func() { l.fail("applying the log", recovered(func() error { return l.step(stop) })) })
	wait.Go(l.build)
	wait.Go(func() {
		l.commit()
		close(l.ended)
		cancel()
	})
}

// recovered turns a panic of the apply loop itself into an error: the lane
// stops, the others and the look-ups go on.
func recovered(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = proto.Errorf(proto.CodeInternal, "panic: %v", r)
		}
	}()
	return fn()
}

// quarantine stops the lane: what it has published stays readable, what is
// logged stays in the log.
func (l *lane) quarantine(what string, err error) {
	l.logger.Error("lane is quarantined: it applies nothing more", "while", what, "error", err)
	l.progress.set(func(p *progress) {
		if p.fault == nil {
			p.fault = proto.Errorf(proto.CodeQuarantined, "lane %s is quarantined: %w. Nothing acknowledged is lost: mend the cause and restart", l.id, err)
			close(p.faulted)
		}
	})
}

// stopped reports whether the lane applies nothing more until a restart: what its upkeep
// wrote would never be done, and be written again and again.
func (l *lane) stopped() bool {
	_, _, _, fault := l.progress.get()
	return fault != nil
}

// Ready is nil when queries are answered from an applied log.
func (n *Node) Ready() error {
	if err := n.clock.fault(); err != nil {
		return err
	}
	if !n.ready.Load() {
		return proto.Errorf(proto.CodeUnavailable, "the node is starting or stopping")
	}
	if n.draining.Load() {
		return proto.Errorf(proto.CodeUnavailable, "the node drains, or is about to stop: ask another (`kith cluster drain --undo` ends a drain)")
	}
	if n.disk.low() {
		return errDiskFull
	}
	if err := n.fault(); err != nil {
		return err
	}
	if err := n.log.Healthy(); err != nil && !n.outlasts(err) {
		return err
	}
	return n.mayAnswerAll()
}

// readyLease is how much of its leases a node needs to count as ready while the log takes
// nothing: a balancer has so long to leave it before it answers nothing more. To elect a
// leader takes the log 4 to 9 seconds, beats are sent each 2.
const readyLease = 4 * time.Second

// outlasts says whether the node answers queries for a while though its cluster's log takes
// nothing: it may be electing a leader, when the others do no better.
func (n *Node) outlasts(err error) bool {
	return n.config.Peers != nil && proto.CodeOf(err) == proto.CodeUnavailable &&
		!slices.ContainsFunc(n.lanes, func(l *lane) bool { return l.leases.left() < readyLease })
}

// Live is nil while the process works, or a restart would not mend what is wrong.
func (n *Node) Live() error {
	for _, l := range n.lanes {
		if _, _, _, fault := l.progress.get(); errors.Is(fault, errOvertaken) {
			return fault
		}
	}
	return nil
}

// Lanes is the state of each lane.
func (n *Node) Lanes() []proto.LaneStatus {
	list := make([]proto.LaneStatus, 0, len(n.lanes))
	for _, l := range n.lanes {
		list = append(list, l.status())
	}
	return list
}

func (l *lane) status() proto.LaneStatus {
	applied, _, laneTime, fault := l.progress.get()
	s := proto.LaneStatus{
		Lane: l.id, Applied: applied, LaneTime: laneTime.String(), Owner: l.owner(),
		Chain: fmt.Sprintf("%016x", l.progress.chainNow()), Active: int(l.active.Load()),
	}
	for _, p := range l.partitions {
		s.Partitions = append(s.Partitions, int(p))
	}
	s.Identities = uint64(l.numbered())
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if info, err := l.stream.Info(ctx); err == nil {
		s.Logged, s.First = info.Last+proto.Offset(l.base), info.First+proto.Offset(l.base)
	}
	if s.Logged > applied {
		s.LagSeconds = max(0, l.node.config.Now().Sub(laneTime.Time()).Seconds())
	}
	if fault != nil {
		s.Quarantined = fault.Error()
	}
	return s
}

func (p *progress) chainNow() uint64 {
	_, chain := p.point()
	return chain
}

// point is the newest offset that readers see and the chain there.
func (p *progress) point() (proto.Offset, uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.applied, p.chain
}
