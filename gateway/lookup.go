package gateway

import (
	"context"
	"net/http"
	"net/url"

	"google.golang.org/protobuf/encoding/protowire"
	gproto "google.golang.org/protobuf/proto"

	"kith/proto"
	"kith/proto/pb"
)

// lookup is one request for the segments of identities. It is reused.
type lookup struct {
	scan       scanner
	identities []string // alias body or scan.text
	after      string
	client     string
	segments   []proto.SegmentID
	withheld   string // why nothing is told, "" if it is
	body       []byte
	answer     []byte
}

func (l *lookup) reset() {
	*l = lookup{
		scan: l.scan, identities: l.identities[:0], segments: l.segments[:0], body: l.body[:0], answer: l.answer[:0],
	}
}

func (g *Gateway) freeLookup(l *lookup) {
	l.scan.b, l.scan.err = nil, nil
	l.reset()
	if cap(l.body) <= pooledBytesMax && cap(l.answer) <= pooledBytesMax {
		g.lookups.Put(l)
	}
}

// parseJSON reads {"identities":[…],"after":…,"client":…}.
func (l *lookup) parseJSON(body []byte, most int) error {
	s := &l.scan
	s.reset(body)
	listed := false
	if !s.open('{') {
		return s.err
	}
	for first := true; s.more(&first, '}'); {
		key, ok := s.key()
		if !ok {
			break
		}
		switch key {
		case "identities":
			listed = true
			if err := l.parseIdentities(most); err != nil {
				return err
			}
		case "after":
			l.after = s.member("after")
		case "client":
			l.client = s.member("client")
		default:
			s.skip()
		}
	}
	switch {
	case !s.end():
		return s.err
	case !listed:
		return proto.Errorf(proto.CodeJSON, `the body has no identities: send {"identities":["browser:…"]}`)
	}
	return nil
}

// member reads a string, or null, which is as if it were not there; field names it in
// errors.
func (s *scanner) member(field string) string {
	switch s.peek() {
	case '"':
	case 'n':
		s.literal("null")
		return ""
	default:
		s.fail(field + " must be a string")
		return ""
	}
	v, _ := s.str()
	return v
}

func (l *lookup) parseIdentities(most int) error {
	s := &l.scan
	if s.peek() != '[' {
		s.fail("identities must be an array of strings")
		return s.err
	}
	s.i++
	l.identities = l.identities[:0]
	for first := true; s.more(&first, ']'); {
		if len(l.identities) == most {
			return tooManyIdentities(most)
		}
		if s.peek() != '"' {
			s.fail("identities must be an array of strings")
			return s.err
		}
		id, ok := s.str()
		if !ok {
			return s.err
		}
		l.identities = append(l.identities, id)
	}
	if s.err != nil {
		return s.err
	}
	return nil
}

func tooManyIdentities(most int) error {
	return proto.Errorf(proto.CodeTooLarge, "a look-up takes at most %d identities: send several", most)
}

// wait lets a look-up include what a position names. It is bounded.
func (g *Gateway) wait(ctx context.Context, after string) error {
	if after == "" {
		return nil
	}
	pos, err := proto.ParsePosition(after)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, g.c.WaitMax)
	defer cancel()
	if err := g.deps.Memberships.Wait(ctx, pos); err != nil {
		if ctx.Err() != nil {
			return proto.Errorf(proto.CodeTimeout, "position %s is not applied after %s: try again, and look at /v1/partitions", pos, g.c.WaitMax)
		}
		return err
	}
	return nil
}

// parseIdentity is proto.ParseIdentity with a quick way for common forms.
func parseIdentity(s string) (proto.Identity, error) {
	if plainIdentity(s) {
		return proto.Identity(s), nil
	}
	return proto.ParseIdentity(s)
}

// look finds id's segments, which replace l's. Of an identity that is opted
// out nothing is told.
func (g *Gateway) look(l *lookup, client proto.ClientInfo, id proto.Identity, now proto.Millis) (v View, err error) {
	if l.withheld != "" {
		l.segments = l.segments[:0]
		return View{OptedOut: true}, nil
	}
	v, l.segments, err = g.deps.Memberships.Lookup(client, id, now, l.segments[:0])
	if v.OptedOut {
		v.Known, l.segments = false, l.segments[:0]
	}
	return v, err
}

