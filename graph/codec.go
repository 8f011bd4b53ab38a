package graph

import (
	"encoding/binary"
	"math"
	"slices"

	"kith/proto"
)

// This file is the rows in which a node's State is stored: one node row, a
// link row for each of Links, a copy row for each of Members. The keys, which
// hold the neighbour's or member's hash, are the caller's.

const rowVersion = 3 // 1 had no numbers of removals, 2 none of refusals

// The flags of a node row. A root shows what it gave: that is written once.
const (
	flagDark = 1 << iota
	flagGiven
	nodeFlagsEnd
)

// AppendNode encodes the node row: version, flags (1 dark, 2 given is shown's value), gen,
// ver, fence, removals, root, joined, shown (root, number, value), number, given, then the lists
// holders, waits, invited, questions, promises, receivers, owed, cuts, asks,
// commands.
func (x *State) AppendNode(b []byte) []byte {
	given := x.Given != "" && x.Given == x.Shown.Value
	b = append(b, rowVersion, flag(x.Dark)*flagDark|flag(given)*flagGiven)
	b = binary.AppendUvarint(b, uint64(x.Gen))
	b = binary.AppendUvarint(b, x.Ver)
	b = proto.AppendVarint(b, int64(x.Fence))
	b = binary.AppendUvarint(b, x.Removals)
	b = appendMaybe(b, x.Root)
	b = binary.AppendUvarint(b, x.Joined)
	b = appendMaybe(b, x.Shown.Root)
	b = binary.AppendUvarint(b, x.Shown.Number)
	b = proto.AppendString(b, string(x.Shown.Value))
	b = binary.AppendUvarint(b, x.Number)
	if !given {
		b = proto.AppendString(b, string(x.Given))
	}
	b = x.appendMemberLists(b)
	b = x.appendRootLists(b)
	b = binary.AppendUvarint(b, uint64(len(x.Cuts)))
	for i := range x.Cuts {
		b = x.Cuts[i].append(b)
	}
	b = binary.AppendUvarint(b, uint64(len(x.Asks)))
	for _, a := range x.Asks {
		b = append(append(b, a.Peer[:]...), flag(a.Sent)|flag(a.Since > 0)<<1)
		b = binary.AppendUvarint(b, a.Command)
		if a.Since > 0 {
			b = binary.AppendUvarint(b, uint64(a.Since))
		}
	}
	b = binary.AppendUvarint(b, uint64(len(x.Commands)))
	for _, c := range x.Commands {
		b = binary.AppendUvarint(b, c)
	}
	return b
}

func (x *State) appendMemberLists(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(x.Holders)))
	for _, h := range x.Holders {
		b = append(b, h.Root[:]...)
		b = binary.AppendUvarint(b, h.Ver)
		b = binary.AppendUvarint(b, h.Acked)
	}
	b = binary.AppendUvarint(b, uint64(len(x.Waits)))
	for _, w := range x.Waits {
		b = append(b, w.Peer[:]...)
		b = binary.AppendUvarint(b, uint64(w.Gen))
		b = binary.AppendUvarint(b, w.Ver)
		b = proto.AppendVarint(b, int64(w.Time))
		b = append(binary.AppendUvarint(b, w.Number), byte(w.Answer), flag(w.Own))
	}
	return b
}

func (x *State) appendRootLists(b []byte) []byte {
	b = appendHashes(b, x.Invited)
	b = binary.AppendUvarint(b, uint64(len(x.Questions)))
	for _, q := range x.Questions {
		b = append(append(b, q.Peer[:]...), q.About[:]...)
	}
	b = binary.AppendUvarint(b, uint64(len(x.Promises)))
	for _, q := range x.Promises {
		b = append(append(b, q.Peer[:]...), q.About[:]...)
	}
	b = binary.AppendUvarint(b, uint64(len(x.Receivers)))
	for _, r := range x.Receivers {
		b = append(append(b, r.Peer[:]...), flag(r.Out))
		b = binary.AppendUvarint(b, r.Sent)
		b = binary.AppendUvarint(b, r.Acked)
	}
	b = binary.AppendUvarint(b, uint64(len(x.Owed)))
	for _, o := range x.Owed {
		b = append(b, o.Peer[:]...)
		b = binary.AppendUvarint(b, uint64(o.Gen))
		b = binary.AppendUvarint(b, o.Ver)
		b = binary.AppendUvarint(b, o.After)
		b = binary.AppendUvarint(b, o.Told)
	}
	return b
}

