// Package engine is a node: it takes commands in, makes them durable in the
// log, applies the log to the store through the actors, and answers from what
// it applied.
//
// It guarantees G1 to G5 and G7 of the README for one node: an acknowledged
// command is synced in the log; the state of a lane is a function of its log
// alone, byte for byte; who is cut out of a user leaves it as if never linked;
// an acknowledged opt-out is final, also over a restore; memberships change at
// their time to within a second; every queue is bounded. It does not speak HTTP or NATS to clients (gateway),
// and does not place lanes on nodes (cluster).
//
// # The way of a command
//
//	Submit ─ packer ─ log (JetStream, synced) ─ acknowledged
//	                   │
//	          reader ──┘ checks envelope, sequence, producer
//	             │ entries
//	          stepper: hosts and identity actors take them in,  (lane.go, entry.go)
//	             │     then the graph's supersteps               (graph.go)
//	             │ outcomes
//	          builder: one store batch of whole entries          (build.go)
//	             │ batch
//	          committer: stored, then bitmaps, views, position  (commit.go)
//	             │
//	          relay: graph messages to other lanes' logs (outbox.go); ledger (ledger.go)
//
// Each arrow is a bounded channel. Nothing is published before the store has it. The
// store writes what it has within ten seconds (store.SyncEvery): what a crash takes is
// read from the log again, where it is synced.
//
// # Keys
//
// A new kind of a lane's keys must be known to relanekinds.go, which brings it
// into other lanes.
//
// Numbers are big-endian. L is the lane (1 byte), P the partition (1 byte).
//
//	'G' 's'                                     secret check: hash of a constant; lanes (2 bytes)
//	'L' L 'r'                                   pb.LaneRecord: offset, chain, lane time, ordinals …; in every commit
//	'L' L 'o' ordinal(4)                        space(4), identity: the one place of its string
//	'L' L 'j' number(8) part(4)                 journal: bit deltas of one commit (segments.AppendDeltas)
//	'L' L 'b' client(4) key(4) high(2)          bitmap chunk (roaring), as of the checkpoint or later
//	'L' L 'x' hour(4) number(8)                 exit records due in that hour, of one commit (exits.go)
//	'L' L 'd' client(4) sequence(8)             pb.Control with a Define in force; of two of a name the newer waits
//	'L' L 'v' client(4)                         sequence (8) of the client's last change of rules
//	'L' L 'w' key(4)                            sequence (8) of the Swap by which the definition answers
//	'L' L 'g' key(4)                            how far its fill is (fill.go)
//	'L' L 'k' client(4)                         a client that was ended, and how far its erasure is (clienterase.go)
//	'L' L 'p' client(4)                         for how long a client's data are kept; 0: of those without a record (retention.go)
//	'L' L 'f' client(4)                         whether the client is told of its segments' members (feedrows.go)
//	'L' L 't' client(4) offset(8) number(4)     what its feed was not told yet
//	'L' L 'l' client(4)                         1: something was left out of its feed, and that is still to be told
//	'L' L 'q' offset(8) index(4)                dead letter: time(8), kind(1), partition(1), reason, body; a bounded number (deadletter.go)
//	'L' L 'e'                                   graph.Lane: vector, channels, what is carried over; with number(4) more of that
//	'L' L 's'                                   spaces in which there are nodes, as uvarints
//	'L' L 'm' to(1) number(8)                   graph.Batch on its way to another lane (outbox.go)
//	'L' L 'u' offset(8) number(4)               opt-out not yet told to the ledger and the feed (ledger.go)
//	'L' L 'z' client(4) day(4)                  sizes of the client's segments when the day ended (sizes.go)
//	'L' L 'y' day(4) client(4)                  the client's totals of the day (aggregates.go)
//	'L' L 'a' number(8)                         what one commit adds to totals
//	'L' L 'c'                                   day (4) from which on all events are in the totals; what was moved (aggregates.go)
//	'T' P hash(16)                              identity.OptOut of whoever was ever cut
//	'H' client(4) network(8) space(4) hash(16)  1 (one byte): the client's facts of the node have the network (household.go)
//	'N' P hash(16) generation(2) space(4) 'f'   node: facts, links, what its user comes to (identity.State)
//	'N' P hash(16) generation(2) space(4) 'h' client(4) block(4)   sealed history
//	'N' P hash(16) 0(2) space(4) 'c' member(16) a root's copy of a member (graph.Contribution)
//	'N' P hash(16) 0(2) space(4) 'd'            what is left of an opted-out node (graph.State)
package engine

