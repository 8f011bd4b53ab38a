package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"kith/internal/config"
)

// liveNode is a real node, started as `kith serve` starts it, in this process.
type liveNode struct {
	public, service string // URLs
	regular         string // the demo's visitor, with --demo
	site            string // URL, with --demo
	data            string
	stop            func() int    // ends it and gives the exit code
	log             *lockedBuffer // what it wrote to standard error
}

var (
	planeLine   = regexp.MustCompile(`(public|service) plane +(http://\S+)`)
	regularLine = regexp.MustCompile(`lookup (browser:\S+) `)
	siteLine    = regexp.MustCompile(`demo site +(http://\S+)`)
)

// startNode runs `kith serve --dev` on free ports and waits for "ready".
func startNode(t *testing.T, data string, args ...string) *liveNode {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	var log lockedBuffer
	exited := make(chan int, 1)
	args = append([]string{"serve", "--dev", "--data", data, "--public", "127.0.0.1:0", "--service", "127.0.0.1:0", "--demo-listen", "127.0.0.1:0"}, args...)
	go func() {
		code := run(ctx, args, strings.NewReader(""), in, &log, func(string) string { return "" })
		in.Close()
		exited <- code
	}()
	n := &liveNode{data: data, log: &log}
	n.stop = sync.OnceValue(func() int {
		cancel()
		go io.Copy(io.Discard, out)
		code := <-exited
		if code != 0 {
			t.Logf("the node said:\n%s", log.String())
		}
		return code
	})
	t.Cleanup(func() { n.stop() })
	ready := false
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := lines.Text()
		ready = ready || strings.Contains(line, "is ready")
		if m := planeLine.FindStringSubmatch(line); m != nil && m[1] == "public" {
			n.public = m[2]
		} else if m != nil {
			n.service = m[2]
		}
		if m := regularLine.FindStringSubmatch(line); m != nil {
			n.regular = m[1]
		}
		if m := siteLine.FindStringSubmatch(line); m != nil {
			n.site = m[1]
		}
		if strings.HasPrefix(line, "Ctrl-C") {
			break
		}
	}
	if !ready {
		t.Fatalf("the node did not become ready; it said:\n%s", log.String())
	}
	go io.Copy(io.Discard, out)
	return n
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// kith runs a command against n and gives its standard output.
func (n *liveNode) kith(t *testing.T, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	env := map[string]string{"KITH_SERVICE": strings.TrimPrefix(n.service, "http://"), "KITH_KEY": config.DevAdminKey, "KITH_CLIENT": config.DevClient}
	if code := run(t.Context(), args, strings.NewReader(""), &out, &errs, func(k string) string { return env[k] }); code != 0 {
		t.Fatalf("kith %s: exit code %d\n%s%s", strings.Join(args, " "), code, out.String(), errs.String())
	}
	return out.String()
}

func (n *liveNode) count(t *testing.T, expr string) uint64 {
	t.Helper()
	var c struct{ Count *uint64 }
	if err := json.Unmarshal([]byte(n.kith(t, "audience", "count", expr, "--json")), &c); err != nil || c.Count == nil {
		t.Fatalf("count of %s: %v, %+v", expr, err, c)
	}
	return *c.Count
}

func TestNodeScripts(t *testing.T) {
	n := startNode(t, t.TempDir())
	t.Run("scripts", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir: "testdata/node", UpdateScripts: *update,
			Setup: func(e *testscript.Env) error {
				e.Setenv("KITH_SERVICE", strings.TrimPrefix(n.service, "http://"))
				e.Setenv("KITH_KEY", config.DevKey)
				return nil
			},
		})
	})
	if code := n.stop(); code != 0 {
		t.Errorf("the node ended with exit code %d", code)
	}
}

// The README's promise: a look-up of the demo's visitor shows a segment within
// ten seconds after "ready".
func TestDemoShowsASegment(t *testing.T) {
	n := startNode(t, t.TempDir(), "--demo")
	deadline := time.Now().Add(10 * time.Second)
	if n.regular == "" {
		t.Fatal("the ready text names no visitor")
	}
	for got := ""; !strings.Contains(got, "auto"); {
		if got = n.kith(t, "lookup", n.regular); time.Now().After(deadline) {
			t.Fatalf("ten seconds after ready: %s", got)
		}
	}
	resp, err := http.Get(n.public + "/kith.js")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || len(b) == 0 {
		t.Errorf("the tag: %s, %d bytes", resp.Status, len(b))
	}
}

