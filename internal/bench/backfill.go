package bench

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"kith/internal/config"
	"kith/proto"
)

// The load beside a backfill.
const (
	archiveBrowsers = 500_000
	archiveEach     = 20
	fillBackground  = 20_000 // events a second
	fillLooks       = 1_000  // look-ups a second, due at even times; with 5,000 two cores are full without a fill
	fillLookConns   = 32
	fillColdShare   = 10 // of so many look-ups one is of anybody, the others of who is about
	fillTell        = 10 * time.Second
	fillPoll        = 50 * time.Millisecond
	fillKillAt      = 0.4 // of the first segment
	fillWithout     = 20  // samples long it is looked without a fill: the store compacts every half minute
)

// steady is a rate, a quarter of it for a quick run.
func (s *session) steady(rate int) int {
	if s.Quick {
		return rate / 4
	}
	return rate
}

// fillRules are the segments of a round, of which the first is asked how far it
// is. Windows are whole days: see archive.
func fillRules(round int) []rule {
	s := func(i int) string { return fmt.Sprintf("s%02d", (round*3+i)%sections) }
	rules := []rule{
		{id: "count", when: fmt.Sprintf(`count(event.section == %q, "10d") >= 2`, s(0))},
		{id: "sum", when: fmt.Sprintf(`sum(event.price, event.name == "order", "20d") >= %d`, 100+round)},
		{id: "pair", when: fmt.Sprintf(`sequence(event.name == "cart" && event.price > %d, event.name == "order", "1d", "14d")`, 10+round)},
		{id: "count-user", when: fmt.Sprintf(`count(event.section == %q, "12d") >= 3`, s(1)), scope: "user"},
		{id: "sum-user", when: fmt.Sprintf(`sum(event.price, event.name == "order" && event.section != %q, "20d") >= 150`, s(2)), scope: "user"},
		{id: "pair-user", when: fmt.Sprintf(`sequence(event.name == "cart" && event.section in [%q, %q], event.name == "order", "1d")`, s(1), s(2)), scope: "user"},
	}
	for i := range rules {
		rules[i].id = fmt.Sprintf("r%d-%s", round, rules[i].id)
		rules[i].backfill = true
	}
	return rules
}

// fillAsker looks single identities of an archive up.
type fillAsker struct {
	a       *archive
	r       *rand.Rand
	request []byte
	digits  []byte // of request
	n       int
}

func newFillAsker(a *archive, seed uint64) *fillAsker {
	f := &fillAsker{a: a, r: rand.New(rand.NewPCG(seed, 19)), request: getRequest("/v1/identities/" + string(personIdentity('b', 0)) + "/segments")}
	at := bytes.Index(f.request, []byte(browserModel[:len(browserModel)-8])) + len(browserModel) - 8
	f.digits = f.request[at : at+8]
	return f
}

func (f *fillAsker) next() []byte {
	v := f.r.Uint32N(f.a.browsers)
	if f.r.IntN(fillColdShare) > 0 {
		count, apart := f.a.audience()
		v = f.r.Uint32N(count) * apart
	}
	putDigits(f.digits, v)
	return f.request
}

func (f *fillAsker) done(answer []byte) (int, error) {
	if f.n++; f.n%checkEvery == 0 && (!bytes.Contains(answer, f.digits) || !bytes.Contains(answer, []byte(`"known":true`))) {
		return 0, proto.Errorf(proto.CodeInvalid, "a look-up of %s was answered with %s", f.digits, answer)
	}
	return 1, nil
}

// filling is a measurement of backfills under way.
type filling struct {
	*node
	s      *session
	a      *archive
	live   []worker
	lives  []*present
	rules  []rule                   // of all rounds so far
	midway struct{ at, on float64 } // shares: when it was killed, when it was back
	down   time.Duration
	loads  []string // load averages after each round
}

