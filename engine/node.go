package engine

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"kith/actors"
	"kith/actors/identity"
	"kith/engine/log"
	"kith/engine/store"
	"kith/internal/cores"
	"kith/internal/fair"
	"kith/proto"
)

// Node is one running kith. Its methods may run concurrently.
type Node struct {
	config       Config
	logger       *slog.Logger
	hasher       proto.Hasher
	log          log.Logs
	conn         func() *nats.Conn
	serviceConn  func() *nats.Conn
	shown        shown
	streams      func(context.Context) []proto.StreamStatus // nil without NATS, as is the next
	removeServer func(ctx context.Context, node string) error
	lacking      atomic.Pointer[map[string]int] // by stream, as watchStreams found it last; nil: it did not yet
	recheck      func()                         // ends network clients' connections that a key opened which opens no more; may be nil
	refused      func() uint64                  // see log.Log.Refused; may be nil
	store        store.Store
	registry     *registry
	views        *views
	laneOf       [proto.Partitions]*lane
	laneIDs      [proto.Partitions]proto.LaneID
	answers      answers
	ledger       *ledger
	feeds        feeds
	audit        audit
	signer       signer

	cutSeconds prometheus.Histogram
	lanes      []*lane
	packers    []*log.Packer
	tickets    sync.Pool // chan appended, of one
	system     *actor.ActorSystem

	life      context.Context    // ends with stop
	stop      context.CancelFunc // ends what writes and waits, first
	slow      sync.WaitGroup     // backups and verifications under way
	cleaning  sync.Mutex         // one deletion of outbox rows at a time
	verifying sync.Mutex         // one verification at a time
	erasing   sync.Mutex         // one erasure of bytes at a time
	scrubbed  uint64             // of purgedSoFar, what such an erasure removed; with erasing
	reporting *fair.Queue        // of reports: one is under way
	checking  *fair.Queue        // of searches for a receipt: one is under way
	long      *fair.Queue        // of counts that take long, and explanations
	explained time.Duration      // for how long the histories of one explanation are read
	swapping  sync.Mutex         // held by a backup while it takes what belongs together, and by who writes a Swap or how far an import went
	campaigns campaigns
	staging   sync.RWMutex                  // held for reading by who takes rows of imports, for writing while one is ended
	intake    sync.RWMutex                  // held for reading by who appends, for writing while the log is emptied
	shut      atomic.Pointer[chan struct{}] // closed when intake is open again; nil while it is
	stopRead  context.CancelFunc            // ends the readers, last
	done      sync.WaitGroup
	applying  sync.WaitGroup
	ready     atomic.Bool
	draining  atomic.Bool // others take over, and nobody new is to ask
	replaced  atomic.Bool // without a cluster: another node applies the log
	drains    sync.Mutex  // one beginning or end of a drain at a time
	started   time.Time
	disk      *disk
	clock     *clock
	pace      *pace
	copies    copies

	incarnations []uint64 // by which this process and those before it in the directory beat; set by start

	fillsEnded chan struct{} // one slot: a version may be ready to answer

	judge func(identity.Rules) identity.Rules // by what identities are judged; nil: by the lane's rules. Tests break it
}

