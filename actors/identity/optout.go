package identity

import (
	"cmp"
	"encoding/binary"
	"slices"

	"kith/graph"
	"kith/proto"
)

// OptOut is an identity's opt-out over all spaces. Whoever was never cut has
// none. It is kept at the identity's home with its nodes, by keyed hash.
//
// Its bytes are: version 1 | gen | fence | since | nodes, each:
// space, gen, flags (1 dark) | cuts, each: command (8 bytes), kind, flags (1
// everywhere, 2 final, 4 some are cut later, 8 others are to be told, 16 counts of spaces), gen,
// time, offset, pending spaces, copies, members, also, vector, if a client forgot it the client and
// space, then by the flags the spaces that are cut later, the others, each: hash, gen, space, and
// the counts, each: space, copies, members, also | held messages (graph.Batch).
type OptOut struct {
	Gen   uint32       // even: known or may be; odd: opted out. Each opt-out and opt-in moves it
	Fence proto.Millis // evidence must be newer; of the last opt-in
	Since proto.Millis // of the last change
	Nodes []CutNode    // by space: nodes whose generation is not the first
	Cuts  []Cut        // oldest first: those not yet final, the newest final ones, the newest opt-out or erasure, and what clients last had forgotten
	Held  []graph.Message
}

// CutNode is a node of the identity.
type CutNode struct {
	Space proto.SpaceID
	Gen   uint32
	Dark  bool
}

// Cut is a command that cut the identity, and what it led to.
type Cut struct {
	Command    uint64
	Kind       proto.CutKind
	Everywhere bool
	Final      bool
	Gen        uint32 // after it: of the tombstone, or of the empty identity
	Time       proto.Millis
	Offset     proto.Offset
	Pending    []proto.SpaceID // nodes whose cut is not final; sorted
	CutCounts                  // of all spaces
	Spaces     []SpaceCounts   // of each in which there was anything; sorted. None of a cut of an earlier build
	Vector     []proto.Offset  // by lane, when it was final
	Client     proto.ClientID  // CutForget: who forgets
	Space      proto.SpaceID   // and where

	// Of an identity that was cut with another: those of Pending whose nodes are
	// cut only when the other's cut is done in all spaces of that other, which may
	// reach further through them; sorted.
	Later []proto.SpaceID
	// Of a cut everywhere: whom it took along and who has such nodes. They are told
	// when Pending is empty, and until all have answered the cut is not final; sorted.
	Rest []Taken
}

// CutCounts are what was done for a cut.
type CutCounts struct {
	Copies  uint64 // taken back
	Members uint64 // refreshed
	Also    uint64 // other identities cut with it
}

func (x *CutCounts) add(r *graph.Receipt) {
	x.Copies += uint64(r.Copies)
	x.Members += uint64(r.Members)
	x.Also += uint64(r.Spread)
}

// SpaceCounts are the part of a space.
type SpaceCounts struct {
	Space proto.SpaceID
	CutCounts
}

// In is what was done in a space.
func (c *Cut) In(s proto.SpaceID) CutCounts {
	if i, ok := c.space(s); ok {
		return c.Spaces[i].CutCounts
	}
	return CutCounts{}
}

func (c *Cut) space(s proto.SpaceID) (at int, there bool) {
	return slices.BinarySearchFunc(c.Spaces, s, func(x SpaceCounts, s proto.SpaceID) int { return cmp.Compare(x.Space, s) })
}

// count takes in what was done in a space.
func (c *Cut) count(s proto.SpaceID, r *graph.Receipt) {
	c.add(r)
	if r.Copies+r.Members+r.Spread == 0 {
		return
	}
	i, there := c.space(s)
	if !there {
		c.Spaces = slices.Insert(c.Spaces, i, SpaceCounts{Space: s})
	}
	c.Spaces[i].add(r)
}

// Taken is a generation of another identity, in a space, that was cut with this one.
type Taken struct {
	graph.Ref
	Space proto.SpaceID
}

