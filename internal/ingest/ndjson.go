package ingest

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"kith/proto"
)

// ndjsonDecoder reads one event object a line, with the fields of
// POST /v1/events. Fields that it does not know are left out.
type ndjsonDecoder struct{}

func (ndjsonDecoder) decode(line []byte, row *Row) *proto.Error {
	var fields map[string]json.RawMessage // a struct would take names in any case
	if err := json.Unmarshal(line, &fields); err != nil {
		return proto.Errorf(ReasonMalformed, "the line is not an event object: %v", err)
	}
	if fields == nil {
		return proto.Errorf(ReasonMalformed, "the line is null, not an event object")
	}
	if members(line) > len(fields) {
		if name := twice(line); name != "" {
			return proto.Errorf(proto.CodeEvent, "the field %s is there twice: send it once", name)
		}
	}
	var when string
	var identities []*string // null must be told from a text
	for _, f := range []struct {
		name string
		to   any
	}{
		{"event", &row.Event}, {"time", &when}, {"id", &row.ID}, {"identities", &identities}, {"url", &row.URL},
		{"ref", &row.Ref}, {"ref_query", &row.RefQuery}, {"user_agent", &row.UserAgent}, {"props", new(json.RawMessage)},
	} {
		raw, ok := fields[f.name]
		if !ok {
			continue
		}
		if !isUnicode(raw) {
			return proto.Errorf(ReasonMalformed, "the field %s is not valid UTF-8, or has half of a surrogate pair", f.name)
		}
		if text, ok := f.to.(*string); ok && raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0 {
			*text = string(raw[1 : len(raw)-1]) // most texts are as they stand; to decode them takes long
			continue
		}
		if err := json.Unmarshal(raw, f.to); err != nil {
			return proto.Errorf(ReasonMalformed, "the field %s is of the wrong type: send texts in quotes, and identities as an array of them", f.name)
		}
	}
	for _, id := range identities {
		if id == nil {
			return proto.Errorf(proto.CodeIdentity, "identities must be an array of strings, without null")
		}
		row.Identities = append(row.Identities, *id)
	}
	var refusal *proto.Error
	if row.Time, refusal = parseTime(when); refusal != nil {
		return refusal
	}
	row.Limited = limited(string(fields["lmt"]))
	props := fields["props"]
	if nests(props) {
		return proto.Errorf(proto.CodeEvent, "a property must be a string, a number, true, false or null")
	}
	if !bytes.Equal(props, []byte("null")) {
		row.Props = append(row.Props, props...)
	}
	return nil
}

// members counts those of a valid JSON object, each as often as it is there.
func members(b []byte) (n int) {
	depth, text := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			text = !text
		case text && c == '\\':
			i++
		case text:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		case c == ':' && depth == 1:
			n++
		}
	}
	return n
}

// twice is the first field of an event in a valid JSON object that was there before,
// "" if there is none.
func twice(b []byte) string {
	seen := map[string]bool{}
	d := json.NewDecoder(bytes.NewReader(b))
	_, _ = d.Token() // the brace
	for d.More() {
		token, _ := d.Token()
		name, _ := token.(string)
		switch name {
		case "event", "time", "id", "identities", "url", "ref", "ref_query", "user_agent", "props", "lmt":
			if seen[name] {
				return name
			}
			seen[name] = true
		}
		var value json.RawMessage
		if d.Decode(&value) != nil {
			break // not reached: the object is valid
		}
	}
	return ""
}

// isUnicode reports whether decoding JSON would put U+FFFD for nothing in it: for
// invalid UTF-8, or for an escaped surrogate without its other half. That would make
// different texts one.
func isUnicode(b []byte) bool {
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			continue
		}
		i++ // what is escaped
		if b[i] != 'u' || !utf16.IsSurrogate(escaped(b[i:])) {
			continue
		}
		if len(b) < i+11 || b[i+5] != '\\' || b[i+6] != 'u' || utf16.DecodeRune(escaped(b[i:]), escaped(b[i+6:])) == utf8.RuneError {
			return false
		}
		i += 10
	}
	return utf8.Valid(b)
}

// escaped is the code of an escape in valid JSON, from its u on.
func escaped(b []byte) rune {
	code, _ := strconv.ParseUint(string(b[1:5]), 16, 16)
	return rune(code)
}

// nests reports whether valid JSON has a value within a value within it. The node
// refuses such properties, and the whole post if they nest too deep.
func nests(b []byte) bool {
	depth, text := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			text = !text
		case text && c == '\\':
			i++
		case !text && (c == '{' || c == '['):
			if depth++; depth > 1 {
				return true
			}
		}
	}
	return false
}

// limited reports whether a value says that a device limits ad tracking: all but
// false and 0 does, as the node reads it.
func limited(v string) bool { return v != "" && v != "false" && v != "0" && v != "null" }

// parseTime reads RFC 3339, with small letters too, as the node does; empty is the time
// of receipt.
func parseTime(s string) (time.Time, *proto.Error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, strings.ToUpper(s))
	if err != nil {
		return t, proto.Errorf(proto.CodeTime, "time %.40q is not RFC 3339, such as 2026-11-22T09:30:00Z", s)
	}
	if t.IsZero() {
		return t, proto.Errorf(proto.CodeTime, "time %.40q is how programs write that there is none: leave it out for the time of receipt", s)
	}
	return t, nil
}
