package identity

import (
	"encoding/binary"
	"iter"

	"kith/proto"
)

const blockVersion = 1

// seal is the tail as a block.
func (h *History) seal() []byte {
	b := make([]byte, 0, len(h.Tail)+16)
	b = append(b, blockVersion)
	b = binary.AppendUvarint(b, uint64(h.TailEvents))
	b = proto.AppendVarint(b, int64(h.base))
	return append(b, h.Tail...)
}

// history walks a client's events in the order of their arrival. The body is
// reused from one to the next.
func (p *Stepper) history(f *Facts, in *Input) iter.Seq2[proto.Millis, *proto.EventBody] {
	return func(yield func(proto.Millis, *proto.EventBody) bool) {
		if f.History.First != f.History.Next && in.History != nil {
			for block := range in.History(f.Client) {
				if !walkBlock(block, &p.body, yield) {
					return
				}
			}
		}
		f.History.WalkTail(&p.body, yield)
	}
}

// WalkTail gives the events of the tail, reusing body; false if yield ended it.
func (h *History) WalkTail(body *proto.EventBody, yield func(proto.Millis, *proto.EventBody) bool) bool {
	r := proto.NewReader(h.Tail)
	return walkRecords(&r, h.TailEvents, h.base, body, yield)
}

// WalkBlock gives the events of a sealed block, reusing body. CodeCorrupt if
// the block is malformed.
func WalkBlock(block []byte, body *proto.EventBody, yield func(proto.Millis, *proto.EventBody) bool) error {
	if err := CheckBlock(block); err != nil {
		return err
	}
	walkBlock(block, body, yield)
	return nil
}

func walkBlock(block []byte, body *proto.EventBody, yield func(proto.Millis, *proto.EventBody) bool) bool {
	r := proto.NewReader(block)
	r.Byte()
	n := r.Count(2)
	base := proto.Millis(r.Varint())
	return walkRecords(&r, n, base, body, yield)
}

func walkRecords(r *proto.Reader, n int, base proto.Millis, body *proto.EventBody, yield func(proto.Millis, *proto.EventBody) bool) bool {
	t := base
	for range n {
		t += proto.Millis(r.Varint())
		rec := proto.NewReader(r.Bytes())
		body.Read(&rec)
		if r.Bad() || rec.Bad() {
			return false
		}
		if !yield(t, body) {
			return false
		}
	}
	return true
}

// CheckBlock reports whether a block is well-formed.
func CheckBlock(block []byte) error {
	r := proto.NewReader(block)
	if v := r.Byte(); v != blockVersion {
		return proto.Errorf(proto.CodeCorrupt, "history block has version %d, this build reads %d", v, blockVersion)
	}
	return checkRecords(&r, r.Count(2), "history block")
}

func checkRecords(r *proto.Reader, n int, what string) error {
	var body proto.EventBody
	if what == "history block" {
		r.Varint() // base
	}
	for range n {
		r.Varint()
		rec := proto.NewReader(r.Bytes())
		body.Read(&rec)
		if rec.Bad() || rec.Len() != 0 {
			r.Fail()
		}
	}
	if r.Bad() || r.Len() != 0 {
		return proto.Errorf(proto.CodeCorrupt, "%s is malformed", what)
	}
	return nil
}
