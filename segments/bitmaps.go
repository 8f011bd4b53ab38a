package segments

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/proto"
)

const (
	// chunkBits is the part of an ordinal within one chunk: one container of
	// a roaring bitmap.
	chunkBits = 16
	// ChunkBytesMax bounds the stored form of one chunk: a full bitmap
	// container is 8 KiB.
	ChunkBytesMax = 16 << 10
)

// BitDelta sets or clears one node's bit: in a segment, or, with Key 0, in
// the universe of a client, the nodes that it holds facts of. A segment
// belongs to one client, so Client is the same in all deltas of a Key.
type BitDelta struct {
	Key     proto.SegmentKey
	Client  proto.ClientID
	Ordinal proto.Ordinal
	Set     bool
}

// Chunk is the stored form of 65,536 neighbouring bits. Data is a portable
// roaring bitmap of just these ordinals, in full; empty means that no bit is
// set and that what is stored is to be deleted.
type Chunk struct {
	Key    proto.SegmentKey
	Client proto.ClientID
	High   uint16 // ordinal >> 16
	Data   []byte
}

type chunkID struct {
	key    proto.SegmentKey
	client proto.ClientID
	high   uint16
}

// Bitmaps are one lane's memberships in memory: a bitmap over ordinals per
// segment, and one per client with all its nodes. Safe for concurrent use.
//
// Chunks may be stored later than the deltas that made them: replaying the
// deltas from an older position over newer chunks ends in the same bits,
// because the last delta of a bit decides.
type Bitmaps struct {
	mu        sync.RWMutex
	segments  map[proto.SegmentKey]*bitmap
	universes map[proto.ClientID]*bitmap
	dirty     map[chunkID]struct{}
	queue     []chunkID // the dirty chunks, longest dirty first
}

// bitmap is never changed while it is held: a copy takes its place first.
type bitmap struct {
	bits   *roaring.Bitmap
	client proto.ClientID
	held   atomic.Int32
}

// NewBitmaps are empty bitmaps.
func NewBitmaps() *Bitmaps {
	return &Bitmaps{
		segments:  map[proto.SegmentKey]*bitmap{},
		universes: map[proto.ClientID]*bitmap{},
		dirty:     map[chunkID]struct{}{},
	}
}

// Apply takes deltas in their order, for example those of a commit that has
// just become durable. It does not keep d. Bits of a segment that was dropped
// may be cleared afterwards: that makes no bitmap.
func (x *Bitmaps) Apply(d []BitDelta) {
	x.mu.Lock()
	defer x.mu.Unlock()
	var bits *roaring.Bitmap
	for i := range d {
		if i == 0 || d[i].Key != d[i-1].Key || d[i].Client != d[i-1].Client {
			bits = nil
		}
		if bits == nil && !d[i].Set && x.find(d[i].Key, d[i].Client) == nil {
			continue
		}
		if bits == nil {
			bits = x.bits(d[i].Key, d[i].Client)
		}
		if flip(bits, uint32(d[i].Ordinal), d[i].Set) {
			x.touch(chunkID{d[i].Key, d[i].Client, uint16(d[i].Ordinal >> chunkBits)})
		}
	}
}

func flip(bits *roaring.Bitmap, o uint32, set bool) bool {
	if set {
		return bits.CheckedAdd(o)
	}
	return bits.CheckedRemove(o)
}

// bits finds or makes a bitmap, to be changed; mu is held for writing.
func (x *Bitmaps) bits(key proto.SegmentKey, client proto.ClientID) *roaring.Bitmap {
	s := x.find(key, client)
	switch {
	case s == nil:
		s = &bitmap{bits: roaring.New(), client: client}
	case s.held.Load() > 0:
		s = &bitmap{bits: s.bits.Clone(), client: s.client}
	default:
		return s.bits
	}
	if key == 0 {
		x.universes[client] = s
	} else {
		x.segments[key] = s
	}
	return s.bits
}

// find gives nil if there is none; mu is held.
func (x *Bitmaps) find(key proto.SegmentKey, client proto.ClientID) *bitmap {
	if key == 0 {
		return x.universes[client]
	}
	return x.segments[key]
}

