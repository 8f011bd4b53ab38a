package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"

	"kith/proto"
)

// countRequest is the body of a count.
type countRequest struct {
	Expr   string   `json:"expr"`
	Exprs  []string `json:"exprs"` // instead of expr
	Unit   string   `json:"unit"`
	Client string   `json:"client"` // as ?client=
	After  string   `json:"after"`  // as ?after=
}

// Limits of questions about audiences.
const (
	exprBytesMax    = 64 << 10
	exprsMax        = 100
	overlapSideMax  = 100     // segments whose names are given
	overlapCellsMax = 100_000 // of one segment against all, these are all
)

func (g *Gateway) postCount(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	body, err := g.readJSON(w, r)
	if err != nil {
		return err
	}
	x, err := readCount(body)
	if err != nil {
		return err
	}
	if v := queryValue(r.URL.RawQuery, "client"); v != "" {
		x.Client = v
	}
	if v := queryValue(r.URL.RawQuery, "after"); v != "" {
		x.After = v
	}
	n, err := g.count(r.Context(), who, x)
	if err != nil {
		return err
	}
	b, err := encodeCount(n)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, b)
	return nil
}

// readCount reads a body, whose bytes the request may alias.
func readCount(body []byte) (x countRequest, err error) {
	if x.scan(body) {
		return x, nil
	}
	x = countRequest{}
	return x, decodeStrict(body, &x)
}

// scan reads a body of which all is texts of known names, as nearly all are: in a
// tenth of the time that encoding/json takes. Of any other it gives false.
func (x *countRequest) scan(body []byte) bool {
	var s scanner
	s.reset(body)
	if !s.open('{') {
		return false
	}
	names, fields := [...]string{"expr", "unit", "client", "after"}, [...]*string{&x.Expr, &x.Unit, &x.Client, &x.After}
	var seen [len(names)]bool
	for first := true; s.more(&first, '}'); {
		key, ok := s.key()
		if !ok || s.peek() != '"' {
			return false
		}
		i := slices.Index(names[:], key)
		if i < 0 || seen[i] {
			return false
		}
		*fields[i], _ = s.str()
		seen[i] = true
	}
	return s.end() && !s.odd
}

// encodeCount writes a proto.Count, as encodeValue does, or whatever else.
func encodeCount(v any) ([]byte, error) {
	n, ok := v.(proto.Count)
	if !ok || n.Rounded != 0 || n.Day != "" {
		return encodeValue(v)
	}
	b := append(make([]byte, 0, 128), `{"count":`...)
	if n.Count != nil {
		b = strconv.AppendUint(b, *n.Count, 10)
	} else {
		b = append(b, "null"...)
	}
	if n.Below != 0 {
		b = strconv.AppendInt(append(b, `,"below":`...), int64(n.Below), 10)
	}
	b = appendBool(append(b, `,"exact":`...), n.Exact)
	b = strconv.AppendInt(append(b, `,"partitions":{"answered":`...), int64(n.Partitions.Answered), 10)
	b = strconv.AppendInt(append(b, `,"of":`...), int64(n.Partitions.Of), 10)
	return append(b, "}}\n"...), nil
}

// count sizes an audience, a proto.Count, or several, proto.Counts.
func (g *Gateway) count(ctx context.Context, who proto.Principal, x countRequest) (any, error) {
	client, err := g.clientFor(who, x.Client)
	if err == nil {
		err = x.check()
	}
	if err == nil {
		err = g.wait(ctx, x.After)
	}
	switch {
	case err != nil:
		return nil, err
	case who.Role == proto.RoleReport && x.Exprs != nil:
		return nil, proto.Errorf(proto.CodeForbidden, "a report key asks for one audience at a time: send expr")
	case who.Role == proto.RoleReport:
		return g.deps.Audiences.Report(ctx, client, x.Expr, x.Unit, g.floor(client))
	case x.Exprs != nil:
		return g.countAll(ctx, who, client, x)
	}
	return g.countOne(ctx, who, client, x)
}

// check says what is wrong with a request, and fills in its unit.
func (x *countRequest) check() error {
	exprs := x.Exprs
	switch {
	case x.Exprs == nil:
		exprs = []string{x.Expr}
	case x.Expr != "":
		return proto.Errorf(proto.CodeInvalid, "the body has both expr and exprs: send one of them")
	case len(x.Exprs) == 0:
		return proto.Errorf(proto.CodeInvalid, "exprs has no expressions: send 1 to %d", exprsMax)
	case len(x.Exprs) > exprsMax:
		return proto.Errorf(proto.CodeTooLarge, "exprs has %d expressions: send 1 to %d", len(x.Exprs), exprsMax)
	}
	total := 0
	for _, e := range exprs {
		if e == "" {
			return proto.Errorf(proto.CodeExpr, `the body has no expr: send {"expr":"auto & !owners"}`)
		}
		total += len(e)
	}
	switch {
	case total > exprBytesMax && x.Exprs != nil:
		return proto.Errorf(proto.CodeExpr, "the expressions in exprs have %d bytes together, at most %d are counted at once: send fewer, or save them and use @names", total, exprBytesMax)
	case total > exprBytesMax:
		return proto.Errorf(proto.CodeExpr, "expr is over %d bytes", exprBytesMax)
	}
	return checkUnit(&x.Unit)
}

