package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"kith/engine/store"
	"kith/proto"
	"kith/segments"
)

// The town whose audiences are counted: so many identities, each in so many of
// the segments, by Zipf's law.
const (
	townIdentities = 1_000_000
	townSegments   = 2_000
	townEach       = 20
	townLarge      = 100 // harder questions are about so many of the largest
	townQuestions  = 64
	townFloor      = 50
	townClient     = proto.ClientID(1) // the development client is the first record
)

const (
	countPath   = "/v1/audiences/count"
	overlapPath = "/v1/audiences/overlap"
)

func townName(i int) string { return fmt.Sprintf("t%04d", i) }

// town is the bitmaps, in this process too, as the yardstick.
type town struct {
	bits     []*roaring.Bitmap
	universe *roaring.Bitmap
	keys     []proto.SegmentKey
}

func newTown(identities int) *town {
	t := &town{bits: make([]*roaring.Bitmap, townSegments), universe: roaring.New(), keys: make([]proto.SegmentKey, townSegments)}
	for i := range t.bits {
		t.bits[i] = roaring.New()
	}
	t.universe.AddRange(0, uint64(identities))
	z := rand.NewZipf(rand.New(rand.NewPCG(1, 9)), 1.05, 1, townSegments-1)
	for o := range uint32(identities) {
		for n := 0; n < townEach; {
			if t.bits[z.Uint64()].CheckedAdd(o) {
				n++
			}
		}
	}
	return t
}

func (t *town) memberships() (n uint64) {
	for _, b := range t.bits {
		n += b.GetCardinality()
	}
	return n
}

// number asks the node for the numbers of its segments.
func (t *town) number(ctx context.Context, n *node) error {
	_, answer, err := n.call(ctx, "GET", "/v1/segments", nil)
	if err != nil {
		return err
	}
	var list struct{ Segments []proto.SegmentSpec }
	if err := json.Unmarshal(answer, &list); err != nil || len(list.Segments) != townSegments {
		return proto.Errorf(proto.CodeInvalid, "the node has %d segments of %d: %w", len(list.Segments), townSegments, err)
	}
	for i, s := range list.Segments {
		t.keys[i] = s.Version // by name, which is their order
	}
	return nil
}

// write puts the bitmaps into the store of a node that does not run, as its
// checkpoint would have: nobody has to send twenty million events.
func (t *town) write(dir string) (err error) {
	st, err := store.Open(store.Config{Dir: dir})
	if err != nil {
		return err
	}
	defer func() {
		if e := st.Close(); err == nil {
			err = e
		}
	}()
	if err := writeBits(st, 0, t.universe); err != nil {
		return err
	}
	for i, b := range t.bits {
		if err := writeBits(st, t.keys[i], b); err != nil {
			return err
		}
	}
	return nil
}

// writeBits stores the chunks of one bitmap, by the engine's keys.
func writeBits(st store.Store, key proto.SegmentKey, bits *roaring.Bitmap) error {
	x := segments.NewBitmaps()
	deltas := make([]segments.BitDelta, 0, bits.GetCardinality())
	bits.Iterate(func(o uint32) bool {
		deltas = append(deltas, segments.BitDelta{Key: key, Client: townClient, Ordinal: proto.Ordinal(o), Set: true})
		return true
	})
	x.Apply(deltas)
	b := st.NewBatch()
	for _, c := range x.TakeDirty(x.Dirty()) {
		k := binary.BigEndian.AppendUint32([]byte{'L', 0, 'b'}, uint32(c.Client))
		k = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32(k, uint32(c.Key)), c.High)
		if err := b.Set(k, c.Data); err != nil {
			b.Discard()
			return err
		}
	}
	return b.Commit()
}

