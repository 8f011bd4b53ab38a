package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"kith/proto"
)

// This file is a node's time. It goes by the wall clock as long as that runs with
// the monotonic one. Where the wall clock was stepped, by hand, by a time service
// or since the machine stood still, time goes on by the monotonic one until it is
// known which is right: lane time by a wrong clock ends memberships for good, and
// events by it come to lie on the wrong side of an opt-in.
//
// Nodes of a cluster ask one another what time it is. If more of the others' wall
// clocks are with the stepped one than with the time before the step it is
// believed, else it is not, for as long as that lasts. A node whose time is by more
// than a second not that of most, as after a start with a wrong clock, neither
// answers nor takes anything in. One that is alone believes its clock after an
// interval.

const (
	// clockStep is how much is a step, or not the time of most.
	clockStep = time.Second
	// clockHold is after how long a stepped clock is believed by a node that is
	// alone, clockHoldParted by one of a cluster if the others do not decide it.
	clockHold       = 2 * time.Second
	clockHoldParted = leaseFor
	clockLook       = 500 * time.Millisecond // the own clock is looked at so often
	clockAsk        = 5 * time.Second        // and others are asked so often, if all is well
	clockWait       = 500 * time.Millisecond // for their answers; half of it is the error
	clockFirst      = 3 * time.Second        // of a start: without an answer it is done without
	clockSubject    = "_KITH.clock"          // out of network clients' reach
	// clockStrikes is how often in a row the time must differ.
	clockStrikes = 2
)

// clock is the node's time. now may be called by many at once, what decides is
// keepClock's goroutine's.
type clock struct {
	read     func() (wall time.Time, mono time.Duration)
	believed atomic.Int64 // a time.Duration: how far wall time is ahead of monotonic time

	off      atomic.Int64  // a time.Duration: how far this node's time is ahead of that of most; 0 if it is near enough
	apart    atomic.Int64  // a time.Duration: the most by which another node's time certainly differs
	compared chan struct{} // closed once it was compared, or need not be

	since   time.Duration // keepClock's; monotonic: of the step that is not believed, if stepped
	stepped bool          // keepClock's
	strikes int           // keepClock's
}

// newClock takes the monotonic clock from wall's times, which time.Now's hold.
func newClock(wall func() time.Time) *clock {
	start := wall()
	return newClockOf(func() (time.Time, time.Duration) {
		t := wall()
		return t, t.Sub(start)
	})
}

func newClockOf(read func() (time.Time, time.Duration)) *clock {
	c := &clock{read: read, compared: make(chan struct{})}
	c.believe()
	return c
}

// look is the time, and by how much the wall clock was stepped from it; 0: it was
// not.
func (c *clock) look() (now time.Time, by time.Duration) {
	wall, mono := c.read()
	believed := time.Duration(c.believed.Load())
	if by = time.Duration(wall.UnixNano()) - mono - believed; by.Abs() <= clockStep {
		return wall, 0
	}
	return time.Unix(0, int64(mono+believed)), by
}

func (c *clock) now() time.Time {
	t, _ := c.look()
	return t
}

// ran is for how long the monotonic clock ran.
func (c *clock) ran() time.Duration {
	_, mono := c.read()
	return mono
}

// believe has time go by the wall clock as it is now.
func (c *clock) believe() {
	wall, mono := c.read()
	c.believed.Store(wall.UnixNano() - int64(mono))
}

// otherClock is how far another node's time and its wall clock are ahead of this
// node's time, as known to within half of the time that its answer took.
type otherClock struct {
	node             string
	time, wall, took time.Duration
}

// clockNews is what is to be told of the clock.
type clockNews byte

const (
	clockSame    clockNews = iota
	clockHeld              // it was stepped, and is not believed for now
	clockBack              // it is as it was before the step
	clockTrusted           // it was stepped and is believed now
)

// settle looks at the wall clock, and if it was stepped believes it or not, by the
// others' clocks and how long it is for.
func (c *clock) settle(others []otherClock, hold time.Duration) (news clockNews, by time.Duration) {
	_, mono := c.read()
	_, by = c.look()
	switch {
	case by == 0:
		c.believe() // it may have been slewed
		if c.stepped {
			c.stepped, news = false, clockBack
		}
		return news, 0
	case !c.stepped:
		c.stepped, c.since, news = true, mono, clockHeld
	}
	with, against := 0, 0
	for _, o := range others {
		switch {
		case (o.wall - by).Abs() <= clockStep:
			with++
		case o.wall.Abs() <= clockStep:
			against++
		}
	}
	if with > against || with == against && mono-c.since >= hold {
		c.believe()
		c.stepped = false
		return clockTrusted, by
	}
	return news, by
}

// compare notes how far this node's time is from the others', and reports whether
// that it is too far began or ended. It has ended when some other's is near, or
// there is none.
func (c *clock) compare(others []otherClock, alone bool) (changed bool) {
	list, apart, near := []time.Duration{0}, time.Duration(0), alone
	for _, o := range others {
		list = append(list, o.time)
		apart = max(apart, o.time.Abs()-o.took/2)
		near = near || o.time.Abs() <= clockStep
	}
	c.apart.Store(int64(apart))
	before := c.off.Load()
	most := middle(list)
	if most.Abs() <= clockStep {
		if c.strikes = 0; before == 0 || !near {
			return false
		}
		c.off.Store(0)
		return true
	}
	if c.strikes++; c.strikes < clockStrikes {
		return false
	}
	c.off.Store(int64(-most))
	return before == 0
}

