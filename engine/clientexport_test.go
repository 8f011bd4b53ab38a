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
			if diff := cmp.Diff(map[string]int{"client": 1, "key": 1, "segment": 2, "version": 2, "identity": 700, "event": 699, "link": 12, "aggregate": 1, "end": 1}, got); diff != "" {
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

// whileRead exports while the reader hangs once on what is nearly all of one lane,
// and gives what the export says of an identity: the one that is last in a first
// export, which what happens meanwhile is about.
func whileRead(t *testing.T, n *engine.Node, c proto.ClientInfo, meanwhile func(victim proto.Identity)) (lines []exported, of string) {
	t.Helper()
	victim := proto.Identity("")
	for _, x := range export(t, n, c) {
		if x.Kind == "identity" {
			victim = x.Identity
		}
	}
	w := &onWrite{do: func() { meanwhile(victim) }}
	if err := n.ExportClient(t.Context(), c, w); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(w.String()) {
		if strings.Contains(line, string(victim)+`"`) {
			of += line
		}
	}
	return exportedLines(t, &w.Buffer), of
}

// padded is a page with so many bytes of old news, for exports that are larger than
// what is buffered.
func padded(c proto.ClientInfo, visitor string, bytes int) *proto.Event {
	e := page(c, visitor, "old", time.Now())
	for k := 0; bytes > 0; k++ {
		e.Props = append(e.Props, proto.Prop{Key: fmt.Sprint("pad", k), Value: proto.TextOf(fmt.Sprintf("%0100d", k))})
		bytes -= 100
	}
	return e
}

// Whoever is erased while an export runs, and comes back, is in what follows only
// with what came after that.
func TestExportClientDuringErasure(t *testing.T) {
	for _, mine := range []bool{false, true} {
		t.Run(fmt.Sprint("of one client=", mine), func(t *testing.T) {
			n := testNode(t, t.TempDir())
			defer closeNode(t, n)
			for _, name := range []proto.ClientName{"one", "two"} {
				if _, err := n.CreateKey(t.Context(), name, proto.RoleClient, "both"); err != nil {
					t.Fatal(err)
				}
			}
			one, _ := n.Client("one")
			two, _ := n.Client("two")
			for i := range 255 { // all at once, beyond what is buffered
				v := fmt.Sprint("v", i)
				submit(t, n, padded(one, v, 800), page(two, v, "theirs", time.Now()))
			}
			lines, of := whileRead(t, n, one, func(victim proto.Identity) {
				if mine {
					if _, err := n.Erase(t.Context(), &one, victim); err != nil {
						t.Fatal(err)
					}
					return
				}
				if _, err := n.Erase(t.Context(), nil, victim); err != nil {
					t.Fatal(err)
				}
				submit(t, n, page(one, string(victim)[len("browser:"):], "new", time.Now()))
			})
			if strings.Contains(of, "pad") || strings.Contains(of, "old") || mine && of != "" {
				t.Errorf("of who was erased it tells %s", of)
			}
			if end := lines[len(lines)-1]; end.Kind != "end" || end.Events < 254 {
				t.Errorf("the end is %+v", end)
			}
		})
	}
}

// The same holds between the events of one identity.
func TestExportClientDuringALongHistory(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	const all = 300
	for range all {
		submit(t, n, padded(c, "v", 800))
	}
	lines, _ := whileRead(t, n, c, func(victim proto.Identity) { optOut(t, n, victim, false) })
	if end := lines[len(lines)-1]; end.Events == 0 || end.Events > all/2 {
		t.Errorf("%d of %d events are told, of which the reader had taken those that come to 64 KiB when the opt-out was acknowledged", end.Events, all)
	}
}

// A link whose other end was cut and came back is not told with that one's name.
func TestExportClientLinksDuringErasure(t *testing.T) {
	for _, kind := range []string{"erased", "forgotten"} {
		t.Run(kind, func(t *testing.T) {
			n := testNode(t, t.TempDir())
			defer closeNode(t, n)
			c := acme(t, n)
			// Of a link the lesser end tells, whose long history is between it and its links.
			least, peer := "a", "b"
			if h, other := n.Hasher().Hash("browser:a"), n.Hasher().Hash("browser:b"); slices.Compare(h[:], other[:]) > 0 {
				least, peer = peer, least
			}
			submit(t, n, page(c, peer, "old", time.Now()))
			for range 100 {
				submit(t, n, padded(c, least, 800))
			}
			link(t, n, c, "browser:a", "browser:b", yes())
			settle(t, n)
			if end := last(export(t, n, c)); end.Links != 1 {
				t.Fatalf("the end is %+v", end)
			}
			lines, _ := whileRead(t, n, c, func(proto.Identity) {
				of := &c
				if kind == "erased" {
					of = nil
				}
				if _, err := n.Erase(t.Context(), of, proto.Identity("browser:"+peer)); err != nil {
					t.Fatal(err)
				}
				submit(t, n, page(c, peer, "new", time.Now()))
			})
			if end := last(lines); end.Kind != "end" || end.Links != 0 {
				t.Errorf("the end is %+v", end)
			}
		})
	}
}

func last(lines []exported) exported { return lines[len(lines)-1] }

// An export that lacks a lane is none, whether the lane stopped before or meanwhile.
func TestExportClientIsWhole(t *testing.T) {
	n := testNode(t, t.TempDir(), lanes(2))
	defer closeNode(t, n)
	c := acme(t, n)
	for i := range 255 {
		submit(t, n, padded(c, fmt.Sprint("v", i), 800))
	}
	w := &onWrite{do: func() { n.StopLane(1) }}
	if err := n.ExportClient(t.Context(), c, w); proto.CodeOf(err) != proto.CodeUnavailable || strings.Contains(w.String(), `"kind":"end"`) {
		t.Errorf("an export whose lane stopped meanwhile ends with %v", err)
	}
	w = &onWrite{}
	if err := n.ExportClient(t.Context(), c, w); proto.CodeOf(err) != proto.CodeUnavailable || w.Len() > 0 {
		t.Errorf("an export without a lane: %v, and %d bytes", err, w.Len())
	}
}

// An export of a client that is ended meanwhile, or was before, is none.
func TestExportClientThatIsEnded(t *testing.T) {
	n := testNode(t, t.TempDir(), lanes(2))
	defer closeNode(t, n)
	c := acme(t, n)
	for i := range 255 {
		submit(t, n, padded(c, fmt.Sprint("v", i), 800))
	}
	w := &onWrite{do: func() {
		if _, err := n.EraseClient(t.Context(), c.Name); err != nil {
			t.Error(err)
		}
	}}
	err := n.ExportClient(t.Context(), c, w)
	if proto.CodeOf(err) != proto.CodeConflict || !strings.Contains(err.Error(), "ended meanwhile") || strings.Contains(w.String(), `"kind":"end"`) {
		t.Errorf("an export whose client was ended meanwhile ends with %v", err)
	}
	if most := 64 << 10; w.Len() > most {
		t.Errorf("%d bytes are told, of which the reader had taken %d when the client was ended", w.Len(), most)
	}
	w = &onWrite{}
	if err := n.ExportClient(t.Context(), c, w); proto.CodeOf(err) != proto.CodeConflict || w.Len() > 0 {
		t.Errorf("an export of a client that was ended: %v, and %d bytes", err, w.Len())
	}
}

// The account has the sizes of days that ended, saved audiences and what report
// keys were told, of this client alone.
func TestExportClientAccount(t *testing.T) {
	c := newCrowd(t, 5, "ab", below(map[byte]int{'a': 3, 'b': 1}))
	other := c.script.client("other", "")
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
