package gateway

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"kith/proto"
	"kith/proto/pb"
)

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
