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

// exportStep is how many identities are read from one snapshot: a longer one
// would keep what was deleted meanwhile on the disk.
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
// when it was written; one that opted out before is not there. Memory is bounded
// by one identity.
func (n *Node) ExportClient(ctx context.Context, client proto.ClientInfo, w io.Writer) error {
	ctx, done, err := n.working(ctx)
	if err != nil {
		return err
	}
	defer done()
	out := bufio.NewWriterSize(w, 64<<10)
	x := &clientExport{node: n, client: client, out: json.NewEncoder(out), end: exportedEnd{Kind: "end"}}
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
	if err := x.out.Encode(x.end); err != nil {
		return err
	}
	return out.Flush()
}

// clientExport is one export under way.
type clientExport struct {
	node   *Node
	client proto.ClientInfo
	out    *json.Encoder
	end    exportedEnd
	at     uint64 // the control record that the lane at hand had obeyed before its snapshot
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

// lane writes a lane's identities, some from each snapshot.
func (x *clientExport) lane(ctx context.Context, l *lane) error {
	for next, more := proto.Ordinal(0), true; more; {
		var err error
		if next, more, err = x.some(ctx, l, next); err != nil {
			return err
		}
	}
	return nil
}

// some writes identities from an ordinal on, and says where to go on.
func (x *clientExport) some(ctx context.Context, l *lane, first proto.Ordinal) (next proto.Ordinal, more bool, err error) {
	x.at = l.progress.obeyed.Load()
	snap := l.acquire()
	defer snap.release()
	left := exportStep
	err = l.scanNames(snap, first, func(o proto.Ordinal, node proto.Node, id proto.Identity) (bool, error) {
		if node.Space != x.client.Space {
			return true, ctx.Err()
		}
		if left == 0 {
			next, more = o, true
			return false, nil
		}
		left--
		return true, x.identity(ctx, snap, node, id)
	})
	return next, more, err
}

// identity writes what the client knows of a node: itself, or of its user.
func (x *clientExport) identity(ctx context.Context, snap *laneSnapshot, node proto.Node, id proto.Identity) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s, _, err := readNode(snap, node)
	if err != nil || s.Dark() {
		return err
	}
	n := x.node
	line := exportedIdentity{Kind: "identity", Identity: id, Segments: []proto.SegmentID{}}
	var seen proto.Seen
	seen, line.Segments = n.registry.current().segments(s.View(), x.client.ID, x.at, n.now(), line.Segments)
	links := linksOf(&s, node, x.client.ID)
	if !seen.Known && len(links) == 0 {
		return nil
	}
	if now, err := n.view(node); err != nil || now == nil || now.OptedOut {
		return err // opted out since the snapshot was taken: nothing of before is told
	}
	if err := n.mayAnswer(n.laneFor(node.Hash)); err != nil {
		return err // or a view from the cache may be older than an opt-out
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
		h := history{snap: snap, node: node, gen: s.Gen(), facts: f}
		if err := x.events(id, &h); err != nil {
			return err
		}
	}
	return x.links(id, node, links)
}

func (x *clientExport) events(id proto.Identity, h *history) (err error) {
	h.walk(func(t proto.Millis, e *proto.EventBody) bool {
		x.end.Events++
		err = x.out.Encode(exportedEvent{"event", id, proto.HistoryEvent{
			Time: t.Time(), Event: e.Name, URL: e.URL, Ref: e.Ref, Props: valuesOf(e.Props),
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

// links writes edges whose other end has a name still.
func (x *clientExport) links(id proto.Identity, node proto.Node, list []graph.Edge) error {
	for _, e := range list {
		peer, err := x.node.nameOfPeer(proto.Node{Hash: e.Peer, Space: node.Space})
		if err != nil {
			return err
		}
		if peer == "" {
			continue
		}
		x.end.Links++
		err = x.out.Encode(exportedLink{"link", id, peer, e.Method.String(), float64(e.Confidence) / 1000, e.Time.Time()})
		if err != nil {
			return err
		}
	}
	return nil
}

// nameOfPeer is the identity of a node, "" if it is opted out or has no name.
func (n *Node) nameOfPeer(node proto.Node) (id proto.Identity, err error) {
	l := n.laneFor(node.Hash)
	snap := l.acquire()
	defer snap.release()
	s, _, err := readNode(snap, node)
	if err != nil || !s.Named || s.Dark() {
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
