package gateway

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kith/internal/exports"
	"kith/proto"
)

// Result and View are answers of the rooms behind the gateway, by the names
// that it has for them.
type (
	Result = proto.Submitted
	View   = proto.Seen
)

// Intake makes commands durable. Its methods may run concurrently.
type Intake interface {
	// Submit returns once every command of b is durable or has failed. Whoever
	// submitted retries; Submit does not beyond its own bound. b may be reused
	// once it returned.
	Submit(ctx context.Context, b *proto.Batch) Result
	// Hasher gives identities their home. It is the same for the node's life.
	Hasher() proto.Hasher
}

// Memberships answers from read views. Its methods may run concurrently, and
// none of them writes.
type Memberships interface {
	// Lookup appends the ids of the segments of client that id is in at now to
	// dst, which the caller may reuse. The ids need no JSON escaping. id may
	// alias a buffer that the caller reuses: Lookup must not keep it.
	Lookup(client proto.ClientInfo, id proto.Identity, now proto.Millis, dst []proto.SegmentID) (View, []proto.SegmentID, error)
	// Seen is Lookup without the segments.
	Seen(client proto.ClientInfo, id proto.Identity) (View, error)
	// Wait returns once all of p is applied and published, or ctx is done.
	Wait(ctx context.Context, p proto.Position) error
	// Count sizes an audience expression. The gateway applies the floor.
	Count(ctx context.Context, client proto.ClientInfo, expr, unit string) (proto.Count, error)
	// Explain says why id is in the segment at a time, or not.
	Explain(ctx context.Context, client proto.ClientInfo, id proto.Identity, segment proto.SegmentID, at time.Time) (proto.Explanation, error)
	// OpenRecord is everything that client holds of id, but for its events, which may be
	// many: next gives them, nil if there are none. It may be left unread.
	OpenRecord(ctx context.Context, client proto.ClientInfo, id proto.Identity) (record proto.IdentityRecord, next proto.NextEvents, err error)
}

// Definitions are a client's segments.
type Definitions interface {
	// Define makes or replaces a segment and returns when all lanes obey it.
	Define(ctx context.Context, client proto.ClientInfo, s proto.SegmentSpec) (proto.SegmentSpec, error)
	// Preview says what Define would change, and changes nothing; what Define
	// would refuse is refused.
	Preview(ctx context.Context, client proto.ClientInfo, s proto.SegmentSpec) (proto.SegmentPreview, error)
	// Undefine drops one. CodeNotFound if there is none.
	Undefine(ctx context.Context, client proto.ClientInfo, id proto.SegmentID) error
	Segment(client proto.ClientInfo, id proto.SegmentID) (proto.SegmentSpec, bool)
	// Segments are all of the client's, by id.
	Segments(client proto.ClientInfo) []proto.SegmentSpec
}

// Rules reads rules. Its methods may run concurrently.
type Rules interface {
	// RuleMentions is what a rule looks at. CodeRule if it does not parse.
	RuleMentions(when string) ([]proto.RuleMention, error)
}

// Audiences are questions about how many. Its methods may run concurrently. The
// gateway applies the floor, but for Report.
type Audiences interface {
	// Counts sizes several expressions, by identities as of one moment of each
	// lane.
	Counts(ctx context.Context, client proto.ClientInfo, exprs []string, unit string) (proto.Counts, error)
	// Overlap counts who is in each of rows and of columns; nil columns are rows.
	Overlap(ctx context.Context, client proto.ClientInfo, rows, columns []proto.SegmentID, unit string) (proto.Overlap, error)
	// Report counts for report keys: rounded, frozen for the day, and refused
	// with CodeFloor where two answers would tell of fewer people than floor.
	// What it answers is durable before; asked again it answers the same, so
	// whoever asked may retry.
	Report(ctx context.Context, client proto.ClientInfo, expr, unit string, floor int) (proto.Count, error)
	// Sizes are a segment's at the end of each day from first to last.
	Sizes(client proto.ClientInfo, id proto.SegmentID, first, last proto.Day) ([]proto.DaySize, error)
}