// Open starts a node and returns when it answers queries. What the log held
// and the store lacks is applied first; ctx bounds that, not the node's life.
func Open(ctx context.Context, c Config) (*Node, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	n, err := open(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := n.start(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func open(ctx context.Context, c Config) (*Node, error) {
	if err := checkRestored(c); err != nil {
		return nil, err
	}
	secret, err := hashSecret(c)
	if err != nil {
		return nil, err
	}
	half, err := halfCopied(&c)
	if err != nil {
		return nil, err
	}
	var st *store.Badger
	marked := false
	var locked func() error
	if half { // nobody else is at it then, and what a full disk has of it may leave the log no room
		locked = func() error { return removeAllIn(c.storeDir()) }
	} else {
		if err := roomToOpen(c.storeDir()); err != nil {
			return nil, err
		}
		if st, err = openStore(&c); err != nil {
			return nil, err
		}
		if marked, err = checkMark(st, globalMark(secret, c.Lanes)); err != nil {
			return nil, errors.Join(err, st.Close())
		}
	}
	lg, err := log.Open(ctx, log.Config{
		Dir: c.logDir(), URL: c.NATSURL, Lanes: c.Lanes, MaxBytes: c.LogBytesMax, Name: c.Node, Logger: c.Logger,
		ClientListen: c.NATSListen, Authorize: c.NATSAuthorize, Cluster: c.Cluster, Mark: logMark(secret), Marked: marked, Locked: locked,
	})
	if err != nil && st != nil {
		err = errors.Join(err, st.Close())
	}
	if err != nil {
		return nil, err
	}
	if half {
		if st, err = reopenStore(&c); err != nil {
			return nil, errors.Join(err, lg.Close())
		}
	}
	if err = c.patiently(ctx, func() error { return plantKept(ctx, &c, lg, st) }); err != nil {
		return nil, errors.Join(err, lg.Close(), st.Close())
	}
	if st, err = withinReach(ctx, &c, lg, st); err != nil {
		return nil, errors.Join(err, lg.Close())
	}
	n := newNode(c, lg, st, secret)
	if c.Peers != nil {
		n.signInCluster(c)
	} else if n.signer.key, err = receiptKeyOf(c, marked); err != nil {
		return nil, errors.Join(err, lg.Close(), st.Close())
	}
	n.conn, n.serviceConn, n.streams, n.removeServer, n.recheck, n.refused = lg.Conn, lg.ServiceConn, lg.Streams, lg.RemoveServer, lg.Recheck, lg.Refused
	for _, w := range lg.Warnings() {
		c.Logger.Warn(w)
	}
	return n, nil
}

// newNode wires a node over a log and a store, which it closes in the end.
func newNode(c Config, lg log.Logs, st store.Store, secret [16]byte) *Node {
	clock := newClock(c.Now)
	c.Now = clock.now // all of the node goes by it
	n := &Node{
		config: c, logger: c.Logger, hasher: proto.NewHasher(secret), log: lg, store: st,
		views: newViews(c.ViewsMax), clock: clock, pace: newPace(), reporting: fair.New(1), checking: fair.New(1), long: fair.New(longMax), explained: explainMax, fillsEnded: make(chan struct{}, 1), campaigns: newCampaigns(),
		conn: func() *nats.Conn { return nil }, serviceConn: func() *nats.Conn { return nil }, cutSeconds: newCutSeconds(), disk: newDisk(c.DiskReserve, c.merges, c.storeDir(), c.logDir()),
	}
	n.copies.idle, n.copies.given = copyIdle, map[string]chan<- copyQuestion{}
	n.place()
	n.answers.init()
	seed := sha256.Sum256(secret[:])
	n.signer = signer{secret: secret, key: ed25519.NewKeyFromSeed(seed[:])} // Open puts the node's own key in its place
	n.feeds.init()
	n.ledger = newLedger(n, lg.Ledger(), lg.Feed())
	static := map[[32]byte]proto.Principal{}
	for _, k := range c.AdminKeys {
		static[k] = proto.Principal{Role: proto.RoleAdmin, Key: proto.KeyID(k)}
	}
	refused := map[[32]byte]bool{}
	for _, k := range c.RevokedKeys {
		refused[k] = true
	}
	n.registry = newRegistry(lg.Control(), static, refused, c.Now, c.Logger)
	return n
}

// place notes which lane carries each partition.
func (n *Node) place() {
	for id := range n.config.Lanes {
		for _, p := range partitionsOf(proto.LaneID(id), n.config.Lanes) {
			n.laneIDs[p] = proto.LaneID(id)
		}
	}
}

func (c *Config) storeDir() string { return orJoin(c.StoreDir, c.Dir, "store") }
func (c *Config) logDir() string   { return orJoin(c.LogDir, c.Dir, "log") }

// secretsDir is beside the store where there is no one directory for all.
func (c *Config) secretsDir() string {
	if c.Dir == "" {
		return filepath.Clean(c.StoreDir) + "-secrets"
	}
	return filepath.Join(c.Dir, "secrets")
}

func orJoin(dir, parent, name string) string {
	if dir != "" {
		return dir
	}
	return filepath.Join(parent, name)
}

// hashSecret is the configured secret or the one kept in the data directory, made
// at the first start.
func hashSecret(c Config) (s [16]byte, err error) {
	s, err = storedSecret(c)
	if errors.Is(err, fs.ErrNotExist) {
		rand.Read(s[:])
		err = putSecret(c, "hash.key", []byte(hex.EncodeToString(s[:])))
	}
	return s, err
}

// storedSecret is the same where there must be one.
func storedSecret(c Config) (s [16]byte, err error) {
	if len(c.HashSecret) == 16 {
		return [16]byte(c.HashSecret), nil
	}
	name := filepath.Join(c.secretsDir(), "hash.key")
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return s, errNoSecret(err)
	}
	if err != nil {
		return s, proto.Errorf(proto.CodeUnavailable, "read the hash secret: %w", err)
	}
	s, ok := parseSecret(text)
	if !ok {
		return s, proto.Errorf(proto.CodeCorrupt, "%s must hold 32 hexadecimal digits: put back the file that this data directory was made with", name)
	}
	return s, nil
}

// errNoSecret is of a directory without one of its secrets.
func errNoSecret(err error) error {
	return proto.Errorf(proto.CodeConflict, "the node's secret is not in its directory: give its configuration, which names it, with --config, or put the file back (%w)", err)
}

// parseSecret reads the hash secret as files and backups have it, in hexadecimal digits.
func parseSecret(text []byte) (s [16]byte, ok bool) {
	raw, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(raw) != len(s) {
		return s, false
	}
	return [16]byte(raw), true
}

// writeSynced writes a small file that survives a power cut, whole or not.
func writeSynced(name string, data []byte) error {
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return proto.Errorf(proto.CodeUnavailable, "write %s: %w", name, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		return proto.Errorf(proto.CodeUnavailable, "write %s: %w", name, err)
	}
	return syncDirs(filepath.Dir(name))
}

// makeSynced makes a directory, and those above it that are missing, so that a power
// cut leaves it there.
func makeSynced(dir string) error {
	var above []string // of each that is made; of others it may be one that may not be read
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		above = append(above, filepath.Dir(d))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "cannot make the directory %s: name one where this user may write as data or --data: %w", dir, err)
	}
	return syncDirs(above...)
}

