package sim

import (
	"flag"
	"strconv"
	"testing"

	"kith/internal/mistakes"
)

var (
	mistakesFlag     = flag.String("mistakes", "", "plant these mistakes (names with commas, or all) and see that tests fail")
	mistakeSeedsFlag = flag.Int("mistake-seeds", 1200, "seeds of the simulation that look for each mistake")
)

// TestMistakes is the gate: each mistake must make the simulation or a test
// fail. It builds the tests anew for each, so it runs on request:
// go test ./engine/sim -run TestMistakes -mistakes all
func TestMistakes(t *testing.T) {
	if *mistakesFlag == "" {
		t.Skip("builds the tests once for each mistake; use -mistakes all")
	}
	gate().Run(t, *mistakesFlag)
}

func TestMistakesFit(t *testing.T) { gate().Fit(t) }

func gate() *mistakes.Gate {
	list := []mistakes.Mistake{
		// what a commit holds
		{Name: "nojournal", File: "engine/build.go", Old: "\t\tw.set(journalKey(id, b.journal, b.parts), value)\n", New: ""},
		{Name: "nochunk", File: "engine/commit.go", Old: "\t\t\t\tw.set(key, c.Data)\n", New: ""},
		{Name: "noexits", File: "engine/build.go", Old: "\t\tw.set(exitRowKey(id, h, b.journal, i), values[i])\n", New: "\t\t_, _ = h, values[i]\n"},
		{Name: "nonotice", File: "engine/build.go", Old: "\t\tw.set(noticeKey(id, x.at, x.number), x.append(nil))\n", New: "\t\t_ = x\n"},
		{Name: "nooutbox", File: "engine/build.go", Old: "\t\tw.set(outboxKey(id, x.to, x.number), x.data)\n", New: "\t\t_ = x\n"},
		{Name: "nodark", File: "engine/build.go", Old: "\t\tw.put(darkKey(o.Darks[i].Node), o.Darks[i].Value)\n", New: "\t\t_ = i\n"},
		{Name: "nocopy", File: "engine/build.go", Old: "\t\tw.put(copyKey(o.Copies[i].Node, o.Copies[i].Member), o.Copies[i].Value)\n", New: "\t\t_ = i\n"},
		{Name: "nooptout", File: "engine/build.go", Old: "\t\tw.put(optOutKey(o.OptOuts[i].Hash), o.OptOuts[i].Value)\n", New: "\t\t_ = i\n"},
		{Name: "keepname", File: "engine/build.go", Old: "\t\tw.delete(ordinalKey(b.lane.id, ordinal))\n", New: "\t\t_ = ordinal\n"},
		{Name: "nospaces", File: "engine/graph.go", Old: "\tb.puts = append(b.puts, put{spacesKey(l.id), v})\n", New: "\t_ = v\n"},
		{Name: "dropsent", File: "engine/outbox.go", Old: "for n := b.gone + 1; n <= b.base; n++ {", New: "for n := b.gone + 1; n <= b.base+uint64(len(b.batches)); n++ {"},
		{Name: "droptold", File: "engine/ledger.go", Old: "l.noticed[n].at <= mark {", New: "l.noticed[n].at <= mark+1<<40 {"},
		{Name: "dropexits", File: "engine/commit.go", Old: "\tl.dropped = hour - 2\n", New: "\tl.dropped = hour + 1\n"},
		{Name: "nonetworks", File: "actors/resident.go", Old: "\th.storeNetworks(r)\n", New: ""},
		{Name: "networkstays", File: "engine/build.go", Old: "\t\t\tw.delete(key)\n", New: "\t\t\t_ = key\n"},
		// what a start reads
		{Name: "networksunknown", File: "actors/resident.go", Old: "\tr.networks = r.seenOn(nil)\n", New: ""},
		{Name: "networkforever", File: "actors/identity/network.go", Old: "\t\tend = sooner(end, f.Networks[i].end())\n", New: "\t\t_ = i\n", Test: "engine TestHouseholdEnds"},
		{Name: "crowdhome", File: "engine/household.go", Old: "len(all) > x.rule.IdentitiesMax {", New: "false {", Test: "engine TestHouseholdCrowd"},
		{Name: "statforever", File: "actors/command.go", Old: "\tt.in.End, _ = proto.Rotates(id)\n", New: "", Test: "engine TestRotatingEnds"},
		{Name: "losecarry", File: "engine/graph.go", Old: "\tl.graph.Vector[l.id] = max(l.graph.Vector[l.id], proto.Offset(l.record.Offset))\n\t_, err = snap", New: "\tl.graph.Carry = nil\n\tl.graph.Vector[l.id] = max(l.graph.Vector[l.id], proto.Offset(l.record.Offset))\n\t_, err = snap"},
		{Name: "overdue", File: "engine/exits.go", Old: "\t\tstart = prefix\n", New: "\t\tstart = exitKey(x.lane, hourOf(at), 0)\n"},
		{Name: "nofills", File: "engine/fill.go", Old: "\t\tf, err := decodeFill(k, v)\n", New: "\t\tf, err := decodeFill(k, v)\n\t\tf.done = true\n"},
		{Name: "untold", File: "engine/ledger.go", Old: "\tl.node.ledger.add(l.id, list)\n", New: ""},
		{Name: "newatstart", File: "engine/users.go", Old: "\t\t\t\tstored.Add(key.node.Hash)\n", New: ""},
		{Name: "newagain", File: "actors/resident.go", Old: "\t\th.stored.Add(r.node.Hash)\n", New: ""},
		{Name: "aloneatstart", File: "engine/users.go", Old: "if s.Named && s.Follows && !x.fresh[s.Ordinal] {", New: "if false {"},
		{Name: "endsearly", File: "engine/clienterase.go", Old: "\t_, err := n.handedOver(ctx)\n\treturn err\n", New: "\treturn nil\n"},
		{Name: "endedfacts", File: "actors/client.go", Old: "\t\tif !h.gone(t.in.Client) {\n", New: "\t\tif true {\n"},
		{Name: "endedlinks", File: "actors/client.go", Old: "\t\tif !h.gone(t.link.Client) {\n", New: "\t\tif true {\n"},
		{Name: "endvouches", File: "actors/client.go", Old: "\tif r.state.Graph != nil || h.linkedIn(r, func(c proto.ClientID) bool { return c == client }) {\n\t\th.tell(r.node, graph.Message{Kind: graph.Withdraw,", New: "\tif false {\n\t\th.tell(r.node, graph.Message{Kind: graph.Withdraw,"},
		{Name: "endtakesall", File: "actors/optout.go", Old: "\t\tif r.state.Facts[i].Client != c {\n\t\t\treturn false\n\t\t}\n", New: "\t\tif r.state.Facts[i].Client != c {\n\t\t\tcontinue\n\t\t}\n"},
		{Name: "keepsold", File: "actors/retention.go", Old: "f.Older(now-keep) && h.fault == nil", New: "false"},
		{Name: "expiresyoung", File: "actors/retention.go", Old: "Client: f.Client, At: now - keep})", New: "Client: f.Client, At: now - keep/4})"},
		{Name: "idleyoung", File: "actors/retention.go", Old: "r.state.Idle(now-idle) {", New: "r.state.Idle(now-idle/4) {"},
		{Name: "idleunknown", File: "actors/identity/retention.go", Old: "return last > 0 && last < t", New: "return last < t", Test: "actors/identity TestIdle"},
		{Name: "trimremembers", File: "actors/identity/retention.go", Old: "\t\tp.refill(s, f, in, now, fx)\n", New: ""},
		{Name: "trimblocks", File: "actors/identity/retention.go", Old: "\tf.dropBlocks(fx)\n", New: ""},
		{Name: "clampshort", File: "engine/lane.go", Old: "const clampMs = 15 * 1000", New: "const clampMs = 2 * 1000", Test: "engine/sim TestOrder"},
		{Name: "lateagain", File: "engine/restored.go", Old: "for received := min(e.time, now); have < e.gen; {", New: "for received := min(e.time, now); have > e.gen; {"},
		{Name: "latefirst", File: "engine/restored.go", Old: "have += 1 + have&1", New: "have = e.gen"},
		// what is published
		{Name: "nousers", File: "engine/commit.go", Old: "\t\tl.users.apply(o.Users)\n", New: ""},
		{Name: "staleview", File: "engine/commit.go", Old: "\t\t\tl.node.views.publish(o.Views[i].Node, o.Views[i].View)\n", New: "\t\t\t_ = i\n"},
		{Name: "forgetview", File: "engine/commit.go", Old: "\t\t\tl.node.views.forget(o.Turned[i].Hash)\n", New: "\t\t\t_ = i\n"},
		{Name: "oldfill", File: "engine/views.go", Old: "\ts := v.shard(proto.Node{Hash: h})\n\ts.mu.Lock()\n\tdefer s.mu.Unlock()\n\ts.version++\n", New: "\ts := v.shard(proto.Node{Hash: h})\n\ts.mu.Lock()\n\tdefer s.mu.Unlock()\n", Test: "engine TestViews"},
		{Name: "nobits", File: "engine/commit.go", Old: "\tl.bitmaps.Apply(b.bits)\n", New: ""},
		{Name: "keepletters", File: "engine/deadletter.go", Old: "if client == 0 || l.letters.clients[id] == client {", New: "if client != 0 && l.letters.clients[id] == client {", Test: "engine/sim TestLettersGo"},
		{Name: "letternames", File: "engine/deadletter.go", Old: "dead.Body = namingOnly(", New: "_ = namingOnly(", Test: "engine/sim TestLettersGoOverLanes"},
		{Name: "forgottenletters", File: "engine/deadletter.go", Old: "range o.Forgotten {", New: "range o.Forgotten[:0] {", Test: "engine TestLettersOfForgotten"},
		// lanes
		{Name: "gap", File: "graph/outbox.go", Old: "if lo > l.Applied[from]+1 {\n\t\treturn nil\n\t}\n\tvar in []Message\n", New: "if lo > l.Applied[from]+1 {\n\t\tl.Applied[from] = lo - 1\n\t}\n\tvar in []Message\n"},
		{Name: "twice", File: "graph/outbox.go", Old: "n <= l.Applied[from] {\n\t\t\tcontinue\n\t\t}\n\t\tl.Applied[from]++\n", New: "n > l.Applied[from] {\n\t\t\tl.Applied[from]++\n\t\t}\n"},
		{Name: "earlytrim", File: "engine/graph.go", Old: "\tb.taken = slices.Clone(l.graph.Applied)\n", New: "\tb.taken = slices.Clone(l.graph.Applied)\n\tfor i := range b.taken {\n\t\tb.taken[i] += 2\n\t}\n"},
		{Name: "controlagain", File: "engine/lanecommand.go", Old: "if x.Seq != l.record.Control+1 {", New: "if x.Seq > l.record.Control+1 {"},
		// opt-outs
		{Name: "newspace", File: "actors/resident.go", Old: "\t\tr.meet(o)\n", New: ""},
		{Name: "newspacenow", File: "actors/optout.go", Old: "\t\t\tr.meet(&o.OptOut)\n", New: ""},
		{Name: "nofence", File: "actors/command.go", Old: "if !h.admits(t) || t.vain()", New: "if t.r.state.Dark() || t.vain()"},
		{Name: "nodarkevent", File: "actors/command.go", Old: "if !h.admits(t) || t.vain()", New: "if t.vain()"},
		{Name: "onespace", File: "actors/optout.go", Old: "\t\tif r.exists() {\n\t\t\tlist = append(list, r)\n", New: "\t\tif r.exists() && len(list) == 0 {\n\t\t\tlist = append(list, r)\n"},
		{Name: "batchend", File: "actors/host.go", Old: "\tr.transient = r.transient && !fx.Changed\n", New: ""},
		{Name: "donenotheld", File: "actors/optout.go", Old: "if len(o.Held) > 0 && !h.underWay(o, r.node.Hash) {", New: "if len(o.Held) > 0 {", Test: "engine/sim TestCutEverywhere"},
		{Name: "doneheldlong", File: "actors/optout.go", Old: "if len(o.Held) > 0 && !h.underWay(o, r.node.Hash) {", New: "if len(o.Held) > 0 && o.Open() == 0 {"},
		{Name: "quietcounts", File: "actors/identity/optout.go", Old: "\tif r.Quiet {", New: "\tif false {", Test: "actors"},
		{Name: "restunasked", File: "actors/identity/optout.go", Old: "if len(c.Pending)+len(c.Rest) > 0 {", New: "if len(c.Pending) > 0 {", Test: "engine/sim TestCutEverywhere"},
		{Name: "forgottentold", File: "engine/ledger.go", Old: "if forgotten(taken) {", New: "if false {"},
		{Name: "restbyanyone", File: "graph/cut.go", Old: "c.Parent, c.Rest = Ref{}, nil", New: "c.Parent = Ref{}", Test: "graph TestRestIsHandedUp"},
		{Name: "restnotnamed", File: "actors/optout.go", Old: "\tif o.Waiting() {\n", New: "\tif false {\n", Test: "engine/sim TestCutEverywhere"},
		{Name: "restlost", File: "actors/optout.go", Old: "\th.cutLater(o, hash) // after m", New: "\to.TakeLater() // after m", Test: "engine/sim TestCutEverywhere"},
		{Name: "receiptorder", File: "graph/cut.go", Old: "if c.final() && len(kept) == 0 {", New: "if c.final() {", Test: "graph TestReceiptsComeInTheOrderOfCuts"},
		{Name: "samegen", File: "actors/identity/optout.go", Old: "case c.Kind == proto.CutOptOut && o.Dark(), c.Kind == proto.CutErase:\n\t\to.Gen += 2\n", New: "case c.Kind == proto.CutOptOut && o.Dark():\n\tcase c.Kind == proto.CutErase:\n\t\to.Gen += 2\n"},
		{Name: "anygen", File: "actors/optout.go", Old: "!o.Dark() || o.Gen != x.Gen {", New: "!o.Dark() {"},
		{Name: "liftnofence", File: "actors/identity/optout.go", Old: "\to.Fence, o.Since = fence, now\n", New: "\to.Since = now\n"},
		{Name: "lostunlink", File: "actors/users.go", Old: "t.r.state.Graph != nil || m.Kind == graph.Remove {", New: "t.r.state.Graph != nil {"},
		{Name: "forgotlinks", File: "actors/users.go", Old: "h.fences = o.Fences(", New: "_ = o.Fences("},
		{Name: "fencelost", File: "actors/identity/optout.go", Old: "} else if keep && fences < fencesKept {", New: "} else if false {", Test: "actors"},
		{Name: "onecut", File: "actors/identity/optout.go", Old: "\t\tif len(c.Pending)+len(c.Rest) > 0 {\n\t\t\treturn nil\n\t\t}\n\t\tc.Final", New: "\t\tc.Final"},
		// clients that end, and data that grow old
		{Name: "endedtaken", File: "actors/command.go", Old: "\tif h.ended(t) {\n", New: "\tif false && h.ended(t) {\n", Test: "engine TestEraseClient"},
		{Name: "knownbynothing", File: "actors/command.go", Old: "\tcase t.r.state.Client(t.in.Client) != nil:\n", New: "\tcase true:\n", Test: "actors TestRemovedTraits"},
		{Name: "stepgap", File: "engine/clienterase.go", Old: "was.first() != x.First", New: "false", Test: "engine TestForgetOutOfOrder"},
		{Name: "clientletters", File: "engine/deadletter.go", Old: "\t\tif of == client {\n\t\t\tl.dropLetter(b, id)\n\t\t}\n", New: "\t\t_, _ = id, of\n", Test: "engine TestEraseClientDeadLetters"},
		{Name: "policylost", File: "engine/lanecommand.go", Old: "\tif r := c.GetRetain(); r != nil {\n", New: "\tif r := c.GetRetain(); false {\n", Test: "engine TestReplayWithRestarts"},
		{Name: "norefill", File: "actors/identity/retention.go", Old: "p.eval.Refill(", New: "p.eval.Update(", Test: "engine TestReplay"},
		{Name: "trimmute", File: "actors/retention.go", Old: "\th.refresh(r)\n", New: "", Test: "engine TestRetentionOfSessions"},
		{Name: "toldafter", File: "engine/clientexport.go", Old: "\tx.taken = x.to.taken\n\ts, err := x.node.state(e.node)\n", New: "\treturn true, nil\n\ts, err := x.node.state(e.node)\n", Test: "engine TestExportClientDuringALongHistory"},
		// versions that wait
		{Name: "swapearly", File: "engine/swap.go", Old: "\tfor _, l := range n.lanes {\n\t\tif !l.progress.allFilled(keys, after) {\n", New: "\tfor _, l := range n.lanes[:1] {\n\t\tif !l.progress.allFilled(keys, after) {\n"},
		{Name: "swapkeepsold", File: "engine/rules.go", Old: "\tch := rulesChange{client: client, dropped: r.drop(old.Key), swapped: key}\n", New: "\t_, ch := r.drop(old.Key), rulesChange{client: client, swapped: key}\n"},
		{Name: "swapalone", File: "engine/fill.go", Old: "\tfor _, k := range ch.refers {\n\t\tagain.key = k\n\t\tl.setFill(b, again)\n\t}\n", New: "\t_ = again\n", Test: "engine TestSwapIsTheLogs"},
		{Name: "swapunjudged", File: "segments/update.go", Old: "p.swapped[i].since > was", New: "p.swapped[i].since > was+1<<20", Test: "engine TestEditAnswersOnceFilled"},
		{Name: "waitingshown", File: "engine/registry.go", Old: "if v.users[key] = g.UserScope(key); !g.Waits(key) {", New: "if v.users[key] = g.UserScope(key); true {", Test: "engine TestEditAnswersOnceFilled"},
		{Name: "swaplost", File: "engine/openlane.go", Old: "\tif err := l.rules.restore(records, swapped); err != nil {\n", New: "\tif err := l.rules.restore(records, nil); err != nil {\n", Test: "engine TestSwapIsTheLogs"},
		{Name: "fillanew", File: "engine/fill.go", Old: "x.First != f.first()", New: "false", Test: "engine TestSwapIsTheLogs"},
		// totals and reports
		{Name: "linkagain", File: "actors/host.go", Old: "if !h.fx.Duplicate {", New: "if true {", Test: "actors TestRepeatLinksNobody"},
		{Name: "tallyagain", File: "actors/tally.go", Old: "\tif h.fx.Duplicate {\n\t\treturn\n\t}\n", New: "", Test: "engine TestAggregates"},
		{Name: "keeptotals", File: "engine/clienterase.go", Old: "\t\terr = l.forgetTotals(b, x.Client)\n", New: "", Test: "engine TestEraseClient"},
		{Name: "tallytwice", File: "engine/aggregates.go", Old: "\t\tb.deletes = append(b.deletes, tallyKey(l.id, n))\n", New: "\t\t_ = n\n", Test: "engine TestAggregatesAreTheLogs"},
		{Name: "lastname", File: "engine/aggregates.go", Old: "cmp.Compare(x.Entry, y.Entry), ", New: "", Test: "engine TestAggregatesAreTheLogs"},
		{Name: "subtract", File: "engine/campaigntell.go", Old: "\t\tc.shown[least] = false\n", New: "", Test: "engine TestCampaignSubtraction"},
		{Name: "nottakenback", File: "engine/campaign.go", Old: "\treturn c.takeBack(ctx)\n", New: "\treturn nil\n", Test: "engine TestCampaignReportDuringOptOut"},
		// a node's facts
		{Name: "exitsurvives", File: "actors/identity/user.go", Old: "*s = State{Graph: s.Graph, Ordinal: s.Ordinal}", New: "*s = State{Graph: s.Graph, Ordinal: s.Ordinal, Exit: s.Exit}"},
		{Name: "keepdevice", File: "actors/identity/user.go", Old: "*s = State{Graph: s.Graph, Ordinal: s.Ordinal}", New: "*s = State{Graph: s.Graph, Ordinal: s.Ordinal, Device: s.Device, Named: s.Named}"},
		{Name: "keepbits", File: "actors/identity/user.go", Old: "\tturn(bits, nil, fx)\n", New: ""},
		{Name: "ownbits", File: "actors/identity/identity.go", Old: "\t\tif !s.Follows || !g.UserScope(k) {\n", New: "\t\tif !s.Follows || !g.UserScope(k) || true {\n"},
		{Name: "undefined", File: "actors/identity/user.go", Old: "\t\t\tnext[i].Members = p.known(next[i].Client, next[i].Members)\n", New: "\t\t\t_ = i\n", Test: "actors/identity"},
		{Name: "since", File: "actors/identity/user.go", Old: "\t\t\t\tm.Since = old.Since\n", New: "", Test: "actors/identity"},
		{Name: "flipmute", File: "actors/identity/identity.go", Old: "\tp.flip(s, now, fx)\n\tfx.Due = true\n", New: "\tp.flip(s, now, fx)\n", Test: "actors/identity"},
		{Name: "flipbits", File: "actors/identity/user.go", Old: "\t\t\tfx.Bits = append(fx.Bits, Bit{Client: u.Client, Key: m.Key, Set: m.In})\n", New: ""},
		{Name: "keepblocks", File: "actors/identity/identity.go", Old: "\tf.dropBlocks(fx)\n\ts.Facts = slices.Delete", New: "\ts.Facts = slices.Delete"},
		{Name: "purgeblocks", File: "actors/identity/user.go", Old: "\t\tf.dropBlocks(fx)\n", New: ""},
		{Name: "userexit", File: "actors/identity/identity.go", Old: "\tnext = sooner(next, nextOf(s.User))\n", New: ""},
		{Name: "noupdateshow", File: "actors/identity/identity.go", Old: "\t\tp.show(s, now, fx) // some of what its user was in may be no more\n", New: "", Test: "actors/identity"},
		{Name: "sharedmute", File: "actors/identity/identity.go", Old: "\tfx.Shared = fx.Shared || p.delta.Shared\n", New: ""},
		{Name: "lostexit", File: "engine/lanecommand.go", Old: "\tl.exits.popped = actors.Exit{} // a node may ask again for a time at which it was looked at before\n", New: ""},
		{Name: "numberless", File: "actors/identity/user.go", Old: "\tif !s.Named { // a bit needs a number: name sets them\n\t\treturn bits\n\t}\n", New: "", Test: "actors/identity"},
		{Name: "reuse", File: "actors/host.go", Old: "\t\th.next++\n", New: "\t\th.next += 1 - uint32(len(h.out.Unnamed)&1)\n"},
	}
	return &mistakes.Gate{
		Module: "../..", Pkg: "engine/sim", Mistakes: list,
		Runs: [][]string{
			{"-test.run=TestSimulation", "-seeds=" + strconv.Itoa(*mistakeSeedsFlag), "-failures=1"},
			{"-test.skip=TestSimulation|TestMistakes"},
		},
	}
}
