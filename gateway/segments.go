package gateway

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"kith/proto"
)

// readJSON reads a small JSON body.
func (g *Gateway) readJSON(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	return g.readJSONUpTo(w, r, g.c.BodyBytesMax)
}

func (g *Gateway) readJSONUpTo(w http.ResponseWriter, r *http.Request, limit int) ([]byte, error) {
	switch kind := contentType(r); kind {
	case "application/json", "text/plain":
	default:
		return nil, proto.Errorf(proto.CodeMediaType, "content type %q is not taken: use application/json", clip(kind))
	}
	return g.readBodyUpTo(w, r, nil, limit)
}

// readValue decodes a small JSON body into v, strictly.
func (g *Gateway) readValue(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := g.readJSON(w, r)
	if err != nil {
		return err
	}
	return decodeStrict(body, v)
}

func decodeStrict(body []byte, v any) error {
	if err := ambiguous(body); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		return proto.Errorf(proto.CodeJSON, "something follows the JSON value")
	}
	why := strings.TrimPrefix(err.Error(), "json: ")
	var ours *proto.Error // of one of our types' readers
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &ours):
		why = ours.Message
	case errors.As(err, &kind):
		why = wrongKind(kind)
	}
	e := proto.Errorf(proto.CodeJSON, "the body is not the JSON that this route takes: %s", clip(why))
	at := d.InputOffset()
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		at = syntax.Offset
	}
	before := body[:min(int(at), len(body))]
	e.Line = bytes.Count(before, []byte{'\n'}) + 1
	e.Column = max(len(before)-bytes.LastIndexByte(before, '\n')-1, 1)
	return e
}

// wrongKind says what a field must be, without the names of our types.
func wrongKind(e *json.UnmarshalTypeError) string {
	parts := slices.DeleteFunc(strings.Split(e.Field, "."), func(part string) bool { return part != "" && upper(part[0]) }) // a type of ours that is embedded
	field, want := strings.Join(parts, "."), "an object"
	if field == "" {
		field = "the body"
	}
	switch k := e.Type.Kind(); {
	case k == reflect.String, reflect.PointerTo(e.Type).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		want = "a text in quotes"
	case k == reflect.Bool:
		want = "true or false"
	case k == reflect.Slice || k == reflect.Array:
		want = "an array"
	case k >= reflect.Int && k <= reflect.Uint64:
		want = "a whole number that fits"
	case k == reflect.Float32 || k == reflect.Float64:
		want = "a number that fits"
	}
	return field + " must be " + want
}

// membersMax is more than any form has members, elementsMax more than any has elements
// in its lists.
const (
	membersMax  = 64
	elementsMax = 1 << 16
)

// ambiguous refuses what encoding/json would pass over: a list of which it makes a
// multiple of the body before anybody can count it, a text that is none, of which
// it makes U+FFFD, so that two identities would be one, and a member that is there
// twice, of which it takes the last. What is no JSON it leaves to it.
func ambiguous(body []byte) error {
	if !utf8.Valid(body) {
		return proto.Errorf(proto.CodeJSON, "the body is not valid UTF-8")
	}
	s := scanner{b: body}
	if s.peek() != '{' {
		s.skip()
	} else {
		s.i++
		var names []string
		for first := true; s.more(&first, '}'); {
			name, ok := s.key()
			if len(names) < membersMax {
				if ok && slices.ContainsFunc(names, func(x string) bool { return strings.EqualFold(x, name) }) {
					return proto.Errorf(proto.CodeJSON, "the member %q is in the body twice: send it once", clip(name))
				}
				names = append(names, name)
			}
			if !ok || !s.skip() {
				break
			}
		}
	}
	switch {
	case s.elements > elementsMax:
		return proto.Errorf(proto.CodeTooLarge, "the body's lists have more than %d elements: send several", elementsMax)
	case s.err != nil && json.Valid(body): // too deep, so that what comes behind is not counted
		return s.err
	}
	if s.half {
		return proto.Errorf(proto.CodeJSON, `the body holds half a surrogate pair, such as \ud800 alone: write the text in UTF-8`)
	}
	return nil
}

func encodeValue(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // rules hold < and &
	if err := e.Encode(v); err != nil {
		return nil, proto.Errorf(proto.CodeInternal, "encode the answer: %w", err)
	}
	return b.Bytes(), nil
}

// writeValue answers with v as JSON.
func writeValue(w http.ResponseWriter, status int, v any) error {
	b, err := encodeValue(v)
	if err == nil {
		writeJSON(w, status, b)
	}
	return err
}

// segmentOf is the client and segment that a request is about.
func (g *Gateway) segmentOf(r *http.Request, who proto.Principal) (proto.ClientInfo, proto.SegmentID, error) {
	id, err := proto.ParseSegmentID(r.PathValue("id"))
	if err != nil {
		return proto.ClientInfo{}, "", err
	}
	client, err := g.clientOf(who, r)
	return client, id, err
}

func noSegment(id proto.SegmentID) error {
	return proto.Errorf(proto.CodeNotFound, "there is no segment %q: GET /v1/segments (`kith segments list`) lists them", id)
}

