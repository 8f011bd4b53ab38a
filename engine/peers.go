package engine

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"

	"kith/proto"
)

// This file is what a node of a cluster does about the others, all of which
// apply the same logs. One of them owns each lane: it advances the lane's time
// and does its upkeep. All answer queries, each while it has a lease: while the
// newest of its own beats that it has applied was sent less than leaseFor ago.
// So a node that was parted from the log, or stood still, stops to answer, and
// whoever acknowledges an opt-out knows for whom to wait.
//
// Two nodes that take themselves for the owner do everything twice, which
// changes nothing: entries say from which state they go on. While nobody is
// known to be the owner all do.

// Peers are the other nodes of a cluster.
type Peers interface {
	// Owner is the node that does a lane's upkeep, "" while none is known;
	// changed is closed when any lane's may be another.
	Owner(id proto.LaneID) (node string, changed <-chan struct{})
	// SetReady tells the others whether this node answers, SetDraining whether it
	// is about to leave.
	SetReady(ready bool)
	SetDraining(draining bool)
	// SetPlaced says which lanes' owners were named by hand.
	SetPlaced(placed map[proto.LaneID]string)
	// Nodes are all that are known, this one too, by name, without what they say
	// of themselves.
	Nodes() []proto.NodeStatus
}

const (
	// leaseFor is how long a node answers after its last beat. A killed leader of
	// the log stalls it for 4 to 9 seconds.
	leaseFor = 15 * time.Second
	// settleTry is after how long those that did not answer are asked again.
	settleTry = 250 * time.Millisecond
	// settleMax bounds the waiting for what somebody asks about.
	settleMax     = 5 * time.Second
	settleSubject = "_KITH.settle" // out of network clients' reach
	settlersMax   = 256
	// leaseSlack is how much longer others wait for a lease: clocks do not run
	// evenly.
	leaseSlack = time.Second
	// readyEvery is how often the others are told whether this node answers, if
	// that changed.
	readyEvery = 500 * time.Millisecond
)

// bootTime is the time since the machine was started, suspended or not.
func bootTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic("CLOCK_BOOTTIME: " + err.Error()) // Linux has it since 2.6.39
	}
	return time.Duration(t.Nano())
}

// owner is the node that does the lane's upkeep, "" while none is known.
func (l *lane) owner() string {
	if l.node.config.Peers == nil {
		return l.node.config.Node
	}
	owner, _ := l.node.config.Peers.Owner(l.id)
	return owner
}

// owns reports whether this node does the lane's upkeep.
func (l *lane) owns() bool {
	owner := l.owner()
	return owner == "" || owner == l.node.config.Node
}

// ownersChanged is closed when another node may own some lane; nil without
// others.
func (n *Node) ownersChanged() <-chan struct{} {
	if n.config.Peers == nil {
		return nil
	}
	_, changed := n.config.Peers.Owner(0) // of all lanes: the members' table is one
	return changed
}