func compareTaken(a, b Taken) int {
	return cmp.Or(cmp.Compare(a.Space, b.Space), slices.Compare(a.Peer[:], b.Peer[:]), cmp.Compare(a.Gen, b.Gen))
}

// Bounds of what is remembered of an identity's cuts.
const (
	FinalCutsKept = 4
	OpenCutsMax   = 64
	fencesKept    = 64 // besides, of clients
)

// Dark reports whether the identity is opted out.
func (o *OptOut) Dark() bool { return o.Gen&1 == 1 }

// Fresh is the links' state of a node of the identity that was unknown in its
// space until now, nil if it was never cut.
func (o *OptOut) Fresh() *graph.State {
	if o.Gen == 0 {
		return nil
	}
	if o.Dark() {
		x := graph.Tombstoned(o.Gen + 1)
		return &x
	}
	return &graph.State{Gen: o.Gen + 1, Fence: o.Fence}
}

// Node is what is noted of the node in a space, nil if nothing.
func (o *OptOut) Node(s proto.SpaceID) *CutNode {
	for i := range o.Nodes {
		if o.Nodes[i].Space == s {
			return &o.Nodes[i]
		}
	}
	return nil
}

// Note keeps a node's generation and reports whether that was not known.
func (o *OptOut) Note(s proto.SpaceID, gen uint32, dark bool) bool {
	n := o.Node(s)
	if n == nil {
		i, _ := slices.BinarySearchFunc(o.Nodes, s, func(n CutNode, s proto.SpaceID) int { return int(n.Space) - int(s) })
		o.Nodes = slices.Insert(o.Nodes, i, CutNode{Space: s, Gen: gen, Dark: dark})
		return true
	}
	if n.Gen == gen && n.Dark == dark {
		return false
	}
	n.Gen, n.Dark = gen, dark
	return true
}

// Repeated reports whether the command was taken in before.
func (o *OptOut) Repeated(command uint64) bool {
	return command != 0 && slices.ContainsFunc(o.Cuts, func(c Cut) bool { return c.Command == command })
}

// Open counts the cuts that are not final.
func (o *OptOut) Open() (n int) {
	for i := range o.Cuts {
		if !o.Cuts[i].Final {
			n++
		}
	}
	return n
}

// CutAt reports whether nodes are still to carry out an opt-out or erasure of the log's entry at that offset.
func (o *OptOut) CutAt(at proto.Offset) bool {
	return slices.ContainsFunc(o.Cuts, func(c Cut) bool { return c.Kind != proto.CutForget && c.Offset == at && len(c.Pending) > 0 })
}

// Begin notes a cut that the nodes in spaces, sorted, have to carry out.
func (o *OptOut) Begin(c Cut, spaces []proto.SpaceID) {
	c.Pending = spaces
	switch {
	case c.Kind == proto.CutOptOut && o.Dark(), c.Kind == proto.CutErase:
		o.Gen += 2
	case c.Kind == proto.CutOptOut:
		o.Gen++
	}
	if c.Kind != proto.CutForget {
		o.Since = c.Time
	}
	c.Gen = o.Gen + 1
	o.Cuts = append(o.Cuts, c)
}

// Released takes in that a node's oldest cut is final. If none of the identity's
// nodes has anything of that command left to do, it gives those who are to be told.
func (o *OptOut) Released(s proto.SpaceID, r *graph.Receipt) (tell []Taken) {
	if r.Quiet { // of no command
		return nil
	}
	for i := range o.Cuts {
		c := &o.Cuts[i]
		k, ok := slices.BinarySearch(c.Pending, s)
		if !ok {
			continue
		}
		if slices.Contains(c.Later, s) { // an earlier build erased it; it is still to be cut
			return nil
		}
		c.Pending = slices.Delete(c.Pending, k, k+1)
		c.count(s, r)
		for _, ref := range r.Rest {
			c.Rest = append(c.Rest, Taken{ref, s})
		}
		slices.SortFunc(c.Rest, compareTaken)
		if len(c.Pending) == 0 {
			return c.Rest
		}
		return nil
	}
	return nil
}