// append encodes a cut: gen, time, after, retractions, unlink, flags (1
// telling, 2 done, 4 all, 8 has a parent, 16 others have a rest, 32 quiet), also, spread,
// parent, origins, copies, replaced, rest.
func (c *CutRecord) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(c.Gen))
	b = proto.AppendVarint(b, int64(c.Time))
	b = binary.AppendUvarint(b, c.After)
	b = binary.AppendUvarint(b, uint64(len(c.Retract)))
	for _, r := range c.Retract {
		b = append(b, r.Root[:]...)
		b = binary.AppendUvarint(b, r.Ver)
	}
	b = appendHashes(b, c.Unlink)
	b = append(b, flag(c.Telling)|flag(c.Done)<<1|flag(c.All)<<2|flag(c.Parent.Gen > 0)<<3|flag(len(c.Rest) > 0)<<4|flag(c.Quiet)<<5)
	b = binary.AppendUvarint(b, uint64(len(c.Also)))
	for _, a := range c.Also {
		b = append(append(b, a.Peer[:]...), flag(a.Done))
		b = binary.AppendUvarint(b, uint64(a.Gen))
	}
	b = binary.AppendUvarint(b, c.Spread)
	if c.Parent.Gen > 0 {
		b = append(b, c.Parent.Peer[:]...)
		b = binary.AppendUvarint(b, uint64(c.Parent.Gen))
	}
	b = appendRefs(b, c.Origins)
	b = binary.AppendUvarint(b, c.Copies)
	b = binary.AppendUvarint(b, c.Replaced)
	if len(c.Rest) > 0 {
		b = appendRefs(b, c.Rest)
	}
	return b
}

// Append encodes all of the state but the copies, whose owners it names: the
// node row with its length, the link rows (hash, row with its length), and the
// members' hashes.
func (x *State) Append(b []byte) []byte {
	at := len(b)
	b = insertLength(x.AppendNode(b), at)
	b = binary.AppendUvarint(b, uint64(len(x.Links)))
	for i := range x.Links {
		b = append(b, x.Links[i].Peer[:]...)
		at := len(b)
		b = insertLength(x.Links[i].AppendLink(b), at)
	}
	b = binary.AppendUvarint(b, uint64(len(x.Members)))
	for i := range x.Members {
		b = append(b, x.Members[i].Peer[:]...)
	}
	return b
}

// Decode reads what Append wrote into x. The copies of the members that it
// gives are still to be added.
func (x *State) Decode(b []byte) (members []Hash, err error) {
	r := reader{proto.NewReader(b)}
	if err := x.DecodeNode(r.Bytes()); err != nil {
		return nil, err
	}
	for range r.Count(19) {
		peer := r.hash()
		if n := len(x.Links); n > 0 && !less(x.Links[n-1].Peer, peer) {
			return nil, malformed("state")
		}
		if err := x.AddLink(peer, r.Bytes()); err != nil {
			return nil, err
		}
	}
	members = r.hashes()
	if r.Bad() || r.Len() != 0 || !sortedHashes(members) {
		return nil, malformed("state")
	}
	return members, nil
}