// one looks one identity up and appends its answer. An identity that is not
// valid names nobody: within a list that is an answer, with the code.
func (g *Gateway) one(l *lookup, client proto.ClientInfo, raw string, now proto.Millis) error {
	id, bad := parseIdentity(raw)
	var v View
	l.segments = l.segments[:0]
	if bad == nil {
		var err error
		if v, err = g.look(l, client, id, now); err != nil {
			return err
		}
	}
	b := append(l.answer, `{"identity":`...)
	b = appendText(b, raw)
	b = append(b, `,"known":`...)
	b = appendBool(b, v.Known)
	b = append(b, `,"opted_out":`...)
	b = appendBool(b, v.OptedOut)
	b = append(b, `,"segments":`...)
	b = appendSegments(b, l.segments)
	if bad != nil {
		b = append(b, `,"error":"`+string(proto.CodeOf(bad))+`"`...)
	}
	l.answer = append(b, '}')
	return nil
}

func appendSegments(b []byte, ids []proto.SegmentID) []byte {
	b = append(b, '[')
	for i, s := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, s...)
		b = append(b, '"')
	}
	return append(b, ']')
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, "true"...)
	}
	return append(b, "false"...)
}

// answerBytesMax bounds the answer to a look-up: of one identity it may be a megabyte,
// where a client has many segments.
const answerBytesMax = 16 << 20

func answerTooLarge(most int) error {
	if most < answerBytesMax {
		return proto.Errorf(proto.CodeTooLarge, "the answer is over the %d bytes that NATS takes: send fewer identities at once, or ask by HTTP", most)
	}
	return proto.Errorf(proto.CodeTooLarge, "the answer is over %d bytes: send fewer identities at once", most)
}

// all appends {"results":[…]} for l's identities, in order, of up to so many bytes.
func (g *Gateway) all(l *lookup, client proto.ClientInfo, most int) error {
	const end = "]}\n"
	if err := g.admitLookups(client, len(l.identities)); err != nil {
		return err
	}
	now := g.millis()
	l.answer = append(l.answer, `{"results":[`...)
	for i, id := range l.identities {
		if i > 0 {
			l.answer = append(l.answer, ',')
		}
		if err := g.one(l, client, id, now); err != nil {
			return err
		}
		if len(l.answer)+len(end) > most {
			return answerTooLarge(most)
		}
	}
	l.answer = append(l.answer, end...)
	g.metrics.identities.Add(float64(len(l.identities)))
	return nil
}

// postLookup answers POST /v1/lookup.
func (g *Gateway) postLookup(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	l := g.takeLookup()
	defer g.freeLookup(l)
	var err error
	if l.body, err = g.readBody(w, r, l.body); err != nil {
		return err
	}
	kind := contentType(r)
	switch kind {
	case "application/json", "text/plain":
		err = l.parseJSON(l.body, g.c.LookupMax)
	case protobufType:
		err = l.parseProtobuf(l.body, g.c.LookupMax)
	default:
		err = proto.Errorf(proto.CodeMediaType, "content type %q is not taken: use application/json or %s", clip(kind), protobufType)
	}
	if err != nil {
		return err
	}
	if r.URL.RawQuery != "" {
		l.fromQuery(r.URL.RawQuery)
	}
	client, err := g.clientFor(who, l.client)
	if err != nil {
		return err
	}
	if err := g.wait(r.Context(), l.after); err != nil {
		return err
	}
	g.withhold(w, r, l, client)
	if kind == protobufType {
		if err := g.allProtobuf(l, client, answerBytesMax); err != nil {
			return err
		}
		writeEncoded(w, l.answer)
		return nil
	}
	if err := g.all(l, client, answerBytesMax); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, l.answer)
	return nil
}

// withhold has a look-up tell nothing if signals that were passed on say so.
func (g *Gateway) withhold(w http.ResponseWriter, r *http.Request, l *lookup, client proto.ClientInfo) {
	if l.withheld = g.withheldFrom(r.Header, r.URL.RawQuery, client.Name); l.withheld != "" {
		w.Header()[withheldHeader] = []string{l.withheld}
	}
}

// fromQuery lets ?client= and ?after= stand in for the body's fields.
func (l *lookup) fromQuery(query string) {
	if v := queryValue(query, "client"); v != "" {
		l.client = v
	}
	if v := queryValue(query, "after"); v != "" {
		l.after = v
	}
}

