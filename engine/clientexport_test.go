package engine_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/engine"
	"kith/proto"
)

// exported is a line of an export, of whatever kind.
type exported struct {
	Kind     string
	Client   string
	Identity proto.Identity
	ID       string
	Note     string
	Segments json.RawMessage
	Traits   map[string]any
	A, B     proto.Identity
	// of the last line
	Keys, Identities, Events, Links int
}

func export(t *testing.T, n *engine.Node, c proto.ClientInfo) (lines []exported) {
	t.Helper()
	var b bytes.Buffer
	if err := n.ExportClient(t.Context(), c, &b); err != nil {
		t.Fatal(err)
	}
	return exportedLines(t, &b)
}

func exportedLines(t *testing.T, b *bytes.Buffer) (lines []exported) {
	t.Helper()
	s := bufio.NewScanner(b)
	for s.Scan() {
		var x exported
		if err := json.Unmarshal(s.Bytes(), &x); err != nil {
			t.Fatalf("%s: %v", s.Bytes(), err)
		}
		lines = append(lines, x)
	}
	return lines
}

// An export has all that the client holds, each once, nothing of others, and
// counts at its end.
func TestExportClient(t *testing.T) {
	for _, k := range []int{1, 4} {
		t.Run(fmt.Sprint("lanes=", k), func(t *testing.T) {
			n := testNode(t, t.TempDir(), lanes(k))
			defer closeNode(t, n)
			mine, key := grouped(t, n, "alpha")
			other, _ := grouped(t, n, "beta")
			furnish(t, n, mine, other, 700)
			optOut(t, n, browser(0), false)
			lines := export(t, n, mine)
			got := map[string]int{}
			seen := map[proto.Identity]int{}
			for _, x := range lines {
				got[x.Kind]++
				if x.Identity == browser(0) {
					t.Error("who opted out is told:", x)
				}
				switch {
				case x.Kind == "identity":
					seen[x.Identity]++
				case x.Kind == "key" && key[:9] != x.Note:
					t.Errorf("the key's note is %q", x.Note)
				}
			}
			// 699 with facts, and the account that is of a user.
			if len(seen) != 700 || got["identity"] != 700 {
				t.Errorf("%d identities in %d lines, want 700", len(seen), got["identity"])
			}
			if diff := cmp.Diff(map[string]int{"client": 1, "key": 1, "segment": 2, "identity": 700, "event": 699, "link": 12, "end": 1}, got); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			end := lines[len(lines)-1]
			if end.Kind != "end" || end.Keys != 1 || string(end.Segments) != "2" || end.Identities != 700 || end.Events != 699 || end.Links != 12 {
				t.Errorf("the end is %+v", end)
			}
			if lines[0].Kind != "client" || lines[0].Client != "alpha" {
				t.Errorf("the beginning is %+v", lines[0])
			}
		})
	}
}

// onWrite does something at the first write, of many.
type onWrite struct {
	bytes.Buffer
	do func()
}

func (w *onWrite) Write(p []byte) (int, error) {
	if w.do != nil {
		w.do()
		w.do = nil
	}
	return w.Buffer.Write(p)
}

// Whoever opts out while an export runs is not in what follows, though it was
// in the snapshot that is read.
func TestExportClientDuringOptOut(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	const last = 254 // all in one snapshot, beyond what is buffered
	var list []*proto.Event
	for i := range last + 1 {
		e := page(c, fmt.Sprint("v", i), "auto", time.Now())
		for k := range 8 {
			e.Props = append(e.Props, proto.Prop{Key: fmt.Sprint("pad", k), Value: proto.TextOf(fmt.Sprintf("%0100d", i))})
		}
		list = append(list, e)
	}
	submit(t, n, list...)
	lines := export(t, n, c)
	victim := proto.Identity("")
	for _, x := range lines {
		if x.Kind == "identity" {
			victim = x.Identity
		}
	}
	w := &onWrite{do: func() { optOut(t, n, victim, false) }}
	if err := n.ExportClient(t.Context(), c, w); err != nil {
		t.Fatal(err)
	}
	for _, x := range exportedLines(t, &w.Buffer) {
		if x.Identity == victim {
			t.Fatalf("%s opted out, and is told after that", victim)
		}
	}
}

// The account has the sizes of days that ended, saved audiences and what report
// keys were told, of this client alone.
func TestExportClientAccount(t *testing.T) {
	c := newCrowd(t, 5, "ab", below(map[byte]int{'a': 3, 'b': 1}))
	c.script.beat(24 * time.Hour)
	c.set(c.script.now.Time())
	c.restart()
	n, acme := c.n, c.client
	if _, err := n.SaveAudience(t.Context(), acme, proto.AudienceSpec{ID: "mine", Expr: "a & !b", Description: "for a test"}); err != nil {
		t.Fatal(err)
	}
	for expr, floor := range map[string]int{"a": 1, "b": 50} {
		if _, err := n.Report(t.Context(), acme, expr, "", floor); err != nil {
			t.Fatal(err)
		}
	}
	other := acme
	other.ID, other.Name = acme.ID+1000, "other"
	for of, want := range map[proto.ClientInfo][]string{
		acme: {
			`{"kind":"size","segment":"a","day":"2026-01-01","identities":3}`,
			`{"kind":"size","segment":"all","day":"2026-01-01","identities":5}`,
			`{"kind":"size","segment":"b","day":"2026-01-01","identities":1}`,
			`{"kind":"audience","id":"mine","expr":"a & !b","description":"for a test"}`,
			`{"kind":"report","day":"2026-01-02","expr":"a","unit":"identities","verdict":"told","count":10}`,
			`{"kind":"report","day":"2026-01-02","expr":"b","unit":"identities","verdict":"below"}`,
		},
		other: nil,
	} {
		var b bytes.Buffer
		if err := n.ExportClient(t.Context(), of, &b); err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(b.String()) {
			for _, kind := range []string{"size", "audience", "report"} {
				if strings.HasPrefix(line, `{"kind":"`+kind+`"`) {
					got = append(got, strings.TrimSpace(line))
				}
			}
		}
		slices.SortStableFunc(got, func(a, b string) int { // reports in any order
			if strings.Contains(a, `"report"`) && strings.Contains(b, `"report"`) {
				return strings.Compare(a, b)
			}
			return 0
		})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", of.Name, diff)
		}
		end := fmt.Sprintf(`"sizes":%d,"audiences":%d,"reports":%d,`, min(3, len(want)), min(1, len(want)), min(2, len(want)))
		if !strings.Contains(b.String(), end) {
			t.Errorf("%s: the end has not %s: %s", of.Name, end, b.String()[max(0, b.Len()-200):])
		}
	}
}
