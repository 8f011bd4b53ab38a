package bench

import "context"

// postConns are the connections of one-event posts and of single look-ups.
const postConns = 64

// posts is one event a request, acknowledged after its fsync, beside a bare
// handler that reads the same bodies.
func (s *session) posts(ctx context.Context) (_ []Result, err error) {
	tape := newTape()
	n, err := s.warmNode(ctx, tape)
	if err != nil {
		return nil, err
	}
	defer closing(n, &err)
	bare, err := s.startYardstick(ctx, "discard")
	if err != nil {
		return nil, err
	}
	defer closing(bare, &err)
	from := func(i int) source { return &warm{tape: tape, at: i * len(tape) / postConns} }
	x, err := s.rounds(ctx,
		func(ctx context.Context) (sample, error) {
			return n.queryable(ctx, httpLoad(n.service, posters(postConns, 1, eventsPath, from)), s.Time)
		},
		func(ctx context.Context) (sample, error) {
			return bare.measured(ctx, httpLoad(bare.addr, unreadAll(posters(postConns, 1, eventsPath, from), 1)), s.Time)
		})
	if err != nil {
		return nil, err
	}
	r := ingestResult("one-event posts, acknowledged after fsync, 64 connections", x[0])
	r.against("bare net/http", x[1].rate())
	r.atLeast("events/s", r.Ours, 25_000)
	r.atLeast("ratio", r.Ratio, 0.3)
	r.note("bare net/http: %s/s, %.2f us of its processor a request, p99 %.3g ms", x[1].spread(), x[1].cost(), x[1].quantile(0.99))
	return []Result{r}, nil
}
