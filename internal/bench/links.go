package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"slices"

	"kith/proto"
)

const (
	linkConns  = 8  // posts of 200 links, and transactions of as many, under way at once
	asksConns  = 64 // links, one a request
	usersCheck = 32 // users that are looked at after a sample

	// A sample has so many people to link in posts for each second that it may
	// take. It ends when they are: intake alone would take several times as
	// many, and leave a backlog.
	metPerSecond = 15_000
)

const linksPath = "/v1/links"

// linkAsker asks for one link a request and waits for the decision.
type linkAsker struct {
	request []byte
	a, b    []byte // of request
	from    *meetings
}

func newLinkAsker(from *meetings) *linkAsker {
	x := &linkAsker{from: from, request: postRequest(linksPath, []byte(`{"a":"`+browserModel+`","b":"`+accountModel+`"}`))}
	a, b := bytes.Index(x.request, []byte(browserModel)), bytes.Index(x.request, []byte(accountModel))
	x.a, x.b = x.request[a:a+identityLength], x.request[b:b+identityLength]
	return x
}

func (x *linkAsker) next() []byte {
	x.from.next().put(x.a, x.b)
	return x.request
}

func (x *linkAsker) done(answer []byte) (int, error) {
	if !bytes.Contains(answer, []byte(`"linked":true`)) {
		return 0, proto.Errorf(proto.CodeInvalid, "the link of %s and %s was answered with %s", x.a, x.b, answer)
	}
	return 1, nil
}

// linkEvents links by events of two identities, until all links are applied.
func (n *node) linkEvents(ctx context.Context, c *census) (sample, error) {
	list := c.meetings(linkConns, n.s.perSample(metPerSecond))
	workers := pairPosters(list)
	x, err := n.applied(ctx, workers, httpLoad(n.service, workers).drain)
	if err != nil {
		return x, err
	}
	return x, n.checkUsers(ctx, early(list))
}

// linkAsks links by one request each, answered with the decision.
func (n *node) linkAsks(ctx context.Context, c *census) (sample, error) {
	list := c.meetings(asksConns, endless)
	workers := make([]worker, asksConns)
	for i := range workers {
		workers[i] = newLinkAsker(list[i])
	}
	x, err := n.look(ctx, workers)
	if err != nil {
		return x, err
	}
	return x, n.checkUsers(ctx, early(list))
}

// checkUsers looks whether some of the people are the users that they should
// be: a rate of links that were not made is none.
func (n *node) checkUsers(ctx context.Context, people []person) error {
	for range min(usersCheck, len(people)) {
		p := people[rand.IntN(len(people))]
		members, err := n.members(ctx, p.identity(rand.Uint32N(p.browsers+1)))
		if err != nil {
			return err
		}
		want := p.identities()
		slices.Sort(want)
		if !slices.Equal(members, want) {
			return proto.Errorf(proto.CodeInvalid, "a user is %q, it should be %q", members, want)
		}
	}
	return nil
}

// members are the identities of id's user.
func (n *node) members(ctx context.Context, id proto.Identity) ([]proto.Identity, error) {
	status, answer, err := n.call(ctx, http.MethodGet, "/v1/users/"+string(id), nil)
	if err != nil {
		return nil, err
	}
	var u proto.User
	if err := json.Unmarshal(answer, &u); err != nil || status != http.StatusOK {
		return nil, proto.Errorf(proto.CodeInvalid, "the user of %s was answered with status %d: %s", id, status, answer)
	}
	return u.Members, nil
}

// links is durable linking, beside PostgreSQL and Redis.
func (s *session) links(ctx context.Context) (_ []Result, err error) {
	bare, err := s.node(ctx, 0, nil)
	if err != nil {
		return nil, err
	}
	defer closing(bare, &err)
	judging, err := s.node(ctx, 0, social())
	if err != nil {
		return nil, err
	}
	defer closing(judging, &err)
	all := &census{}
	samplers := []sampler{
		func(ctx context.Context) (sample, error) { return bare.linkEvents(ctx, all) },
		func(ctx context.Context) (sample, error) { return bare.linkAsks(ctx, all) },
		func(ctx context.Context) (sample, error) { return judging.linkEvents(ctx, all) },
	}
	pg, err := s.startPostgres(ctx)
	if err != nil {
		return nil, err
	}
	if pg != nil {
		defer closing(pg, &err)
		samplers = append(samplers,
			func(ctx context.Context) (sample, error) {
				return pg.link(ctx, all, linkConns, postEvents, false, s.Time)
			},
			func(ctx context.Context) (sample, error) {
				return pg.link(ctx, all, linkConns, postEvents, true, s.Time)
			},
			func(ctx context.Context) (sample, error) { return pg.link(ctx, all, postgresConns, 1, true, s.Time) })
	}
	redis, err := s.startRedis(ctx, true)
	if err != nil {
		return nil, err
	}
	if redis != nil {
		defer closing(redis, &err)
		samplers = append(samplers, func(ctx context.Context) (sample, error) { return redis.link(ctx, all, s.Time) })
	}
	x, err := s.rounds(ctx, samplers...)
	if err != nil {
		return nil, err
	}
	return linkResults(x, pg, redis), nil
}

// linkResults are the rows; x is in the order of the samplers.
func linkResults(x []samples, pg *postgres, redis *redis) []Result {
	events := linkResult("links by events of two, 200-event posts, durable to applied", x[0])
	events.note("acknowledged after p50 %.3g ms, p99 %.3g ms; applied %.3g ms after the last acknowledgement; no segments",
		x[0].quantile(0.5), x[0].quantile(0.99), x[0].median(func(x sample) float64 { return x.also["behind_ms"] }))
	events.atLeast("links/s", events.Ours, 30_000)
	asks := linkResult("links, one a request, final when answered, 64 connections", x[1])
	asks.note("answered after p50 %.3g ms, p99 %.3g ms", x[1].quantile(0.5), x[1].quantile(0.99))
	judged := linkResult("links by events of two, with 10 segments, 5 of scope user", x[2])
	judged.note("each event changes two memberships of its own, and that of its user")
	rest := x[3:]
	if pg != nil {
		events.against("PostgreSQL", rest[0].rate())
		asks.against("PostgreSQL", rest[2].rate())
		asks.note("PostgreSQL with edges, one link a synced transaction, %d connections: %s links/s, p99 %.3g ms", postgresConns, rest[2].spread(), rest[2].quantile(0.99))
		events.set("postgres_with_edges", rest[1].rate())
		events.note("PostgreSQL: identity to cluster, smaller into larger, 200 links a transaction on %d connections, synced: %s links/s; %s with the edges, which un-merging takes",
			linkConns, rest[0].spread(), rest[1].spread())
		rest = rest[3:]
	}
	if redis != nil {
		events.set("redis", rest[0].rate())
		events.note("beside: Redis, a script that merges sets, pipelined by 200 on %d connections, append-only file synced always, cannot un-merge: %s links/s", linkConns, rest[0].spread())
	}
	return []Result{events, asks, judged}
}

func linkResult(work string, l samples) Result {
	r := Result{Work: work, Unit: "links/s", Ours: l.rate()}
	r.set("cpu_us_per_link", l.cost())
	r.set("p50_ms", l.quantile(0.5))
	r.set("p99_ms", l.quantile(0.99))
	r.note("%s links/s; %.3g us of the node's processor each", l.spread(), l.cost())
	r.refusals(l)
	return r
}
