package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"kith/proto"
)

const (
	clusterMax   = 3 // nodes that are compared
	clusterLanes = 3
	logKept      = time.Minute // the shortest that may be configured
)

// nodes are those of a cluster.
type nodes []*node

// clusterOf starts a cluster of new nodes with these addresses, or one that is
// alone, and defines segments.
func (s *session) clusterOf(ctx context.Context, addresses []string, rules []rule, more ...string) (list nodes, err error) {
	count := len(addresses)
	if count == 1 {
		addresses = nil
	}
	for i := range count {
		n, err := s.member(ctx, i, addresses, more...)
		if err != nil {
			_ = list.close()
			return nil, err
		}
		list = append(list, n)
	}
	for _, n := range list { // none is ready before most are there
		if err := n.ready(); err != nil {
			_ = list.close()
			return nil, err
		}
	}
	if err := list[0].define(ctx, rules); err != nil {
		_ = list.close()
		return nil, err
	}
	return list, nil
}

// member starts the node of a number in a new folder, without waiting until it is
// ready.
func (s *session) member(ctx context.Context, number int, addresses []string, more ...string) (*node, error) {
	dir, err := s.folder("node")
	if err != nil {
		return nil, err
	}
	args := append([]string{"--lanes", strconv.Itoa(clusterLanes)}, more...)
	if len(addresses) > 0 {
		args = append(args, "--name", fmt.Sprintf("n%d", number+1), "--cluster", addresses[number], "--join", strings.Join(addresses, ","))
	}
	return s.launch(ctx, dir, 0, args...)
}

// clusterAddresses are loopback addresses for nodes, each with the next port free
// too.
func clusterAddresses(count int) (list []string, _ error) {
	for tries := 0; len(list) < count; tries++ {
		if tries > 100 {
			return nil, proto.Errorf(proto.CodeUnavailable, "no two ports in a row are free on loopback")
		}
		port := 10_000 + 2*rand.IntN(5_000)
		var open []net.Listener
		for i := range 2 {
			if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+i)); err == nil {
				open = append(open, l)
			}
		}
		for _, l := range open {
			_ = l.Close()
		}
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		if len(open) == 2 && !slices.Contains(list, addr) {
			list = append(list, addr)
		}
	}
	return list, nil
}

func (l nodes) close() (err error) {
	for _, n := range l {
		closing(n, &err)
	}
	return err
}

func (l nodes) rest(ctx context.Context) {
	for _, n := range l {
		n.rest(ctx)
	}
}

// cpu is the processor time that all have taken.
func (l nodes) cpu() (seconds float64) {
	for _, n := range l {
		seconds += n.usage().cpu
	}
	return seconds
}

// load gives all of them the first identities by way of one.
func (l nodes) load(ctx context.Context, count int) error {
	pos, err := l[0].loaded(ctx, count)
	for _, n := range l {
		if err == nil {
			err = n.wait(ctx, pos)
		}
	}
	return err
}

// over is a load over connections to each of them in turn.
func (l nodes) over(workers []worker) load {
	var turn atomic.Int64
	return load{workers: workers, connect: func(ctx context.Context) (exchange, error) {
		return dial(ctx, l[int(turn.Add(1))%len(l)].service)
	}}
}

// costing has its processor time be that of all of them.
func (l nodes) costing(run sampler) sampler {
	return func(ctx context.Context) (sample, error) {
		before := l.cpu()
		x, err := run(ctx)
		x.cpu = l.cpu() - before
		return x, err
	}
}

// look is look-ups of all of them, or of those that are asked.
func (l nodes) look(asked nodes) sampler {
	return l.costing(func(ctx context.Context) (sample, error) { return asked.over(askers()).run(ctx, l[0].s.Time) })
}

// post is events, 200 a post, until all of them have applied them.
func (l nodes) post(tape []uint32) sampler {
	return l.costing(func(ctx context.Context) (sample, error) {
		workers := posters(ingestConns, postEvents, eventsPath, fromTape(tape))
		start := time.Now()
		x, err := l.over(workers).run(ctx, l[0].s.Time)
		for _, n := range l {
			if err == nil {
				err = n.wait(ctx, end(workers))
			}
		}
		x.seconds = time.Since(start).Seconds()
		return x, err
	})
}

// cluster is what one, two and three nodes on this machine do, all of which hold
// everything, and what a look-up through another node costs.
func (s *session) cluster(ctx context.Context) (results []Result, err error) {
	tape := newTape()
	var looks, posts [clusterMax]samples
	var hops []samples
	for i := range looks {
		s.say("%d nodes", i+1)
		addresses, err := clusterAddresses(i + 1)
		if err != nil {
			return nil, err
		}
		list, err := s.clusterOf(ctx, addresses, hundred())
		if err != nil {
			return nil, err
		}
		var x []samples
		if err = list.load(ctx, visitors); err == nil {
			x, err = s.rounds(ctx, list.post(tape), list.resting(list.look(list)))
		}
		if err == nil && len(list) == clusterMax {
			hops, err = list.hops(ctx)
		}
		if e := list.close(); err == nil {
			err = e
		}
		if err != nil {
			return nil, err
		}
		posts[i], looks[i] = x[0], x[1]
	}
	for i := 1; i < clusterMax; i++ {
		results = append(results, beside(fmt.Sprintf("look-ups, one a request, of %d nodes", i+1), "look-ups/s", "one node", looks[i], looks[0]))
	}
	for i := 1; i < clusterMax; i++ {
		results = append(results, beside(fmt.Sprintf("events, 200 a post, until all of %d nodes have them", i+1), "events/s", "one node", posts[i], posts[0]))
	}
	hop := beside("look-ups, one a request, of a node that passes each on", "look-ups/s", "of one that answers", hops[1], hops[0])
	hop.note("p50 %.3g ms, p99 %.3g ms; without the hop %.3g ms, %.3g ms", hops[1].quantile(0.5), hops[1].quantile(0.99), hops[0].quantile(0.5), hops[0].quantile(0.99))
	return append(results, hop), nil
}