// start opens the lanes and waits until all that is logged is applied.
func (n *Node) start(ctx context.Context) error {
	background, stop := context.WithCancel(context.Background())
	reading, stopRead := context.WithCancel(context.Background())
	n.stop, n.stopRead, n.life, n.started = stop, stopRead, background, n.config.Now().UTC()
	n.system = actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return n.logger }))
	n.done.Go(func() { n.followControl(background) })
	if n.config.Peers != nil {
		if err := n.answerClocks(background); err != nil {
			return err
		}
	}
	n.done.Go(func() { n.keepClock(background) })
	last, err := n.log.Control().Last(ctx)
	if err != nil {
		return err
	}
	if err := n.registry.wait(ctx, last); err != nil {
		return err
	}
	if err := n.checkGlobal(); err != nil {
		return err
	}
	if err := n.ledger.open(ctx); err != nil {
		return err
	}
	count := n.config.Helpers
	if count == 0 {
		count = max(1, cores.Count()/2)
	}
	helpers := actors.NewHelpers(count)
	for id := range n.config.Lanes {
		l, err := n.openLane(ctx, proto.LaneID(id), helpers)
		if err != nil {
			return err
		}
		n.lanes = append(n.lanes, l)
	}
	if err := n.ledger.refill(ctx); err != nil {
		return err
	}
	if err := n.honourLedger(ctx); err != nil {
		return err
	}
	n.registry.watch(n.obeyedByAll)
	if n.config.Peers != nil {
		n.noteIncarnations()
	}
	for _, l := range n.lanes {
		l.run(reading, &n.applying)
	}
	if err := n.alone(ctx); err != nil {
		return err
	}
	n.done.Go(func() { n.ledger.write(background) })
	for _, l := range n.lanes {
		n.done.Go(func() { l.beatWhenCaughtUp(background) })
		for _, upkeep := range []func(context.Context){l.relay, l.fillFromHistory, l.eraseClients, l.expireOld, l.retain} {
			n.done.Go(func() { l.asOwner(background, upkeep) })
		}
		n.done.Go(func() { l.surveyBeside(background) })
		for _, to := range n.lanes {
			if to != l {
				n.done.Go(func() { to.asOwner(background, func(ctx context.Context) { l.relayGraph(ctx, to) }) })
			}
		}
		n.packers = append(n.packers, log.NewPacker(l.stream, log.PackerConfig{Lane: l.id, Producer: newProducer(), Now: n.now}))
	}
	n.done.Go(func() { n.lanes[0].asOwner(background, n.swapVersions) })
	n.done.Go(func() { n.runFeeds(background) })
	n.done.Go(func() { n.recheckKeys(background) })
	n.done.Go(func() { n.lanes[0].asOwner(background, n.cleanAudits) })
	n.done.Go(func() { n.watchDisk(background) })
	n.done.Go(func() { n.lanes[0].asOwner(background, n.workImports) })
	if n.config.Peers != nil {
		if err := errors.Join(n.goOnDraining(), n.answerSettling(background), n.giveCopies(background), n.answerOperators(background)); err != nil {
			return err
		}
		n.done.Go(func() { n.tellPlaced(background) })
		n.done.Go(func() { n.ledger.follow(background) })
		n.done.Go(func() { n.tellReady(background) })
		if n.streams != nil {
			n.done.Go(func() { n.watchStreams(background) })
		}
	}
	if len(n.lanes) > 1 {
		n.done.Go(func() { n.sweepOutboxes(background) })
	}
	if err := n.checkReplayed(ctx); err != nil {
		return err
	}
	if err := n.config.patiently(ctx, func() error { return n.boot(ctx) }); err != nil {
		return err
	}
	if err := n.catchUp(ctx); err != nil {
		return err
	}
	n.ready.Store(true)
	return nil
}