// DecodeNode reads the node row into x, which has no links and members then.
func (x *State) DecodeNode(b []byte) error {
	r := reader{proto.NewReader(b)}
	version := r.Byte()
	if version != rowVersion {
		return badVersion("node", version)
	}
	flags := r.Byte()
	*x = State{
		Dark: flags&flagDark != 0, Gen: r.gen(), Ver: r.Uvarint(), Fence: proto.Millis(r.Varint()),
		Removals: r.Uvarint(), Root: r.maybe(), Joined: r.Uvarint(),
		Shown:  Shown{Root: r.maybe(), Number: r.Uvarint(), Value: Value(r.Bytes())},
		Number: r.Uvarint(),
	}
	if flags&flagGiven != 0 {
		x.Given = x.Shown.Value
	} else {
		x.Given = Value(r.Bytes())
	}
	for range r.Count(18) {
		x.Holders = append(x.Holders, Holder{Root: r.hash(), Ver: r.Uvarint(), Acked: r.Uvarint()})
	}
	for range r.Count(22) {
		x.Waits = append(x.Waits, Wait{Peer: r.hash(), Gen: r.gen(), Ver: r.Uvarint(), Time: proto.Millis(r.Varint()), Number: r.Uvarint(), Answer: Kind(r.Byte()), Own: r.flag()})
	}
	x.readRootLists(&r)
	for range r.Count(11) {
		x.Cuts = append(x.Cuts, readCut(&r))
	}
	for range r.Count(18) {
		x.Asks = append(x.Asks, readAsked(&r))
	}
	for range r.Count(1) {
		x.Commands = append(x.Commands, r.Uvarint())
	}
	if r.Bad() || r.Len() != 0 || flags >= nodeFlagsEnd || flags&flagGiven != 0 && x.Given == "" || !x.valid() {
		*x = State{}
		return malformed("node")
	}
	return nil
}

func (x *State) readRootLists(r *reader) {
	x.Invited = r.hashes()
	for range r.Count(32) {
		x.Questions = append(x.Questions, Question{r.hash(), r.hash()})
	}
	for range r.Count(32) {
		x.Promises = append(x.Promises, Question{r.hash(), r.hash()})
	}
	for range r.Count(19) {
		x.Receivers = append(x.Receivers, Receiver{Peer: r.hash(), Out: r.flag(), Sent: r.Uvarint(), Acked: r.Uvarint()})
	}
	for range r.Count(20) {
		x.Owed = append(x.Owed, Owed{Peer: r.hash(), Gen: r.gen(), Ver: r.Uvarint(), After: r.Uvarint(), Told: r.Uvarint()})
	}
}

func readAsked(r *reader) Asked {
	a := Asked{Peer: r.hash()}
	flags := r.Byte()
	a.Sent, a.Command = flags&1 != 0, r.Uvarint()
	if flags&2 != 0 {
		a.Since = proto.Millis(r.uint(math.MaxInt64))
	}
	if flags > 3 || flags&2 != 0 && a.Since == 0 {
		r.Fail()
	}
	return a
}

func readCut(r *reader) CutRecord {
	c := CutRecord{Gen: r.gen(), Time: proto.Millis(r.Varint()), After: r.Uvarint()}
	for range r.Count(17) {
		c.Retract = append(c.Retract, Retraction{r.hash(), r.Uvarint()})
	}
	c.Unlink = r.hashes()
	flags := r.Byte()
	if flags > 63 {
		r.Fail()
	}
	c.Telling, c.Done, c.All, c.Quiet = flags&1 != 0, flags&2 != 0, flags&4 != 0, flags&32 != 0
	for range r.Count(18) {
		a := Also{Ref: Ref{Peer: r.hash()}, Done: r.flag()}
		a.Gen = r.gen()
		c.Also = append(c.Also, a)
	}
	c.Spread = r.Uvarint()
	if flags&8 != 0 {
		if c.Parent = (Ref{r.hash(), r.gen()}); c.Parent.Gen == 0 {
			r.Fail()
		}
	}
	c.Origins = r.refs()
	c.Copies, c.Replaced = r.Uvarint(), r.Uvarint()
	if flags&16 != 0 {
		if c.Rest = r.refs(); len(c.Rest) == 0 || !slices.IsSortedFunc(c.Rest, compareRef) {
			r.Fail()
		}
	}
	return c
}

