package sim

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	mistakesFlag     = flag.String("mistakes", "", "plant these mistakes (names with commas, or all) and see that tests fail")
	mistakeSeedsFlag = flag.Int("mistake-seeds", 1200, "seeds of the simulation that look for each mistake")
)

// mistake is a change to the source that must not go unnoticed. It is planted
// with the compiler's overlay, so that the source itself knows nothing of it.
type mistake struct {
	name string
	file string // below the module
	old  string // occurs exactly once
	new  string
	test string // the package whose own tests notice it, where the simulation does not
}

var mistakes = []mistake{
	// what a commit holds
	{"nojournal", "engine/build.go", "\t\tw.set(journalKey(id, b.journal, b.parts), value)\n", "", ""},
	{"nochunk", "engine/commit.go", "\t\t\t\tw.set(key, c.Data)\n", "", ""},
	{"noexits", "engine/build.go", "\t\tw.set(exitKey(id, h, b.journal), values[i])\n", "\t\t_, _ = h, values[i]\n", ""},
	{"nonotice", "engine/build.go", "\t\tw.set(noticeKey(id, x.at, x.number), x.append(nil))\n", "\t\t_ = x\n", ""},
	{"nooutbox", "engine/build.go", "\t\tw.set(outboxKey(id, x.to, x.number), x.data)\n", "\t\t_ = x\n", ""},
	{"nodark", "engine/build.go", "\t\tw.put(darkKey(o.Darks[i].Node), o.Darks[i].Value)\n", "\t\t_ = i\n", ""},
	{"nocopy", "engine/build.go", "\t\tw.put(copyKey(o.Copies[i].Node, o.Copies[i].Member), o.Copies[i].Value)\n", "\t\t_ = i\n", ""},
	{"nooptout", "engine/build.go", "\t\tw.put(optOutKey(o.OptOuts[i].Hash), o.OptOuts[i].Value)\n", "\t\t_ = i\n", ""},
	{"keepname", "engine/build.go", "\t\tw.delete(ordinalKey(b.lane.id, ordinal))\n", "\t\t_ = ordinal\n", ""},
	{"nospaces", "engine/graph.go", "\tb.puts = append(b.puts, put{spacesKey(l.id), v})\n", "\t_ = v\n", ""},
	{"dropsent", "engine/outbox.go", "for n := b.gone + 1; n <= b.base; n++ {", "for n := b.gone + 1; n <= b.base+uint64(len(b.batches)); n++ {", ""},
	{"droptold", "engine/ledger.go", "l.noticed[n].at <= mark {", "l.noticed[n].at <= mark+1<<40 {", ""},
	{"dropexits", "engine/commit.go", "\tl.dropped = hour - 2\n", "\tl.dropped = hour + 1\n", ""},
	// what a start reads
	{"losecarry", "engine/graph.go", "\tl.graph.Vector[l.id] = max(l.graph.Vector[l.id], proto.Offset(l.record.Offset))\n\t_, err = snap", "\tl.graph.Carry = nil\n\tl.graph.Vector[l.id] = max(l.graph.Vector[l.id], proto.Offset(l.record.Offset))\n\t_, err = snap", ""},
	{"overdue", "engine/exits.go", "\t\tstart = prefix\n", "\t\tstart = exitKey(x.lane, hourOf(at), 0)\n", ""},
	{"nofills", "engine/fill.go", "\t\tl.progress.fills[f.key] = f\n", "\t\tf.done = true\n\t\tl.progress.fills[f.key] = f\n", ""},
	{"untold", "engine/ledger.go", "\t\tl.node.ledger.add(l.id, list[:n])\n", "", ""},
	{"aloneatstart", "engine/users.go", "if s.Named && s.Follows && !x.fresh[s.Ordinal] {", "if false {", ""},
	{"lateagain", "engine/ledgerfile.go", "for received := min(e.time, now); have < e.gen; {", "for received := min(e.time, now); have > e.gen; {", ""},
	{"latefirst", "engine/ledgerfile.go", "have += 1 + have&1", "have = e.gen", ""},
	// what is published
	{"nousers", "engine/commit.go", "\t\tl.users.apply(o.Users)\n", "", ""},
	{"staleview", "engine/commit.go", "\t\t\tl.node.views.publish(o.Views[i].Node, o.Views[i].View)\n", "\t\t\t_ = i\n", ""},
	{"forgetview", "engine/commit.go", "\t\t\tl.node.views.forget(o.Turned[i].Hash)\n", "\t\t\t_ = i\n", ""},
	{"oldfill", "engine/views.go", "\ts := v.shard(proto.Node{Hash: h})\n\ts.mu.Lock()\n\tdefer s.mu.Unlock()\n\ts.version++\n", "\ts := v.shard(proto.Node{Hash: h})\n\ts.mu.Lock()\n\tdefer s.mu.Unlock()\n", "./engine -run TestViews"},
	{"nobits", "engine/commit.go", "\tl.bitmaps.Apply(b.bits)\n", "", ""},
	{"keepletters", "engine/deadletter.go", "\t\t\tl.letters.remove(id)\n\t\t\tb.deletes = append(b.deletes, deadKey(l.id, id.offset, id.index))\n", "\t\t\t_ = id\n", ""},
	// lanes
	{"gap", "graph/outbox.go", "if lo > l.Applied[from]+1 {\n\t\treturn nil\n\t}\n\tvar in []Message\n", "if lo > l.Applied[from]+1 {\n\t\tl.Applied[from] = lo - 1\n\t}\n\tvar in []Message\n", ""},
	{"twice", "graph/outbox.go", "n <= l.Applied[from] {\n\t\t\tcontinue\n\t\t}\n\t\tl.Applied[from]++\n", "n > l.Applied[from] {\n\t\t\tl.Applied[from]++\n\t\t}\n", ""},
	{"earlytrim", "engine/graph.go", "\tb.taken = slices.Clone(l.graph.Applied)\n", "\tb.taken = slices.Clone(l.graph.Applied)\n\tfor i := range b.taken {\n\t\tb.taken[i] += 2\n\t}\n", ""},
	{"controlagain", "engine/lanecommand.go", "if x.Seq != l.record.Control+1 {", "if x.Seq > l.record.Control+1 {", ""},
	// opt-outs
	{"newspace", "actors/resident.go", "\t\tr.meet(o)\n", "", ""},
	{"newspacenow", "actors/optout.go", "\t\t\tr.meet(&o.OptOut)\n", "", ""},
	{"nofence", "actors/command.go", "if !t.r.state.Admits(min(t.at, h.entry.Now)) {", "if t.r.state.Dark() {", ""},
	{"nodarkevent", "actors/command.go", "if !t.r.state.Admits(min(t.at, h.entry.Now)) {", "if false {", ""},
	{"onespace", "actors/optout.go", "\t\tif r.exists() {\n\t\t\tlist = append(list, r)\n", "\t\tif r.exists() && len(list) == 0 {\n\t\t\tlist = append(list, r)\n", ""},
	{"batchend", "actors/host.go", "\tr.transient = r.transient && !fx.Changed\n", "", ""},
	{"donenotheld", "actors/optout.go", "if len(o.Held) > 0 && !h.underWay(o, r.node.Hash) {", "if len(o.Held) > 0 {", "./actors"},
	{"doneheldlong", "actors/optout.go", "if len(o.Held) > 0 && !h.underWay(o, r.node.Hash) {", "if len(o.Held) > 0 && o.Open() == 0 {", ""},
	{"receiptorder", "graph/cut.go", "if c.final() && len(kept) == 0 {", "if c.final() {", "./graph -run TestReceiptsComeInTheOrderOfCuts"},
	{"samegen", "actors/identity/optout.go", "case c.Kind == proto.CutOptOut && o.Dark(), c.Kind == proto.CutErase:\n\t\to.Gen += 2\n", "case c.Kind == proto.CutOptOut && o.Dark():\n\tcase c.Kind == proto.CutErase:\n\t\to.Gen += 2\n", ""},
	{"anygen", "actors/optout.go", "!o.Dark() || o.Gen != x.Gen {", "!o.Dark() {", ""},
	{"liftnofence", "actors/identity/optout.go", "\to.Fence, o.Since = fence, now\n", "\to.Since = now\n", ""},
	{"lostunlink", "actors/users.go", "t.r.state.Graph != nil || m.Kind == graph.Remove {", "t.r.state.Graph != nil {", ""},
	{"onecut", "actors/identity/optout.go", "\t\tif len(c.Pending) > 0 {\n\t\t\treturn nil\n\t\t}\n\t\tc.Final", "\t\tc.Final", ""},
	// a node's facts
	{"exitsurvives", "actors/identity/user.go", "*s = State{Graph: s.Graph, Ordinal: s.Ordinal}", "*s = State{Graph: s.Graph, Ordinal: s.Ordinal, Exit: s.Exit}", ""},
	{"keepdevice", "actors/identity/user.go", "*s = State{Graph: s.Graph, Ordinal: s.Ordinal}", "*s = State{Graph: s.Graph, Ordinal: s.Ordinal, Device: s.Device, Named: s.Named}", ""},
	{"keepbits", "actors/identity/user.go", "\tturn(bits, nil, fx)\n", "", ""},
	{"ownbits", "actors/identity/identity.go", "\t\tif !s.Follows || !g.UserScope(k) {\n", "\t\tif !s.Follows || !g.UserScope(k) || true {\n", ""},
	{"undefined", "actors/identity/user.go", "\t\t\tnext[i].Members = p.known(next[i].Client, next[i].Members)\n", "\t\t\t_ = i\n", "./actors/identity"},
	{"since", "actors/identity/user.go", "\t\t\t\tm.Since = old.Since\n", "", "./actors/identity"},
	{"flipmute", "actors/identity/identity.go", "\tp.flip(s, now, fx)\n\tfx.Due = true\n", "\tp.flip(s, now, fx)\n", "./actors/identity"},
	{"flipbits", "actors/identity/user.go", "\t\t\tfx.Bits = append(fx.Bits, Bit{Client: u.Client, Key: m.Key, Set: m.In})\n", "", ""},
	{"keepblocks", "actors/identity/identity.go", "\tf.dropBlocks(fx)\n\ts.Facts = slices.Delete", "\ts.Facts = slices.Delete", ""},
	{"purgeblocks", "actors/identity/user.go", "\t\tf.dropBlocks(fx)\n", "", ""},
	{"userexit", "actors/identity/identity.go", "\tnext = sooner(next, nextOf(s.User))\n", "", ""},
	{"noupdateshow", "actors/identity/identity.go", "\t\tp.show(s, now, fx) // some of what its user was in may be no more\n", "", "./actors/identity"},
	{"sharedmute", "actors/identity/identity.go", "\tfx.Shared = fx.Shared || p.delta.Shared\n", "", ""},
	{"lostexit", "engine/lanecommand.go", "\tl.exits.popped = actors.Exit{} // a node may ask again for a time at which it was looked at before\n", "", ""},
	{"numberless", "actors/identity/user.go", "\tif !s.Named { // a bit needs a number: name sets them\n\t\treturn bits\n\t}\n", "", "./actors/identity"},
	{"reuse", "actors/host.go", "\t\th.next++\n", "\t\th.next += 1 - uint32(len(h.out.Unnamed)&1)\n", ""},
}

