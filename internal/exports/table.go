package exports

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"unsafe"

	"github.com/parquet-go/parquet-go"

	"kith/proto"
)

// Number is a row of a table that does not name identities.
type Number struct {
	Lane    int32 `parquet:"lane" json:"lane"`
	Ordinal int64 `parquet:"ordinal" json:"ordinal"`
}

// Row is a row of a table that names identities.
type Row struct {
	Lane     int32  `parquet:"lane" json:"lane"`
	Ordinal  int64  `parquet:"ordinal" json:"ordinal"`
	Identity string `parquet:"identity" json:"identity"`
	Kind     string `parquet:"kind,dict" json:"kind"`
}

// UserRow is a row of a table of users with their members.
type UserRow struct {
	Lane      int32    `parquet:"lane" json:"lane"`
	Ordinal   int64    `parquet:"ordinal" json:"ordinal"`
	Identity  string   `parquet:"identity" json:"identity"`
	Kind      string   `parquet:"kind,dict" json:"kind"`
	Members   []string `parquet:"members,list" json:"members"`
	MemberIDs []int64  `parquet:"member_ids,list" json:"member_ids"`
}

// columns are the names of a part's columns.
func (p *part) columns() []string {
	list := []string{"lane", "ordinal", "identity", "kind", "members", "member_ids"}
	switch {
	case !p.named:
		return list[:2]
	case !p.lists():
		return list[:4]
	}
	return list
}

// lists reports whether the part has the columns of members.
func (p *part) lists() bool { return p.named && p.members != nil }

// scratch is what writing a part needs beside it.
type scratch struct {
	line    []byte
	field   []byte
	numbers []Number
	rows    []Row
	users   []UserRow
	members []string
	arrow   arrowScratch
}

// writeCSV writes RFC 4180. Lists are joined by spaces, which no identity has.
// encoding/csv would want a string for each field.
func (p *part) writeCSV() {
	b := append(p.scratch.line[:0], strings.Join(p.columns(), ",")+"\r\n"...)
	for i, o := range p.ordinals {
		b = strconv.AppendUint(b, uint64(p.lane), 10)
		b = append(b, ',')
		b = strconv.AppendUint(b, uint64(o), 10)
		if p.named {
			id := p.names.at(i)
			b = appendField(append(b, ','), id)
			b = appendField(append(b, ','), kindOf(id))
		}
		if p.lists() {
			b = p.appendLists(b, i)
		}
		b = append(b, "\r\n"...)
		if len(b) > lineBytes {
			p.buf.Write(b)
			b = b[:0]
		}
	}
	p.buf.Write(b)
	p.scratch.line = b
}

// lineBytes is how much is put together before it goes into the file.
const lineBytes = 32 << 10

// appendLists appends the two fields of a row's members.
func (p *part) appendLists(b []byte, row int) []byte {
	from, to := p.members.of(row)
	f := p.scratch.field[:0]
	for i := from; i < to; i++ {
		if i > from {
			f = append(f, ' ')
		}
		f = append(f, p.members.names.at(i)...)
	}
	p.scratch.field = f
	b = append(appendField(append(b, ','), f), ',')
	for i := from; i < to; i++ {
		if i > from {
			b = append(b, ' ')
		}
		b = strconv.AppendInt(b, p.members.ids[i], 10)
	}
	return b
}

// appendField appends a field that holds no line break, in quotes if it needs
// them.
func appendField(b, field []byte) []byte {
	if bytes.IndexByte(field, ',') < 0 && bytes.IndexByte(field, '"') < 0 {
		return append(b, field...)
	}
	b = append(b, '"')
	for _, c := range field {
		if c == '"' {
			b = append(b, '"')
		}
		b = append(b, c)
	}
	return append(b, '"')
}

// writeNDJSON writes an object a line.
func (p *part) writeNDJSON() error {
	var err error
	b := p.scratch.line[:0]
	for i, o := range p.ordinals {
		b = strconv.AppendUint(append(b, `{"lane":`...), uint64(p.lane), 10)
		b = strconv.AppendUint(append(b, `,"ordinal":`...), uint64(o), 10)
		if p.named {
			id := p.names.at(i)
			if b, err = appendText(append(b, `,"identity":`...), id); err != nil {
				return err
			}
			if b, err = appendText(append(b, `,"kind":`...), kindOf(id)); err != nil {
				return err
			}
		}
		if p.lists() {
			if b, err = p.appendArrays(b, i); err != nil {
				return err
			}
		}
		b = append(b, "}\n"...)
		if len(b) > lineBytes {
			p.buf.Write(b)
			b = b[:0]
		}
	}
	p.buf.Write(b)
	p.scratch.line = b
	return nil
}

func (p *part) appendArrays(b []byte, row int) (_ []byte, err error) {
	from, to := p.members.of(row)
	b = append(b, `,"members":[`...)
	for i := from; i < to; i++ {
		if i > from {
			b = append(b, ',')
		}
		if b, err = appendText(b, p.members.names.at(i)); err != nil {
			return b, err
		}
	}
	b = append(b, `],"member_ids":[`...)
	for i := from; i < to; i++ {
		if i > from {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, p.members.ids[i], 10)
	}
	return append(b, ']'), nil
}

// appendText appends a text as JSON; encoding/json writes those that need more
// than quotes.
func appendText(b, text []byte) ([]byte, error) {
	for _, c := range text {
		if c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			var buf bytes.Buffer
			e := json.NewEncoder(&buf)
			e.SetEscapeHTML(false)
			err := e.Encode(string(text))
			return append(b, bytes.TrimSuffix(buf.Bytes(), []byte{'\n'})...), err
		}
	}
	return append(append(append(b, '"'), text...), '"'), nil
}

// writeParquet writes one row group, compressed as all readers can.
func (p *part) writeParquet() error {
	s := &p.scratch
	switch {
	case !p.named:
		s.numbers = s.numbers[:0]
		for _, o := range p.ordinals {
			s.numbers = append(s.numbers, Number{int32(p.lane), int64(o)})
		}
		return writeParquet(&p.buf, s.numbers)
	case !p.lists():
		s.rows = s.rows[:0]
		for i := range p.ordinals {
			s.rows = append(s.rows, p.row(i))
		}
		return writeParquet(&p.buf, s.rows)
	}
	return writeParquet(&p.buf, p.userRows())
}

// row is a row whose texts are p's until it is used again.
func (p *part) row(i int) Row {
	id := p.names.at(i)
	return Row{int32(p.lane), int64(p.ordinals[i]), lent(id), lent(kindOf(id))}
}

// userRows are the rows with their members, whose texts are p's likewise.
func (p *part) userRows() []UserRow {
	s, m := &p.scratch, p.members
	s.users, s.members = s.users[:0], s.members[:0]
	for i := range m.ids {
		s.members = append(s.members, lent(m.names.at(i)))
	}
	for i := range p.ordinals {
		from, to := m.of(i)
		r := p.row(i)
		s.users = append(s.users, UserRow{r.Lane, r.Ordinal, r.Identity, r.Kind, s.members[from:to], m.ids[from:to]})
	}
	return s.users
}

// lent is b as a string, for as long as b is not changed: a part's rows are
// copied when they are written.
func lent(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func writeParquet[T any](buf *bytes.Buffer, rows []T) error {
	w := parquet.NewGenericWriter[T](buf, parquet.Compression(&parquet.Snappy), parquet.CreatedBy("kith", strconv.Itoa(proto.ExportVersion), ""))
	if _, err := w.Write(rows); err != nil {
		return err
	}
	return w.Close()
}