// Answered takes in that nothing is left of one that was told, in any space.
func (o *OptOut) Answered(t Taken) {
	for i := range o.Cuts {
		o.Cuts[i].Rest = slices.DeleteFunc(o.Cuts[i].Rest, func(x Taken) bool { return x == t })
	}
}

// Later reports whether the node in a space is to be cut later.
func (o *OptOut) Later(s proto.SpaceID) bool {
	return slices.ContainsFunc(o.Cuts, func(c Cut) bool { return slices.Contains(c.Later, s) })
}

// Waiting reports whether any node is to be cut later.
func (o *OptOut) Waiting() bool {
	return slices.ContainsFunc(o.Cuts, func(c Cut) bool { return len(c.Later) > 0 })
}

// Reached takes in that the node in a space was cut meanwhile.
func (o *OptOut) Reached(s proto.SpaceID) {
	for i := range o.Cuts {
		o.Cuts[i].Later = slices.DeleteFunc(o.Cuts[i].Later, func(x proto.SpaceID) bool { return x == s })
	}
}

// TakeLater gives the spaces whose nodes are to be cut later, which are cut now.
func (o *OptOut) TakeLater() (list []proto.SpaceID) {
	for i := range o.Cuts {
		list = append(list, o.Cuts[i].Later...)
		o.Cuts[i].Later = nil
	}
	return list
}

// Settle makes cuts final of which no node has anything left to do, in the
// order in which they were asked for, calls fn with each, and gives the messages that
// were held until then.
func (o *OptOut) Settle(vector []proto.Offset, fn func(*Cut)) (held []graph.Message) {
	for i := range o.Cuts {
		c := &o.Cuts[i]
		if c.Final {
			continue
		}
		if len(c.Pending)+len(c.Rest) > 0 {
			return nil
		}
		c.Final, c.Vector = true, slices.Clone(vector)
		fn(c)
	}
	held, o.Held = o.Held, nil
	o.drop()
	return held
}

// drop lets old final cuts go, but not the newest opt-out or erasure, by which who asks for
// its state is told that it is final, and not the newest by which a client had a node
// forgotten: what it vouched for may still be on its way from other lanes.
func (o *OptOut) drop() {
	fences := 0
	for i := len(o.Cuts) - FinalCutsKept - 1; i >= 0; i-- {
		c := &o.Cuts[i]
		newer := func(x Cut) bool {
			return x.Kind != proto.CutForget || c.Kind == proto.CutForget && x.Client == c.Client && x.Space == c.Space
		}
		if keep := !slices.ContainsFunc(o.Cuts[i+1:], newer); keep && c.Kind != proto.CutForget {
			continue
		} else if keep && fences < fencesKept {
			fences++
			continue
		}
		o.Cuts = slices.Delete(o.Cuts, i, i+1)
	}
}

// Newest is the newest opt-out or erasure, nil if there was none. What one
// client forgot is its own affair: only that of the client asking counts, 0 for nobody.
func (o *OptOut) Newest(asking proto.ClientID) *Cut {
	for i := len(o.Cuts) - 1; i >= 0; i-- {
		if o.Cuts[i].Kind != proto.CutForget || o.Cuts[i].Client == asking {
			return &o.Cuts[i]
		}
	}
	return nil
}

// Admits reports whether something of a client, with evidence of time t, is from after
// the person was last erased or let in again, and the client last had the node in a space
// forgotten; skew is how much newer it has to be.
func (o *OptOut) Admits(client proto.ClientID, s proto.SpaceID, t, skew proto.Millis) bool {
	return t > o.FenceOf(client, s, skew)
}

// FenceOf is the newest time whose evidence Admits refuses.
func (o *OptOut) FenceOf(client proto.ClientID, s proto.SpaceID, skew proto.Millis) proto.Millis {
	fence := o.Fence
	for i := range o.Cuts {
		if c := &o.Cuts[i]; c.Kind == proto.CutForget && c.Client == client && c.Space == s {
			fence = max(fence, c.Time+skew)
		}
	}
	return fence
}