// townNode is a node with the town's bitmaps in it.
func (s *session) townNode(ctx context.Context) (*node, *town, error) {
	rules := make([]rule, townSegments)
	for i := range rules {
		rules[i] = rule{id: townName(i), when: fmt.Sprintf(`count(event.section == %q, "30d") >= 1`, townName(i))}
	}
	n, err := s.node(ctx, 0, rules)
	if err != nil {
		return nil, nil, err
	}
	identities := townIdentities
	if s.Quick {
		identities /= 4
	}
	s.say("putting %d identities into %d of %d segments each", identities, townEach, townSegments)
	t := newTown(identities)
	err = t.number(ctx, n)
	if e := n.close(); err == nil {
		err = e
	}
	if err == nil {
		err = t.write(filepath.Join(n.dir, "store"))
	}
	if err == nil {
		n, err = s.nodeIn(ctx, n.dir, 0)
	}
	return n, t, err
}

// inquiry is a kind of question: what is asked of the node, and what the same
// costs in this process.
type inquiry struct {
	work, path string
	body       func(names []string) any
	roaring    func(t *town, at []int) uint64
	names      int     // in a question
	among      int     // the largest segments, of which it names some
	mostMs     float64 // goal
	sum        func(answer []byte) (uint64, error)
}

func inquiries() []inquiry {
	two := inquiry{
		work: "count of two terms", path: countPath, names: 2, mostMs: 0.25, sum: countSum,
		body:    func(x []string) any { return map[string]string{"expr": x[0] + " & " + x[1]} },
		roaring: (*town).two,
	}
	six := inquiry{
		work: "count of (a|b|c|d)&e&!f", path: countPath, names: 6, mostMs: 0.25, sum: countSum,
		body: func(x []string) any {
			return map[string]string{"expr": "(" + strings.Join(x[:4], " | ") + ") & " + x[4] + " & !" + x[5]}
		},
		roaring: (*town).six,
	}
	all := inquiry{
		work: "one segment against all 2,000", path: overlapPath, names: 1, mostMs: 30, sum: overlapSum,
		body:    func(x []string) any { return map[string]any{"segments": x, "against": "all"} },
		roaring: (*town).all,
	}
	return []inquiry{two.of(townSegments), six.of(townSegments), two.of(townLarge), six.of(townLarge), all.of(townLarge)}
}

// of draws the names from the largest segments.
func (q inquiry) of(among int) inquiry {
	q.among = among
	if q.work += ", p50"; among < townSegments {
		q.work += fmt.Sprintf(", among the %d largest", among)
	}
	return q
}

func (t *town) two(at []int) uint64 { return t.bits[at[0]].AndCardinality(t.bits[at[1]]) }

func (t *town) six(at []int) uint64 {
	u := roaring.FastOr(t.bits[at[0]], t.bits[at[1]], t.bits[at[2]], t.bits[at[3]])
	u.And(t.bits[at[4]])
	u.AndNot(t.bits[at[5]])
	return u.GetCardinality()
}

func (t *town) all(at []int) (sum uint64) {
	one := t.bits[at[0]]
	for _, b := range t.bits {
		sum += one.AndCardinality(b)
	}
	return sum
}

func countSum(answer []byte) (uint64, error) {
	var c proto.Count
	err := json.Unmarshal(answer, &c)
	if err == nil && c.Count == nil && c.Below == townFloor {
		return 0, nil
	}
	if err != nil || c.Count == nil {
		return 0, proto.Errorf(proto.CodeInvalid, "a count was answered with %s", answer[:min(len(answer), 300)])
	}
	return *c.Count, nil
}

func overlapSum(answer []byte) (sum uint64, err error) {
	var o proto.Overlap
	if err := json.Unmarshal(answer, &o); err != nil || len(o.Counts) != 1 {
		return 0, proto.Errorf(proto.CodeInvalid, "an overlap was answered with %s", answer[:min(len(answer), 300)])
	}
	for _, n := range o.Counts[0] {
		if n != nil { // those below the floor are not told
			sum += *n
		}
	}
	return sum, nil
}

