package graph_test

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
	mistakeSeedsFlag = flag.Int("mistake-seeds", 2000, "seeds of the simulation that look for each mistake")
)

// mistake is a change to the source that must not go unnoticed. It is planted
// with the compiler's overlay, so that the source itself knows nothing of it.
type mistake struct {
	name string
	file string
	old  string // occurs exactly once
	new  string
}

var mistakes = []mistake{
	// R1: agreement on edges
	{"nopend", "edges.go", "l.Stage, l.Gen, l.Settled, l.Evidence = Pending, 0, false, e", "l.Stage, l.Gen, l.Settled, l.Evidence = Established, 1, false, e\n\t\ts.edges, s.x.copied = true, nil"},
	{"nomarker", "edges.go", "case l != nil && l.Mark == RemovedMark && t <= l.MarkTime:", "case l == nil && t == 0:"},
	{"tie", "edges.go", "l.Mark == RemovedMark && t <= l.MarkTime:", "l.Mark == RemovedMark && t < l.MarkTime:"},
	{"nohalftime", "edges.go", "r := s.barred(m.From, m.Time)\n", "r := s.barred(m.From, m.Time)\n\tif r == ReasonStale {\n\t\tr = ReasonNone\n\t}\n"},
	{"nohalfokgen", "edges.go", "if s.x.Dark || m.ToGen != s.x.Gen {\n\t\treturn\n\t}\n\tl := get(s.x.Links, &m.From)\n\tif l == nil || l.Stage != Pending", "if s.x.Dark {\n\t\treturn\n\t}\n\tl := get(s.x.Links, &m.From)\n\tif l == nil || l.Stage != Pending"},
	{"ignoreok", "edges.go", "\t\ts.takeBack(m, l)\n", ""},
	{"oldok", "edges.go", "if m.Time < l.Time {\n\t\treturn // newer", "if false {\n\t\treturn // newer"},
	{"keepold", "edges.go", "if (pending || established) && l.Time > e.Time {", "if false {"},
	{"dropold", "edges.go", "\t\tif l.Time > m.Time {\n\t\t\ts.propose(l.Peer, l.Evidence, true, nil)\n\t\t\treturn\n\t\t}\n\t\tgen := l.Gen\n\t\ts.unestablish(l, dropReason(m))", "\t\tgen := l.Gen\n\t\ts.unestablish(l, dropReason(m))"},
	{"capone", "edges.go", "\t\ts.unestablish(l, dropReason(m))\n", ""},
	{"dropdark", "edges.go", "if !m.Capped && (x.Dark || m.Time <= x.Fence) {", "if !m.Capped && x.Dark {"},
	{"nodropok", "edges.go", "\t\t\tl.MarkGen = m.Gen\n", ""},
	{"declinemute", "edges.go", "\tif l != nil && l.Mark == RemovedMark && l.MarkGen == 0 {\n\t\ts.emit(", "\tif false {\n\t\ts.emit("},
	{"withdrawall", "edges.go", "l.Stage != Absent && l.Client == m.Client", "l.Stage != Absent"},
	{"removemute", "edges.go", "\ts.emit(peer, Message{Kind: Drop, Gen: x.Gen, Evidence: Evidence{Time: t}})\n", ""},
	// R2, R5: membership
	{"invitegen", "members.go", "if x.Dark || m.ToGen != x.Gen || m.From ==", "if x.Dark || m.From =="},
	{"invitehearsay", "members.go", "return l != nil && l.Gen == r.Gen", "return l != nil || r.Gen == r.Gen"},
	{"labelprop", "view.go", "if p[i].gone {\n\t\t\ts.drop(", "if false {\n\t\t\ts.drop("},
	{"nonudge", "members.go", "s.emit(x.Root, Message{Kind: Nudge, About: m.List[via].Peer})", ""},
	{"onevia", "view.go", "\tm := Message{Kind: Invite, List: make([]Ref, len(ways))}", "\tways = ways[:1]\n\tm := Message{Kind: Invite, List: make([]Ref, len(ways))}"},
	{"keepverdict", "members.go", "\ts.resend = true\n\ts.askAgain()\n\ts.show(Shown{})\n", "\ts.resend = true\n\ts.askAgain()\n"},
	{"noleave", "members.go", "\t\ts.emit(x.Root, Message{Kind: Leave, Ver: h.Ver, Gen: x.Gen})\n", ""},
	{"keepstray", "members.go", "\tif !s.x.leads() {\n\t\ts.emit(m.From, Message{Kind: Verdict, Out: true", "\tif s.x.Dark {\n\t\ts.emit(m.From, Message{Kind: Verdict, Out: true"},
	{"noout", "members.go", "\t\ts.emit(m.From, Message{Kind: Verdict, Out: true, Number: s.x.Number, Ver: c.Ver, ToGen: c.Gen})\n", ""},
	// R3: reachable
	{"nogen", "view.go", "if !ok || p[b].copy.Gen != e.Gen {\n\t\t\t\tcontinue\n\t\t\t}\n\t\t\tif f := get(p[b].copy.Edges, &p[a].peer); f != nil && f.Gen == from.Gen {", "if !ok {\n\t\t\t\tcontinue\n\t\t\t}\n\t\t\tif f := get(p[b].copy.Edges, &p[a].peer); f != nil {"},
	{"nofarther", "view.go", "if !ok || p[b].copy.Gen != e.Gen {", "if !ok {"},
	{"noreverse", "view.go", "f != nil && f.Gen == from.Gen {", "f != nil {"},
	{"invitealways", "view.go", "\t\tif !hasHash(x.Invited, out[i].peer) {", "\t\tif true {"},
	// R4: releases
	{"nohold", "view.go", "\tadd(&x.Holders, x.Root).Ver = x.Ver // before it is sent: a cut must find every copy\n", ""},
	{"noverfence", "members.go", "if x.Dark || h == nil || m.Ver < h.Ver {", "if x.Dark || h == nil {"},
	{"noverdictack", "release.go", "\t\tif !x.replaced(o.After) {", "\t\tif false {"},
	{"leavefast", "members.go", "\ts.owed = append(s.owed, Owed{Peer: m.From, Gen: m.Gen, Ver: m.Ver})\n}", "\tif m.Kind == Leave {\n\t\ts.emit(m.From, Message{Kind: Release, Ver: m.Ver, Gen: m.Gen})\n\t\treturn\n\t}\n\ts.owed = append(s.owed, Owed{Peer: m.From, Gen: m.Gen, Ver: m.Ver})\n}"},
	{"eagerack", "release.go", "\t\tif len(x.Cuts[i].Retract) > 0 {", "\t\tif len(x.Cuts[i].Retract) > 99 {"},
	{"waitnot", "release.go", "\t\t\tif x.Holders[i].Acked < w.Ver {", "\t\t\tif x.Holders[i].Acked > w.Ver {"},
	{"verreset", "cut.go", "\tx.Fence = m.Time + 2*s.env.Config.SkewMillis\n", "\tx.Fence = m.Time + 2*s.env.Config.SkewMillis\n\tx.Ver = 0\n"},
	{"oldleave", "members.go", "k != nil && k.Copy.Ver <= m.Ver {", "k != nil {"},
	// R6: verdicts
	{"noadoptfence", "members.go", "\tcase m.Ver >= x.Joined:", "\tcase true:"},
	{"unpublished", "members.go", "\t\ts.fx.Shown = true\n", ""},
	{"anyroot", "members.go", "\tcase x.Dark || x.Root != m.From:\n", "\tcase x.Dark:\n"},
	{"mute", "members.go", "\ts.emit(m.From, Message{Kind: VerdictAck, Number: m.Number})\n", "\tif s.x.Root == m.From {\n\t\ts.emit(m.From, Message{Kind: VerdictAck, Number: m.Number})\n\t}\n"},
	{"outstays", "members.go", "\tcase m.Out: // a newer copy is on its way there: only stop showing\n\t\ts.show(Shown{})\n", "\tcase m.Out:\n"},
	{"samevalue", "view.go", "if same && r != nil && !r.Out {", "if same && r != nil {"},
	// R7: cuts
	{"earlyack", "cut.go", "if taken && len(c.Unlink) == 0 && before && !c.Done {", "if !c.Done {"},
	{"onephase", "cut.go", "if taken && !c.Telling {", "if !c.Telling {"},
	{"dropnowait", "cut.go", "taken := len(c.Retract) == 0 && s.x.replaced(c.After)", "taken := len(c.Retract) == 0"},
	{"ackorder", "cut.go", "len(c.Unlink) == 0 && before && !c.Done", "len(c.Unlink) == 0 && !c.Done"},
	{"norepropose", "cut.go", "if e.Time > m.Time-2*s.env.Config.SkewMillis {", "if false {"},
	{"unlinkgen", "cut.go", "l != nil && l.Gen <= m.Gen {\n\t\te :=", "l != nil {\n\t\te :="},
	{"dupcut", "cut.go", "\t\tif slices.Contains(x.Commands, m.Command) {", "\t\tif false {"},
	{"samegen", "cut.go", "\t\tx.Gen += 2\n\t\tx.Cuts", "\t\tx.Cuts"},
	{"nopurge", "cut.go", "\ts.env.Facts.Purge()\n", ""},
	{"nomarked", "cut.go", "\t\tc.Unlink = append(c.Unlink, x.Links[i].Peer)\n", "\t\tif x.Links[i].Stage != Absent {\n\t\t\tc.Unlink = append(c.Unlink, x.Links[i].Peer)\n\t\t}\n"},
	{"nolistwait", "cut.go", "return c.Done && !slices.ContainsFunc(c.Also, func(a Also) bool { return !a.Done })", "return c.Done"},
	{"listany", "cut.go", "if !s.x.Dark && s.x.Gen == m.ToGen {", "if !s.x.Dark {"},
	// R9: opt-in
	{"nofence", "cut.go", "\tx.Fence = m.Time + 2*s.env.Config.SkewMillis\n", ""},
	{"noskew", "cut.go", "m.Time + 2*s.env.Config.SkewMillis\n", "m.Time\n"},
	{"dupoptin", "cut.go", "if !s.x.Dark || m.ToGen != s.x.Gen {", "if !s.x.Dark {"},
	{"erasenofence", "cut.go", "\t\t\ts.optIn(m)\n\t\t}\n", "\t\t\tfence := s.x.Fence\n\t\t\ts.optIn(m)\n\t\t\ts.x.Fence = fence\n\t\t}\n"},
	{"eventfence", "graph.go", "m.Kind == Event && m.Evidence.Time <= s.x.Fence", "false"},
	// R10: caps
	{"nocapE", "edges.go", "case !pending && !established && x.slots() >= s.env.Config.EdgesMax:", "case false:"},
	{"nocapK", "view.go", "if p[a].size+p[b].size > s.env.Config.MembersMax {", "if false {"},
	{"silentcap", "edges.go", "\ts.fx.Refused = append(s.fx.Refused, Refusal{s.self, m.About, ReasonUserCap})\n", ""},
	{"forgetdrop", "edges.go", "\ts.unestablish(l, ReasonUserCap)\n\ts.fx.Refused = append(s.fx.Refused, Refusal{s.self, m.About, ReasonUserCap})\n\ts.mark(m.About, CappedMark, gen, m.Time)\n\ts.forget(m.About, m.Time)\n", "\ts.unestablish(l, ReasonUserCap)\n\ts.fx.Refused = append(s.fx.Refused, Refusal{s.self, m.About, ReasonUserCap})\n"},
	{"pendingfree", "state.go", "if x.Links[i].Stage != Absent {", "if x.Links[i].Stage == Established {"},
	{"nobeyond", "view.go", "\t\tbeyond = s.frontier()\n", ""},
	{"newestfirst", "view.go", "cmp.Compare(v.time, w.time)", "cmp.Compare(w.time, v.time)"},
	{"linksfree", "edges.go", "case l == nil && len(x.Links) >= s.env.Config.LinksMax:\n\t\ts.refuse(m", "case false:\n\t\ts.refuse(m"},
	// decisions
	{"askonce", "edges.go", "\t\t\ta.Sent = false // the root has a copy without the edge\n", ""},
	{"asklost", "members.go", "\t\ts.show(Shown{})\n\t\ts.askAgain()\n", "\t\ts.show(Shown{})\n"},
	{"undecided", "edges.go", "\ts.tidy(l)\n\ts.decide(peer, false, r)\n", "\ts.tidy(l)\n\t_, _ = peer, r\n"},
	{"hasty", "view.go", "|| len(x.Invited) > 0 {", "{"},
	{"forgetpromise", "view.go", "\t\ts.x.Promises = append(s.x.Promises, Question{end, other})\n", ""},
	{"onepromise", "view.go", "\t\t\ts.promise(q.About, q.Peer, false)\n", ""},
	{"keeppromise", "members.go", "\ts.keepPromises(m.From, c)\n", ""},
	// R8: lanes
	{"nodedup", "outbox.go", "n <= l.Applied[from] {\n\t\t\tcontinue\n\t\t}\n\t\tl.Applied[from]++", "n == 0 {\n\t\t\tcontinue\n\t\t}\n\t\tl.Applied[from] = max(l.Applied[from], lo+uint64(i))"},
	{"gap", "outbox.go", "if lo > l.Applied[from]+1 {", "if false {"},
	{"packredo", "outbox.go", "n <= l.Applied[from] {", "lo+uint64(len(pack))-1 <= l.Applied[from] && n <= l.Applied[from] {"},
	{"novector", "outbox.go", "\t\t\tl.Vector[k] = max(l.Vector[k], v)\n", "\t\t\t_, _ = k, v\n"},
	{"nosort", "lane.go", "return cmp.Or(compareHash(p.From, q.From), cmp.Compare(a.index, b.index))", "return cmp.Compare(uint32(a.index)*2654435761, uint32(b.index)*2654435761)"},
	{"sendersreverse", "lane.go", "return cmp.Or(compareHash(p.From, q.From), cmp.Compare(a.index, b.index))", "return cmp.Or(compareHash(p.From, q.From), cmp.Compare(b.index, a.index))"},
	{"nocarry", "lane.go", "\t\t\tl.Carry = append(l.Carry, l.inbox...)\n", ""},
	{"trimmore", "outbox.go", "n := min(applied-c.Base, uint64(len(c.Batches)))", "n := min(applied-c.Base+1, uint64(len(c.Batches)))"},
	// rows
	{"nolinkrow", "edges.go", "\t\t\tl.Evidence = m.Evidence\n\t\t\ts.x.copied = nil\n\t\t\ts.fx.touched(l.Peer)\n", "\t\t\tl.Evidence = m.Evidence\n\t\t\ts.x.copied = nil\n"},
	{"nocopyrow", "members.go", "\ts.fx.copied(m.From)\n", ""},
	{"nonoderow", "members.go", "\t\t\th.Acked = m.Ver\n\t\t\ts.changed()\n", "\t\t\th.Acked = m.Ver\n"},
	{"stalecopy", "edges.go", "\t\t\tl.Evidence = m.Evidence\n\t\t\ts.x.copied = nil\n", "\t\t\tl.Evidence = m.Evidence\n"},
	{"losecarry", "wire.go", "return appendMessages(b, l.Carry)", "return appendMessages(b, nil)"},
	{"losefence", "codec.go", "b = proto.AppendVarint(b, int64(x.Fence))", "b = proto.AppendVarint(b, 0)"},
	{"losewait", "wire.go", "b = binary.AppendUvarint(b, a)\n\t}\n\tfor i := range l.Outbox", "b = binary.AppendUvarint(b, 0*a)\n\t}\n\tfor i := range l.Outbox"},
	// the world: what the engine must do with this room
	{"trimsent", "simworld_test.go", "trim[d] = m.served[d].lane.Applied[l]", "trim[d] = r.cursor[d]"},
	{"anybatch", "simworld_test.go", "\t\tr.apply(e)\n", "\t\tif l := w.logs[l]; e.kind == outsideEntry && r.pos+1 < len(l.entries) && l.entries[r.pos+1].kind == outsideEntry && w.rng.IntN(2) == 0 {\n\t\t\tboth := &entry{kind: outsideEntry, messages: append(slices.Clone(e.messages), l.entries[r.pos+1].messages...)}\n\t\t\tr.apply(both)\n\t\t\tr.pos++\n\t\t\tcontinue\n\t\t}\n\t\tr.apply(e)\n"},
	{"gaprestore", "simworld_test.go", "r.replica.restore(log.snapshots[w.rng.IntN(len(log.snapshots))])", "m := *log.snapshots[w.rng.IntN(len(log.snapshots))]\n\t\tif n := len(log.retired); n > 0 {\n\t\t\tm = *log.retired[w.rng.IntN(n)]\n\t\t\tm.pos = max(m.pos, log.base)\n\t\t}\n\t\tr.replica.restore(&m)"},
	{"snaplast", "simreplica_test.go", "r.lane, r.rows, r.beats, r.pos = l,", "clear(l.Applied)\n\tr.lane, r.rows, r.beats, r.pos = l,"},
	{"earlyserve", "simworld_test.go", "\tr.leaseTo = 0\n\tr.sent", "\tr.leaseTo = w.local(m) + simLease\n\tr.sent"},
	{"acknow", "simworld_test.go", "if b.done || p.vector[l] == 0 {", "if true {"},
	{"ackhome", "simworld_test.go", "if b.done || p.vector[l] == 0 {", "if b.done || p.vector[l] == 0 || l != w.lane(p.i) {"},
	{"leaseapply", "simworld_test.go", "r.leaseTo = max(r.leaseTo, at+simLease)", "r.leaseTo = max(r.leaseTo, w.local(m)+simLease+0*at)"},
	{"oldbeat", "simworld_test.go", "if at, ok := r.sent[e.number]; ok && e.inc == m.inc {\n\t\tr.leaseTo = max(r.leaseTo, at+simLease)", "if true {\n\t\tr.leaseTo = max(r.leaseTo, w.local(m)+simLease)"},
	{"nodrift", "simworld_test.go", "wait := simLease*(1000+simDrift)/(1000-simDrift) + 2", "wait := simLease"},
	{"suspend", "simworld_test.go", "\t\tw.now += w.rng.IntN(150)\n", "\t\td := w.rng.IntN(150)\n\t\tw.now += d\n\t\tfor _, m := range w.machines {\n\t\t\tif m.paused {\n\t\t\t\tm.slept += d\n\t\t\t}\n\t\t}\n"},
}

