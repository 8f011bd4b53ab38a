package engine_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/go-cmp/cmp"

	"kith/engine"
	"kith/internal/exports"
	"kith/proto"
)

// taken is an audience with its members' names, in order.
type taken struct {
	*exports.Audience
	members []string
}

// take opens an audience, reads its names and closes it.
func take(t testing.TB, n *engine.Node, c proto.ClientInfo, r proto.ExportRequest) taken {
	t.Helper()
	a, err := n.OpenAudience(t.Context(), c, &r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Names.Close()
	x := taken{Audience: a}
	for i, l := range a.Lanes {
		err := a.Names.Name(a.Manifest.Lanes[i].Lane, l.Set.ToArray(), func(_ proto.Ordinal, id []byte) { x.members = append(x.members, string(id)) })
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(x.members)
	return x
}

// moment is when somebody came or went, by the log.
type moment struct {
	who    string
	at     proto.Position
	leaves bool
}

// membersAt are those who are in, of what the manifest says is applied.
func membersAt(history []moment, m *proto.ExportManifest) []string {
	applied, err := proto.ParsePosition(m.Position)
	if err != nil {
		panic(err)
	}
	in := map[string]bool{}
	for _, x := range history {
		for lane, off := range x.at {
			if off <= applied[lane] {
				in[x.who] = !x.leaves
			}
		}
	}
	var list []string
	for who, yes := range in {
		if yes {
			list = append(list, who)
		}
	}
	slices.Sort(list)
	return list
}

// An audience that is taken out while events and opt-outs are applied is, lane
// by lane, exactly that of the offset in its manifest.
func TestAudienceIsOfItsOffset(t *testing.T) {
	for _, lanes := range []int{1, 4} {
		t.Run(fmt.Sprint("lanes=", lanes), func(t *testing.T) {
			n := testNode(t, t.TempDir(), func(c *engine.Config) { c.Lanes = lanes })
			defer closeNode(t, n)
			c := acme(t, n)
			define(t, n, "auto", `count(event.section == "auto", "30d") >= 1`)
			var mu sync.Mutex
			var history []moment
			var audiences []taken
			done := make(chan struct{})
			var work sync.WaitGroup
			for w := range 4 {
				work.Go(func() {
					for i := range 150 {
						x := come(t, n, c, fmt.Sprintf("v%d-%d", w, i))
						list := []moment{x}
						if i%10 == 9 {
							list = append(list, leave(t, n, x.who))
						}
						mu.Lock()
						history = append(history, list...)
						mu.Unlock()
					}
				})
			}
			go func() { work.Wait(); close(done) }()
			for going := true; going; {
				select {
				case <-done:
					going = false
					until(t, n, 10*time.Second, "all is applied", func() bool { return count(t, n, c, "auto") == 4*150-4*15 })
				default:
				}
				audiences = append(audiences, take(t, n, c, proto.ExportRequest{Expr: "auto"}))
			}
			for _, a := range audiences {
				if diff := cmp.Diff(membersAt(history, &a.Manifest), a.members); diff != "" {
					t.Fatalf("at %s (-log +audience):\n%s", a.Manifest.Position, diff)
				}
			}
			last := audiences[len(audiences)-1]
			if got := count(t, n, c, "auto"); got != last.Manifest.Count || got != 4*150-4*15 {
				t.Errorf("%d are counted, %d exported, want %d", got, last.Manifest.Count, 4*150-4*15)
			}
			for _, who := range last.members[:20] {
				if _, list, err := n.Lookup(c, proto.Identity(who), proto.MillisOf(time.Now()), nil); err != nil || len(list) != 1 {
					t.Errorf("%s is exported, and looked up in %v, %v", who, list, err)
				}
			}
			t.Logf("%d audiences", len(audiences))
		})
	}
}

func come(t *testing.T, n *engine.Node, c proto.ClientInfo, who string) moment {
	var b proto.Batch
	b.AddEvent(n.Hasher(), page(c, who, "auto", time.Now()))
	r := n.Submit(t.Context(), &b)
	if r.Err != nil {
		t.Error(r.Err)
	}
	return moment{who: "browser:" + who, at: r.Position}
}

func leave(t *testing.T, n *engine.Node, who string) moment {
	s, err := n.OptOut(t.Context(), proto.ClientInfo{}, proto.Identity(who), false)
	if err != nil || s.Receipt == nil {
		t.Errorf("opt-out of %s: %v", who, err)
		return moment{who: who, leaves: true}
	}
	return moment{who: who, at: proto.Position{s.Receipt.Lane: s.Receipt.Offset}, leaves: true}
}

// Members who are in only through their user have names too, in whatever lane,
// while users come together and identities are cut out of them.
func TestAudienceOfUsers(t *testing.T) {
	n := testNode(t, t.TempDir(), func(c *engine.Config) { c.Lanes = 3 })
	defer closeNode(t, n)
	c := acme(t, n)
	if _, err := n.Define(t.Context(), c, proto.SegmentSpec{ID: "auto", Scope: "user", When: `count(event.section == "auto", "30d") >= 1`, Backfill: true}); err != nil {
		t.Fatal(err)
	}
	const people = 60
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range people {
			e := page(c, fmt.Sprint("p", i), "auto", time.Now())
			e.Identities = append(e.Identities, proto.Identity(fmt.Sprint("account:p", i)), proto.Identity(fmt.Sprint("idfa:p", i)))
			var b proto.Batch
			b.AddEvent(n.Hasher(), e)
			if r := n.Submit(t.Context(), &b); r.Err != nil {
				t.Error(r.Err)
			}
			if i%6 == 5 {
				leave(t, n, fmt.Sprint("account:p", i))
			}
		}
	}()
	for going := true; going; {
		select {
		case <-done:
			going = false
		default:
		}
		take(t, n, c, proto.ExportRequest{Expr: "auto"})
		takeUsers(t, n, c)
	}
	const want = 3*people - people/6
	until(t, n, 10*time.Second, "all are in", func() bool { return count(t, n, c, "auto") == want })
	last := take(t, n, c, proto.ExportRequest{Expr: "auto"})
	if len(last.members) != want {
		t.Errorf("%d are exported, want %d", len(last.members), want)
	}
	for i := 5; i < people; i += 6 {
		if slices.Contains(last.members, fmt.Sprint("account:p", i)) {
			t.Errorf("account:p%d is opted out and exported", i)
		}
	}
}

// takeUsers exports users with their members, and holds the numbers against one
// another.
func takeUsers(t *testing.T, n *engine.Node, c proto.ClientInfo) {
	t.Helper()
	a, err := n.OpenAudience(t.Context(), c, &proto.ExportRequest{Expr: "auto", Unit: proto.UnitUsers, Members: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Names.Close()
	a.Manifest.Format, a.Manifest.Dictionary = proto.FormatCSV, proto.FormatNone
	var identities uint64
	for _, l := range a.Lanes {
		identities += l.Members.GetCardinality()
		if !roaring.AndNot(l.Set, l.Members).IsEmpty() {
			t.Error("a row is not in the audience")
		}
	}
	if err := exports.Write(t.Context(), io.Discard, a, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := a.Manifest.Validate(); err != nil || identities != a.Manifest.Identities {
		t.Errorf("%d identities of %d, %v", a.Manifest.Identities, identities, err)
	}
}

// sinceOf is an export as the next one's request names it.
func sinceOf(t *testing.T, a *exports.Audience) *proto.ExportSince {
	t.Helper()
	s := &proto.ExportSince{Client: a.Manifest.Client, Expr: a.Manifest.Expr, Time: a.Manifest.Time}
	for i, l := range a.Lanes {
		b, err := exports.AppendSet(nil, l.Set)
		if err != nil {
			t.Fatal(err)
		}
		m := a.Manifest.Lanes[i]
		s.Lanes = append(s.Lanes, proto.SinceLane{Lane: m.Lane, Log: m.Log, Offset: m.Offset, Set: b})
	}
	return s
}

// Whoever opted out, was erased or was forgotten by the client is known no
// more, and is not named; whoever came back has another number.
func TestRecall(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	define(t, n, "auto", `count(event.section == "auto", "30d") >= 1`)
	var all []*proto.Event
	for _, who := range []string{"stays", "out", "erased", "forgotten", "back"} {
		all = append(all, page(c, who, "auto", time.Now()))
	}
	submit(t, n, all...)
	first := take(t, n, c, proto.ExportRequest{Expr: "auto"})
	number := map[string]uint32{}
	a, err := n.OpenAudience(t.Context(), c, &proto.ExportRequest{Expr: "auto"})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Names.Name(0, a.Lanes[0].Set.ToArray(), func(o proto.Ordinal, id []byte) { number[proto.Identity(id).Value()] = uint32(o) }); err != nil {
		t.Fatal(err)
	}
	a.Names.Close()
	for _, who := range []proto.Identity{"browser:out", "browser:back"} {
		if _, err := n.OptOut(t.Context(), proto.ClientInfo{}, who, false); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.OptIn(t.Context(), proto.ClientInfo{}, "browser:back"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Erase(t.Context(), nil, "browser:erased"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Erase(t.Context(), &c, "browser:forgotten"); err != nil {
		t.Fatal(err)
	}
	submit(t, n, page(c, "new", "auto", time.Now()))
	until(t, n, 20*time.Second, "the return", func() bool { // events from about the opt-in are not taken in
		submit(t, n, page(c, "back", "auto", time.Now()))
		return len(segmentsOf(t, n, "back")) > 0
	})

	since := sinceOf(t, first.Audience)
	second := take(t, n, c, proto.ExportRequest{Expr: " (auto)", Since: since})
	if diff := cmp.Diff([]string{"browser:back", "browser:new", "browser:stays"}, second.members); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
	dir := t.TempDir() + "/delta"
	m := deltaIn(t, n, c, since, dir)
	if m.Since.Entered != 2 || m.Since.Left != 4 || m.Since.Recalled != 4 {
		t.Errorf("%+v", m.Since)
	}
	want := roaring.BitmapOf(number["out"], number["erased"], number["forgotten"], number["back"])
	again, err := exports.ReadSince(dir, proto.UnitIdentities)
	if err != nil {
		t.Fatal(err)
	}
	if got := again.Lanes[0].Set; roaringOf(t, got).AndCardinality(want) != 0 {
		t.Errorf("a number of one who is recalled is given again: %v", roaringOf(t, got))
	}
	b, err := os.ReadFile(filepath.Join(dir, proto.SetName(proto.ContentRecall, 0)))
	if err != nil {
		t.Fatal(err)
	}
	if got := roaringOf(t, b); !got.Equals(want) {
		t.Errorf("recalled are %v, want %v", got, want)
	}
}

// A delta is refused if a lane is missing of the earlier export, whose members
// could not be recalled.
func TestSinceHasAllLanes(t *testing.T) {
	x := newEdit(t, 2)
	defer func() { closeNode(t, x.n) }()
	x.define("auto", "identity", `count(event.section == "auto") >= 1`)
	submit(t, x.n, page(x.c, "a", "auto", time.Now()))
	since := sinceOf(t, take(t, x.n, x.c, proto.ExportRequest{Expr: "auto"}).Audience)
	for name, lanes := range map[string][]proto.SinceLane{
		"none": {}, "the first": since.Lanes[:1], "the second": since.Lanes[1:], "the first twice": {since.Lanes[0], since.Lanes[0]},
	} {
		less := *since
		less.Lanes = lanes
		a, err := x.n.OpenAudience(t.Context(), x.c, &proto.ExportRequest{Expr: "auto", Since: &less})
		if err == nil {
			a.Names.Close()
		}
		if proto.CodeOf(err) != proto.CodeConflict {
			t.Errorf("%s: %v, want conflict", name, err)
		}
	}
	take(t, x.n, x.c, proto.ExportRequest{Expr: "auto", Since: since})
}

func roaringOf(t *testing.T, b []byte) *roaring.Bitmap {
	t.Helper()
	set, err := exports.ReadSet(b)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// deltaIn writes a delta to a folder.
func deltaIn(t *testing.T, n *engine.Node, c proto.ClientInfo, since *proto.ExportSince, dir string) proto.ExportManifest {
	t.Helper()
	a, err := n.OpenAudience(t.Context(), c, &proto.ExportRequest{Expr: since.Expr, Since: since})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Names.Close()
	a.Manifest.Format, a.Manifest.Dictionary = proto.FormatCSV, proto.FormatNone
	var b bytes.Buffer
	if err := exports.Write(t.Context(), &b, a, nil, since); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"browser:out", "browser:erased", "browser:forgotten"} {
		if bytes.Contains(b.Bytes(), []byte(gone)) {
			t.Errorf("%s is named", gone)
		}
	}
	f, err := exports.OpenFolder(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	m, err := f.Receive(&b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// An earlier export whose numbers mean something else is not compared with.
func TestSinceIsRefused(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	define(t, n, "auto", `count(event.section == "auto", "30d") >= 1`)
	submit(t, n, page(c, "a", "auto", time.Now()))
	first := take(t, n, c, proto.ExportRequest{Expr: "auto"})
	for name, spoil := range map[string]func(*proto.ExportSince){
		"client":     func(s *proto.ExportSince) { s.Client = "other" },
		"expression": func(s *proto.ExportSince) { s.Expr = "!auto" },
		"log":        func(s *proto.ExportSince) { s.Lanes[0].Log = "x" },
		"lane":       func(s *proto.ExportSince) { s.Lanes[0].Lane = 1 },
		"offset":     func(s *proto.ExportSince) { s.Lanes[0].Offset = 1 << 40 },
	} {
		since := sinceOf(t, first.Audience)
		spoil(since)
		if a, err := n.OpenAudience(t.Context(), c, &proto.ExportRequest{Expr: "auto", Since: since}); proto.CodeOf(err) != proto.CodeConflict {
			t.Errorf("%s: %v, %v", name, a, err)
		}
	}
}

// Sparse members and dense ones are named alike.
func TestNamesOfSparseMembers(t *testing.T) {
	n := testNode(t, t.TempDir())
	defer closeNode(t, n)
	c := acme(t, n)
	define(t, n, "auto", `count(event.section == "auto", "30d") >= 1`)
	var all []*proto.Event
	for i := range 2000 {
		section := "other"
		if i%97 == 0 {
			section = "auto"
		}
		all = append(all, page(c, fmt.Sprintf("v%04d", i), section, time.Now()))
	}
	submit(t, n, all...)
	var want []string
	for i := 0; i < 2000; i += 97 {
		want = append(want, fmt.Sprintf("browser:v%04d", i))
	}
	if diff := cmp.Diff(want, take(t, n, c, proto.ExportRequest{Expr: "auto"}).members); diff != "" {
		t.Errorf("sparse (-want +got):\n%s", diff)
	}
	if got := len(take(t, n, c, proto.ExportRequest{Expr: "auto | !auto"}).members); got != 2000 {
		t.Errorf("%d are named, want 2000", got)
	}
}

// An audience ends with its context and with the node, which waits for it.
func TestAudienceEnds(t *testing.T) {
	n := testNode(t, t.TempDir())
	c := acme(t, n)
	define(t, n, "auto", `count(event.section == "auto", "30d") >= 1`)
	submit(t, n, page(c, "a", "auto", time.Now()))
	ctx, cancel := context.WithCancel(t.Context())
	a, err := n.OpenAudience(ctx, c, &proto.ExportRequest{Expr: "auto"})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	nobody := func(proto.Ordinal, []byte) {}
	if err := a.Names.Name(0, a.Lanes[0].Set.ToArray(), nobody); err == nil {
		t.Error("names are read after the context ended")
	}
	a.Names.Close()
	if a, err = n.OpenAudience(t.Context(), c, &proto.ExportRequest{Expr: "auto"}); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- n.Close() }()
	for a.Names.Name(0, a.Lanes[0].Set.ToArray(), nobody) == nil {
	}
	select {
	case err := <-closed:
		t.Errorf("the node closed while an audience was open: %v", err)
	default:
	}
	a.Names.Close()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if _, err := n.OpenAudience(t.Context(), c, &proto.ExportRequest{Expr: "auto"}); proto.CodeOf(err) != proto.CodeUnavailable {
		t.Errorf("of a closed node: %v", err)
	}
}

// BenchmarkExport exports a million identities out of three, at random, so that no run of
// their numbers is long.
func BenchmarkExport(b *testing.B) {
	n, c := benchNode(b, 0)
	if _, err := n.Define(b.Context(), c, proto.SegmentSpec{ID: "some", Scope: "identity", When: `count(event.section == "auto", "30d") >= 1`}); err != nil {
		b.Fatal(err)
	}
	const visitors, each = 3_000_000, 1000
	members := uint64(0)
	for i := 0; i < visitors; i += each {
		var batch proto.Batch
		for k := range each {
			section, number := "news", uint64(i+k)*0x9e3779b97f4a7c15
			if number>>32%3 == 0 {
				section, members = "auto", members+1
			}
			e := page(c, fmt.Sprintf("%032x", number), section, time.Now())
			batch.AddEvent(n.Hasher(), e)
		}
		r := n.Submit(b.Context(), &batch)
		if r.Err != nil {
			b.Fatal(r.Err)
		}
		if err := n.Wait(b.Context(), r.Position); err != nil { // else the lane falls behind
			b.Fatal(err)
		}
	}
	for _, x := range []struct{ name, format, dictionary string }{
		{"roaring", "roaring", "none"}, {"roaring+dictionary", "roaring", "csv"}, {"parquet", "parquet", "none"}, {"arrow", "arrow", "none"}, {"csv", "csv", "none"}, {"ndjson", "ndjson", "none"},
	} {
		b.Run(x.name, func(b *testing.B) {
			var written counter
			before := processorTime(b)
			for b.Loop() {
				a, err := n.OpenAudience(b.Context(), c, &proto.ExportRequest{Expr: "some"})
				if err != nil {
					b.Fatal(err)
				}
				a.Manifest.Format, a.Manifest.Dictionary = proto.ExportFormat(x.format), proto.ExportFormat(x.dictionary)
				written = 0
				err = exports.Write(b.Context(), &written, a, nil, nil)
				a.Names.Close()
				if err != nil || a.Manifest.Count != members {
					b.Fatal(a.Manifest.Count, err)
				}
			}
			b.ReportMetric(float64(written)/1e6, "MB")
			b.ReportMetric((processorTime(b)-before).Seconds()*1000/float64(b.N), "cpu-ms/op")
		})
	}
}

// processorTime is what the process has used so far, which tells more than the
// clock where others are at work.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// counter counts what is written to it.
type counter int64

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
