package graph_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kith/graph"
	"kith/proto"
)

var updateFlag = flag.Bool("update-golden", false, "write the golden files anew")

// golden compares bytes that outlive the process with those of the first
// version that wrote them.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	if *updateFlag {
		if err := os.WriteFile(path, []byte(hex.EncodeToString(got)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.TrimSpace(string(b)); want != hex.EncodeToString(got) {
		t.Errorf("%s: the encoding changed; stored data would not be read:\n got %x\nwant %s", name, got, want)
	}
}

// fullState has something in every field.
func fullState() *graph.State {
	return &graph.State{
		Gen: 3, Ver: 9, Fence: 1_000_030, Removals: 5, Root: a.hash(), Joined: 7,
		Holders:   []graph.Holder{{Root: a.hash(), Ver: 9, Acked: 8}},
		Waits:     []graph.Wait{{Peer: c.hash(), Answer: graph.UnlinkAck, Gen: 2, Ver: 9}, {Peer: d.hash(), Answer: graph.Forgot, Ver: 8, Time: 77, Number: 5, Own: true}},
		Shown:     graph.Shown{Root: a.hash(), Number: 300, Value: "value"},
		Invited:   []graph.Hash{c.hash(), d.hash()},
		Questions: []graph.Question{{Peer: d.hash(), About: e.hash()}},
		Promises:  []graph.Question{{Peer: c.hash(), About: d.hash()}},
		Number:    12, Given: "given",
		Receivers: []graph.Receiver{{Peer: c.hash(), Sent: 11, Acked: 10}, {Peer: d.hash(), Sent: 12, Out: true}},
		Owed:      []graph.Owed{{Peer: d.hash(), Gen: 1, Ver: 4, After: 12, Told: 2}},
		Cuts: []graph.CutRecord{{
			Gen: 2, Time: -5, After: 6, Retract: []graph.Retraction{{Root: a.hash(), Ver: 3}}, Unlink: []graph.Hash{c.hash()},
			Telling: true, All: true, Spread: 3, Parent: graph.Ref{Peer: c.hash(), Gen: 2}, Also: []graph.Also{{Ref: graph.Ref{Peer: c.hash(), Gen: 1}, Done: true}},
			Origins: []graph.Ref{{Peer: e.hash(), Gen: 5}}, Copies: 1, Replaced: 2,
		}},
		Asks:     []graph.Asked{{Peer: c.hash(), Command: 99, Sent: true, Since: 78}},
		Commands: []uint64{99, 1 << 60},
	}
}

func fullLinks() []graph.Neighbour {
	ev := graph.Evidence{Time: 1_700_000_000_000, Client: 42, Confidence: 850, Method: graph.Inferred}
	return []graph.Neighbour{
		{Peer: a.hash(), Stage: graph.Established, Gen: 4, Settled: true, Evidence: ev},
		{Peer: c.hash(), Stage: graph.Pending, Evidence: ev, Mark: graph.RemovedMark, MarkGen: 2, MarkTime: 50},
		{Peer: d.hash(), Mark: graph.CappedMark, MarkGen: 1, MarkTime: 60},
		{Peer: e.hash(), Mark: graph.RemovedMark, MarkTime: 70, Told: 5},
	}
}

func fullCopy() *graph.Contribution {
	return &graph.Contribution{Gen: 2, Ver: 300, Data: "data", Edges: []graph.Edge{
		{Peer: b.hash(), Gen: 1, Evidence: at(5)},
		{Peer: e.hash(), Gen: 2, Settled: true, Evidence: graph.Evidence{Time: 6, Client: 7, Confidence: 8, Method: graph.Inferred}},
	}}
}

// fullMessages has every kind, and every field at least once.
func fullMessages() []graph.Message {
	all := graph.Message{
		About: c.hash(), Reason: graph.ReasonUserCap, Out: true, All: true, Again: true, Capped: true,
		Gen: 1, ToGen: 2, AboutGen: 3, Ver: 4, Number: 5, Command: 6, Echo: 7,
		Evidence: graph.Evidence{Time: 8, Client: 9, Confidence: 10, Method: graph.Inferred},
		List:     []graph.Ref{{Peer: d.hash(), Gen: 11}}, Value: "v", Body: []byte("body"),
	}
	var list []graph.Message
	for k := graph.Event; k <= graph.RestDone; k++ {
		if strings.HasPrefix(k.String(), "Kind(") {
			continue
		}
		m := graph.Message{Kind: k, To: b.node(), Evidence: at(1)}
		if k == graph.Refuse {
			m = all
			m.Kind, m.To = k, b.node()
		}
		if !k.Outside() {
			m.From = a.hash()
		}
		if k == graph.Contrib {
			m.Copy = fullCopy()
		}
		list = append(list, m)
	}
	return list
}

var stateOptions = cmp.Options{cmpopts.IgnoreUnexported(graph.State{}), cmpopts.EquateEmpty()}

func TestRowsRoundTrip(t *testing.T) {
	want := fullState()
	want.Links = fullLinks()
	want.Members = []graph.Member{{Peer: b.hash(), Copy: fullCopy()}}
	node := want.AppendNode(nil)
	golden(t, "node", node)
	var got graph.State
	if err := got.DecodeNode(node); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"link_established", "link_pending", "link_capped", "link_removed"} {
		row := want.Links[i].AppendLink(nil)
		golden(t, name, row)
		if err := got.AddLink(want.Links[i].Peer, row); err != nil {
			t.Fatal(err)
		}
	}
	row := want.Members[0].Copy.Append(nil)
	golden(t, "copy", row)
	if err := got.AddCopy(b.hash(), row); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, &got, stateOptions); diff != "" {
		t.Errorf("after decoding (-want +got):\n%s", diff)
	}
}

