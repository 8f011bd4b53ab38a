package gateway

import (
	"net/http"
	"strconv"
	"strings"

	"kith/proto"
)

// OpenRTB is how one client's bid requests are read and filled.
type OpenRTB struct {
	// Segtax is the taxonomy's number in user.data: the client's own, from the
	// range of vendors, which begins at 500. 0: SegtaxDefault.
	Segtax int
	// UserID and BuyerUID are the kinds of the identities that user.id and
	// user.buyeruid name, such as "browser" or "partner.adx". Empty: none.
	UserID, BuyerUID string
}

// The range of vendors' taxonomies (IAB Tech Lab, "Segment Taxonomies"), and the
// number that stands for kith's segments where a client has none of its own. It
// is not registered.
const (
	SegtaxMin     = 500
	SegtaxMax     = 1<<31 - 1
	SegtaxDefault = 7100
)

// bidSegmentsMax bounds the segments in an answer, so that a bid request stays
// one.
const bidSegmentsMax = 256

// Agent types of user.eids.uids (AdCOM, "Agent Types").
const (
	agentBrowser = 1 // one browser or device
	agentPerson  = 3 // the same on a person's devices
)

// postOpenRTB answers with the BidRequest that it is sent, with what the client
// knows of the person in it, or as it came, and why. It stores nothing.
func (g *Gateway) postOpenRTB(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, err := g.clientOf(who, r)
	if err != nil {
		return err
	}
	x := g.bids.Get().(*bid)
	defer g.freeBid(x)
	if x.body, err = g.readBody(w, r, x.body); err != nil {
		return err
	}
	if kind := contentType(r); kind != "application/json" && kind != "text/plain" {
		return proto.Errorf(proto.CodeMediaType, "content type %q is not taken: use application/json", clip(kind))
	}
	x.source = g.c.EIDSource
	if err := x.parse(x.body); err != nil {
		return err
	}
	if r.URL.RawQuery != "" {
		if err := g.wait(r.Context(), queryValue(r.URL.RawQuery, "after")); err != nil {
			return err
		}
	}
	x.signals.fromHeaders(r.Header)
	x.signals.fromQuery(r.URL.RawQuery)
	x.signals.optIn = g.policies.client(client.Name).consentFirst(r.Header, false)
	why, err := g.fill(x, client)
	if err != nil {
		return err
	}
	g.metrics.bids[why].Inc()
	if why != "" {
		w.Header()[withheldHeader] = []string{why}
	}
	x.splice()
	writeJSON(w, http.StatusOK, x.answer)
	return nil
}

func (g *Gateway) freeBid(x *bid) {
	x.scan.b, x.scan.err = nil, nil
	x.reset()
	if cap(x.body) <= pooledBytesMax && cap(x.answer) <= pooledBytesMax && cap(x.scan.text) <= pooledBytesMax && cap(x.edits) <= pooledBytesMax>>5 {
		g.bids.Put(x)
	}
}

// fill finds out what is added to x, or why nothing is. The request is about
// the first of its identities that is known; if any of them is opted out it is
// about nobody.
func (g *Gateway) fill(x *bid, client proto.ClientInfo) (why string, err error) {
	if why := x.signals.against(g.policies.client(client.Name)); why != "" {
		return why, nil
	}
	c := g.c.OpenRTB[client.Name]
	var room [uidsMax + 6]proto.Identity
	ids, spellings := g.named(room[:0], x, c)
	if len(ids) == 0 {
		return withheldNobody, nil
	}
	if err := g.admitLookups(client, len(ids)-spellings); err != nil {
		return "", err
	}
	l := g.takeLookup()
	defer g.freeLookup(l)
	now := g.millis()
	for _, id := range ids {
		v, err := g.look(l, client, id, now)
		if err != nil {
			return "", err
		}
		if v.OptedOut {
			x.subject = ""
			return withheldOptedOut, nil
		}
		if v.Known && x.subject == "" {
			x.subject = id
			x.segments, l.segments = l.segments, x.segments
		}
	}
	g.metrics.identities.Add(float64(len(ids) - spellings))
	if x.subject == "" {
		return withheldUnknown, nil
	}
	if n := len(x.segments); n > 0 {
		x.data = appendData(x.data, x.segments[:min(n, bidSegmentsMax)], c.Segtax)
	}
	x.eid = g.appendEID(x.eid, client, x.subject)
	return "", nil
}