import (
	"log/slog"
	"time"

	"kith/engine/log"
	"kith/proto"
)

// Config is how a node is run. The zero value of a field takes the default.
type Config struct {
	// Dir holds everything; LogDir and StoreDir may put the log and the store
	// on disks of their own, which uncouples their syncs.
	Dir, LogDir, StoreDir string
	// Node is the node's stable name. Default "kith-1".
	Node string
	// Lanes is fixed when the directory is made. Default 1. Restore takes no
	// notice of it.
	Lanes int
	// NATSURL uses an external NATS; NATSListen opens the embedded one to
	// clients.
	NATSURL, NATSListen string
	// Cluster joins the embedded NATS with those of other nodes, and Peers are
	// these nodes; nil: the node is alone.
	Cluster *log.Cluster
	Peers   Peers
	// Begin is asked before the node's first beat: an error says that another
	// process has its name, and this one is to end. Nil: there is none.
	Begin func() error
	// NATSAuthorize decides about network clients of NATSListen.
	NATSAuthorize func(log.Credentials) (log.Grant, bool)
	// LogRetention is how long applied entries stay in the log. Default 24 h.
	LogRetention time.Duration
	// LogBytesMax bounds each lane's stream. Default: derived from the disk.
	LogBytesMax int64
	// ActiveMax bounds the identity actors in memory. Default 200,000.
	ActiveMax int
	// ActiveIdle is after which an unused actor goes too. Default 5 minutes.
	ActiveIdle time.Duration
	// ViewsMax bounds the read views in memory. Default 500,000.
	ViewsMax int
	// Helpers is how many goroutines may help those of the lanes to run hosts;
	// negative: none. Default half of the cores.
	Helpers int
	// HashSecret keys identity hashes. Default: made at the first start, kept
	// in Dir/secrets. Whoever keeps the opt-out ledger must keep it too.
	HashSecret []byte
	// CheckTables verifies every table of the store at start.
	CheckTables bool
	// RebaseLog accepts, at this start only, a log that does not go with the
	// store: the store stays as it is and what only the old log held is given up.
	RebaseLog bool
	// Ledger is for Restore: the ledger of opt-outs up to now, as a file that
	// WriteLedger wrote or the data directory that the node had.
	Ledger string
	// AcceptLostOptOuts lets Restore go on without it: whoever opted out since
	// the backup is known again.
	AcceptLostOptOuts bool
	// ForCluster has Restore make the directory of a node of a cluster, and CheckReceipt
	// take it for one.
	ForCluster bool
	// RestoreLanes is for Restore: how many lanes the directory is to have. 0: as
	// many as the backup's.
	RestoreLanes int
	// AdminKeys are SHA-256 hashes of keys that may do anything.
	AdminKeys [][32]byte
	// Retention is for how long data are kept, unless Clients says otherwise for
	// a client. It is written to the control stream, and is to be the same on all
	// nodes. Nil: as it was.
	Retention *RetentionConfig
	// Feeds are the clients with a feed of memberships. It is kept likewise. Nil:
	// as it was.
	Feeds *FeedConfig
	// AuditRetention is for how long lines of the audit log are kept; 0: as long as
	// there is room.
	AuditRetention time.Duration
	// SegmentsMax is how many segments single clients may have, by name; 0, or not
	// there: 20,000.
	SegmentsMax map[proto.ClientName]int
	// Boot are clients with keys that must exist once the node is open, as they are here.
	Boot []BootKey
	// RevokedKeys are SHA-256 hashes of keys that must not open anything once it is.
	RevokedKeys [][32]byte
	// DiskReserve is refused to events: with less free, intake answers
	// CodeDiskFull; with a quarter of it free nothing is written at all.
	// Default 256 MiB; on disks under 2 GiB an eighth, at least 48 MiB; where over
	// 8 GiB are free on the store's disk at the start there, besides, the 2.5 GiB that
	// the store's merges may take.
	DiskReserve uint64
	// SmallStore has the store use files and tables in memory of 16 MB instead of
	// 64, as it does on disks under 2 GiB: it opens sooner.
	SmallStore bool
	// Logger takes what operators should know. Default: none.
	Logger *slog.Logger
	// Now is the wall clock. Default time.Now.
	Now func() time.Time

	merges uint64 // by the disk; set where the store is opened
}

