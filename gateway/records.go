package gateway

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"kith/internal/cores"
	"kith/proto"
)

// Bounds of records. A history may be some hundred MB as JSON, and anybody may ask for
// that of a browser of theirs.
const (
	// recordPieceBytes is about how much of one is made before it is sent.
	recordPieceBytes = 256 << 10
	// shortRecordBytes is up to how much waits for a slow reader uncounted: a socket takes
	// about that in.
	shortRecordBytes = 16 << 10
	// longRecordFor is how long one may take that is more than a piece. stallMax holds
	// for each piece.
	longRecordFor = 10 * time.Minute
	// recordWaitMax is how long a record waits for its first turn to be read. One that is
	// being sent waits for others until the end of longRecordFor.
	recordWaitMax = 10 * time.Second
	// choicesFor is after how long the page of choices waits for no further turn: it is to
	// be sent within the server's WriteTimeout, in which a form came before it.
	choicesFor = 30 * time.Second
	// recordEventsMax is how many events are read before others have their turn.
	recordEventsMax = 10_000
)

var errRecords = proto.Errorf(proto.CodeOverloaded, "too many records of identities are being read: ask again")

// records are those of each plane: strangers leave those who have keys their room.
type records struct{ public, keyed planeRecords }

// planeRecords are the records under way on one.
type planeRecords struct {
	reading      chan struct{} // a slot for each whose history is being read
	lines        lines         // for these
	long, middle longRecords
}

func newRecords() *records {
	n, x := cores.Count(), &records{}
	x.public.reading, x.keyed.reading = make(chan struct{}, max(1, n/4)), make(chan struct{}, max(1, n/2))
	for _, p := range []*planeRecords{&x.public, &x.keyed} {
		p.long.kind, p.long.times, p.middle.kind, p.middle.times = "long", 1, "middle-sized", middleTimes
	}
	return x
}

// openRecord is a record that has its turn to be read.
type openRecord struct {
	proto.IdentityRecord
	next    proto.NextEvents
	reading chan struct{}
	turn    bool
	leave   func()       // the lines
	may     func() error // its client may end while it waits, and its data go later
}

// openRecord waits for a turn; after nil close is due.
func (g *Gateway) openRecord(ctx context.Context, of *planeRecords, shares []share, client proto.ClientInfo, id proto.Identity) (*openRecord, error) {
	x := &openRecord{reading: of.reading, may: func() error { return g.notEnded(client) }}
	first, cancel := context.WithTimeout(ctx, recordWaitMax)
	defer cancel()
	var ok bool
	if x.leave, ok = of.lines.enter(first, shares); !ok {
		return nil, errRecords
	}
	err := x.begin(first)
	if err != nil {
		x.close()
		return nil, err
	}
	if x.IdentityRecord, x.next, err = g.deps.Memberships.OpenRecord(ctx, client, id); err != nil {
		x.close()
		return nil, err
	}
	return x, nil
}

// begin waits for a turn until ctx ends.
func (x *openRecord) begin(ctx context.Context) error {
	if ctx.Err() != nil {
		return errRecords
	}
	select {
	case x.reading <- struct{}{}:
		x.turn = true
	case <-ctx.Done():
		return errRecords
	}
	err := x.may()
	if err != nil {
		x.rest()
	}
	return err
}

// close gives the turn up, and the place in its lines.
func (x *openRecord) close() {
	x.rest()
	x.leave()
}

func (x *openRecord) rest() {
	if x.turn {
		<-x.reading
		x.turn = false
	}
}

// walk goes through the events. Each time that tell has enough, pause is called while
// others have their turn, and it waits for its own until ctx ends.
func (x *openRecord) walk(ctx context.Context, tell func(proto.Millis, *proto.EventBody) (enough bool), pause func() error) error {
	for x.next != nil {
		more, err := x.next(tell)
		if err != nil || !more {
			return err
		}
		x.rest()
		if err := pause(); err != nil {
			return err
		}
		if err := x.begin(ctx); err != nil {
			return err
		}
	}
	return nil
}

