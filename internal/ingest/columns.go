package ingest

import (
	"cmp"
	"encoding/base64"
	"slices"
	"strings"
	"unicode/utf8"

	"kith/proto"
)

// Columns say what the columns of a client's own file are.
type Columns struct {
	// Identity is the column of identities. Default: the only column, else the one
	// called identity.
	Identity string
	// Kind is of identities that are bare values: account, partner.NAME and so on.
	// Values are then to look like hashes (or, of aaid and idfa, like UUIDs).
	// Empty: they are whole identities.
	Kind string
	// Traits names columns and the traits that they are. Nil: each but that of
	// identities, under its own name.
	Traits []Column
	// Personal names the personal data that a cell looks like, "" if none. Nil: it
	// is not looked for.
	Personal func(cell string) string
}

// Column is a column that is a trait.
type Column struct{ Name, Trait string }

// reasonHeader is of a header under which no row can be read: the whole load fails.
const reasonHeader proto.Code = "header"

// columnDecoder reads rows under a header: RFC 4180, line breaks in quotes too.
// Cells of all columns are looked through for personal data, also of those that are
// not sent: a file of hashes is no place for them.
type columnDecoder struct {
	Columns
	csvRows
	traits   bool
	identity int
	names    []string // of the trait that a column is; "": none
}

func newColumnDecoder(o Options) *columnDecoder {
	return &columnDecoder{Columns: o.Columns, traits: o.Format == Traits}
}

func (d *columnDecoder) decode(line []byte, row *Row) *proto.Error {
	text := string(line)
	if d.header == nil {
		return d.readHeader(text)
	}
	if refusal := d.split(text); refusal != nil {
		return refusal
	}
	if refusal := d.personal(); refusal != nil {
		return refusal
	}
	id, refusal := d.identityOf(strings.TrimSpace(d.cells[d.identity]))
	if refusal != nil {
		return refusal
	}
	row.Identities = append(row.Identities, id)
	if d.traits {
		return d.takeTraits(row)
	}
	return nil
}

func (d *columnDecoder) personal() *proto.Error {
	if d.Personal == nil {
		return nil
	}
	for i, cell := range d.cells {
		if what := d.Personal(cell); what != "" {
			return proto.Errorf(proto.CodePII, "column %s holds %s: take it out of the file, and send keyed hashes only", clipName(d.header[i]), what)
		}
	}
	return nil
}

// identityOf is the identity of a cell.
func (d *columnDecoder) identityOf(cell string) (string, *proto.Error) {
	switch {
	case cell == "":
		return "", proto.Errorf(proto.CodeIdentity, "column %s is empty", clipName(d.header[d.identity]))
	case d.Kind == "" && !strings.Contains(cell, ":"):
		return "", proto.Errorf(proto.CodeIdentity, "column %s holds a bare value: pass --kind account if these are keyed hashes of accounts", clipName(d.header[d.identity]))
	case d.Kind == "":
		return cell, nil
	}
	value := strings.TrimPrefix(cell, d.Kind+":")
	if device := d.Kind == "aaid" || d.Kind == "idfa"; device && !isUUID(value) {
		return "", proto.Errorf(proto.CodeIdentity, "column %s holds no UUID, as identities of kind %s are", clipName(d.header[d.identity]), d.Kind)
	} else if !device && !plausibleHash(value) {
		return "", proto.Errorf(proto.CodeIdentity, "column %s holds no hash: 16 to 64 bytes in hexadecimal or base64", clipName(d.header[d.identity]))
	}
	return d.Kind + ":" + value, nil
}

func (d *columnDecoder) takeTraits(row *Row) *proto.Error {
	for i, name := range d.names {
		if cell := strings.TrimSpace(d.cells[i]); name != "" && cell != "" {
			row.addText(name, cell)
		}
	}
	if len(row.Props) == 0 {
		return proto.Errorf(proto.CodeEvent, "the row sets no trait: all of its cells are empty")
	}
	row.endProps()
	return nil
}

