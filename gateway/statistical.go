package gateway

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"slices"
	"strings"

	"kith/proto"
)

// This file makes statistical ids: for browsers that send no id, from what is the same
// in many of them. docs/inference.md says when, and what an opt-out comes to.

// coarse is what a statistical id is made of. Nothing else of a request may be.
type coarse struct {
	network  string // cut to /24 or /48
	family   string
	version  string // tens of the major version
	system   string
	language string // without its country
}

// coarseOf reads a request, false if it says too little.
func (g *Gateway) coarseOf(r *http.Request) (c coarse, ok bool) {
	p, ok := g.networkOf(r)
	if !ok {
		return c, false
	}
	c.network = p.String()
	c.family, c.version, c.system = browserClass(r.Header.Get("User-Agent"))
	c.language = languageClass(r.Header.Get("Accept-Language"))
	return c, c.family != "" && c.system != ""
}

// all is everything that an id is made of, and lasting what does not change with an
// update or a setting: by that an opt-out is remembered.
func (c *coarse) all() string {
	return strings.Join([]string{c.network, c.family, c.version, c.system, c.language}, "\n")
}
func (c *coarse) lasting() string { return strings.Join([]string{c.network, c.family, c.system}, "\n") }

// browserFamilies are what their browsers say of themselves, in the order in which
// that is looked for: most name others too.
var browserFamilies = [...]struct{ mark, family string }{
	{"Edg/", "edge"}, {"EdgA/", "edge"}, {"EdgiOS/", "edge"}, {"OPR/", "opera"}, {"SamsungBrowser/", "samsung"},
	{"FxiOS/", "firefox"}, {"Firefox/", "firefox"}, {"CriOS/", "chrome"}, {"Chrome/", "chrome"}, {"Version/", "safari"},
}

// systemMarks are likewise of operating systems.
var systemMarks = [...]struct{ mark, system string }{
	{"Android", "android"}, {"iPhone", "ios"}, {"iPad", "ios"}, {"Windows", "windows"}, {"Macintosh", "mac"}, {"CrOS", "chromeos"}, {"Linux", "linux"},
}

// browserClass sorts a User-Agent into a few large classes, "" where it fits none. It
// is no parser: what tells few browsers apart must not get into an id.
func browserClass(agent string) (family, version, system string) {
	if len(agent) > 1024 || !strings.HasPrefix(agent, "Mozilla/5.0 (") {
		return "", "", ""
	}
	for _, s := range systemMarks {
		if strings.Contains(agent, s.mark) {
			system = s.system
			break
		}
	}
	for _, b := range browserFamilies {
		_, rest, ok := strings.Cut(agent, b.mark)
		if !ok {
			continue
		}
		if b.family == "safari" && !strings.Contains(rest, "Safari/") {
			break
		}
		n := 0
		for n < len(rest) && n < 4 && digit(rest[n]) {
			n++
		}
		return b.family, rest[:max(n-1, 0)] + "x", system
	}
	return "", "", system
}

// languageClass is the first language that a browser asks for, without its country.
func languageClass(accept string) string {
	n := 0
	for n < len(accept) && letter(accept[n]) {
		n++
	}
	if n < 2 || n > 3 {
		return ""
	}
	return strings.ToLower(accept[:n])
}

// lettersOf is a keyed hash in letters.
func (x *inferring) lettersOf(head []byte, text string) string {
	h := hmac.New(sha256.New, x.ids)
	h.Write(head)
	h.Write([]byte(text))
	return spellHash(h.Sum(nil)[:16])
}

// spellHash writes a hash of 16 bytes in 32 letters from a to p, which nobody takes for a
// number of a phone or card.
func spellHash(sum []byte) string {
	b := make([]byte, 0, 2*len(sum))
	for _, c := range sum {
		b = append(b, 'a'+c>>4, 'a'+c&15)
	}
	return string(b)
}

// lastOf is the last day of the period of so many days in which a day lies.
func lastOf(day, rotate proto.Day) proto.Day { return day - day%rotate + rotate - 1 }

// rotating is the id of a client for the period that ends with a day. Those of two
// clients, and of two periods, cannot be joined without the key.
func (x *inferring) rotating(client proto.ClientID, last proto.Day, c *coarse) proto.Identity {
	head := binary.BigEndian.AppendUint32([]byte{'i'}, uint32(client))
	return proto.RotatingID(last, x.lettersOf(binary.BigEndian.AppendUint32(head, uint32(last)), c.all()))
}

// suppression is the identity whose opt-out keeps ids from being made, for all clients
// and for ever.
func (x *inferring) suppression(c *coarse) proto.Identity {
	return proto.SuppressionID(x.lettersOf([]byte{'n'}, c.lasting()))
}

// What standing.Statistical says.
const (
	statisticalMade       = "made"
	statisticalSuppressed = "suppressed" // by an opt-out
)

