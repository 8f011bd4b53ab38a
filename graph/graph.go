// Package graph decides how identities become users and how they come apart
// again. Its unit is a node, an identity within a space. A node's facts (its
// edges and its data) live only at its home and never move; a user is a view
// at its root, the least identity of the user: copies of the members' facts,
// which can be thrown away and made anew. A merge adds copies and a split
// drops them, so that a cut leaves exactly what would have been without it.
//
// Step takes a node's State and the messages of one superstep and gives
// Effects. Lane drives the supersteps of one entry and the channels between
// lanes. Both are pure: no clock, no chance, no goroutines, and no result
// that depends on the order of a map or on where a batch ended.
//
// The package does not store, send, sign or publish: rows, messages, receipts
// and what a node shows are effects. It does not know segments: a node's data
// and a user's value are opaque, made by Facts. It does not know identities by
// name: within a space they are keyed hashes. It is told of time only by the
// evidence in messages, which is the gateway's receipt time.
//
// # Guarantees
//
//   - Edges are symmetric at rest: each home names the other's present generation.
//   - At rest a user is a connected component of the established edges and its
//     root is the component's least identity; every member shows the value of
//     the whole user.
//   - Once a cut is acknowledged (Receipt), no edge, view, copy or shown value
//     anywhere names the cut generation or derives from it.
//   - No identity has more than EdgesMax edges, no view more than MembersMax
//     members; what was refused for that is an effect with a reason.
//   - Replicas that apply the same entries have the same State, byte for byte.
//
// # Rules
//
// R1 (edges.go) An edge is pending, neither shown nor copied, until both homes
// agreed. Half asks, HalfOK agrees, HalfNo declines; both echo the generation
// and the time they answer. The newest evidence wins, a removal wins a tie. Of a
// standing edge the other end is told (Half again) of evidence that differs in
// more than its time, and of the first of a day. A
// removal is a mark at both ends. An agreement that nobody waits for is taken
// back by a Drop; a Drop older than the evidence is answered by Half again.
// Evidence of a client that had the node forgotten since (Fence) makes no edge; of one
// that stands without it, the other end is told (HalfOK again) what to keep instead.
//
// R2 (members.go) A root invites the neighbours of its members and names all
// ways (neighbour, generation) that it knows. The invited heeds it if one way
// is an established edge of its own, and adopts the root if that is less than
// its present one; else it nudges its own root to invite the other side.
//
// R3 (view.go) Reachable is what edges reach that both ends' copies report,
// each naming the other's present generation. The unreachable are told out at
// once and released later. A root invites once per change of edges.
//
// R4 (release.go) A member notes a holder before it sends a copy. Release
// promises that neither a copy up to that version nor a verdict derived from
// it is left; so it waits until every receiver has confirmed a verdict
// computed after the removal. Versions never restart.
//
// R5 (members.go) A copy that reaches a node which is no root is not kept; it
// is answered by out, and by Release under R4.
//
// R6 (view.go, members.go) A verdict is applied only if the member has
// followed that root since before the copy it was computed from; it is always
// confirmed; it is not sent again while the value is the same. Whoever changes
// its root shows its own data alone until the new root's verdict comes.
//
// R7 (cut.go) A cut makes the identity dark in one step. First every copy is
// retracted and every verdict it gave is replaced; then the neighbours are
// told to forget, and confirm when no copy of theirs names it. Cuts of one
// identity finish in order. A cut everywhere spreads along the established edges,
// each at the generation that its home knows. The answers name those (Rest) of
// whom the caller says that other nodes of theirs wait: it lets them be cut
// (CutRest) when the cut is done in all spaces of who asked.
//
// R8 (lane.go, outbox.go) Between lanes there is one number per (entry,
// destination), or several if that is too much for one batch. Numbers at or below the last are skipped, a gap drops the
// pack; the outbox is trimmed to what the destination applied; each batch
// carries its lane's position vector.
//
// R9 (cut.go) An opt-in names the generation of the tombstone that it lifts
// and begins a new, empty one. Evidence must be newer than the opt-in by twice
// the skew, at both homes. Erasure is a cut and an opt-in in one step.
//
// R10 (edges.go, view.go) Caps: a pending edge counts. The root joins edges
// that were answered linked first, then the oldest, and refuses the newest that
// would exceed; a full root counts who is beyond and refuses without inviting.
// A Link command is answered (Ask, Joined) when the other end has its evidence
// (Half again, if the edge stood already), the edge is within the user and nobody
// is still invited. Both ends keep the name as a mark until the
// other has none of it in any copy ("forgot"), so that a later cut misses
// nobody.
//
// # Layout
//
// All values begin with a version byte. Numbers are varints, times zig-zag,
// hashes 16 bytes, lists a count and their elements, texts a length and bytes.
// codec.go has the three rows of a node and their fields in order: the node
// row (everything but links and copies), a link row for each neighbour and a
// copy row for each member of a root's view. wire.go has Message, Batch (an
// outbox row) and the lane's record.
package graph

import "kith/proto"

// Hash names an identity within a space.
type Hash = proto.IdentityHash

