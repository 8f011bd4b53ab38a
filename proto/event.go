package proto

import (
	"encoding/binary"
	"math"
	"slices"
	"strconv"
)

// Limits of one event.
const (
	EventNameBytesMax  = 128
	EventIDBytesMax    = 128
	EventURLBytesMax   = 2048
	EventPropsMax      = 64
	EventIdentitiesMax = 8
	PropKeyBytesMax    = 64
	PropTextBytesMax   = 1024
)

// ValueKind is the type of a property's value.
type ValueKind uint8

// The kinds, in the order of their bytes in a packed event.
const (
	TextValue ValueKind = iota
	NumberValue
	FalseValue
	TrueValue
)

// Value is a property's or trait's value: text, a finite number or a flag.
type Value struct {
	Kind   ValueKind
	Text   string
	Number float64
}

// TextOf, NumberOf and FlagOf make values.
func TextOf(s string) Value { return Value{Kind: TextValue, Text: s} }

// NumberOf makes a number.
func NumberOf(f float64) Value { return Value{Kind: NumberValue, Number: f} }

// FlagOf makes a flag.
func FlagOf(b bool) Value {
	if b {
		return Value{Kind: TrueValue}
	}
	return Value{Kind: FalseValue}
}

// Same reports whether both are packed alike: == takes 0 and -0, whose texts differ, for
// one. Logs of before the gateway made them one have both.
func (v Value) Same(o Value) bool {
	return v.Kind == o.Kind && v.Text == o.Text && math.Float64bits(v.Number) == math.Float64bits(o.Number)
}

// String is the text of v: a number in its shortest decimal form.
func (v Value) String() string {
	switch v.Kind {
	case NumberValue:
		return strconv.FormatFloat(v.Number, 'f', -1, 64)
	case FalseValue:
		return "false"
	case TrueValue:
		return "true"
	}
	return v.Text
}

// Append packs v: a kind byte, then the text with its length or eight bytes.
func (v Value) Append(b []byte) []byte {
	b = append(b, byte(v.Kind))
	switch v.Kind {
	case TextValue:
		b = AppendString(b, v.Text)
	case NumberValue:
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v.Number))
	}
	return b
}

// ReadValue reads what Append wrote; text aliases the reader's bytes.
func ReadValue(r *Reader) Value {
	v := Value{Kind: ValueKind(r.Byte())}
	switch v.Kind {
	case TextValue:
		v.Text = r.String()
	case NumberValue:
		v.Number = r.Float()
		if math.IsNaN(v.Number) || math.IsInf(v.Number, 0) {
			r.Fail()
		}
	case FalseValue, TrueValue:
	default:
		r.Fail()
	}
	return v
}

// Prop is one property of an event, or one trait of an identity.
type Prop struct {
	Key   string
	Value Value
}

// Same reports whether both are packed alike, as Value.Same does.
func (p Prop) Same(o Prop) bool { return p.Key == o.Key && p.Value.Same(o.Value) }

// EventBody is what rules see of an event, and what history keeps.
type EventBody struct {
	Name  string
	URL   string
	Ref   string
	Props []Prop // no key twice; in the order that the client sent
}

// Prop is the property named key, and whether there is one.
func (e *EventBody) Prop(key string) (Value, bool) {
	for i := range e.Props {
		if e.Props[i].Key == key {
			return e.Props[i].Value, true
		}
	}
	return Value{}, false
}

// Append packs the body: name, url, ref, then count and pairs of key, value.
func (e *EventBody) Append(b []byte) []byte {
	b = AppendString(b, e.Name)
	b = AppendString(b, e.URL)
	b = AppendString(b, e.Ref)
	b = binary.AppendUvarint(b, uint64(len(e.Props)))
	for i := range e.Props {
		b = AppendString(b, e.Props[i].Key)
		b = e.Props[i].Value.Append(b)
	}
	return b
}

// Read reads what Append wrote, reusing e's slices; strings alias the bytes.
func (e *EventBody) Read(r *Reader) {
	e.Name, e.URL, e.Ref = r.String(), r.String(), r.String()
	n := r.Count(2)
	e.Props = slices.Grow(e.Props[:0], n)
	for range n {
		e.Props = append(e.Props, Prop{Key: r.String(), Value: ReadValue(r)})
	}
}

// Event is one event as the log holds it. It belongs to Identities[0]; the
// others are linked to it.
type Event struct {
	Client     ClientID
	Space      SpaceID
	Time       Millis // when it happened, as the client said or the gateway saw
	Received   Millis // when the gateway took it
	ID         string // for deduplication; may be empty
	Identities []Identity
	EventBody
	Network NetworkKey // that Identities[0] was seen on; 0: not to be remembered
}

// Append packs the event: client, space, received, time as a delta to it, id,
// identities, body, and the network (8 bytes) if there is one.
func (e *Event) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(e.Client))
	b = binary.AppendUvarint(b, uint64(e.Space))
	b = AppendVarint(b, int64(e.Received))
	b = AppendVarint(b, int64(e.Time-e.Received))
	b = AppendString(b, e.ID)
	b = binary.AppendUvarint(b, uint64(len(e.Identities)))
	for _, id := range e.Identities {
		b = AppendString(b, string(id))
	}
	b = e.EventBody.Append(b)
	if e.Network != 0 {
		b = binary.LittleEndian.AppendUint64(b, uint64(e.Network))
	}
	return b
}

// DecodeEvent reads a packed event into e, reusing its slices. Strings alias
// b, which must not change while e is in use. CodeCorrupt if b is malformed.
func DecodeEvent(b []byte, e *Event) error {
	r := NewReader(b)
	e.Client = ClientID(r.Uvarint())
	e.Space = SpaceID(r.Uvarint())
	e.Received = Millis(r.Varint())
	e.Time = e.Received + Millis(r.Varint())
	e.ID = r.String()
	n := r.Count(1)
	e.Identities = slices.Grow(e.Identities[:0], n)
	for range n {
		e.Identities = append(e.Identities, Identity(r.String()))
	}
	e.EventBody.Read(&r)
	e.Network = 0
	if !r.Bad() && r.Len() > 0 {
		if e.Network = NetworkKey(r.Uint64()); e.Network == 0 {
			r.Fail()
		}
	}
	if r.Bad() || r.Len() != 0 || n == 0 {
		return Errorf(CodeCorrupt, "packed event of %d bytes is malformed", len(b))
	}
	return nil
}
