package gateway_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"kith/proto"
)

// The twin's counts are those that a test gave to expressions; an overlap's
// cell is that of "a & b".

func (t *twin) Counts(ctx context.Context, c proto.ClientInfo, exprs []string, unit string) (out proto.Counts, err error) {
	for _, e := range exprs {
		n, err := t.Count(ctx, c, e, unit)
		if err != nil {
			return out, err
		}
		out.Counts = append(out.Counts, proto.ExprCount{Expr: e, Count: n.Count})
		out.Exact, out.Partitions = n.Exact, n.Partitions
	}
	return out, nil
}

func (t *twin) Overlap(_ context.Context, _ proto.ClientInfo, rows, columns []proto.SegmentID, _ string) (proto.Overlap, error) {
	out := proto.Overlap{Segments: rows, Against: columns, Exact: true, Partitions: proto.Answered{Answered: 64, Of: 64}}
	if columns == nil {
		columns = rows
	}
	for _, a := range rows {
		var row []*uint64
		for _, b := range columns {
			n := t.counts[string(a)]
			if a != b {
				n = t.counts[string(min(a, b)+" & "+max(a, b))]
			}
			row = append(row, &n)
		}
		out.Counts = append(out.Counts, row)
	}
	return out, nil
}

func (t *twin) Report(ctx context.Context, c proto.ClientInfo, expr, unit string, floor int) (proto.Count, error) {
	if expr == "spent" {
		e := proto.Errorf(proto.CodeRateLimited, "no more today")
		e.RetryAfter = 90*time.Minute + time.Millisecond
		return proto.Count{}, e
	}
	n, err := t.Count(ctx, c, expr, unit)
	if err == nil && *n.Count < uint64(floor) {
		n.Count, n.Below = nil, floor
	}
	return n, err
}

func (t *twin) Sizes(_ proto.ClientInfo, id proto.SegmentID, first, last proto.Day) (out []proto.DaySize, _ error) {
	if id != "all" {
		return nil, proto.Errorf(proto.CodeNotFound, "no such segment")
	}
	for d := last - 2; d <= last; d++ {
		if n := uint64(last-d) * 30; d >= first {
			out = append(out, proto.DaySize{Day: d, Identities: &n})
		}
	}
	return out, nil
}

func (t *twin) SaveAudience(ctx context.Context, _ proto.ClientInfo, s proto.AudienceSpec) (proto.AudienceSpec, error) {
	if err := t.pay(ctx); err != nil {
		return s, err
	}
	if strings.Contains(s.Expr, "@"+string(s.ID)) {
		return s, proto.Errorf(proto.CodeExpr, "it names itself")
	}
	t.saved[s.ID] = s
	return s, nil
}

func (t *twin) DropAudience(_ context.Context, _ proto.ClientInfo, id proto.AudienceID) error {
	if _, ok := t.saved[id]; !ok {
		return proto.Errorf(proto.CodeNotFound, "there is no saved audience %q", id)
	}
	delete(t.saved, id)
	return nil
}

func (t *twin) SavedAudience(_ proto.ClientInfo, id proto.AudienceID) (proto.AudienceSpec, bool) {
	s, ok := t.saved[id]
	return s, ok
}

func (t *twin) SavedAudiences(proto.ClientInfo) []proto.AudienceSpec {
	return slices.SortedFunc(maps.Values(t.saved), func(a, b proto.AudienceSpec) int { return strings.Compare(string(a.ID), string(b.ID)) })
}