// floored hides the size of a segment below the floor from a client's key.
func (g *Gateway) floored(who proto.Principal, client proto.ClientInfo, s proto.SegmentSpec) proto.SegmentSpec {
	s.Size, s.Below = g.shown(who, client, s.Size)
	return s
}

// segmentsPieceBytes is about how much of a list of segments is made before it is sent:
// all rules of a client may be 200 MB.
const segmentsPieceBytes = 256 << 10

func (g *Gateway) listSegments(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, err := g.clientOf(who, r)
	if err != nil {
		return err
	}
	if err := g.wait(r.Context(), queryValue(r.URL.RawQuery, "after")); err != nil {
		return err
	}
	b, sent := []byte(`{"segments":[`), false
	for i, s := range g.deps.Definitions.Segments(client) {
		one, err := encodeValue(g.floored(who, client, s))
		switch {
		case err != nil && sent:
			panic(http.ErrAbortHandler) // so that the reader sees a cut list
		case err != nil:
			return err
		case i > 0:
			b = append(b, ',')
		}
		b = append(b, bytes.TrimSuffix(one, []byte("\n"))...)
		if len(b) < segmentsPieceBytes {
			continue
		}
		w.Header()["Content-Type"] = jsonType
		if _, err := w.Write(b); err != nil {
			panic(http.ErrAbortHandler)
		}
		b, sent = b[:0], true
	}
	b = append(b, "]}\n"...)
	if sent {
		_, _ = w.Write(b)
	} else {
		writeJSON(w, http.StatusOK, b)
	}
	return nil
}

func (g *Gateway) getSegment(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, id, err := g.segmentOf(r, who)
	if err != nil {
		return err
	}
	if err := g.wait(r.Context(), queryValue(r.URL.RawQuery, "after")); err != nil {
		return err
	}
	s, ok := g.deps.Definitions.Segment(client, id)
	if !ok {
		return noSegment(id)
	}
	return writeValue(w, http.StatusOK, g.floored(who, client, s))
}

func (g *Gateway) putSegment(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, id, err := g.segmentOf(r, who)
	if err != nil {
		return err
	}
	// What only answers carry may come back, so that a definition can be
	// fetched, edited and put.
	var s proto.SegmentSpec
	if err := g.readValue(w, r, &s); err != nil {
		return err
	}
	if s.ID != "" && s.ID != id {
		return proto.Errorf(proto.CodeSegment, "the body is for segment %q, the path for %q: leave id out", clip(string(s.ID)), id)
	}
	if s.When == "" {
		return proto.Errorf(proto.CodeRule, `the segment has no rule: send {"when":"count(true, \"1d\") >= 1"}`)
	}
	s = proto.SegmentSpec{ID: id, Scope: s.Scope, When: s.When, Backfill: s.Backfill}
	if err := g.refuseRule(client, s); err != nil {
		return err
	}
	if dry, err := dryRun(r); err != nil {
		return err
	} else if dry {
		return g.previewSegment(w, r, who, client, s)
	}
	made, err := g.deps.Definitions.Define(defining(r, who), client, s)
	if err != nil {
		return g.countLimited(err)
	}
	return writeValue(w, http.StatusOK, g.floored(who, client, made))
}

// dryRun reports whether a request is only to be tried. One that may be meant so is
// not done.
func dryRun(r *http.Request) (bool, error) {
	q, err := parseQuery(r.URL.RawQuery, "dry_run")
	if err != nil {
		return false, err
	}
	values, asked := q["dry_run"]
	if asked && !slices.Equal(values, []string{"true"}) && !slices.Equal(values, []string{"1"}) {
		return false, proto.Errorf(proto.CodeInvalid, "dry_run is true or left out: nothing was changed")
	}
	return asked, nil
}

// previewSegment tells what a definition would change. From a client's key
// numbers under the floor are kept, and with any of them who enters and leaves:
// each of the four follows from the others.
func (g *Gateway) previewSegment(w http.ResponseWriter, r *http.Request, who proto.Principal, client proto.ClientInfo, s proto.SegmentSpec) error {
	if err := g.wait(r.Context(), queryValue(r.URL.RawQuery, "after")); err != nil {
		return err
	}
	end, err := g.previewTurn(r.Context(), client.ID)
	if err != nil {
		return err
	}
	defer end()
	p, err := g.deps.Definitions.Preview(r.Context(), client, s)
	if err != nil {
		return err
	}
	hide := func(numbers ...**uint64) (hidden bool) {
		for _, n := range numbers {
			var below int
			if *n, below = g.shown(who, client, *n); below > 0 {
				p.Below, hidden = below, true
			}
		}
		return hidden
	}
	hide(&p.Identities)
	if hide(&p.Before, &p.After, &p.Entering, &p.Leaving) {
		p.Entering, p.Leaving = nil, nil
	}
	return writeValue(w, http.StatusOK, p)
}

func (g *Gateway) deleteSegment(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	client, id, err := g.segmentOf(r, who)
	if err != nil {
		return err
	}
	if err := g.deps.Definitions.Undefine(r.Context(), client, id); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, []byte(`{"deleted":true}`+"\n"))
	return nil
}