func (l *lookup) parseProtobuf(body []byte, most int) error {
	const message, identitiesField = "LookupRequest", 1
	n := 0
	err := eachPart(message, body, func(num protowire.Number, _ []byte) error {
		if num == identitiesField {
			n++
		}
		if n > most {
			return tooManyIdentities(most)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var x pb.LookupRequest
	if err := (gproto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, &x); err != nil {
		return notProtobuf(message, err)
	}
	l.identities, l.after, l.client = append(l.identities, x.Identities...), x.After, x.Client
	return nil
}

// allProtobuf is all as an encoded pb.LookupResponse, one result after another.
func (g *Gateway) allProtobuf(l *lookup, client proto.ClientInfo, most int) error {
	if err := g.admitLookups(client, len(l.identities)); err != nil {
		return err
	}
	const resultsField = 1
	now := g.millis()
	for _, raw := range l.identities {
		res := &pb.LookupResult{Identity: raw}
		id, bad := parseIdentity(raw)
		if bad != nil {
			res.Error = string(proto.CodeOf(bad))
		} else {
			v, err := g.look(l, client, id, now)
			if err != nil {
				return err
			}
			res.Known, res.OptedOut = v.Known, v.OptedOut
			for _, s := range l.segments {
				res.Segments = append(res.Segments, string(s))
			}
		}
		l.answer = protowire.AppendTag(l.answer, resultsField, protowire.BytesType)
		l.answer = protowire.AppendVarint(l.answer, uint64(gproto.Size(res)))
		var err error
		if l.answer, err = (gproto.MarshalOptions{UseCachedSize: true}).MarshalAppend(l.answer, res); err != nil {
			return proto.Errorf(proto.CodeInternal, "encode the answer: %w", err)
		}
		if len(l.answer) > most {
			return answerTooLarge(most)
		}
	}
	g.metrics.identities.Add(float64(len(l.identities)))
	return nil
}

// getSegments answers GET /v1/identities/{identity}/segments.
func (g *Gateway) getSegments(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	id, err := pathIdentity(r.URL)
	if err != nil {
		return err
	}
	client, err := g.clientOf(who, r)
	if err == nil {
		err = g.admitLookups(client, 1)
	}
	if err != nil {
		return err
	}
	if r.URL.RawQuery != "" {
		if err := g.wait(r.Context(), queryValue(r.URL.RawQuery, "after")); err != nil {
			return err
		}
	}
	l := g.takeLookup()
	defer g.freeLookup(l)
	g.withhold(w, r, l, client)
	if err := g.one(l, client, string(id), g.millis()); err != nil {
		return err
	}
	g.metrics.identities.Inc()
	l.answer = append(l.answer, '\n')
	writeJSON(w, http.StatusOK, l.answer)
	return nil
}

// pathIdentity is the identity of a path that lookupPath knows.
func pathIdentity(u *url.URL) (proto.Identity, error) {
	raw, ok := lookupPath(u)
	if ok && u.RawPath != "" {
		v, err := url.PathUnescape(raw)
		raw, ok = v, err == nil
	}
	if !ok {
		return "", proto.Errorf(proto.CodeIdentity, "the path holds no identity: write it percent-encoded")
	}
	return parseIdentity(raw)
}

// ownSegments answers the tag's question for the segments of its browser, also as
// first-party data for Prebid.
func (g *Gateway) ownSegments(w http.ResponseWriter, r *http.Request) error {
	client, err := g.ownClientOf(w, r)
	if err != nil {
		return err
	}
	format := queryValue(r.URL.RawQuery, "format")
	if err := checkQuery(r.URL.RawQuery); err != nil {
		return err
	}
	if format != "" && format != formatORTB2 {
		return proto.Errorf(proto.CodeInvalid, "format is %q: use %s, or leave it out", clip(format), formatORTB2)
	}
	v := g.visitOf(r)
	g.judge(&v, r, client.Name)
	g.keep(w, v, "")
	w.Header()["Cache-Control"] = noStore
	l := g.takeLookup()
	defer g.freeLookup(l)
	own := g.ownBrowser(&v)
	if own == "" {
		g.sayUnproven(w, &v)
		own, _ = g.statisticalID(&v, r, client)
	}
	if own == "" {
		g.judgeIdentity(&v, client) // of several
	}
	if v.signal == "" && own != "" {
		view, err := g.look(l, client, own, g.millis())
		if err != nil {
			return err
		}
		if view.OptedOut {
			v.signal = withheldOptedOut
		}
	}
	if v.signal != "" {
		w.Header()[withheldHeader] = []string{v.signal}
		l.segments = l.segments[:0]
	}
	if format == formatORTB2 {
		l.answer = append(g.appendFirstParty(l.answer, client, l.segments), '\n')
		writeJSON(w, http.StatusOK, l.answer)
		return nil
	}
	l.answer = append(l.answer, `{"opted_out":`...)
	l.answer = appendBool(l.answer, v.signal != "")
	l.answer = append(l.answer, `,"segments":`...)
	l.answer = appendSegments(l.answer, l.segments)
	l.answer = append(appendSignal(l.answer, v.signal), "}\n"...)
	writeJSON(w, http.StatusOK, l.answer)
	return nil
}
