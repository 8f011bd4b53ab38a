package exports

import (
	"bytes"
	"encoding/binary"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/proto"
)

// Bounds of sets that come from outside.
const (
	SetBytesMax   = 48 << 20
	SetMembersMax = 1 << 27 // of all lanes together
)

func tooMany() error {
	return proto.Errorf(proto.CodeTooLarge, "the earlier export has over %d members: make a whole export", SetMembersMax)
}

// AppendSet writes a set in portable form. Equal sets that came about
// differently may differ in their bytes.
func AppendSet(b []byte, set *roaring.Bitmap) ([]byte, error) {
	set.RunOptimize()
	buf := bytes.NewBuffer(b)
	if _, err := set.WriteTo(buf); err != nil {
		return nil, proto.Errorf(proto.CodeInternal, "a set cannot be written: %w", err)
	}
	return buf.Bytes(), nil
}

// ReadSet reads a portable set from outside.
func ReadSet(b []byte) (*roaring.Bitmap, error) {
	broken := proto.Errorf(proto.CodeInvalid, "a set of the earlier export is no sound roaring bitmap: give the export as it was written")
	if len(b) > SetBytesMax {
		return nil, proto.Errorf(proto.CodeTooLarge, "a set of the earlier export has %d bytes, at most %d are read: make a whole export", len(b), SetBytesMax)
	}
	// The reader makes room for as many containers as the bytes say.
	if n, ok := proto.RoaringContainers(b); !ok || n > 1<<16 || n > len(b)/4 {
		return nil, broken
	}
	set := roaring.New()
	n, err := set.ReadFrom(bytes.NewReader(b))
	switch {
	case err != nil || n != int64(len(b)) || set.Validate() != nil:
		return nil, broken
	case set.GetCardinality() > SetMembersMax:
		return nil, tooMany()
	}
	return set, nil
}

// sets64 is the portable 64-bit form of lanes' sets, in pieces: how many there
// are, then for each its upper 32 bits and the 32-bit set.
func sets64(lanes []proto.ExportLane, sets [][]byte) [][]byte {
	n := uint64(0)
	pieces := [][]byte{nil}
	for i, l := range lanes {
		if l.Count > 0 {
			n++
			pieces = append(pieces, binary.LittleEndian.AppendUint32(nil, uint32(l.Lane)), sets[i])
		}
	}
	pieces[0] = binary.LittleEndian.AppendUint64(nil, n)
	return pieces
}
