package gateway

import (
	"net/http"
	"strconv"

	"kith/proto"
)

// This file is a client's feed of who enters and leaves its segments: what is
// kept of it, and what it calls an identity.

const feedPageMax = 1000

func (g *Gateway) getFeed(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, err := g.clientOf(who, r)
	if err != nil {
		return err
	}
	after, err := feedNumber(r, "after", 0, 1<<63)
	if err != nil {
		return err
	}
	limit, err := feedNumber(r, "limit", 100, feedPageMax)
	if err != nil {
		return err
	}
	if limit == 0 {
		return proto.Errorf(proto.CodeInvalid, "limit is not a number from 1 to %d", feedPageMax)
	}
	page, err := g.deps.Feeds.FeedPage(r.Context(), client, after, int(limit))
	if err != nil {
		return err
	}
	return writeValue(w, http.StatusOK, page)
}

// feedNumber is a number of the query.
func feedNumber(r *http.Request, name string, otherwise, most uint64) (uint64, error) {
	v := queryValue(r.URL.RawQuery, name)
	if v == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil || n > most {
		return 0, proto.Errorf(proto.CodeInvalid, "%s is %q: use a number up to %d", name, clip(v), most)
	}
	return n, nil
}

// feedName is an identity and what the feed calls it.
type feedName struct {
	Identity string     `json:"identity"`
	Name     string     `json:"name,omitempty"`
	Error    proto.Code `json:"error,omitempty"`
}

// postFeedNames says what a client's feed calls identities, whether they are known
// or not: it tells nothing of them.
func (g *Gateway) postFeedNames(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, err := g.clientOf(who, r)
	if err != nil {
		return err
	}
	var x struct {
		Identities []string `json:"identities"`
	}
	if err := g.readValue(w, r, &x); err != nil {
		return err
	}
	if len(x.Identities) > g.c.LookupMax {
		return tooManyIdentities(g.c.LookupMax)
	}
	if err := g.deps.Feeds.FeedExists(client); err != nil {
		return err
	}
	results := make([]feedName, len(x.Identities))
	for i, s := range x.Identities {
		results[i].Identity = s
		if id, err := parseIdentity(s); err != nil {
			results[i].Error = proto.CodeIdentity
		} else {
			results[i].Name = g.deps.Feeds.FeedName(client, id)
		}
	}
	return writeValue(w, http.StatusOK, map[string]any{"results": results})
}
