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