// statisticalID is the id of a visit that was judged and carries none, "" if none is
// made. how says whether one is, or would be but for an opt-out.
func (g *Gateway) statisticalID(v *visit, r *http.Request, client proto.ClientInfo) (id proto.Identity, how string) {
	if _, on := slices.BinarySearch(g.inferring.clients, client.Name); !on || len(v.claims()) > 0 || !g.mayInfer(v, r, client.Name) {
		return "", ""
	}
	c, ok := g.coarseOf(r)
	if !ok {
		return "", ""
	}
	id = g.inferring.rotating(client.ID, lastOf(g.millis().Day(), g.inferring.rotate), &c)
	for _, x := range []proto.Identity{g.inferring.suppression(&c), id} {
		switch seen, err := g.deps.Memberships.Seen(client, x); {
		case err != nil:
			return "", "" // it might be opted out
		case seen.OptedOut:
			return "", statisticalSuppressed
		}
	}
	return id, statisticalMade
}

// periods gives the last days of the periods whose ids may have data still: of this
// one and of the one before, which may not be over everywhere; and all other days that
// a period of any length could end with, since ids may have lasted otherwise until a
// moment ago.
func (x *inferring) periods(day proto.Day) (now, otherwise []proto.Day) {
	now = []proto.Day{lastOf(day, x.rotate), lastOf(day-x.rotate, x.rotate)}
	for last := day - 1; last < day+rotateMax; last++ { // what ended earlier is gone
		if !slices.Contains(now, last) {
			otherwise = append(otherwise, last)
		}
	}
	return now, otherwise
}

// statisticalIDs calls fn with those that any client may have data under of whoever
// sent the request: of the periods of now, and of others where something is kept.
func (g *Gateway) statisticalIDs(c *coarse, fn func(proto.ClientInfo, proto.Identity) error) error {
	now, otherwise := g.inferring.periods(g.millis().Day())
	for _, name := range g.inferring.clients {
		client, ok := g.deps.Accounts.Client(name)
		if !ok {
			continue
		}
		for _, last := range now {
			if err := fn(client, g.inferring.rotating(client.ID, last, c)); err != nil {
				return err
			}
		}
		for _, last := range otherwise {
			id := g.inferring.rotating(client.ID, last, c)
			if kept, err := g.deps.OptOuts.Keeps(id); err == nil && !kept {
				continue
			}
			if err := fn(client, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// cutStatistical opts out what statistical ids know of whoever sent the request, and
// what later ones would: also where none is made now, since one may have been. states
// are empty if there is nothing by which they could be known.
func (g *Gateway) cutStatistical(ctx context.Context, r *http.Request) (states []proto.OptOutState, err error) {
	if len(g.inferring.clients) == 0 {
		return nil, nil
	}
	c, ok := g.coarseOf(r)
	if !ok {
		return nil, nil
	}
	var ids []proto.Identity
	_ = g.statisticalIDs(&c, func(_ proto.ClientInfo, id proto.Identity) error { ids = append(ids, id); return nil })
	suppression := g.inferring.suppression(&c)
	ids = append(ids, suppression)
	ctx, cancel := cutContext(ctx)
	defer cancel()
	var left []proto.Identity
	for _, id := range ids {
		s, err := g.deps.OptOuts.OptOutState(ctx, id)
		switch {
		case err != nil:
			return nil, err
		case s.OptedOut: // asked for again: a new tombstone each time would add nothing
			states = append(states, s)
		default:
			left = append(left, id)
		}
	}
	if !slices.Contains(left, suppression) { // asked for again: of ids that none was made of nothing is written
		left = slices.DeleteFunc(left, func(id proto.Identity) bool {
			kept, err := g.deps.OptOuts.Keeps(id)
			return err == nil && !kept
		})
	}
	if len(left) == 0 {
		return states, nil
	}
	done, err := g.admitOwn(r, left[len(left)-1])
	if err != nil {
		return nil, err
	}
	defer done()
	cut, err := g.deps.OptOuts.OptOutAll(ctx, proto.ClientInfo{}, left, false)
	if err != nil {
		return nil, err
	}
	g.metrics.optOuts.Add(float64(len(cut)))
	return append(cut, states...), nil
}

// eraseStatistical erases what is known under statistical ids of whoever sent the
// request.
func (g *Gateway) eraseStatistical(ctx context.Context, r *http.Request) (states []proto.OptOutState, err error) {
	if len(g.inferring.clients) == 0 {
		return nil, nil
	}
	c, ok := g.coarseOf(r)
	if !ok {
		return nil, nil
	}
	var known []proto.Identity
	err = g.statisticalIDs(&c, func(client proto.ClientInfo, id proto.Identity) error {
		seen, err := g.deps.Memberships.Seen(client, id)
		if err == nil && seen.Known && !seen.OptedOut {
			known = append(known, id)
		}
		return err
	})
	if err != nil || len(known) == 0 {
		return nil, err
	}
	done, err := g.admitOwn(r, known[0])
	if err != nil {
		g.linger(ctx, g.c.RefusalPause)
		return nil, err
	}
	defer done()
	ctx, cancel := cutContext(ctx) // for all together: who asks again has the others erased
	defer cancel()
	for _, id := range known {
		s, err := g.eraseWithin(ctx, nil, id)
		if err != nil {
			return states, err
		}
		states = append(states, s)
	}
	return states, nil
}