// Campaigns are reports and totals that name nobody. Its methods may run
// concurrently, and apply the floor themselves: 0 is none.
type Campaigns interface {
	// CampaignReport goes through what is kept of the client's events; it ends
	// when ctx does, and one at a time is made. CodeFloor where it and an earlier
	// one would tell of fewer people than the floor.
	CampaignReport(ctx context.Context, client proto.ClientInfo, r *proto.CampaignRequest, floor int) (proto.CampaignReport, error)
	// Aggregates are the totals of each day from first to last, by "event" or
	// "campaign".
	Aggregates(ctx context.Context, client proto.ClientInfo, by string, first, last proto.Day, floor int) (proto.Aggregates, error)
	// Leakage goes through the same events for the third parties that the
	// client's tags saw in the last days. Whether one is allowed is left open.
	Leakage(ctx context.Context, client proto.ClientInfo, days, floor int) (proto.Leakage, error)
}

// SavedAudiences are a client's expressions by name, which others may name.
type SavedAudiences interface {
	// SaveAudience makes or replaces one and returns when that is durable.
	// CodeNotFound if it names what is not there, CodeExpr if itself.
	SaveAudience(ctx context.Context, client proto.ClientInfo, s proto.AudienceSpec) (proto.AudienceSpec, error)
	// DropAudience forgets one. CodeNotFound if there is none, CodeConflict if
	// another one names it.
	DropAudience(ctx context.Context, client proto.ClientInfo, id proto.AudienceID) error
	SavedAudience(client proto.ClientInfo, id proto.AudienceID) (proto.AudienceSpec, bool)
	// SavedAudiences are all of the client's, by id.
	SavedAudiences(client proto.ClientInfo) []proto.AudienceSpec
}

// Accounts are clients and their keys.
type Accounts interface {
	// Authenticate is on every request's way: it must be cheap.
	Authenticate(key string) (proto.Principal, bool)
	Client(name proto.ClientName) (proto.ClientInfo, bool)
	Clients() []proto.ClientInfo
	// CreateKey makes a key, and the client if it is new. It returns when the
	// key is durable; the key is not kept and cannot be shown again.
	CreateKey(ctx context.Context, name proto.ClientName, role proto.Role, space string) (key string, err error)
}

// Holdings are all that one client holds: its account, segments, and what it
// knows of identities. Its methods may run concurrently.
type Holdings interface {
	// ExportClient writes all of it as lines of JSON, the last of which says that
	// it is whole. What changes meanwhile may be there or not; an identity that
	// opts out is not told once that is acknowledged. Whoever wants it again
	// begins anew.
	ExportClient(ctx context.Context, client proto.ClientInfo, w io.Writer) error
	// EraseClient ends the client, which is durable and in force when it
	// returns, and begins to erase what it knows; that goes on by itself, over
	// restarts. Called again it says how far that is, until there is a new
	// client of the name, which it would end. CodeNotFound if there is none and
	// was none.
	EraseClient(ctx context.Context, name proto.ClientName) (proto.ClientErasure, error)
	// ClientErasure is how far the newest erasure of a client of the name is.
	ClientErasure(name proto.ClientName) (proto.ClientErasure, bool)
}

// Operations are for those who run the node.
type Operations interface {
	// Ready is nil when queries will be answered, Live when the process works or a
	// restart would mend nothing.
	Ready() error
	Live() error
	Lanes() []proto.LaneStatus
	// DeadLetters are the newest set-aside commands, at most limit.
	DeadLetters(ctx context.Context, limit int) ([]proto.DeadLetter, error)
	// Replay submits one again. CodeNotFound if there is none.
	Replay(ctx context.Context, id string) error
}