// look finds a bitmap, nil if there is none; mu is held.
func (x *Bitmaps) look(key proto.SegmentKey, client proto.ClientID) *roaring.Bitmap {
	if s := x.find(key, client); s != nil {
		return s.bits
	}
	return nil
}

func (x *Bitmaps) touch(id chunkID) {
	if _, ok := x.dirty[id]; !ok {
		x.dirty[id] = struct{}{}
		x.queue = append(x.queue, id)
	}
}

// View calls fn with a consistent view; no delta is applied meanwhile. A
// bitmap that get or universe gives (nil: empty) must not be changed, nor used
// after fn has returned.
func (x *Bitmaps) View(fn func(get func(proto.SegmentKey) *roaring.Bitmap, universe func(proto.ClientID) *roaring.Bitmap)) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	fn(func(key proto.SegmentKey) *roaring.Bitmap {
		if key == 0 {
			return nil
		}
		return x.look(key, 0)
	}, func(client proto.ClientID) *roaring.Bitmap { return x.look(0, client) })
}

// Held are bitmaps as they were at one moment. Deltas are applied meanwhile, to
// copies of those that they change: so it is for what takes long, and few at once.
type Held struct {
	segments map[proto.SegmentKey]*bitmap
	universe *bitmap
}

// Hold takes out some segments and the universe of a client. Release is due.
func (x *Bitmaps) Hold(client proto.ClientID, keys []proto.SegmentKey) *Held {
	x.mu.RLock()
	defer x.mu.RUnlock()
	h := &Held{segments: make(map[proto.SegmentKey]*bitmap, len(keys)), universe: x.universes[client]}
	for _, k := range keys {
		if s := x.segments[k]; s != nil && h.segments[k] == nil {
			h.segments[k] = s
			s.held.Add(1)
		}
	}
	if h.universe != nil {
		h.universe.held.Add(1)
	}
	return h
}

// Segment and Universe give nil for what is empty. What they give must not be changed,
// nor used after Release.
func (h *Held) Segment(key proto.SegmentKey) *roaring.Bitmap {
	if s := h.segments[key]; s != nil {
		return s.bits
	}
	return nil
}

// Universe is that of the client for which Hold was called, whoever is asked for.
func (h *Held) Universe(proto.ClientID) *roaring.Bitmap {
	if h.universe == nil {
		return nil
	}
	return h.universe.bits
}

// Release gives back what Hold took.
func (h *Held) Release() {
	for _, s := range h.segments {
		s.held.Add(-1)
	}
	if h.universe != nil {
		h.universe.held.Add(-1)
	}
}

// Cardinality is how many nodes are in a segment.
func (x *Bitmaps) Cardinality(key proto.SegmentKey) uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if s := x.segments[key]; s != nil {
		return s.bits.GetCardinality()
	}
	return 0
}

// Drop forgets a segment. Its chunks become dirty, so that TakeDirty gives
// their deletions.
func (x *Bitmaps) Drop(key proto.SegmentKey) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.segments[key]
	if s == nil {
		return
	}
	for next := s.bits.NextValue(0); next >= 0; {
		high := uint16(next >> chunkBits)
		x.touch(chunkID{key, s.client, high})
		if high == math.MaxUint16 {
			break
		}
		next = s.bits.NextValue((uint32(high) + 1) << chunkBits)
	}
	delete(x.segments, key)
}

// Keys are the segments that have a bitmap, ascending.
func (x *Bitmaps) Keys() []proto.SegmentKey {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Sorted(maps.Keys(x.segments))
}

// Clients are those that have a universe, ascending.
func (x *Bitmaps) Clients() []proto.ClientID {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Sorted(maps.Keys(x.universes))
}

// Dirty is how many chunks changed since TakeDirty last gave them. Chunks are
// given longest dirty first: once that many more have been taken and stored,
// the deltas before now are no longer needed.
func (x *Bitmaps) Dirty() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.queue)
}