// asOwner runs do while this node owns the lane, until ctx ends or do does by
// itself. The context of do ends when another node takes over.
func (l *lane) asOwner(ctx context.Context, do func(context.Context)) {
	peers := l.node.config.Peers
	if peers == nil {
		do(ctx)
		return
	}
	for ctx.Err() == nil {
		_, changed := peers.Owner(l.id)
		if !l.owns() {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		term, end := context.WithCancel(ctx)
		go func() {
			defer end()
			for l.owns() {
				select {
				case <-changed:
					_, changed = peers.Owner(l.id)
				case <-term.Done():
					return
				}
			}
		}()
		do(term)
		over := term.Err() == nil
		end()
		if over {
			return
		}
	}
}

// leases are a process's own and what it knows of the others'. They are of
// processes, not of nodes: one that was cut off and one that was started in its
// place each have theirs.
type leases struct {
	now  func() time.Duration // of the machine, also while it was suspended
	node string               // "" without a cluster: any other is one too many

	mu   sync.Mutex
	sent []sentBeat // guarded by mu: own beats that are not applied yet, not all of them
	// others are, by incarnation, when the last beat of it was applied here. Its
	// lease by that beat began before.
	others map[uint64]time.Duration // guarded by mu
	until  atomic.Int64             // a time.Duration: of the own lease
	opened time.Duration            // since when beats are seen: others may hold leases by earlier ones
	ended  bool                     // guarded by mu: for good
	// elder are processes of this node's name, without a cluster of any, with beats before
	// the first own one, which was applied if began.
	elder []uint64 // guarded by mu
	began bool     // guarded by mu
	dead  []uint64 // guarded by mu: processes of this directory, without a cluster
}

// sentBeat is an own beat by the time that is in it, and when it was sent.
type sentBeat struct {
	beat   proto.Millis
	at     time.Duration
	logged bool // the log has it
	gives  bool // a lease, once it is applied
}

// Of the own beats at most sentMax are waited for, each sent sentEvery after the one
// before it: together they are more than a lease.
const (
	sentMax   = 80
	sentEvery = 250 * time.Millisecond
)

func (x *leases) init(node string, now func() time.Duration) {
	x.now, x.node, x.others = now, node, map[uint64]time.Duration{}
	x.opened = x.now()
}

// somebody is who may hold a lease by a beat from before this node started.
const somebody = 0

// eldersMax bounds the processes that are remembered to have been before.
const eldersMax = 64

// sending notes that a beat is about to be sent; ok is false where none may be any more.
// It must release the lease if this node applies the log later than a lease lasts: it may
// not answer then, and no opt-out is to wait for it. What it has sent before gives none
// any more either.
func (x *leases) sending(beat proto.Millis) (releases, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended {
		return false, false
	}
	now := x.now()
	if i := slices.IndexFunc(x.sent, func(s sentBeat) bool { return s.logged }); i >= 0 && now-x.sent[i].at > leaseFor+leaseSlack {
		for i := range x.sent {
			x.sent[i].gives = false
		}
		x.until.Store(0)
		releases = true
	}
	if n := len(x.sent); n == 0 || now-x.sent[n-1].at >= sentEvery {
		x.sent = append(x.sent, sentBeat{beat: beat, at: now, gives: !releases})
		x.sent = x.sent[max(0, len(x.sent)-sentMax):]
	}
	return releases, true
}

// logged notes that the log has a beat.
func (x *leases) logged(beat proto.Millis) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range x.sent {
		if x.sent[i].beat == beat {
			x.sent[i].logged = true
		}
	}
}

// published takes beats of a batch that readers see. It reports whether a process
// that was started after this one beats under the same name, or without a cluster at
// all: this one must stop.
func (x *leases) published(list []proto.Beat, producer uint64) (replaced bool) {
	if len(list) == 0 {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, b := range list {
		if b.Incarnation != producer {
			replaced = x.other(b) || replaced
			continue
		}
		x.began = true
		if i := slices.IndexFunc(x.sent, func(s sentBeat) bool { return s.beat == b.Time }); i >= 0 {
			if x.sent[i].gives {
				x.until.Store(max(x.until.Load(), int64(x.sent[i].at+leaseFor)))
			}
			x.sent = x.sent[i+1:]
		}
	}
	return replaced
}

// other takes the beat of another process. It is called with x.mu held.
func (x *leases) other(b proto.Beat) (replaced bool) {
	now := x.now()
	maps.DeleteFunc(x.others, func(_ uint64, seen time.Duration) bool { return now-seen > leaseFor+leaseSlack })
	x.others[b.Incarnation] = now
	if b.Releases {
		delete(x.others, b.Incarnation)
	}
	switch {
	case x.node != "" && b.Node != x.node || slices.Contains(x.elder, b.Incarnation) || slices.Contains(x.dead, b.Incarnation):
		return false
	case x.began:
		return !b.Releases // else it may be its last
	}
	if x.elder = append(x.elder, b.Incarnation); len(x.elder) > eldersMax {
		x.elder = x.elder[1:]
	}
	return false
}

// end gives the own lease up for good.
func (x *leases) end() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sent, x.ended = nil, true
	x.until.Store(0)
}

