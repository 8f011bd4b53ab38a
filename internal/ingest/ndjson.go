package ingest

import (
	"bytes"
	"encoding/json"
	"time"

	"kith/proto"
)

// ndjsonDecoder reads one event object a line, with the fields of
// POST /v1/events. Fields that it does not know are left out.
type ndjsonDecoder struct{}

type jsonEvent struct {
	Event      string          `json:"event"`
	Time       string          `json:"time"`
	ID         string          `json:"id"`
	Identities []*string       `json:"identities"`
	Props      json.RawMessage `json:"props"`
	URL        string          `json:"url"`
	Ref        string          `json:"ref"`
	RefQuery   string          `json:"ref_query"`
	Limited    json.RawMessage `json:"lmt"`
	UserAgent  string          `json:"user_agent"`
}

func (ndjsonDecoder) decode(line []byte, row *Row) *proto.Error {
	var e jsonEvent // anew: the decoder leaves what a reused one holds where the line says null
	if err := json.Unmarshal(line, &e); err != nil {
		return proto.Errorf(ReasonMalformed, "the line is not an event object: %v", err)
	}
	if bytes.Equal(bytes.TrimSpace(line), []byte("null")) {
		return proto.Errorf(ReasonMalformed, "the line is null, not an event object")
	}
	when, refusal := parseTime(e.Time)
	if refusal != nil {
		return refusal
	}
	for _, id := range e.Identities {
		if id == nil {
			return proto.Errorf(proto.CodeIdentity, "identities must be an array of strings, without null")
		}
		row.Identities = append(row.Identities, *id)
	}
	row.Event, row.Time, row.ID = e.Event, when, e.ID
	row.URL, row.Ref, row.RefQuery, row.UserAgent = e.URL, e.Ref, e.RefQuery, e.UserAgent
	row.Limited = limited(string(e.Limited))
	if nests(e.Props) {
		return proto.Errorf(proto.CodeEvent, "a property must be a string, a number, true, false or null")
	}
	if !bytes.Equal(e.Props, []byte("null")) {
		row.Props = append(row.Props, e.Props...)
	}
	return nil
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

// parseTime reads RFC 3339; empty is the time of receipt.
func parseTime(s string) (time.Time, *proto.Error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, proto.Errorf(proto.CodeTime, "time %.40q is not RFC 3339, such as 2026-11-22T09:30:00Z", s)
	}
	return t, nil
}
