package gateway

import (
	"context"
	"encoding/base64"
	"net/http"
	"strings"

	"kith/proto"
)

// gif is a transparent picture of one pixel, 43 bytes.
var gif, _ = base64.StdEncoding.DecodeString("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAICRAEAOw==")

var (
	gifType = []string{"image/gif"}
	noStore = []string{"no-store"}
)

// pixel takes one event in a query. It always answers with the picture, so
// that no page shows a broken one; what was wrong is in X-Kith-Error.
func (g *Gateway) pixel(w http.ResponseWriter, r *http.Request) error {
	p := g.newPost()
	defer g.freePost(p)
	a := g.admission(r, p)
	pos, err := g.takePixel(r.Context(), p, r.URL.RawQuery)
	g.metrics.unproven.Add(float64(a.unproven))
	h := w.Header()
	switch {
	case err != nil:
		e := asError(err)
		h.Set("X-Kith-Error", string(e.Code)+": "+headerText(e.Message))
	case len(p.refused) > 0:
		h.Set("X-Kith-Error", string(p.refused[0].code)+": "+headerText(p.refused[0].message))
		g.keep(w, a.visit, "")
	default:
		h["X-Kith-Position"] = []string{pos.String()}
		g.keep(w, a.visit, a.stored)
	}
	h["Content-Type"], h["Cache-Control"] = gifType, noStore // its length net/http adds
	_, _ = w.Write(gif)
	return nil
}

func (g *Gateway) takePixel(ctx context.Context, p *post, query string) (proto.Position, error) {
	if err := checkQuery(query); err != nil {
		return nil, err
	}
	p.draft.reset()
	p.draft.event.Name = "page"
	if err := p.parseQuery(query); err != nil {
		return nil, err
	}
	if !p.known {
		return nil, proto.Errorf(proto.CodeClient, "the query names no client: add client=NAME")
	}
	p.take()
	return g.submit(ctx, true, p)
}

// parseQuery reads the pixel's parameters. All properties are texts; rules
// compare a text that is a number with numbers.
func (p *post) parseQuery(query string) error {
	d := &p.draft
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		key, value, _ := strings.Cut(pair, "=")
		key, ok1 := unescaped(key)
		value, ok2 := unescaped(value)
		if !ok1 || !ok2 {
			return proto.Errorf(proto.CodeInvalid, "the query has a broken %% escape")
		}
		if !legible(key) || !legible(value) {
			d.refuse(proto.CodeEvent, "a parameter holds control characters or invalid UTF-8")
			continue
		}
		if err := p.parseParameter(key, value); err != nil {
			return err
		}
	}
	return nil
}

// unescaped is what a key or value of a query stands for, as url.QueryUnescape has it:
// most for themselves, and most of a url too. ok: no escape is broken.
func unescaped(s string) (_ string, ok bool) {
	s = strings.ReplaceAll(s, "+", " ")
	plain, rest, escaped := strings.Cut(s, "%")
	if !escaped {
		return s, true
	}
	var b strings.Builder
	b.Grow(len(s))
	for escaped {
		if len(rest) < 2 || !hexByte(rest[0]) || !hexByte(rest[1]) {
			return "", false
		}
		b.WriteString(plain)
		b.WriteByte(nibble(rest[0])<<4 | nibble(rest[1]))
		plain, rest, escaped = strings.Cut(rest[2:], "%")
	}
	b.WriteString(plain)
	return b.String(), true
}

func (p *post) parseParameter(key, value string) error {
	d := &p.draft
	switch key {
	case "client":
		return p.nameClient(value)
	case "event":
		d.setName(value)
	case "url":
		d.setURL(value)
	case "ref":
		d.setRef(value)
	case "id":
		d.setID(value)
	default:
		if name, ok := strings.CutPrefix(key, "p."); ok {
			d.addProp(name, proto.TextOf(value))
		}
	}
	return nil
}

// headerText makes s fit for a header's value.
func headerText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