// tellRecord answers with all that the client holds of id, as it is read.
func (g *Gateway) tellRecord(w http.ResponseWriter, r *http.Request, of *planeRecords, shares []share, client proto.ClientInfo, id proto.Identity, signal bool) error {
	x, err := g.openRecord(r.Context(), of, shares, client, id)
	if err != nil {
		return err
	}
	defer x.close()
	x.OptedOut = x.OptedOut || signal
	if r.Method == http.MethodHead {
		w.Header()["Content-Type"] = jsonType
		w.WriteHeader(http.StatusOK)
		return nil
	}
	b, rest, err := recordEnds(x.IdentityRecord)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), longRecordFor)
	defer cancel()
	out := &recordSender{w: w, c: http.NewResponseController(w), long: &of.long, shares: shares}
	out.end, _ = ctx.Deadline()
	defer out.close()
	some := false
	tell := func(t proto.Millis, e *proto.EventBody) bool {
		if some {
			b = append(b, ',')
		}
		some = true
		b = appendHistoryEvent(b, t, e)
		return len(b) >= recordPieceBytes
	}
	err = x.walk(ctx, tell, func() error {
		x.close() // from now on it counts as a long one
		err := out.send(b)
		b = b[:0]
		return err
	})
	x.close()
	b = append(b, rest...)
	switch {
	case out.failed: // the reader went, or was told something else
	case err != nil && out.begun:
		if code := proto.CodeOf(err); ctx.Err() == nil && code != proto.CodeUnavailable && code != proto.CodeConflict {
			g.log.Log(r.Context(), slog.LevelError, "a record broke off", "error", err)
		}
		panic(http.ErrAbortHandler) // so that the reader sees a cut record
	case err != nil:
		return err
	case out.begun:
		_ = out.send(b)
	case len(b) >= recordPieceBytes: // by what is no event
		return out.send(b)
	case len(b) > shortRecordBytes:
		if err := of.middle.begin(shares); err != nil {
			return err
		}
		defer of.middle.end(shares)
		writeJSON(w, http.StatusOK, b)
	default:
		writeJSON(w, http.StatusOK, b)
	}
	return nil
}

// recordSender sends a record that is more than a piece.
type recordSender struct {
	w      http.ResponseWriter
	c      *http.ResponseController
	long   *longRecords
	shares []share
	end    time.Time
	begun  bool
	failed bool
}

// send sends a piece, the first of which may find that there is no place.
func (s *recordSender) send(b []byte) error {
	if !s.begun {
		if err := s.long.begin(s.shares); err != nil {
			return err
		}
		s.begun = true
		unhurried(s.w)
		s.w.Header()["Content-Type"] = jsonType
	}
	by := time.Now().Add(stallMax)
	if s.end.Before(by) {
		by = s.end
	}
	_ = s.c.SetWriteDeadline(by) // not every writer has deadlines
	_, err := s.w.Write(b)
	s.failed = err != nil
	return err
}

func (s *recordSender) close() {
	if s.begun {
		s.long.end(s.shares)
	}
}

// recordEnds is a record as JSON before its events and after them.
func recordEnds(record proto.IdentityRecord) (before, after []byte, err error) {
	record.Events = []proto.HistoryEvent{}
	if record.Segments == nil {
		record.Segments = []proto.SegmentID{}
	}
	b, err := encodeValue(record)
	if err != nil {
		return nil, nil, err
	}
	const events = `,"events":[` // not in a text, whose quotes are escaped, nor a trait, which is no list
	i := bytes.Index(b, []byte(events)) + len(events)
	return b[:i:i], b[i:], nil
}

// appendHistoryEvent writes a proto.HistoryEvent.
func appendHistoryEvent(b []byte, t proto.Millis, e *proto.EventBody) []byte {
	b = append(b, `{"time":"`...)
	b = t.Time().AppendFormat(b, time.RFC3339Nano)
	b = appendText(append(b, `","event":`...), e.Name)
	if e.URL != "" {
		b = appendText(append(b, `,"url":`...), e.URL)
	}
	if e.Ref != "" {
		b = appendText(append(b, `,"ref":`...), e.Ref)
	}
	sep := `,"props":{`
	for i := range e.Props {
		b = appendText(append(b, sep...), e.Props[i].Key)
		b = appendPropValue(append(b, ':'), e.Props[i].Value)
		sep = ","
	}
	if len(e.Props) > 0 {
		b = append(b, '}')
	}
	return append(b, '}')
}

func appendPropValue(b []byte, v proto.Value) []byte {
	switch v.Kind {
	case proto.NumberValue:
		format := byte('f')
		if n := math.Abs(v.Number); n != 0 && (n < 1e-6 || n >= 1e21) {
			format = 'e'
		}
		return strconv.AppendFloat(b, v.Number, format, -1, 64)
	case proto.TrueValue, proto.FalseValue:
		return strconv.AppendBool(b, v.Kind == proto.TrueValue)
	}
	return appendText(b, v.Text)
}