// heardSince reports whether another process beats: one of its beats was seen since then.
func (x *leases) heardSince(t time.Duration) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for incarnation, seen := range x.others {
		if seen >= t && !slices.Contains(x.dead, incarnation) {
			return true
		}
	}
	return false
}

// bury notes processes that are known to have ended: what comes of them comes late.
func (x *leases) bury(incarnations []uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.dead = incarnations
}

func (x *leases) held() bool { return x.heldAt(x.now()) }

func (x *leases) heldAt(now time.Duration) bool { return int64(now) < x.until.Load() }

// left is for how long the own lease lasts.
func (x *leases) left() time.Duration {
	return max(0, time.Duration(x.until.Load())-x.now())
}

// holders are the other processes that may answer, each with when its lease ends.
func (x *leases) holders() map[uint64]time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := x.now()
	list := map[uint64]time.Duration{}
	if end := x.opened + leaseFor + leaseSlack; now < end {
		list[somebody] = end
	}
	for incarnation, seen := range x.others {
		end := seen + leaseFor + leaseSlack
		if end <= now {
			delete(x.others, incarnation)
			continue
		}
		list[incarnation] = end
	}
	return list
}

var errNoLease = proto.Errorf(proto.CodeUnavailable, "this node is behind the log and answers nothing until it has caught up: ask another, or try again")

// mayAnswer is nil while what this node has of a lane is not older than others
// rely on. It is to be asked after the answer was made.
func (n *Node) mayAnswer(l *lane) error {
	if n.config.Peers == nil {
		if n.replaced.Load() {
			return errReplaced
		}
		return nil
	}
	if err := n.clock.fault(); err != nil {
		return err
	}
	if !l.leases.held() {
		return errNoLease
	}
	return nil
}

func (n *Node) mayAnswerAll() error {
	for _, l := range n.lanes {
		if err := n.mayAnswer(l); err != nil {
			return err
		}
	}
	return nil
}

// settleRequest asks a node to answer when it has published so much.
type settleRequest struct {
	Applied []proto.Offset `json:"applied"` // by lane
}

// settleAnswer says who has: the process, as its beats in each lane name it, and
// those before it in its data directory, which are dead.
type settleAnswer struct {
	Incarnations []uint64 `json:"incarnations"`
}

const (
	// incarnationsName is a file in the directory of a node of a cluster.
	incarnationsName = "INCARNATIONS"
	// processesMax bounds the processes in it; those before have no lease any more,
	// unless the node crashes each second.
	processesMax = 16
)

// incarnations is the file of that name: by which numbers the processes of a node
// beat, of each lane, the newest last. They are dead if the store, which one process
// has open, is the one that they had, on the same machine since it started: a
// directory may have been copied from a node that lives, or moved.
type incarnations struct {
	Node  string   `json:"node"`
	Boot  string   `json:"boot"`  // of the machine's kernel
	Store uint64   `json:"store"` // inode of its directory
	Beats []uint64 `json:"beats"`
}

// bootFile is where Linux tells which start of the machine this is. Without it no
// process is known to be dead.
const bootFile = "/proc/sys/kernel/random/boot_id"