// The examples of set expressions work on the demo's node, as they stand.
func TestAudienceExamplesWorkOnTheDemo(t *testing.T) {
	n := startNode(t, t.TempDir(), "--demo")
	word := regexp.MustCompile(`'[^']*'|\S+`)
	for _, name := range []string{"count", "overlap", "reach", "save", "list", "show", "delete"} { // saved before it is shown
		cmd, _, err := newRoot(os.Getenv).Find([]string{"audience", name})
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(cmd.Example) {
			var args []string
			for _, w := range word.FindAllString(line, -1)[1:] {
				args = append(args, strings.Trim(w, "'"))
			}
			if code, out, errs := command(t, strings.TrimPrefix(n.service, "http://"), "", args...); code != 0 {
				t.Errorf("%s: exit code %d\n%s%s", line, code, out, errs)
			}
		}
	}
}

// What was acknowledged is there after a stop and a start, and verify agrees,
// with and without a node; so is it after a backup and a restore.
func TestRestartVerifyBackupRestore(t *testing.T) {
	data := t.TempDir() + "/data"
	n := startNode(t, data)
	dir := t.TempDir()
	writeFile(t, dir+"/segments.yaml", "segments:\n  - {id: auto, scope: identity, when: 'count(event.section == \"auto\", \"30d\") >= 3'}\n")
	writeFile(t, dir+"/events.ndjson", strings.Repeat(`{"event":"page","identities":["browser:back"],"props":{"section":"auto"}}`+"\n", 3))
	n.kith(t, "segments", "apply", "-f", dir+"/segments.yaml")
	position := n.ingest(t, "-f", dir+"/events.ndjson").Position
	want := n.kith(t, "lookup", "browser:back", "--after", position)
	if !strings.Contains(want, "auto") {
		t.Fatalf("before the restart: %s", want)
	}
	n.kith(t, "verify")
	n.kith(t, "backup", dir+"/backups")
	if code := n.stop(); code != 0 {
		t.Fatalf("the node ended with exit code %d", code)
	}
	n.kith(t, "verify", "--data", data)
	again := startNode(t, data)
	if got := again.kith(t, "lookup", "browser:back"); got != want {
		t.Errorf("after the restart: %s, was %s", got, want)
	}
	again.stop()
	restored := t.TempDir() + "/restored"
	n.kith(t, "restore", dir+"/backups", "--data", restored, "--ledger", data)
	n.kith(t, "verify", "--data", restored)
	refusesWithoutDev(t, restored)
	other := startNode(t, restored)
	if got := other.kith(t, "lookup", "browser:back"); got != want {
		t.Errorf("after the restore: %s, was %s", got, want)
	}
	other.stop()
	more := t.TempDir() + "/more"
	if said := n.kith(t, "restore", dir+"/backups", "--lanes", "3", "--data", more, "--ledger", restored); !strings.Contains(said, "lanes: 3") {
		t.Errorf("restored with other lanes: %s", said)
	}
	n.kith(t, "verify", "--data", more)
	wide := startNode(t, more, "--lanes", "3")
	if got := wide.kith(t, "lookup", "browser:back"); got != want {
		t.Errorf("with other lanes: %s, was %s", got, want)
	}
	wide.ingest(t, "-f", dir+"/events.ndjson")
	wide.kith(t, "verify")
}

// What kith restore says to do next works where the secret is not in the directory.
func TestRestoreSaysHowToVerify(t *testing.T) {
	data, dir := t.TempDir()+"/data", t.TempDir()
	writeFile(t, dir+"/secret", strings.Repeat("5e", 16)+"\n")
	writeFile(t, dir+"/kith.yaml", "secret_file: "+dir+"/secret\n")
	writeFile(t, dir+"/events.ndjson", `{"event":"page","identities":["browser:back"],"props":{"section":"auto"}}`+"\n")
	n := startNode(t, data, "--config", dir+"/kith.yaml")
	n.kith(t, "lookup", "browser:back", "--after", n.ingest(t, "-f", dir+"/events.ndjson").Position)
	n.kith(t, "backup", dir+"/backups")
	n.stop()
	restored := t.TempDir() + "/restored"
	said := n.kith(t, "restore", dir+"/backups", "--config", dir+"/kith.yaml", "--data", restored, "--ledger", data)
	_, next, _ := strings.Cut(said, "next: kith ")
	next, _, _ = strings.Cut(next, ", then")
	if got := n.kith(t, strings.Fields(next)...); !strings.Contains(got, "compared 1 identities") {
		t.Errorf("%s: %s", next, got)
	}
}