// TestMistakes is the gate: each mistake must make the simulation, or the tests
// that it names, fail. It builds anew for each, so it runs on request:
// go test ./engine/sim -run TestMistakes -mistakes all
func TestMistakes(t *testing.T) {
	if *mistakesFlag == "" {
		t.Skip("builds the tests once for each mistake; use -mistakes all")
	}
	names := strings.Split(*mistakesFlag, ",")
	limit := make(chan struct{}, runtime.GOMAXPROCS(0))
	for _, m := range mistakes {
		if *mistakesFlag != "all" && !slices.Contains(names, m.name) {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			limit <- struct{}{}
			defer func() { <-limit }()
			out, caught := m.run(t)
			if !caught {
				t.Fatalf("nobody noticed")
			}
			t.Log(firstLine(out))
		})
	}
}

// run plants the mistake and runs what should notice it.
func (m *mistake) run(t *testing.T) (string, bool) {
	t.Helper()
	if m.test != "" {
		pkg, args, _ := strings.Cut(m.test, " ")
		bin := m.build(t, pkg)
		run := "."
		if args != "" {
			run = strings.TrimPrefix(args, "-run ")
		}
		return runTests(t, bin, filepath.Join("../..", pkg), "-test.run="+run)
	}
	bin := m.build(t, "./engine/sim")
	if out, caught := runTests(t, bin, ".", "-test.run=TestSimulation", "-seeds="+strconv.Itoa(*mistakeSeedsFlag), "-failures=1"); caught {
		return out, true
	}
	out, caught := runTests(t, bin, ".", "-test.skip=TestSimulation|TestMistakes")
	return "a test: " + out, caught
}