// noteIncarnations writes down by which numbers this process beats, before it does,
// beside those of the processes before it.
func (n *Node) noteIncarnations() {
	file := filepath.Join(n.config.markerDir(), incarnationsName)
	x := incarnations{Node: n.config.Node}
	if boot, err := os.ReadFile(bootFile); err == nil {
		x.Boot = strings.TrimSpace(string(boot))
	}
	if at, err := os.Stat(n.config.storeDir()); err == nil {
		if s, ok := at.Sys().(*syscall.Stat_t); ok {
			x.Store = s.Ino
		}
	}
	var was incarnations
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &was)
	}
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		n.logger.Warn("it is not known by which numbers the processes before this one beat: opt-outs wait for their leases", "error", err)
	case err == nil && x.Boot != "" && x.Store != 0 && was.Node == x.Node && was.Boot == x.Boot && was.Store == x.Store:
		x.Beats = was.Beats
	}
	for _, l := range n.lanes {
		x.Beats = append(x.Beats, l.producer)
	}
	x.Beats = x.Beats[max(0, len(x.Beats)-processesMax*len(n.lanes)):]
	n.incarnations = x.Beats
	text, err = json.Marshal(x)
	if err == nil {
		err = writeSynced(file, append(text, '\n'))
	}
	if err != nil {
		n.logger.Warn("by which numbers this process beats cannot be written down: after a crash opt-outs will wait for its leases", "error", err)
	}
}

// othersSettled returns when every node that may answer has published what this one
// has.
func (n *Node) othersSettled(ctx context.Context) error {
	if n.config.Peers == nil {
		return nil
	}
	var x settleRequest
	for _, l := range n.lanes {
		applied, _, _, _ := l.progress.get()
		x.Applied = append(x.Applied, applied)
	}
	body, err := json.Marshal(x)
	if err != nil {
		return proto.Errorf(proto.CodeInternal, "encode a question to the other nodes: %w", err)
	}
	said := map[uint64]bool{}
	missing := func() bool {
		for _, l := range n.lanes {
			for incarnation := range l.leases.holders() {
				if !said[incarnation] {
					return true
				}
			}
		}
		return false
	}
	if !missing() {
		return n.mayAnswerAll() // or it would not know of beats by which others do
	}
	nc := n.conn()
	answers := make(chan *nats.Msg, 4*proto.LanesMax)
	inbox := nc.NewRespInbox()
	sub, err := nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return proto.Errorf(proto.CodeUnavailable, "the other nodes cannot be asked: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	for missing() {
		if err := nc.PublishRequest(settleSubject, inbox, body); err != nil {
			return proto.Errorf(proto.CodeUnavailable, "the other nodes cannot be asked: %w", err)
		}
		again := time.NewTimer(settleTry)
		for waiting := true; waiting && missing(); {
			select {
			case m := <-answers:
				var a settleAnswer
				_ = json.Unmarshal(m.Data, &a) // what is none says nothing of anybody
				for _, x := range a.Incarnations {
					said[x] = x != somebody
				}
			case <-again.C:
				waiting = false
			case <-ctx.Done():
				again.Stop()
				return ctx.Err()
			}
		}
		again.Stop()
	}
	return n.mayAnswerAll()
}