// A cut that nobody asked for is marked; those that earlier versions wrote are not.
func TestQuietCutRoundTrip(t *testing.T) {
	want := fullState()
	want.Cuts[0].Quiet = true
	node := want.AppendNode(nil)
	golden(t, "node_quiet", node)
	var got graph.State
	if err := got.DecodeNode(node); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, &got, stateOptions); diff != "" {
		t.Errorf("after decoding (-want +got):\n%s", diff)
	}
}

// What a root shows is what it gave, and stored once.
func TestGivenRoundTrip(t *testing.T) {
	want := fullState()
	want.Given = want.Shown.Value
	node := want.AppendNode(nil)
	golden(t, "node_given", node)
	var got graph.State
	if err := got.DecodeNode(node); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, &got, stateOptions); diff != "" {
		t.Errorf("after decoding (-want +got):\n%s", diff)
	}
}

// A cut of which others have a rest is longer than what earlier versions wrote.
func TestCutWithRestRoundTrip(t *testing.T) {
	want := fullState()
	want.Cuts[0].Rest = []graph.Ref{{Peer: c.hash(), Gen: 1}, {Peer: c.hash(), Gen: 3}}
	node := want.AppendNode(nil)
	golden(t, "node_rest", node)
	var got graph.State
	if err := got.DecodeNode(node); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, &got, stateOptions); diff != "" {
		t.Errorf("after decoding (-want +got):\n%s", diff)
	}
	slices.Reverse(want.Cuts[0].Rest)
	if err := got.DecodeNode(want.AppendNode(nil)); proto.CodeOf(err) != proto.CodeCorrupt {
		t.Errorf("a rest out of order: %v", err)
	}
}

func TestBatchRoundTrip(t *testing.T) {
	want := graph.Batch{Vector: []proto.Offset{3, 0, 1 << 40}, Messages: fullMessages()}
	b := want.Append(nil)
	golden(t, "batch", b)
	got, err := graph.DecodeBatch(b, 3)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("after decoding (-want +got):\n%s", diff)
	}
	if _, err := graph.DecodeBatch(b, 2); proto.CodeOf(err) != proto.CodeCorrupt {
		t.Errorf("a vector of another number of lanes: %v", err)
	}
}

