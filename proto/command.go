package proto

import (
	"encoding/binary"
	"math"
)

// CommandKind is the kind of one command in an entry. Kinds are for ever: an
// unknown one quarantines the lane.
type CommandKind uint8

// The kinds of commands.
const (
	CommandEvent   CommandKind = 1 // Event: a packed Event
	CommandBeat    CommandKind = 2 // lane: node name, incarnation, time
	CommandControl CommandKind = 3 // lane: control sequence, Control record
	CommandFill    CommandKind = 4 // lane: segment key, first and last ordinal
	CommandTraits  CommandKind = 5 // node: client, space, identity, traits
	CommandReplay  CommandKind = 6 // node: a dead letter's offset and index, and its command again
	CommandLink    CommandKind = 7 // node: LinkCommand
	CommandUnlink  CommandKind = 8 // node: UnlinkCommand
	CommandCut     CommandKind = 9 // identity: CutCommand
	CommandOptIn   CommandKind = 10
	CommandGraph   CommandKind = 11 // lane: GraphPack
	CommandForget  CommandKind = 12 // lane: Forget
	CommandExpire  CommandKind = 13 // lane: Expire
)

// LanePartition marks a command that is for the lane, not for one home.
const LanePartition PartitionID = 0xff

// A packed command is: kind byte, partition byte, length uvarint, body.

// AppendCommand packs a command around body.
func AppendCommand(b []byte, kind CommandKind, p PartitionID, body []byte) []byte {
	b = append(b, byte(kind), byte(p))
	b = binary.AppendUvarint(b, uint64(len(body)))
	return append(b, body...)
}

// Command is one command, its body aliasing the entry's bytes.
type Command struct {
	Kind      CommandKind
	Partition PartitionID
	Body      []byte
}

// NextCommand takes the first command off b. CodeCorrupt if b is malformed or
// the kind unknown.
func NextCommand(b []byte) (Command, []byte, error) {
	r := NewReader(b)
	c := Command{Kind: CommandKind(r.Byte()), Partition: PartitionID(r.Byte())}
	c.Body = r.Bytes()
	if r.Bad() {
		return Command{}, nil, Errorf(CodeCorrupt, "packed command is malformed")
	}
	switch c.Kind {
	case CommandEvent, CommandTraits, CommandReplay, CommandLink, CommandUnlink, CommandCut, CommandOptIn:
		if c.Partition >= Partitions {
			return Command{}, nil, Errorf(CodeCorrupt, "command kind %d names partition %d of %d", c.Kind, c.Partition, Partitions)
		}
	case CommandBeat, CommandControl, CommandFill, CommandGraph, CommandForget, CommandExpire:
		if c.Partition != LanePartition {
			return Command{}, nil, Errorf(CodeCorrupt, "command kind %d is for the lane but names partition %d", c.Kind, c.Partition)
		}
	default:
		return Command{}, nil, Errorf(CodeCorrupt, "command kind %d is unknown: a newer kith wrote this log; install that version", c.Kind)
	}
	return c, r.b, nil
}

// Beat advances a lane's time, unless it is a follower's, and proves that a
// node is alive and has applied what was logged before.
type Beat struct {
	Node        string
	Incarnation uint64
	Time        Millis
	Follows     bool // the node does not own the lane
	Releases    bool // the process has no lease by this beat, nor by those before it
	// Chain is the node's chain at an offset that it has applied; 0: it says none.
	At    Offset
	Chain uint64
}

// Flags of a beat.
const (
	beatFollows = 1 << iota
	beatReleases
	beatChain // At (uvarint) and Chain (8 bytes) follow
)

// Append packs the beat.
func (x *Beat) Append(b []byte) []byte {
	b = AppendString(b, x.Node)
	b = binary.AppendUvarint(b, x.Incarnation)
	b = AppendVarint(b, int64(x.Time))
	flags := byte(0)
	if x.Follows {
		flags |= beatFollows
	}
	if x.Releases {
		flags |= beatReleases
	}
	if x.At != 0 {
		flags |= beatChain
	}
	if flags != 0 { // without any a beat is as it was when nodes ran alone
		b = append(b, flags)
	}
	if x.At != 0 {
		b = binary.LittleEndian.AppendUint64(binary.AppendUvarint(b, uint64(x.At)), x.Chain)
	}
	return b
}