// readHeader takes the first line, which must name the columns.
func (d *columnDecoder) readHeader(line string) *proto.Error {
	header, ok := splitCSV(line, nil)
	if !ok || !utf8.ValidString(line) {
		return proto.Errorf(reasonHeader, "the first line does not parse as a header of CSV in UTF-8")
	}
	for i, name := range header {
		header[i] = strings.TrimSpace(name)
	}
	// Under the name that is looked for it is a header beyond doubt; a long name in
	// both cases looks like a hash.
	doubt := !slices.Contains(header, cmp.Or(d.Identity, "identity"))
	for i := range header {
		switch {
		case header[i] == "" || slices.Contains(header[:i], header[i]):
			return proto.Errorf(reasonHeader, "the header has an empty column or %s twice", clipName(header[i]))
		case doubt && plausibleHash(header[i]) || wholeIdentity(header[i]) || d.Personal != nil && d.Personal(header[i]) != "":
			return proto.Errorf(reasonHeader, "the first line is a row, not a header: put the names of the columns before it, such as identity; if it is one, say which column holds the identities")
		}
	}
	if d.identity = d.identityColumn(header); d.identity < 0 {
		return missing(line, header, d.Identity)
	}
	if refusal := d.nameTraits(line, header); refusal != nil {
		return refusal
	}
	d.header = header
	return isHeader
}

// otherSeparators part columns in files that are not of commas: with one of them in it
// the only column is hardly one.
const otherSeparators = ";\t|"

func (d *columnDecoder) identityColumn(header []string) int {
	switch {
	case d.Identity != "":
		return slices.Index(header, d.Identity)
	case len(header) == 1 && !d.traits && !strings.ContainsAny(header[0], otherSeparators):
		return 0
	}
	return slices.Index(header, "identity")
}

// nameTraits notes which column is which trait.
func (d *columnDecoder) nameTraits(line string, header []string) *proto.Error {
	if !d.traits {
		return nil
	}
	d.names = make([]string, len(header))
	if d.Traits == nil {
		copy(d.names, header)
		d.names[d.identity] = ""
	}
	for _, c := range d.Traits {
		i := slices.Index(header, c.Name)
		if i < 0 {
			return missing(line, header, c.Name)
		}
		d.names[i] = c.Trait
	}
	if !slices.ContainsFunc(d.names, func(s string) bool { return s != "" }) {
		return proto.Errorf(reasonHeader, "the file has no column beside that of identities: there are no traits to set")
	}
	return nil
}

// missing says that there is no such column, and which there are.
func missing(line string, header []string, name string) *proto.Error {
	hint := ""
	if len(header) == 1 && strings.ContainsAny(line, otherSeparators) {
		hint = "; columns are separated by commas"
	}
	if name == "" {
		name = "identity"
		hint += "; name the column that holds the identities"
	}
	var names []string
	for _, n := range header[:min(len(header), 20)] {
		names = append(names, clipName(n))
	}
	return proto.Errorf(reasonHeader, "there is no column %s: the header has %s%s", clipName(name), strings.Join(names, ", "), hint)
}

func clipName(s string) string {
	if len(s) > 64 {
		s = strings.ToValidUTF8(s[:61], "") + "..."
	}
	return `"` + s + `"`
}

// wholeIdentity reports whether s is an identity of a kind that is known.
func wholeIdentity(s string) bool {
	_, err := proto.ParseIdentity(s)
	return err == nil
}

// Bounds of what a hash is, in bytes: from 128 bits to those of SHA-512.
const (
	hashBytesMin = 16
	hashBytesMax = 64
)

// plausibleHash reports whether s may be a hash's bytes in hexadecimal or base64.
// A base64 text of that many bytes by chance has capitals and small letters; a
// word or a name has not.
func plausibleHash(s string) bool {
	if isHex(s) {
		return len(s)%2 == 0 && len(s) >= 2*hashBytesMin && len(s) <= 2*hashBytesMax
	}
	raw := strings.TrimRight(s, "=")
	if pad := len(s) - len(raw); pad > 2 || pad > 0 && len(s)%4 != 0 {
		return false
	}
	n := len(raw) * 6 / 8
	if n < hashBytesMin || n > hashBytesMax || strings.ToLower(raw) == raw || strings.ToUpper(raw) == raw {
		return false
	}
	return base64Of(base64.RawStdEncoding, raw) || base64Of(base64.RawURLEncoding, raw)
}

func base64Of(e *base64.Encoding, s string) bool {
	if strings.ContainsAny(s, "\r\n") { // which package base64 skips
		return false
	}
	_, err := e.DecodeString(s)
	return err == nil
}

func isHex(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
		default:
			return false
		}
	}
	return s != ""
}

// isUUID reports whether s is 32 hexadecimal digits in groups of 8-4-4-4-12.
func isUUID(s string) bool {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	return isHex(strings.ReplaceAll(s, "-", "")) && strings.Count(s, "-") == 4
}