// backfill is look-ups and live events while new segments go through a stored
// history, and whether the result is what the rules say of all that happened.
func (s *session) backfill(ctx context.Context) (_ []Result, err error) {
	a := &archive{browsers: uint32(s.population(archiveBrowsers)), each: archiveEach, present: time.Now()}
	n, err := s.node(ctx, 0, hundred())
	if err != nil {
		return nil, err
	}
	f := &filling{node: n, s: s, a: a}
	defer func() { closing(f, &err) }()
	took, err := f.tell(ctx)
	if err != nil {
		return nil, err
	}
	for i := range backgroundConns {
		p := newPresent(a, i, backgroundConns)
		f.lives = append(f.lives, p)
		f.live = append(f.live, newTale(s.steady(fillBackground)/backgroundPosts, p))
	}
	var quiet, busy samples
	for round := range s.Rounds {
		s.say("round %d of %d", round+1, s.Rounds)
		f.rest(ctx)
		x, err := f.without(ctx)
		if err != nil {
			return nil, err
		}
		quiet = append(quiet, x)
		if x, err = f.during(ctx, round); err != nil {
			return nil, err
		}
		busy = append(busy, x)
		f.s.say("look-ups' p99 without: %.4g ms, during: %.4g ms", quiet[round].latencies.quantile(0.99), x.latencies.quantile(0.99))
		f.loads = append(f.loads, loadAverage())
	}
	compared, err := f.compare(ctx)
	if err != nil {
		return nil, err
	}
	return f.report(quiet, busy, took, compared), nil
}

func (f *filling) close() error { return f.node.close() }

// tell loads the archive.
func (f *filling) tell(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	f.s.say("linking %d browsers with %d accounts", f.a.accounts()*userSize, f.a.accounts())
	var first, rest []worker
	for i := range uint32(ingestConns) {
		first = append(first, newTale(postEvents, &logins{f.a, i, ingestConns}))
		rest = append(rest, newTale(postEvents, &told{a: f.a, first: i, step: ingestConns}))
	}
	if err := f.finish(ctx, first); err != nil {
		return 0, err
	}
	f.s.say("loading %d events of %d browsers", f.a.browsers*f.a.each, f.a.browsers)
	err := f.finish(ctx, rest)
	return time.Since(start), err
}

// around runs the live events, and look-ups, until they are stopped.
func (f *filling) around(ctx context.Context) (stopLooks, stopEvents func() (sample, error)) {
	events := httpLoad(f.service, f.live)
	events.every = time.Second / backgroundPosts
	askers := make([]worker, fillLookConns)
	for i := range askers {
		askers[i] = newFillAsker(f.a, rand.Uint64())
	}
	looks := httpLoad(f.service, askers)
	looks.every = time.Second / time.Duration(f.s.steady(fillLooks))
	events.pulse, looks.pulse = new(pulse), new(pulse)
	stopEvents = events.behind(ctx)
	pause(ctx, min(f.s.Time, time.Second)) // until it runs evenly
	stop := looks.behind(ctx)
	telling, cancel := context.WithCancel(ctx)
	go f.tellPulse(telling, looks.pulse, events.pulse)
	return func() (sample, error) {
		cancel()
		return stop()
	}, stopEvents
}

// tellPulse says what goes on, so that a standstill can be told from slowness.
func (f *filling) tellPulse(ctx context.Context, looks, events *pulse) {
	for n, last := f.node, time.Now(); ; {
		before, own := n.usage().cpu, ownCPU()
		if pause(ctx, fillTell); ctx.Err() != nil {
			return
		}
		took := time.Since(last).Seconds()
		last = time.Now()
		x, y := looks.take(), events.take()
		f.s.say("look-ups %.0f/s, p50 %.3g, p99 %.4g, at most %.4g ms; events %.0f/s, acknowledged p50 %.3g, at most %.4g ms; processor %.2f, load %.2f",
			float64(x.units)/took, x.latencies.quantile(0.5), x.latencies.quantile(0.99), x.latencies.quantile(1),
			float64(y.units)/took, y.latencies.quantile(0.5), y.latencies.quantile(1), (n.usage().cpu-before)/took, (ownCPU()-own)/took)
	}
}

