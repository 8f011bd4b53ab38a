package proto

import "time"

// Role is what a service key may do.
type Role string

// The roles. A client key reads and writes its own client, a report key sees
// counts only, an admin key names the client in each request.
const (
	RoleClient Role = "client"
	RoleReport Role = "report"
	RoleAdmin  Role = "admin"
)

// ParseRole reads a role's name.
func ParseRole(s string) (Role, error) {
	switch r := Role(s); r {
	case RoleClient, RoleReport, RoleAdmin:
		return r, nil
	}
	return "", Errorf(CodeInvalid, "role %q is unknown: use client, report or admin", clip(s))
}

// ClientInfo is what the rooms need to know of a client.
type ClientInfo struct {
	ID    ClientID   `json:"-"`
	Name  ClientName `json:"name"`
	Space SpaceID    `json:"-"`
	Floor int        `json:"floor"` // least count that its keys may see
}

// Retention is for how long data are kept; 0 is for ever.
type Retention struct {
	Sessions Millis // events
	Idle     Millis // identities without events; the same for all clients
}

// KeyInfo is what may be told of a service key.
type KeyInfo struct {
	Role    Role      `json:"role"`
	Note    string    `json:"note"` // its first characters
	Created time.Time `json:"created"`
}

// ClientErasure is how far the erasure of an ended client is.
type ClientErasure struct {
	Client ClientName `json:"client"`
	Erased bool       `json:"erased"` // nothing of it is left
	Left   uint64     `json:"left"`   // identities that it is still to be taken from
	Lanes  Answered   `json:"lanes"`  // gone through
}

// Principal is who a service key speaks for.
type Principal struct {
	Role   Role
	Client ClientName // empty for RoleAdmin
}

// SegmentSpec is a segment's definition as the API takes and gives it.
type SegmentSpec struct {
	ID       SegmentID `json:"id"`
	Scope    string    `json:"scope,omitempty"` // identity or user
	When     string    `json:"when"`
	Backfill bool      `json:"backfill"`
	// Set in answers only.
	Version SegmentKey `json:"version,omitempty"`
	Size    *uint64    `json:"size,omitempty"`
	Filled  *bool      `json:"filled,omitempty"` // history has been gone through
	// Progress is the share of identities whose history has been gone through,
	// in hundredths rounded down; absent once all has been.
	Progress *float64 `json:"progress,omitempty"`
}

// SegmentPreview is what a definition would change, in identities. Without
// Exact it was judged of some of them, drawn evenly, and the numbers are scaled.
type SegmentPreview struct {
	ID         SegmentID `json:"id"`
	Identities *uint64   `json:"identities"` // of which the client holds facts; this and the others nil when under the floor
	Before     *uint64   `json:"before"`     // in the segment now
	After      *uint64   `json:"after"`
	Entering   *uint64   `json:"entering"`
	Leaving    *uint64   `json:"leaving"`
	Below      int       `json:"below,omitempty"` // the floor
	Judged     uint64    `json:"judged"`          // identities that were looked at
	Exact      bool      `json:"exact"`
}

// Answered tells how much of the hash space an answer covers.
type Answered struct {
	Answered int `json:"answered"`
	Of       int `json:"of"`
}

// Count is the size of an audience.
type Count struct {
	Count      *uint64  `json:"count"`           // nil when under the floor
	Below      int      `json:"below,omitempty"` // the floor
	Exact      bool     `json:"exact"`
	Rounded    int      `json:"rounded,omitempty"` // to multiples of this, for report keys
	Day        string   `json:"day,omitempty"`     // on which the count was frozen, for report keys
	Partitions Answered `json:"partitions"`
}

// Counts are the sizes of several audiences, in the order asked for.
type Counts struct {
	Counts     []ExprCount `json:"counts"`
	Exact      bool        `json:"exact"`
	Partitions Answered    `json:"partitions"`
}

// ExprCount is the size of one of several audiences.
type ExprCount struct {
	Expr  string  `json:"expr"`
	Count *uint64 `json:"count"`           // nil when under the floor
	Below int     `json:"below,omitempty"` // the floor
}