// Fences appends the fences of clients that had the node in a space forgotten.
func (o *OptOut) Fences(list []graph.Fence, s proto.SpaceID, skew proto.Millis) []graph.Fence {
	for i := range o.Cuts {
		if c := &o.Cuts[i]; c.Kind == proto.CutForget && c.Space == s {
			list = append(list, graph.Fence{Client: c.Client, Time: c.Time + skew})
		}
	}
	return list
}

// Spare takes in that the node which a client's command was to take away whole stays, for
// others know it meanwhile.
func (o *OptOut) Spare(command uint64, client proto.ClientID) {
	i := slices.IndexFunc(o.Cuts, func(c Cut) bool {
		return c.Kind == proto.CutForget && c.Command == command && c.Client == client && len(c.Pending) > 0
	})
	if i >= 0 {
		o.Cuts[i].Pending = nil
	}
}

// Lift takes an opt-in with evidence fence in.
func (o *OptOut) Lift(now, fence proto.Millis) {
	o.Gen++
	o.Fence, o.Since = fence, now
}

const optOutVersion = 1

// Append packs the record.
func (o *OptOut) Append(b []byte) []byte {
	b = append(b, optOutVersion)
	b = binary.AppendUvarint(b, uint64(o.Gen))
	b = proto.AppendVarint(b, int64(o.Fence))
	b = proto.AppendVarint(b, int64(o.Since))
	b = binary.AppendUvarint(b, uint64(len(o.Nodes)))
	for _, n := range o.Nodes {
		b = binary.AppendUvarint(b, uint64(n.Space))
		b = binary.AppendUvarint(b, uint64(n.Gen))
		b = append(b, boolByte(n.Dark))
	}
	b = binary.AppendUvarint(b, uint64(len(o.Cuts)))
	for i := range o.Cuts {
		b = o.Cuts[i].Append(b)
	}
	if len(o.Held) > 0 {
		held := graph.Batch{Messages: o.Held}
		b = held.Append(b)
	}
	return b
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// Append packs the cut.
func (c *Cut) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, c.Command)
	b = append(b, byte(c.Kind), boolByte(c.Everywhere)|boolByte(c.Final)<<1|boolByte(len(c.Later) > 0)<<2|boolByte(len(c.Rest) > 0)<<3|boolByte(len(c.Spaces) > 0)<<4)
	b = binary.AppendUvarint(b, uint64(c.Gen))
	b = proto.AppendVarint(b, int64(c.Time))
	b = binary.AppendUvarint(b, uint64(c.Offset))
	b = appendSpaces(b, c.Pending)
	b = c.CutCounts.append(b)
	b = binary.AppendUvarint(b, uint64(len(c.Vector)))
	for _, v := range c.Vector {
		b = binary.AppendUvarint(b, uint64(v))
	}
	if c.Kind == proto.CutForget {
		b = binary.AppendUvarint(b, uint64(c.Client))
		b = binary.AppendUvarint(b, uint64(c.Space))
	}
	if len(c.Later) > 0 {
		b = appendSpaces(b, c.Later)
	}
	if len(c.Rest) > 0 {
		b = appendTaken(b, c.Rest)
	}
	if len(c.Spaces) > 0 {
		b = binary.AppendUvarint(b, uint64(len(c.Spaces)))
		for i := range c.Spaces {
			b = c.Spaces[i].append(binary.AppendUvarint(b, uint64(c.Spaces[i].Space)))
		}
	}
	return b
}

func (x *CutCounts) append(b []byte) []byte {
	b = binary.AppendUvarint(b, x.Copies)
	b = binary.AppendUvarint(b, x.Members)
	return binary.AppendUvarint(b, x.Also)
}

func readCounts(r *proto.Reader) CutCounts {
	return CutCounts{Copies: r.Uvarint(), Members: r.Uvarint(), Also: r.Uvarint()}
}

func appendSpaces(b []byte, list []proto.SpaceID) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = binary.AppendUvarint(b, uint64(s))
	}
	return b
}