// poll is an inquiry's questions, with what the node must answer.
type poll struct {
	inquiry
	at       [][]int
	requests [][]byte
	n        int
}

func newPoll(q inquiry) *poll {
	p := &poll{inquiry: q}
	r := rand.New(rand.NewPCG(3, uint64(q.names)))
	for range townQuestions {
		at := r.Perm(q.among)[:q.names]
		names := make([]string, len(at))
		for i, k := range at {
			names[i] = townName(k)
		}
		body, err := json.Marshal(q.body(names))
		if err != nil {
			panic(err) // strings and maps of them
		}
		p.at = append(p.at, at)
		p.requests = append(p.requests, postRequest(q.path, body))
	}
	return p
}

func (p *poll) next() []byte {
	p.n++
	return p.requests[p.n%len(p.requests)]
}

func (p *poll) done(body []byte) (int, error) { return 1, nil }

// townServer is a bare net/http server over the same bitmaps: it reads a question,
// asks roaring, and answers as the node does, with nothing in between.
type townServer struct{ town *town }

// ServeHTTP implements http.Handler.
func (s townServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var q struct{ Expr string }
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, &q)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var at []int
	for _, name := range strings.FieldsFunc(q.Expr, func(c rune) bool { return strings.ContainsRune("()|&! ", c) }) {
		i, err := strconv.Atoi(strings.TrimPrefix(name, "t"))
		if err != nil || i < 0 || i >= len(s.town.bits) {
			http.Error(w, name+" is no segment of the town", http.StatusBadRequest)
			return
		}
		at = append(at, i)
	}
	var count uint64
	switch len(at) {
	case 2:
		count = s.town.two(at)
	case 6:
		count = s.town.six(at)
	default:
		http.Error(w, "ask for two segments or for six", http.StatusBadRequest)
		return
	}
	answer, err := json.Marshal(proto.Count{Count: &count, Exact: true, Partitions: proto.Answered{Answered: proto.Partitions, Of: proto.Partitions}})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(len(answer))}
	_, _ = w.Write(answer)
}

// save and readTown keep the bitmaps in a file, for a townServer.
func (t *town) save(name string) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriter(f)
	for _, b := range t.bits {
		if _, err := b.WriteTo(w); err != nil {
			return err
		}
	}
	return w.Flush()
}

func readTown(name string) (*town, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, t := bufio.NewReader(f), &town{bits: make([]*roaring.Bitmap, townSegments)}
	for i := range t.bits {
		t.bits[i] = roaring.New()
		if _, err := t.bits[i].ReadFrom(r); err != nil {
			return nil, proto.Errorf(proto.CodeInvalid, "%s holds no bitmap %d: %w", name, i, err)
		}
	}
	return t, nil
}

// check holds the node's answers against this process's, and gives one of them.
func (p *poll) check(ctx context.Context, n *node, t *town) ([]byte, error) {
	c, err := dial(ctx, n.service)
	if err != nil {
		return nil, err
	}
	defer c.close()
	var last []byte
	for i, request := range p.requests {
		status, answer, err := c.do(request)
		if err != nil {
			return nil, err
		}
		got, err := p.sum(answer)
		if err != nil {
			return nil, fmt.Errorf("status %d: %w", status, err)
		}
		want := p.roaring(t, p.at[i])
		if got > want || want-got >= p.hidden() || p.path == countPath && got > 0 && got != want {
			return nil, proto.Errorf(proto.CodeInvalid, "%s: the node says %d, this process %d", request[bytes.LastIndexByte(request, '\n')+1:], got, want)
		}
		last = bytes.Clone(answer)
	}
	return last, nil
}

// hidden is how many may be missing from an answer, whose parts below the floor
// are not told.
func (p *poll) hidden() uint64 {
	if p.path == countPath {
		return townFloor
	}
	return townFloor * townSegments
}

