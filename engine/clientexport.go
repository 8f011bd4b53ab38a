package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math"
	"slices"
	"time"

	"kith/actors/identity"
	"kith/graph"
	"kith/proto"
	"kith/segments"
)

// This file writes all that a client holds, as lines of JSON: the client, its
// keys without their secrets, its segments with the rules that they had before
// and their sizes day by day, its saved audiences, what its report keys were
// told, then by lane and number each identity with its events and links, then
// the totals of each day, and last a line with the counts of all,
// without which the export is not whole. docs/api.md has the fields.

// exportFormat is the version of the lines.
const exportFormat = 1

// exportStep is how many names are read at once: what is known of each is read
// when it is written.
const exportStep = 256

type exportedClient struct {
	Kind   string           `json:"kind"`
	Format int              `json:"format"`
	Client proto.ClientName `json:"client"`
	Floor  int              `json:"floor"`
	Time   time.Time        `json:"time"`
}

type exportedKey struct {
	Kind string `json:"kind"`
	proto.KeyInfo
}

type exportedSegment struct {
	Kind string `json:"kind"`
	proto.SegmentSpec
}

// exportedVersion is a rule that a segment's name has stood for.
type exportedVersion struct {
	Kind    string           `json:"kind"`
	Segment proto.SegmentID  `json:"segment"`
	Scope   string           `json:"scope"`
	When    string           `json:"when"`
	Version proto.SegmentKey `json:"version"`
	From    time.Time        `json:"from"`
	To      *time.Time       `json:"to,omitempty"` // it answers still
}

// exportedSize is of a day that has ended, under all rules that the segment's
// name has stood for.
type exportedSize struct {
	Kind    string          `json:"kind"`
	Segment proto.SegmentID `json:"segment"`
	proto.DaySize
}

type exportedAudience struct {
	Kind string `json:"kind"`
	proto.AudienceSpec
}

// exportedReport is what report keys were told of an audience: a figure, that it
// was below the floor, or nothing, because it was too close to another one.
type exportedReport struct {
	Kind    string    `json:"kind"`
	Day     proto.Day `json:"day"`
	Expr    string    `json:"expr"`
	Unit    string    `json:"unit"`
	Verdict string    `json:"verdict"`
	Count   *uint64   `json:"count,omitempty"` // as it was told, rounded
}

func exportedReportOf(r segments.Report) exportedReport {
	x := exportedReport{Kind: "report", Day: r.Day, Expr: r.Audience.String(), Unit: r.Unit, Verdict: r.Verdict.String()}
	if r.Verdict == segments.VerdictTold {
		x.Count = &r.Told
	}
	return x
}

type exportedIdentity struct {
	Kind      string              `json:"kind"`
	Identity  proto.Identity      `json:"identity"`
	FirstSeen *time.Time          `json:"first_seen,omitempty"`
	LastSeen  *time.Time          `json:"last_seen,omitempty"`
	Traits    map[string]any      `json:"traits,omitempty"`
	Segments  []proto.SegmentID   `json:"segments"`
	Truncated bool                `json:"truncated,omitempty"`
	Networks  []proto.NetworkSeen `json:"networks,omitempty"`
}

type exportedEvent struct {
	Kind     string         `json:"kind"`
	Identity proto.Identity `json:"identity"`
	proto.HistoryEvent
}

type exportedLink struct {
	Kind       string         `json:"kind"`
	A          proto.Identity `json:"a"`
	B          proto.Identity `json:"b"`
	Method     string         `json:"method"`
	Confidence float64        `json:"confidence"`
	Time       time.Time      `json:"time"`
}

// exportedAggregate is a day's totals.
type exportedAggregate struct {
	Kind string `json:"kind"`
	By   string `json:"by"`
	proto.AggregateDay
}

// exportedEnd is the last line.
type exportedEnd struct {
	Kind       string `json:"kind"`
	Keys       int    `json:"keys"`
	Segments   int    `json:"segments"`
	Versions   int    `json:"versions"`
	Sizes      int    `json:"sizes"`
	Audiences  int    `json:"audiences"`
	Reports    int    `json:"reports"`
	Identities int    `json:"identities"`
	Events     int    `json:"events"`
	Links      int    `json:"links"`
	Aggregates int    `json:"aggregates"`
}

