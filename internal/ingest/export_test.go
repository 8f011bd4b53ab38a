package ingest

import (
	"bytes"
	"io"

	"kith/proto"
)

// SplitCSV, LineID and WholeDays are seams for tests.
var (
	SplitCSV  = splitCSV
	LineID    = lineID
	WholeDays = wholeDays
)

// Decoder decodes single lines as Run does.
type Decoder struct {
	d   decoder
	row Row
}

// NewDecoder makes a decoder for o.
func NewDecoder(o Options) *Decoder {
	o.setDefaults()
	return &Decoder{d: newDecoder(o)}
}

// JSON gives the event of a line, or why it is refused.
func (d *Decoder) JSON(line []byte) ([]byte, *proto.Error) {
	d.row.reset()
	if err := d.d.decode(line, &d.row); err != nil {
		return nil, err
	}
	return d.row.appendJSON(nil), nil
}

// Lines splits b as Run does.
func Lines(b []byte) (out []string, long int) {
	l := newLines(bytes.NewReader(b))
	for {
		line, err := l.next()
		if err == io.EOF {
			return out, long
		}
		if l.tooLong {
			long++
		}
		out = append(out, string(line))
	}
}