// DecodeBeat reads what Append wrote.
func DecodeBeat(b []byte) (Beat, error) {
	r := NewReader(b)
	x := Beat{Node: r.String(), Incarnation: r.Uvarint(), Time: Millis(r.Varint())}
	flags := byte(0)
	if r.Len() > 0 && !r.Bad() {
		flags = r.Byte()
		x.Follows, x.Releases = flags&beatFollows != 0, flags&beatReleases != 0
	}
	if flags&beatChain != 0 {
		x.At, x.Chain = Offset(r.Uvarint()), r.Uint64()
	}
	if r.Bad() || r.Len() != 0 || flags > beatFollows|beatReleases|beatChain || flags&beatChain != 0 && x.At == 0 {
		return Beat{}, Errorf(CodeCorrupt, "packed beat is malformed")
	}
	return x, nil
}

// Relayed is a control record as a lane's log carries it.
type Relayed struct {
	Seq    uint64
	Record []byte // pb.Control
}

// Append packs the relayed record.
func (x *Relayed) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, x.Seq)
	return append(b, x.Record...)
}

// DecodeRelayed reads what Append wrote.
func DecodeRelayed(b []byte) (Relayed, error) {
	r := NewReader(b)
	x := Relayed{Seq: r.Uvarint()}
	x.Record = r.b
	if r.Bad() || x.Seq == 0 {
		return Relayed{}, Errorf(CodeCorrupt, "packed control record is malformed")
	}
	return x, nil
}

// Fill makes the nodes numbered First to Last bring their memory up to the
// client's rules, so that segment Segment is complete from history.
type Fill struct {
	Client      ClientID
	Segment     SegmentKey
	First, Last Ordinal
	Done        bool // the last fill of this segment
}

// Append packs the fill.
func (x *Fill) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(x.Client))
	b = binary.AppendUvarint(b, uint64(x.Segment))
	b = binary.AppendUvarint(b, uint64(x.First))
	b = binary.AppendUvarint(b, uint64(x.Last))
	return append(b, flagByte(x.Done))
}

// DecodeFill reads what Append wrote.
func DecodeFill(b []byte) (Fill, error) {
	r := NewReader(b)
	x := Fill{
		Client: ClientID(r.Uvarint()), Segment: SegmentKey(r.Uvarint()),
		First: Ordinal(r.Uvarint()), Last: Ordinal(r.Uvarint()), Done: r.Byte() == 1,
	}
	if r.Bad() || r.Len() != 0 || x.First > x.Last {
		return Fill{}, Errorf(CodeCorrupt, "packed fill is malformed")
	}
	return x, nil
}

// Forget makes the nodes of Space numbered First to Last forget all that
// Client, which was ended before, knows of them.
type Forget struct {
	Client      ClientID
	Space       SpaceID
	First, Last Ordinal
	Done        bool // the last step of this client
}

// Append packs the step.
func (x *Forget) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(x.Client))
	b = binary.AppendUvarint(b, uint64(x.Space))
	b = binary.AppendUvarint(b, uint64(x.First))
	b = binary.AppendUvarint(b, uint64(x.Last))
	return append(b, flagByte(x.Done))
}

// DecodeForget reads what Append wrote.
func DecodeForget(b []byte) (Forget, error) {
	r := NewReader(b)
	x := Forget{
		Client: ClientID(r.Uint32()), Space: SpaceID(r.Uint32()),
		First: Ordinal(r.Uint32()), Last: Ordinal(r.Uint32()), Done: r.flag(),
	}
	if r.Bad() || r.Len() != 0 || x.First > x.Last {
		return Forget{}, Errorf(CodeCorrupt, "packed step of an erasure is malformed")
	}
	return x, nil
}

// Expire has the nodes of these numbers, ascending, let go of what is too old.
type Expire struct {
	Ordinals []Ordinal
}

// Append packs the step: each number as what it is more than the one before.
func (x *Expire) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(x.Ordinals)))
	var last Ordinal
	for _, o := range x.Ordinals {
		b = binary.AppendUvarint(b, uint64(o-last))
		last = o
	}
	return b
}

// DecodeExpire reads what Append wrote.
func DecodeExpire(b []byte) (Expire, error) {
	r := NewReader(b)
	var x Expire
	var last uint64
	for i := range r.Count(1) {
		step := r.Uint32()
		if last += uint64(step); last > math.MaxUint32 || i > 0 && step == 0 {
			r.Fail()
			break
		}
		x.Ordinals = append(x.Ordinals, Ordinal(last))
	}
	if r.Bad() || r.Len() != 0 {
		return Expire{}, Errorf(CodeCorrupt, "packed step of retention is malformed")
	}
	return x, nil
}