// ExportClient writes all that a client holds to w. Each identity is as it was
// when it was written, however slowly w takes it; of one that was cut or erased
// before that nothing of before is there. CodeUnavailable if a lane stopped, or
// does while it is written; CodeConflict if the client was ended. Memory is bounded by
// one identity.
func (n *Node) ExportClient(ctx context.Context, client proto.ClientInfo, w io.Writer) error {
	ctx, done, err := n.working(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := n.whole(); err != nil {
		return err
	}
	to := &exportReader{w: w, living: func() error { return n.registry.notEnded(client) }}
	out := bufio.NewWriterSize(to, 64<<10)
	x := &clientExport{node: n, client: client, to: to, out: json.NewEncoder(out), end: exportedEnd{Kind: "end"}}
	x.out.SetEscapeHTML(false)
	if err := x.account(ctx); err != nil {
		return err
	}
	for _, l := range n.lanes {
		if err := x.lane(ctx, l); err != nil {
			return err
		}
	}
	if err := x.aggregates(ctx); err != nil {
		return err
	}
	if err := n.whole(); err != nil {
		return err
	}
	// A lane may have obeyed the client's end before this node read it.
	for _, l := range n.lanes {
		if err := n.registry.wait(ctx, l.progress.obeyed.Load()); err != nil {
			return err
		}
	}
	if err := x.out.Encode(x.end); err != nil {
		return err
	}
	return out.Flush()
}

// notEnded is nil while the client was not ended.
func (r *registry) notEnded(c proto.ClientInfo) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.living(c) {
		return proto.Errorf(proto.CodeConflict, "client %s was ended meanwhile: the export would not be whole, and nothing more is told of it", c.Name)
	}
	return nil
}

// whole is nil while all lanes answer.
func (n *Node) whole() error {
	if err := n.fault(); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "the export would not be whole: %w", err)
	}
	return nil
}

// clientExport is one export under way.
type clientExport struct {
	node   *Node
	client proto.ClientInfo
	to     *exportReader
	out    *json.Encoder
	end    exportedEnd
	taken  int // how often the reader had taken something when it was last looked whether what was read still holds
}

// exportReader counts how often whoever reads an export takes something of it,
// which may be slowly. It gives nothing, nor the last line, of a client that was ended:
// what is left of one reads as if it held less.
type exportReader struct {
	w      io.Writer
	living func() error
	taken  int
}

func (r *exportReader) Write(p []byte) (int, error) {
	if err := r.living(); err != nil {
		return 0, err
	}
	r.taken++
	return r.w.Write(p)
}

// account writes the client itself and what is of it beside identities.
func (x *clientExport) account(ctx context.Context) error {
	n := x.node
	head := exportedClient{Kind: "client", Format: exportFormat, Client: x.client.Name, Floor: x.client.Floor, Time: n.config.Now().UTC().Truncate(time.Millisecond)}
	if err := x.out.Encode(head); err != nil {
		return err
	}
	for _, k := range n.registry.keyRecords(x.client) {
		x.end.Keys++
		if err := x.out.Encode(exportedKey{"key", k}); err != nil {
			return err
		}
	}
	for _, s := range n.Segments(x.client) {
		x.end.Segments++
		if err := x.out.Encode(exportedSegment{"segment", s}); err != nil {
			return err
		}
	}
	if err := errors.Join(x.versions(), x.sizes(ctx)); err != nil {
		return err
	}
	for _, a := range n.SavedAudiences(x.client) {
		x.end.Audiences++
		if err := x.out.Encode(exportedAudience{"audience", a}); err != nil {
			return err
		}
	}
	for _, r := range n.registry.reportsOf(x.client.ID) {
		x.end.Reports++
		if err := x.out.Encode(exportedReportOf(r)); err != nil {
			return err
		}
	}
	return nil
}

// versions writes the rules that are kept of what segments stood for, those of
// segments that are no more among them.
func (x *clientExport) versions() error {
	for _, v := range x.node.registry.allVersions(x.client.ID) {
		line := exportedVersion{"version", v.id, v.scope, v.when, v.key, v.from.Time(), nil}
		if v.to != 0 {
			to := v.to.Time()
			line.To = &to
		}
		x.end.Versions++
		if err := x.out.Encode(line); err != nil {
			return err
		}
	}
	return nil
}

