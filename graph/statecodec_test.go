package graph_test

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/graph"
	"kith/proto"
)

// wholeState has something in every field, links and members too.
func wholeState() *graph.State {
	x := fullState()
	x.Links = fullLinks()
	x.Members = []graph.Member{{Peer: b.hash(), Copy: fullCopy()}, {Peer: e.hash(), Copy: fullCopy()}}
	return x
}

// decodeWhole reads a state and gives its members the copies of want.
func decodeWhole(t *testing.T, row []byte, want *graph.State) *graph.State {
	t.Helper()
	got := graph.State{Gen: 99, Links: fullLinks(), Members: want.Members} // of an earlier use
	members, err := got.Decode(row)
	if err != nil {
		t.Fatal(err)
	}
	var names []graph.Hash
	for i := range want.Members {
		names = append(names, want.Members[i].Peer)
	}
	if diff := cmp.Diff(names, members); diff != "" {
		t.Errorf("members whose copies are to be added (-want +got):\n%s", diff)
	}
	if len(got.Members) > 0 {
		t.Errorf("%d members have copies that nobody gave", len(got.Members))
	}
	for _, m := range want.Members {
		if err := got.AddCopy(m.Peer, m.Copy.Append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	return &got
}

func TestStateRoundTrip(t *testing.T) {
	want := wholeState()
	row := want.Append(nil)
	golden(t, "state", row)
	if diff := cmp.Diff(want, decodeWhole(t, row, want), stateOptions); diff != "" {
		t.Errorf("after decoding (-want +got):\n%s", diff)
	}
	// Behind something else it is the same.
	if got := want.Append([]byte("before")); string(got) != "before"+string(row) {
		t.Errorf("appended to something it is %x", got)
	}
	dark := graph.Tombstoned(4)
	if diff := cmp.Diff(&dark, decodeWhole(t, dark.Append(nil), &dark), stateOptions); diff != "" {
		t.Errorf("a tombstone after decoding (-want +got):\n%s", diff)
	}
}

func TestStateRefused(t *testing.T) {
	x := wholeState()
	row := x.Append(nil)
	for n := range row {
		if _, err := new(graph.State).Decode(row[:n]); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("the first %d of %d bytes: %v", n, len(row), err)
		}
	}
	for name, change := range map[string]func(*graph.State) []byte{
		"a byte too many": func(x *graph.State) []byte { return append(x.Append(nil), 0) },
		"links out of order": func(x *graph.State) []byte {
			x.Links[0], x.Links[1] = x.Links[1], x.Links[0]
			return x.Append(nil)
		},
		"a link twice": func(x *graph.State) []byte {
			x.Links[1] = x.Links[0]
			return x.Append(nil)
		},
		"members out of order": func(x *graph.State) []byte {
			x.Members[0], x.Members[1] = x.Members[1], x.Members[0]
			return x.Append(nil)
		},
		"a member twice": func(x *graph.State) []byte {
			x.Members[1] = x.Members[0]
			return x.Append(nil)
		},
		"no generation": func(x *graph.State) []byte {
			x.Gen = 0
			return x.Append(nil)
		},
		"a count that there is no room for": func(x *graph.State) []byte {
			x.Links, x.Members = nil, nil
			b := x.Append(nil)
			return binary.AppendUvarint(b[:len(b)-1], 1<<40)
		},
	} {
		if _, err := new(graph.State).Decode(change(wholeState())); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzState(f *testing.F) {
	f.Add(wholeState().Append(nil))
	f.Add((&graph.State{Gen: 1}).Append(nil))
	dark := graph.Tombstoned(2)
	f.Add(dark.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var x, y graph.State
		members, err := x.Decode(b)
		if err != nil {
			if proto.CodeOf(err) != proto.CodeCorrupt {
				t.Fatalf("code of %v", err)
			}
			return
		}
		for _, m := range members {
			if err := x.AddCopy(m, fullCopy().Append(nil)); err != nil {
				t.Fatal(err)
			}
		}
		again := x.Append(nil)
		named, err := y.Decode(again)
		if err != nil || !slices.Equal(named, members) {
			t.Fatalf("what was read cannot be read again: %v, members %v and %v", err, members, named)
		}
		for _, m := range named {
			_ = y.AddCopy(m, fullCopy().Append(nil))
		}
		if string(y.Append(nil)) != string(again) {
			t.Fatal("reading and writing changes it")
		}
	})
}