// stopped ends both, and gives the look-ups with what is to know of the events.
func stopped(stopLooks, stopEvents func() (sample, error)) (sample, error) {
	x, err := stopLooks()
	y, e := stopEvents()
	x.also = map[string]float64{"background": y.rate(), "ack_p99": y.latencies.quantile(0.99)}
	return x, errors.Join(err, e)
}

// without measures while nothing is filled.
func (f *filling) without(ctx context.Context) (x sample, err error) {
	looks, events := f.around(ctx)
	var cpu sample
	err = f.profiled(&cpu, func() (err error) {
		pause(ctx, fillWithout*f.s.Time)
		x, err = stopped(looks, events)
		return err
	})
	x.cpu = cpu.cpu
	return x, err
}

// during measures while a round's segments are filled. In the last round the node
// is killed midway and started again.
func (f *filling) during(ctx context.Context, round int) (x sample, err error) {
	rules := fillRules(round)
	f.rules = append(f.rules, rules...)
	if round == f.s.Rounds-1 {
		return f.interrupted(ctx, rules)
	}
	looks, events := f.around(ctx)
	var cpu sample
	err = f.profiled(&cpu, func() error {
		start := time.Now()
		err := f.define(ctx, rules)
		if err == nil {
			err = f.through(ctx, rules, 1)
		}
		took := time.Since(start)
		var e error
		x, e = stopped(looks, events)
		x.also["took"] = took.Seconds()
		return errors.Join(err, e)
	})
	x.cpu = cpu.cpu
	return x, err
}

// interrupted is during with a kill in the middle. The time between counts for
// neither look-ups nor the fill.
func (f *filling) interrupted(ctx context.Context, rules []rule) (x sample, err error) {
	looks, events := f.around(ctx)
	start := time.Now()
	err = f.define(ctx, rules)
	if err == nil {
		err = f.through(ctx, rules[:1], fillKillAt)
	}
	if err == nil {
		f.midway.at, err = f.progress(ctx, rules[0])
	}
	took := time.Since(start)
	before, e := looks()
	if err = errors.Join(err, e); err == nil {
		f.s.say("look-ups' p99 before the kill: %.4g ms; killing the node when %.0f %% were gone through", before.latencies.quantile(0.99), f.midway.at*100)
		err = f.node.kill()
	}
	_, _ = events() // failed in the middle of posts
	if err != nil {
		return x, err
	}
	begin := time.Now()
	n, err := f.s.nodeIn(ctx, f.dir, 0)
	if err != nil {
		return x, err
	}
	f.node, f.down = n, time.Since(begin)
	if f.midway.on, err = f.progress(ctx, rules[0]); err != nil {
		return x, err
	}
	looks, events = f.around(ctx)
	start = time.Now()
	err = f.through(ctx, rules, 1)
	took += time.Since(start)
	x, e = stopped(looks, events)
	if err = errors.Join(err, e); err != nil {
		return x, err
	}
	x.latencies = append(x.latencies, before.latencies...)
	x.also["took"] = took.Seconds()
	if f.midway.on < f.midway.at-0.01 {
		return x, proto.Errorf(proto.CodeInternal, "the fill was killed at %.0f %% and went on at %.0f %%: it must go on where it was", f.midway.at*100, f.midway.on*100)
	}
	return x, nil
}

// progress is how far a segment is.
func (n *node) progress(ctx context.Context, r rule) (float64, error) {
	status, answer, err := n.call(ctx, http.MethodGet, "/v1/segments/"+r.id, nil)
	if err != nil {
		return 0, err
	}
	var s proto.SegmentSpec
	if err := json.Unmarshal(answer, &s); err != nil || status != http.StatusOK || s.Filled == nil {
		return 0, proto.Errorf(proto.CodeInvalid, "segment %s was answered with status %d: %s", r.id, status, answer)
	}
	if *s.Filled || s.Progress == nil {
		return 1, nil
	}
	return *s.Progress, nil
}