// aggregates writes all daily totals.
func (x *clientExport) aggregates(ctx context.Context) error {
	last := proto.DayOf(x.node.config.Now()) + 1
	first := last
	for _, l := range x.node.lanes {
		day, err := l.firstTotals(x.client.ID)
		if err != nil {
			return err
		}
		first = min(first, day)
	}
	for ; first <= last; first += aggregateAnswerMax {
		for _, by := range []string{"event", "campaign"} {
			list, err := x.node.Aggregates(ctx, x.client, by, first, min(first+aggregateAnswerMax-1, last), 0)
			if err != nil {
				return err
			}
			if p := list.Partitions; p.Answered < p.Of {
				return proto.Errorf(proto.CodeUnavailable, "the export would not be whole: %d of %d partitions answer", p.Answered, p.Of)
			}
			for _, d := range list.Days {
				if by == "campaign" && d.Names == nil && d.Other == nil {
					continue
				}
				x.end.Aggregates++
				if err := x.out.Encode(exportedAggregate{"aggregate", by, d}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// firstTotals is the first day of which there are totals of the client.
func (l *lane) firstTotals(client proto.ClientID) (first proto.Day, err error) {
	snap := l.acquire()
	defer snap.release()
	first = math.MaxUint32
	err = scanTotals(snap, l.id, client, 0, math.MaxUint32, func(at clientDay, _ dayCells) error {
		first = min(first, at.day)
		return nil
	})
	return first, err
}

// lane writes a lane's identities, some at a time.
func (x *clientExport) lane(ctx context.Context, l *lane) error {
	for next, more := proto.Ordinal(0), true; more; {
		var err error
		if next, more, err = x.some(ctx, l, next); err != nil {
			return err
		}
	}
	return nil
}

// exportedName is an identity that is to be written.
type exportedName struct {
	ordinal proto.Ordinal
	node    proto.Node
	id      proto.Identity
}

// some writes identities from an ordinal on, and says where to go on.
func (x *clientExport) some(ctx context.Context, l *lane, first proto.Ordinal) (next proto.Ordinal, more bool, err error) {
	list, next, more, err := x.names(ctx, l, first)
	for i := 0; err == nil && i < len(list); i++ {
		err = x.identity(ctx, l, &list[i])
	}
	return next, more, err
}

// names are those of the client's space from an ordinal on, and where they go on.
func (x *clientExport) names(ctx context.Context, l *lane, first proto.Ordinal) (list []exportedName, next proto.Ordinal, more bool, err error) {
	snap := l.acquire()
	defer snap.release()
	err = l.scanNames(snap, first, func(o proto.Ordinal, node proto.Node, id proto.Identity) (bool, error) {
		if node.Space != x.client.Space {
			return true, ctx.Err()
		}
		if len(list) == exportStep {
			next, more = o, true
			return false, nil
		}
		list = append(list, exportedName{o, node, id})
		return true, ctx.Err()
	})
	return list, next, more, err
}

// identity writes what the client knows of a node now: itself, or of its user.
func (x *clientExport) identity(ctx context.Context, l *lane, e *exportedName) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n := x.node
	at := l.progress.obeyed.Load() // before the snapshot
	snap := l.acquire()
	defer snap.release()
	s, _, err := readNode(snap, e.node)
	if err == nil {
		err = n.mayAnswer(l) // or the snapshot may be older than an opt-out
	}
	if err != nil || s.Dark() || s.Ordinal != e.ordinal {
		return err // one that is gone and came back comes later, with its new number
	}
	x.taken = x.to.taken
	line := exportedIdentity{Kind: "identity", Identity: e.id, Segments: []proto.SegmentID{}}
	var seen proto.Seen
	seen, line.Segments = n.registry.current().segments(s.View(), x.client.ID, at, n.now(), line.Segments)
	links := linksOf(&s, e.node, x.client.ID)
	if !seen.Known && len(links) == 0 {
		return nil
	}
	f := s.Client(x.client.ID)
	if f != nil {
		first, last := f.First.Time(), f.Last.Time()
		line.FirstSeen, line.LastSeen, line.Truncated = &first, &last, f.History.Truncated
		line.Traits, line.Networks = valuesOf(f.Memory.Traits()), networksSeen(f)
	}
	x.end.Identities++
	if err := x.out.Encode(line); err != nil {
		return err
	}
	if f != nil {
		h := history{snap: snap, node: e.node, gen: s.Gen(), facts: f}
		if err := x.events(e, &s, &h); err != nil {
			return err
		}
	}
	return x.links(e, links)
}

// holds reports whether what was read of a node may still be written: it was not
// cut, nor erased for the client. It is looked each time the reader took something.
func (x *clientExport) holds(e *exportedName, was *identity.State) (bool, error) {
	if x.taken == x.to.taken {
		return true, nil
	}
	x.taken = x.to.taken
	s, err := x.node.state(e.node)
	if err != nil || s.Dark() || s.Ordinal != was.Ordinal || s.Gen() != was.Gen() {
		return false, err
	}
	f, old := s.Client(x.client.ID), was.Client(x.client.ID)
	// Who was erased and came back was first seen since; retention moves that too, but
	// not behind what is the last.
	return old == nil || f != nil && f.First <= old.Last, nil
}

func (x *clientExport) events(e *exportedName, s *identity.State, h *history) (err error) {
	h.walk(func(t proto.Millis, b *proto.EventBody) bool {
		var ok bool
		if ok, err = x.holds(e, s); err != nil || !ok {
			return false
		}
		x.end.Events++
		err = x.out.Encode(exportedEvent{"event", e.id, proto.HistoryEvent{
			Time: t.Time(), Event: b.Name, URL: b.URL, Ref: b.Ref, Props: valuesOf(b.Props),
		}})
		return err == nil
	})
	if err == nil {
		err = h.err
	}
	return err
}

// linksOf are the edges that a client vouches for, each at its lesser end.
func linksOf(s *identity.State, node proto.Node, client proto.ClientID) (list []graph.Edge) {
	if s.Graph == nil {
		return nil
	}
	for _, e := range s.Graph.Edges() {
		if e.Client == client && slices.Compare(node.Hash[:], e.Peer[:]) < 0 {
			list = append(list, e)
		}
	}
	return list
}

// linked reports whether an edge that was read may still be written: it is there
// still. It is looked as for holds.
func (x *clientExport) linked(from *exportedName, e *graph.Edge) (bool, error) {
	if x.taken == x.to.taken {
		return true, nil
	}
	s, err := x.node.state(from.node)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(linksOf(&s, from.node, x.client.ID), func(now graph.Edge) bool {
		return now.Peer == e.Peer && now.Gen == e.Gen && now.Time == e.Time
	}), nil
}

// links writes edges whose other end is still who it was when they were made, and
// has a name.
func (x *clientExport) links(from *exportedName, list []graph.Edge) error {
	for i := range list {
		e := &list[i]
		if ok, err := x.linked(from, e); err != nil {
			return err
		} else if !ok {
			continue
		}
		peer, err := x.node.nameOfPeer(proto.Node{Hash: e.Peer, Space: from.node.Space}, e.Gen)
		if err != nil {
			return err
		}
		if peer == "" {
			continue
		}
		x.end.Links++
		err = x.out.Encode(exportedLink{"link", from.id, peer, e.Method.String(), float64(e.Confidence) / 1000, e.Time.Time()})
		if err != nil {
			return err
		}
	}
	return nil
}

// nameOfPeer is the identity of a node of a generation, "" if it is another one by
// now, opted out or without a name.
func (n *Node) nameOfPeer(node proto.Node, gen uint32) (id proto.Identity, err error) {
	l := n.laneFor(node.Hash)
	snap := l.acquire()
	defer snap.release()
	s, _, err := readNode(snap, node)
	if err != nil || !s.Named || s.Dark() || s.Gen() != gen {
		return "", err
	}
	if id, err = l.nameOf(snap, s.Ordinal); err != nil {
		return "", err
	}
	return id, n.mayAnswer(l)
}

// sizes writes how many were in each segment when each day ended, day by day:
// one day of all lanes is in memory.
func (x *clientExport) sizes(ctx context.Context) error {
	ever := x.node.registry.versionsEver(x.client.ID)
	names := map[proto.SegmentKey]proto.SegmentID{}
	for id, versions := range ever {
		for _, v := range versions {
			names[v.key] = id
		}
	}
	days, err := x.node.sizedDays(x.client.ID)
	if err != nil {
		return err
	}
	for _, day := range days {
		if err := ctx.Err(); err != nil {
			return err
		}
		list, err := x.node.sizesOn(x.client.ID, day, ever, names)
		if err != nil {
			return err
		}
		for _, id := range slices.Sorted(maps.Keys(list)) {
			x.end.Sizes++
			if err := x.out.Encode(exportedSize{"size", id, list[id]}); err != nil {
				return err
			}
		}
	}
	return nil
}
