package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"kith/proto"
)

// An opt-out everywhere takes along all whom acknowledged links join with the
// identity, also while somebody else is being linked to one of them.
func TestEverywhereTakesAllAlong(t *testing.T) {
	for _, lanes := range graphLanes() {
		t.Run("lanes="+lanes, func(t *testing.T) {
			users := 400
			if testing.Short() {
				users = 100
			}
			n := startGraphNode(t, t.TempDir()+"/data", "--lanes", lanes)
			var mu sync.Mutex
			var left few
			inParallel(t, 16, make([]struct{}, users), func(ctx context.Context, i int, _ struct{}) error {
				c := everywhereCase{node: n, prefix: fmt.Sprintf("browser:e%d", i)}
				err := c.run(ctx)
				mu.Lock()
				defer mu.Unlock()
				if err == nil && c.missed > 0 {
					left.add("user %d: %d of 4 were left, the receipt says also %d, the new link was answered %q", i, c.missed, c.also, c.answer)
				}
				return err
			})
			left.report(t, "opt-outs everywhere left others of the user")
			n.settled(t)
		})
	}
}

// everywhereCase is one user of four, of whom one opts out everywhere while one
// is linked to somebody new.
type everywhereCase struct {
	node         *graphNode
	prefix       string
	answer       string
	missed, also int
}

func (c *everywhereCase) id(i int) string { return fmt.Sprintf("%s-%d", c.prefix, i) }

func (c *everywhereCase) run(ctx context.Context) error {
	ids := []string{c.id(0), c.id(1), c.id(2), c.id(3)}
	for i := range 3 {
		if answer, err := c.node.link(ctx, ids[i], ids[i+1]); err != nil || answer != linked {
			return fmt.Errorf("link of %s and %s: %q, %v", ids[i], ids[i+1], answer, err)
		}
	}
	var both sync.WaitGroup
	var errs [2]error
	both.Go(func() { c.answer, errs[0] = c.node.link(ctx, ids[rand.IntN(4)], c.id(4)) })
	both.Go(func() { errs[1] = c.optOut(ctx, ids[rand.IntN(4)]) })
	both.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	looked, err := c.node.lookup(ctx, ids)
	for _, x := range looked {
		if !x.OptedOut {
			c.missed++
		}
	}
	return err
}

func (c *everywhereCase) optOut(ctx context.Context, id string) error {
	s, err := c.node.optOut(ctx, id, true)
	if err == nil && !s.Final {
		s, err = c.node.finalOptOut(ctx, id)
	}
	if err == nil && s.Receipt != nil {
		c.also = s.Receipt.Also
	}
	return err
}

// Who is told that an opt-out is taken in is dark from then on, also where the
// node is behind with what it acknowledged before.
func TestOptOutBehindABacklog(t *testing.T) {
	n := startGraphNode(t, t.TempDir()+"/data", "--lanes", "4")
	position, err := n.take(t.Context(), []graphEvent{{Event: "page", Identities: []string{"browser:leaves"}}})
	if err == nil {
		err = n.reach(t.Context(), position)
	}
	if err != nil {
		t.Fatal(err)
	}
	posts := 500
	if testing.Short() { // the race detector makes the node slower than what is sent
		posts = 60
	}
	inParallel(t, 8, make([]struct{}, posts), func(ctx context.Context, i int, _ struct{}) error {
		events := make([]graphEvent, postedTogether)
		for k := range events {
			events[k] = graphEvent{Event: "page", Identities: []string{fmt.Sprintf("browser:b%d-%d", i, k), fmt.Sprintf("account:b%d-%d", i, k)}}
		}
		return n.patiently(ctx, func() error { _, err := n.take(ctx, events); return err })
	})
	var s proto.OptOutState
	err = n.patiently(t.Context(), func() (err error) {
		s, err = n.optOut(t.Context(), "browser:leaves", false)
		switch proto.CodeOf(err) {
		case proto.CodeTimeout, proto.CodeUnavailable: // as it should be, if it cannot be dark yet
			if state, e := n.optOutState(t.Context(), "browser:leaves"); e == nil && state.OptedOut {
				s, err = state, nil // it was taken in all the same
			}
		case proto.CodeOverloaded, proto.CodeRateLimited:
			err = fmt.Errorf("one opt-out was refused: %v", err) // not to be tried again
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	looked, err := n.lookup(t.Context(), []string{"browser:leaves"})
	if err != nil {
		t.Fatal(err)
	}
	if !s.OptedOut || !looked[0].OptedOut || looked[0].Known {
		t.Errorf("the opt-out was answered %+v, and the identity is shown: %+v", s, looked[0])
	}
}
