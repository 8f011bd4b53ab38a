// Package segments decides which segments an identity belongs to.
//
// A Rule is parsed from text by CEL's parser, checked here, and kept in a form
// of our own that CEL's interpreter never sees. A Program holds the rules of
// one client, a Memory what must be remembered of one identity, and an
// Evaluator brings a Memory up to date with an event, new traits, new rules or
// the mere passing of time. What it guarantees:
//
//   - membership equals what Holds, the plain reading of the rule over the
//     whole history, says at that instant, late events included;
//   - Membership.Next is the exact instant at which time alone changes it;
//   - an event costs what it matches, not how many rules there are;
//   - the same calls in the same order give the same bytes of Memory.
//
// A Memory judges the rules of both scopes on its own identity. Of the
// identities of a user each gives what Program.AppendShared packs of its
// Memory, and Evaluator.Union judges the rules of scope user over all of it, in
// whatever order it comes. member("x") asks x's rule of the same history that
// the rule which names it is judged on, whatever the scope of x.
//
// It keeps no history, reads no clock, starts no goroutine and does not know
// of links: who is whose identity is for the caller to say.
//
// Three layouts outlive the process: a compiled rule (compiled.go), a Memory
// (memorycodec.go) and what it gives to its user (shared.go). Each starts with
// a version byte and has a golden file under testdata and a fuzz target.
package segments

import "kith/proto"

// Limits of one rule. They bound what it costs to save, to keep and to run.
const (
	RuleBytesMax      = 10_000
	RuleNodesMax      = 500
	RuleDepthMax      = 100
	RuleAggregatesMax = 32
	CountMax          = 1000 // greatest number that count() is compared with
	DaysMax           = 366  // greatest number that days() is compared with
	DistinctMax       = 1000 // greatest number that distinct() is compared with
	DevicesMax        = 64   // greatest number that devices() is compared with
	AmountsMax        = 1000 // sum(), min() and max() are over so many of the newest events
	PairsMax          = 256  // events kept for a pair of sequence() that is newer than the newest
	RegexBytesMax     = 256
	PatternStepsMax   = 600       // of a pattern whose repeats are written out
	PatternsMax       = 10_000    // of those of all rules of one client
	AheadMax          = 5_000_000 // steps that the rules of one client look ahead at an event at most
	TraitsMax         = 64        // traits of one identity
	ImportTraitsMax   = 256       // of those, besides, that only imports set
	NestingMax        = 8         // levels of member() below a rule
	KeptMax           = 1_000_000 // times and days that the rules of one client ask for of an identity at most, two more for each condition
	MemoryMax         = 96_000    // of them are kept of one identity, about: 600 kB beside its traits and memberships
	ReachMax          = 1000      // parts of all rules that a rule reaches by member(), its own included
)

// Scope is what a rule's history is of.
type Scope uint8

// The scopes: one identity, or all identities of a user.
const (
	ScopeUser Scope = iota
	ScopeIdentity
)

// ParseScope reads a scope's name; the empty name is ScopeUser.
func ParseScope(s string) (Scope, error) {
	switch s {
	case "", "user":
		return ScopeUser, nil
	case "identity":
		return ScopeIdentity, nil
	}
	return 0, proto.Errorf(proto.CodeInvalid, "scope %q is unknown: use identity or user", clip(s))
}

func (s Scope) String() string {
	if s == ScopeIdentity {
		return "identity"
	}
	return "user"
}

// Definition is a named rule. Key is the control sequence that defined it; a
// new definition of the same ID has a new Key.
type Definition struct {
	Key   proto.SegmentKey
	ID    proto.SegmentID
	Scope Scope
	Rule  *Rule
}

// clip shortens untrusted text for an error message.
func clip(s string) string {
	if len(s) <= 64 {
		return s
	}
	return s[:61] + "..."
}