// followControl reads the control stream until ctx ends, or it cannot be followed.
func (n *Node) followControl(ctx context.Context) {
	if err := n.registry.follow(ctx); err != nil {
		n.logger.Error("the control stream can no longer be followed: nothing more is defined, and no key ends", "error", err)
	}
}

// newProducer names one incarnation of a producer of entries.
func newProducer() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

// catchUp waits until each lane has applied what its log held at the start,
// its first beat and all control records.
func (n *Node) catchUp(ctx context.Context) error {
	seq := n.registry.last()
	for _, l := range n.lanes {
		target, err := l.logEnd(ctx)
		if err != nil {
			return err
		}
		err = l.progress.wait(ctx, func(p *progress) bool {
			return p.applied >= target && p.control >= seq && p.beats > 0 && n.mayAnswer(l) == nil
		})
		if err != nil && n.disk.stopped() {
			return errDiskFull // and that is why
		}
		if err != nil {
			return err
		}
	}
	return n.graphAtRest(ctx)
}

// checkReplayed refuses a node alone whose lanes' logs have more control records than
// the control stream, before that gets new ones: the store need not have known.
func (n *Node) checkReplayed(ctx context.Context) error {
	if n.config.Peers != nil {
		return nil
	}
	for _, l := range n.lanes {
		if err := l.reachEndAtStart(ctx); err != nil {
			return err
		}
		if err := l.checkControl(l.progress.obeyed.Load(), ""); err != nil {
			return err
		}
	}
	return nil
}

// logEnd is the lane's last entry in the log now.
func (l *lane) logEnd(ctx context.Context) (proto.Offset, error) {
	info, err := l.stream.Info(ctx)
	return info.Last + proto.Offset(l.base), err
}

// reachEnd returns when the lane has applied what its log holds now.
func (l *lane) reachEnd(ctx context.Context) error {
	end, err := l.logEnd(ctx)
	if err != nil {
		return err
	}
	return l.progress.wait(ctx, func(p *progress) bool { return p.applied >= end })
}

// reachEndAtStart is reachEnd, which says if the disk is too full for it: nobody else does
// yet.
func (l *lane) reachEndAtStart(ctx context.Context) error {
	err := l.reachEnd(ctx)
	if err != nil && l.node.disk.stopped() {
		return errDiskFull
	}
	return err
}

// graphAtRest returns when nothing of the graph is under way between lanes: a
// cut that the log held is carried out everywhere before anything is served.
//
// In a cluster others go on meanwhile, and lanes have always something for one another:
// after some rounds what the log held at the start has long arrived.
func (n *Node) graphAtRest(ctx context.Context) error {
	for rounds := 1; ; rounds++ {
		moved, err := n.handedOver(ctx)
		if !moved || err != nil || n.config.Peers != nil && rounds >= hopsMax {
			return err
		}
	}
}

// handedOver returns when what lanes had for one another has arrived; moved
// tells that there is more since.
func (n *Node) handedOver(ctx context.Context) (moved bool, err error) {
	for _, l := range n.lanes {
		if err := l.progress.wait(ctx, func(p *progress) bool { return !p.carry }); err != nil {
			return false, err
		}
	}
	had := n.handing()
	for from := range n.lanes {
		for to, last := range had[from] {
			if err := n.lanes[to].progress.wait(ctx, func(p *progress) bool { return p.received[from] >= last }); err != nil {
				return false, err
			}
		}
	}
	return slices.ContainsFunc(n.lanes, func(l *lane) bool { return l.progress.carries() }) || !slices.EqualFunc(had, n.handing(), slices.Equal), nil
}