// valid reports whether sorted lists are, and what must hold of one row holds.
func (x *State) valid() bool {
	ok := x.Gen > 0 && sorted[Holder](x.Holders) && sorted[Receiver](x.Receivers) && sortedHashes(x.Invited)
	for i := range x.Cuts {
		c := &x.Cuts[i]
		ok = ok && sorted[Retraction](c.Retract) && sorted[Also](c.Also) && sortedHashes(c.Unlink)
	}
	return ok
}

// AppendLink encodes a link row, without the neighbour's hash: version, stage
// | mark<<2 | settled<<4 | theirs<<5 | open<<6, then if there is an edge its gen and
// evidence, then if there is a mark its gen and time, and its number unless it is
// a confirmed removal, then if proposals are open how many.
func (n *Neighbour) AppendLink(b []byte) []byte {
	b = append(b, rowVersion, byte(n.Stage)|byte(n.Mark)<<2|flag(n.Settled)<<4|flag(n.Theirs)<<5|flag(n.Open > 0)<<6)
	if n.Stage != Absent {
		b = binary.AppendUvarint(b, uint64(n.Gen))
		b = n.Evidence.append(b)
	}
	if n.Mark != Unmarked {
		b = binary.AppendUvarint(b, uint64(n.MarkGen))
		b = proto.AppendVarint(b, int64(n.MarkTime))
		if n.MarkGen == 0 || n.Mark == CappedMark {
			b = binary.AppendUvarint(b, n.Told)
		}
	}
	if n.Open > 0 {
		b = binary.AppendUvarint(b, uint64(n.Open))
	}
	return b
}

// AddLink reads a link row of the neighbour peer into x.
func (x *State) AddLink(peer Hash, b []byte) error {
	r := reader{proto.NewReader(b)}
	if version := r.Byte(); version != rowVersion {
		return badVersion("link", version)
	}
	kinds := r.Byte()
	n := Neighbour{Peer: peer, Stage: Stage(kinds & 3), Mark: MarkKind(kinds >> 2 & 3), Settled: kinds>>4&1 == 1, Theirs: kinds>>5&1 == 1}
	if n.Stage != Absent {
		n.Gen, n.Evidence = r.gen(), r.evidence()
	}
	if n.Mark != Unmarked {
		n.MarkGen, n.MarkTime = r.gen(), proto.Millis(r.Varint())
		if n.MarkGen == 0 || n.Mark == CappedMark {
			n.Told = r.Uvarint()
		}
	}
	if kinds>>6&1 == 1 {
		n.Open = uint32(r.uint(math.MaxUint32))
		if n.Open == 0 {
			r.Fail()
		}
	}
	if r.Bad() || r.Len() != 0 || kinds == 0 || kinds > 127 || n.Theirs && n.Mark != CappedMark || n.Settled && n.Stage != Established || n.Stage > Established || n.Mark > CappedMark || n.Stage == Established && n.Gen == 0 {
		return malformed("link")
	}
	*add(&x.Links, peer) = n
	x.copied = nil
	return nil
}

// Append encodes a copy row: version, gen, ver, edges (hash, gen,
// settled, evidence), data.
func (c *Contribution) Append(b []byte) []byte {
	b = append(b, rowVersion)
	b = binary.AppendUvarint(b, uint64(c.Gen))
	b = binary.AppendUvarint(b, c.Ver)
	b = binary.AppendUvarint(b, uint64(len(c.Edges)))
	for i := range c.Edges {
		e := &c.Edges[i]
		b = append(b, e.Peer[:]...)
		b = binary.AppendUvarint(b, uint64(e.Gen))
		b = append(b, flag(e.Settled))
		b = e.Evidence.append(b)
	}
	return proto.AppendString(b, string(c.Data))
}

// DecodeContribution reads what Append wrote.
func DecodeContribution(b []byte) (*Contribution, error) {
	r := reader{proto.NewReader(b)}
	if version := r.Byte(); version != rowVersion {
		return nil, badVersion("copy", version)
	}
	c := &Contribution{Gen: r.gen(), Ver: r.Uvarint(), Edges: []Edge{}}
	for range r.Count(22) {
		c.Edges = append(c.Edges, Edge{Peer: r.hash(), Gen: r.gen(), Settled: r.flag(), Evidence: r.evidence()})
	}
	c.Data = Data(r.Bytes())
	if r.Bad() || r.Len() != 0 || c.Gen == 0 || !sorted[Edge](c.Edges) {
		return nil, malformed("copy")
	}
	return c, nil
}

