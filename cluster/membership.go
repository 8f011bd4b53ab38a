package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/hashicorp/memberlist"

	"kith/proto"
)

// Config is how a node takes part in a cluster's gossip.
type Config struct {
	// Name is the node's, the same after a restart; Cluster is the name that all
	// have in common. Others are refused.
	Name, Cluster string
	// Listen is host:port for gossip, UDP and TCP. Advertise is how others reach
	// it if that differs, as it does where Listen names no one address. Hosts'
	// names are looked up once, by Join.
	Listen, Advertise string
	// Join are gossip addresses of others; this node's may be among them.
	Join []string
	// Keys encrypt gossip: 16, 24 or 32 bytes each. The first is used, all are
	// taken, so that a key is changed by adding the new one everywhere, then
	// putting it first, then leaving the old one out. None on loopback only.
	Keys [][]byte
	// Remote is host:port at which other nodes reach this one's actors.
	Remote string
	// Lanes and Replicas are the cluster's: how many lanes, each on how many
	// nodes.
	Lanes, Replicas int
	Now             func() proto.Millis
	Logger          *slog.Logger
}

// Validate reports the first thing that is wrong, and sets defaults.
func (c *Config) Validate() error {
	host, _, err := net.SplitHostPort(c.Listen)
	switch {
	case !proto.ValidNode(c.Name):
		return proto.Errorf(proto.CodeInvalid, "node name %q is not valid: use 1 to %d letters, digits, - and _, and single dots between them", c.Name, proto.NameBytesMax)
	case !proto.ValidName(c.Cluster):
		return proto.Errorf(proto.CodeInvalid, "cluster name %q is not valid: use 1 to %d letters, digits, - and _", c.Cluster, proto.NameBytesMax)
	case err != nil:
		return proto.Errorf(proto.CodeInvalid, "the gossip address %q is not host:port: %w", c.Listen, err)
	case len(c.Keys) == 0 && !proto.Loopback(host):
		return proto.Errorf(proto.CodeInvalid, "gossip at %s would go out in the clear: give the cluster a key, or listen on 127.0.0.1", c.Listen)
	case c.Advertise == "" && proto.Unspecified(host):
		return proto.Errorf(proto.CodeInvalid, "the others cannot reach %q, which is all addresses of this machine: listen on one, or name it as Advertise", c.Listen)
	case c.Lanes < 1 || c.Lanes > proto.LanesMax:
		return proto.Errorf(proto.CodeInvalid, "%d lanes are not possible: use 1 to %d", c.Lanes, proto.LanesMax)
	case c.Replicas < 1:
		return proto.Errorf(proto.CodeInvalid, "%d replicas are not possible: use 1 or more", c.Replicas)
	case len(c.Remote) > remoteMax:
		return proto.Errorf(proto.CodeInvalid, "the address %q is longer than %d characters", c.Remote, remoteMax)
	}
	for _, k := range c.Keys {
		if err := memberlist.ValidateKey(k); err != nil {
			return proto.Errorf(proto.CodeInvalid, "a gossip key has %d bytes: use 16, 24 or 32", len(k))
		}
	}
	for _, a := range append([]string{c.Advertise}, c.Join...) {
		if _, _, err := net.SplitHostPort(a); err != nil && a != "" {
			return proto.Errorf(proto.CodeInvalid, "the gossip address %q is not host:port: %w", a, err)
		}
	}
	if c.Now == nil {
		c.Now = func() proto.Millis { return proto.MillisOf(time.Now()) }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

const remoteMax = 255

// Membership is a node's part in the gossip. Its methods may be called by
// several goroutines at once.
type Membership struct {
	config Config
	list   *memberlist.Memberlist
	table  atomic.Pointer[Table]
	life   context.Context
	end    context.CancelFunc
	done   sync.WaitGroup
	left   sync.Once
	tell   chan struct{} // the others are to hear of this node's state
	look   chan struct{} // what the others told has changed

	mu        sync.Mutex
	self      Member             // guarded by mu
	begun     bool               // guarded by mu; it is the process of its name
	heard     map[string]process // guarded by mu; by processKey
	placed    Placed             // guarded by mu; never changed, but replaced
	changed   chan struct{}      // guarded by mu; closed when the table is another
	displacer *process           // guarded by mu; of this one's name, to which it gives way
	displaced chan struct{}      // closed when there is one
}

// Timing of the gossip. A node that is gone is found out in two to three
// seconds; queries do not wait for that, they try another.
const (
	probeEvery   = 500 * time.Millisecond
	probeTimeout = 250 * time.Millisecond
	pushPull     = 10 * time.Second
	joinTryFirst = 100 * time.Millisecond
	joinTryMax   = 5 * time.Second
	rejoinEvery  = 10 * time.Second
	tellMax      = time.Second
)

// Join begins to gossip. It returns at once: the others are looked for until
// Leave, again and again, so that halves of a network that was parted find
// together.
func Join(c Config) (*Membership, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	m := &Membership{
		config: c, tell: make(chan struct{}, 1), look: make(chan struct{}, 1), changed: make(chan struct{}), heard: map[string]process{}, displaced: make(chan struct{}),
		self: Member{Name: c.Name, Started: c.Now(), Remote: c.Remote, Of: c.Lanes},
	}
	m.life, m.end = context.WithCancel(context.Background())
	m.table.Store(NewTable(nil, c.Lanes, c.Replicas, nil))
	mc, err := m.gossip()
	if err != nil {
		return nil, err
	}
	if m.list, err = memberlist.Create(mc); err != nil {
		m.end()
		return nil, proto.Errorf(proto.CodeConflict, "gossip cannot listen on %s: stop what listens there, or choose another address: %w", c.Listen, err)
	}
	m.done.Go(m.watch)
	m.done.Go(m.announce)
	m.done.Go(m.seek)
	m.done.Go(m.watchTwins)
	return m, nil
}

// gossip is memberlist's configuration.
func (m *Membership) gossip() (*memberlist.Config, error) {
	c := &m.config
	mc := memberlist.DefaultLANConfig()
	host, port, err := hostPort(c.Listen)
	if err != nil {
		return nil, err
	}
	// A process is a member of its own: a restart needs not outdo what is known
	// of the one before.
	mc.Name = processKey(c.Name, m.self.Started)
	mc.Label = c.Cluster
	mc.BindPort, mc.AdvertisePort = port, port
	if mc.BindAddr, err = lookUp(host); err != nil {
		return nil, err
	}
	if c.Advertise != "" {
		if host, mc.AdvertisePort, err = hostPort(c.Advertise); err != nil {
			return nil, err
		}
		if mc.AdvertiseAddr, err = lookUp(host); err != nil {
			return nil, err
		}
	}
	mc.ProbeInterval, mc.ProbeTimeout, mc.PushPullInterval = probeEvery, probeTimeout, pushPull
	if len(c.Keys) > 0 {
		if mc.Keyring, err = memberlist.NewKeyring(c.Keys, c.Keys[0]); err != nil {
			return nil, proto.Errorf(proto.CodeInvalid, "the gossip keys cannot be used: %w", err)
		}
	}
	d := delegate{m}
	mc.Delegate, mc.Events, mc.Alive = d, d, d
	mc.LogOutput = newGossipLog(c.Logger)
	return mc, nil
}

func hostPort(addr string) (string, int, error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, proto.Errorf(proto.CodeInvalid, "the gossip address %q is not host:port: %w", addr, err)
	}
	port, err := strconv.Atoi(p)
	if err != nil {
		return "", 0, proto.Errorf(proto.CodeInvalid, "the gossip address %q has no port number: %w", addr, err)
	}
	return host, port, nil
}

// lookUp gives a host's IP address, of several an IPv4 one, "" for all of this
// machine's. memberlist takes addresses only: at a name it would listen
// everywhere, at localhost too.
func lookUp(host string) (string, error) {
	if proto.Unspecified(host) {
		return host, nil
	}
	a, err := net.ResolveIPAddr("ip", host)
	if err != nil {
		return "", proto.Errorf(proto.CodeUnavailable, "the gossip address has the host %q, which cannot be looked up: name one that the resolver knows, or an IP address: %w", host, err)
	}
	return a.String(), nil
}

// Table is who answers for what, as far as this node knows.
func (m *Membership) Table() *Table { return m.table.Load() }

// Changed is closed when Table is another than it was before the call.
func (m *Membership) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// SetReady tells the others which lanes this node has and answers for.
func (m *Membership) SetReady(lanes Lanes) {
	m.set(func(x *Member) {
		x.Ready = lanes
		m.begun = m.begun || lanes != 0
	})
}

// SetDraining tells the others that this node is about to leave, or that it
// stays.
func (m *Membership) SetDraining(draining bool) { m.set(func(x *Member) { x.Draining = draining }) }

// SetPlaced names owners of lanes by hand. All members are to be told the same;
// it is not gossiped.
func (m *Membership) SetPlaced(placed Placed) {
	m.mu.Lock()
	m.placed = maps.Clone(placed)
	m.mu.Unlock()
	poke(m.look)
}

func (m *Membership) set(change func(*Member)) {
	m.mu.Lock()
	before := m.self
	change(&m.self)
	same := m.self == before
	m.mu.Unlock()
	if !same {
		poke(m.tell)
		poke(m.look)
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Leave tells the others that the node goes, for as long as ctx lasts, and ends
// the gossip.
func (m *Membership) Leave(ctx context.Context) (err error) {
	m.left.Do(func() {
		m.end()
		wait := tellMax
		if t, ok := ctx.Deadline(); ok {
			wait = max(time.Until(t), time.Millisecond)
		}
		if err = errors.Join(m.list.Leave(wait), m.list.Shutdown()); err != nil {
			err = proto.Errorf(proto.CodeUnavailable, "leaving the cluster's gossip: %w", err)
		}
		done := make(chan struct{})
		go func() {
			m.done.Wait()
			close(done)
		}()
		select {
		case <-done:
		case <-ctx.Done(): // it looks for a node that does not answer
		}
	})
	return err
}

// seek looks for the others: at first often, then now and then.
func (m *Membership) seek() {
	wait := joinTryFirst
	for {
		n, err := m.list.Join(m.config.Join)
		switch {
		case err == nil || n > 1 || len(m.config.Join) == 0:
			wait = rejoinEvery
		default:
			wait = min(2*wait, joinTryMax)
		}
		select {
		case <-time.After(wait):
		case <-m.life.Done():
			return
		}
	}
}

// announce tells the others of changes of this node's state.
func (m *Membership) announce() {
	for {
		select {
		case <-m.tell:
			if err := m.list.UpdateNode(tellMax); err != nil && m.life.Err() == nil {
				m.config.Logger.Warn("other nodes may not know of this one's state yet", "error", err)
			}
		case <-m.life.Done():
			return
		}
	}
}

// watch makes a new table of what changed, outside of memberlist's locks.
func (m *Membership) watch() {
	for {
		m.renew()
		select {
		case <-m.look:
		case <-m.life.Done():
			return
		}
	}
}

func (m *Membership) renew() {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := []Member{m.self}
	for _, x := range m.heard {
		if x.Name != m.self.Name || x.Started > m.self.Started {
			list = append(list, x.Member)
		}
	}
	m.table.Store(NewTable(list, m.config.Lanes, m.config.Replicas, m.placed))
	close(m.changed)
	m.changed = make(chan struct{})
}

// state is a Member as it is gossiped, in 512 bytes at most.
type state struct {
	Cluster  string       `json:"c"`
	Name     string       `json:"n"`
	Started  proto.Millis `json:"s"`
	Remote   string       `json:"a,omitempty"`
	Draining bool         `json:"d,omitempty"`
	Ready    Lanes        `json:"r,omitempty"`
	Of       int          `json:"l,omitempty"`
}

func decodeState(b []byte, cluster string) (Member, error) {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return Member{}, proto.Errorf(proto.CodeInvalid, "a node's gossip is malformed: %w", err)
	}
	if s.Cluster != cluster {
		return Member{}, proto.Errorf(proto.CodeInvalid, "a node of cluster %q gossips with cluster %q", s.Cluster, cluster)
	}
	if !proto.ValidName(s.Name) || len(s.Remote) > remoteMax {
		return Member{}, proto.Errorf(proto.CodeInvalid, "a node's gossip has the name %q", s.Name)
	}
	return Member{Name: s.Name, Started: s.Started, Remote: s.Remote, Draining: s.Draining, Ready: s.Ready, Of: s.Of}, nil
}

// delegate is what memberlist calls, partly with its locks held: it copies,
// pokes and returns.
type delegate struct{ m *Membership }

// NodeMeta implements memberlist.Delegate.
func (d delegate) NodeMeta(limit int) []byte {
	d.m.mu.Lock()
	x := d.m.self
	d.m.mu.Unlock()
	b, err := json.Marshal(state{d.m.config.Cluster, x.Name, x.Started, x.Remote, x.Draining, x.Ready, x.Of})
	if err != nil || len(b) > limit {
		panic(fmt.Sprintf("a node's state has %d bytes to gossip: %v", len(b), err)) // its parts are bounded
	}
	return b
}

// NotifyMsg implements memberlist.Delegate.
func (delegate) NotifyMsg([]byte) {}

// GetBroadcasts implements memberlist.Delegate.
func (delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (delegate) MergeRemoteState([]byte, bool) {}

// NotifyAlive implements memberlist.AliveDelegate: strangers stay outside.
func (d delegate) NotifyAlive(n *memberlist.Node) error {
	_, err := decodeState(n.Meta, d.m.config.Cluster)
	return err
}

// NotifyJoin implements memberlist.EventDelegate.
func (d delegate) NotifyJoin(n *memberlist.Node) {
	x, err := decodeState(n.Meta, d.m.config.Cluster)
	if err != nil {
		return // NotifyAlive refused it
	}
	at := net.UDPAddr{IP: slices.Clone(n.Addr), Port: int(n.Port)}
	d.m.mu.Lock()
	d.m.heard[n.Name] = process{x, at}
	d.m.mu.Unlock()
	poke(d.m.look)
}

// NotifyUpdate implements memberlist.EventDelegate.
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.NotifyJoin(n) }

// NotifyLeave implements memberlist.EventDelegate.
func (d delegate) NotifyLeave(n *memberlist.Node) {
	d.m.mu.Lock()
	delete(d.m.heard, n.Name)
	d.m.mu.Unlock()
	poke(d.m.look)
}

// Bounds of what is said of gossip: packets that nobody needs a key for make lines too.
const (
	gossipTellEvery = 10 * time.Second // of a kind
	gossipKindsMax  = 64               // what is of none of these is of one more
)

// gossipLog passes on what memberlist has to say at warning and above, of each kind now
// and then, with how much was left out since the time before.
type gossipLog struct {
	to *slog.Logger

	mu    sync.Mutex
	kinds map[string]*gossipKind // guarded by mu
}

type gossipKind struct {
	told time.Time
	left int // out since
}

func newGossipLog(to *slog.Logger) *gossipLog {
	return &gossipLog{to: to, kinds: map[string]*gossipKind{}}
}

// Write implements io.Writer, a line at a time.
func (l *gossipLog) Write(b []byte) (int, error) {
	text := strings.TrimSpace(string(b))
	for mark, level := range map[string]slog.Level{"[ERR] ": slog.LevelError, "[WARN] ": slog.LevelWarn} {
		_, said, ok := strings.Cut(text, mark)
		if !ok {
			continue
		}
		left, now := l.due(gossipKindOf(said))
		switch {
		case now && left > 0:
			l.to.Log(context.Background(), level, said, "from", "memberlist", "left_out", left)
		case now:
			l.to.Log(context.Background(), level, said, "from", "memberlist")
		}
		break // a line has one level, whatever it quotes
	}
	return len(b), nil
}

// due reports whether a line of a kind may be told now, and how many were not.
func (l *gossipLog) due(kind string) (left int, now bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.kinds[kind]
	if k == nil && len(l.kinds) >= gossipKindsMax {
		kind = ""
		k = l.kinds[kind]
	}
	if k == nil {
		k = &gossipKind{}
		l.kinds[kind] = k
	}
	at := time.Now()
	if !k.told.IsZero() && at.Sub(k.told) < gossipTellEvery {
		k.left++
		return 0, false
	}
	left, k.told, k.left = k.left, at, 0
	return left, true
}

// gossipKindOf is the words that a line begins with, without what differs from line to
// line: addresses, names in quotes and numbers come behind them.
func gossipKindOf(said string) string {
	words := strings.Fields(strings.TrimPrefix(said, "memberlist: "))
	words = words[:min(len(words), 4)]
	for i, w := range words {
		if strings.ContainsFunc(w, func(r rune) bool { return !unicode.IsLetter(r) }) {
			words = words[:i]
			break
		}
	}
	return strings.Join(words, " ")
}