// TestMistakes is the gate: each mistake must make the simulation, a story or
// a test of a rule fail. It builds the tests anew for each, so it runs on
// request: go test ./graph -run TestMistakes -mistakes all
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
			bin := m.build(t)
			seeds := strconv.Itoa(*mistakeSeedsFlag)
			if out, caught := runTests(t, bin, "-test.skip=TestSimulation|TestMistakes"); caught {
				t.Logf("a test: %s", firstLine(out))
				return
			}
			out, caught := runTests(t, bin, "-test.run=TestSimulation", "-seeds="+seeds, "-failures=1")
			if !caught {
				t.Fatalf("nobody noticed in %s seeds and all other tests", seeds)
			}
			t.Logf("simulation: %s", firstLine(out))
		})
	}
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
	src, err := os.ReadFile(m.file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(src), m.old); n != 1 {
		t.Fatalf("what it changes occurs %d times in %s: the code has changed, change the mistake too", n, m.file)
	}
	return strings.Replace(string(src), m.old, m.new, 1)
}

// build compiles this package's tests with the mistake in them.
func (m *mistake) build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	planted := filepath.Join(dir, m.file)
	if err := os.WriteFile(planted, []byte(m.plant(t)), 0o644); err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(here, m.file): planted}})
	if err != nil {
		t.Fatal(err)
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o644); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "mistaken.test")
	cmd := exec.Command("go", "test", "-c", "-overlay", overlayFile, "-o", bin, ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("does not build: %v\n%s", err, out)
	}
	return bin
}

// runTests reports whether tests failed. One that does not end has noticed
// nothing: a slow machine must not pass for a test.
func runTests(t *testing.T, bin string, args ...string) (string, bool) {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Minute)
	defer stop()
	out, err := exec.CommandContext(ctx, bin, args...).CombinedOutput()
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