// checkUnit fills in the unit that an empty one stands for.
func checkUnit(unit *string) error {
	switch *unit {
	case "":
		*unit = "identities"
	case "identities", "users":
	default:
		return proto.Errorf(proto.CodeInvalid, "unit %q is unknown: use identities or users", clip(*unit))
	}
	return nil
}

func (g *Gateway) countOne(ctx context.Context, who proto.Principal, client proto.ClientInfo, x countRequest) (proto.Count, error) {
	n, err := g.deps.Memberships.Count(ctx, client, x.Expr, x.Unit)
	if err == nil {
		n.Count, n.Below = g.shown(who, client, n.Count)
	}
	return n, err
}

func (g *Gateway) countAll(ctx context.Context, who proto.Principal, client proto.ClientInfo, x countRequest) (proto.Counts, error) {
	n, err := g.deps.Audiences.Counts(ctx, client, x.Exprs, x.Unit)
	for i := range n.Counts {
		c := &n.Counts[i]
		c.Count, c.Below = g.shown(who, client, c.Count)
	}
	return n, err
}

// shown applies the floor to a count: only an admin key sees less.
func (g *Gateway) shown(who proto.Principal, client proto.ClientInfo, n *uint64) (*uint64, int) {
	if floor := g.floorFor(who, client); n != nil && *n < uint64(floor) {
		return nil, floor
	}
	return n, 0
}

// overlapRequest is the body of an overlap.
type overlapRequest struct {
	Segments []proto.SegmentID `json:"segments"`
	Against  against           `json:"against"`
	Unit     string            `json:"unit"`
	Client   string            `json:"client"` // as ?client=
	After    string            `json:"after"`  // as ?after=
}

// against is "all", "*" or a list of segments.
type against struct {
	all  bool
	list []proto.SegmentID
}

// UnmarshalJSON implements json.Unmarshaler.
func (a *against) UnmarshalJSON(b []byte) error {
	var word string
	if json.Unmarshal(b, &word) == nil && (word == "all" || word == "*") {
		a.all = true
		return nil
	}
	if err := json.Unmarshal(b, &a.list); err != nil {
		return proto.Errorf(proto.CodeJSON, `against is "all" or a list of segments`)
	}
	return nil
}

func (g *Gateway) postOverlap(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	var x overlapRequest
	if err := g.readValue(w, r, &x); err != nil {
		return err
	}
	if v := queryValue(r.URL.RawQuery, "client"); v != "" {
		x.Client = v
	}
	if v := queryValue(r.URL.RawQuery, "after"); v != "" {
		x.After = v
	}
	out, err := g.overlap(r.Context(), who, x)
	if err != nil {
		return err
	}
	return writeValue(w, http.StatusOK, out)
}

func (g *Gateway) overlap(ctx context.Context, who proto.Principal, x overlapRequest) (out proto.Overlap, err error) {
	client, err := g.clientFor(who, x.Client)
	if err == nil {
		err = checkUnit(&x.Unit)
	}
	if err == nil {
		err = x.check()
	}
	if err == nil {
		err = g.wait(ctx, x.After)
	}
	if err != nil {
		return out, err
	}
	columns := x.Against.list
	if x.Against.all {
		columns = g.segmentIDs(client)
	}
	if cells := len(x.Segments) * len(columns); cells > overlapCellsMax {
		return out, proto.Errorf(proto.CodeTooLarge, "the matrix has %d cells, at most %d are answered: name fewer segments", cells, overlapCellsMax)
	}
	if out, err = g.deps.Audiences.Overlap(ctx, client, x.Segments, columns, x.Unit); err != nil {
		return out, err
	}
	for _, row := range out.Counts {
		for i := range row {
			var below int
			if row[i], below = g.shown(who, client, row[i]); below > 0 {
				out.Below = below
			}
		}
	}
	return out, nil
}

func (x *overlapRequest) check() error {
	if len(x.Segments) == 0 {
		return proto.Errorf(proto.CodeInvalid, "name 1 to %d segments, of which it is told who is in two of them", overlapSideMax)
	}
	if len(x.Segments) > overlapSideMax || len(x.Against.list) > overlapSideMax {
		return proto.Errorf(proto.CodeTooLarge, `name 1 to %d segments, and no more than that in against, which may be "all"`, overlapSideMax)
	}
	for _, list := range [][]proto.SegmentID{x.Segments, x.Against.list} {
		for _, id := range list {
			if _, err := proto.ParseSegmentID(string(id)); err != nil {
				return err
			}
		}
	}
	return nil
}

// segmentIDs are all segments of the client, by id.
func (g *Gateway) segmentIDs(client proto.ClientInfo) []proto.SegmentID {
	ids := []proto.SegmentID{}
	for _, s := range g.deps.Definitions.Segments(client) {
		ids = append(ids, s.ID)
	}
	return ids
}