// TakeDirty gives at most chunksMax changed chunks to be stored. If storing
// fails, hand them to Redirty.
func (x *Bitmaps) TakeDirty(chunksMax int) []Chunk {
	x.mu.Lock()
	n := min(chunksMax, len(x.queue))
	ids := x.queue[:n:n]
	x.queue = x.queue[n:]
	for _, id := range ids {
		delete(x.dirty, id)
	}
	x.mu.Unlock()

	// A delta that comes in between makes its chunk dirty again.
	x.mu.RLock()
	defer x.mu.RUnlock()
	out := make([]Chunk, len(ids))
	for i, id := range ids {
		out[i] = Chunk{Key: id.key, Client: id.client, High: id.high, Data: cutChunk(x.look(id.key, id.client), id.high)}
	}
	return out
}

// Redirty makes chunks dirty again that could not be stored.
func (x *Bitmaps) Redirty(chunks []Chunk) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range chunks {
		x.touch(chunkID{chunks[i].Key, chunks[i].Client, chunks[i].High})
	}
}

// cutChunk is one chunk of bits in stored form, nil if it is empty.
func cutChunk(bits *roaring.Bitmap, high uint16) []byte {
	if bits == nil {
		return nil
	}
	first := uint64(high) << chunkBits
	cut := roaring.New()
	cut.AddRange(first, first+1<<chunkBits)
	cut.And(bits)
	if cut.IsEmpty() {
		return nil
	}
	cut.RunOptimize()
	b, err := cut.ToBytes()
	if err != nil {
		panic("segments: a bitmap in memory cannot be written: " + err.Error())
	}
	return b
}

// Load takes a stored chunk, replacing these bits. CodeCorrupt if it is not
// what TakeDirty gave.
func (x *Bitmaps) Load(c Chunk) error {
	cut, err := readChunk(c)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	bits := x.bits(c.Key, c.Client)
	first := uint64(c.High) << chunkBits
	bits.RemoveRange(first, first+1<<chunkBits)
	bits.Or(cut)
	return nil
}

// DealChunks deals out anew the bits of chunks that different lanes had: of one
// segment, or universe, and the same 65,536 numbers. to says which of the lanes,
// counted from 0, each number goes to; a chunk without Data has no bits. It gives
// a chunk for each lane. CodeCorrupt if one is not what TakeDirty gave.
func DealChunks(chunks []Chunk, lanes int, to func(proto.Ordinal) int) ([]Chunk, error) {
	sets := make([]*roaring.Bitmap, lanes)
	out := make([]Chunk, lanes)
	for _, c := range chunks {
		cut, err := readChunk(c)
		if err != nil {
			return nil, err
		}
		for it := cut.Iterator(); it.HasNext(); {
			o := it.Next()
			i := to(proto.Ordinal(o))
			if sets[i] == nil {
				sets[i] = roaring.New()
			}
			sets[i].Add(o)
		}
	}
	for i := range out {
		out[i] = Chunk{Key: chunks[0].Key, Client: chunks[0].Client, High: chunks[0].High, Data: cutChunk(sets[i], chunks[0].High)}
	}
	return out, nil
}

func readChunk(c Chunk) (*roaring.Bitmap, error) {
	cut := roaring.New()
	if len(c.Data) == 0 {
		return cut, nil
	}
	if len(c.Data) > ChunkBytesMax {
		return nil, corruptChunk(c, "it has %d bytes, at most %d are possible", len(c.Data), ChunkBytesMax)
	}
	// One container only, before the reader makes room for as many as it says.
	if n, ok := proto.RoaringContainers(c.Data); !ok || n != 1 {
		return nil, corruptChunk(c, "it does not hold one container")
	}
	n, err := cut.ReadFrom(bytes.NewReader(c.Data))
	if err != nil {
		return nil, corruptChunk(c, "%w", err)
	}
	if n != int64(len(c.Data)) {
		return nil, corruptChunk(c, "%d bytes follow the bitmap", int64(len(c.Data))-n)
	}
	if err := cut.Validate(); err != nil {
		return nil, corruptChunk(c, "%w", err)
	}
	if cut.IsEmpty() || cut.Minimum()>>chunkBits != uint32(c.High) || cut.Maximum()>>chunkBits != uint32(c.High) || cut.GetCardinality() > 1<<chunkBits {
		return nil, corruptChunk(c, "it holds other ordinals")
	}
	return cut, nil
}

