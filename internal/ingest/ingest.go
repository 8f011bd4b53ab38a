// Package ingest loads events from files: newline-delimited JSON, CSV, and the
// combined log format of Apache and nginx. It loads a client's own lists and
// traits from CSV in the same way, whose rows may go over lines.
//
// Guarantee: every line of the input (but for the header of a CSV file) is
// either accepted by the node or refused with a reason, and counted once: accepted + refused + unsent = lines, where
// unsent is not zero only if the node could not be reached to the end. An
// address in a log never leaves this package: only its keyed hash does.
//
// Memory is bounded: lines by LineBytesMax, batches and posts by Options. It
// writes nothing but, for --shift on a stream, one temporary file, which it
// removes.
package ingest

import (
	"cmp"
	"context"
	"io"
	"maps"
	"slices"
	"time"

	"kith/proto"
)

// Format names how lines are read.
type Format string

// The formats.
const (
	NDJSON   Format = "ndjson"
	CSV      Format = "csv"
	Combined Format = "combined"
)

// Formats of a client's own lists, which go to other routes than events do.
const (
	Identities Format = "identities" // CSV with a column of identities
	Traits     Format = "traits"     // CSV with a column of identities and others of traits
)

// field is what a post's rows are called.
func (f Format) field() string {
	switch f {
	case Identities:
		return "identities"
	case Traits:
		return "rows"
	}
	return "events"
}

// ParseFormat reads a format's name.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case NDJSON, CSV, Combined:
		return f, nil
	}
	return "", proto.Errorf(proto.CodeInvalid, "format %q is unknown: use ndjson, csv or combined", s)
}

// Reasons for which a line is refused before it is sent. The node's own codes
// (pii, time, event, ...) stand beside them in a Report.
const (
	ReasonMalformed proto.Code = "malformed" // does not parse
	ReasonTooLong   proto.Code = "too_long"  // over LineBytesMax
	ReasonEmpty     proto.Code = "empty"     // a blank line
)

// Options say how to read and send. The zero value of a field is its default.
type Options struct {
	Format Format
	Client string // for the request's body; empty: the key's own
	Shift  bool   // move times by whole days
	Salt   string // key of the hash that stands for address and agent; default DefaultSalt

	Columns Columns // of Identities and Traits

	BatchEventsMax int // events in a post; default 400
	BatchBytesMax  int // bytes in a post; default 1 MiB
	PostsMax       int // concurrent posts; default 4
	AttemptsMax    int // tries of one event before giving up; default 12

	Now      func() time.Time                           // default time.Now
	Wait     func(context.Context, time.Duration) error // default a timer
	Progress func(bytes int64)                          // told of input read; may be nil
}

func (o *Options) setDefaults() {
	o.Salt = cmp.Or(o.Salt, DefaultSalt)
	o.BatchEventsMax = cmp.Or(o.BatchEventsMax, 400)
	o.BatchBytesMax = cmp.Or(o.BatchBytesMax, 1<<20)
	o.PostsMax = cmp.Or(o.PostsMax, 4)
	o.AttemptsMax = cmp.Or(o.AttemptsMax, 12)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Wait == nil {
		o.Wait = Sleep
	}
	if o.Progress == nil {
		o.Progress = func(int64) {}
	}
}

// Example is a refused line, to find it again.
type Example struct {
	Line    int64      `json:"line"`
	Reason  proto.Code `json:"reason"`
	Message string     `json:"message"`
}

// Report is what became of the lines.
type Report struct {
	Lines     int64                `json:"lines"`
	Accepted  int64                `json:"accepted"`
	Refused   int64                `json:"refused"`
	Unsent    int64                `json:"unsent"`
	Reasons   map[proto.Code]int64 `json:"reasons"`
	Examples  []Example            `json:"examples,omitempty"` // the first of each reason, few
	ShiftDays int                  `json:"shift_days"`
	Retried   int64                `json:"retried"`
	Position  string               `json:"position,omitempty"` // a look-up ?after= it sees all
	Seconds   float64              `json:"seconds"`
}

// examplesMax bounds the examples of one reason.
const examplesMax = 3