// RetentionConfig is for how long data are kept; 0 is for ever.
type RetentionConfig struct {
	Sessions time.Duration // events
	Idle     time.Duration // identities without events
	// Aggregates is for how long daily totals are; they name nobody.
	Aggregates time.Duration
	Clients    map[proto.ClientName]time.Duration
}

// FeedConfig says which clients are told who enters and leaves their segments.
type FeedConfig struct {
	Clients map[proto.ClientName]bool
	// BacklogBytesMax is how much a lane keeps for a client that its feed was not told
	// yet. 0: 64 MiB.
	BacklogBytesMax int
}

// BootKey is a client with a key, by the key's SHA-256.
type BootKey struct {
	Client proto.ClientName
	Role   proto.Role
	SHA256 [32]byte
}

// Validate fills in defaults and reports the first thing that is wrong.
func (c *Config) Validate() error {
	setDefault(&c.Node, "kith-1")
	setDefault(&c.Lanes, 1)
	setDefault(&c.LogRetention, 24*time.Hour)
	setDefault(&c.ActiveMax, 200_000)
	setDefault(&c.ActiveIdle, 5*time.Minute)
	setDefault(&c.ViewsMax, 500_000)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	switch {
	case c.Dir == "" && (c.LogDir == "" || c.StoreDir == ""):
		return proto.Errorf(proto.CodeInvalid, "no data directory: set one, such as ./kith-data")
	case !proto.ValidName(c.Node):
		return proto.Errorf(proto.CodeInvalid, "node name %q is not valid: use 1 to 64 of A-Z a-z 0-9 _ - .", c.Node)
	case c.Lanes < 1 || c.Lanes > proto.LanesMax:
		return proto.Errorf(proto.CodeInvalid, "lanes is %d: use 1 to %d", c.Lanes, proto.LanesMax)
	case c.RestoreLanes < 0 || c.RestoreLanes > proto.LanesMax:
		return proto.Errorf(proto.CodeInvalid, "a restore cannot make %d lanes: use 1 to %d", c.RestoreLanes, proto.LanesMax)
	case c.LogRetention < time.Second:
		return proto.Errorf(proto.CodeInvalid, "log retention %v is too short: use at least 1s", c.LogRetention)
	case c.ActiveMax < proto.Partitions:
		return proto.Errorf(proto.CodeInvalid, "active identities are bounded to %d: use at least %d", c.ActiveMax, proto.Partitions)
	case (c.Cluster == nil) != (c.Peers == nil) && c.NATSURL == "":
		return proto.Errorf(proto.CodeInternal, "a node of a cluster needs both its log's and its members' configuration")
	case c.Peers != nil && c.RebaseLog:
		return proto.Errorf(proto.CodeInvalid, "a node of a cluster does not rebase a log: each store would go on with it from a place of its own. Where another node's store goes with the log, empty this one's store directory: it copies that. Else see \"A log that lost entries\" in docs/operations.md")
	case c.Peers != nil && len(c.HashSecret) == 0:
		return proto.Errorf(proto.CodeInvalid, "the nodes of a cluster need the key of identity hashes in common: give all the same secret_file")
	case len(c.HashSecret) != 0 && len(c.HashSecret) != 16:
		return proto.Errorf(proto.CodeInvalid, "the hash secret has %d bytes: use 16", len(c.HashSecret))
	}
	return nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