func corruptChunk(c Chunk, format string, args ...any) error {
	return proto.Errorf(proto.CodeCorrupt, "stored bitmap of segment %d, client %d, chunk %d is damaged: rebuild it with `kith verify`, or restore a backup: %w",
		c.Key, c.Client, c.High, proto.Errorf(proto.CodeCorrupt, format, args...))
}

// Deltas in a journal are: number of groups; per group, ascending by key then
// client: key, client, number of bits set, number of bits cleared, then both
// lists of ordinals, ascending, each as the distance from the one before less
// one (the first from -1). All are uvarints. The journal's key carries the
// version.

// AppendDeltas packs d. Of several deltas of one bit the last counts.
func AppendDeltas(b []byte, d []BitDelta) []byte {
	d = sortDeltas(d)
	groups := 0
	for i := range d {
		if i == 0 || compareGroups(d[i], d[i-1]) != 0 {
			groups++
		}
	}
	b = binary.AppendUvarint(b, uint64(groups))
	for len(d) > 0 {
		n := 1
		for n < len(d) && compareGroups(d[n], d[0]) == 0 {
			n++
		}
		b = appendGroup(b, d[:n])
		d = d[n:]
	}
	return b
}

func compareGroups(a, b BitDelta) int {
	return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Client, b.Client))
}

func compareDeltas(a, b BitDelta) int {
	return cmp.Or(compareGroups(a, b), cmp.Compare(a.Ordinal, b.Ordinal))
}

// sortDeltas is a sorted copy of d with one delta, the last, per bit.
func sortDeltas(d []BitDelta) []BitDelta {
	d = slices.Clone(d)
	slices.SortStableFunc(d, compareDeltas)
	out := d[:0]
	for i := range d {
		if i+1 == len(d) || compareDeltas(d[i], d[i+1]) != 0 {
			out = append(out, d[i])
		}
	}
	return out
}

func appendGroup(b []byte, d []BitDelta) []byte {
	set := 0
	for i := range d {
		if d[i].Set {
			set++
		}
	}
	b = binary.AppendUvarint(b, uint64(d[0].Key))
	b = binary.AppendUvarint(b, uint64(d[0].Client))
	b = binary.AppendUvarint(b, uint64(set))
	b = binary.AppendUvarint(b, uint64(len(d)-set))
	for _, want := range [2]bool{true, false} {
		next := uint64(0)
		for i := range d {
			if d[i].Set == want {
				b = binary.AppendUvarint(b, uint64(d[i].Ordinal)-next)
				next = uint64(d[i].Ordinal) + 1
			}
		}
	}
	return b
}

// ReadDeltas unpacks what AppendDeltas packed, ordered by key, client and
// ordinal. CodeCorrupt if b is anything else.
func ReadDeltas(b []byte) ([]BitDelta, error) {
	r := proto.NewReader(b)
	var out []BitDelta
	for range r.Count(5) {
		at := len(out)
		out = readGroup(&r, out)
		if at > 0 && len(out) > at && compareGroups(out[at-1], out[at]) >= 0 {
			r.Fail()
		}
	}
	if r.Bad() || r.Len() != 0 {
		return nil, proto.Errorf(proto.CodeCorrupt, "bitmap deltas in the journal are malformed: restore a backup, or rebuild from the log")
	}
	return out, nil
}

// readGroup merges the two lists of a group; a bit in both is a failure.
func readGroup(r *proto.Reader, out []BitDelta) []BitDelta {
	key, client := r.Uvarint(), r.Uvarint()
	sets, clears := r.Count(1), r.Count(1)
	if key > math.MaxUint32 || client > math.MaxUint32 || sets+clears == 0 {
		r.Fail()
		return out
	}
	at := len(out)
	for i, next := 0, uint64(0); i < sets+clears && !r.Bad(); i++ {
		if i == sets {
			next = 0
		}
		gap := r.Uvarint()
		if gap > math.MaxUint32 || next+gap > math.MaxUint32 {
			r.Fail()
			return out
		}
		out = append(out, BitDelta{proto.SegmentKey(key), proto.ClientID(client), proto.Ordinal(next + gap), i < sets})
		next += gap + 1
	}
	slices.SortFunc(out[at:], compareDeltas)
	for i := at + 1; i < len(out); i++ {
		if out[i].Ordinal == out[i-1].Ordinal {
			r.Fail()
		}
	}
	return out
}
