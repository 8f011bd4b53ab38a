package bench_test

import (
	"testing"

	"kith/internal/bench"
)

// What a question costs in this process is what it says: the yardstick counts
// what the node counts.
func TestTownCountsItsPeople(t *testing.T) {
	const people = 3000
	in := bench.TownMembers(people)
	if len(in) != people {
		t.Fatalf("%d people", len(in))
	}
	for o, segments := range in {
		if len(segments) != 20 {
			t.Fatalf("%d is in %d segments", o, len(segments))
		}
	}
	want := uint64(0)
	for _, s := range in {
		if (s[1] || s[2] || s[3] || s[4]) && s[0] && !s[5] {
			want++
		}
	}
	if got := bench.TownSix(people, []int{1, 2, 3, 4, 0, 5}); got != want || want == 0 {
		t.Errorf("six terms: %d, want %d", got, want)
	}
	want = 0
	for _, s := range in {
		if s[7] {
			want += uint64(len(s))
		}
	}
	if got := bench.TownAll(people, 7); got != want {
		t.Errorf("one against all: %d, want %d", got, want)
	}
}
