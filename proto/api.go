package proto

import (
	"context"
	"time"
)

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
	Sessions   Millis // events
	Idle       Millis // identities without events; the same for all clients
	Aggregates Millis // daily totals that name nobody; the same for all clients
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

// CampaignRequest is what a campaign report is about.
type CampaignRequest struct {
	Campaign   string `json:"campaign"`             // the value of the events' property campaign
	Impression string `json:"impression,omitempty"` // the events' names; default impression and click
	Click      string `json:"click,omitempty"`
	Conversion string `json:"conversion,omitempty"` // a condition on one event; default event.name == "conversion"
	Window     string `json:"window,omitempty"`     // after an impression or click, in which an event converts; default 7d
	From       Day    `json:"from"`
	To         Day    `json:"to"`
	Unit       string `json:"unit,omitempty"` // identities or users
	By         string `json:"by,omitempty"`   // a property of impressions and clicks
}

// CampaignCounts are numbers of events and, beside them, of how many identities or
// users. What is null is of too few people.
type CampaignCounts struct {
	Impressions *uint64 `json:"impressions"`
	Reach       *uint64 `json:"reach"` // who had impressions
	Clicks      *uint64 `json:"clicks"`
	Clickers    *uint64 `json:"clickers"`
	Conversions *uint64 `json:"conversions"`
	Converters  *uint64 `json:"converters"`
}

// CampaignReport is what became of a campaign.
type CampaignReport struct {
	Campaign string `json:"campaign"`
	From     Day    `json:"from"`
	To       Day    `json:"to"`
	Unit     string `json:"unit"`
	CampaignCounts
	ClickThrough *float64        `json:"click_through"` // clicks by impressions
	Frequency    []FrequencyBin  `json:"frequency"`
	Days         []CampaignDay   `json:"days"`
	By           string          `json:"by,omitempty"`
	Values       []CampaignValue `json:"values,omitempty"`
	Other        *CampaignCounts `json:"other,omitempty"`      // of values that are not shown, or none
	Below        int             `json:"below,omitempty"`      // what is null, or joined with others, is of fewer people
	Truncated    bool            `json:"truncated,omitempty"`  // of some the oldest events were dropped
	KeptSince    *Day            `json:"kept_since,omitempty"` // what is older is not kept
	Exact        bool            `json:"exact"`
	Time         time.Time       `json:"time"`
	Position     string          `json:"position"`
	Partitions   Answered        `json:"partitions"`
}

// FrequencyBin is how many had so many impressions.
type FrequencyBin struct {
	From   int    `json:"from"`
	To     int    `json:"to,omitempty"` // none: or more
	People uint64 `json:"people"`
}

// CampaignDay is one day of a report.
type CampaignDay struct {
	Day Day `json:"day"`
	CampaignCounts
}

// CampaignValue is one value of the property asked for.
type CampaignValue struct {
	Value string `json:"value"`
	CampaignCounts
}

// Aggregates are a client's totals of days, which name nobody.
type Aggregates struct {
	By         string         `json:"by"` // event or campaign
	Days       []AggregateDay `json:"days"`
	Below      int            `json:"below,omitempty"` // some are of fewer identities, and are null or in other
	Partitions Answered       `json:"partitions"`
}

// AggregateDay is a day's totals. What is null is of too few identities.
type AggregateDay struct {
	Day           Day              `json:"day"`
	SoFar         bool             `json:"so_far,omitempty"` // it has not ended
	Events        *uint64          `json:"events,omitempty"` // by event
	NewIdentities *uint64          `json:"new_identities"`
	Names         []AggregateName  `json:"names,omitempty"`
	Other         *AggregateCounts `json:"other,omitempty"` // without a name of its own, or of few
}

// AggregateName is the totals of one name.
type AggregateName struct {
	Name string `json:"name"`
	AggregateCounts
}

// AggregateCounts are by event the count, by campaign the others.
type AggregateCounts struct {
	Count       *uint64 `json:"count,omitempty"`
	Impressions *uint64 `json:"impressions,omitempty"`
	Clicks      *uint64 `json:"clicks,omitempty"`
	Conversions *uint64 `json:"conversions,omitempty"`
}

// Principal is who a service key speaks for.
type Principal struct {
	Role   Role
	Client ClientName // empty for RoleAdmin
	Key    string     // first digits of the key's SHA-256; empty without a key
}

type asksForItself struct{}

// ForItself marks what a client asks for with a key of its own: it is counted
// against what the client may do.
func ForItself(ctx context.Context) context.Context {
	return context.WithValue(ctx, asksForItself{}, true)
}

// AsksForItself reports whether ForItself marked ctx.
func AsksForItself(ctx context.Context) bool { return ctx.Value(asksForItself{}) != nil }

