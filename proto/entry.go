package proto

import (
	"encoding/binary"
	"hash/crc32"

	gproto "google.golang.org/protobuf/proto"

	"kith/proto/pb"
)

// EntryVersion is the version of log entries that this build writes and reads.
const EntryVersion = 1

// ControlVersion is the version of control records.
const ControlVersion = 1

// Limits of one entry.
const (
	EntryCommandsMax = 4096
	EntryBytesMax    = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Entry is one record of a lane's log, opened and checked.
type Entry struct {
	Lane     LaneID
	Producer uint64
	Seq      uint64 // chain number of the producer
	Time     Millis
	Count    int
	Commands []byte // packed, see NextCommand
	CRC      uint32
}

// Encode seals e: it computes the CRC and writes the envelope.
func (e *Entry) Encode() ([]byte, error) {
	e.CRC = e.checksum()
	b, err := gproto.MarshalOptions{Deterministic: true}.Marshal(&pb.Entry{
		Version: EntryVersion, Lane: uint32(e.Lane), Producer: e.Producer, Seq: e.Seq,
		TimeMs: int64(e.Time), Count: uint32(e.Count), Commands: e.Commands, Crc: e.CRC,
	})
	if err != nil {
		return nil, Errorf(CodeInternal, "encode log entry: %w", err)
	}
	return b, nil
}

func (e *Entry) checksum() uint32 {
	var h [1 + 8 + 8 + 8 + 4]byte
	h[0] = byte(e.Lane)
	putLE64(h[1:], e.Producer)
	putLE64(h[9:], e.Seq)
	putLE64(h[17:], uint64(e.Time))
	binary.LittleEndian.PutUint32(h[25:], uint32(e.Count))
	return crc32.Update(crc32.Checksum(h[:], castagnoli), castagnoli, e.Commands)
}

// DecodeEntry opens an envelope and checks version, lane, CRC, counts and the
// outer form of every command. All failures have CodeCorrupt: the caller must
// quarantine the lane, never skip.
func DecodeEntry(b []byte, lane LaneID) (*Entry, error) {
	if len(b) > 2*EntryBytesMax {
		return nil, Errorf(CodeCorrupt, "log entry has %d bytes, more than any version writes", len(b))
	}
	var x pb.Entry
	if err := gproto.Unmarshal(b, &x); err != nil {
		return nil, Errorf(CodeCorrupt, "log entry is not an envelope: %w", err)
	}
	if x.Version != EntryVersion {
		return nil, Errorf(CodeCorrupt, "log entry has version %d, this build reads %d: install a kith that reads it", x.Version, EntryVersion)
	}
	e := &Entry{
		Lane: LaneID(x.Lane), Producer: x.Producer, Seq: x.Seq, Time: Millis(x.TimeMs),
		Count: int(x.Count), Commands: x.Commands, CRC: x.Crc,
	}
	if x.Lane != uint32(lane) {
		return nil, Errorf(CodeCorrupt, "log entry is of lane %d but lies in lane %d", x.Lane, lane)
	}
	if got := e.checksum(); got != e.CRC {
		return nil, Errorf(CodeCorrupt, "log entry fails its checksum: %08x, stored %08x", got, e.CRC)
	}
	if e.Seq == 0 || e.Count > EntryCommandsMax {
		return nil, Errorf(CodeCorrupt, "log entry has chain number %d and %d commands", e.Seq, e.Count)
	}
	rest, n := e.Commands, 0
	for len(rest) > 0 {
		var err error
		if _, rest, err = NextCommand(rest); err != nil {
			return nil, err
		}
		n++
	}
	if n != e.Count {
		return nil, Errorf(CodeCorrupt, "log entry holds %d commands but says %d", n, e.Count)
	}
	return e, nil
}

// EncodeControl writes a control record.
func EncodeControl(c *pb.Control) ([]byte, error) {
	c.Version = ControlVersion
	b, err := gproto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		return nil, Errorf(CodeInternal, "encode control record: %w", err)
	}
	return b, nil
}

// DecodeControl reads a control record. CodeCorrupt for another version or an
// unknown body.
func DecodeControl(b []byte) (*pb.Control, error) {
	var c pb.Control
	if err := gproto.Unmarshal(b, &c); err != nil {
		return nil, Errorf(CodeCorrupt, "control record is malformed: %w", err)
	}
	if c.Version != ControlVersion || c.Body == nil {
		return nil, Errorf(CodeCorrupt, "control record has version %d or an unknown body, this build reads version %d: install a kith that reads it", c.Version, ControlVersion)
	}
	return &c, nil
}