// refusesWithoutDev serves data that hold the demo's key with another key.
func refusesWithoutDev(t *testing.T, data string) {
	t.Helper()
	file := t.TempDir() + "/kith.yaml"
	writeFile(t, file, "public: 127.0.0.1:0\nservice: 127.0.0.1:0\nkeys:\n  - {role: admin, sha256: "+config.HashKey("another")+"}\n")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // for a node that does start
	defer cancel()
	var errs bytes.Buffer
	code := run(ctx, []string{"serve", "--config", file, "--data", data}, strings.NewReader(""), io.Discard, &errs, func(string) string { return "" })
	if code != exitFailed || !strings.Contains(errs.String(), "were made with --dev") {
		t.Errorf("data made with --dev, without it: exit code %d\n%s", code, errs.String())
	}
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

type ingestReport struct {
	Lines, Accepted, Refused int64
	Position                 string
	ShiftDays                int `json:"shift_days"`
}

func (n *liveNode) ingest(t *testing.T, args ...string) (r ingestReport) {
	t.Helper()
	if err := json.Unmarshal([]byte(n.kith(t, append([]string{"ingest", "--json"}, args...)...)), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

const realLog = "../../../shared/data/apache_combined_semicomplete_2015.log"

// logRules are segments over a web server's log, each with the same question
// put to a visitor's hits by other means.
var logRules = []struct {
	id, when string
	holds    func(hits []hit, now time.Time) bool
}{
	{"blog", `count(event.section == "blog", "30d") >= 1`, func(hits []hit, _ time.Time) bool {
		return tally(hits, func(h hit) bool { return h.section == "blog" }) >= 1
	}},
	{"talks", `count(event.section == "presentations", "30d") >= 5`, func(hits []hit, _ time.Time) bool {
		return tally(hits, func(h hit) bool { return h.section == "presentations" }) >= 5
	}},
	{"back-in-two-days", `count(true, "48h") >= 10`, func(hits []hit, now time.Time) bool {
		return tally(hits, func(h hit) bool { return h.time.After(now.Add(-48 * time.Hour)) }) >= 10
	}},
	{"from-google", `count(event.ref_host.contains("google"), "30d") >= 1`, func(hits []hit, _ time.Time) bool {
		return tally(hits, func(h hit) bool { return strings.Contains(h.refHost, "google") }) >= 1
	}},
	{"ios", `count(event.os == "ios" && !(event.bot == true), "30d") >= 1`, func(hits []hit, _ time.Time) bool {
		return tally(hits, func(h hit) bool { return h.ios }) >= 1
	}},
	{"three-days", `days(true, "30d") >= 3`, func(hits []hit, _ time.Time) bool {
		days := map[string]bool{}
		for _, h := range hits {
			days[h.time.Format(time.DateOnly)] = true
		}
		return len(days) >= 3
	}},
	{"errors", `count(event.status >= 400, "30d") >= 1 && count(event.method == "GET", "30d") >= 1`, func(hits []hit, _ time.Time) bool {
		return tally(hits, func(h hit) bool { return h.status >= 400 }) >= 1 && tally(hits, func(h hit) bool { return h.method == "GET" }) >= 1
	}},
	{"blog-not-google", `member("blog") && !member("from-google")`, func(hits []hit, _ time.Time) bool {
		return tally(hits, func(h hit) bool { return h.section == "blog" }) >= 1 && tally(hits, func(h hit) bool { return strings.Contains(h.refHost, "google") }) == 0
	}},
}

// hit is a line of the log as this test reads it.
type hit struct {
	section, method, refHost string
	status                   int
	time                     time.Time
	ios                      bool // the agent says so, and is no robot's
}

func tally(hits []hit, p func(hit) bool) (n int) {
	for _, h := range hits {
		if p(h) {
			n++
		}
	}
	return n
}

var (
	logLine = regexp.MustCompile(`^(\S+) \S+ \S+ \[([^\]]+)\] "(\S+) (\S+) \S+" (\d+) \S+ "([^"]*)" "([^"]*)"$`)
	refHost = regexp.MustCompile(`^[a-z]+://([^/?#]+)`)
	apple   = regexp.MustCompile(`iPhone|iPad|iPod`)
)

// readHits reads the log in one pass, by visitor, without the code under test.
func readHits(t *testing.T, shiftDays int) (visitors map[string][]hit, bad int) {
	t.Helper()
	text, err := os.ReadFile(realLog)
	if err != nil {
		t.Skipf("the public log is not here: %v", err)
	}
	visitors = map[string][]hit{}
	for line := range strings.Lines(string(text)) {
		m := logLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			bad++
			continue
		}
		at, err := time.Parse("02/Jan/2006:15:04:05 -0700", m[2])
		if err != nil {
			t.Fatal(err)
		}
		h := hit{method: m[3], time: at.UTC().AddDate(0, 0, shiftDays), section: strings.Split(strings.TrimLeft(strings.FieldsFunc(m[4], func(r rune) bool { return r == '?' || r == '#' })[0], "/"), "/")[0]}
		if _, err := fmt.Sscan(m[5], &h.status); err != nil {
			t.Fatal(err)
		}
		h.ios = apple.MatchString(m[7]) && !strings.Contains(m[7], "bot")
		if r := refHost.FindStringSubmatch(m[6]); r != nil {
			h.refHost = strings.ToLower(r[1])
		}
		visitors[m[1]+"\x00"+m[7]] = append(visitors[m[1]+"\x00"+m[7]], h)
	}
	return visitors, bad
}

func TestRealLogCountsAgree(t *testing.T) {
	readHits(t, 0) // skips before anything is started
	n := startNode(t, t.TempDir())
	var file strings.Builder
	file.WriteString("segments:\n")
	for _, r := range logRules {
		fmt.Fprintf(&file, "  - {id: %s, scope: identity, when: '%s'}\n", r.id, r.when)
	}
	dir := t.TempDir()
	writeFile(t, dir+"/segments.yaml", file.String())
	n.kith(t, "segments", "apply", "-f", dir+"/segments.yaml")
	r := n.ingest(t, "-f", realLog, "--format", "combined", "--shift")
	visitors, bad := readHits(t, r.ShiftDays)
	if r.Lines != 10000 || r.Accepted+r.Refused != r.Lines || r.Refused < int64(bad) {
		t.Errorf("lines %d, accepted %d, refused %d; the test finds %d bad lines", r.Lines, r.Accepted, r.Refused, bad)
	}
	if r.Refused != int64(bad) {
		t.Fatalf("%d lines were refused, %d of them malformed: the counts cannot be compared", r.Refused, bad)
	}
	n.kith(t, "lookup", "browser:anybody", "--after", r.Position)
	expect := func(now time.Time) map[string]uint64 {
		counts := map[string]uint64{}
		for _, rule := range logRules {
			counts[rule.id] = 0
			for _, hits := range visitors {
				if rule.holds(hits, now) {
					counts[rule.id]++
				}
			}
		}
		return counts
	}
	// A window may end on an event between the two looks at the clock; then the
	// counts are asked again, until that is past.
	for range 10 {
		before, got := expect(time.Now().Add(-2*time.Second)), map[string]uint64{}
		for _, rule := range logRules {
			got[rule.id] = n.count(t, rule.id)
		}
		if d := cmp.Diff(before, expect(time.Now())); d != "" {
			t.Logf("time changed the counts meanwhile:\n%s", d)
			time.Sleep(time.Second)
			continue
		}
		if d := cmp.Diff(before, got); d != "" {
			t.Errorf("counts (-one pass over the file, +kith):\n%s", d)
		}
		t.Logf("%d visitors: %v", len(visitors), got)
		n.kith(t, "verify")
		return
	}
	t.Error("time changed the counts in ten attempts")
}