// Config holds the limits, which must be the same on all replicas.
type Config struct {
	SkewMillis proto.Millis // gateways' clocks differ from true time by at most this
	EdgesMax   int          // edges of one identity, pending ones included
	MembersMax int          // identities of one user
	LinksMax   int          // neighbours of one identity, removed ones included
}

// DefaultConfig is what the design names.
func DefaultConfig() Config {
	return Config{SkewMillis: 15_000, EdgesMax: 32, MembersMax: 64, LinksMax: 256}
}

// Validate says what to change.
func (c Config) Validate() error {
	switch {
	case c.SkewMillis < 0 || c.SkewMillis > 3_600_000:
		return proto.Errorf(proto.CodeInvalid, "graph: skew is %d ms: use 0 to 3600000", c.SkewMillis)
	case c.EdgesMax < 1 || c.EdgesMax > 1024:
		return proto.Errorf(proto.CodeInvalid, "graph: edges per identity is %d: use 1 to 1024", c.EdgesMax)
	case c.MembersMax < 2 || c.MembersMax > 1024:
		return proto.Errorf(proto.CodeInvalid, "graph: identities per user is %d: use 2 to 1024", c.MembersMax)
	case c.LinksMax < c.EdgesMax || c.LinksMax > 8192:
		return proto.Errorf(proto.CodeInvalid, "graph: neighbours per identity is %d: use %d (the edges) to 8192", c.LinksMax, c.EdgesMax)
	}
	return nil
}

// Data is what a node's facts give to its user's value; opaque here.
type Data string

// Value is what a user's members' data come to; opaque here.
type Value string

// Facts is a node's own facts, kept by another room. Its methods are called
// during the node's Step only, by one goroutine.
type Facts interface {
	// Observe takes in an Event that the graph admitted, or a Refresh, and
	// reports whether Data gives something else than before.
	Observe(m *Message) (changed bool)
	// Data is the present contribution. Equal facts give equal bytes.
	Data() Data
	// Aggregate is the value of a user with these members, in any order. It
	// must not keep the slice.
	Aggregate(members []Data) Value
	// Purge forgets everything.
	Purge()
}

// Env is what a Step needs from outside its node.
type Env struct {
	Config Config
	Facts  Facts
	Fences []Fence // of clients that had the node forgotten
}

// Fence is up to when what a client vouched for does not count at a node, whenever it
// arrives: from before the client had the node forgotten.
type Fence struct {
	Client proto.ClientID
	Time   proto.Millis
}

// step is one node's step under way.
type step struct {
	env  *Env
	self proto.Node
	x    *State
	fx   *Effects

	edges  bool // own edges changed: a new version
	data   bool // own data changed
	resend bool // a new root needs a copy
	view   bool // the view's members or ways changed
	value  bool // a member's data changed
	owed   []Owed
}

// Step takes in the messages that one superstep has for a node, in the order
// given, and then does what follows once from all of them. It appends to fx,
// which the caller has Reset.
func Step(env *Env, self proto.Node, x *State, in []Message, fx *Effects) {
	if x.Gen == 0 {
		x.Gen = 1
	}
	s := &fx.scratch.step
	*s = step{env: env, self: self, x: x, fx: fx, owed: s.owed[:0]}
	for i := range in {
		s.take(&in[i])
	}
	s.finish()
	s.env, s.x, s.fx = nil, nil, nil
}

// take does what one message asks.
func (s *step) take(m *Message) {
	switch m.Kind {
	case Event, Refresh:
		s.observe(m)
	case Link:
		s.linked(m)
	case Remove:
		s.remove(m.About, m.Evidence.Time)
	case Withdraw:
		s.withdraw(m)
	case Cut, CutMember, CutDone, OptIn, Erase, Unlink, UnlinkAck:
		s.takeCut(m)
	case CutRest, RestDone: // the caller's: they are of an identity, not of a node
	case Half, HalfOK, HalfNo, Drop, DropOK, DropNo, Forgot, Refuse:
		s.takeEdge(m)
	default:
		s.takeMember(m)
	}
}

// observe lets the facts take in an event, unless it is from before the last
// opt-in or the identity is opted out.
func (s *step) observe(m *Message) {
	if s.x.Dark || m.Kind == Event && m.Evidence.Time <= s.x.Fence {
		s.fx.ignored(m, reasonOf(s.x.Dark))
		return
	}
	if s.env.Facts.Observe(m) {
		s.data = true
	}
	if m.Kind == Refresh && s.x.leads() {
		s.value = true // the value may change by time or by new rules
	}
}

// emit sends m to another home of the space.
func (s *step) emit(to Hash, m Message) {
	m.To = proto.Node{Hash: to, Space: s.self.Space}
	m.From = s.self.Hash
	s.fx.Out = append(s.fx.Out, m)
}

// changed notes that the node row must be written.
func (s *step) changed() { s.fx.Node = true }

// finish does what follows from all messages of the step.
func (s *step) finish() {
	if !s.x.Dark {
		s.publish()
		if s.x.leads() {
			s.lead()
		} else {
			s.ask()
		}
	}
	for _, o := range s.owed {
		o.After, o.Told = s.x.Number, uint64(len(s.x.Receivers))
		s.x.Owed = append(s.x.Owed, o)
		s.changed()
	}
	s.settleOwed()
	s.settleWaits()
	s.settleCuts()
}
