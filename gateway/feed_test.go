package gateway_test

import (
	"context"
	"testing"

	"kith/gateway"
	"kith/proto"
)

// twinFeed is a feed that nobody is in.
type twinFeed struct{}

func (twinFeed) FeedPage(_ context.Context, _ proto.ClientInfo, after uint64, _ int) (proto.FeedPage, error) {
	return proto.FeedPage{Messages: []proto.FeedMessage{}, Next: after}, nil
}

// FeedExists: only acme asked.
func (twinFeed) FeedExists(c proto.ClientInfo) error {
	if c.Name != "acme" {
		return proto.Errorf(proto.CodeNotFound, "no feed")
	}
	return nil
}

func (twinFeed) FeedName(_ proto.ClientInfo, id proto.Identity) string { return string(id) }

// A page of no messages would be asked for without end.
func TestFeedLimit(t *testing.T) {
	d := newTwin().behind()
	d.Feeds = twinFeed{}
	g, err := gateway.New(gateway.Config{}, d)
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]int{
		"/v1/feed": 200, "/v1/feed?after=0&limit=1": 200, "/v1/feed?limit=1000": 200,
		"/v1/feed?limit=0": 400, "/v1/feed?limit=1001": 400, "/v1/feed?limit=-1": 400, "/v1/feed?after=x": 400,
	} {
		if w := send(g.Service(), "GET", target, "", auth, key("acme-key")); w.Code != want {
			t.Errorf("%s: %d, want %d: %s", target, w.Code, want, w.Body)
		}
	}
}

// Who has no feed is not told what it would call anybody.
func TestFeedNames(t *testing.T) {
	d := newTwin().behind()
	d.Feeds = twinFeed{}
	g, err := gateway.New(gateway.Config{}, d)
	if err != nil {
		t.Fatal(err)
	}
	for who, want := range map[string]int{"acme-key": 200, "demo-key": 404, "acme-report": 403} {
		for _, body := range []string{`{"identities":["browser:x1"]}`, `{"identities":[]}`} {
			if w := send(g.Service(), "POST", "/v1/feed/identities", body, auth, key(who)); w.Code != want {
				t.Errorf("%s of %s: %d, want %d: %s", body, who, w.Code, want, w.Body)
			}
		}
	}
}