func TestLaneRecordRoundTrip(t *testing.T) {
	town := newTown(2)
	l := town.lanes[1]
	l.Position, l.Vector[0], l.Applied[0] = 77, 5, 3
	l.Carry = fullMessages()[:3]
	l.Outbox[0] = graph.Channel{Base: 4, Batches: []graph.Batch{{Vector: []proto.Offset{1, 2}, Messages: fullMessages()[8:9]}}}
	record := l.AppendRecord(nil)
	golden(t, "lane", record)
	row := l.Outbox[0].Batches[0].Append(nil)
	got, err := graph.DecodeRecord(record, &town.laneOf, func(to proto.LaneID, n uint64) ([]byte, error) {
		if to != 0 || n != 5 {
			t.Errorf("asked for batch %d to lane %d", n, to)
		}
		return row, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(l, got, cmpopts.IgnoreUnexported(graph.Lane{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("after decoding (-want +got):\n%s", diff)
	}
	lost := errors.New("lost")
	if _, err := graph.DecodeRecord(record, &town.laneOf, func(proto.LaneID, uint64) ([]byte, error) { return nil, lost }); !errors.Is(err, lost) {
		t.Errorf("an outbox row that cannot be read: %v", err)
	}
	if _, err := graph.DecodeRecord(record, &town.laneOf, func(proto.LaneID, uint64) ([]byte, error) { return nil, nil }); proto.CodeOf(err) != proto.CodeCorrupt {
		t.Errorf("an empty outbox row: %v", err)
	}
}

// However much is carried over, no row of it is large, and all of it comes back in order.
func TestCarryRows(t *testing.T) {
	town := newTown(2)
	l := town.lanes[1]
	if record, carry := l.Rows(); !bytes.Equal(record, l.AppendRecord(nil)) || len(carry) > 0 {
		t.Errorf("of a lane that carries nothing over there are %d rows more", len(carry))
	}
	for i := range 40_000 {
		m := fullMessages()[i%3]
		m.Number = uint64(i)
		if i%10_000 == 0 {
			m.Value = graph.Value(strings.Repeat("v", 400<<10))
		}
		l.Carry = append(l.Carry, m)
	}
	record, carry := l.Rows()
	got, err := graph.DecodeRecord(record, &town.laneOf, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range append(carry, record) {
		if len(row) > 512<<10 {
			t.Errorf("a row has %d bytes", len(row))
		}
	}
	if record[0] == town.lanes[0].AppendRecord(nil)[0] {
		t.Error("who knows nothing of the rows would read the record as if it were all")
	}
	for _, row := range carry {
		if proto.CodeOf(got.Complete()) != proto.CodeCorrupt {
			t.Error("a row is missing, which is not noticed")
		}
		if err := got.AddCarry(row[:len(row)-1]); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("a row that was cut: %v", err)
		}
		if err := got.AddCarry(row); err != nil {
			t.Fatal(err)
		}
	}
	if len(carry) < 3 || !bytes.Equal(got.AppendRecord(nil), l.AppendRecord(nil)) || got.Complete() != nil {
		t.Errorf("%d rows give back another lane", len(carry))
	}
	if err := got.AddCarry(carry[0]); err != nil || got.Complete() == nil {
		t.Errorf("a row too many is not noticed: %v", err)
	}
}

// Every row says which version it has and refuses others, and no prefix of a
// row is a row.
func TestRowsRefuse(t *testing.T) {
	s := fullState()
	link := fullLinks()[1]
	town := newTown(2)
	rows := map[string]struct {
		row    []byte
		decode func([]byte) error
	}{
		"node": {s.AppendNode(nil), func(b []byte) error { return new(graph.State).DecodeNode(b) }},
		"link": {link.AppendLink(nil), func(b []byte) error { return new(graph.State).AddLink(a.hash(), b) }},
		"copy": {fullCopy().Append(nil), func(b []byte) error { return new(graph.State).AddCopy(a.hash(), b) }},
		"outbox": {(&graph.Batch{Vector: []proto.Offset{1}, Messages: fullMessages()}).Append(nil), func(b []byte) error {
			_, err := graph.DecodeBatch(b, 1)
			return err
		}},
		"lane": {town.lanes[0].AppendRecord(nil), func(b []byte) error {
			_, err := graph.DecodeRecord(b, &town.laneOf, nil)
			return err
		}},
	}
	for name, r := range rows {
		t.Run(name, func(t *testing.T) {
			if err := r.decode(r.row); err != nil {
				t.Fatal(err)
			}
			for n := range r.row {
				if err := r.decode(r.row[:n]); proto.CodeOf(err) != proto.CodeCorrupt {
					t.Errorf("the first %d of %d bytes: %v", n, len(r.row), err)
				}
			}
			other := append([]byte{9}, r.row[1:]...)
			if err := r.decode(other); err == nil || !strings.Contains(err.Error(), "version 9") {
				t.Errorf("version 9: %v", err)
			}
			if err := r.decode(append(r.row[:len(r.row):len(r.row)], 0)); proto.CodeOf(err) != proto.CodeCorrupt {
				t.Errorf("a byte too many: %v", err)
			}
		})
	}
}

// What a sorted list is found by must be sorted.
func TestRowsRefuseDisorder(t *testing.T) {
	for name, change := range map[string]func(*graph.State){
		"receivers": func(s *graph.State) { s.Receivers[0], s.Receivers[1] = s.Receivers[1], s.Receivers[0] },
		"invited":   func(s *graph.State) { s.Invited[1] = s.Invited[0] },
		"unlink":    func(s *graph.State) { s.Cuts[0].Unlink = []graph.Hash{d.hash(), c.hash()} },
		"no gen":    func(s *graph.State) { s.Gen = 0 },
	} {
		s := fullState()
		change(s)
		if err := new(graph.State).DecodeNode(s.AppendNode(nil)); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := fullCopy()
	c.Edges[0], c.Edges[1] = c.Edges[1], c.Edges[0]
	if _, err := graph.DecodeContribution(c.Append(nil)); proto.CodeOf(err) != proto.CodeCorrupt {
		t.Errorf("edges: %v", err)
	}
}

// Names are told in metrics and logs; none may be missing.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for r := graph.ReasonNone; r <= graph.ReasonBusy; r++ {
		if seen[r.String()] || r.String() == "unknown" {
			t.Errorf("reason %d is called %q", r, r)
		}
		seen[r.String()] = true
	}
	if s := graph.Reason(200).String(); s != "unknown" {
		t.Errorf("an unknown reason is called %q", s)
	}
	if graph.ReasonRemoved.Capped() || !graph.ReasonUserCap.Capped() {
		t.Error("which reasons are caps is wrong")
	}
	if s := graph.Kind(9).String(); s != "Kind(9)" {
		t.Errorf("an unknown kind is called %q", s)
	}
}

func FuzzNode(f *testing.F) {
	f.Add(fullState().AppendNode(nil))
	f.Add((&graph.State{Gen: 1}).AppendNode(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var x, y graph.State
		if x.DecodeNode(b) != nil {
			return
		}
		again := x.AppendNode(nil)
		if err := y.DecodeNode(again); err != nil {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
		if string(y.AppendNode(nil)) != string(again) {
			t.Fatal("reading and writing changes it")
		}
	})
}

func FuzzLink(f *testing.F) {
	for _, l := range fullLinks() {
		f.Add(l.AppendLink(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var x, y graph.State
		if x.AddLink(a.hash(), b) != nil {
			return
		}
		if err := y.AddLink(a.hash(), x.Links[0].AppendLink(nil)); err != nil || x.Links[0] != y.Links[0] {
			t.Fatalf("read again: %v, %+v and %+v", err, x.Links, y.Links)
		}
	})
}

func FuzzCopy(f *testing.F) {
	f.Add(fullCopy().Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := graph.DecodeContribution(b)
		if err != nil {
			return
		}
		again := x.Append(nil)
		y, err := graph.DecodeContribution(again)
		if err != nil || string(y.Append(nil)) != string(again) {
			t.Fatalf("reading and writing changes it: %v", err)
		}
	})
}

func FuzzBatch(f *testing.F) {
	for _, m := range fullMessages() {
		f.Add((&graph.Batch{Vector: []proto.Offset{1, 2}, Messages: []graph.Message{m}}).Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := graph.DecodeBatch(b, 2)
		if err != nil {
			return
		}
		again := x.Append(nil)
		y, err := graph.DecodeBatch(again, 2)
		if err != nil || string(y.Append(nil)) != string(again) {
			t.Fatalf("reading and writing changes it: %v", err)
		}
	})
}

func FuzzLane(f *testing.F) {
	town := newTown(2)
	town.lanes[1].Carry = fullMessages()[1:3]
	f.Add(town.lanes[1].AppendRecord(nil))
	row := (&graph.Batch{Vector: []proto.Offset{1, 2}, Messages: fullMessages()[8:9]}).Append(nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		given := 0
		l, err := graph.DecodeRecord(b, &town.laneOf, func(proto.LaneID, uint64) ([]byte, error) {
			if given++; given > 100 {
				return nil, errors.New("no more")
			}
			return row, nil
		})
		if err != nil {
			return
		}
		again := l.AppendRecord(nil)
		m, err := graph.DecodeRecord(again, &town.laneOf, func(proto.LaneID, uint64) ([]byte, error) { return row, nil })
		if err != nil || string(m.AppendRecord(nil)) != string(again) {
			t.Fatalf("reading and writing changes it: %v", err)
		}
	})
}
