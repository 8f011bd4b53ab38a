package identity

import (
	"encoding/binary"
	"iter"
	"slices"

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
	var w recordReader
	t := base
	for range n {
		t += proto.Millis(r.Varint())
		rec := proto.NewReader(r.Bytes())
		w.read(&rec, body)
		if r.Bad() || rec.Bad() {
			return false
		}
		if !yield(t, body) {
			return false
		}
	}
	return true
}

// A record's body is, for the first of a tail or block, the event's own form;
// for those after it, how they differ from that first one, because the events
// of a visitor are much alike: flags, then what the flags name, in this order.
const (
	otherName  = 1 << iota // the name
	otherRef               // the referrer
	otherURL               // how many bytes the URLs begin with alike, the rest
	otherProps             // their number, then each: how it differs, key, value
)

// How a property differs from the one at its place in the first record.
const (
	sameProp   = iota // not at all
	otherValue        // key alike, the value follows
	otherProp         // key and value follow
)

// appendBody codes e against first, or in full if first is nil.
func appendBody(b []byte, first, e *proto.EventBody) []byte {
	if first == nil {
		return e.Append(b)
	}
	at := len(b)
	b = append(b, 0)
	if e.Name != first.Name {
		b[at] |= otherName
		b = proto.AppendString(b, e.Name)
	}
	if e.Ref != first.Ref {
		b[at] |= otherRef
		b = proto.AppendString(b, e.Ref)
	}
	if e.URL != first.URL {
		b[at] |= otherURL
		n := commonPrefix(e.URL, first.URL)
		b = binary.AppendUvarint(b, uint64(n))
		b = proto.AppendString(b, e.URL[n:])
	}
	if !slices.EqualFunc(e.Props, first.Props, proto.Prop.Same) {
		b[at] |= otherProps
		b = appendProps(b, first.Props, e.Props)
	}
	return b
}

// commonPrefix is how many bytes a and b begin with alike: of two pages of a site nearly
// all, so that many are compared at once first.
func commonPrefix(a, b string) int {
	const step = 16
	i, n := 0, min(len(a), len(b))
	for i+step <= n && a[i:i+step] == b[i:i+step] {
		i += step
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

func appendProps(b []byte, first, props []proto.Prop) []byte {
	b = binary.AppendUvarint(b, uint64(len(props)))
	for i, p := range props {
		switch {
		case i < len(first) && p.Same(first[i]):
			b = append(b, sameProp)
		case i < len(first) && p.Key == first[i].Key:
			b = p.Value.Append(append(b, otherValue))
		default:
			b = p.Value.Append(proto.AppendString(append(b, otherProp), p.Key))
		}
	}
	return b
}

// recordReader reads the records of one tail or block in their order.
type recordReader struct {
	first proto.EventBody
	begun bool
	url   []byte // scratch: valid until the next record
}

// read decodes a record into body, whose slices it reuses. Strings alias the
// record, the first record or scratch.
func (w *recordReader) read(r *proto.Reader, body *proto.EventBody) {
	if !w.begun {
		w.begun = true
		w.first.Read(r)
		*body = proto.EventBody{Name: w.first.Name, URL: w.first.URL, Ref: w.first.Ref, Props: append(body.Props[:0], w.first.Props...)}
		return
	}
	flags := r.Byte()
	body.Name, body.Ref, body.URL = w.first.Name, w.first.Ref, w.first.URL
	if flags&otherName != 0 {
		body.Name = r.String()
	}
	if flags&otherRef != 0 {
		body.Ref = r.String()
	}
	if flags&otherURL != 0 {
		body.URL = w.readURL(r)
	}
	body.Props = append(body.Props[:0], w.first.Props...)
	if flags&otherProps != 0 {
		body.Props = w.readProps(r, body.Props[:0])
	}
	if flags >= otherProps<<1 || r.Len() != 0 {
		r.Fail()
	}
}

func (w *recordReader) readURL(r *proto.Reader) string {
	n := r.Uvarint()
	if n > uint64(len(w.first.URL)) {
		r.Fail()
		return ""
	}
	w.url = append(append(w.url[:0], w.first.URL[:n]...), r.Bytes()...)
	return string(w.url)
}

func (w *recordReader) readProps(r *proto.Reader, props []proto.Prop) []proto.Prop {
	for i := range r.Count(1) {
		how := r.Byte()
		if how > otherProp || how != otherProp && i >= len(w.first.Props) {
			r.Fail()
			return props
		}
		var p proto.Prop
		switch how {
		case sameProp:
			p = w.first.Props[i]
		case otherValue:
			p = proto.Prop{Key: w.first.Props[i].Key, Value: proto.ReadValue(r)}
		case otherProp:
			p = proto.Prop{Key: r.String(), Value: proto.ReadValue(r)}
		}
		props = append(props, p)
	}
	return props
}

// CheckBlock reports whether a block is well-formed.
func CheckBlock(block []byte) error {
	r := proto.NewReader(block)
	if v := r.Byte(); v != blockVersion {
		return proto.Errorf(proto.CodeCorrupt, "history block has version %d, this build reads %d", v, blockVersion)
	}
	n := r.Count(2)
	r.Varint() // base
	return checkRecords(&r, n, "history block")
}

func checkRecords(r *proto.Reader, n int, what string) error {
	var c recordChecker
	for range n {
		r.Varint()
		rec := proto.NewReader(r.Bytes())
		c.check(&rec)
		if rec.Bad() || rec.Len() != 0 {
			r.Fail()
		}
	}
	if r.Bad() || r.Len() != 0 {
		return proto.Errorf(proto.CodeCorrupt, "%s is malformed", what)
	}
	return nil
}

// recordChecker walks records as recordReader does, and makes nothing of them:
// every activation of an identity checks its tail.
type recordChecker struct {
	begun      bool
	url, props int // of the first record
}

func (c *recordChecker) check(r *proto.Reader) {
	if !c.begun {
		c.begun = true
		r.Bytes()
		c.url = len(r.Bytes())
		r.Bytes()
		c.props = r.Count(2)
		for range c.props {
			r.Bytes()
			proto.ReadValue(r)
		}
		return
	}
	flags := r.Byte()
	for _, f := range []byte{otherName, otherRef} {
		if flags&f != 0 {
			r.Bytes()
		}
	}
	if flags&otherURL != 0 {
		if r.Uvarint() > uint64(c.url) {
			r.Fail()
		}
		r.Bytes()
	}
	if flags&otherProps != 0 {
		c.checkProps(r)
	}
	if flags >= otherProps<<1 {
		r.Fail()
	}
}

func (c *recordChecker) checkProps(r *proto.Reader) {
	for i := range r.Count(1) {
		how := r.Byte()
		if how > otherProp || how != otherProp && i >= c.props {
			r.Fail()
			return
		}
		if how == otherProp {
			r.Bytes()
		}
		if how != sameProp {
			proto.ReadValue(r)
		}
	}
}
