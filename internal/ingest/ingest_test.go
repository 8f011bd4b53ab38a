package ingest_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/klauspost/compress/zstd"

	"kith/internal/ingest"
	"kith/proto"
)

// realLog is a public access log that lies beside the repository.
const realLog = "../../../shared/data/apache_combined_semicomplete_2015.log"

// sentEvent is an event as a node sees it.
type sentEvent struct {
	Event      string         `json:"event"`
	Time       time.Time      `json:"time"`
	ID         string         `json:"id"`
	Identities []string       `json:"identities"`
	Props      map[string]any `json:"props"`
	URL        string         `json:"url"`
	Ref        string         `json:"ref"`
}

// memoryNode takes events into memory. judge, if set, says what becomes of an
// event: "" accepts it. fail, if set, may refuse a whole post.
type memoryNode struct {
	judge func(e sentEvent, tries int) proto.Code
	fail  func(post int) error

	mu     sync.Mutex
	posts  int
	tries  map[string]int
	taken  map[string]sentEvent
	client string
}

func (n *memoryNode) Post(_ context.Context, body []byte) (ingest.Answer, error) {
	var in struct {
		Client string
		Events []sentEvent
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return ingest.Answer{}, proto.Errorf(proto.CodeJSON, "bad body: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.posts++
	if n.fail != nil {
		if err := n.fail(n.posts); err != nil {
			return ingest.Answer{}, err
		}
	}
	if n.taken == nil {
		n.taken, n.tries = map[string]sentEvent{}, map[string]int{}
	}
	n.client = in.Client
	a := ingest.Answer{Position: fmt.Sprintf("0:%d", n.posts)}
	for i, e := range in.Events {
		n.tries[e.ID]++
		if n.judge != nil {
			if code := n.judge(e, n.tries[e.ID]); code != "" {
				a.Refused = append(a.Refused, ingest.Refusal{Index: i, Code: code, Message: "no"})
				continue
			}
		}
		a.Accepted++
		n.taken[e.ID] = e
	}
	return a, nil
}

func noWait(context.Context, time.Duration) error { return nil }

func run(t *testing.T, text string, n *memoryNode, o ingest.Options) (ingest.Report, error) {
	t.Helper()
	src, err := ingest.OpenSource("-", strings.NewReader(text), o.Shift)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if o.Wait == nil {
		o.Wait = noWait
	}
	return ingest.Run(t.Context(), src, n, o)
}

func TestRealLogIsCountedWhole(t *testing.T) {
	if _, err := os.Stat(realLog); err != nil {
		t.Skipf("the public log is not here: %v", err)
	}
	src, err := ingest.OpenSource(realLog, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	node := &memoryNode{}
	now := time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC)
	r, err := ingest.Run(t.Context(), src, node, ingest.Options{Format: ingest.Combined, Shift: true, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	want := ingest.Report{Lines: 10000, Accepted: 9999, Refused: 1, Reasons: map[proto.Code]int64{ingest.ReasonMalformed: 1}, ShiftDays: 4204,
		Examples: []ingest.Example{{Line: 8899, Reason: ingest.ReasonMalformed, Message: "a quote is not closed"}}}
	ignore := cmpopts.IgnoreFields(ingest.Report{}, "Position", "Seconds")
	if d := cmp.Diff(want, r, ignore); d != "" {
		t.Errorf("report (-want +got):\n%s", d)
	}
	visitors := map[string]bool{}
	var newest time.Time
	for _, e := range node.taken {
		visitors[e.Identities[0]] = true
		if e.Time.After(newest) {
			newest = e.Time
		}
	}
	if len(node.taken) != 9999 {
		t.Errorf("%d distinct event ids, want 9999", len(node.taken))
	}
	// The list of sources counts 1,862 pairs of address and agent, the
	// malformed line's among them.
	if len(visitors) != 1861 && len(visitors) != 1862 {
		t.Errorf("%d visitors, want the log's 1,862 pairs", len(visitors))
	}
	if want := time.Date(2026, 11, 22, 21, 5, 59, 0, time.UTC); !newest.Equal(want) {
		t.Errorf("newest event at %v, want %v", newest, want)
	}
}

func TestEveryLineIsCountedOnce(t *testing.T) {
	var text strings.Builder
	for i := range 2000 {
		switch {
		case i%10 == 3:
			text.WriteString("\n")
		case i%10 == 7:
			text.WriteString("{broken\n")
		default:
			fmt.Fprintf(&text, `{"event":"page","identities":["browser:b%d"],"props":{"n":%d}}`+"\n", i%50, i)
		}
	}
	node := &memoryNode{
		judge: func(e sentEvent, tries int) proto.Code {
			switch n := int(e.Props["n"].(float64)); {
			case n%100 == 0:
				return proto.CodePII
			case n%7 == 0 && tries < 3:
				return proto.CodeUnavailable
			}
			return ""
		},
		fail: func(post int) error {
			if post%5 == 0 {
				return proto.Errorf(proto.CodeOverloaded, "busy")
			}
			return nil
		},
	}
	r, err := run(t, text.String(), node, ingest.Options{Format: ingest.NDJSON, Client: "acme", BatchEventsMax: 37})
	if err != nil {
		t.Fatal(err)
	}
	if r.Lines != 2000 || r.Accepted+r.Refused != r.Lines || r.Unsent != 0 {
		t.Errorf("lines %d, accepted %d, refused %d, unsent %d", r.Lines, r.Accepted, r.Refused, r.Unsent)
	}
	want := map[proto.Code]int64{ingest.ReasonEmpty: 200, ingest.ReasonMalformed: 200, proto.CodePII: 20}
	if d := cmp.Diff(want, r.Reasons); d != "" {
		t.Errorf("reasons (-want +got):\n%s", d)
	}
	if int64(len(node.taken)) != r.Accepted {
		t.Errorf("the node took %d events, the report says %d", len(node.taken), r.Accepted)
	}
	if r.Retried == 0 || node.client != "acme" || r.Position == "" {
		t.Errorf("retried %d, client %q, position %q", r.Retried, node.client, r.Position)
	}
}

func TestGivesUpAndSaysWhatIsUnsent(t *testing.T) {
	node := &memoryNode{fail: func(int) error { return proto.Errorf(proto.CodeUnavailable, "down") }}
	r, err := run(t, strings.Repeat(`{"event":"a","identities":["browser:x"]}`+"\n", 1000), node, ingest.Options{Format: ingest.NDJSON, AttemptsMax: 3, BatchEventsMax: 10})
	if proto.CodeOf(err) != proto.CodeUnavailable || !strings.Contains(err.Error(), "gave up on 10 events after 3 tries") {
		t.Errorf("error %v", err)
	}
	if r.Accepted != 0 || r.Unsent != r.Lines-r.Refused || r.Unsent == 0 {
		t.Errorf("report %+v", r)
	}
}

// A load waits for as long as a node that limits its rate says, however often, and says
// so where that is too long.
func TestRateIsWaitedFor(t *testing.T) {
	const rate, burst, rows = 50, 1000, 10_000
	var mu sync.Mutex
	now, full := time.Duration(0), time.Duration(0) // when the bucket is full again
	node := &memoryNode{fail: func(int) error {
		mu.Lock()
		defer mu.Unlock()
		need := max(full, now) + 100*time.Second/rate // a post of 100
		if early := need - now - burst*time.Second/rate; early > 0 {
			e := proto.Errorf(proto.CodeRateLimited, "over %d events/s", rate)
			e.RetryAfter = early.Truncate(time.Second) + time.Second
			return e
		}
		full = need
		return nil
	}}
	o := ingest.Options{Format: ingest.NDJSON, AttemptsMax: 3, BatchEventsMax: 100, Wait: func(_ context.Context, d time.Duration) error {
		mu.Lock()
		defer mu.Unlock()
		now += d
		return nil
	}}
	text := strings.Repeat(`{"event":"a","identities":["browser:x"]}`+"\n", rows)
	r, err := run(t, text, node, o)
	if err != nil || r.Accepted != rows || r.Unsent != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if least := (rows - burst) * time.Second / rate; now < least || now > 2*least {
		t.Errorf("it took %v, the node's rate is for %v", now, least)
	}
	node.fail = func(int) error {
		e := proto.Errorf(proto.CodeRateLimited, "over the events of a day")
		e.RetryAfter = 7 * time.Hour
		return e
	}
	if r, err = run(t, text, node, o); proto.CodeOf(err) != proto.CodeRateLimited || !strings.Contains(err.Error(), "no more for 7h0m0s") || r.Unsent == 0 {
		t.Errorf("by the day: %+v, %v", r, err)
	}
}

// A node may take less in a body than a post holds: the post is sent in parts, and
// only a row that is too large by itself is refused.
func TestTooLargePostsAreDivided(t *testing.T) {
	node := &memoryNode{}
	small := intakeFunc(func(body []byte) (ingest.Answer, error) {
		var in struct{ Events []json.RawMessage }
		if err := json.Unmarshal(body, &in); err != nil {
			t.Error(err)
		}
		if len(in.Events) > 100 || len(body) > 10000 {
			return ingest.Answer{}, proto.Errorf(proto.CodeTooLarge, "send several")
		}
		return node.Post(t.Context(), body)
	})
	text := strings.Repeat(`{"event":"a","identities":["browser:x"]}`+"\n", 999) + `{"event":"a","url":"/` + strings.Repeat("x", 10000) + `"}` + "\n"
	src, err := ingest.OpenSource("-", strings.NewReader(text), false)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ingest.Run(t.Context(), src, small, ingest.Options{Format: ingest.NDJSON})
	if err != nil || r.Accepted != 999 || r.Refused != 1 || r.Unsent != 0 || len(node.taken) != 999 {
		t.Errorf("%+v, %v; the node took %d", r, err, len(node.taken))
	}
	if len(r.Examples) != 1 || r.Examples[0].Line != 1000 || r.Examples[0].Reason != proto.CodeTooLarge {
		t.Errorf("refused %+v; want line 1000", r.Examples)
	}
}

func TestRefusedKeyStopsAtOnce(t *testing.T) {
	node := &memoryNode{fail: func(int) error { return proto.Errorf(proto.CodeUnauthorized, "the key is unknown") }}
	_, err := run(t, `{"event":"a","identities":["browser:x"]}`, node, ingest.Options{Format: ingest.NDJSON})
	if proto.CodeOf(err) != proto.CodeUnauthorized || node.posts != 1 {
		t.Errorf("error %v after %d posts, want unauthorized after 1", err, node.posts)
	}
}

func TestWrongAnswerIsNotTrusted(t *testing.T) {
	short := intakeFunc(func([]byte) (ingest.Answer, error) { return ingest.Answer{Accepted: 7}, nil })
	src, _ := ingest.OpenSource("-", strings.NewReader(`{"event":"a"}`), false)
	if _, err := ingest.Run(t.Context(), src, short, ingest.Options{Format: ingest.NDJSON}); err == nil || !strings.Contains(err.Error(), "kith node") {
		t.Errorf("error %v", err)
	}
}

type intakeFunc func(body []byte) (ingest.Answer, error)

func (f intakeFunc) Post(_ context.Context, body []byte) (ingest.Answer, error) { return f(body) }

// Under a header that cannot be read no row can: nothing may be sent, and no row
// taken for a header.
func TestBadHeaderEndsTheLoad(t *testing.T) {
	const rows = "\npage,browser:a1,auto,sport\npage,browser:b2,auto,cars\n"
	for header, want := range map[string]string{
		"event,identity,section,section": `line 1: the header has an empty column or "section" twice`,
		"event,identity,section,":        `line 1: the header has an empty column`,
		"event,\"identity":               "line 1: the header row does not parse",
		"\nkind,id,section,x":            "line 2: the header has no column event, identity or identities",
		"a,b,\xff,c":                     "line 1: the header row does not parse",
	} {
		for _, shift := range []bool{false, true} {
			node := &memoryNode{}
			_, err := run(t, header+rows, node, ingest.Options{Format: ingest.CSV, Shift: shift})
			if err == nil || !strings.Contains(err.Error(), want) || node.posts != 0 {
				t.Errorf("%q, shift %t: %v after %d posts; want %q after none", header, shift, err, node.posts, want)
			}
		}
	}
}

// A byte order mark, as programs on Windows write, is no part of the first line.
func TestByteOrderMark(t *testing.T) {
	const logLine = `h - - [01/Jan/2020:00:00:00 +0000] "GET / HTTP/1.1" 200 1 "-" "Mozilla/5.0"` + "\n"
	for format, text := range map[ingest.Format]string{
		ingest.NDJSON:   `{"event":"page","identities":["browser:a"]}` + "\n" + `{"event":"page","identities":["browser:a"]}`,
		ingest.CSV:      "event,identity\npage,browser:a\npage,browser:a\n",
		ingest.Combined: logLine + logLine,
	} {
		node := &memoryNode{}
		r, err := run(t, "\ufeff"+text, node, ingest.Options{Format: format})
		visitors := map[string]bool{}
		for _, e := range node.taken {
			visitors[e.Identities[0]] = true
		}
		if err != nil || r.Accepted != 2 || len(visitors) != 1 {
			t.Errorf("%s: accepted %d of 2 lines of %d visitors, %v; want 1 visitor", format, r.Accepted, len(visitors), err)
		}
	}
}

// Go writes the year 1 for a time that is not set: it is no time, and not now.
func TestYearOneIsNoTime(t *testing.T) {
	for format, text := range map[ingest.Format]string{
		ingest.NDJSON: `{"event":"page","time":"0001-01-01T00:00:00Z","identities":["browser:a"]}`,
		ingest.CSV:    "event,time,identity\npage,0001-01-01T00:00:00Z,browser:a\n",
	} {
		r, err := run(t, text, &memoryNode{}, ingest.Options{Format: format})
		if err != nil || r.Reasons[proto.CodeTime] != 1 {
			t.Errorf("%s: %+v, %v; want it refused", format, r, err)
		}
	}
}

// RFC 3339 has small letters too, and the node takes them.
func TestTimesInSmallLetters(t *testing.T) {
	for format, text := range map[ingest.Format]string{
		ingest.NDJSON: `{"event":"page","time":"2026-11-22t09:30:00.5z","identities":["browser:a"]}`,
		ingest.CSV:    "event,time,identity\npage,2026-11-22t09:30:00.5z,browser:a\n",
	} {
		node := &memoryNode{}
		r, err := run(t, text, node, ingest.Options{Format: format})
		if err != nil || r.Accepted != 1 {
			t.Errorf("%s: %+v, %v; want it accepted", format, r, err)
		}
	}
}

func TestShift(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	tests := []struct{ newest, now, want string }{
		{"2015-05-20T21:05:59Z", "2026-11-22T22:00:00Z", "2026-11-22T21:05:59Z"}, // today
		{"2015-05-20T21:05:59Z", "2026-11-22T09:00:00Z", "2026-11-21T21:05:59Z"}, // its hour is still ahead today
		{"2026-11-22T09:00:00Z", "2026-11-22T09:00:00Z", "2026-11-22T09:00:00Z"},
		{"2030-01-01T10:00:00Z", "2026-11-22T09:00:00Z", "2026-11-21T10:00:00Z"}, // from the future
		{"2026-11-22T09:00:09Z", "2026-11-22T09:00:00Z", "2026-11-22T09:00:09Z"}, // a clock that is a little fast
		{"2026-11-22T09:00:11Z", "2026-11-22T09:00:00Z", "2026-11-21T09:00:11Z"},
	}
	for _, tt := range tests {
		node := &memoryNode{}
		text := fmt.Sprintf("event,time,identity\nold,%s,browser:a\nnew,%s,browser:a\nnone,,browser:a\n", at(tt.newest).Add(-48*time.Hour).Format(time.RFC3339), tt.newest)
		if _, err := run(t, text, node, ingest.Options{Format: ingest.CSV, Shift: true, Now: func() time.Time { return at(tt.now) }}); err != nil {
			t.Fatal(err)
		}
		got := map[string]time.Time{}
		for _, e := range node.taken {
			got[e.Event] = e.Time
		}
		want := map[string]time.Time{"new": at(tt.want), "old": at(tt.want).Add(-48 * time.Hour), "none": {}}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("newest %s, now %s (-want +got):\n%s", tt.newest, tt.now, d)
		}
	}
}

func TestGzipByNameAndByBytes(t *testing.T) {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write([]byte(`{"event":"a","identities":["browser:x"]}`))
	_ = w.Close()
	path := filepath.Join(t.TempDir(), "events.ndjson.gz")
	if err := os.WriteFile(path, z.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, open := range []func() (*ingest.Source, error){
		func() (*ingest.Source, error) { return ingest.OpenSource(path, nil, false) },
		func() (*ingest.Source, error) { return ingest.OpenSource("-", bytes.NewReader(z.Bytes()), true) },
	} {
		src, err := open()
		if err != nil {
			t.Fatal(err)
		}
		r, err := ingest.Run(t.Context(), src, &memoryNode{}, ingest.Options{Format: ingest.NDJSON, Shift: src.Bytes() < 0})
		if err != nil || r.Accepted != 1 {
			t.Errorf("accepted %d, %v; want 1", r.Accepted, err)
		}
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What `zstd --long` or `--ultra -22` compressed is read, as `zstd -d` reads it.
func TestZstdOfALongWindow(t *testing.T) {
	var z bytes.Buffer
	w, err := zstd.NewWriter(&z, zstd.WithWindowSize(128<<20), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	line := `{"event":"a","identities":["browser:x"],"other":"` + strings.Repeat("x", 60000) + `"}` + "\n"
	const n = 150 // over 8 MiB
	for range n {
		_, _ = w.Write([]byte(line))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err := run(t, z.String(), &memoryNode{}, ingest.Options{Format: ingest.NDJSON}); err != nil || r.Accepted != n {
		t.Errorf("accepted %d of %d, %v", r.Accepted, n, err)
	}
}

func TestSourceErrorsSayWhatToDo(t *testing.T) {
	if _, err := ingest.OpenSource(filepath.Join(t.TempDir(), "no"), nil, false); proto.CodeOf(err) != proto.CodeNotFound {
		t.Errorf("missing file: %v", err)
	}
	if _, err := ingest.OpenSource(t.TempDir(), nil, false); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("directory: %v", err)
	}
	src, _ := ingest.OpenSource("-", strings.NewReader("\x1f\x8bnot gzip"), false)
	if _, err := ingest.Run(t.Context(), src, &memoryNode{}, ingest.Options{Format: ingest.NDJSON}); err == nil || !strings.Contains(err.Error(), "gzip") {
		t.Errorf("broken gzip: %v", err)
	}
}

// A pipe that has a path can be read once only: for --shift it is kept as standard
// input is.
func TestShiftOfAPipeWithAPath(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() {
		defer w.Close()
		_, _ = w.WriteString("event,time,identity\npage,2015-05-20T21:05:59Z,browser:a\n")
	}()
	path := fmt.Sprintf("/proc/self/fd/%d", r.Fd())
	if _, err := os.Stat(path); err != nil {
		t.Skip("no paths of open files here")
	}
	src, err := ingest.OpenSource(path, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	report, err := ingest.Run(t.Context(), src, &memoryNode{}, ingest.Options{Format: ingest.CSV, Shift: true})
	if err != nil || report.Accepted != 1 || report.ShiftDays == 0 {
		t.Errorf("accepted %d, moved by %d days, %v; want 1 line moved", report.Accepted, report.ShiftDays, err)
	}
}

func TestCancelStops(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	node := intakeFunc(func([]byte) (ingest.Answer, error) {
		cancel(enough)
		return ingest.Answer{}, proto.Errorf(proto.CodeUnavailable, "down")
	})
	src, _ := ingest.OpenSource("-", strings.NewReader(`{"event":"a"}`), false)
	if _, err := ingest.Run(ctx, src, node, ingest.Options{Format: ingest.NDJSON}); !errors.Is(err, enough) {
		t.Errorf("error %v, want the cancel's cause", err)
	}
}

// An id must be the same for the same line, or a repeated load counts twice,
// and differ between equal lines, or a log's repeats are lost.
func TestLineID(t *testing.T) {
	if a, b := ingest.LineID(1, []byte("x")), ingest.LineID(1, []byte("x")); a != b {
		t.Errorf("the same line has ids %s and %s", a, b)
	}
	if a, b := ingest.LineID(1, []byte("x")), ingest.LineID(2, []byte("x")); a == b {
		t.Errorf("equal lines 1 and 2 share id %s", a)
	}
	if got, want := ingest.LineID(8899, []byte("GET /")), "zqg36x8j5ue0"; got != want {
		t.Errorf("LineID changed: %s, was %s: a load repeated across versions would count twice", got, want)
	}
}