// middle is the median; of two in the middle the one nearer to 0.
func middle(list []time.Duration) time.Duration {
	slices.Sort(list)
	a, b := list[(len(list)-1)/2], list[len(list)/2]
	if a.Abs() <= b.Abs() {
		return a
	}
	return b
}

// fault is why this node's time is not to be gone by, nil if it is.
func (c *clock) fault() error {
	off := time.Duration(c.off.Load())
	if off == 0 {
		return nil
	}
	how := "ahead of"
	if off < 0 {
		how = "behind"
	}
	return proto.Errorf(proto.CodeUnavailable, "the clock of this node is %v %s that of most nodes: set it right, as by NTP; until then the node neither answers nor takes anything in: ask another", off.Abs().Round(10*time.Millisecond), how)
}

// wrong is fault without the words.
func (c *clock) wrong() bool { return c.off.Load() != 0 }

// Now is the node's time.
func (n *Node) Now() time.Time { return n.clock.now() }

// keepClock watches the clock until ctx ends.
func (n *Node) keepClock(ctx context.Context) {
	c, among := n.clock, n.config.Peers != nil
	began, asked := time.Now(), time.Time{}
	hold := clockHold
	if among {
		hold = clockHoldParted
	}
	done := func() bool {
		select {
		case <-c.compared:
			return true
		default:
			return false
		}
	}
	for {
		var others []otherClock
		_, by := c.look()
		if among && (by != 0 || c.strikes > 0 || !done() || time.Since(asked) >= clockAsk) {
			var all bool
			asked = time.Now()
			others, all = n.askClocks(ctx)
			if ctx.Err() != nil {
				return
			}
			n.sayClockOff(c.compare(others, all && len(others) == 0))
			if !done() && ((all || len(others) > 1) && c.strikes == 0 || c.wrong() || time.Since(began) > clockFirst) {
				close(c.compared)
			}
		}
		n.sayClockStep(c.settle(others, hold))
		if !pause(ctx, clockLook) {
			return
		}
	}
}

func (n *Node) sayClockOff(changed bool) {
	if !changed {
		return
	}
	if err := n.clock.fault(); err != nil {
		n.logger.Error("this node stops to answer", "because", err)
		return
	}
	n.logger.Info("the clock of this node is that of most nodes again")
}

func (n *Node) sayClockStep(news clockNews, by time.Duration) {
	switch news {
	case clockHeld:
		n.logger.Error("the wall clock was stepped: time goes on without it until it is known whether it is right", "by", by)
	case clockBack:
		n.logger.Info("the wall clock is as it was before the step")
	case clockTrusted:
		n.logger.Warn("the wall clock was stepped, and is believed now", "by", by)
	}
}

// clockAnswer is what a node says of its clock; in nanoseconds since 1970.
type clockAnswer struct {
	Node string `json:"node"`
	Time int64  `json:"time"`
	Wall int64  `json:"wall"`
}

// askClocks asks the other nodes what time it is, and gives their answers by name;
// all tells that as many answered as there are. Gossip may reach nobody where the log
// does: who is alone by it asks all the same.
func (n *Node) askClocks(ctx context.Context) (list []otherClock, all bool) {
	count := 0
	for _, x := range n.config.Peers.Nodes() {
		if x.Name != n.config.Node {
			count++
		}
	}
	alone := count == 0
	ctx, cancel := context.WithTimeout(ctx, clockWait)
	defer cancel()
	answers := make(chan *nats.Msg, 256)
	inbox := n.conn().NewRespInbox()
	sub, err := n.conn().ChanSubscribe(inbox, answers)
	if err != nil {
		return nil, false
	}
	defer func() { _ = sub.Unsubscribe() }()
	sent := time.Now()
	if err := n.conn().PublishRequest(clockSubject, inbox, nil); err != nil {
		return nil, false
	}
	for alone || len(list) < count {
		select {
		case m := <-answers:
			now := n.clock.now().UnixNano() // before took, or the error would be larger than that
			took := time.Since(sent)
			var x clockAnswer
			known := func(o otherClock) bool { return o.node == x.Node }
			if took > clockWait || json.Unmarshal(m.Data, &x) != nil || x.Node == n.config.Node || slices.ContainsFunc(list, known) {
				continue
			}
			ahead := func(t int64) time.Duration { return time.Duration(t-now) + took/2 }
			list = append(list, otherClock{x.Node, ahead(x.Time), ahead(x.Wall), took})
		case <-ctx.Done():
			return list, alone
		}
	}
	slices.SortFunc(list, func(a, b otherClock) int { return cmp.Compare(a.node, b.node) })
	return list, true
}

// answerClocks tells others what time it is, until ctx ends.
func (n *Node) answerClocks(ctx context.Context) error {
	sub, err := n.conn().Subscribe(clockSubject, func(m *nats.Msg) {
		now, by := n.clock.look()
		b, err := json.Marshal(clockAnswer{n.config.Node, now.UnixNano(), now.Add(by).UnixNano()})
		if err == nil && m.Reply != "" {
			_ = n.conn().Publish(m.Reply, b)
		}
	})
	if err != nil {
		return proto.Errorf(proto.CodeUnavailable, "other nodes' questions cannot be taken: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = sub.Unsubscribe() })
	return nil
}

// clockCompared waits until this node's time was compared with that of others.
func (n *Node) clockCompared(ctx context.Context) error {
	select {
	case <-n.clock.compared:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