// Overlap says how many are in each of Segments and each of Against, row by
// row. Without Against it is of Segments among themselves, with their sizes on
// the diagonal.
type Overlap struct {
	Segments   []SegmentID `json:"segments"`
	Against    []SegmentID `json:"against,omitempty"`
	Counts     [][]*uint64 `json:"counts"`          // nil when under the floor
	Below      int         `json:"below,omitempty"` // the floor, where some are nil
	Exact      bool        `json:"exact"`
	Partitions Answered    `json:"partitions"`
}

// AudienceSpec is a saved audience.
type AudienceSpec struct {
	ID          AudienceID `json:"id"`
	Expr        string     `json:"expr"`
	Description string     `json:"description,omitempty"`
}

// DaySize is how many identities were in a segment when a day ended.
type DaySize struct {
	Day        Day       `json:"day"`
	Identities *uint64   `json:"identities"`           // nil when under the floor
	Below      int       `json:"below,omitempty"`      // the floor
	SoFar      bool      `json:"so_far,omitempty"`     // the day has not ended
	Partitions *Answered `json:"partitions,omitempty"` // where not all know the day
}

// Explanation says why an identity is in a segment, or not.
type Explanation struct {
	Identity Identity          `json:"identity"`
	Segment  SegmentID         `json:"segment"`
	When     string            `json:"when"`
	In       bool              `json:"in"`
	At       time.Time         `json:"at"`
	Entered  *time.Time        `json:"entered,omitempty"` // when it last became true, of a member
	Changes  *time.Time        `json:"changes,omitempty"` // when time alone changes it next
	Facts    []ExplanationFact `json:"facts"`
}

// ExplanationFact is one part of a rule with the value it has.
type ExplanationFact struct {
	Expr   string      `json:"expr"`
	Value  any         `json:"value"`
	Holds  bool        `json:"holds"`
	Events []time.Time `json:"events,omitempty"` // newest first, those that decide
}

// DeadLetter is a command that made an identity's step fail.
type DeadLetter struct {
	ID       string    `json:"id"` // lane:offset:index
	Offset   Offset    `json:"offset"`
	Index    int       `json:"index"`
	Lane     LaneID    `json:"lane"`
	Time     time.Time `json:"time"`
	Reason   string    `json:"reason"`
	Replayed bool      `json:"replayed"`
}

// LaneStatus is a lane as operators see it.
type LaneStatus struct {
	Lane        LaneID  `json:"lane"`
	Applied     Offset  `json:"applied"`
	Logged      Offset  `json:"logged"`
	First       Offset  `json:"first"` // oldest entry still in the log
	Chain       string  `json:"chain"`
	LaneTime    string  `json:"lane_time"`
	Identities  uint64  `json:"identities"`
	Active      int     `json:"active"` // identity actors in memory
	Partitions  []int   `json:"partitions"`
	Owner       string  `json:"owner"`
	Quarantined string  `json:"quarantined,omitempty"` // why it stopped
	LagSeconds  float64 `json:"lag_seconds"`
}

// HistoryEvent is one stored event in the answer to an access request.
type HistoryEvent struct {
	Time  time.Time      `json:"time"`
	Event string         `json:"event"`
	URL   string         `json:"url,omitempty"`
	Ref   string         `json:"ref,omitempty"`
	Props map[string]any `json:"props,omitempty"`
}

// IdentityRecord is everything held of an identity for one client.
type IdentityRecord struct {
	Identity  Identity       `json:"identity"`
	Known     bool           `json:"known"`
	OptedOut  bool           `json:"opted_out"`
	FirstSeen *time.Time     `json:"first_seen,omitempty"`
	LastSeen  *time.Time     `json:"last_seen,omitempty"`
	Traits    map[string]any `json:"traits,omitempty"`
	Segments  []SegmentID    `json:"segments"`
	Events    []HistoryEvent `json:"events"`
	Truncated bool           `json:"truncated"` // older events were dropped at the bound
}

// Submitted tells what became of a submitted batch.
type Submitted struct {
	Position Position // where the durable commands lie
	Failed   []int    // indexes in the batch that are NOT durable; nil for none
	Err      error    // why, for all of Failed
}

// Seen is what a look-up says of an identity beside its segments.
type Seen struct {
	Known    bool // this client holds facts of it
	OptedOut bool
}
