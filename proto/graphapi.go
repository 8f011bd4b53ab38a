package proto

import (
	"strconv"
	"strings"
	"time"
)

// Link is a link as the API takes it.
type Link struct {
	A, B       Identity
	Inferred   bool
	Confidence float64 // 0 to 1; 1 of a deterministic link
}

// Linked is the final answer to a Link.
type Linked struct {
	Linked bool   `json:"linked"`
	Reason string `json:"reason,omitempty"` // opted_out, cap, blocked …; docs/api.md lists them
}

// User is the identities of a space that are one person's.
type User struct {
	Root    Identity   `json:"root"`
	Members []Identity `json:"members"` // sorted; the root among them
	Edges   []UserEdge `json:"edges"`
	// Household are other users' devices that the members share networks with, by
	// confidence; nil where the client has not switched that on.
	Household []HouseholdEdge `json:"household,omitempty"`
}

// UserEdge is why two of them are.
type UserEdge struct {
	A          Identity   `json:"a"`
	B          Identity   `json:"b"`
	Method     string     `json:"method"` // deterministic or inferred
	Confidence float64    `json:"confidence"`
	Client     ClientName `json:"client"`
	Time       time.Time  `json:"time"` // of the newest evidence
}

// OptOutState is how far an identity's opt-out is.
type OptOutState struct {
	Identity Identity   `json:"identity"`
	OptedOut bool       `json:"opted_out"`
	Final    bool       `json:"final"`  // nothing of it is left, and a receipt says so
	Status   string     `json:"status"` // route that tells more
	Since    *time.Time `json:"since,omitempty"`
	Receipt  *Receipt   `json:"receipt,omitempty"`
	// CountsFrom is from when on events of it are kept that was let in again or erased, if
	// that is still to come: the clock was set back since, or the lane's time stands still,
	// and then it is so at the earliest.
	CountsFrom *time.Time `json:"counts_from,omitempty"`
}

// Receipt is the signed proof that an identity was cut out.
type Receipt struct {
	Version          int        `json:"version"`          // ReceiptVersion
	ID               string     `json:"id"`               // of the command, or of the cut if that was of another identity
	Node             string     `json:"node"`             // who signs
	Action           string     `json:"action"`           // optout or erase
	Client           ClientName `json:"client,omitempty"` // of an erasure: whose knowledge alone was erased
	IdentityHMAC     string     `json:"identity_hmac"`
	IdentityHash     string     `json:"identity_hash"`
	Generation       uint32     `json:"generation"` // of the tombstone, or of the empty identity after an erasure
	Everywhere       bool       `json:"everywhere"`
	Also             int        `json:"also"` // other identities cut with it
	Partition        int        `json:"partition"`
	Lane             LaneID     `json:"lane"`
	Offset           Offset     `json:"offset"` // of the command in the lane's log
	Time             time.Time  `json:"time"`   // lane time of the command
	CopiesRetracted  int        `json:"copies_retracted"`
	MembersRefreshed int        `json:"members_refreshed"`
	Position         string     `json:"position"`     // of all lanes that took part, when it was final
	LogClearBy       time.Time  `json:"log_clear_by"` // then no log entry from before it is left
	PublicKey        string     `json:"public_key"`
	Signature        string     `json:"signature"`
}

// ReceiptVersion is the version of receipts that this build writes.
const ReceiptVersion = 1

// SignedBytes is what the Ed25519 signature is over: a first line, then a line
// "name=value" for each field but the signature, in the order of the JSON; client
// too where JSON leaves it out, with nothing behind the sign.
// Times are RFC 3339 in UTC with nanoseconds left out where they are zero.
func (r *Receipt) SignedBytes() []byte {
	var b strings.Builder
	b.WriteString("kith receipt\n")
	for _, f := range [...][2]string{
		{"version", strconv.Itoa(r.Version)},
		{"id", r.ID},
		{"node", r.Node},
		{"action", r.Action}, {"client", string(r.Client)},
		{"identity_hmac", r.IdentityHMAC},
		{"identity_hash", r.IdentityHash},
		{"generation", strconv.FormatUint(uint64(r.Generation), 10)},
		{"everywhere", strconv.FormatBool(r.Everywhere)},
		{"also", strconv.Itoa(r.Also)},
		{"partition", strconv.Itoa(r.Partition)},
		{"lane", strconv.Itoa(int(r.Lane))},
		{"offset", strconv.FormatUint(uint64(r.Offset), 10)},
		{"time", r.Time.UTC().Format(time.RFC3339Nano)},
		{"copies_retracted", strconv.Itoa(r.CopiesRetracted)},
		{"members_refreshed", strconv.Itoa(r.MembersRefreshed)},
		{"position", r.Position},
		{"log_clear_by", r.LogClearBy.UTC().Format(time.RFC3339Nano)},
		{"public_key", r.PublicKey},
	} {
		b.WriteString(f[0] + "=" + strings.ReplaceAll(f[1], "\n", " ") + "\n")
	}
	return []byte(b.String())
}

// ReceiptCheck is what became of looking for what a receipt says is gone.
type ReceiptCheck struct {
	Signature bool          `json:"signature"`            // valid, by the node's own key
	Clean     bool          `json:"clean"`                // nothing was found
	Places    []ReceiptFind `json:"places"`               // where was looked
	LogClear  bool          `json:"log_clear"`            // no log entry from before the receipt is left, in any lane
	LogFirst  Offset        `json:"log_first"`            // oldest entry of the log of the identity's lane
	LogUnread bool          `json:"log_unread,omitempty"` // the log was not looked at: several nodes keep it
	// Identity says whether the identity that stands beside the receipt, in the answer
	// that it came in, is the receipt's; nil if none does.
	Identity *bool `json:"identity,omitempty"`
}

// ReceiptFind is one place and how much was found there.
type ReceiptFind struct {
	Place string `json:"place"`
	Found int    `json:"found"`
}

// Erased is what an erasure of bytes removed.
type Erased struct {
	Identities int       `json:"identities"` // opted out or erased since the last time, or since the node started
	LogEntries uint64    `json:"log_entries"`
	Time       time.Time `json:"time"`
}
