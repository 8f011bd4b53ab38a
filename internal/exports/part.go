package exports

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"

	"kith/proto"
)

// texts are texts one behind another, without an object each.
type texts struct {
	all    []byte
	bounds []int32 // from the first's begin, which is 0, to the last's end
}

func (x *texts) reset() { x.all, x.bounds = x.all[:0], append(x.bounds[:0], 0) }

func (x *texts) add(b []byte) {
	x.all = append(x.all, b...)
	x.bounds = append(x.bounds, int32(len(x.all)))
}

func (x *texts) at(i int) []byte { return x.all[x.bounds[i]:x.bounds[i+1]] }

// part is one file of a table while it is made: its rows by column, so that a
// row costs no memory of its own, and its bytes. It is used again for another.
// It belongs to one goroutine.
type part struct {
	file     proto.ExportFile
	lane     proto.LaneID
	room     [proto.ExportPartRows]uint32
	ordinals []uint32 // the rows, ascending, in room
	named    bool
	names    texts        // by row, if named
	members  *memberLists // of users, if they are wanted
	buf      bytes.Buffer

	scratch scratch
}

// make names the rows and writes the file.
func (p *part) make(a *Audience) error {
	if p.named {
		if err := p.name(a); err != nil {
			return err
		}
	}
	p.buf.Reset()
	if err := p.write(); err != nil {
		return proto.Errorf(proto.CodeInternal, "a table cannot be written as %s: %w", p.file.Format, err)
	}
	h := sha256.Sum256(p.buf.Bytes())
	p.file.Rows, p.file.Bytes, p.file.SHA256 = uint64(len(p.ordinals)), int64(p.buf.Len()), hex.EncodeToString(h[:])
	return nil
}

func (p *part) name(a *Audience) error {
	p.names.reset()
	err := a.Names.Name(p.lane, p.ordinals, func(_ proto.Ordinal, id []byte) { p.names.add(id) })
	if err == nil && p.members != nil {
		err = p.members.read(a, p)
	}
	return err
}

func (p *part) write() error {
	switch proto.ExportFormat(p.file.Format) {
	case proto.FormatCSV:
		p.writeCSV()
		return nil
	case proto.FormatNDJSON:
		return p.writeNDJSON()
	case proto.FormatArrow:
		return p.writeArrow()
	}
	return p.writeParquet()
}

// kindOf is the kind of a written identity.
func kindOf(id []byte) []byte {
	kind, _, _ := bytes.Cut(id, []byte{':'})
	return kind
}
