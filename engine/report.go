package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/proto"
	"kith/proto/pb"
	"kith/segments"
)

// reportTries is how often a question is decided anew because another one was
// written down meanwhile, by another node.
const reportTries = 8

func (r *registry) obeyReport(b *pb.Report) {
	book := r.book(proto.ClientID(b.Client))
	a, err := segments.ParseAudience(b.Expr)
	if err != nil { // no figure is told beside it; all else goes on
		r.logger.Error("a report's expression cannot be read: report keys of its client are told nothing until two days later", "client", b.Client, "day", proto.Day(b.Day).String(), "error", err)
		book.Pass(proto.Day(b.Day))
		return
	}
	book.Take(segments.Report{
		Day: proto.Day(b.Day), Audience: a, Unit: b.Unit, Count: b.Count, Told: b.Told, Verdict: segments.Verdict(b.Verdict),
	})
}

// book finds or makes a client's. The registry's lock is held.
func (r *registry) book(c proto.ClientID) *segments.ReportBook {
	b := r.reports[c]
	if b == nil {
		b = &segments.ReportBook{}
		r.reports[c] = b
	}
	return b
}

// reportsOf are what a client's report keys were told.
func (r *registry) reportsOf(c proto.ClientID) []segments.Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b := r.reports[c]; b != nil {
		return b.All()
	}
	return nil
}

// question is what a report key asks, and what was asked before.
type question struct {
	audience
	unit   string
	floor  int
	day    proto.Day
	asked  int
	rivals []*segments.Audience
}

// Report counts an audience for those who may see counts only. What was told
// once is told for the rest of the day; a new audience is refused, with
// CodeFloor, if it differs by fewer people than the floor from another one that
// was told of on the day or the day before. What was decided is in the control
// stream before it is told: neither a restart nor another node forgets it.
func (n *Node) Report(ctx context.Context, client proto.ClientInfo, expr, unit string, floor int) (proto.Count, error) {
	if err := checkUnit(unit); err != nil {
		return proto.Count{}, err
	}
	if unit == "" {
		unit = "identities"
	}
	a, err := n.audience(client.ID, expr)
	if err != nil {
		return proto.Count{}, err
	}
	if size := len(a.String()); size > segments.ReportExprMax {
		return proto.Count{}, proto.Errorf(proto.CodeExpr, "written out the expression has %d bytes: report keys may send at most %d", size, segments.ReportExprMax)
	}
	over, err := n.reportTurn(ctx, client.ID)
	if err != nil {
		return proto.Count{}, err
	}
	defer over()
	for range reportTries {
		q := question{audience: a, unit: unit, floor: floor}
		if r, ok, err := n.decideReport(ctx, &q); ok || err != nil {
			if err == nil {
				err = n.mayAnswerAll()
			}
			return answerReport(r, floor, err)
		}
	}
	return proto.Count{}, proto.Errorf(proto.CodeOverloaded, "too many reports are under way: try again")
}

// reportTurn is when a report may be made: one at a time, so that each knows of the one
// before.
func (n *Node) reportTurn(ctx context.Context, client proto.ClientID) (over func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, longWaitMax)
	defer cancel()
	over, ok := n.reporting.Begin(ctx, client)
	if !ok {
		return nil, proto.Errorf(proto.CodeOverloaded, "other reports are under way: try again")
	}
	return over, nil
}

// decideReport gives the report that answers q, made now if there is none yet;
// without ok another question was faster.
func (n *Node) decideReport(ctx context.Context, q *question) (r segments.Report, ok bool, err error) {
	if r, ok, err = n.registry.lookUp(q, proto.DayOf(n.config.Now()), n.config.Now()); ok || err != nil {
		return r, ok, err
	}
	m, err := n.measureReport(ctx, q)
	if err == nil {
		err = n.mayAnswerAll() // before it is written down: it stays for the day
	}
	if err != nil {
		return r, false, err
	}
	_, err = n.registry.propose(ctx, func() (*pb.Control, error) {
		book := n.registry.book(q.client)
		if book.Day(q.day) != q.day || book.Asked(q.day) != q.asked {
			return nil, nil
		}
		d := book.Decide(q.day, q.Audience, q.unit, m, q.floor, n.edge(q))
		return &pb.Control{Body: &pb.Control_Report{Report: &pb.Report{
			Client: uint32(q.client), Day: uint32(d.Day), Expr: q.String(), Unit: q.unit, Count: d.Count, Told: d.Told, Verdict: uint32(d.Verdict),
		}}}, nil
	})
	if err != nil {
		return r, false, err
	}
	return n.registry.lookUp(q, q.day, n.config.Now())
}