func appendTaken(b []byte, list []Taken) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, t := range list {
		b = append(b, t.Peer[:]...)
		b = binary.AppendUvarint(b, uint64(t.Gen))
		b = binary.AppendUvarint(b, uint64(t.Space))
	}
	return b
}

// Decode reads what Append wrote; nothing aliases b.
func (o *OptOut) Decode(b []byte) error {
	r := proto.NewReader(b)
	if v := r.Byte(); v != optOutVersion {
		return proto.Errorf(proto.CodeCorrupt, "an opt-out has version %d, this build reads %d: install the kith that wrote it", v, optOutVersion)
	}
	*o = OptOut{Gen: r.Uint32(), Fence: proto.Millis(r.Varint()), Since: proto.Millis(r.Varint())}
	for range r.Count(3) {
		n := CutNode{Space: proto.SpaceID(r.Uint32()), Gen: r.Uint32()}
		dark := r.Byte()
		n.Dark = dark == 1
		if k := len(o.Nodes); k > 0 && o.Nodes[k-1].Space >= n.Space || dark > 1 {
			r.Fail()
		}
		o.Nodes = append(o.Nodes, n)
	}
	for range r.Count(16) {
		o.Cuts = append(o.Cuts, ReadCut(&r))
	}
	if !r.Bad() && r.Len() > 0 {
		held, err := graph.DecodeBatch(r.Take(r.Len()), 0)
		if err != nil {
			return err
		}
		o.Held = held.Messages
	}
	if r.Bad() {
		return proto.Errorf(proto.CodeCorrupt, "an opt-out of %d bytes is malformed", len(b))
	}
	return nil
}

// ReadCut reads what Append wrote; malformed bytes mark r.
func ReadCut(r *proto.Reader) Cut {
	c := Cut{Command: r.Uint64(), Kind: proto.CutKind(r.Byte())}
	flags := r.Byte()
	c.Everywhere, c.Final = flags&1 != 0, flags&2 != 0
	c.Gen, c.Time, c.Offset = r.Uint32(), proto.Millis(r.Varint()), proto.Offset(r.Uvarint())
	c.Pending = readSpaces(r)
	c.CutCounts = readCounts(r)
	for range r.Count(1) {
		c.Vector = append(c.Vector, proto.Offset(r.Uvarint()))
	}
	if flags > 31 || c.Kind < proto.CutOptOut || c.Kind > proto.CutForget {
		r.Fail()
	}
	if c.Kind == proto.CutForget {
		c.Client, c.Space = proto.ClientID(r.Uint32()), proto.SpaceID(r.Uint32())
	}
	if flags&4 != 0 {
		c.Later = readSpaces(r)
	}
	if flags&8 != 0 {
		c.Rest = readTaken(r)
	}
	if flags&16 != 0 {
		c.Spaces = readSpaceCounts(r)
	}
	if flags&4 != 0 != (len(c.Later) > 0) || flags&8 != 0 != (len(c.Rest) > 0) || flags&16 != 0 != (len(c.Spaces) > 0) {
		r.Fail()
	}
	return c
}

func readSpaces(r *proto.Reader) (list []proto.SpaceID) {
	for range r.Count(1) {
		s := proto.SpaceID(r.Uint32())
		if k := len(list); k > 0 && list[k-1] >= s {
			r.Fail()
		}
		list = append(list, s)
	}
	return list
}

func readSpaceCounts(r *proto.Reader) (list []SpaceCounts) {
	for range r.Count(4) {
		x := SpaceCounts{Space: proto.SpaceID(r.Uint32()), CutCounts: readCounts(r)}
		if k := len(list); k > 0 && list[k-1].Space >= x.Space {
			r.Fail()
		}
		list = append(list, x)
	}
	return list
}

func readTaken(r *proto.Reader) (list []Taken) {
	for range r.Count(18) {
		t := Taken{graph.Ref{Peer: r.Hash(), Gen: r.Uint32()}, proto.SpaceID(r.Uint32())}
		if k := len(list); k > 0 && compareTaken(list[k-1], t) >= 0 {
			r.Fail()
		}
		list = append(list, t)
	}
	return list
}