// answerSettling answers what others ask by othersSettled, until ctx ends.
func (n *Node) answerSettling(ctx context.Context) error {
	slots := make(chan struct{}, settlersMax)
	answer, err := json.Marshal(settleAnswer{n.incarnations})
	if err != nil {
		return proto.Errorf(proto.CodeInternal, "encode an answer to other nodes: %w", err)
	}
	sub, err := n.conn().Subscribe(settleSubject, func(m *nats.Msg) {
		var x settleRequest
		if json.Unmarshal(m.Data, &x) != nil || len(x.Applied) != len(n.lanes) || m.Reply == "" {
			n.logger.Warn("another node asks how far this one is and names other lanes", "lanes", len(x.Applied))
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			return // it asks again
		}
		n.slow.Add(1)
		go func() {
			defer n.slow.Done()
			defer func() { <-slots }()
			wait, cancel := context.WithTimeout(ctx, settleMax)
			defer cancel()
			for i, at := range x.Applied {
				if n.lanes[i].progress.wait(wait, func(p *progress) bool { return p.applied >= at }) != nil {
					return
				}
			}
			_ = n.conn().Publish(m.Reply, answer)
		}()
	})
	if err != nil {
		return proto.Errorf(proto.CodeUnavailable, "other nodes' questions cannot be taken: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = sub.Unsubscribe() })
	return nil
}

// giveWay stops the lane: another process was started under this node's name, and
// nobody can tell them apart. Without a cluster one was started on the same log, whatever
// its name, and no opt-out would wait for this one: all lanes stop, and nothing is answered.
// The first lane decides, or each of two might give way in one.
func (l *lane) giveWay() {
	switch {
	case l.node.config.Peers != nil:
		l.leases.end()
		l.fail("comparing with other nodes", proto.Errorf(proto.CodeConflict, "another process was started as node %q, and this one gives way to it: stop this one, and give each node a name of its own", l.node.config.Node))
	case l.id == 0 && l.node.config.NATSURL != "": // nobody else writes to the node's own log
		l.node.replaced.Store(true)
		for _, each := range l.node.lanes {
			each.fail("comparing with other nodes", errReplaced)
		}
	}
}

var errReplaced = proto.Errorf(proto.CodeUnavailable, "another node was started on this node's log, and this one gives way to it: stop this one; give each node that is no cluster's a NATS account of its own, or set up a cluster")

// tellReady tells the others whether this node answers, until ctx ends: one that
// does not must not own a lane.
func (n *Node) tellReady(ctx context.Context) {
	for {
		n.config.Peers.SetReady(n.ready.Load() && !n.disk.stopped() && n.fault() == nil && n.mayAnswerAll() == nil)
		if !pause(ctx, readyEvery) {
			return
		}
	}
}

// fault is why some lane applies nothing any more, or the control stream cannot be
// followed, nil if all is well.
func (n *Node) fault() error {
	if err := n.registry.broken(); err != nil {
		return err
	}
	for _, l := range n.lanes {
		if _, _, _, fault := l.progress.get(); fault != nil {
			return fault
		}
	}
	return nil
}

// aloneFor is for how long a node without a cluster looks whether another one beats on its
// log, before it does anything to that.
const aloneFor = beatEvery + time.Second

// alone refuses a log in another NATS than the node's own that a node without a cluster
// applies already: all that was there at the start is applied, and somebody beats since.
func (n *Node) alone(ctx context.Context) error {
	if n.config.Peers != nil || n.config.NATSURL == "" {
		return nil
	}
	n.noteIncarnations()
	for _, l := range n.lanes {
		l.leases.bury(n.incarnations)
	}
	for _, l := range n.lanes {
		if err := l.reachEndAtStart(ctx); err != nil {
			return err
		}
	}
	since := bootTime()
	if !pause(ctx, aloneFor) {
		return ctx.Err()
	}
	for _, l := range n.lanes {
		if l.leases.heardSince(since) {
			return proto.Errorf(proto.CodeConflict, "another node applies the log that nats.url names: stop that one first; give each node that is no cluster's a NATS account of its own, or set up a cluster")
		}
	}
	return nil
}

// beatWhenCaughtUp is keepTime, in a cluster from when the lane has applied what
// the log held at the start: whoever sees a beat waits for the node. It must be
// known to have the time that others have as well.
func (l *lane) beatWhenCaughtUp(ctx context.Context) {
	for l.node.config.Peers != nil {
		if l.reachEnd(ctx) == nil && l.node.clockCompared(ctx) == nil {
			break
		}
		if !pause(ctx, relayRetry) {
			return
		}
	}
	if begin := l.node.config.Begin; begin != nil {
		if err := begin(); err != nil {
			l.logger.Error("no beat is sent", "because", err)
			return
		}
	}
	l.keepTime(ctx)
}

// farewell tells the others that this node answers nothing more, so that they
// need not wait for its leases to end.
func (n *Node) farewell(ctx context.Context) {
	if n.config.Peers == nil {
		return
	}
	n.config.Peers.SetReady(false)
	for _, l := range n.lanes {
		l.leases.end()
		if err := l.sendBeat(ctx, true); err != nil {
			l.logger.Warn("other nodes were not told that this one stops: opt-outs may take up to 15 s to be final", "error", err)
		}
	}
}