// Cluster is the nodes and what is done with them.
type Cluster interface {
	// ClusterStatus is how nodes and log are, as far as is known and others
	// answer within a second.
	ClusterStatus(ctx context.Context) proto.ClusterStatus
	// Drain has others take over from a node, or ends that, and returns when they
	// have. CodeNotFound, CodeConflict if nobody else is ready, CodeTimeout.
	Drain(ctx context.Context, node string, drain bool) error
	// Place names a lane's owner; none: as the order of placement has it.
	Place(ctx context.Context, lane proto.LaneID, node string) error
	// Forget gives up a node that is gone for good. CodeConflict while it runs.
	Forget(ctx context.Context, node string) error
}

// Maintenance is the slow work on a whole node.
type Maintenance interface {
	// Backup streams a consistent copy of the node's data to w.
	Backup(ctx context.Context, w io.Writer) error
	// Verify recomputes what is derived and compares; its report is written as
	// JSON.
	Verify(ctx context.Context) (report any, err error)
}

// Exports gives whole audiences out. Its methods may run concurrently.
type Exports interface {
	// OpenAudience takes an audience out as it is now: the caller closes its
	// names, and bounds how many are open. It does not change meanwhile, whatever
	// is applied; whoever opts out later is told of by the next delta. With
	// r.Since each lane says who is known, and CodeConflict is the answer where
	// the earlier export's numbers are others. The gateway applies the floor.
	OpenAudience(ctx context.Context, client proto.ClientInfo, r *proto.ExportRequest) (*exports.Audience, error)
}

// Imports are a client's own lists on their way to a segment. Its methods may run
// concurrently. To a client another one's imports do not exist: CodeNotFound.
type Imports interface {
	// BeginImport opens an import and returns when that is durable; one of the same
	// segment that still takes rows is given up.
	BeginImport(ctx context.Context, client proto.ClientInfo, x proto.ImportSpec) (proto.Import, error)
	// AddToImport makes rows durable, which are commands that set
	// proto.StagedTrait. Rows may come twice; whoever sent them retries.
	// CodeConflict if the import takes none any more.
	AddToImport(ctx context.Context, client proto.ClientInfo, number uint64, b *proto.Batch) (proto.Submitted, error)
	// CommitImport has the import judged, and its list activated if that matches
	// floor people. It returns with the end of that, or with how far it is if it
	// takes longer; it goes on by itself. Asked again it says what became of it.
	CommitImport(ctx context.Context, client proto.ClientInfo, number uint64, floor int) (proto.Import, error)
	// EndImport gives one up that was not committed. One that ended without an
	// effect stays so; any other is CodeConflict.
	EndImport(ctx context.Context, client proto.ClientInfo, number uint64) error
	// Imports are all of the client's, newest first.
	Imports(client proto.ClientInfo) []proto.Import
}

// Feeds are what clients that asked are told of who enters and leaves their
// segments. Its methods may run concurrently.
type Feeds interface {
	// FeedPage is what is kept of a client's feed behind a message, at most limit
	// messages. CodeNotFound if the client did not ask.
	FeedPage(ctx context.Context, client proto.ClientInfo, after uint64, limit int) (proto.FeedPage, error)
	// FeedExists is CodeNotFound if the client did not ask.
	FeedExists(client proto.ClientInfo) error
	// FeedName is what the client's feed calls an identity, whether anything is
	// known of it or not.
	FeedName(client proto.ClientInfo, id proto.Identity) string
}

// Audit is the audit log. Its methods may run concurrently.
type Audit interface {
	// AppendAudit returns when all lines of the batch are durable, or with the reason
	// why not; the batch says which are. It may be given again.
	AppendAudit(ctx context.Context, b *proto.AuditBatch) error
	// AuditPage is what is kept, by what is asked.
	AuditPage(ctx context.Context, q proto.AuditQuery) (proto.AuditPage, error)
}