// handing gives each lane's newest batch for each other one.
func (n *Node) handing() [][]uint64 {
	list := make([][]uint64, len(n.lanes))
	for i, l := range n.lanes {
		list[i] = l.outbox.last()
	}
	return list
}

// checkGlobal refuses a store that was made with another secret or number of
// lanes, and marks a new one.
func (n *Node) checkGlobal() error {
	want := globalMark(n.signer.secret, n.config.Lanes)
	if found, err := checkMark(n.store, want); err != nil || found {
		return err
	}
	b := n.store.NewBatch()
	if err := b.Set(globalKey, want); err != nil {
		return err
	}
	return b.Commit()
}

// globalMark is what a store of that secret and number of lanes has.
func globalMark(secret [16]byte, lanes int) []byte {
	h := proto.NewHasher(secret).Hash(secretMark)
	return binary.BigEndian.AppendUint16(h[:], uint16(lanes))
}

// logMark is what a log tells secrets apart by.
func logMark(secret [16]byte) string {
	h := proto.NewHasher(secret).Hash(secretMark)
	return hex.EncodeToString(h[:])
}

// checkMark holds a store's mark, if it has one, against want.
func checkMark(st store.Store, want []byte) (found bool, err error) {
	var got []byte
	snap := st.Snapshot()
	defer snap.Release()
	found, err = snap.Get(globalKey, func(v []byte) error {
		got = append(got, v...)
		return nil
	})
	switch {
	case err != nil || !found:
		return false, err
	case len(got) != 18 || !bytes.Equal(got[:16], want[:16]):
		return true, proto.Errorf(proto.CodeConflict, "the hash secret is not the one that this store was made with: put back secrets/hash.key, or give the configuration with its secret_file")
	case !bytes.Equal(got[16:], want[16:]):
		return true, otherLanes(int(binary.BigEndian.Uint16(got[16:])), int(binary.BigEndian.Uint16(want[16:])))
	}
	return true, nil
}

func otherLanes(stored, configured int) error {
	return proto.Errorf(proto.CodeConflict, "this store has %d lanes, the configuration says %d: the number of lanes is fixed, set it to %d, or make a directory with another number from a backup (`kith restore --lanes`)", stored, configured, stored)
}

// working begins slow work that reads the store: Close ends its context and
// waits for done to be called.
func (n *Node) working(ctx context.Context) (_ context.Context, done func(), err error) {
	if !n.ready.Load() {
		return nil, nil, proto.Errorf(proto.CodeUnavailable, "the node is starting or stopping: try again shortly")
	}
	if err := n.mayAnswerAll(); err != nil {
		return nil, nil, err
	}
	n.slow.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	forget := context.AfterFunc(n.life, cancel)
	return ctx, func() { forget(); cancel(); n.slow.Done() }, nil
}

// Conn is a connection to the NATS that carries the log, for intake and queries over
// NATS; the log has one of its own.
func (n *Node) Conn() *nats.Conn { return n.serviceConn() }

func (n *Node) now() proto.Millis { return proto.MillisOf(n.config.Now()) }

// Close stops the node: intake first, then it applies what was acknowledged,
// then the store and the log are closed. While the disk is too full to write to, the
// store is left as a crash would leave it, and CodeDiskFull says so: the log has all
// that was acknowledged.
func (n *Node) Close() error {
	n.ready.Store(false)
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	var errs []error
	for _, p := range n.packers {
		errs = append(errs, p.Close(ctx))
	}
	n.farewell(ctx)
	if n.stop != nil {
		n.stop()
		n.slow.Wait()
		n.done.Wait()
		n.stopRead()
		n.applying.Wait()
	}
	for _, l := range n.lanes {
		l.shell.Close()
		errs = append(errs, l.seal())
		l.snapshot.Load().release()
	}
	if n.system != nil {
		n.system.Shutdown()
	}
	errs = append(errs, n.log.Close(), n.closeStore())
	return errors.Join(errs...)
}

// closeRoom is more than a store writes when it is closed.
const closeRoom = 256 << 20

// closeStore closes the store, which writes what it has in memory, unless nothing may
// be written and there is no room for that.
func (n *Node) closeStore() error {
	s, ok := n.store.(*store.Badger)
	if !ok || !n.disk.stopped() || n.disk.left() >= closeRoom {
		return n.store.Close()
	}
	s.Leave()
	return proto.Errorf(proto.CodeDiskFull, "the disk is nearly full, the store was left as it is: free space or add disk, then start again; nothing acknowledged is lost")
}