func (r *Report) refuse(line int64, reason proto.Code, message string) {
	r.Refused++
	r.Reasons[reason]++
	if r.Reasons[reason] <= examplesMax && len(r.Examples) < 60 {
		r.Examples = append(r.Examples, Example{line, reason, message})
	}
}

// SortedReasons gives the reasons, most frequent first.
func (r *Report) SortedReasons() []proto.Code {
	return slices.SortedFunc(maps.Keys(r.Reasons), func(a, b proto.Code) int {
		return cmp.Or(cmp.Compare(r.Reasons[b], r.Reasons[a]), cmp.Compare(a, b))
	})
}

// Run reads all of src and sends it to node. The report is valid with an
// error too: it then says how far the load came.
func Run(ctx context.Context, src *Source, node Intake, o Options) (Report, error) {
	o.setDefaults()
	start := o.Now()
	report := Report{Reasons: map[proto.Code]int64{}}
	if o.Shift {
		days, err := shiftDays(ctx, src, o)
		if err != nil {
			return report, err
		}
		report.ShiftDays = days
	}
	in, err := src.Open()
	if err != nil {
		return report, err
	}
	defer in.Close()
	s := newSender(ctx, node, o, &report)
	err = feed(s.ctx, in, s, o, report.ShiftDays)
	if closeErr := s.close(); closeErr != nil {
		err = closeErr // the cause, where feed saw only its cancelled context
	}
	report.Unsent = report.Lines - report.Accepted - report.Refused
	report.Seconds = o.Now().Sub(start).Seconds()
	return report, err
}

// feed decodes lines and hands events to the sender.
func feed(ctx context.Context, in io.Reader, s *sender, o Options, days int) error {
	lines, dec := newLines(in), newDecoder(o)
	lines.quoted = o.Format == Identities || o.Format == Traits
	shift := time.Duration(days) * 24 * time.Hour
	var row Row
	for {
		line, err := lines.next()
		if err == io.EOF {
			return s.flush()
		}
		if err != nil {
			return proto.Errorf(proto.CodeInvalid, "cannot read the input after line %d: %w", lines.number, err)
		}
		o.Progress(lines.read)
		refusal := decodeLine(dec, line, lines, &row)
		if refusal == isHeader {
			continue
		}
		if refusal != nil && refusal.Code == reasonHeader {
			return proto.Errorf(proto.CodeInvalid, "line %d: %s", lines.first, refusal.Message)
		}
		if refusal != nil {
			s.refused(lines.first, refusal)
			continue
		}
		if !row.Time.IsZero() {
			row.Time = row.Time.Add(shift)
		}
		if err := s.add(lines.first, line, &row); err != nil {
			return err
		}
		if lines.number&1023 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func decodeLine(dec decoder, line []byte, lines *lines, row *Row) *proto.Error {
	switch {
	case lines.tooLong:
		return proto.Errorf(ReasonTooLong, "the line has more than %d bytes", LineBytesMax)
	case len(line) == 0:
		return proto.Errorf(ReasonEmpty, "the line is empty")
	}
	row.reset()
	return dec.decode(line, row)
}

// fastMax is how far ahead of now the newest time of a log may be: a server's clock may
// be a little fast.
const fastMax = 10 * time.Second

// shiftDays finds the newest time in src and the whole days that bring it as
// near to now as they can without passing it, but for a clock that is a little fast.
func shiftDays(ctx context.Context, src *Source, o Options) (int, error) {
	in, err := src.Open()
	if err != nil {
		return 0, err
	}
	defer in.Close()
	var newest time.Time
	var row Row
	lines, dec := newLines(in), newDecoder(o)
	for {
		line, err := lines.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, proto.Errorf(proto.CodeInvalid, "cannot read the input after line %d: %w", lines.number, err)
		}
		if decodeLine(dec, line, lines, &row) == nil && row.Time.After(newest) {
			newest = row.Time
		}
		if lines.number&1023 == 0 && ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
	if newest.IsZero() {
		return 0, nil
	}
	return wholeDays(o.Now().Add(fastMax).Sub(newest)), nil
}

// wholeDays rounds down, for times in the future too.
func wholeDays(d time.Duration) int {
	const day = 24 * time.Hour
	days := int(d / day)
	if d%day < 0 {
		days--
	}
	return days
}

// Sleep waits for d, or until ctx ends, whose error it gives then.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