// Graph is which identities are one person's.
type Graph interface {
	// Link returns with the final decision; CodeTimeout if ctx ends before.
	// Whoever asks again after that gets the decision of then.
	Link(ctx context.Context, client proto.ClientInfo, l proto.Link) (proto.Linked, error)
	// Unlink removes the edge between a and b, whoever made it, and returns
	// when that is durable; with an empty b, every edge of a that the client
	// vouches for. The position is what a query may wait for.
	Unlink(ctx context.Context, client proto.ClientInfo, a, b proto.Identity) (proto.Position, error)
	// User is who id is one person with; itself alone if with nobody. It says nothing
	// of households.
	User(ctx context.Context, client proto.ClientInfo, id proto.Identity) (proto.User, error)
	// Household is which devices of others the members of a user share networks with.
	// It is read from the facts of both ends as they are now.
	Household(ctx context.Context, client proto.ClientInfo, members []proto.Identity, rule proto.HouseholdRule) ([]proto.HouseholdEdge, error)
}

// OptOuts take identities out, in every space, for all clients.
type OptOuts interface {
	// OptOut cuts id out, with everywhere the other identities of its users too.
	// It returns with the receipt, or without one and Final false if that takes
	// over two seconds; nothing of id is shown by then. Every call is a new
	// opt-out with a receipt of its own, which counts what was done in the space of by,
	// a client; without one, in all.
	OptOut(ctx context.Context, by proto.ClientInfo, id proto.Identity, everywhere bool) (proto.OptOutState, error)
	// OptOutAll is the same for many at once, each with its own state, in their
	// order; one that is there several times may be opted out once. An error means that some may be opted out and some not: ask again.
	OptOutAll(ctx context.Context, by proto.ClientInfo, ids []proto.Identity, everywhere bool) ([]proto.OptOutState, error)
	// OptIn lets an opted-out identity be known again, from nothing.
	// CodeConflict if it is not opted out.
	OptIn(ctx context.Context, by proto.ClientInfo, id proto.Identity) (proto.OptOutState, error)
	// OptOutState is how far the newest opt-out of id is.
	OptOutState(ctx context.Context, id proto.Identity) (proto.OptOutState, error)
	// OptOutStateFor is the same as a client is told it: what that client itself had
	// erased counts too, and what others had does not. Its receipt counts what was done
	// in the client's space.
	OptOutStateFor(ctx context.Context, client proto.ClientInfo, id proto.Identity) (proto.OptOutState, error)
	// Keeps reports whether anything is kept of id in any space, be it that it was
	// cut out before; an error where this node may not answer for it. What was taken
	// in a moment ago need not count yet.
	Keeps(id proto.Identity) (bool, error)
	// Erase forgets id without an opt-out: everything in every space, or, with
	// a client that is not nil, what that client knows.
	Erase(ctx context.Context, client *proto.ClientInfo, id proto.Identity) (proto.OptOutState, error)
	// ReceiptKey is the hexadecimal Ed25519 public key of this node's receipts.
	ReceiptKey() string
	// CheckReceipt looks for what the receipt says is gone, of everybody and everything:
	// others wait meanwhile. by is whose key asks, 0 for operators.
	CheckReceipt(ctx context.Context, by proto.ClientID, r proto.Receipt) (proto.ReceiptCheck, error)
	// EraseBytes removes the bytes of everything purged, log included.
	EraseBytes(ctx context.Context) (proto.Erased, error)
	// WriteLedger writes the ledger of opt-outs, which a restore needs.
	WriteLedger(ctx context.Context, w io.Writer) error
}

// Dependencies are the rooms behind the gateway.
type Dependencies struct {
	Intake      Intake
	Memberships Memberships
	Definitions Definitions
	Audiences   Audiences
	Saved       SavedAudiences
	Campaigns   Campaigns
	Accounts    Accounts
	Holdings    Holdings
	Operations  Operations
	Graph       Graph
	OptOuts     OptOuts
	Maintenance Maintenance // optional: without it those routes are 404
	Exports     Exports     // optional likewise
	Imports     Imports     // optional likewise
	Cluster     Cluster     // optional likewise
	Others      Others      // optional: without it nothing is passed on
	Feeds       Feeds       // optional likewise
	Audit       Audit       // optional likewise: then no call is kept
	Rules       Rules       // optional: without it rules may look at anything

	Registry *prometheus.Registry // optional: for the gateway's metrics and /metrics
	Log      *slog.Logger         // optional: for what no caller is told
}