// named appends the identities that a request is about, the surest first: eids
// of our source, what the client says that user.buyeruid and user.id are, and
// the device. The last of them are other spellings of one before.
func (g *Gateway) named(ids []proto.Identity, x *bid, c OpenRTB) (_ []proto.Identity, spellings int) {
	for _, v := range x.uids {
		if strings.IndexByte(v, ':') < 0 {
			ids = g.appendNamed(ids, string(browserIdentity(v)))
		} else {
			ids = g.appendNamed(ids, v)
		}
	}
	if c.BuyerUID != "" && x.buyerUID != "" {
		ids = g.appendNamed(ids, c.BuyerUID+":"+x.buyerUID)
	}
	if c.UserID != "" && x.userID != "" {
		ids = g.appendNamed(ids, c.UserID+":"+x.userID)
	}
	if x.ifa == "" {
		return ids, 0
	}
	android, apple := platform(x.os)
	device := func(ifa string) {
		if android {
			ids = g.appendNamed(ids, "aaid:"+ifa)
		}
		if apple {
			ids = g.appendNamed(ids, "idfa:"+ifa)
		}
	}
	device(x.ifa)
	once := len(ids)
	if other := otherCase(x.ifa); other != "" {
		device(other)
	}
	return ids, len(ids) - once
}

// otherCase is a UUID in small letters, or in capitals if it is in small ones; empty if
// it is none, or all digits.
func otherCase(s string) string {
	if len(s) != 36 || !isUUID(s) {
		return ""
	}
	other := strings.ToLower(s)
	if other == s {
		other = strings.ToUpper(s)
	}
	if other == s {
		return ""
	}
	return other
}

// appendNamed appends s if it is an identity, of one person, without personal
// data.
func (g *Gateway) appendNamed(ids []proto.Identity, s string) []proto.Identity {
	id, err := parseIdentity(s)
	if err != nil || personal(s) {
		return ids
	}
	if _, many := g.blocked[id]; many {
		return ids
	}
	return append(ids, id)
}

// platform tells whose advertising id device.ifa is by device.os. Where that
// does not say, it may be either's.
func platform(os string) (android, apple bool) {
	for _, name := range [...]string{"ios", "ipados", "tvos"} {
		if strings.EqualFold(os, name) {
			return false, true
		}
	}
	if strings.EqualFold(os, "android") {
		return true, false
	}
	return true, true
}

// appendData writes our entry of user.data. The ids need no escaping.
func appendData(b []byte, segments []proto.SegmentID, segtax int) []byte {
	b = append(b, `{"id":"`+dataProvider+`","name":"`+dataProvider+`","segment":[`...)
	for i, s := range segments {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"id":"`...)
		b = append(b, s...)
		b = append(b, `"}`...)
	}
	b = append(b, `],"ext":{"segtax":`...)
	if segtax == 0 {
		segtax = SegtaxDefault
	}
	b = strconv.AppendInt(b, int64(segtax), 10)
	return append(b, "}}"...)
}

// formatORTB2 asks for segments as Prebid's first-party data.
const formatORTB2 = "ortb2"

// appendFirstParty writes {"ortb2":{"user":{"data":[…]}}}, which a page merges into
// what Prebid sends with its bid requests; without segments {"ortb2":{}}.
func (g *Gateway) appendFirstParty(b []byte, client proto.ClientInfo, segments []proto.SegmentID) []byte {
	if len(segments) == 0 {
		return append(b, `{"ortb2":{}}`...)
	}
	b = append(b, `{"ortb2":{"user":{"data":[`...)
	b = appendData(b, segments[:min(len(segments), bidSegmentsMax)], g.c.OpenRTB[client.Name].Segtax)
	return append(b, "]}}}"...)
}

// appendEID writes our entry of user.eids.
func (g *Gateway) appendEID(b []byte, client proto.ClientInfo, id proto.Identity) []byte {
	agent := agentBrowser
	if strings.HasPrefix(string(id), "account:") {
		agent = agentPerson
	}
	b = append(b, `{"source":`...)
	b = appendText(b, g.c.EIDSource)
	b = append(b, `,"uids":[{"id":"`...)
	b = g.appendPseudonym(b, client, id)
	b = append(b, `","atype":`...)
	b = strconv.AppendInt(b, int64(agent), 10)
	return append(b, "}]}"...)
}
