package log_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/engine/log"
	"kith/proto"
)

// An outlet takes a record only behind the one that its writer knows, keeps what
// Purge leaves, is another one's for each client, and is new once it was dropped.
func TestOutlet(t *testing.T) {
	each(t, func(t *testing.T, l log.Logs) {
		ctx := t.Context()
		open := func(c proto.ClientID) log.Outlet {
			o, err := l.Outlet(ctx, c, "acme")
			if err != nil {
				t.Fatal(err)
			}
			return o
		}
		a, b := open(7), open(8)
		for i, body := range []string{"one", "two", "three"} {
			if seq, err := a.Append(ctx, []byte(body), body, uint64(i)); err != nil || seq != uint64(i+1) {
				t.Fatalf("append %s: %d, %v", body, seq, err)
			}
		}
		if _, err := open(7).Append(ctx, []byte("late"), "late", 2); proto.CodeOf(err) != proto.CodeConflict {
			t.Errorf("a record behind one that is not the last: %v, want a conflict", err)
		}
		if seq, err := a.Append(ctx, []byte("two"), "two", 3); err != nil || seq != 2 {
			t.Errorf("a record that comes twice: %d, %v, want where it is", seq, err)
		}
		if r, err := a.Get(ctx, 3); err != nil || r.ID != "three" || string(r.Data) != "three" {
			t.Errorf("the third record: %+v, %v", r, err)
		}
		if err := a.Purge(ctx, 1); err != nil {
			t.Fatal(err)
		}
		var got []string
		errEnough := errors.New("enough")
		if err := a.Read(ctx, 2, func(r log.Record) error {
			if got = append(got, string(r.Data)); len(got) == 2 {
				return errEnough
			}
			return nil
		}); !errors.Is(err, errEnough) {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"two", "three"}, got); diff != "" {
			t.Errorf("after a purge (-want +got):\n%s", diff)
		}
		last := func(o log.Outlet) proto.Offset {
			i, err := o.Info(context.WithoutCancel(ctx))
			if err != nil {
				t.Fatal(err)
			}
			return i.Last
		}
		if last(b) != 0 {
			t.Error("another client's outlet holds something")
		}
		for range 2 {
			if err := l.DropOutlet(ctx, 7); err != nil {
				t.Fatal(err)
			}
		}
		if n := last(open(7)); n != 0 {
			t.Errorf("an outlet made anew ends at %d", n)
		}
	})
}

// Streams does not look whole where it has never been told which outlets there are; who
// was told that there are none goes by that.
func TestStreamsAreNotTold(t *testing.T) {
	l := open(t, config(t.TempDir()))
	defer l.Close()
	late, cancel := context.WithCancel(t.Context())
	cancel() // as if nothing were answered
	audit := func(ctx context.Context) []proto.StreamStatus {
		return slices.DeleteFunc(l.Streams(ctx), func(x proto.StreamStatus) bool { return x.Stream != "KITH_AUDIT" })
	}
	want := []proto.StreamStatus{{Stream: "KITH_AUDIT", Others: []proto.StreamCopy{}}}
	if diff := cmp.Diff(want, audit(late)); diff != "" {
		t.Errorf("before anything was told: -want +got\n%s", diff)
	}
	for _, ctx := range []context.Context{t.Context(), late} {
		if got := audit(ctx); len(got) > 0 {
			t.Errorf("of a log without outlets: %+v", got)
		}
	}
	if _, err := l.Audit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := audit(t.Context()); len(got) != 1 || got[0].Leader == "" {
		t.Errorf("of one with an audit log: %+v", got)
	}
}
