package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"kith/proto"
)

// feedConfig is a file that has the demo client be told of its segments.
func feedConfig(t *testing.T) string {
	t.Helper()
	name := t.TempDir() + "/kith.yaml"
	writeFile(t, name, "clients:\n  - name: demo\n    feed: true\n")
	return name
}

// feedReader reads the demo client's feed over HTTP, from whatever node.
type feedReader struct {
	after uint64
	ids   map[string]bool
	in    map[string]int // by segment and name: entered less left
}

func newFeedReader() *feedReader { return &feedReader{ids: map[string]bool{}, in: map[string]int{}} }

// read takes in what is new; what is told twice is an error.
func (x *feedReader) read(ctx context.Context, c *connection) error {
	for {
		var p proto.FeedPage
		if err := c.call(ctx, http.MethodGet, "/v1/feed", url.Values{"after": {fmt.Sprint(x.after)}}, nil, &p); err != nil {
			return err
		}
		if p.Missed {
			return fmt.Errorf("messages after %d are missing", x.after)
		}
		for _, m := range p.Messages {
			for _, l := range m.Changes {
				if x.ids[l.ID] {
					return fmt.Errorf("%s is told twice", l.ID)
				}
				x.ids[l.ID] = true
				switch k := string(l.Segment) + " " + l.Identity; l.Change {
				case "entered":
					x.in[k]++
				case "left":
					x.in[k]--
				case "lost":
					return fmt.Errorf("%s: something was not kept", l.ID)
				}
			}
		}
		if p.Next == x.after {
			return nil
		}
		x.after = p.Next
	}
}

// missing are the identities that look-ups have in the segment and the feed has
// not, or the other way round.
func (x *feedReader) missing(ctx context.Context, c *connection, segment string, ids []string) (list []string, err error) {
	for part := range slices.Chunk(ids, lookupMax) {
		var seen struct{ Results []lookupResult }
		var named struct{ Results []struct{ Name string } }
		body := map[string]any{"identities": part}
		if err := c.call(ctx, http.MethodPost, "/v1/lookup", nil, body, &seen); err != nil {
			return nil, err
		}
		if err := c.call(ctx, http.MethodPost, "/v1/feed/identities", nil, body, &named); err != nil {
			return nil, err
		}
		for i, id := range part {
			in := 0
			if slices.Contains(seen.Results[i].Segments, segment) {
				in = 1
			}
			if x.in[segment+" "+named.Results[i].Name] != in {
				list = append(list, id)
			}
		}
	}
	return list, nil
}

// agree reads until feed and look-ups say the same.
func (x *feedReader) agree(t *testing.T, c *connection, segment string, ids []string) {
	t.Helper()
	deadline := time.Now().Add(startMax)
	for {
		err := x.read(t.Context(), c)
		var missing []string
		if err == nil {
			missing, err = x.missing(t.Context(), c, segment, ids)
		}
		switch code := proto.CodeOf(err); {
		case err == nil && len(missing) == 0:
			return
		case err != nil && code != proto.CodeNotFound && code != proto.CodeUnavailable && code != proto.CodeTimeout:
			t.Fatal(err)
		case time.Now().After(deadline):
			t.Fatalf("the feed lacks %d of %d, %v first; %v", len(missing), len(ids), missing[:min(3, len(missing))], err)
		}
		time.Sleep(20 * time.Millisecond) // a read does not wait for what is to come
	}
}

// A node that is killed under load goes on where its feed was: nothing is told
// twice, and in the end all that look-ups say was told.
func TestFeedOverKills(t *testing.T) {
	t.Parallel()
	kills := 3
	if s := os.Getenv("KITH_KILLS"); s != "" {
		var err error
		if kills, err = strconv.Atoi(s); err != nil {
			t.Fatalf("KITH_KILLS is %q, not a number", s)
		}
	} else if testing.Short() {
		kills = 1
	}
	seed := rand.Uint64()
	t.Logf("seed %d, %d kills", seed, kills)
	chance := rand.New(rand.NewPCG(seed, 0))
	load := &killLoad{data: t.TempDir() + "/data"}
	args := []string{"--config", feedConfig(t)}
	x := newFeedReader()
	for round := range kills + 1 {
		n := startGraphNode(t, load.data, args...)
		if round == 0 {
			load.define(t, n.process)
		}
		load.check(t, n.process)
		x.agree(t, n.client, "once", load.acked)
		if round == kills {
			break
		}
		load.run(t, n.process, round, time.After(time.Duration(100+chance.IntN(500))*time.Millisecond))
	}
	t.Logf("%d events acknowledged, %d lines told", len(load.acked), len(x.ids))
	if len(x.ids) < len(load.acked) || len(load.acked) == 0 {
		t.Error("less was told than acknowledged: the test shows nothing")
	}
}

// In a cluster each change is told once, whichever nodes own the lanes and die,
// and all nodes give the same feed.
func TestClusterFeed(t *testing.T) {
	longCluster(t)
	x := newTrio(t, 3)
	for i := range x.args {
		x.args[i] = append(x.args[i], "--config", feedConfig(t))
	}
	x.start(t)
	ctx := t.Context()
	x.defineSeen(t)
	var acked []string
	post := func(n *graphNode, from string, count int) {
		for i := range count {
			id := fmt.Sprintf("browser:%s-%d", from, i)
			err := n.patiently(ctx, func() error {
				_, err := n.take(ctx, []graphEvent{{Event: "visit", ID: id, Identities: []string{id}}})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			acked = append(acked, id)
		}
	}
	feed := newFeedReader()
	for round := range 2 {
		post(x.nodes[(round+1)%3], fmt.Sprint("before", round), 60)
		x.nodes[round].kill()
		post(x.nodes[(round+1)%3], fmt.Sprint("after", round), 60)
		feed.agree(t, x.nodes[(round+1)%3].client, "seen", acked)
		x.restart(t, round)
	}
	x.agree(t)
	var all [][]string
	for i, n := range x.nodes {
		own := newFeedReader()
		own.agree(t, n.client, "seen", acked)
		list := make([]string, 0, len(own.ids))
		for id := range own.ids {
			list = append(list, id)
		}
		slices.Sort(list)
		if all = append(all, list); !slices.Equal(list, all[0]) {
			t.Errorf("node %d tells %d lines, the first %d: %s", i+1, len(list), len(all[0]), strings.Join(list[:min(3, len(list))], " "))
		}
	}
	t.Logf("%d events, %d lines", len(acked), len(feed.ids))
}
