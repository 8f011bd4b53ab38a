package graph_test

import (
	"flag"
	"strconv"
	"testing"

	"kith/internal/mistakes"
)

var (
	mistakesFlag     = flag.String("mistakes", "", "plant these mistakes (names with commas, or all) and see that tests fail")
	mistakeSeedsFlag = flag.Int("mistake-seeds", 2000, "seeds of the simulation that look for each mistake")
)

// TestMistakes is the gate: each mistake must make the simulation or a test
// fail. It builds the tests anew for each, so it runs on request:
// go test ./graph -run TestMistakes -mistakes all
func TestMistakes(t *testing.T) {
	if *mistakesFlag == "" {
		t.Skip("builds the tests once for each mistake; use -mistakes all")
	}
	gate().Run(t, *mistakesFlag)
}

func TestMistakesFit(t *testing.T) { gate().Fit(t) }

func gate() *mistakes.Gate {
	const simulation = "graph TestSimulation" // which has to notice it though other tests do, too
	list := []mistakes.Mistake{
		// R1: agreement on edges
		{Name: "nopend", File: "edges.go", Old: "l.Stage, l.Gen, l.Settled, l.Evidence = Pending, 0, false, e", New: "l.Stage, l.Gen, l.Settled, l.Evidence = Established, 1, false, e\n\t\ts.edges, s.x.copied = true, nil"},
		{Name: "nomarker", File: "edges.go", Old: "case l != nil && l.Mark == RemovedMark && t <= l.MarkTime:", New: "case l == nil && t == 0:"},
		{Name: "tie", File: "edges.go", Old: "l.Mark == RemovedMark && t <= l.MarkTime:", New: "l.Mark == RemovedMark && t < l.MarkTime:"},
		{Name: "nohalftime", File: "edges.go", Old: "r := s.barred(m.From, m.Time)\n", New: "r := s.barred(m.From, m.Time)\n\tif r == ReasonStale {\n\t\tr = ReasonNone\n\t}\n"},
		{Name: "nohalfokgen", File: "edges.go", Old: "if s.x.Dark || m.ToGen != s.x.Gen {\n\t\treturn\n\t}\n\tl := get(s.x.Links, &m.From)\n\tif !m.Capped", New: "if s.x.Dark {\n\t\treturn\n\t}\n\tl := get(s.x.Links, &m.From)\n\tif !m.Capped"},
		{Name: "ignoreok", File: "edges.go", Old: "\t\ts.takeBack(m, l)\n", New: ""},
		{Name: "oldok", File: "edges.go", Old: "case l.Stage == Pending && theirs.Time < l.Time:", New: "case false:"},
		{Name: "oldgenok", File: "edges.go", Old: "case l.Stage == Established && l.Gen > m.Gen:", New: "case l.Stage == Established:"},
		{Name: "openforgot", File: "edges.go", Old: "l.Mark == Unmarked && l.Open == 0 {", New: "l.Mark == Unmarked {"},
		{Name: "openreset", File: "edges.go", Old: "Gen: gen, Evidence: e, Open: l.Open}", New: "Gen: gen, Evidence: e}"},
		{Name: "dropnonow", File: "edges.go", Old: "x.Waits = append(x.Waits, Wait{Peer: m.From, Answer: DropNo, Gen: m.Gen, Ver: s.nextVer(), Number: m.Number})", New: "s.emit(m.From, Message{Kind: DropNo, ToGen: m.Gen, Number: m.Number})"},
		{Name: "loseopen", File: "codec.go", Old: "n.Open = uint32(r.uint(math.MaxUint32))", New: "n.Open = min(1, uint32(r.uint(math.MaxUint32)))"},
		{Name: "keepold", File: "edges.go", Old: "if (pending || established) && l.Evidence.beats(&e) {", New: "if false {"},
		{Name: "dropold", File: "edges.go", Old: "\t\tif l.Time > m.Time {\n\t\t\ts.propose(l.Peer, l.Evidence, true, nil)\n\t\t\treturn\n\t\t}\n\t\tgen := l.Gen\n\t\ts.unestablish(l, dropReason(m))", New: "\t\tgen := l.Gen\n\t\ts.unestablish(l, dropReason(m))"},
		{Name: "capone", File: "edges.go", Old: "\t\ts.unestablish(l, dropReason(m))\n", New: ""},
		{Name: "dropdark", File: "edges.go", Old: "if !m.Capped && (x.Dark || m.Time <= x.Fence) {", New: "if !m.Capped && x.Dark {"},
		{Name: "nodropok", File: "edges.go", Old: "\t\t\tl.MarkGen, l.Told = m.Gen, 0\n", New: ""},
		{Name: "olddropok", File: "edges.go", Old: "l.Mark == RemovedMark && l.Told > 0 && l.Told == m.Number {", New: "l.Mark == RemovedMark && l.Told > 0 {"},
		{Name: "removalsrestart", File: "cut.go", Old: "\tx.Dark = false\n", New: "\tx.Dark = false\n\tx.Removals = 0\n"},
		{Name: "declinemute", File: "edges.go", Old: "\tcase l.Mark == RemovedMark && l.MarkGen == 0:\n\t\ts.tellRemoval(", New: "\tcase false:\n\t\ts.tellRemoval("},
		{Name: "withdrawall", File: "edges.go", Old: "l.Stage != Absent && l.Client == m.Client", New: "l.Stage != Absent"},
		{Name: "withdrawold", File: "edges.go", Old: "l.Client == m.Client && l.Time <= m.Time+2*s.env.Config.SkewMillis {", New: "l.Client == m.Client && l.Time <= m.Time {"},
		{Name: "withdrawagain", File: "graph.go", Old: "\t\ts.withdraw(m)\n", New: "\t\tif m.Again {\n\t\t\ts.withdraw(m)\n\t\t}\n", Test: simulation},
		{Name: "withdrawnot", File: "graph.go", Old: "\t\ts.withdraw(m)\n", New: "\t\tif m.About != (Hash{}) {\n\t\t\ts.withdraw(m)\n\t\t}\n", Test: simulation},
		{Name: "withdrawmore", File: "graph.go", Old: "\t\ts.withdraw(m)\n", New: "\t\ts.withdraw(m)\n\t\tfor i := range s.x.Links {\n\t\t\ts.remove(s.x.Links[i].Peer, m.Time)\n\t\t}\n", Test: simulation},
		{Name: "withdrawlost", File: "lane.go", Old: "\tclear(l.Carry)\n", New: "\tl.inbox = slices.DeleteFunc(l.inbox, func(m Message) bool { return m.Kind == Withdraw })\n\tclear(l.Carry)\n", Test: simulation},
		{Name: "forgotlink", File: "edges.go", Old: "\tr := s.barred(m.About, m.Time)\n\tif r == ReasonNone && s.forgotten(&m.Evidence) {", New: "\tr := s.barred(m.About, m.Time)\n\tif false {"},
		{Name: "forgothalf", File: "edges.go", Old: "\tcase s.forgotten(&m.Evidence):\n\t\tr = ReasonStale\n", New: ""},
		{Name: "forgotstands", File: "edges.go", Old: "case s.forgotten(&m.Evidence) && (pending || established && l.Gen == m.Gen):", New: "case false:"},
		{Name: "forgotpending", File: "edges.go", Old: "(pending || established && l.Gen == m.Gen):", New: "(established && l.Gen == m.Gen):"},
		{Name: "forgottakes", File: "edges.go", Old: "\t\ts.keepMine(l, m, false)\n\t\treturn\n", New: "\t\ts.remove(m.From, m.Time)\n\t\tr, l = ReasonStale, get(x.Links, &m.From)\n", Test: simulation},
		{Name: "forgotgen", File: "edges.go", Old: "(pending || established && l.Gen == m.Gen):", New: "(pending || established):"},
		{Name: "forgotok", File: "edges.go", Old: "if s.forgotten(&theirs) {", New: "if false {"},
		{Name: "notinstead", File: "edges.go", Old: "if m.Again && l.Time == m.Echo && uint64(l.Client) == m.Number {", New: "if false {"},
		{Name: "insteadofnewer", File: "edges.go", Old: "if m.Again && l.Time == m.Echo && uint64(l.Client) == m.Number {", New: "if m.Again {"},
		{Name: "insteadbarred", File: "edges.go", Old: "\tcase r != ReasonNone && l.Stage == Pending:\n", New: "\tcase false:\n"},
		{Name: "insteadforgotten", File: "edges.go", Old: "case s.forgotten(&m.Evidence): // neither", New: "case false: // neither"},
		{Name: "oldokforgotten", File: "edges.go", Old: "if l.Stage == Pending && m.Echo != l.Time {", New: "if false {"},
		{Name: "keepmute", File: "edges.go", Old: "\t\t\ts.keepMine(l, m, true)\n", New: ""},
		{Name: "keepcounts", File: "edges.go", Old: "\tif !m.Capped {\n\t\tl = s.answered(m)", New: "\tif true {\n\t\tl = s.answered(m)"},
		{Name: "oldvoucher", File: "edges.go", Old: "\t\ts.resend = true\n\t}\n}\n\n// takeBack", New: "\t}\n}\n\n// takeBack"},
		{Name: "insteadunasked", File: "edges.go", Old: "\t\tsince = m.Echo\n", New: ""},
		{Name: "removemute", File: "edges.go", Old: "\ts.tellRemoval(s.mark(peer, RemovedMark, 0, t))\n", New: "\ts.mark(peer, RemovedMark, 0, t)\n"},
		// R2, R5: membership
		{Name: "invitegen", File: "members.go", Old: "if x.Dark || m.ToGen != x.Gen || m.From ==", New: "if x.Dark || m.From =="},
		{Name: "invitehearsay", File: "members.go", Old: "return l != nil && l.Gen == r.Gen", New: "return l != nil || r.Gen == r.Gen"},
		{Name: "labelprop", File: "view.go", Old: "if p[i].gone {\n\t\t\ts.drop(", New: "if false {\n\t\t\ts.drop("},
		{Name: "nonudge", File: "members.go", Old: "s.emit(x.Root, Message{Kind: Nudge, About: m.List[via].Peer})", New: ""},
		{Name: "onevia", File: "view.go", Old: "\tm := Message{Kind: Invite, List: make([]Ref, len(ways))}", New: "\tways = ways[:1]\n\tm := Message{Kind: Invite, List: make([]Ref, len(ways))}"},
		{Name: "keepverdict", File: "members.go", Old: "\ts.resend = true\n\ts.askAgain()\n\ts.show(Shown{})\n", New: "\ts.resend = true\n\ts.askAgain()\n"},
		{Name: "noleave", File: "members.go", Old: "\t\ts.emit(x.Root, Message{Kind: Leave, Ver: h.Ver, Gen: x.Gen})\n", New: ""},
		{Name: "keepstray", File: "members.go", Old: "\tif !s.x.leads() {\n\t\ts.emit(m.From, Message{Kind: Verdict, Out: true", New: "\tif s.x.Dark {\n\t\ts.emit(m.From, Message{Kind: Verdict, Out: true"},
		{Name: "noout", File: "members.go", Old: "\t\ts.emit(m.From, Message{Kind: Verdict, Out: true, Number: s.x.Number, Ver: c.Ver, ToGen: c.Gen})\n", New: ""},
		// R3: reachable
		{Name: "nogen", File: "view.go", Old: "if !ok || p[b].copy.Gen != e.Gen {\n\t\t\t\tcontinue\n\t\t\t}\n\t\t\tif f := get(p[b].copy.Edges, &p[a].peer); f != nil && f.Gen == from.Gen {", New: "if !ok {\n\t\t\t\tcontinue\n\t\t\t}\n\t\t\tif f := get(p[b].copy.Edges, &p[a].peer); f != nil {"},
		{Name: "nofarther", File: "view.go", Old: "if !ok || p[b].copy.Gen != e.Gen {", New: "if !ok {"},
		{Name: "noreverse", File: "view.go", Old: "f != nil && f.Gen == from.Gen {", New: "f != nil {"},
		{Name: "invitealways", File: "view.go", Old: "\t\tif !hasHash(x.Invited, out[i].peer) {", New: "\t\tif true {"},
		// R4: releases
		{Name: "nohold", File: "view.go", Old: "\tadd(&x.Holders, x.Root).Ver = x.Ver // before it is sent: a cut must find every copy\n", New: ""},
		{Name: "noverfence", File: "members.go", Old: "if x.Dark || h == nil || m.Ver < h.Ver {", New: "if x.Dark || h == nil {"},
		{Name: "noverdictack", File: "release.go", Old: "\t\tif !x.replaced(o.After) {", New: "\t\tif false {"},
		{Name: "leavefast", File: "members.go", Old: "\ts.owed = append(s.owed, Owed{Peer: m.From, Gen: m.Gen, Ver: m.Ver})\n}", New: "\tif m.Kind == Leave {\n\t\ts.emit(m.From, Message{Kind: Release, Ver: m.Ver, Gen: m.Gen})\n\t\treturn\n\t}\n\ts.owed = append(s.owed, Owed{Peer: m.From, Gen: m.Gen, Ver: m.Ver})\n}"},
		{Name: "eagerack", File: "release.go", Old: "\t\tif len(x.Cuts[i].Retract) > 0 {", New: "\t\tif len(x.Cuts[i].Retract) > 99 {"},
		{Name: "waitnot", File: "release.go", Old: "\t\t\tif x.Holders[i].Acked < w.Ver {", New: "\t\t\tif x.Holders[i].Acked > w.Ver {"},
		{Name: "verreset", File: "cut.go", Old: "\tx.Fence = m.Time + 2*s.env.Config.SkewMillis\n", New: "\tx.Fence = m.Time + 2*s.env.Config.SkewMillis\n\tx.Ver = 0\n"},
		{Name: "oldleave", File: "members.go", Old: "k != nil && k.Copy.Ver <= m.Ver {", New: "k != nil {"},
		// R6: verdicts
		{Name: "noadoptfence", File: "members.go", Old: "\tcase m.Ver >= x.Joined:", New: "\tcase true:"},
		{Name: "unpublished", File: "members.go", Old: "\t\ts.fx.Shown = true\n", New: ""},
		{Name: "anyroot", File: "members.go", Old: "\tcase x.Dark || x.Root != m.From:\n", New: "\tcase x.Dark:\n"},
		{Name: "mute", File: "members.go", Old: "\ts.emit(m.From, Message{Kind: VerdictAck, Number: m.Number})\n", New: "\tif s.x.Root == m.From {\n\t\ts.emit(m.From, Message{Kind: VerdictAck, Number: m.Number})\n\t}\n"},
		{Name: "outstays", File: "members.go", Old: "\tcase m.Out: // a newer copy is on its way there: only stop showing\n\t\ts.show(Shown{})\n", New: "\tcase m.Out:\n"},
		{Name: "samevalue", File: "view.go", Old: "if same && r != nil && !r.Out {", New: "if same && r != nil {"},
		// R7: cuts
		{Name: "earlyack", File: "cut.go", Old: "if taken && len(c.Unlink) == 0 && before && !c.Done {", New: "if !c.Done {"},
		{Name: "onephase", File: "cut.go", Old: "if taken && !c.Telling {", New: "if !c.Telling {"},
		{Name: "dropnowait", File: "cut.go", Old: "taken := len(c.Retract) == 0 && s.x.replaced(c.After)", New: "taken := len(c.Retract) == 0"},
		{Name: "ackorder", File: "cut.go", Old: "len(c.Unlink) == 0 && before && !c.Done", New: "len(c.Unlink) == 0 && !c.Done"},
		{Name: "norepropose", File: "cut.go", Old: "if e.Time > m.Time-2*s.env.Config.SkewMillis {", New: "if false {"},
		{Name: "unlinkgen", File: "cut.go", Old: "l != nil && l.Gen <= m.Gen {\n\t\te :=", New: "l != nil {\n\t\te :="},
		{Name: "dupcut", File: "cut.go", Old: "\t\tif slices.Contains(x.Commands, m.Command) {", New: "\t\tif false {"},
		{Name: "samegen", File: "cut.go", Old: "\t\tx.Gen += 2\n\t\tx.Cuts", New: "\t\tx.Cuts"},
		{Name: "nopurge", File: "cut.go", Old: "\ts.env.Facts.Purge()\n", New: ""},
		{Name: "nomarked", File: "cut.go", Old: "\t\tc.Unlink = append(c.Unlink, x.Links[i].Peer)\n", New: "\t\tif x.Links[i].Stage != Absent {\n\t\t\tc.Unlink = append(c.Unlink, x.Links[i].Peer)\n\t\t}\n"},
		{Name: "nolistwait", File: "cut.go", Old: "return c.Done && !slices.ContainsFunc(c.Also, func(a Also) bool { return !a.Done })", New: "return c.Done"},
		{Name: "listany", File: "cut.go", Old: "if !s.x.Dark && s.x.Gen == m.ToGen {", New: "if !s.x.Dark {"},
		// R9: opt-in
		{Name: "nofence", File: "cut.go", Old: "\tx.Fence = m.Time + 2*s.env.Config.SkewMillis\n", New: ""},
		{Name: "noskew", File: "cut.go", Old: "m.Time + 2*s.env.Config.SkewMillis\n", New: "m.Time\n"},
		{Name: "dupoptin", File: "cut.go", Old: "if !s.x.Dark || m.ToGen != s.x.Gen {", New: "if !s.x.Dark {"},
		{Name: "erasenofence", File: "cut.go", Old: "\t\t\ts.optIn(m)\n\t\t}\n", New: "\t\t\tfence := s.x.Fence\n\t\t\ts.optIn(m)\n\t\t\ts.x.Fence = fence\n\t\t}\n"},
		{Name: "eventfence", File: "graph.go", Old: "m.Kind == Event && m.Evidence.Time <= s.x.Fence", New: "false"},
		// R10: caps
		{Name: "nocapE", File: "edges.go", Old: "case !pending && !established && x.slots() >= s.env.Config.EdgesMax:", New: "case false:"},
		{Name: "nocapK", File: "view.go", Old: "if p[a].size+p[b].size > s.env.Config.MembersMax {", New: "if false {"},
		{Name: "silentcap", File: "edges.go", Old: "\ts.fx.Refused = append(s.fx.Refused, Refusal{s.self, m.About, ReasonUserCap})\n", New: ""},
		{Name: "forgetdrop", File: "edges.go", Old: "\ts.mark(peer, CappedMark, gen, drop.Time).Told = drop.Number\n\ts.forget(peer, drop.Time, drop.Number, true)\n", New: ""},
		{Name: "forgottime", File: "edges.go", Old: "l.Told == m.Number && l.Theirs == m.Out {", New: "l.MarkTime <= m.Time {"},
		{Name: "forgotany", File: "edges.go", Old: "l.Told == m.Number && l.Theirs == m.Out {", New: "l.Told == m.Number {"},
		{Name: "forgotnever", File: "edges.go", Old: "\tif m.Again {\n\t\ts.forget(", New: "\tif false {\n\t\ts.forget("},
		{Name: "oldnumber", File: "edges.go", Old: "\t\tl.Told, l.Theirs = no.Number, false\n", New: ""},
		{Name: "losetheirs", File: "codec.go", Old: "Theirs: kinds>>5&1 == 1}", New: "Theirs: kinds>>5&1 == 3}"},
		{Name: "pendingfree", File: "state.go", Old: "if x.Links[i].Stage != Absent {", New: "if x.Links[i].Stage == Established {"},
		{Name: "nobeyond", File: "view.go", Old: "\t\tbeyond = s.frontier(nil)\n", New: ""},
		{Name: "newestfirst", File: "view.go", Old: "cmp.Compare(v.time, w.time)", New: "cmp.Compare(w.time, v.time)"},
		{Name: "linksfree", File: "edges.go", Old: "case l == nil && len(x.Links) >= s.env.Config.LinksMax:\n\t\ts.refuse(m", New: "case false:\n\t\ts.refuse(m"},
		// decisions
		{Name: "askonce", File: "edges.go", Old: "\t\t\ta.Sent = false // the root may have a copy without it, or of another generation\n", New: ""},
		{Name: "asklost", File: "members.go", Old: "\t\ts.show(Shown{})\n\t\ts.askAgain()\n", New: "\t\ts.show(Shown{})\n"},
		{Name: "undecided", File: "edges.go", Old: "\ts.tidy(l)\n\ts.decide(peer, false, r)\n", New: "\ts.tidy(l)\n\t_, _ = peer, r\n"},
		{Name: "hasty", File: "view.go", Old: "|| len(x.Invited) > 0 {", New: "{"},
		{Name: "answeralone", File: "edges.go", Old: "Command: m.Command, Since: m.Time}", New: "Command: m.Command}"},
		{Name: "agreeany", File: "edges.go", Old: "a.Since > 0 && a.Since <= t {", New: "a.Since > 0 {"},
		{Name: "decideall", File: "edges.go", Old: "return !linked || a.Since == 0 })", New: "return true })"},
		{Name: "untold", File: "edges.go", Old: "\t\tif l := x.edge(m.About); l != nil {\n\t\t\ts.propose(", New: "\t\tif l := x.edge(m.About); false {\n\t\t\ts.propose("},
		{Name: "crossed", File: "edges.go", Old: "if x.waits(m.From) {", New: "if false {"},
		{Name: "askearly", File: "members.go", Old: "!a.Sent && a.Since == 0 && x.edge", New: "!a.Sent && x.edge"},
		{Name: "losesince", File: "codec.go", Old: "\t\ta.Since = proto.Millis(r.uint(math.MaxInt64))\n", New: "\t\t_ = r.uint(math.MaxInt64)\n\t\ta.Since = 1\n"},
		{Name: "forgetpromise", File: "view.go", Old: "\t\ts.x.Promises = append(s.x.Promises, Question{end, other})\n", New: ""},
		{Name: "onepromise", File: "view.go", Old: "\t\t\ts.promise(q.About, q.Peer, false)\n", New: ""},
		{Name: "keeppromise", File: "members.go", Old: "\ts.keepPromises(m.From, c)\n", New: ""},
		// R8: lanes
		{Name: "nodedup", File: "outbox.go", Old: "n <= l.Applied[from] {\n\t\t\tcontinue\n\t\t}\n\t\tl.Applied[from]++", New: "n == 0 {\n\t\t\tcontinue\n\t\t}\n\t\tl.Applied[from] = max(l.Applied[from], lo+uint64(i))"},
		{Name: "gap", File: "outbox.go", Old: "if lo > l.Applied[from]+1 {", New: "if false {"},
		{Name: "packredo", File: "outbox.go", Old: "n <= l.Applied[from] {", New: "lo+uint64(len(pack))-1 <= l.Applied[from] && n <= l.Applied[from] {"},
		{Name: "novector", File: "outbox.go", Old: "\t\t\tl.Vector[k] = max(l.Vector[k], v)\n", New: "\t\t\t_, _ = k, v\n"},
		{Name: "nosort", File: "lane.go", Old: "return cmp.Or(compareHash(p.From, q.From), cmp.Compare(a.index, b.index))", New: "return cmp.Compare(uint32(a.index)*2654435761, uint32(b.index)*2654435761)"},
		{Name: "sendersreverse", File: "lane.go", Old: "return cmp.Or(compareHash(p.From, q.From), cmp.Compare(a.index, b.index))", New: "return cmp.Or(compareHash(p.From, q.From), cmp.Compare(b.index, a.index))"},
		{Name: "nocarry", File: "lane.go", Old: "\t\t\tl.Carry = append(l.Carry, l.inbox...)\n", New: ""},
		{Name: "partvector", File: "lane.go", Old: "c.Batches = append(c.Batches, Batch{Vector: slices.Clone(l.Vector)})", New: "v := make([]proto.Offset, len(l.Vector))\n\t\tif o.place != 0 {\n\t\t\tv = slices.Clone(l.Vector)\n\t\t}\n\t\tc.Batches = append(c.Batches, Batch{Vector: v})"},
		{Name: "trimmore", File: "outbox.go", Old: "n := min(applied-c.Base, uint64(len(c.Batches)))", New: "n := min(applied-c.Base+1, uint64(len(c.Batches)))"},
		// rows
		{Name: "nolinkrow", File: "edges.go", Old: "\tl.Evidence = e\n\ts.x.copied = nil\n\ts.fx.touched(l.Peer)\n", New: "\tl.Evidence = e\n\ts.x.copied = nil\n"},
		{Name: "nocopyrow", File: "members.go", Old: "\ts.fx.copied(m.From)\n", New: ""},
		{Name: "nonoderow", File: "members.go", Old: "\t\t\th.Acked = m.Ver\n\t\t\ts.changed()\n", New: "\t\t\th.Acked = m.Ver\n"},
		{Name: "stalecopy", File: "edges.go", Old: "\tl.Evidence = e\n\ts.x.copied = nil\n", New: "\tl.Evidence = e\n"},
		{Name: "losecarry", File: "wire.go", Old: "if b = appendMessages(b, carry); rows > 0 {", New: "if b = appendMessages(b, nil); rows > 0 {"},
		{Name: "losefence", File: "codec.go", Old: "b = proto.AppendVarint(b, int64(x.Fence))", New: "b = proto.AppendVarint(b, 0)"},
		{Name: "losewait", File: "wire.go", Old: "b = binary.AppendUvarint(b, a)\n\t}\n\tfor i := range l.Outbox", New: "b = binary.AppendUvarint(b, 0*a)\n\t}\n\tfor i := range l.Outbox"},
		// the world: what the engine must do with this room
		{Name: "trimsent", File: "simworld_test.go", Old: "trim[d] = m.served[d].lane.Applied[l]", New: "trim[d] = r.cursor[d]"},
		{Name: "anybatch", File: "simworld_test.go", Old: "\t\tr.apply(e)\n", New: "\t\tif l := w.logs[l]; e.kind == outsideEntry && r.pos+1 < len(l.entries) && l.entries[r.pos+1].kind == outsideEntry && w.rng.IntN(2) == 0 {\n\t\t\tboth := &entry{kind: outsideEntry, messages: append(slices.Clone(e.messages), l.entries[r.pos+1].messages...)}\n\t\t\tr.apply(both)\n\t\t\tr.pos++\n\t\t\tcontinue\n\t\t}\n\t\tr.apply(e)\n"},
		{Name: "gaprestore", File: "simworld_test.go", Old: "r.replica.restore(log.snapshots[w.rng.IntN(len(log.snapshots))])", New: "m := *log.snapshots[w.rng.IntN(len(log.snapshots))]\n\t\tif n := len(log.retired); n > 0 {\n\t\t\tm = *log.retired[w.rng.IntN(n)]\n\t\t\tm.pos = max(m.pos, log.base)\n\t\t}\n\t\tr.replica.restore(&m)"},
		{Name: "snaplast", File: "simreplica_test.go", Old: "r.lane, r.rows, r.beats, r.pos = l,", New: "clear(l.Applied)\n\tr.lane, r.rows, r.beats, r.pos = l,"},
		{Name: "earlyserve", File: "simworld_test.go", Old: "\tr.leaseTo = 0\n\tr.sent", New: "\tr.leaseTo = w.local(m) + simLease\n\tr.sent"},
		{Name: "acknow", File: "simworld_test.go", Old: "if b.done || p.vector[l] == 0 {", New: "if true {"},
		{Name: "ackhome", File: "simworld_test.go", Old: "if b.done || p.vector[l] == 0 {", New: "if b.done || p.vector[l] == 0 || l != w.lane(p.i) {"},
		{Name: "leaseapply", File: "simworld_test.go", Old: "r.leaseTo = max(r.leaseTo, at+simLease)", New: "r.leaseTo = max(r.leaseTo, w.local(m)+simLease+0*at)"},
		{Name: "oldbeat", File: "simworld_test.go", Old: "if at, ok := r.sent[e.number]; ok && e.inc == m.inc {\n\t\tr.leaseTo = max(r.leaseTo, at+simLease)", New: "if true {\n\t\tr.leaseTo = max(r.leaseTo, w.local(m)+simLease)"},
		{Name: "nodrift", File: "simworld_test.go", Old: "wait := simLease*(1000+simDrift)/(1000-simDrift) + 2", New: "wait := simLease"},
		{Name: "suspend", File: "simworld_test.go", Old: "\t\tw.now += w.rng.IntN(150)\n", New: "\t\td := w.rng.IntN(150)\n\t\tw.now += d\n\t\tfor _, m := range w.machines {\n\t\t\tif m.paused {\n\t\t\t\tm.slept += d\n\t\t\t}\n\t\t}\n"},
	}
	return &mistakes.Gate{
		Module: "..", Files: "graph", Pkg: "graph", Mistakes: list,
		Runs: [][]string{
			{"-test.skip=TestSimulation|TestMistakes"},
			{"-test.run=TestSimulation", "-seeds=" + strconv.Itoa(*mistakeSeedsFlag), "-failures=1"},
		},
	}
}
