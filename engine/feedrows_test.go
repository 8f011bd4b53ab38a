package engine_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/engine"
)

// A row comes back as it was, also once the bytes that it was read from are used
// again; whatever else is read is refused or comes back the same.
func FuzzFeedRow(f *testing.F) {
	row := engine.FeedRowSample()
	f.Add(row)
	f.Add([]byte{1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := engine.ReadFeedRow(b)
		if err != nil || len(list) == 0 {
			return
		}
		again, err := engine.ReadFeedRow(engine.FeedRow(list))
		if err != nil {
			t.Fatal(err)
		}
		before := engine.FeedRow(list)
		clear(b)
		if diff := cmp.Diff(before, engine.FeedRow(list)); diff != "" {
			t.Fatalf("what was read hangs on the bytes that it was read from (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(before, engine.FeedRow(again)); diff != "" {
			t.Fatalf("not the same again (-want +got):\n%s", diff)
		}
	})
}