// inProcess is what the same costs without a node.
func (p *poll) inProcess(ctx context.Context, t *town, d time.Duration) (x sample, err error) {
	start := time.Now()
	for i := 0; time.Since(start) < d && ctx.Err() == nil; i++ {
		at := time.Now()
		p.roaring(t, p.at[i%len(p.at)])
		x.latencies = append(x.latencies, float64(time.Since(at))/float64(time.Millisecond))
		x.units++
	}
	x.seconds = time.Since(start).Seconds()
	return x, ctx.Err()
}

// audiences is the algebra through HTTP, one question at a time, beside the same
// in this process and a bare server that answers the same bytes.
func (s *session) audiences(ctx context.Context) (_ []Result, err error) {
	n, t, err := s.townNode(ctx)
	if err != nil {
		return nil, err
	}
	defer closing(n, &err)
	file := filepath.Join(s.dir, "town")
	if err := t.save(file); err != nil {
		return nil, err
	}
	asker, err := s.startYardstick(ctx, "town", "--file", file)
	if err != nil {
		return nil, err
	}
	defer closing(asker, &err)
	var results []Result
	for _, q := range inquiries() {
		r, err := s.inquire(ctx, n, t, asker, newPoll(q))
		if err != nil {
			return results, err
		}
		results = append(results, r)
	}
	results[0].note("%d memberships; %d questions about random segments in turn, on one connection; each was compared with this process's answer", t.memberships(), townQuestions)
	return results, nil
}

func (s *session) inquire(ctx context.Context, n *node, t *town, asker *yardstick, p *poll) (r Result, err error) {
	answer, err := p.check(ctx, n, t)
	if err != nil {
		return r, err
	}
	s.made++
	file := filepath.Join(s.dir, fmt.Sprintf("%02d-answers", s.made))
	if err := (answers{p.path: answer}).write(file); err != nil {
		return r, err
	}
	bare, err := s.startYardstick(ctx, "answers", "--file", file)
	if err != nil {
		return r, err
	}
	defer closing(bare, &err)
	sides := []sampler{
		func(ctx context.Context) (sample, error) { return n.look(ctx, []worker{p}) },
		func(ctx context.Context) (sample, error) { return p.inProcess(ctx, t, s.Time) },
		func(ctx context.Context) (sample, error) {
			return bare.measured(ctx, httpLoad(bare.addr, []worker{p}), s.Time)
		},
	}
	if p.path == countPath {
		sides = append(sides, func(ctx context.Context) (sample, error) {
			return asker.measured(ctx, httpLoad(asker.addr, []worker{p}), s.Time)
		})
	}
	x, err := s.rounds(ctx, sides...)
	if err != nil {
		return r, err
	}
	inside, floor := x[1].quantile(0.5), x[2].quantile(0.5)
	r = Result{Work: p.work, Unit: "ms", Ours: x[0].quantile(0.5)}
	r.against("2 x roaring + bare net/http", 2*inside+floor)
	r.atMost("p50 ms", r.Ours, p.mostMs)
	r.atMost("ratio", r.Ratio, 1)
	r.set("p99_ms", x[0].quantile(0.99))
	r.set("roaring_ms", inside)
	r.set("bare_ms", floor)
	r.note("p50 %.3g ms, p99 %.3g ms, %.3g us of the node's processor each; roaring in this process p50 %.3g ms, p99 %.3g ms; bare net/http with the same bytes p50 %.3g ms, p99 %.3g ms",
		r.Ours, x[0].quantile(0.99), x[0].cost(), inside, x[1].quantile(0.99), floor, x[2].quantile(0.99))
	if len(x) > 3 {
		asking := x[3].quantile(0.5)
		r.set("asking_ms", asking)
		r.note("bare net/http that reads the question and asks roaring: p50 %.3g ms, p99 %.3g ms, %.3g us of its processor each; ours is %.2f x of that, %.2f x of that and roaring once more",
			asking, x[3].quantile(0.99), x[3].cost(), r.Ours/asking, r.Ours/(asking+inside))
	}
	return r, nil
}
