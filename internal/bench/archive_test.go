package bench_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/internal/bench"
	"kith/proto"
)

// What is posted of an archive is each browser's events, once, in the order of
// their times, and what the oracle reads of them is the same.
func TestArchiveIsPosted(t *testing.T) {
	present := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	for _, browsers := range []int{1, 16, 137} {
		got := map[string][]bench.Told{}
		for _, body := range bench.ArchivePosts(browsers, 7, present) {
			var post struct{ Events []json.RawMessage }
			if err := json.Unmarshal(body, &post); err != nil || len(post.Events) == 0 {
				t.Fatalf("%v: %s", err, body)
			}
			for _, raw := range post.Events {
				var e struct {
					Event      string
					Time       time.Time
					Identities []string
					Props      map[string]any
				}
				if err := json.Unmarshal(raw, &e); err != nil {
					t.Fatalf("%v: %s", err, raw)
				}
				x := bench.Told{At: proto.MillisOf(e.Time), Name: e.Event}
				if e.Event != "login" {
					x.Section, x.Price = e.Props["section"].(string), e.Props["price"].(float64)
				}
				if (len(e.Identities) == 2) != (e.Event == "login") {
					t.Errorf("%s", raw)
				}
				if back := present.Sub(e.Time) % (24 * time.Hour); back < 2*time.Hour || back > 22*time.Hour {
					t.Errorf("an event lies %v and whole days back: %s", back, raw)
				}
				got[e.Identities[0]] = append(got[e.Identities[0]], x)
			}
		}
		want := bench.ArchiveHistories(browsers, 7, present)
		if len(want) != browsers {
			t.Fatalf("%d browsers have a history", len(want))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%d browsers (-read by the oracle +posted):\n%s", browsers, d)
		}
		for v, list := range got {
			for i := 1; i < len(list); i++ {
				if list[i].At <= list[i-1].At {
					t.Errorf("the events of %s are not in the order of their times: %v", v, list)
				}
			}
		}
	}
}

// The oracle tells of browsers by their own events, of those of a user and their
// account by those of all three.
func TestOracle(t *testing.T) {
	const browsers, each = 25, 4
	present := time.Now()
	in := func(when, scope string) (names []string) {
		list, err := bench.Oracle(browsers, each, present, when, scope)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	all := bench.ArchiveHistories(browsers, each, present)
	var ordered []string
	for _, v := range bench.ArchiveIdentities(browsers) {
		for _, x := range all[v] {
			if x.Name == "order" {
				ordered = append(ordered, v)
				break
			}
		}
	}
	if got := in(`count(event.name == "order") >= 1`, "identity"); len(got) == 0 || cmp.Diff(ordered, got) != "" {
		t.Errorf("who ordered: %v, want %v", got, ordered)
	}
	users := "browser:v00000000 browser:v00000001 browser:v00000002 browser:v00000010 browser:v00000011 browser:v00000012 " +
		"browser:v00000020 browser:v00000021 browser:v00000022 account:u00000000 account:u00000001 account:u00000002"
	if got := strings.Join(in(`count(event.name == "login") == 3`, "user"), " "); got != users {
		t.Errorf("who logged in on three: %s", got)
	}
	if got := in(`count(event.name == "login") == 1`, "identity"); len(got) != 9 {
		t.Errorf("who logged in once: %v", got)
	}
}

// A post that was not answered comes again as it was, and only that.
func TestUnansweredIsSentAgain(t *testing.T) {
	first, again, other := bench.Unanswered()
	if !bytes.Equal(first, again) {
		t.Errorf("it comes again as\n%s\nit was\n%s", again, first)
	}
	if bytes.Equal(first, other) {
		t.Error("an answered post comes again")
	}
}

func TestIdentitiesOfTable(t *testing.T) {
	got, err := bench.IdentitiesOf("ordinal,identity,generation\n64,browser:a,1\n128,account:b,2\n")
	if d := cmp.Diff([]string{"browser:a", "account:b"}, got); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}
	for _, wrong := range []string{"ordinal,name\n1,2\n", "ordinal,identity\n1\n"} {
		if _, err := bench.IdentitiesOf(wrong); err == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
}