// SegmentSpec is a segment's definition as the API takes and gives it.
type SegmentSpec struct {
	ID       SegmentID `json:"id"`
	Scope    string    `json:"scope,omitempty"` // identity or user
	When     string    `json:"when"`
	Backfill bool      `json:"backfill"`
	// Set in answers only.
	Version SegmentKey `json:"version,omitempty"`
	Size    *uint64    `json:"size,omitempty"`
	Below   int        `json:"below,omitempty"`  // the size is left out, and is less than this
	Filled  *bool      `json:"filled,omitempty"` // history has been gone through
	// How much of it, from 0 to 1, until it is filled.
	Progress *float64     `json:"progress,omitempty"`
	Next     *SegmentNext `json:"next,omitempty"`
	// Cost is how many steps an event may take at most to look ahead to when time alone
	// changes the rule's value, with all that it reaches by member().
	Cost int `json:"cost,omitempty"`
}

// SegmentNext is the version of a segment that is being filled from history, and
// answers after that.
type SegmentNext struct {
	Scope    string     `json:"scope"`
	When     string     `json:"when"`
	Version  SegmentKey `json:"version"`
	Filled   bool       `json:"filled"`
	Progress float64    `json:"progress"` // from 0 to 1
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
	Cost       int       `json:"cost"` // as in SegmentSpec
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
	// Version is the one whose rule judged.
	Version SegmentKey `json:"version,omitempty"`
	// Undecided: In says nothing, for the reason in Notes.
	Undecided bool     `json:"undecided,omitempty"`
	Notes     []string `json:"notes,omitempty"` // what In rests on, where that is less than one may think
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

// NodeStatus is a node as operators see it: as it is known of by the one that was
// asked, with what it says of itself if it does.
type NodeStatus struct {
	Name     string    `json:"name"`
	Ready    bool      `json:"ready"` // answers for all lanes
	Why      string    `json:"why,omitempty"`
	Draining bool      `json:"draining,omitempty"`
	Started  time.Time `json:"started"`
	Lanes    []int     `json:"lanes"` // that it answers for
	Owns     []int     `json:"owns"`  // of which it does the upkeep
	// States are what it says of its lanes, none if it says nothing.
	States []LaneState `json:"states"`
}

// LaneState is a lane on one node.
type LaneState struct {
	Lane         LaneID  `json:"lane"`
	Applied      Offset  `json:"applied"`
	LagSeconds   float64 `json:"lag_seconds"`   // by how far its lane time is back
	LeaseSeconds float64 `json:"lease_seconds"` // for how long it may still answer; alone, always: -1
	Quarantined  string  `json:"quarantined,omitempty"`
}

// NodeState is what a node says of itself.
type NodeState struct {
	Node  string      `json:"node"`
	Why   string      `json:"why,omitempty"` // it is not ready
	Lanes []LaneState `json:"lanes"`
}

// StreamStatus is a stream of the log: which node leads it and which others keep
// it. Without a leader nothing can be appended to it.
type StreamStatus struct {
	Stream string       `json:"stream"`
	Leader string       `json:"leader"`
	Others []StreamCopy `json:"others"`
	// Missing is how many nodes fewer keep it than are to.
	Missing int `json:"missing,omitempty"`
}

// Lacks is by how many nodes fewer the stream is kept, or kept up to date, than it
// is to be.
func (x *StreamStatus) Lacks() int {
	n := x.Missing
	for _, o := range x.Others {
		if !o.Current {
			n++
		}
	}
	return n
}

// StreamCopy is a stream on a node that does not lead it.
type StreamCopy struct {
	Node    string `json:"node"`
	Current bool   `json:"current"`
	Lag     uint64 `json:"lag"` // operations that it has not got yet
}

// ClusterStatus is the answer to GET /v1/cluster.
type ClusterStatus struct {
	Nodes      []NodeStatus      `json:"nodes"`
	Log        []StreamStatus    `json:"log"`
	Placed     map[LaneID]string `json:"placed"` // lanes whose owner was named, by whom
	Partitions int               `json:"partitions"`
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

// NextEvents gives the next events of a history, in the order of their arrival, until
// tell has enough; more says whether there may be others. What tell is given is its own
// until it returns. CodeUnavailable if the history was cut since.
type NextEvents func(tell func(Millis, *EventBody) (enough bool)) (more bool, err error)

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
	Networks  []NetworkSeen  `json:"networks,omitempty"`
}

// Submitted tells what became of a submitted batch.
type Submitted struct {
	Position Position // where the durable commands lie; others may have the same map: not to be changed
	Failed   []int    // indexes in the batch that are NOT durable; nil for none
	Err      error    // why, for all of Failed
}

// Seen is what a look-up says of an identity beside its segments.
type Seen struct {
	Known    bool // this client holds facts of it
	OptedOut bool
}
