package ingest

import (
	"slices"
	"strings"
	"unicode/utf8"

	"kith/proto"
)

// csvDecoder reads rows under a header. Columns named event, time, identity
// (or identities, several separated by |), url, ref, ref_query, user_agent, lmt and
// id are the event's own; every other column is a text property, left out where the cell is
// empty (rules compare text with numbers where it parses as one). A row is one
// line: a line break inside quotes is refused.
type csvDecoder struct{ csvRows }

// csvRows are rows of as many cells as their header.
type csvRows struct {
	header []string
	cells  []string
}

// split reads a row's cells.
func (c *csvRows) split(text string) *proto.Error {
	if !utf8.ValidString(text) {
		return proto.Errorf(ReasonMalformed, "the row is not valid UTF-8")
	}
	var ok bool
	if c.cells, ok = splitCSV(text, c.cells[:0]); !ok {
		return proto.Errorf(ReasonMalformed, "a quote is not closed, or stands inside a cell that does not begin with one")
	}
	if len(c.cells) != len(c.header) {
		return proto.Errorf(ReasonMalformed, "the row has %d cells but the header has %d", len(c.cells), len(c.header))
	}
	return nil
}

func (d *csvDecoder) decode(line []byte, row *Row) *proto.Error {
	if d.header == nil {
		return d.readHeader(string(line))
	}
	if refusal := d.split(string(line)); refusal != nil {
		return refusal
	}
	for i, cell := range d.cells {
		if cell == "" {
			continue
		}
		if refusal := row.setColumn(d.header[i], cell); refusal != nil {
			return refusal
		}
	}
	row.endProps()
	return nil
}

// isHeader is given for the line that names the columns: no row at all.
var isHeader = proto.Errorf("header", "the line names the columns")

// readHeader takes the first line that is not empty. If it can be no header the
// whole load fails: a row taken for one would be lost, and all others with it.
func (d *csvDecoder) readHeader(line string) *proto.Error {
	header, ok := splitCSV(line, nil)
	if !ok || !utf8.ValidString(line) {
		return proto.Errorf(reasonHeader, "the header row does not parse as CSV in UTF-8")
	}
	own := false
	for i, name := range header {
		name = strings.TrimSpace(name) // behind "a, b" a property would be " b", which no rule asks for
		header[i] = name
		if name == "" || slices.Contains(header[:i], name) {
			return proto.Errorf(reasonHeader, "the header has an empty column or %s twice: give each column a name of its own", clipName(name))
		}
		own = own || name == "event" || name == "identity" || name == "identities"
	}
	if !own {
		return proto.Errorf(reasonHeader, "the header has no column event, identity or identities: put the names of the columns before the rows")
	}
	d.header = header
	return isHeader
}

func (r *Row) setColumn(name, cell string) *proto.Error {
	var refusal *proto.Error
	switch name {
	case "event":
		r.Event = cell
	case "time":
		r.Time, refusal = parseTime(cell)
	case "id":
		r.ID = cell
	case "identity", "identities":
		r.Identities = append(r.Identities, strings.Split(cell, "|")...)
	case "url":
		r.URL = cell
	case "ref":
		r.Ref = cell
	case "ref_query":
		r.RefQuery = cell
	case "user_agent":
		r.UserAgent = cell
	case "lmt":
		v := strings.ToLower(cell) // tables write False, no and 0.0
		r.Limited = v != "no" && v != "0.0" && limited(v)
	default:
		r.addText(name, cell)
	}
	return refusal
}

// splitCSV appends the cells of one line to cells. It is RFC 4180 within a
// line: ok is false where encoding/csv would fail too.
func splitCSV(line string, cells []string) (_ []string, ok bool) {
	for {
		var cell string
		if !strings.HasPrefix(line, `"`) {
			end := strings.IndexByte(line, ',')
			if end < 0 {
				return append(cells, line), !strings.Contains(line, `"`)
			}
			cell, line = line[:end], line[end+1:]
			if strings.Contains(cell, `"`) {
				return cells, false
			}
			cells = append(cells, cell)
			continue
		}
		cell, line, ok = cutQuoted(line[1:])
		if !ok {
			return cells, false
		}
		cells = append(cells, cell)
		if line == "" {
			return cells, true
		}
		if line[0] != ',' {
			return cells, false
		}
		line = line[1:]
	}
}

// cutQuoted reads up to the closing quote; a doubled quote stands for one.
func cutQuoted(s string) (cell, rest string, ok bool) {
	var b strings.Builder
	for {
		end := strings.IndexByte(s, '"')
		if end < 0 {
			return "", "", false
		}
		if !strings.HasPrefix(s[end+1:], `"`) {
			if b.Len() == 0 {
				return s[:end], s[end+1:], true
			}
			b.WriteString(s[:end])
			return b.String(), s[end+1:], true
		}
		b.WriteString(s[:end+1])
		s = s[end+2:]
	}
}
