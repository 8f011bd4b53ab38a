package cluster

import (
	"cmp"
	"context"
	"net"
	"slices"
	"strconv"
	"time"

	"kith/proto"
)

// This file is what is done about two processes of one name. Gossip lists the one
// before for a while after it died, so it is asked itself whether it lives. One of
// both must go: who has not begun yet goes before who is ready or started first, and
// of two that have begun the one that started first, in whose place the other was
// started, once that is ready.

const (
	twinEvery = time.Second
	// meetMax bounds how long others are looked for before a node begins.
	meetMax = 2 * time.Second
	// meetWhole is how long the rest of the others, of whom one was found, may take.
	meetWhole = 200 * time.Millisecond
	twinPings = 3
)

// process is a member as it was heard of, with where it gossips.
type process struct {
	Member
	gossip net.UDPAddr
}

// Meet returns when others were found, or none within some time. CodeConflict if
// one of them has this node's name, or answers and has another number of lanes.
func (m *Membership) Meet(ctx context.Context) error {
	limit := time.NewTimer(meetMax)
	defer limit.Stop()
	for met := false; !met; {
		m.mu.Lock()
		changed := m.changed
		met = len(m.heard) > 1 // itself among them
		m.mu.Unlock()
		if met {
			limit.Reset(meetWhole)
			changed = nil
		}
		select {
		case <-changed:
		case <-limit.C:
			met = true
		case <-ctx.Done():
			return proto.Errorf(proto.CodeTimeout, "the node was stopped before it had looked for the others: %w", ctx.Err())
		}
	}
	m.lookForTwins()
	if err := m.Displaced(); err != nil {
		return err
	}
	return m.sameLanes()
}

// sameLanes refuses what the log refuses too, but before the log's servers count this
// node among them and give it streams to keep.
func (m *Membership) sameLanes() error {
	for _, x := range m.Table().Members() {
		if x.Ready != 0 && x.Of != 0 && x.Of != m.config.Lanes {
			return proto.Errorf(proto.CodeConflict, "node %s has %d lanes, the configuration says %d: the number of lanes is fixed, set it to %d, of a cluster on all nodes; another number is had from a backup (`kith restore --lanes`)",
				x.Name, x.Of, m.config.Lanes, x.Of)
		}
	}
	return nil
}

// Begin says that this process is the one of its name from now on, and is to be
// called before it shows itself in the log. CodeConflict if another one is.
func (m *Membership) Begin() error {
	m.mu.Lock()
	m.begun = m.begun || m.displacer == nil
	m.mu.Unlock()
	return m.Displaced()
}

// Displaced is why this process must end: another has its name. Nil if none is
// known of.
func (m *Membership) Displaced() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	x := m.displacer
	if x == nil {
		return nil
	}
	what := "runs already"
	if x.Started > m.self.Started {
		what = "was started in place of this one"
	}
	return proto.Errorf(proto.CodeConflict, "another process %s as node %q, since %s, at %s: stop one of both, and give each node a name (`node` in kith.yaml, or --name) and a data directory of its own",
		what, x.Name, x.Started, x.gossip.String())
}

// Gone is closed when Displaced is not nil any more.
func (m *Membership) Gone() <-chan struct{} { return m.displaced }

// watchTwins looks for processes of this one's name until Leave.
func (m *Membership) watchTwins() {
	for {
		changed := m.Changed()
		if m.lookForTwins() {
			return
		}
		wait := time.NewTimer(twinEvery)
		select {
		case <-m.life.Done():
			wait.Stop()
			return
		case <-wait.C: // not at each change: it costs pings
		}
		select {
		case <-m.life.Done():
			return
		case <-changed:
		case <-time.After(rejoinEvery): // one that stood still may go on
		}
	}
}

// lookForTwins asks processes of this one's name whether they live, and reports
// whether this one must end.
func (m *Membership) lookForTwins() bool {
	for _, key := range m.twins() {
		m.mu.Lock()
		x, self, begun := m.heard[key], m.self, m.begun
		m.mu.Unlock()
		if x.Name == "" || !gives(self, begun, x.Member) || !m.lives(key, x) {
			continue
		}
		m.mu.Lock()
		goes := gives(m.self, m.begun, x.Member) // it may have begun meanwhile
		if goes && m.displacer == nil {
			m.displacer = &x
			close(m.displaced)
		}
		m.mu.Unlock()
		if goes {
			return true
		}
	}
	return false
}

// twins are the processes of this one's name that were heard of, but itself.
func (m *Membership) twins() (keys []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, x := range m.heard {
		if x.Name == m.self.Name && x.Started != m.self.Started {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, cmp.Compare)
	return keys
}

// gives reports whether a process gives way to another of its name that lives.
func gives(self Member, begun bool, other Member) bool {
	if begun {
		return other.Ready != 0 && other.Started > self.Started
	}
	return other.Ready != 0 || other.Started < self.Started
}

// lives asks a process whether it lives. Whoever gossips at its address now, as one
// that was started after it does, does not answer in its name.
func (m *Membership) lives(key string, x process) bool {
	m.mu.Lock()
	own := m.heard[processKey(m.self.Name, m.self.Started)].gossip
	m.mu.Unlock()
	if own.IP.Equal(x.gossip.IP) && own.Port == x.gossip.Port {
		return false // this one gossips there
	}
	for range twinPings {
		if m.life.Err() != nil {
			return false
		}
		if _, err := m.list.Ping(key, &x.gossip); err == nil {
			return true
		}
	}
	return false
}

// processKey names a process in gossip.
func processKey(name string, started proto.Millis) string {
	return name + "/" + strconv.FormatInt(int64(started), 10)
}
