package proto

import (
	"encoding/hex"
	"time"
)

// AuditRecord is a line of the audit log: one call, or with Requests how many calls
// of a key on a route there were in the minute from Time on.
type AuditRecord struct {
	Time     time.Time  `json:"time"`
	Key      string     `json:"key"` // first digits of the key's SHA-256
	Role     Role       `json:"role"`
	Client   ClientName `json:"client,omitempty"`
	Route    string     `json:"route"`
	Identity string     `json:"identity_hash,omitempty"`
	Count    int        `json:"identities,omitempty"` // of a list
	Status   int        `json:"status,omitempty"`
	Requests uint64     `json:"requests,omitempty"`
	Refused  uint64     `json:"refused,omitempty"` // of Requests
}

// AuditBatch is lines that are written together. Whoever writes them notes in it how
// far that came: after an error the same batch may be given again, none of its lines
// changed, and goes on from there. So no line is written twice.
type AuditBatch struct {
	Records []AuditRecord
	Stored  int  // how many of Records, from the first, are durable
	Unsure  bool // whether the next ones are is not known; else no other one is

	// The writer's own, where it is unsure: what it calls the lines that it sent, and
	// the record behind which it sent them; since when that one seems to be lost.
	ID     string
	Behind uint64
	Short  time.Time
}

// AuditQuery is what is asked of the audit log: what comes from After on, which is 0
// or Next of a page; at most Limit records.
type AuditQuery struct {
	Client       ClientName
	Identity     string // keyed hash
	Since, Until time.Time
	After        uint64
	Limit        int
}

// AuditPage is an answer. Next is what to ask for next, as after, with the same
// question or another; More says that there is something.
type AuditPage struct {
	Records []AuditRecord `json:"records"`
	Next    uint64        `json:"next"`
	More    bool          `json:"more"`
}

// KeyID is how a key is told, by its SHA-256.
func KeyID(sum [32]byte) string { return hex.EncodeToString(sum[:4]) }
