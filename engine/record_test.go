package engine_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/engine"
	"kith/proto"
)

// longHistory are events of a visitor that take many blocks and a tail.
func longHistory(t *testing.T, n *engine.Node, c proto.ClientInfo, visitor string) proto.Identity {
	t.Helper()
	for from := 0; from < 400; from += 200 {
		var events []*proto.Event
		for i := range 200 {
			e := page(c, visitor, fmt.Sprint(from+i), time.Now())
			e.URL, e.Ref = fmt.Sprint("https://a.example/", from+i), "https://b.example/"
			e.Props = append(e.Props, proto.Prop{Key: "pad", Value: proto.TextOf(strings.Repeat(fmt.Sprint(from+i), 1+i%20))})
			events = append(events, e)
		}
		submit(t, n, events...)
	}
	return proto.Identity("browser:" + visitor)
}

// sectionsOf reads a record's events in pieces of so many, and what they are about.
func sectionsOf(next proto.NextEvents, piece, most int) (list []string, pieces int, err error) {
	for more := true; more && err == nil && pieces < most; pieces++ {
		got := 0
		more, err = next(func(_ proto.Millis, e *proto.EventBody) bool {
			v, _ := e.Prop("section")
			list = append(list, strings.Clone(v.Text))
			got++
			return got == piece
		})
	}
	return list, pieces, err
}

// A record's events come in pieces of any size, each once.
func TestRecordInPieces(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	id := longHistory(t, n, c, "v")
	var want []string
	for i := range 400 {
		want = append(want, fmt.Sprint(i))
	}
	for _, piece := range []int{1, 7, 64, 399, 400, 401} {
		rec, next, err := n.OpenRecord(t.Context(), c, id)
		if err != nil || !rec.Known || len(rec.Events) > 0 {
			t.Fatalf("%+v %v", rec, err)
		}
		got, pieces, err := sectionsOf(next, piece, 1000)
		if err != nil || !cmp.Equal(got, want) || pieces != 400/piece+1 {
			t.Errorf("in pieces of %d: %d of %d events in %d, %v", piece, len(got), len(want), pieces, err)
		}
	}
	rec, err := n.Record(t.Context(), c, id)
	if err != nil || len(rec.Events) != 400 || rec.Events[399].URL != "https://a.example/399" || rec.Events[7].Props["pad"] != strings.Repeat("7", 8) {
		t.Errorf("whole: %d events, %v", len(rec.Events), err)
	}
	if rec, next, err := n.OpenRecord(t.Context(), c, "browser:nobody"); err != nil || rec.Known || next != nil {
		t.Errorf("of nobody: %+v %v", rec, err)
	}
}

// What comes while a record is read is not in it, what is cut meanwhile is told no more,
// and nobody reads on who went.
func TestRecordCutMeanwhile(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c, _ := grouped(t, n, "mine")
	other, _ := grouped(t, n, "other")
	cut := map[string]func(id proto.Identity) error{
		"more came": func(id proto.Identity) error { longHistory(t, n, c, id.Value()); return nil },
		"opted out": func(id proto.Identity) error {
			_, err := n.OptOut(t.Context(), proto.ClientInfo{}, id, false)
			return err
		},
		"erased":      func(id proto.Identity) error { _, err := n.Erase(t.Context(), nil, id); return err },
		"of a client": func(id proto.Identity) error { _, err := n.Erase(t.Context(), &c, id); return err },
		"came back": func(id proto.Identity) error {
			submit(t, n, page(other, id.Value(), "x", time.Now())) // so that the identity stays
			s, err := n.Erase(t.Context(), &c, id)
			if err == nil && !s.Final {
				err = fmt.Errorf("not final: %+v", s)
			}
			time.Sleep(5 * time.Millisecond) // to another time
			longHistory(t, n, c, id.Value())
			return err
		},
	}
	for name, do := range cut {
		id := longHistory(t, n, c, strings.ReplaceAll(name, " ", ""))
		_, next, err := n.OpenRecord(t.Context(), c, id)
		if err != nil {
			t.Fatal(err)
		}
		before, _, err := sectionsOf(next, 50, 1)
		if err != nil || len(before) != 50 {
			t.Fatalf("%s: %d events, %v", name, len(before), err)
		}
		if err := do(id); err != nil {
			t.Fatal(name, err)
		}
		after, _, err := sectionsOf(next, 50, 1000)
		if name == "more came" {
			if err != nil || len(after) != 350 {
				t.Errorf("%s: %d events, %v", name, len(after), err)
			}
		} else if proto.CodeOf(err) != proto.CodeUnavailable || len(after) > 0 {
			t.Errorf("%s: %d events, %v", name, len(after), err)
		}
	}
	ctx, leave := context.WithCancel(t.Context())
	_, next, err := n.OpenRecord(ctx, c, longHistory(t, n, c, "left"))
	if err != nil {
		t.Fatal(err)
	}
	leave()
	if got, _, err := sectionsOf(next, 1000, 1000); err == nil || len(got) == 400 {
		t.Errorf("to who went %d events were told, %v", len(got), err)
	}
}
