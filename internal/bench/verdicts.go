package bench

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// The background of verdicts, and how many people there are at first: enough
// that their browsers are all visitors of the warm set.
const (
	verdictBackground = 5_000 // events a second
	households        = visitors / 2
)

// orderText is the event by which a person's whole user becomes a buyer.
const orderText = `{"events":[{"event":"order","identities":["` + browserModel + `"],"props":{"price":12.5}}]}`

// household are segments of scope user: one that orders make, and one for
// each section of the background's events.
func household() []rule {
	rules := []rule{{id: "buyers", when: `count(event.name == "order", "30d") >= 1`, scope: "user"}}
	for i := range sections {
		s := fmt.Sprintf("s%02d", i)
		rules = append(rules, rule{id: "house-" + s, when: fmt.Sprintf(`count(event.section == %q, "30d") >= 3`, s), scope: "user"})
	}
	return rules
}

// verdicts is the time from an event of one identity until its user's segment
// shows at another.
func (s *session) verdicts(ctx context.Context) (_ []Result, err error) {
	n, err := s.node(ctx, 0, append(hundred(), household()...))
	if err != nil {
		return nil, err
	}
	defer closing(n, &err)
	all, tape := &census{}, newTape()
	s.say("linking %d users of 2 to 5 identities", households)
	if _, err = n.meet(ctx, all, households); err != nil {
		return nil, err
	}
	if _, err = n.queryable(ctx, httpLoad(n.service, posters(ingestConns, postEvents, eventsPath, fromTape(tape))), s.Time); err != nil {
		return nil, err
	}
	x, err := s.rounds(ctx, func(ctx context.Context) (sample, error) {
		fresh, err := n.meet(ctx, all, s.perSample(int(time.Second/probeEvery)))
		if err != nil {
			return sample{}, err
		}
		n.rest(ctx)
		return n.beside(ctx, tape, verdictBackground, func(ctx context.Context) (sample, error) { return n.probe(ctx, `"buyers"`, orders(fresh)) })
	})
	if err != nil {
		return nil, err
	}
	r := Result{Work: "event of one identity to its user's segment at another, p99", Unit: "ms", Ours: x[0].pooled(0.99)}
	p50 := x[0].pooled(0.5)
	r.set("p50_ms", p50)
	r.set("p99_ms", r.Ours)
	r.note("p50 %.3g ms, p90 %.3g ms, p99 %.3g ms, greatest %.3g ms from the post to the first look-up that shows it; %d probes in a sample, quantiles over all samples", p50, x[0].pooled(0.9), r.Ours, x[0].pooled(1), len(x[0][0].latencies))
	r.note("%d segments of identities and %d of users; the background's visitors are in users of 2 to 5", len(hundred()), len(household()))
	r.atMost("p99 ms", r.Ours, 50)
	r.background(x[0], verdictBackground)
	return []Result{r}, nil
}

// orders are those of one member of each of the people, each with the look-up
// of another.
func orders(people []person) func() (event, look []byte) {
	order := postRequest(eventsPath, []byte(orderText))
	at := bytes.Index(order, []byte(browserModel))
	return func() (event, look []byte) {
		if len(people) == 0 {
			return nil, nil
		}
		p := people[0]
		people = people[1:]
		member := rand.Uint32N(p.browsers + 1)
		copy(order[at:], p.identity(member))
		sibling := p.identity((member + 1) % (p.browsers + 1))
		return order, getRequest("/v1/identities/" + string(sibling) + "/segments")
	}
}
