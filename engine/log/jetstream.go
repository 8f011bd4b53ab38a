package log

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kith/proto"
)

// Log is a node's log in JetStream.
type Log struct {
	config   Config
	embedded *embedded // nil with an external NATS
	conn     *nats.Conn
	service  *nats.Conn
	js       jetstream.JetStream
	acks     *acks
	lanes    []*lane
	control  *control
	ledger   *control
	feed     *control
	health   lastText      // why the newest append failed, "" if it did not
	doubt    time.Duration // for how long a cluster's streams must seem to have lost records

	listing sync.Mutex
	listed  []string // streams of outlets, as the servers told last; nil before they did

	closing sync.Once
}

// Open starts the server, or connects to the one at c.URL, and sees that the
// streams are there with the settings that the guarantees need.
func Open(ctx context.Context, c Config) (_ *Log, err error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	l := &Log{config: c, doubt: doubtMax}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	laneMax, err := l.laneBytesMax()
	if err != nil {
		return nil, err
	}
	if err := l.connect(ctx, laneMax); err != nil {
		return nil, err
	}
	if l.js, err = jetstream.New(l.conn, jetstream.WithDefaultTimeout(30*time.Second)); err != nil {
		return nil, proto.Errorf(proto.CodeInternal, "JetStream client: %w", err)
	}
	if l.acks, err = newAcks(l.conn, c.AppendTimeout, &l.health); err != nil {
		return nil, err
	}
	return l, l.openStreams(ctx, laneMax)
}

// laneBytesMax is the bound of one lane's stream.
func (l *Log) laneBytesMax() (int64, error) {
	if l.config.MaxBytes > 0 {
		return l.config.MaxBytes, nil
	}
	if l.config.Dir == "" {
		return 16 << 30, nil // an external server's disk cannot be seen
	}
	if err := os.MkdirAll(l.config.Dir, 0o750); err != nil {
		return 0, proto.Errorf(proto.CodeInvalid, "the log's directory cannot be made: %w", err)
	}
	free, err := diskFree(l.config.Dir)
	if err != nil {
		return 0, err
	}
	all := free + dirBytes(filepath.Join(l.config.Dir, "jetstream"))
	return max(all*6/10/int64(l.config.Lanes), laneBytesMin), nil
}

func (l *Log) connect(ctx context.Context, laneMax int64) (err error) {
	c := &l.config
	if c.URL != "" {
		if err = l.connectBy(func() (*nats.Conn, error) {
			return nats.Connect(c.URL, nats.Name(c.Name), nats.CustomInboxPrefix("_KITH."+nats.NewInbox()[7:]),
				nats.MaxReconnects(-1), nats.ReconnectBufSize(-1), nats.IgnoreAuthErrorAbort(), quietErrors(c.Logger))
		}); err != nil {
			return proto.Errorf(proto.CodeUnavailable, "NATS at %s cannot be reached: start it, or leave the URL out to use the embedded one: %w", hostsOf(c.URL), err)
		}
		return nil
	}
	// Bounds of streams that only grew with the disk must still fit.
	maxStore := max(laneMax*int64(c.Lanes), 1<<50) + ControlBytesMax + ledgerBytesMax + feedBytesMax + otherBytesMax
	if l.embedded, err = startEmbedded(ctx, c, maxStore); err != nil {
		return err
	}
	if err = l.connectBy(func() (*nats.Conn, error) { return l.embedded.connect(c) }); err != nil {
		return proto.Errorf(proto.CodeInternal, "no connection to the embedded NATS server: %w", err)
	}
	return nil
}

func (l *Log) connectBy(connect func() (*nats.Conn, error)) (err error) {
	if l.conn, err = connect(); err == nil {
		l.service, err = connect()
	}
	return err
}

// hostsOf is a list of NATS servers without what lets one in: a user, a password, or
// a token, which stands where a user does.
func hostsOf(list string) string {
	var hosts []string
	for part := range strings.SplitSeq(list, ",") {
		scheme, rest, ok := strings.Cut(strings.TrimSpace(part), "://")
		if !ok {
			scheme, rest = "nats", scheme
		}
		hosts = append(hosts, scheme+"://"+rest[strings.LastIndexByte(rest, '@')+1:])
	}
	return strings.Join(hosts, ", ")
}