// TestMistakesFit tells at once that a change to the code has left a mistake
// behind, which the gate would only tell after minutes.
func TestMistakesFit(t *testing.T) {
	for _, m := range mistakes {
		t.Run(m.name, func(t *testing.T) { m.plant(t) })
	}
}

// plant returns the source with the mistake in it.
func (m *mistake) plant(t *testing.T) string {
	t.Helper()
	src, err := os.ReadFile(filepath.Join("../..", m.file))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(src), m.old); n != 1 {
		t.Fatalf("what it changes occurs %d times in %s: the code has changed, change the mistake too", n, m.file)
	}
	return strings.Replace(string(src), m.old, m.new, 1)
}

// build compiles a package's tests with the mistake in them.
func (m *mistake) build(t *testing.T, pkg string) string {
	t.Helper()
	dir := t.TempDir()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	planted := filepath.Join(dir, "planted.go")
	if err := os.WriteFile(planted, []byte(m.plant(t)), 0o644); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, m.file): planted}})
	if err != nil {
		t.Fatal(err)
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o644); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "mistaken.test")
	cmd := exec.Command("go", "test", "-c", "-overlay", overlayFile, "-o", bin, pkg)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("does not build: %v\n%s", err, out)
	}
	return bin
}

// runTests reports whether tests failed. One that does not end has noticed
// nothing: a slow machine must not pass for a test.
func runTests(t *testing.T, bin, dir string, args ...string) (string, bool) {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err != nil && ctx.Err() == nil
}

func firstLine(out string) string {
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			return line[:min(len(line), 200)]
		}
	}
	return out
}