// beside is one row of such a comparison.
func beside(work, unit, yardstick string, ours, theirs samples) Result {
	r := Result{Work: work, Unit: unit, Ours: ours.rate()}
	r.against(yardstick, theirs.rate())
	r.set("cpu_us", ours.cost())
	r.note("%.3g us of the processor each, of all nodes together; %.3g us there; rates from %s, and %s there", ours.cost(), theirs.cost(), ours.spread(), theirs.spread())
	r.refusals(ours)
	return r
}

// resting waits before each sample until the nodes have nothing to do.
func (l nodes) resting(run sampler) sampler {
	return func(ctx context.Context) (sample, error) {
		l.rest(ctx)
		return run(ctx)
	}
}

// hops asks the last node, as it is and when it passes all on.
func (l nodes) hops(ctx context.Context) ([]samples, error) {
	s, last := l[0].s, len(l)-1
	asked := l[last:]
	plain, err := s.rounds(ctx, l.resting(l.look(asked)))
	if err != nil {
		return nil, err
	}
	if err := l[last].close(); err != nil {
		return nil, err
	}
	n, err := s.nodeIn(ctx, l[last].dir, 0, append(l[last].flags, "--pass-on")...)
	if err != nil {
		l[last].killed = true // and closed
		return nil, err
	}
	l[last] = n
	passed, err := s.rounds(ctx, l.resting(l.look(asked)))
	return append(plain, passed...), err
}

// copying is how long a node that joins takes to copy what running ones have, and
// to catch up.
func (s *session) copying(ctx context.Context) (_ []Result, err error) {
	count := s.population(2_000_000)
	addresses, err := clusterAddresses(clusterMax)
	if err != nil {
		return nil, err
	}
	// What the log holds a new node takes from there, and not by a copy.
	retention := []string{"--log-retention", logKept.String()}
	old, err := s.clusterOf(ctx, addresses[:clusterMax-1], hundred(), retention...)
	if err != nil {
		return nil, err
	}
	defer closing(old, &err)
	if err := old.load(ctx, count); err != nil {
		return nil, err
	}
	old.rest(ctx)
	pause(ctx, min(2*logKept, 40*s.Time))
	bytes, err := diskUsed(filepath.Join(old[0].dir, "store"))
	if err != nil {
		return nil, err
	}
	before, start := old.cpu(), time.Now()
	n, err := s.member(ctx, clusterMax-1, addresses, retention...)
	if err != nil {
		return nil, err
	}
	defer closing(n, &err)
	if err := n.ready(); err != nil {
		return nil, err
	}
	took, gave := time.Since(start).Seconds(), old.cpu()-before
	gb := float64(bytes) / 1e9
	r := Result{Work: fmt.Sprintf("a node that joins takes a copy of %d identities until it answers", count), Unit: "s a GB", Ours: took / gb}
	r.set("seconds", took)
	r.note("%.3g s for %.3g GB of store; it took %.3g s of the processor itself, the two others %.3g s", took, gb, n.usage().cpu, gave)
	return []Result{r}, nil
}

// starting is how long a node with many identities takes from its start until it
// answers, after a stop and after a kill.
func (s *session) starting(ctx context.Context) (_ []Result, err error) {
	count := s.population(10_000_000)
	n, err := s.node(ctx, 0, hundred())
	if err != nil {
		return nil, err
	}
	defer func() { closing(n, &err) }()
	start := time.Now()
	if err := n.load(ctx, count); err != nil {
		return nil, err
	}
	took := time.Since(start)
	stop := func(kill bool) (seconds float64, err error) {
		end := n.close
		if kill {
			end = n.kill
		}
		if err := end(); err != nil {
			return 0, err
		}
		start := time.Now()
		next, err := s.nodeIn(ctx, n.dir, 0)
		if err != nil {
			n.killed = true // and closed
			return 0, err
		}
		n = next
		return time.Since(start).Seconds(), nil
	}
	killed, err := stop(true)
	if err != nil {
		return nil, err
	}
	n.rest(ctx)
	stopped, err := stop(false)
	if err != nil {
		return nil, err
	}
	bytes, err := diskUsed(filepath.Join(n.dir, "store"))
	if err != nil {
		return nil, err
	}
	r := Result{Work: fmt.Sprintf("from start to ready with %d identities, after a stop", count), Unit: "s", Ours: stopped}
	r.set("killed_s", killed)
	r.note("%.3g s after a kill -9 that followed the load; %.3g GB of store, loaded in %s; %.3g GB of memory when it was ready, of which %.3g GB are pages of files",
		killed, float64(bytes)/1e9, took.Round(time.Second), float64(n.usage().rss)/1e9, float64(n.usage().mapped)/1e9)
	return []Result{r}, nil
}