func (l *Log) openStreams(ctx context.Context, laneMax int64) error {
	feed := streamConfig("KITH_OUT_OPTOUTS", "kith.out.optouts", feedBytesMax)
	feed.Discard = jetstream.DiscardOld
	for _, x := range []struct {
		to     **control
		config jetstream.StreamConfig
	}{
		{&l.control, l.controlConfig()}, // first: it knows how many lanes there are
		{&l.ledger, streamConfig("KITH_OPTOUT", "kith.ledger", ledgerBytesMax)},
		{&l.feed, feed},
	} {
		s, err := l.await(ctx, x.config)
		if err != nil {
			return err
		}
		*x.to = &control{stream: stream{log: l, name: x.config.Name, subject: x.config.Subjects[0], js: s}}
	}
	for i := range l.config.Lanes {
		id := proto.LaneID(i)
		s, err := l.await(ctx, laneStreamConfig(id, laneMax, 0))
		if err != nil {
			return err
		}
		l.lanes = append(l.lanes, &lane{stream: stream{log: l, name: laneStreamName(id), subject: laneSubject(id), js: s}, id: id, base: proto.Offset(s.CachedInfo().State.LastSeq)})
	}
	return nil
}

// Bounds of the streams that are not lanes': 16 GiB of ledger are some 500
// million opt-outs.
const (
	ledgerBytesMax = 16 << 30
	feedBytesMax   = 1 << 30
)

func laneStreamName(id proto.LaneID) string { return "KITH_L" + id.String() }
func laneSubject(id proto.LaneID) string    { return "kith.log." + id.String() }

func laneStreamConfig(id proto.LaneID, maxBytes int64, first proto.Offset) jetstream.StreamConfig {
	c := streamConfig(laneStreamName(id), laneSubject(id), maxBytes)
	c.FirstSeq = uint64(first)
	return c
}

// streamConfig holds the settings without which an acknowledged entry could
// vanish or an append be lost: see section 4 of the design.
func streamConfig(name, subject string, maxBytes int64) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: name, Subjects: []string{subject}, Description: "kith",
		Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardNew,
		MaxBytes: maxBytes, MaxMsgs: -1, MaxMsgsPerSubject: -1, MaxMsgSize: -1, MaxConsumers: -1,
		Replicas: 1, Duplicates: duplicatesWithin, AllowDirect: true,
		Metadata: map[string]string{"kith.format": FormatVersion},
	}
}

// await is ensure as soon as enough of a cluster's servers are there; until
// then it says now and then what it waits for.
func (l *Log) await(ctx context.Context, want jetstream.StreamConfig) (jetstream.Stream, error) {
	c := l.config.Cluster
	if c == nil {
		return l.ensure(ctx, want)
	}
	want.Replicas = c.Replicas
	// A replica that lags would answer that it has no such record.
	want.AllowDirect = false
	told := time.Now()
	for {
		s, err := l.ensure(ctx, want)
		if err == nil || proto.CodeOf(err) != proto.CodeUnavailable {
			return s, err
		}
		if now := time.Now(); now.Sub(told) > clusterTellEvery {
			told = now
			l.config.Logger.Warn("waiting for the cluster's other NATS servers: a new cluster begins with all that join names, one that has begun goes on with most", "cluster", c.Name, "routes", c.Routes, "connected", l.embedded.server.NumRoutes(), "stream", want.Name, "error", err)
		}
		select {
		case <-time.After(clusterTryEvery):
		case <-ctx.Done():
			return nil, err
		}
	}
}

const (
	clusterTryEvery  = 200 * time.Millisecond
	clusterTryMax    = 5 * time.Second // without an answer, in a cluster that elects
	clusterTellEvery = 5 * time.Second
)