// through returns once all of the rules are filled that far.
func (n *node) through(ctx context.Context, rules []rule, share float64) error {
	for _, r := range rules {
		for {
			p, err := n.progress(ctx, r)
			if err != nil {
				return err
			}
			if p >= share {
				break
			}
			if pause(ctx, fillPoll); ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

// kill ends the process at once.
func (n *node) kill() error {
	n.http.CloseIdleConnections()
	if err := n.cmd.Process.Kill(); err != nil {
		return err
	}
	for n.out.Scan() { // Wait wants that everything was read
	}
	_ = n.cmd.Wait() // it was killed
	n.killed = true
	return nil
}

// compare holds every segment to the oracle, member for member, and gives how
// many memberships there are.
func (f *filling) compare(ctx context.Context) (memberships int, err error) {
	open := make([]worker, len(f.live))
	for i, w := range f.live {
		open[i] = unanswered{w.(*tale)}
	}
	if err := f.finish(ctx, open); err != nil {
		return 0, err
	}
	var live []sent
	for _, p := range f.lives {
		live = append(live, slices.Concat(p.sent...)...)
	}
	f.s.say("comparing %d segments with the plain reading of %d events", len(f.rules), int(f.a.browsers*f.a.each)+len(live))
	want, unsure, err := f.a.oracle(f.rules, live)
	if err != nil {
		return 0, err
	}
	if unsure > 0 {
		return 0, proto.Errorf(proto.CodeInternal, "the plain reading of %d identities and rules is not bound to be the evaluator's: the measurement must not make such", unsure)
	}
	for i, r := range f.rules {
		n, err := f.compareOne(ctx, r, want[i])
		if err != nil {
			return 0, err
		}
		memberships += n
	}
	return memberships, nil
}

func (f *filling) compareOne(ctx context.Context, r rule, want []bool) (members int, err error) {
	got := make([]bool, len(want))
	strange := ""
	err = f.exported(ctx, r.id, func(id string) {
		if i, ok := f.a.index(id); ok && !got[i] {
			got[i] = true
		} else {
			strange = id
		}
	})
	if err != nil {
		return 0, err
	}
	if strange != "" {
		return 0, proto.Errorf(proto.CodeInternal, "%s has the member %q, which is not of the archive or is twice in it", r.id, strange)
	}
	var missing, extra int
	example := -1
	for i := range want {
		switch {
		case want[i] == got[i]:
			if got[i] {
				members++
			}
			continue
		case want[i]:
			missing++
		default:
			extra++
		}
		example = i
	}
	if missing+extra > 0 {
		return 0, proto.Errorf(proto.CodeInternal, "%s (%s): %d members are missing, %d are too many, %d are right; number %d is one", r.id, r.when, missing, extra, members, example)
	}
	if members == 0 || members == len(want) {
		return 0, proto.Errorf(proto.CodeInternal, "%s (%s) has %d members of %d: the comparison would mean nothing", r.id, r.when, members, len(want))
	}
	return members, nil
}

// index is the place of an identity in an oracle's lists.
func (a *archive) index(id string) (int, bool) {
	digits, browser := strings.CutPrefix(id, browserModel[:len(browserModel)-8])
	if !browser {
		var account bool
		if digits, account = strings.CutPrefix(id, accountModel[:len(accountModel)-8]); !account {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	of := uint64(a.browsers)
	if !browser {
		of = uint64(a.accounts())
	}
	if err != nil || n >= of {
		return 0, false
	}
	if !browser {
		n += uint64(a.browsers)
	}
	return int(n), true
}

// exported exports a segment and calls fn with each member.
func (n *node) exported(ctx context.Context, segment string, fn func(identity string)) error {
	body, err := json.Marshal(map[string]string{"expr": segment, "format": "csv"})
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+n.service+"/v1/audiences/export", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+config.DevKey)
	r.Header.Set("Content-Type", "application/json")
	resp, err := n.http.Do(r)
	if err != nil {
		return proto.Errorf(proto.CodeUnavailable, "ask the node: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return proto.Errorf(proto.CodeInvalid, "the export of %s was answered with status %d: %s", segment, resp.StatusCode, answer)
	}
	t, whole := tar.NewReader(resp.Body), false
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		whole = h.Name == "manifest.json"
		if !strings.HasPrefix(h.Name, "audience-") || !strings.HasSuffix(h.Name, ".csv") {
			continue
		}
		if err := identitiesOf(t, fn); err != nil {
			return err
		}
	}
	if !whole {
		return proto.Errorf(proto.CodeUnavailable, "the export of %s broke off", segment)
	}
	return nil
}

// identitiesOf reads the identities of a table; none of them holds a comma.
func identitiesOf(r io.Reader, fn func(string)) error {
	lines := bufio.NewScanner(r)
	column := -1
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ",")
		if column < 0 {
			for i, name := range fields {
				if name == "identity" {
					column = i
				}
			}
			if column < 0 {
				return proto.Errorf(proto.CodeInvalid, "an export has the columns %s", lines.Text())
			}
			continue
		}
		if column >= len(fields) {
			return proto.Errorf(proto.CodeInvalid, "an export has the row %s", lines.Text())
		}
		fn(fields[column])
	}
	return lines.Err()
}

func (f *filling) report(quiet, busy samples, took time.Duration, compared int) []Result {
	events := float64(f.a.browsers * f.a.each)
	r := Result{Work: fmt.Sprintf("look-up during a backfill over %s events, p99", figure(events)), Unit: "ms", Ours: busy.quantile(0.99)}
	r.against("without", quiet.quantile(0.99))
	// Rounds are beside one another: the machine's mood is in both.
	var ratios []float64
	for i := range busy {
		ratios = append(ratios, busy[i].latencies.quantile(0.99)/quiet[i].latencies.quantile(0.99))
	}
	r.note("p99 by round: %s", ratioText(quiet, busy, ratios))
	r.note("load average after each round: %s", strings.Join(f.loads, "; "))
	r.Ratio = median(ratios)
	r.atMost("ratio", r.Ratio, 2)
	r.set("p50_ms", busy.quantile(0.5))
	r.set("without_p50_ms", quiet.quantile(0.5))
	r.note("p50 %.3g ms, without %.3g ms; %d look-ups a second, each counted from when it was due, one in %d of anybody and the others of the %d who are about",
		busy.quantile(0.5), quiet.quantile(0.5), f.s.steady(fillLooks), fillColdShare, visitors)
	ack := func(x sample) float64 { return x.also["ack_p99"] }
	r.note("live events: acknowledged after p99 %.3g ms, without %.3g ms", busy.median(ack), quiet.median(ack))
	r.background(busy, f.s.steady(fillBackground))
	rate := busy.median(func(x sample) float64 { return events / x.also["took"] })
	fill := Result{Work: fmt.Sprintf("backfill of %d segments at once, beside %d events/s and %d look-ups/s", len(fillRules(0)), f.s.steady(fillBackground), f.s.steady(fillLooks)), Unit: "events/s", Ours: rate}
	fill.note("%.3g s until all are filled; the history was loaded in %s (%s/s)", events/rate, took.Round(time.Second), figure(events/took.Seconds()))
	fill.note("killed when %.0f %% were gone through; the next process, ready after %s, went on at %.0f %%", f.midway.at*100, f.down.Round(10*time.Millisecond), f.midway.on*100)
	fill.note("%d memberships of %d segments of %d identities are those of a plain reading of all events, live ones included", compared, len(f.rules), int(f.a.browsers+f.a.accounts()))
	return []Result{r, fill}
}

func ratioText(quiet, busy samples, ratios []float64) string {
	var parts []string
	for i := range ratios {
		parts = append(parts, fmt.Sprintf("%.3g ms to %.3g ms without, %.2f, beside %s and %s events/s, filled in %.3g s", busy[i].latencies.quantile(0.99), quiet[i].latencies.quantile(0.99),
			ratios[i], figure(busy[i].also["background"]), figure(quiet[i].also["background"]), busy[i].also["took"]))
	}
	return strings.Join(parts, "; ")
}
