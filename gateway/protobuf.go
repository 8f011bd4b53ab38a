package gateway

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"kith/proto"
	"kith/proto/pb"
)

// eachPart gives what has a length of an encoded message, such as texts and messages in
// it, in order and as it lies there. As objects two bytes may be two hundred, so a
// body's parts are counted before any is made.
func eachPart(message string, b []byte, fn func(num protowire.Number, part []byte) error) error {
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		if n >= 0 && !num.IsValid() {
			return notProtobuf(message, errFieldNumber)
		}
		m := n
		if n >= 0 {
			m = protowire.ConsumeFieldValue(num, kind, b[n:])
		}
		if m < 0 {
			return notProtobuf(message, protowire.ParseError(m))
		}
		if kind == protowire.BytesType {
			part, _ := protowire.ConsumeBytes(b[n:])
			if err := fn(num, part); err != nil {
				return err
			}
		}
		b = b[n+m:]
	}
	return nil
}

var (
	errFieldNumber = errors.New("a field's number is not valid")
	errNoUTF8      = errors.New("a text is not valid UTF-8")
)

func notProtobuf(message string, err error) error {
	return proto.Errorf(proto.CodeInvalid, "the body is not a protobuf %s: %w", message, err)
}

// sortedKeys gives an order to properties, which protobuf does not.
func sortedKeys(m map[string]*pb.Value) []string { return slices.Sorted(maps.Keys(m)) }

func valueOf(v *pb.Value) proto.Value {
	switch k := v.GetKind().(type) {
	case *pb.Value_Number:
		return proto.NumberOf(k.Number)
	case *pb.Value_Flag:
		return proto.FlagOf(k.Flag)
	}
	return proto.TextOf(v.GetText())
}

// legible reports whether s is UTF-8 without control characters.
func legible(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f {
			return legibleRunes(s[i:])
		}
	}
	return true
}

// legibleRunes is legible of texts that are not all of ASCII's letters and signs.
func legibleRunes(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 })
}