// ensure opens the stream that want describes, and makes it if it is missing.
func (l *Log) ensure(ctx context.Context, want jetstream.StreamConfig) (jetstream.Stream, error) {
	if l.config.Cluster != nil {
		try, cancel := context.WithTimeout(ctx, clusterTryMax)
		defer cancel()
		ctx = try
	}
	s, err := l.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = l.js.CreateStream(ctx, want)
	}
	if err != nil {
		return nil, proto.Errorf(proto.CodeUnavailable, "stream %s cannot be opened: check disk space and the NATS server's JetStream limits: %w", want.Name, err)
	}
	info := s.CachedInfo()
	if err := checkStream(&want, &info.Config); err != nil {
		return nil, err
	}
	had := info.Config
	marked, err := l.marked(ctx, &want, info)
	if err != nil {
		return nil, err
	}
	if l.config.MaxBytes == 0 && (had.MaxBytes > want.MaxBytes || l.config.Cluster != nil) {
		want.MaxBytes = had.MaxBytes // derived from a disk, in a cluster from that of who made it
	}
	changed := had
	changed.Metadata = marked
	changed.MaxBytes = want.MaxBytes
	changed.Replicas = max(had.Replicas, want.Replicas) // of a cluster that grew
	changed.AllowDirect = want.AllowDirect              // as it was for a node alone
	if changed.MaxBytes == had.MaxBytes && changed.Replicas == had.Replicas && changed.AllowDirect == had.AllowDirect && maps.Equal(changed.Metadata, had.Metadata) {
		return s, nil
	}
	// A stream must never be bounded below what it holds.
	if uint64(want.MaxBytes) < info.State.Bytes {
		return nil, proto.Errorf(proto.CodeInvalid, "log_max_bytes is %d but stream %s holds %d bytes: raise it", want.MaxBytes, want.Name, info.State.Bytes)
	}
	if s, err = l.js.UpdateStream(ctx, changed); err != nil {
		return nil, proto.Errorf(proto.CodeUnavailable, "stream %s cannot be changed to at most %d bytes and %d replicas: %w", want.Name, want.MaxBytes, changed.Replicas, err)
	}
	return s, nil
}

// checkStream compares the settings that matter.
func checkStream(want, got *jetstream.StreamConfig) error {
	wrong := ""
	switch {
	case got.Metadata["kith.format"] != FormatVersion:
		return proto.Errorf(proto.CodeConflict, "stream %s has format %q, this build reads %q: install a kith that reads it, or name another NATS account or directory", want.Name, got.Metadata["kith.format"], FormatVersion)
	case len(got.Subjects) != 1 || got.Subjects[0] != want.Subjects[0]:
		wrong = fmt.Sprintf("subjects %v", got.Subjects)
	case got.Storage != want.Storage:
		wrong = "storage " + got.Storage.String()
	case got.Retention != want.Retention:
		wrong = "retention " + got.Retention.String()
	case got.Discard != want.Discard:
		wrong = "discard " + got.Discard.String()
	case got.PersistMode != want.PersistMode:
		wrong = "persist mode " + got.PersistMode.String()
	case got.MaxAge != 0 || got.MaxMsgs > 0 || got.MaxMsgsPerSubject > 0:
		wrong = "a maximum age or number of messages"
	case got.NoAck || got.Sealed || got.DenyPurge || got.Mirror != nil || len(got.Sources) > 0 || got.SubjectTransform != nil || got.AllowRollup || got.AllowMsgTTL:
		wrong = "no_ack, sealed, deny_purge, mirror, sources, transform, rollup or message TTL"
	case want.AllowDirect && !got.AllowDirect:
		wrong = "allow_direct off"
	default:
		return nil
	}
	return proto.Errorf(proto.CodeConflict, "stream %s was changed from outside (%s), acknowledged events could get lost: undo that with `nats stream edit %s`, then start again", want.Name, wrong, want.Name)
}

// Warnings are what an operator should know at start.
func (l *Log) Warnings() []string {
	if l.config.URL == "" {
		return nil
	}
	return []string{"the log is in NATS at " + hostsOf(l.conn.ConnectedUrl()) + ", outside this process: unless its servers run with sync_interval: always, an acknowledged event can be lost in a power cut"}
}

// Conn is the connection to the log's NATS, for what nodes ask one another.
func (l *Log) Conn() *nats.Conn { return l.conn }

