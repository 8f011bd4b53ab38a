package ingest

import (
	"strconv"
	"time"
	"unicode/utf8"

	"kith/proto"
)

// Row is one event on its way from a line to a post.
type Row struct {
	Event      string
	Time       time.Time // zero: the node's time of receipt
	ID         string    // empty: made from the line
	Identities []string
	Props      []byte // a JSON object, or empty
	URL, Ref   string
	RefQuery   string // what may be search terms of Ref, where that has no query
	UserAgent  string // of who is at the other end
	Limited    bool   // the device limits ad tracking
}

func (r *Row) reset() { *r = Row{Identities: r.Identities[:0], Props: r.Props[:0]} }

// appendJSON writes the row as POST /v1/events takes it.
func (r *Row) appendJSON(b []byte) []byte {
	b = appendString(append(b, `{"event":`...), r.Event)
	if !r.Time.IsZero() {
		b = append(b, `,"time":"`...)
		b = r.Time.UTC().AppendFormat(b, time.RFC3339Nano)
		b = append(b, '"')
	}
	b = appendString(append(b, `,"id":`...), r.ID)
	b = append(b, `,"identities":[`...)
	for i, id := range r.Identities {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, id)
	}
	b = append(b, ']')
	if len(r.Props) > 0 {
		b = append(append(b, `,"props":`...), r.Props...)
	}
	if r.URL != "" {
		b = appendString(append(b, `,"url":`...), r.URL)
	}
	if r.Ref != "" {
		b = appendString(append(b, `,"ref":`...), r.Ref)
	}
	if r.RefQuery != "" {
		b = appendString(append(b, `,"ref_query":`...), r.RefQuery)
	}
	if r.UserAgent != "" {
		b = appendString(append(b, `,"user_agent":`...), r.UserAgent)
	}
	if r.Limited {
		b = append(b, `,"lmt":true`...)
	}
	return append(b, '}')
}

// appendTraits writes the row as POST /v1/traits takes it.
func (r *Row) appendTraits(b []byte) []byte {
	b = appendString(append(b, `{"identity":`...), r.Identities[0])
	b = append(append(b, `,"traits":`...), r.Props...)
	return append(b, '}')
}

// addText adds a text property; props must hold no property of that key.
func (r *Row) addText(key, value string) {
	r.addKey(key)
	r.Props = appendString(r.Props, value)
}

func (r *Row) addNumber(key string, value int64) {
	r.addKey(key)
	r.Props = strconv.AppendInt(r.Props, value, 10)
}

func (r *Row) addKey(key string) {
	if len(r.Props) == 0 {
		r.Props = append(r.Props, '{')
	} else {
		r.Props = append(r.Props, ',')
	}
	r.Props = append(appendString(r.Props, key), ':')
}

// endProps closes the object that the adders opened.
func (r *Row) endProps() {
	if len(r.Props) > 0 {
		r.Props = append(r.Props, '}')
	}
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string; invalid UTF-8 becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				b = append(append(b, s[start:i]...), "\ufffd"...)
				start = i + 1
			}
			i += size
			continue
		}
		if c < ' ' || c == '"' || c == '\\' {
			b = append(append(b, s[start:i]...), `\u00`...)
			b = append(b, hexDigits[c>>4], hexDigits[c&15])
			start = i + 1
		}
		i++
	}
	return append(append(b, s[start:]...), '"')
}

// decoder turns a line into a row. One decoder reads one input, in order.
type decoder interface {
	decode(line []byte, row *Row) *proto.Error
}

func newDecoder(o Options) decoder {
	switch o.Format {
	case CSV:
		return &csvDecoder{}
	case Identities, Traits:
		return newColumnDecoder(o)
	case Combined:
		return newCombinedDecoder(o.Salt)
	}
	return ndjsonDecoder{}
}