// Traits sets or, with an empty text, removes traits of an identity for one
// client.
type Traits struct {
	Client   ClientID
	Space    SpaceID
	Identity Identity
	Received Millis
	Set      []Prop
	Needs    string // a trait without which nothing is done, "" for none
}

// Append packs the traits. Needs, where there is one, comes last.
func (x *Traits) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(x.Client))
	b = binary.AppendUvarint(b, uint64(x.Space))
	b = AppendString(b, string(x.Identity))
	b = AppendVarint(b, int64(x.Received))
	b = binary.AppendUvarint(b, uint64(len(x.Set)))
	for i := range x.Set {
		b = AppendString(b, x.Set[i].Key)
		b = x.Set[i].Value.Append(b)
	}
	if x.Needs != "" {
		b = AppendString(b, x.Needs)
	}
	return b
}

// DecodeTraits reads what Append wrote; strings alias b.
func DecodeTraits(b []byte) (Traits, error) {
	r := NewReader(b)
	x := Traits{Client: ClientID(r.Uvarint()), Space: SpaceID(r.Uvarint()), Identity: Identity(r.String()), Received: Millis(r.Varint())}
	for range r.Count(2) {
		x.Set = append(x.Set, Prop{Key: r.String(), Value: ReadValue(&r)})
	}
	if !r.Bad() && r.Len() > 0 {
		if x.Needs = r.String(); x.Needs == "" {
			r.Fail()
		}
	}
	if r.Bad() || r.Len() != 0 || x.Identity == "" {
		return Traits{}, Errorf(CodeCorrupt, "packed traits are malformed")
	}
	return x, nil
}

// Replay is a dead letter taken in again.
type Replay struct {
	Offset Offset
	Index  int
	Kind   CommandKind
	Body   []byte
}

// Append packs the replay.
func (x *Replay) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(x.Offset))
	b = binary.AppendUvarint(b, uint64(x.Index))
	return append(append(b, byte(x.Kind)), x.Body...)
}

// DecodeReplay reads what Append wrote; the body aliases b.
func DecodeReplay(b []byte) (Replay, error) {
	r := NewReader(b)
	x := Replay{Offset: Offset(r.Uvarint()), Index: int(r.Uvarint()), Kind: CommandKind(r.Byte())}
	x.Body = r.b
	if r.Bad() || x.Kind != CommandEvent && x.Kind != CommandTraits {
		return Replay{}, Errorf(CodeCorrupt, "packed replay is malformed")
	}
	return x, nil
}

// Batch collects commands on identities on their way to the log. Its commands
// keep their order. The zero value is ready; Reset makes it reusable.
type Batch struct {
	buf   []byte
	items []batchItem
	body  []byte // scratch
}

type batchItem struct {
	start, end int
	partition  PartitionID
}

// Reset empties b and keeps its memory.
func (b *Batch) Reset() { b.buf, b.items = b.buf[:0], b.items[:0] }

// Len is how many commands b holds.
func (b *Batch) Len() int { return len(b.items) }

// Size is how many packed bytes b holds.
func (b *Batch) Size() int { return len(b.buf) }

// AddEvent packs e for the home of its first identity.
func (b *Batch) AddEvent(h Hasher, e *Event) {
	b.body = e.Append(b.body[:0])
	b.add(CommandEvent, h.Hash(e.Identities[0]).Partition())
}

// AddTraits packs x for its identity's home.
func (b *Batch) AddTraits(h Hasher, x *Traits) {
	b.body = x.Append(b.body[:0])
	b.add(CommandTraits, h.Hash(x.Identity).Partition())
}

// AddRaw takes a command that was packed before, such as a dead letter.
func (b *Batch) AddRaw(c Command) {
	b.body = append(b.body[:0], c.Body...)
	b.add(c.Kind, c.Partition)
}

func (b *Batch) add(kind CommandKind, p PartitionID) {
	start := len(b.buf)
	b.buf = AppendCommand(b.buf, kind, p, b.body)
	b.items = append(b.items, batchItem{start, len(b.buf), p})
}

// Item is the i-th packed command and its home; it aliases b until Reset.
func (b *Batch) Item(i int) ([]byte, PartitionID) {
	it := b.items[i]
	return b.buf[it.start:it.end:it.end], it.partition
}

// Bytes is all packed commands, end to end; it aliases b until Reset.
func (b *Batch) Bytes() []byte { return b.buf }