// edge is where the audience's rounding jumps: a secret of the node's data, and
// another one for each client, by its number, which no other client ever has.
func (n *Node) edge(q *question) uint64 {
	h := n.hasher.Hash(proto.Identity(fmt.Sprint("report:", q.client, ":", q.unit, ":", q.Key())))
	return h.Prefix() % segments.ReportRoundedTo
}

// lookUp finds what was decided about q on the day, or fills in what is to be
// known to decide about it.
func (r *registry) lookUp(q *question, today proto.Day, now time.Time) (segments.Report, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fault != nil {
		return segments.Report{}, false, r.fault
	}
	book := r.book(q.client)
	q.day = book.Day(today)
	if found, ok := book.Find(q.day, q.Audience, q.unit); ok {
		return found, true, nil
	}
	if book.Unread(q.day) {
		return segments.Report{}, false, proto.Errorf(proto.CodeFloor, "a report that was told before cannot be compared with this one by this build of kith: ask in two days")
	}
	if q.asked = book.Asked(q.day); q.asked >= segments.ReportsPerDayMax {
		e := proto.Errorf(proto.CodeRateLimited, "%d distinct audiences were asked for on %s, the most that report keys may: ask for one of them again, or tomorrow (UTC)", segments.ReportsPerDayMax, q.day)
		e.RetryAfter = (q.day + 1).Start().Sub(now)
		return segments.Report{}, false, e
	}
	q.rivals = book.Rivals(q.day, q.Audience)
	return segments.Report{}, false, nil
}

// measureReport counts people, that is users: one who has many devices is still
// one.
func (n *Node) measureReport(ctx context.Context, q *question) (m segments.Measure, err error) {
	keys := versionsOf(q.specs)
	lanes, part, exact := n.answering(keys)
	if !exact || part.Answered != part.Of {
		return m, proto.Errorf(proto.CodeUnavailable, "%d of %d partitions answer, or history has not been gone through for a segment: a figure stays for a day, so ask again when all is there", part.Answered, part.Of)
	}
	sums, err := n.sums(ctx, []audience{q.audience}, lanes, q.unit)
	if err != nil {
		return m, err
	}
	m.Count = sums[0]
	defer func() {
		if err == nil && went(lanes, keys) {
			err = proto.Errorf(proto.CodeUnavailable, "a segment's rule was replaced while it was counted: ask again")
		}
	}()
	floor := uint64(max(q.floor, 0))
	people, err := usersUpTo(ctx, lanes, q.set, floor)
	if m.Few = people < floor; m.Few || err != nil {
		return m, err
	}
	for _, rival := range q.rivals {
		other, missing := n.named(q.client, rival)
		if missing != nil {
			continue // who may delete segments sees single identities anyway
		}
		keys = append(keys, versionsOf(other.specs)...)
		people, err := usersUpTo(ctx, lanes, q.apart(other), floor)
		if m.Close = people < floor; m.Close || err != nil {
			return m, err
		}
	}
	return m, nil
}

// apart is who is in one of the two and not in the other.
func (a audience) apart(b audience) setOf {
	return func(get getBits, universe getUniverse) *roaring.Bitmap {
		id := func(id proto.SegmentID) *roaring.Bitmap {
			if k := a.key(id); k != 0 {
				return get(k)
			}
			return get(b.key(id))
		}
		return segments.Apart(a.Audience, b.Audience, id, universe(a.client))
	}
}

func answerReport(r segments.Report, floor int, err error) (proto.Count, error) {
	if err != nil {
		return proto.Count{}, err
	}
	out := proto.Count{Day: r.Day.String(), Partitions: proto.Answered{Answered: proto.Partitions, Of: proto.Partitions}}
	switch r.Verdict {
	case segments.VerdictTold:
		out.Count, out.Rounded = &r.Told, segments.ReportRoundedTo
	case segments.VerdictBelow:
		out.Below, out.Exact = floor, true
	default:
		return proto.Count{}, proto.Errorf(proto.CodeFloor, "this audience differs by fewer than %d people from another one that report keys were told of on %s or the day before: their difference would tell of too few. Ask for that one, or for one that differs more", floor, r.Day)
	}
	return out, nil
}