// ServiceConn is another one, for the intake and queries: what comes in floods, and
// answers that many listen to, hold up no append.
func (l *Log) ServiceConn() *nats.Conn { return l.service }

// ClientURL is where network clients connect, "" without an open port.
func (l *Log) ClientURL() string {
	if l.config.ClientListen == "" {
		return ""
	}
	return l.embedded.server.ClientURL()
}

// Refused counts connections of network clients that were not let in because there
// were as many as there may be.
func (l *Log) Refused() uint64 {
	if l.embedded == nil {
		return 0
	}
	return l.embedded.door.refused.Load()
}

// Recheck ends the connections of network clients whose grant holds no more.
func (l *Log) Recheck() {
	if l.embedded != nil && l.config.ClientListen != "" {
		l.embedded.recheck()
	}
}

// Lane is one lane's stream.
func (l *Log) Lane(id proto.LaneID) Stream { return l.lanes[id] }

// Control is the control stream.
func (l *Log) Control() ControlStream { return l.control }

// Ledger is the stream of opt-outs.
func (l *Log) Ledger() ControlStream { return l.ledger }

// LedgerCreated is when the ledger's stream was made.
func (l *Log) LedgerCreated() time.Time { return l.ledger.js.CachedInfo().Created.UTC() }

// Feed is the stream of final opt-outs for others.
func (l *Log) Feed() ControlStream { return l.feed }

// diskFreeMin is below what a disk counts as full once an append failed.
const diskFreeMin = 64 << 20

// Healthy says why the log cannot take entries now, nil if nothing is known
// to stop it.
func (l *Log) Healthy() error {
	if l.embedded != nil && !l.embedded.server.JetStreamEnabled() {
		return proto.Errorf(proto.CodeDiskFull, "JetStream has shut itself down, as it does when the disk is full or not writable: free space, then restart")
	}
	if !l.conn.IsConnected() {
		return proto.Errorf(proto.CodeUnavailable, "there is no connection to NATS (%s)", l.conn.Status())
	}
	if why := l.health.get(); why != "" {
		if free, err := diskFree(l.config.Dir); l.embedded != nil && err == nil && free < diskFreeMin {
			return proto.Errorf(proto.CodeDiskFull, "the disk of %s has %d bytes left and the newest append failed: free space, then restart", l.config.Dir, free)
		}
		return proto.Errorf(proto.CodeUnavailable, "the newest append failed: %s", why)
	}
	return nil
}

// Close ends appends (those without an answer end ambiguously), the
// connection and the server, and waits for them.
func (l *Log) Close() error {
	l.closing.Do(func() {
		if l.acks != nil {
			l.acks.close()
		}
		for _, nc := range []*nats.Conn{l.service, l.conn} {
			if nc != nil {
				nc.Close()
			}
		}
		if l.embedded != nil {
			l.embedded.stop()
		}
	})
	return nil
}

// lastText is a text that several goroutines set and get.
type lastText struct {
	mu   sync.Mutex
	text string
}

func (t *lastText) set(s string) {
	t.mu.Lock()
	t.text = s
	t.mu.Unlock()
}

func (t *lastText) get() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text
}

// StartOver deletes a lane's stream, whatever is in it, and makes a new one
// whose first record will be next: the way on for a store that is ahead of a
// log that lost its tail. Not while the lane is in use.
func (l *Log) StartOver(ctx context.Context, id proto.LaneID, next proto.Offset) error {
	old := l.lanes[id]
	had := old.js.CachedInfo().Config
	c := laneStreamConfig(id, had.MaxBytes, next)
	c.Replicas, c.AllowDirect = had.Replicas, had.AllowDirect
	if err := l.js.DeleteStream(ctx, c.Name); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "stream %s cannot be deleted: %w", c.Name, err)
	}
	s, err := l.js.CreateStream(ctx, c)
	if err != nil {
		return proto.Errorf(proto.CodeUnavailable, "stream %s was deleted but cannot be made anew, start again: %w", c.Name, err)
	}
	l.lanes[id] = &lane{stream: stream{log: l, name: c.Name, subject: old.subject, js: s}, id: id, base: next - 1}
	return nil
}