// AddCopy reads a copy row of the member peer into x.
func (x *State) AddCopy(peer Hash, b []byte) error {
	c, err := DecodeContribution(b)
	if err != nil {
		return err
	}
	add(&x.Members, peer).Copy = c
	return nil
}

// Link is what is known of the neighbour peer, nil if nothing.
func (x *State) Link(peer Hash) *Neighbour { return get(x.Links, &peer) }

// Copy is the copy of the member peer, nil if there is none.
func (x *State) Copy(peer Hash) *Contribution {
	if m := get(x.Members, &peer); m != nil {
		return m.Copy
	}
	return nil
}

func (e *Evidence) append(b []byte) []byte {
	b = proto.AppendVarint(b, int64(e.Time))
	b = binary.AppendUvarint(b, uint64(e.Client))
	b = binary.AppendUvarint(b, uint64(e.Confidence))
	return append(b, byte(e.Method))
}

// reader adds the room's own types to proto.Reader.
type reader struct{ proto.Reader }

func (r *reader) flag() bool {
	c := r.Byte()
	if c > 1 {
		r.Fail()
	}
	return c == 1
}

func (r *reader) uint(limit uint64) uint64 {
	v := r.Uvarint()
	if v > limit {
		r.Fail()
		return 0
	}
	return v
}

func (r *reader) gen() uint32 { return uint32(r.uint(1<<32 - 1)) }

func (r *reader) hash() (h Hash) {
	copy(h[:], r.Take(len(h)))
	return h
}

// maybe reads a hash that may be absent.
func (r *reader) maybe() (h Hash) {
	if r.flag() {
		return r.hash()
	}
	return h
}

func (r *reader) hashes() (list []Hash) {
	for range r.Count(16) {
		list = append(list, r.hash())
	}
	return list
}

func (r *reader) refs() (list []Ref) {
	for range r.Count(17) {
		list = append(list, Ref{r.hash(), r.gen()})
	}
	return list
}

func (r *reader) evidence() Evidence {
	e := Evidence{
		Time: proto.Millis(r.Varint()), Client: proto.ClientID(r.uint(1<<32 - 1)),
		Confidence: uint16(r.uint(1<<16 - 1)), Method: Method(r.Byte()),
	}
	if e.Method > Inferred {
		r.Fail()
	}
	return e
}

func flag(v bool) byte {
	if v {
		return 1
	}
	return 0
}

func appendMaybe(b []byte, h Hash) []byte {
	if h == (Hash{}) {
		return append(b, 0)
	}
	return append(append(b, 1), h[:]...)
}

func appendHashes(b []byte, list []Hash) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for i := range list {
		b = append(b, list[i][:]...)
	}
	return b
}

func appendRefs(b []byte, list []Ref) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, x := range list {
		b = append(b, x.Peer[:]...)
		b = binary.AppendUvarint(b, uint64(x.Gen))
	}
	return b
}

func sorted[T any, P named[T]](list []T) bool {
	for i := 1; i < len(list); i++ {
		if !less(*P(&list[i-1]).id(), *P(&list[i]).id()) {
			return false
		}
	}
	return true
}

func sortedHashes(list []Hash) bool {
	return slices.IsSortedFunc(list, compareHash) && len(slices.Compact(slices.Clone(list))) == len(list)
}

func badVersion(what string, v byte) error {
	return proto.Errorf(proto.CodeCorrupt, "graph: %s row has version %d, this kith knows %d: use the version that wrote it, or a newer one", what, v, rowVersion)
}

func malformed(what string) error {
	return proto.Errorf(proto.CodeCorrupt, "graph: %s row is malformed: restore the lane from a backup or another replica", what)
}
